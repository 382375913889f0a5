//! `DequantizeLinear` (ONNX 10, 13, 19, 21): `(x - zero_point) * scale`, per tensor or per axis.

use crate::quantize_linear::{Later, Scaling, check_zero_point, code, extra, rows, to_onnx};
use crate::shapes::channel_scale;
use ir::{Attr, Attrs, Infer, Io, Layouts, Lower, OnnxForm, Op, Parse, Parsed, Step, Type};
use kernels::quant::{Grid, Quantizer, Scales, dequantize_i8, dequantize_i32, dequantize_u8};
use tensor::DType;

/// `DequantizeLinear(x, scale, zero_point?)`: integers of 4, 8 or 16 bits, or int32, to f32.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DequantizeLinear {
    /// Channel axis of a per-channel scale; negative counts from the end.
    pub axis: i64,
    /// Attributes of later opsets that differ from their defaults (`block_size`, `output_dtype`).
    pub extra: Vec<(String, i64)>,
}

impl Default for DequantizeLinear {
    fn default() -> Self {
        DequantizeLinear { axis: 1, extra: Vec::new() }
    }
}

pub(crate) const LATER: &[Later] = &[("block_size", 0, 21), ("output_dtype", 0, 23)];

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    Ok(DequantizeLinear { axis: cx.attrs.int("axis", 1)?, extra: extra(cx.attrs, LATER) }.into())
}

impl DequantizeLinear {
    /// The definition, element by element.
    fn lower_any(&self, cx: &Lower) -> Result<Step, String> {
        let (x, scale) = (cx.input(0)?, cx.typed::<f32>(1)?);
        let (dtype, scaling) = (x.dtype, Scaling::new(x, scale, self.axis, &self.extra)?);
        if dtype.is_float() || matches!(dtype, DType::Bool | DType::U32 | DType::I64 | DType::U64) {
            return Err(format!("the executor does not dequantize {dtype}"));
        }
        let with_zero = cx.optional(2).is_some();
        if with_zero && cx.input(2)?.len() != scale.len() {
            return Err("there should be as many zero points as scales".into());
        }
        check_zero_point(cx, dtype)?;
        Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let (x, scale): (&[u8], &[f32]) = (parts.input(0), parts.input(1));
            let zero: &[u8] = parts.input(2);
            for (i, y) in parts.output::<f32>(0).iter_mut().enumerate() {
                let at = scaling.of(i);
                let zero = if with_zero { code(zero, dtype, at) } else { 0 };
                *y = code(x, dtype, i).wrapping_sub(zero) as f32 * scale[at];
            }
            Ok(())
        }))
    }
}

impl Op for DequantizeLinear {
    fn name(&self) -> &str {
        "DequantizeLinear"
    }

    fn attrs(&self) -> Attrs {
        let attrs = Attrs::new().with_int("axis", self.axis, 1);
        self.extra.iter().fold(attrs, |a, (name, value)| a.with(name, Attr::Int(*value)))
    }

    fn to_onnx(&self, opset: i64) -> Result<OnnxForm, String> {
        to_onnx(self, &self.extra, LATER, opset)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let (x, scale) = (cx.ty(0)?, cx.float(1)?);
        if let (Some(dims), Some(rank)) = (scale.dims(), x.rank())
            && dims.iter().product::<usize>() != 1
            && self.extra.iter().all(|(name, _)| name != "block_size")
        {
            let axis = if self.axis < 0 { self.axis + rank as i64 } else { self.axis };
            channel_scale(x, scale, usize::try_from(axis).ok().or(Some(usize::MAX)), "scale")?;
        }
        let asked = self.extra.iter().find(|(name, _)| name == "output_dtype");
        let dtype = asked.map_or(scale.dtype, |(_, n)| i32::try_from(*n).ok().and_then(DType::from_onnx));
        Ok(vec![Type { dtype, shape: x.shape.clone() }])
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        if cx.outs[0].dtype != DType::F32 {
            return Err(format!("the executor dequantizes to float, not to {}", cx.outs[0].dtype));
        }
        let x = cx.input(0)?;
        let (dtype, scales) = (x.dtype, cx.typed::<f32>(1)?.len());
        let blocked = self.extra.iter().any(|(name, n)| name == "block_size" && *n != 0);
        if blocked || !matches!(dtype, DType::U8 | DType::I8 | DType::I32) {
            return self.lower_any(cx);
        }
        let rows = rows(x, self.axis, scales)?;
        let zero_point: Vec<i32> = match cx.optional(2) {
            None => vec![0; scales],
            Some(_) => cx.constant(2)?.to_i64().into_iter().map(|z| z as i32).collect(),
        };
        if zero_point.len() != scales {
            return Err(format!("{} zero points stand beside {scales} scales", zero_point.len()));
        }
        let quantizer = Quantizer::onnx(Grid::I8);
        Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let scales = Scales::affine(parts.input(1), &zero_point);
            match dtype {
                DType::U8 => dequantize_u8(quantizer, rows, scales, parts.input(0), parts.output(0)),
                DType::I8 => dequantize_i8(quantizer, rows, scales, parts.input(0), parts.output(0)),
                _ => dequantize_i32(quantizer, rows, scales, parts.input(0), parts.output(0)),
            }
            Ok(())
        }))
    }

    fn layouts(&self) -> Layouts {
        Layouts::Same { ins: 1, outs: 1 }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use tensor::Tensor;

    #[test]
    fn codes_become_values() {
        let (scale, zp) = (Tensor::scalar(0.5f32), Tensor::new(&[], vec![10u8]));
        let x = Tensor::new(&[3], vec![0u8, 10, 255]);
        let y = ir::eval(&DequantizeLinear::default(), &[Some(&x), Some(&scale), Some(&zp)], 1).unwrap();
        assert_eq!(y[0].to_f32(), [-5.0, 0.0, 122.5]);
    }

    #[test]
    fn the_type_of_the_result_may_be_told() {
        let (x, scale) = (Tensor::new(&[2], vec![3i8, -4]), Tensor::scalar(0.5f32));
        let attrs = Attrs::new().with("output_dtype", Attr::Int(DType::F16.onnx().into()));
        let op = parse(&Parse { attrs: &attrs, opset: 23, ins: 2, outs: 1 }).unwrap().op;
        let y = ir::eval(&*op, &[Some(&x), Some(&scale)], 1).unwrap().remove(0);
        assert_eq!((y.dtype(), y.to_f32()), (DType::F16, vec![1.5, -2.0]));
        assert!(op.to_onnx(22).unwrap_err().contains("no output_dtype before opset 23"));
        assert_eq!(op.to_onnx(23).unwrap().attrs, attrs);
    }

    #[test]
    fn a_bias_is_int32() {
        let (x, scale) = (Tensor::new(&[2], vec![-3i32, 7]), Tensor::new(&[2], vec![0.5f32, 2.0]));
        let op = DequantizeLinear { axis: 0, extra: vec![] };
        assert_eq!(ir::eval(&op, &[Some(&x), Some(&scale)], 1).unwrap()[0].to_f32(), [-1.5, 14.0]);
    }
}
