//! `Min` (ONNX 8, 12, 13): the smallest of the operands; equal ones share the gradient.

use crate::binary;
use ir::{Infer, Layouts, Lower, Op, Parse, Parsed, Step, Type, Vjp};
use kernels::elementwise::Binary;

/// The smallest of the operands, one or more, which broadcast; equal ones share the gradient. f32; two may be
/// integers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Min;

/// Reads the operator: it has no attributes.
pub fn parse(_: &Parse) -> Result<Parsed, String> {
    Ok(Min.into())
}

impl Op for Min {
    fn name(&self) -> &str {
        "Min"
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        binary::infer_fold(cx)
    }

    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        binary::vjp_fold(Binary::Min, || Min, cx)
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        binary::lower_fold(Binary::Min, 1.0, cx)
    }

    fn layouts(&self) -> Layouts {
        Layouts::Any
    }
}
