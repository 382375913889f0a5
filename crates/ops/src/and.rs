//! `And` (ONNX 7): whether both of two booleans hold.

use crate::binary;
use ir::{Infer, Io, Layouts, Lower, Op, Parse, Parsed, Step, Type};
use kernels::elementwise::Logic;
use tensor::DType;

/// Whether both of the operands hold: booleans that broadcast.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct And;

/// Reads the operator: it has no attributes.
pub fn parse(_: &Parse) -> Result<Parsed, String> {
    Ok(And.into())
}

impl Op for And {
    fn name(&self) -> &str {
        "And"
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
            Logic::And.forward(&plan, parts.input(0), parts.input(1), parts.output(0));
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
        assert_eq!(eval(&And, &[&a, &b]).unwrap(), Tensor::bools(&[2, 2], &[false, false, false, true]));
        assert!(eval(&And, &[&a, &Tensor::scalar(1f32)]).is_err());
    }
}
