//! `ConvInteger` (ONNX 10): a convolution of 8-bit codes in int32.

use crate::conv::{check_axis, kernel_sizes, parse_group, ranks};
use crate::q_linear::codes;
use crate::shapes::{conv_products, same_dtype};
use crate::window::Window;
use ir::{Attrs, Infer, Io, Layout, Lower, Op, Operand, Parse, Parsed, Step, Type};
use kernels::window::{Axis, Rounding};
use tensor::DType;

/// `ConvInteger(x, w, x_zero_point?, w_zero_point?)`: `x - x_zero_point`, uint8 or int8 `(N, C, spatial...)`, folded with
/// `w - w_zero_point`, `(O, C / group, kernel...)`; the zero point of the weight is one number, or one per output channel. A sum
/// beyond int32 wraps around.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConvInteger {
    /// Kernel size, strides, dilations, padding with the zero point.
    pub window: Window,
    /// Number of groups into which the channels are split.
    pub group: usize,
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    Ok(ConvInteger { window: Window::parse(cx.attrs)?, group: parse_group(cx.attrs)? }.into())
}

/// The shape of a convolution of codes `x` with a weight `w`; `None` where unknown.
pub(crate) fn result_shape(
    window: &Window,
    group: usize,
    x: &Type,
    w: &Type,
) -> Result<Option<Vec<ir::Dim>>, String> {
    let Some((xs, ws)) = ranks(x, w)? else { return Ok(None) };
    check_axis(x, "input", 1, ws[1].fixed().and_then(|i| i.checked_mul(group)))?;
    if let Some(o) = ws[0].fixed().filter(|o| o % group != 0) {
        return Err(format!("{o} output channels do not divide into {group} groups"));
    }
    let spatial = window.outputs(&xs[2..], &kernel_sizes(window, ws)?, Rounding::Floor)?;
    Ok(Some([xs[0].clone(), ws[0].clone()].into_iter().chain(spatial).collect()))
}

/// Codes of 8 bits, signed or not, as numbers.
pub(crate) fn number(code: u8, signed: bool) -> i32 {
    if signed { i32::from(code as i8) } else { i32::from(code) }
}

/// Whether codes of this type have a sign.
pub(crate) fn signed(o: &Operand) -> Result<bool, String> {
    match o.dtype {
        DType::I8 => Ok(true),
        DType::U8 => Ok(false),
        other => Err(format!("the executor computes on uint8 and int8 codes, not on {other}")),
    }
}

/// A convolution of codes by its definition, over any number of axes: for the forms that the fast kernels do not take.
#[derive(Debug)]
pub(crate) struct Sums {
    axes: Vec<Axis>,
    batch: usize,
    channels: usize,
    outputs: usize,
    inputs: usize,
    group: usize,
    signed: [bool; 2],
    /// Data and result have their channels last.
    last: bool,
}

impl Sums {
    /// Of data `x` and weight `w`.
    pub(crate) fn new(window: &Window, group: usize, x: &Operand, w: &Operand) -> Result<Sums, String> {
        let ([batch, channels, spatial @ ..], [outputs, inputs, kernel @ ..]) = (&x.shape[..], &w.shape[..])
        else {
            return Err(format!("shapes {:?} and {:?} have no spatial axes", x.shape, w.shape));
        };
        if inputs.checked_mul(group) != Some(*channels)
            || outputs % group != 0
            || spatial.len() != kernel.len()
        {
            return Err(format!("codes of shape {:?} do not meet a weight of shape {:?}", x.shape, w.shape));
        }
        window.check(spatial.len())?;
        let axis = |(i, (&n, &k))| window.axis(i, spatial.len(), n, k, Rounding::Floor);
        Ok(Sums {
            axes: spatial.iter().zip(kernel).enumerate().map(axis).collect::<Result<_, _>>()?,
            batch: *batch,
            channels: *channels,
            outputs: *outputs,
            inputs: *inputs,
            group,
            signed: [signed(x)?, signed(w)?],
            last: x.layout == Layout::ChannelsLast,
        })
    }

    /// Number of output channels.
    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Calls `f` with each element of the result, its channel and its sum; `zeros` are the zero points, one or one per output
    /// channel.
    pub(crate) fn run(&self, x: &[u8], w: &[u8], zeros: [&[u8]; 2], mut f: impl FnMut(usize, usize, i32)) {
        let zero = |i: usize, channel: usize| match zeros[i] {
            [] => 0,
            [one] => number(*one, self.signed[i]),
            all => number(all[channel], self.signed[i]),
        };
        let area: usize = self.axes.iter().map(|a| a.input).product();
        let taps: usize = self.axes.iter().map(|a| a.kernel).product();
        let places: usize = self.axes.iter().map(|a| a.output).product();
        let index = |n: usize, c: usize, at: usize, channels: usize, area: usize| match self.last {
            true => (n * area + at) * channels + c,
            false => (n * channels + c) * area + at,
        };
        let mut seen: Vec<(usize, usize)> = Vec::new();
        for place in 0..places {
            seen.clear();
            let taps = if self.inputs == 0 { 0 } else { taps };
            seen.extend((0..taps).filter_map(|tap| Some((tap, self.position(place, tap)?))));
            for (n, o) in (0..self.batch).flat_map(|n| (0..self.outputs).map(move |o| (n, o))) {
                let first = o / (self.outputs / self.group) * self.inputs;
                let (x_zero, w_zero) = (zero(0, 0), zero(1, o));
                let mut sum = 0i32;
                for c in 0..self.inputs {
                    let w = &w[(o * self.inputs + c) * taps..][..taps];
                    for &(tap, at) in &seen {
                        let x = x[index(n, first + c, at, self.channels, area)];
                        let (x, w) =
                            (number(x, self.signed[0]) - x_zero, number(w[tap], self.signed[1]) - w_zero);
                        sum = sum.wrapping_add(x * w);
                    }
                }
                f(index(n, o, place, self.outputs, places), o, sum);
            }
        }
    }

