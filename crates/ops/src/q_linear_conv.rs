//! `QLinearConv` (ONNX 10): a convolution of uint8 codes with int8 weights, rounded once to uint8 codes.

use crate::conv::{check_axis, parse_group, plan};
use crate::conv_integer::{Sums, result_shape, zero_points};
use crate::q_linear::{Rescale, affine, bias, check_affine, code_dtype, codes, per_channel, weight};
use crate::shapes::conv_products;
use crate::window::Window;
use ir::{Attrs, Infer, Io, Layouts, Lower, Op, Parse, Parsed, Step, Type};
use kernels::integer;

/// `QLinearConv(x, x_scale, x_zero_point, w, w_scale, w_zero_point, y_scale, y_zero_point, bias?)`: `x` uint8
/// `(N, C, spatial...)`, `w` int8 `(O, C / group, kernel...)` with one scale or one per output channel, `bias` int32
/// `(O)` in steps of `x_scale * w_scale`. The fast form; data may be int8 too, and weights uint8 with zero points.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QLinearConv {
    /// Kernel size, strides, dilations, padding.
    pub window: Window,
    /// Number of groups into which the channels are split.
    pub group: usize,
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    Ok(QLinearConv { window: Window::parse(cx.attrs)?, group: parse_group(cx.attrs)? }.into())
}

impl QLinearConv {
    /// uint8 data with a constant int8 weight of zero point 0.
    fn lower_fast(&self, cx: &Lower) -> Result<Step, String> {
        let plan = plan(&self.window, self.group, &cx.typed::<u8>(0)?.shape, &cx.input(3)?.shape)?;
        zero_points(cx, 5, 3, plan.out_channels)?;
        let (x, y) = (affine(cx, 1)?, affine(cx, 6)?);
        let scale = per_channel(cx, 4, plan.out_channels, |w| (x.0 * w) / y.0)?;
        let bias = bias(cx, 8, plan.out_channels)?;
        let conv = integer::Conv::new(plan, &weight(cx, 3, 5)?, x.1, bias.as_deref());
        let workspace = conv.workspace();
        let step = Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            conv.codes(parts.input(0), &scale, y.1, parts.output(0), parts.workspace());
            Ok(())
        });
        Ok(step.workspace::<u32>(workspace))
    }

    /// The definition, for all other forms.
    fn lower_any(&self, cx: &Lower) -> Result<Step, String> {
        let sums = Sums::new(&self.window, self.group, cx.input(0)?, cx.input(3)?)?;
        let channels = sums.outputs();
        zero_points(cx, 2, 0, 1)?;
        zero_points(cx, 5, 3, channels)?;
        let rescale = Rescale::new(cx, [1, 4, 6], 7)?;
        rescale.check([1, channels])?;
        let with_bias = cx.optional(8).is_some();
        if with_bias && cx.typed::<i32>(8)?.len() != channels {
            return Err(format!("{} biases for {channels} output channels", cx.input(8)?.len()));
        }
        Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let (scales, bias): (_, &[i32]) = (rescale.scales(&parts), parts.input(8));
            let zeros = [parts.input(2), parts.input(5)];
            let (x, w, y): (_, _, &mut [u8]) = (parts.input(0), parts.input(3), parts.output(0));
            sums.run(x, w, zeros, |i, channel, sum| {
                let sum = if with_bias { sum.wrapping_add(bias[channel]) } else { sum };
                y[i] = scales.code(sum, 0, channel);
            });
            Ok(())
        }))
    }
}

impl Op for QLinearConv {
    fn name(&self) -> &str {
        "QLinearConv"
    }

    fn attrs(&self) -> Attrs {
        self.window.attrs(Attrs::new()).with_int("group", self.group as i64, 1)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let (x, w) = (codes(cx, 0)?, codes(cx, 3)?);
        check_affine(cx, 1)?;
        check_affine(cx, 6)?;
        let dtype = code_dtype(cx, 7)?;
        let shape = result_shape(&self.window, self.group, x, w)?;
        if cx.has(8) {
            let channels = w.shape.as_ref().and_then(|s| s[0].fixed());
            check_axis(cx.ty(8)?, "bias", 0, channels)?;
        }
        Ok(vec![Type { dtype, shape }])
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        self.lower_fast(cx).or_else(|_| self.lower_any(cx))
    }

    fn flops(&self, cx: &Lower) -> Option<u64> {
        conv_products(&cx.outs[0], cx.optional(3)?)
    }

