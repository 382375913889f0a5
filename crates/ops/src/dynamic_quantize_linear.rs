//! `DynamicQuantizeLinear` (ONNX 11): uint8 codes of a tensor on the grid of its own range.

use ir::{Infer, Io, Layouts, Lower, Op, Parse, Parsed, Step, Type};
use kernels::quant::{Axis, Grid, Quantizer, Scales, extremes, quantize_u8};
use tensor::DType;

/// `DynamicQuantizeLinear(x)` gives codes, scale and zero point: with `low = min(x, 0)` and `high = max(x, 0)`,
/// `scale = (high - low) / 255`, `zero_point = saturate(round(0 - low / scale))` and
/// `y = saturate(round(x / scale) + zero_point)`; halves are rounded to even. Where all of `x` is 0, for which ONNX says
/// nothing, the scale is 1, as in ONNX Runtime. NaN does not count for the range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DynamicQuantizeLinear;

/// Reads the operator: it has no attributes.
pub fn parse(_: &Parse) -> Result<Parsed, String> {
    Ok(DynamicQuantizeLinear.into())
}

impl Op for DynamicQuantizeLinear {
    fn name(&self) -> &str {
        "DynamicQuantizeLinear"
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let x = cx.float(0)?;
        let one = |dtype| Type { dtype: Some(dtype), shape: Some(vec![]) };
        Ok(vec![Type { dtype: Some(DType::U8), shape: x.shape.clone() }, one(DType::F32), one(DType::U8)])
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let rows = Axis::whole(cx.typed::<f32>(0)?.len());
        if cx.outs.len() != 3 {
            return Err(format!("three results are needed, but there are {}", cx.outs.len()));
        }
        Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let x = parts.input(0);
            let (scale, zero_point) = grid(x);
            quantize_u8(
                Quantizer::onnx(Grid::U8),
                rows,
                Scales::affine(&[scale], &[zero_point.into()]),
                x,
                parts.output(0),
            );
            parts.output(1)[0] = scale;
            parts.output(2)[0] = zero_point;
            Ok(())
        }))
    }

    fn layouts(&self) -> Layouts {
        Layouts::Same { ins: 1, outs: 1 }
    }
}

/// Scale and zero point for the range of `x`.
fn grid(x: &[f32]) -> (f32, u8) {
    let range = extremes(x);
    let (low, high) = (range.min.min(0.0), range.max.max(0.0));
    let scale = if low == high { 1.0 } else { (high - low) / 255.0 };
    (scale, (0.0 - low / scale).clamp(0.0, 255.0).round_ties_even() as u8)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::run;
    use tensor::Tensor;

    fn quantized(x: &[f32]) -> (Vec<i64>, f64, i64) {
        let x = Tensor::new(&[x.len()], x.to_vec());
        let y = run(&DynamicQuantizeLinear, &[Some(&x)], 3).unwrap();
        (y[0].to_i64(), y[1].to_f64()[0], y[2].to_i64()[0])
    }

    /// The examples of the ONNX operator documentation.
    #[test]
    fn documented_examples() {
        let (y, scale, zero) = quantized(&[0.0, 2.0, -3.0, -2.5, 1.34, 0.5]);
        assert_eq!((y, zero), (vec![153, 255, 0, 26, 221, 179], 153));
        assert!((scale - 0.019_607_843_5).abs() < 1e-9);
        let (y, scale, zero) = quantized(&[-1.0, -2.1, -1.3, -2.5, -3.34, -4.0]);
        assert_eq!((y, zero), (vec![191, 121, 172, 96, 42, 0], 255));
        assert!((scale - 0.015_686_275).abs() < 1e-9);
        let x = [1.0, 2.1, 1.3, 2.5, 3.34, 4.0, 1.5, 2.6, 3.9, 4.0, 3.0, 2.345];
        let (y, scale, zero) = quantized(&x);
        assert_eq!((y, zero), (vec![64, 134, 83, 159, 213, 255, 96, 166, 249, 255, 191, 149], 0));
        assert!((scale - 0.015_686_275).abs() < 1e-9);
    }

    #[test]
    fn degenerate_ranges() {
        assert_eq!(quantized(&[0.0, 0.0]), (vec![0, 0], 1.0, 0));
        assert_eq!(quantized(&[]), (vec![], 1.0, 0));
        assert_eq!(quantized(&[f32::NAN, 255.0, 0.5, 1.5]).0[1..], [255, 0, 2], "halves to even");
        let (y, _, zero) = quantized(&[f32::INFINITY, 1.0]);
        assert_eq!((y[1], zero), (0, 0));
    }

    #[test]
    fn any_layout() {
        let mut draw = crate::testing::Draw::new(9);
        let x = draw.tensor(&[2, 3, 4], -1.0, 2.0);
        let y = run(&DynamicQuantizeLinear, &[Some(&x)], 3).unwrap();
        assert_eq!((y[0].shape(), y[1].shape(), y[2].dtype()), (&[2, 3, 4][..], &[][..], DType::U8));
        assert!(run(&DynamicQuantizeLinear, &[Some(&Tensor::scalar(1i32))], 3).is_err());
    }
}
