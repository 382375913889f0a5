//! `qat.Decode`: the values of 8-bit codes whose scale and zero point a training step computes.

use crate::shapes::single;
use ir::{Infer, Io, Layouts, Lower, Op, Parse, Parsed, Step, Type};
use kernels::quant::{Axis, Grid, Quantizer, Scales, dequantize_u8};
use tensor::DType;

/// `Decode(codes, scale, zero_point)`: `scale * (codes - zero_point)`, ONNX `DequantizeLinear`. `codes` uint8 of any shape,
/// `scale` f32 and `zero_point` int32 with one element.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decode;

/// Reads the operator: it has no attributes.
pub fn parse(_: &Parse) -> Result<Parsed, String> {
    Ok(Decode.into())
}

/// The type of the values of operand `i`, which is uint8 where its scale, operand `scale`, is given, and f32 otherwise. The
/// zero point follows the scale.
pub(crate) fn values(cx: &Infer, i: usize, scale: usize) -> Result<Type, String> {
    if !cx.has(scale) {
        return cx.float(i).cloned();
    }
    single(cx, scale, "scale")?;
    single(cx, scale + 1, "zero point")?;
    let codes = cx.ty(i)?;
    match codes.dtype {
        None | Some(DType::U8) => Ok(Type { dtype: Some(DType::F32), shape: codes.shape.clone() }),
        Some(_) => Err(format!("input {i} has a scale, so it should hold uint8 codes, but is {codes}")),
    }
}

impl Op for Decode {
    fn name(&self) -> &str {
        "Decode"
    }

    fn domain(&self) -> &str {
        "qat"
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        Ok(vec![values(cx, 0, 1)?])
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        cx.typed::<u8>(0)?;
        cx.typed::<f32>(1)?;
        cx.typed::<i32>(2)?;
        Ok(Step::new(|io: &mut Io| {
            let mut parts = io.split();
            decode(parts.input(0), parts.input(1), parts.input(2), parts.output(0));
            Ok(())
        }))
    }

    fn layouts(&self) -> Layouts {
        Layouts::Same { ins: 1, outs: 1 }
    }
}

/// The values of codes.
pub(crate) fn decode(codes: &[u8], scale: &[f32], zero_point: &[i32], y: &mut [f32]) {
    let scales = Scales::affine(&scale[..1], &zero_point[..1]);
    dequantize_u8(Quantizer::onnx(Grid::U8), Axis::whole(codes.len()), scales, codes, y);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::run;
    use tensor::Tensor;

    #[test]
    fn values_of_codes() {
        let (codes, scale) = (Tensor::new(&[3], vec![0u8, 7, 255]), Tensor::scalar(0.5f32));
        let zero_point = Tensor::scalar(7i32);
        let ins = [Some(&codes), Some(&scale), Some(&zero_point)];
        assert_eq!(run(&Decode, &ins, 1).unwrap()[0].to_f32(), [-3.5, 0.0, 124.0]);
        assert!(run(&Decode, &[Some(&scale), Some(&scale), Some(&zero_point)], 1).is_err());
    }
}
