//! `Mean` (ONNX 8, 13): the mean of the operands.

use crate::shapes::sum_to;
use crate::{Mul, binary};
use ir::{Infer, Layouts, Lower, Op, Parse, Parsed, Step, Type, Vjp};
use kernels::elementwise::Binary;
use tensor::Tensor;

/// The mean of the operands, one or more, which broadcast. f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mean;

/// Reads the operator: it has no attributes.
pub fn parse(_: &Parse) -> Result<Parsed, String> {
    Ok(Mean.into())
}

impl Op for Mean {
    fn name(&self) -> &str {
        "Mean"
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        binary::infer_fold(cx)
    }

    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        let operands: Vec<_> = (0..).map_while(|i| cx.input(i)).collect();
        let share = cx.constant_value(Tensor::scalar(1.0 / operands.len() as f32));
        let dy = cx.d_output(0)?;
        let dy = cx.add(Mul, &[dy, share])?;
        for (i, operand) in operands.into_iter().enumerate() {
            if cx.wants(i) {
                let d = sum_to(cx, dy, operand)?;
                cx.set(i, d);
            }
        }
        Some(())
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        binary::lower_fold(Binary::Add, 1.0 / cx.ins.len().max(1) as f32, cx)
    }

    fn layouts(&self) -> Layouts {
        Layouts::Any
    }
}
