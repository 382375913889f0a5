//! `BitwiseNot` (ONNX 18): every bit turned over.

use crate::shapes::by_width;
use ir::{Infer, Io, Layouts, Lower, OnnxForm, Op, Parse, Parsed, Step, Type};
use tensor::DType;

/// `BitwiseNot(x)`: every bit turned over, of integers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BitwiseNot;

/// Reads the operator: it has no attributes.
pub fn parse(_: &Parse) -> Result<Parsed, String> {
    Ok(BitwiseNot.into())
}

impl Op for BitwiseNot {
    fn name(&self) -> &str {
        "BitwiseNot"
    }

    fn to_onnx(&self, opset: i64) -> Result<OnnxForm, String> {
        crate::unary::since(self, opset, 18)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        match cx.ty(0)?.dtype {
            Some(d) if d.is_float() || d == DType::Bool => {
                Err(format!("the operand should be of integers, but is {d}"))
            }
            _ => Ok(vec![cx.ty(0)?.clone()]),
        }
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        by_width!(cx.outs[0].dtype, T => Ok(Step::new(|io: &mut Io| {
            let mut parts = io.split();
            let x: &[T] = parts.input(0);
            parts.output::<T>(0).iter_mut().zip(x).for_each(|(y, x)| *y = !x);
            Ok(())
        })))
    }

    fn layouts(&self) -> Layouts {
        Layouts::Any
    }
}
