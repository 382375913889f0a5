//! `Sum` (ONNX 8, 13): the sum of the operands.

use crate::binary;
use crate::shapes::sum_to;
use ir::{Infer, Layouts, Lower, Op, Parse, Parsed, Step, Type, Vjp};
use kernels::elementwise::Binary;

/// The sum of the operands, one or more, which broadcast. f32; two may be integers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum;

/// Reads the operator: it has no attributes.
pub fn parse(_: &Parse) -> Result<Parsed, String> {
    Ok(Sum.into())
}

impl Op for Sum {
    fn name(&self) -> &str {
        "Sum"
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        binary::infer_fold(cx)
    }

    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        let dy = cx.d_output(0)?;
        for (i, operand) in (0..).map_while(|i| cx.input(i)).collect::<Vec<_>>().into_iter().enumerate() {
            if cx.wants(i) {
                let d = sum_to(cx, dy, operand)?;
                cx.set(i, d);
            }
        }
        Some(())
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        binary::lower_fold(Binary::Add, 1.0, cx)
    }

    fn layouts(&self) -> Layouts {
        Layouts::Any
    }
}
