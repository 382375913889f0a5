//! What the operators on 8-bit codes share: constant scales and zero points, and the rules for them.
//!
//! The operators are those into which ONNX Runtime fuses quantize-dequantize pairs: of ONNX itself where there is one,
//! of its domain `com.microsoft` otherwise. Activations are uint8, weights int8 with zero point 0. The kernels do ONNX
//! Runtime's arithmetic, see [`kernels::integer`].

use crate::shapes::broadcast;
use ir::{Infer, Io, Lower, Step, Type};
use kernels::broadcast::Broadcast;
use kernels::integer::{Affine, lookup};
use kernels::quant::{Grid, Quantizer};
use tensor::DType;

/// Operator-set domain of ONNX Runtime's own operators.
pub(crate) const MICROSOFT: &str = "com.microsoft";

/// Type of the codes at slot `i`.
pub(crate) fn codes<'a>(cx: &Infer<'a>, i: usize) -> Result<&'a Type, String> {
    let ty = cx.ty(i)?;
    match ty.dtype {
        Some(DType::U8 | DType::I8) | None => Ok(ty),
        _ => Err(format!("input {i} should hold 8-bit codes, but is {ty}")),
    }
}

/// Element type of a result whose zero point is at slot `i`: uint8 when it is omitted.
pub(crate) fn code_dtype(cx: &Infer, i: usize) -> Result<Option<DType>, String> {
    if cx.has(i) { Ok(codes(cx, i)?.dtype) } else { Ok(Some(DType::U8)) }
}

/// Checks that slots `i` and `i + 1` hold a scale and a zero point for a whole tensor.
pub(crate) fn check_affine(cx: &Infer, i: usize) -> Result<(), String> {
    let scale = cx.float(i)?;
    let zero_point = if cx.has(i + 1) { Some(codes(cx, i + 1)?) } else { None };
    for ty in [Some(scale), zero_point].into_iter().flatten() {
        if ty.dims().is_some_and(|dims| dims.iter().product::<usize>() != 1) {
            return Err(format!("a scale or zero point should be one number, but is {ty}"));
        }
    }
    Ok(())
}

/// The constant scales at slot `i`.
pub(crate) fn scales(cx: &Lower, i: usize) -> Result<Vec<f32>, String> {
    cx.typed::<f32>(i)?;
    let scales = cx.constant(i)?.to_f32();
    match scales.iter().find(|s| !(s.is_finite() && **s > 0.0)) {
        Some(s) => Err(format!("a scale should be positive, but input {i} holds {s}")),
        None => Ok(scales),
    }
}

/// The constant scale and zero point at slots `i` and `i + 1`.
pub(crate) fn affine(cx: &Lower, i: usize) -> Result<Affine, String> {
    affine_at(cx, i, i + 1)
}

/// The constant scale and zero point at two slots.
pub(crate) fn affine_at(cx: &Lower, scale: usize, zero_point: usize) -> Result<Affine, String> {
    let zero_point = match cx.optional(zero_point) {
        None => vec![0],
        Some(_) => {
            cx.typed::<u8>(zero_point)?;
            cx.constant(zero_point)?.to_i64()
        }
    };
    match (&scales(cx, scale)?[..], &zero_point[..]) {
        (&[scale], &[zero_point]) => Ok((scale, zero_point as u8)),
        (s, z) => Err(format!("{} scales and {} zero points, where one of each is needed", s.len(), z.len())),
    }
}

/// The constant int8 weight at slot `i`, whose zero point at slot `zero_point` must be 0.
pub(crate) fn weight(cx: &Lower, i: usize, zero_point: usize) -> Result<Vec<i8>, String> {
    cx.typed::<i8>(i)?;
    if cx.optional(zero_point).is_some() && cx.constant(zero_point)?.to_i64().iter().any(|&z| z != 0) {
        return Err("the executor computes with int8 weights of zero point 0 only".into());
    }
    Ok(cx.constant(i)?.to_i64().into_iter().map(|q| q as i8).collect())
}

/// The constant int32 bias at slot `i`, one per output channel, if there is one.
pub(crate) fn bias(cx: &Lower, i: usize, channels: usize) -> Result<Option<Vec<i32>>, String> {
    if cx.optional(i).is_none() {
        return Ok(None);
    }
    cx.typed::<i32>(i)?;
    let bias: Vec<i32> = cx.constant(i)?.to_i64().into_iter().map(|b| b as i32).collect();
    if bias.len() != channels {
        return Err(format!("{} biases for {channels} output channels", bias.len()));
    }
    Ok(Some(bias))
}