    fn layouts(&self) -> Layouts {
        Layouts::ChannelsLast { ins: 1, outs: 1 }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{Draw, run};
    use crate::{Conv, DequantizeLinear, QuantizeLinear};
    use tensor::{DType, Tensor};

    fn draw_codes(draw: &mut Draw, shape: &[usize]) -> Tensor {
        Tensor::new(shape, (0..shape.iter().product()).map(|_| draw.int(0, 256) as u8).collect())
    }

    #[test]
    fn agrees_with_the_float_convolution_between_pairs() {
        let mut draw = Draw::new(31);
        for (shape, w_shape, group, window) in [
            (vec![2, 6, 7, 5], vec![5, 6, 3, 3], 1, Window::new(&[3, 3], 2, 1)),
            (vec![1, 8, 6, 6], vec![8, 1, 3, 3], 8, Window::new(&[3, 3], 1, 1)),
            (vec![2, 20, 4, 4], vec![40, 20, 1, 1], 1, Window::default()),
            (vec![2, 6, 9, 9], vec![4, 3, 3, 3], 2, Window { dilations: vec![2, 2], ..Window::default() }),
            (vec![2, 4, 30], vec![3, 4, 5], 1, Window { pads: vec![4, 1], ..Window::default() }),
        ] {
            let x = draw_codes(&mut draw, &shape);
            let w = Tensor::new(
                &w_shape,
                (0..w_shape.iter().product()).map(|_| (draw.int(0, 255) as i32 - 127) as i8).collect(),
            );
            let n = w_shape[0];
            let (x_scale, x_zero) = (Tensor::scalar(0.02f32), Tensor::scalar(draw.int(0, 256) as u8));
            let w_scale = Tensor::new(&[n], (0..n).map(|_| draw.float(0.001, 0.003)).collect());
            let w_zero = Tensor::zeros(DType::I8, &[n]);
            let b_scale = Tensor::new(&[n], w_scale.to_f32().iter().map(|w| 0.02 * w).collect());
            let bias = Tensor::new(&[n], (0..n).map(|_| draw.int(0, 20_000) as i32 - 10_000).collect());
            let (y_scale, y_zero) = (Tensor::scalar(0.07f32), Tensor::scalar(100u8));

            let op = QLinearConv { window: window.clone(), group };
            let ins = [&x, &x_scale, &x_zero, &w, &w_scale, &w_zero, &y_scale, &y_zero, &bias].map(Some);
            let got = run(&op, &ins, 1).unwrap()[0].to_i64();

            let eval = |op: &dyn Op, ins: &[&Tensor]| {
                let ins: Vec<_> = ins.iter().copied().map(Some).collect();
                ir::eval(op, &ins, 1).unwrap().remove(0)
            };
            let rows = DequantizeLinear { axis: 0, extra: vec![] };
            let (x, w) =
                (eval(&DequantizeLinear::default(), &[&x, &x_scale, &x_zero]), eval(&rows, &[&w, &w_scale]));
            let y = eval(&Conv { window, group }, &[&x, &w, &eval(&rows, &[&bias, &b_scale])]);
            let want = eval(&QuantizeLinear::default(), &[&y, &y_scale, &y_zero]).to_i64();
            assert_eq!(got.len(), want.len());
            assert!(got.iter().zip(&want).all(|(a, b)| a.abs_diff(*b) <= 1));
            assert!(got.iter().collect::<std::collections::BTreeSet<_>>().len() > 20);
        }
    }

    #[test]
    fn rounds_once_half_to_even() {
        let op = QLinearConv { window: Window::default(), group: 1 };
        let one = |x: u8, bias: i32| {
            let (x, w) = (Tensor::new(&[1, 1, 1], vec![x]), Tensor::new(&[1, 1, 1], vec![1i8]));
            let (half, unit) = (Tensor::scalar(0.5f32), Tensor::scalar(1f32));
            let (x_zero, w_zero, y_zero) = (Tensor::scalar(10u8), Tensor::scalar(0i8), Tensor::scalar(3u8));
            let bias = Tensor::new(&[1], vec![bias]);
            let ins = [&x, &half, &x_zero, &w, &unit, &w_zero, &unit, &y_zero, &bias].map(Some);
            run(&op, &ins, 1).unwrap()[0].to_i64()[0]
        };
        assert_eq!([one(11, 0), one(13, 0), one(11, 4), one(0, 0), one(255, 1000)], [3, 5, 5, 0, 255]);
    }

    #[test]
    fn codes_of_any_sign_and_zero_point() {
        let op = QLinearConv { window: Window::default(), group: 1 };
        let (x, w) = (Tensor::new(&[1, 1, 3], vec![-3i8, 0, 4]), Tensor::new(&[2, 1, 1], vec![7u8, 9]));
        let (unit, x_zero, w_zero) =
            (Tensor::scalar(1f32), Tensor::scalar(1i8), Tensor::new(&[2], vec![5u8, 9]));
        let half = Tensor::scalar(2f32);
        let ins = [&x, &unit, &x_zero, &w, &unit, &w_zero, &half, &x_zero].map(Some);
        let y = run(&op, &ins, 1).unwrap().remove(0);
        assert_eq!((y.dtype(), y.to_i64()), (DType::I8, vec![-3, 0, 4, 1, 1, 1]));
    }

    #[test]
    fn what_it_cannot_compute_is_told() {
        let op = QLinearConv { window: Window::default(), group: 1 };
        let (x, w) = (Tensor::zeros(DType::U8, &[1, 2, 3]), Tensor::zeros(DType::I8, &[1, 2, 1]));
        let (unit, x_zero, w_zero) = (Tensor::scalar(1f32), Tensor::scalar(0u8), Tensor::scalar(1i8));
        let fail = |x: &Tensor, scale: &Tensor, w_zero: &Tensor| {
            let ins = [x, scale, &x_zero, &w, &unit, w_zero, &unit, &x_zero].map(Some);
            run(&op, &ins, 1).unwrap_err()
        };
        let zeros = Tensor::new(&[2], vec![0i8; 2]);
        assert!(fail(&x, &unit, &zeros).contains("2 zero points stand at input 5"));
        assert!(fail(&x, &Tensor::scalar(0f32), &Tensor::scalar(0i8)).contains("should be positive"));
        assert!(fail(&x, &Tensor::new(&[2], vec![1f32; 2]), &Tensor::scalar(0i8)).contains("one number"));
        assert!(
            fail(&Tensor::zeros(DType::U8, &[1, 3, 3]), &unit, &w_zero)
                .contains("should have 2 along axis 1")
        );
        assert!(fail(&Tensor::zeros(DType::F32, &[1, 2, 3]), &unit, &w_zero).contains("8-bit codes"));
        assert!(fail(&Tensor::zeros(DType::I8, &[1, 2, 3]), &unit, &w_zero).contains("uint8"));
    }
}
