//! `Not` (ONNX 1): the negation of booleans.

use ir::{Infer, Io, Layouts, Lower, Op, Parse, Parsed, Step, Type};
use tensor::DType;

/// Whether the operand does not hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Not;

/// Reads the operator: it has no attributes.
pub fn parse(_: &Parse) -> Result<Parsed, String> {
    Ok(Not.into())
}

impl Op for Not {
    fn name(&self) -> &str {
        "Not"
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        match cx.ty(0)?.dtype {
            Some(d) if d != DType::Bool => Err(format!("the operand should be boolean, but is {d}")),
            _ => Ok(vec![cx.ty(0)?.clone()]),
        }
    }

    fn lower(&self, _: &Lower) -> Result<Step, String> {
        Ok(Step::new(|io: &mut Io| {
            let mut parts = io.split();
            kernels::elementwise::not(parts.input(0), parts.output(0));
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
    fn negates() {
        let x = Tensor::bools(&[2], &[true, false]);
        assert_eq!(eval(&Not, &[&x]).unwrap(), Tensor::bools(&[2], &[false, true]));
        assert!(eval(&Not, &[&Tensor::scalar(1i64)]).is_err());
    }
}
