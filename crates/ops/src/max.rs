//! `Max` (ONNX 8, 12, 13): the largest of the operands; equal ones share the gradient.

use crate::binary;
use ir::{Infer, Layouts, Lower, Op, Parse, Parsed, Step, Type, Vjp};
use kernels::elementwise::Binary;

/// The largest of the operands, one or more, which broadcast; equal ones share the gradient. f32; two may be
/// integers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Max;

/// Reads the operator: it has no attributes.
pub fn parse(_: &Parse) -> Result<Parsed, String> {
    Ok(Max.into())
}

impl Op for Max {
    fn name(&self) -> &str {
        "Max"
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        binary::infer_fold(cx)
    }

    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        binary::vjp_fold(Binary::Max, || Max, cx)
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        binary::lower_fold(Binary::Max, 1.0, cx)
    }

    fn layouts(&self) -> Layouts {
        Layouts::Any
    }
}
