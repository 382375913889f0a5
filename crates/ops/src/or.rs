//! `Or` (ONNX 7): whether either of two booleans holds.

use crate::binary;
use ir::{Infer, Io, Layouts, Lower, Op, Parse, Parsed, Step, Type};
use kernels::elementwise::Logic;
use tensor::DType;

/// Whether either of the operands holds: booleans that broadcast.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Or;

/// Reads the operator: it has no attributes.
pub fn parse(_: &Parse) -> Result<Parsed, String> {
    Ok(Or.into())
}

impl Op for Or {
    fn name(&self) -> &str {
        "Or"
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let types = binary::infer_bool(cx)?;
        match cx.ty(0)?.dtype {
            Some(d) if d != DType::Bool => Err(format!("the operands should be booleans, but are {d}")),
            _ => Ok(types),
        }
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let plan = binary::plan([cx.input(0)?, cx.input(1)?], &cx.outs[0])?;
        Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            Logic::Or.forward(&plan, parts.input(0), parts.input(1), parts.output(0));
            Ok(())
        }))
    }

    fn layouts(&self) -> Layouts {
        Layouts::Any
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::eval;
    use tensor::Tensor;

    #[test]
    fn truth_table() {
        let (a, b) = (Tensor::bools(&[2, 1], &[false, true]), Tensor::bools(&[2], &[false, true]));
        assert_eq!(eval(&Or, &[&a, &b]).unwrap(), Tensor::bools(&[2, 2], &[false, true, true, true]));
        assert!(eval(&Or, &[&a, &Tensor::scalar(1f32)]).is_err());
    }
}