/// `factor(s)` of the constant weight scales at slot `i`, for each of `channels` output channels.
pub(crate) fn per_channel(
    cx: &Lower,
    i: usize,
    channels: usize,
    factor: impl Fn(f32) -> f32,
) -> Result<Vec<f32>, String> {
    let scales = scales(cx, i)?;
    match scales.len() {
        1 => Ok(vec![factor(scales[0]); channels]),
        n if n == channels => Ok(scales.into_iter().map(factor).collect()),
        n => Err(format!("{n} weight scales for {channels} output channels")),
    }
}

/// From sums of products of codes to codes: what the operators that are made of such sums do by definition, with scales that
/// may be computed.
pub(crate) struct Rescale {
    slots: [usize; 3],
    lens: [usize; 2],
    zero_point: usize,
    signed: bool,
}

/// The scales of a running [`Rescale`], and the zero point of the result.
pub(crate) struct Scales<'b> {
    a: &'b [f32],
    b: &'b [f32],
    y: f32,
    zero_point: f32,
    signed: bool,
}

impl Rescale {
    /// `slots` are those of the scales of both operands and of the result; `zero_point` is that of its zero point.
    pub(crate) fn new(cx: &Lower, slots: [usize; 3], zero_point: usize) -> Result<Rescale, String> {
        let mut lens = [0; 3];
        for (len, &slot) in lens.iter_mut().zip(&slots) {
            *len = cx.typed::<f32>(slot)?.len();
            if cx.constant(slot).is_ok() {
                scales(cx, slot)?;
            }
        }
        let one = cx.optional(zero_point).is_none_or(|z| z.len() == 1);
        if lens[2] != 1 || !one {
            return Err("the result should have one scale and one zero point".into());
        }
        let signed = crate::conv_integer::signed(&cx.outs[0])?;
        Ok(Rescale { slots, lens: [lens[0], lens[1]], zero_point, signed })
    }

    /// Checks that each operand has one scale, or as many as given.
    pub(crate) fn check(&self, most: [usize; 2]) -> Result<(), String> {
        match self.lens.iter().zip(most).find(|(len, most)| **len != 1 && *len != most) {
            Some((len, most)) => Err(format!("{len} scales stand where 1 or {most} should")),
            None => Ok(()),
        }
    }

    pub(crate) fn scales<'b>(&self, parts: &ir::Parts<'b, '_>) -> Scales<'b> {
        let [a, b, y] = self.slots.map(|i| parts.input::<f32>(i));
        let zero_point = parts.input::<u8>(self.zero_point).first();
        let zero_point = zero_point.map_or(0, |&z| crate::conv_integer::number(z, self.signed));
        Scales { a, b, y: y[0], zero_point: zero_point as f32, signed: self.signed }
    }
}

impl Scales<'_> {
    /// The code of a sum with the `i`-th scale of the first operand and the `j`-th of the second.
    pub(crate) fn code(&self, sum: i32, i: usize, j: usize) -> u8 {
        let of = |scales: &[f32], i: usize| if scales.len() == 1 { scales[0] } else { scales[i] };
        let steps = sum as f32 * (of(self.a, i) * of(self.b, j) / self.y);
        let code = steps.round_ties_even() + self.zero_point;
        if self.signed { code.clamp(-128.0, 127.0) as i8 as u8 } else { code.clamp(0.0, 255.0) as u8 }
    }
}

/// The table of a function from codes to codes.
pub(crate) fn table(x: Affine, y: Affine, f: impl Fn(f32) -> f32) -> [u8; 256] {
    let quantizer = Quantizer::onnx(Grid::U8);
    std::array::from_fn(|code| {
        let value = (code as i32 - i32::from(x.1)) as f32 * x.0;
        quantizer.code(y.0, y.1.into(), f(value)) as u8
    })
}

/// The type of an element-wise function of two tensors of codes: `(a, a_scale, a_zero_point, b, b_scale, b_zero_point,
/// y_scale, y_zero_point?)`.
pub(crate) fn infer_binary(cx: &Infer) -> Result<Vec<Type>, String> {
    let shape = broadcast(codes(cx, 0)?, codes(cx, 3)?)?;
    [1, 4, 6].into_iter().try_for_each(|i| check_affine(cx, i))?;
    Ok(vec![Type { dtype: code_dtype(cx, 7)?, shape }])
}

