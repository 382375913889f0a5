//! `Identity` (ONNX 1, 13, 14, 16, 19, 21): the operand itself.

use ir::{Infer, Layouts, Lower, Op, Parse, Parsed, QuantRole, Step, Type, Vjp};

/// Passes its operand on, of any type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity;

/// Reads the operator: it has no attributes.
pub fn parse(_: &Parse) -> Result<Parsed, String> {
    Ok(Identity.into())
}

impl Op for Identity {
    fn name(&self) -> &str {
        "Identity"
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        Ok(vec![cx.ty(0)?.clone()])
    }

    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        let dy = cx.d_output(0)?;
        cx.set(0, dy);
        Some(())
    }

    fn lower(&self, _: &Lower) -> Result<Step, String> {
        Ok(Step::view())
    }

    fn quant(&self) -> QuantRole {
        QuantRole::SameScale
    }

    fn layouts(&self) -> Layouts {
        Layouts::Any
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{Draw, check_gradient, eval};
    use tensor::Tensor;

    #[test]
    fn passes_on() {
        let x = Tensor::new(&[2], vec![1i64, 2]);
        assert_eq!(eval(&Identity, &[&x]).unwrap(), x);
        check_gradient(Identity, &[&Draw::new(1).tensor(&[2, 3, 2], -1.0, 1.0)], 1, &[0]);
    }
}
