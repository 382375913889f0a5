//! `QuantizeLinear` (ONNX 10, 13, 19, 21): `saturate(round_half_even(x / scale) + zero_point)`, per tensor or per axis.

use crate::shapes::channel_scale;
use ir::{Attr, Attrs, Infer, Io, Layouts, Lower, Op, Operand, Parse, Parsed, Step, Type};
use kernels::quant::{Axis, Grid, Quantizer, Scales, quantize_i8, quantize_u8};
use tensor::DType;

/// `QuantizeLinear(x, scale, zero_point?)`: the zero point's type, uint8 when it is omitted, is that of the result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuantizeLinear {
    /// Channel axis of a per-channel scale; negative counts from the end.
    pub axis: i64,
    /// Attributes of later opsets that we keep but do not compute (`block_size`, `output_dtype`, `saturate`).
    pub extra: Vec<(String, i64)>,
}

impl Default for QuantizeLinear {
    fn default() -> Self {
        QuantizeLinear { axis: 1, extra: Vec::new() }
    }
}

/// Attributes of later opsets that quantization here does not compute with, kept for the round trip.
pub(crate) fn extra(attrs: &Attrs) -> Vec<(String, i64)> {
    ["block_size", "output_dtype", "saturate", "precision"]
        .iter()
        .filter_map(|name| match attrs.get(name) {
            Some(Attr::Int(x)) => Some((name.to_string(), *x)),
            _ => None,
        })
        .collect()
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    Ok(QuantizeLinear { axis: cx.attrs.int("axis", 1)?, extra: extra(cx.attrs) }.into())
}

/// The rows that share a scale, for a scale of `scales` elements.
pub(crate) fn rows(x: &Operand, axis: i64, scales: usize) -> Result<Axis, String> {
    if scales == 1 {
        return Ok(Axis::whole(x.len()));
    }
    let at = if axis < 0 { axis + x.shape.len() as i64 } else { axis };
    let at = usize::try_from(at).ok().filter(|&at| at < x.shape.len());
    match at.and_then(|at| Axis::of(&x.memory_shape(), x.memory_axis(at))) {
        Some(rows) if rows.channels == scales => Ok(rows),
        _ => Err(format!("{scales} scales do not fit axis {axis} of shape {:?}", x.shape)),
    }
}

/// The codes of an element type.
pub(crate) fn grid(dtype: DType) -> Result<Grid, String> {
    match dtype {
        DType::U8 => Ok(Grid::U8),
        DType::I8 => Ok(Grid::I8),
        other => Err(format!("the executor quantizes to uint8 and int8, not to {other}")),
    }
}

impl Op for QuantizeLinear {
    fn name(&self) -> &str {
        "QuantizeLinear"
    }

    fn attrs(&self) -> Attrs {
        let attrs = Attrs::new().with_int("axis", self.axis, 1);
        self.extra.iter().fold(attrs, |a, (name, value)| a.with(name, Attr::Int(*value)))
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let x = cx.float(0)?;
        let scale = cx.float(1)?;
        let dtype = if cx.has(2) {
            cx.ty(2)?.dtype
        } else {
            let out = self.extra.iter().find(|(name, _)| name == "output_dtype").map(|(_, n)| *n as i32);
            out.map_or(Some(DType::U8), DType::from_onnx)
        };
        if let (Some(dims), Some(rank)) = (scale.dims(), x.rank())
            && dims.iter().product::<usize>() != 1
            && self.extra.iter().all(|(name, _)| name != "block_size")
        {
            let axis = if self.axis < 0 { self.axis + rank as i64 } else { self.axis };
            channel_scale(x, scale, usize::try_from(axis).ok().or(Some(usize::MAX)), "scale")?;
        }
        Ok(vec![Type { dtype, shape: x.shape.clone() }])
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let x = cx.typed::<f32>(0)?;
        let scales = cx.typed::<f32>(1)?.len();
        let rows = rows(x, self.axis, scales)?;
        let dtype = cx.outs[0].dtype;
        let quantizer = Quantizer::onnx(grid(dtype)?);
        let zero_point: Vec<i32> = match cx.optional(2) {
            None => vec![0; scales],
            Some(_) => cx.constant(2)?.to_i64().into_iter().map(|z| z as i32).collect(),
        };
        if zero_point.len() != scales {
            return Err(format!("{} zero points stand beside {scales} scales", zero_point.len()));
        }
        Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let scales = Scales::affine(parts.input(1), &zero_point);
            if dtype == DType::U8 {
                quantize_u8(quantizer, rows, scales, parts.input(0), parts.output(0));
            } else {
                quantize_i8(quantizer, rows, scales, parts.input(0), parts.output(0));
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
    fn saturates_to_the_type_of_the_zero_point() {
        let x = Tensor::new(&[4], vec![-1.0f32, 0.25, 0.75, 1000.0]);
        let zp = Tensor::new(&[], vec![1u8]);
        let y =
            ir::eval(&QuantizeLinear::default(), &[Some(&x), Some(&Tensor::scalar(0.5f32)), Some(&zp)], 1)
                .unwrap();
        assert_eq!(y[0], Tensor::new(&[4], vec![0u8, 1, 3, 255]));
    }

    #[test]
    fn a_scale_per_channel() {
        let x = Tensor::new(&[2, 2], vec![1.0f32, 1.0, 1.0, 1.0]);
        let scale = Tensor::new(&[2], vec![1.0f32, 0.5]);
        let zp = Tensor::new(&[2], vec![0i8, 0]);
        let op = QuantizeLinear { axis: 0, extra: vec![] };
        let y = ir::eval(&op, &[Some(&x), Some(&scale), Some(&zp)], 1).unwrap();
        assert_eq!(y[0], Tensor::new(&[2, 2], vec![1i8, 1, 2, 2]));
    }
}