    /// The element that a place of the result sees at a position of the kernel.
    fn position(&self, mut place: usize, mut tap: usize) -> Option<usize> {
        let (mut at, mut step) = (0, 1);
        for axis in self.axes.iter().rev() {
            let (o, k) = (place % axis.output, tap % axis.kernel);
            (place, tap) = (place / axis.output, tap / axis.kernel);
            let i = (o * axis.stride + k * axis.dilation).checked_sub(axis.pad_begin)?;
            at += Some(i).filter(|&i| i < axis.input)? * step;
            step *= axis.input;
        }
        Some(at)
    }
}

/// Checks the zero points at slot `i` for the codes at slot `of`: one, or `most`, of the same type.
pub(crate) fn zero_points(cx: &Lower, i: usize, of: usize, most: usize) -> Result<(), String> {
    let (Some(zero), codes) = (cx.optional(i), cx.input(of)?) else { return Ok(()) };
    if zero.len() != 1 && zero.len() != most {
        return Err(format!("{} zero points stand at input {i}, where 1 or {most} should", zero.len()));
    }
    if zero.dtype != codes.dtype {
        return Err(format!(
            "the zero point at input {i} is {}, but its codes are {}",
            zero.dtype, codes.dtype
        ));
    }
    Ok(())
}

impl Op for ConvInteger {
    fn name(&self) -> &str {
        "ConvInteger"
    }

    fn attrs(&self) -> Attrs {
        self.window.attrs(Attrs::new()).with_int("group", self.group as i64, 1)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let shape = result_shape(&self.window, self.group, codes(cx, 0)?, codes(cx, 1)?)?;
        for i in 2..cx.len() {
            if cx.has(i) {
                same_dtype(cx.ty(i - 2)?, cx.ty(i)?)?;
            }
        }
        Ok(vec![Type { dtype: Some(DType::I32), shape }])
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let sums = Sums::new(&self.window, self.group, cx.input(0)?, cx.input(1)?)?;
        zero_points(cx, 2, 0, 1)?;
        zero_points(cx, 3, 1, sums.outputs())?;
        Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let y: &mut [i32] = parts.output(0);
            sums.run(parts.input(0), parts.input(1), [parts.input(2), parts.input(3)], |i, _, sum| {
                y[i] = sum
            });
            Ok(())
        }))
    }

    fn flops(&self, cx: &Lower) -> Option<u64> {
        conv_products(&cx.outs[0], cx.optional(1)?)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::Conv;
    use crate::testing::{Draw, eval, run};
    use tensor::Tensor;

    #[test]
    fn agrees_with_the_float_convolution() {
        let mut draw = Draw::new(1);
        for (shape, w_shape, group, window) in [
            (vec![2, 4, 5, 6], vec![6, 2, 3, 2], 2, Window::new(&[3, 2], 2, 1)),
            (vec![1, 2, 7], vec![2, 2, 3], 1, Window { dilations: vec![2], ..Window::default() }),
            (vec![1, 1, 3, 3, 3], vec![2, 1, 2, 2, 2], 1, Window::new(&[2, 2, 2], 1, 1)),
        ] {
            let mut bytes = |shape: &[usize]| -> Vec<u8> {
                (0..shape.iter().product()).map(|_| draw.int(0, 256) as u8).collect()
            };
            let (x, w) = (bytes(&shape), bytes(&w_shape));
            let w: Vec<i8> = w.into_iter().map(|w| w as i8).collect();
            let n = w_shape[0];
            let w_zeros: Vec<i8> = (0..n).map(|i| i as i8 - 2).collect();
            let taps: usize = w_shape[1..].iter().product();
            let floats = (
                Tensor::new(&shape, x.iter().map(|&x| f32::from(x) - 7.0).collect()),
                Tensor::new(
                    &w_shape,
                    w.iter().enumerate().map(|(i, &w)| f32::from(w) - f32::from(w_zeros[i / taps])).collect(),
                ),
            );
            let want = eval(&Conv { window: window.clone(), group }, &[&floats.0, &floats.1]).unwrap();
            let (x, w) = (Tensor::new(&shape, x), Tensor::new(&w_shape, w));
            let (x_zero, w_zero) = (Tensor::scalar(7u8), Tensor::new(&[n], w_zeros));
            let y = run(&ConvInteger { window, group }, &[&x, &w, &x_zero, &w_zero].map(Some), 1).unwrap();
            assert_eq!(y[0].to_f64(), want.to_f64());
        }
    }

    #[test]
    fn codes_of_unknown_type_may_have_zero_points() {
        let (x, w, zero) = (Type::unknown(), Type::of(DType::U8), Type::of(DType::I8));
        let infer = |zero: [&Type; 2]| {
            let args = [&x, &w, zero[0], zero[1]].map(|ty| Some(ir::Arg { ty, value: None }));
            let op = ConvInteger { window: Window::default(), group: 1 };
            op.infer(&Infer::new(&args, 1)).map(|_| ())
        };
        assert_eq!(infer([&zero, &w]), Ok(()));
        assert!(infer([&zero, &zero]).unwrap_err().contains("one element type"));
    }
}
