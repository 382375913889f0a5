//! `CastLike` (ONNX 15, 19, 21): the element type of another tensor.

use crate::{Cast, cast};
use ir::{Infer, Layouts, Lower, OnnxForm, Op, Parse, Parsed, Step, Type, Vjp};
use tensor::Tensor;

/// `CastLike(x, like)`: every element of `x` in the element type of `like`, as [`Cast`] converts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CastLike;

/// Reads the operator. `saturate` concerns types of 8-bit floats, which do not occur here.
pub fn parse(_: &Parse) -> Result<Parsed, String> {
    Ok(CastLike.into())
}

impl Op for CastLike {
    fn name(&self) -> &str {
        "CastLike"
    }

    fn to_onnx(&self, opset: i64) -> Result<OnnxForm, String> {
        crate::unary::since(self, opset, 15)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        Ok(vec![Type { dtype: cx.ty(1)?.dtype, shape: cx.ty(0)?.shape.clone() }])
    }

    /// A constant can be cast as soon as the type of the other tensor is known.
    fn known(&self, cx: &Infer) -> Option<Tensor> {
        let to = cx.ty(1).ok()?.dtype?;
        ir::eval(&Cast { to }, &[Some(cx.value(0)?)], 1).ok()?.pop()
    }

    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        cast::vjp(cx)
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        cast::lower(cx.input(0)?, cx.outs[0].dtype)
    }

    fn layouts(&self) -> Layouts {
        Layouts::Same { ins: 1, outs: 1 }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::eval;
    use tensor::DType;

    #[test]
    fn values() {
        let y = eval(&CastLike, &[&Tensor::new(&[2], vec![1.5f32, -2.5]), &Tensor::scalar(0i8)]).unwrap();
        assert_eq!((y.dtype(), y.to_i64()), (DType::I8, vec![1, -2]));
    }
}
