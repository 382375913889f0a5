//! `BitCast` (ONNX 26): the same bits as another element type.

use ir::{Attr, Attrs, Infer, Lower, OnnxForm, Op, Parse, Parsed, Step, Type};
use tensor::DType;

/// `BitCast(x)`: the bits of every element as one of type `to`, which is as wide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BitCast {
    /// The new element type.
    pub to: DType,
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    let number = cx.attrs.int("to", 0)?;
    let to = i32::try_from(number).ok().and_then(DType::from_onnx);
    let to = to.ok_or_else(|| format!("attribute to is {number}, a data type that is not supported"))?;
    Ok(BitCast { to }.into())
}

impl Op for BitCast {
    fn name(&self) -> &str {
        "BitCast"
    }

    fn attrs(&self) -> Attrs {
        Attrs::new().with("to", Attr::Int(self.to.onnx().into()))
    }

    fn to_onnx(&self, opset: i64) -> Result<OnnxForm, String> {
        crate::unary::since(self, opset, 26)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let x = cx.ty(0)?;
        match x.dtype {
            Some(d) if d.bits() != self.to.bits() => {
                Err(format!("elements of {d} are not as wide as {}", self.to))
            }
            _ => Ok(vec![Type { dtype: Some(self.to), shape: x.shape.clone() }]),
        }
    }

    fn lower(&self, _: &Lower) -> Result<Step, String> {
        Ok(Step::view())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::eval;
    use tensor::Tensor;

    #[test]
    fn bits() {
        let y = eval(&BitCast { to: DType::U32 }, &[&Tensor::new(&[1], vec![1f32])]).unwrap();
        assert_eq!(y.to_i64(), [0x3f80_0000]);
        assert!(eval(&BitCast { to: DType::U8 }, &[&Tensor::scalar(1f32)]).unwrap_err().contains("as wide"));
    }
}