/// The operands of such a function: how they broadcast, then scale and zero point of `a`, `b` and `y`.
pub(crate) fn binary(cx: &Lower) -> Result<(Broadcast<2>, [Affine; 3]), String> {
    let shapes = [cx.typed::<u8>(0)?.memory_shape(), cx.typed::<u8>(3)?.memory_shape()];
    let plan = Broadcast::new([&shapes[0], &shapes[1]]).map_err(|e| e.to_string())?;
    Ok((plan, [affine(cx, 1)?, affine(cx, 4)?, affine(cx, 6)?]))
}

/// The type of a function of one tensor of codes: `(x, x_scale, x_zero_point, y_scale, y_zero_point?)`.
pub(crate) fn infer_unary(cx: &Infer) -> Result<Type, String> {
    let shape = codes(cx, 0)?.shape.clone();
    [1, 3].into_iter().try_for_each(|i| check_affine(cx, i))?;
    Ok(Type { dtype: code_dtype(cx, 4)?, shape })
}

/// Such a function as a table.
pub(crate) fn lower_table(cx: &Lower, f: impl Fn(f32) -> f32) -> Result<Step, String> {
    cx.typed::<u8>(0)?;
    let table = table(affine(cx, 1)?, affine(cx, 3)?, f);
    Ok(Step::new(move |io: &mut Io| {
        let mut parts = io.split();
        lookup(&table, parts.input(0), parts.output(0));
        Ok(())
    }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod testing {
    use crate::testing::{Draw, run};
    use crate::{DequantizeLinear, QuantizeLinear};
    use ir::Op;
    use tensor::Tensor;

    /// Scale and zero point of `a`, `b` and `y`, then codes of `a`, `b` and `y`.
    pub type Recorded = (f32, u8, f32, u8, f32, u8, u8, u8, u8);

    /// An operator on codes gives what the float operator gives between pairs, up to one code.
    pub fn check_against_float(quantized: &dyn Op, float: &dyn Op) {
        let mut draw = Draw::new(51);
        for (a, b) in [
            (vec![2, 3, 4, 5], vec![2, 3, 4, 5]),
            (vec![2, 3, 4, 5], vec![2, 3, 1, 1]),
            (vec![2, 3, 4, 5], vec![1, 3, 4, 1]),
            (vec![6], vec![2, 6]),
            (vec![], vec![3, 2]),
        ] {
            let mut codes = |shape: &[usize]| {
                Tensor::new(shape, (0..shape.iter().product()).map(|_| draw.int(0, 256) as u8).collect())
            };
            let (a, b) = (codes(&a), codes(&b));
            let mut affine =
                || (Tensor::scalar(draw.float(0.01, 0.05)), Tensor::scalar(draw.pick(&[0u8, 128, 37])));
            let ((a_scale, a_zero), (b_scale, b_zero), (y_scale, y_zero)) = (affine(), affine(), affine());
            let ins = [&a, &a_scale, &a_zero, &b, &b_scale, &b_zero, &y_scale, &y_zero].map(Some);
            let got = run(quantized, &ins, 1).unwrap().remove(0);

            let eval = |op: &dyn Op, ins: &[&Tensor]| {
                let ins: Vec<_> = ins.iter().copied().map(Some).collect();
                ir::eval(op, &ins, 1).unwrap().remove(0)
            };
            let value = |q, s, z| eval(&DequantizeLinear::default(), &[q, s, z]);
            let y = eval(float, &[&value(&a, &a_scale, &a_zero), &value(&b, &b_scale, &b_zero)]);
            let want = eval(&QuantizeLinear::default(), &[&y, &y_scale, &y_zero]);
            assert_eq!(got.shape(), want.shape());
            assert!(got.to_i64().iter().zip(&want.to_i64()).all(|(a, b)| a.abs_diff(*b) <= 1));
        }
    }

    /// An operator on codes gives the recorded codes.
    pub fn check_recorded(op: &dyn Op, recorded: &[Recorded]) {
        for &(a_scale, a_zero, b_scale, b_zero, y_scale, y_zero, a, b, y) in recorded {
            let [a, a_zero, b, b_zero, y_zero] = [a, a_zero, b, b_zero, y_zero].map(Tensor::scalar);
            let [a_scale, b_scale, y_scale] = [a_scale, b_scale, y_scale].map(Tensor::scalar);
            let ins = [&a, &a_scale, &a_zero, &b, &b_scale, &b_zero, &y_scale, &y_zero].map(Some);
            assert_eq!(run(op, &ins, 1).unwrap()[0], Tensor::scalar(y));
        }
    }
}
