//! `HardSigmoid` (ONNX 6, 22): `max(0, min(1, alpha x + beta))`.

use crate::unary;
use ir::{Attrs, Infer, Layouts, Lower, Op, Parse, Parsed, QuantRole, Step, Type, Vjp};
use kernels::elementwise::Unary;

/// `HardSigmoid(x)`: `max(0, min(1, alpha x + beta))`, for f32 of any shape.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HardSigmoid {
    /// Slope.
    pub alpha: f32,
    /// Value at 0.
    pub beta: f32,
}

impl Default for HardSigmoid {
    fn default() -> HardSigmoid {
        HardSigmoid { alpha: 0.2, beta: 0.5 }
    }
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    Ok(HardSigmoid { alpha: cx.attrs.float("alpha", 0.2)?, beta: cx.attrs.float("beta", 0.5)? }.into())
}

impl HardSigmoid {
    fn function(&self) -> Unary {
        Unary::HardSigmoid { alpha: self.alpha, beta: self.beta }
    }
}

impl Op for HardSigmoid {
    fn name(&self) -> &str {
        "HardSigmoid"
    }

    fn attrs(&self) -> Attrs {
        Attrs::new().with_float("alpha", self.alpha, 0.2).with_float("beta", self.beta, 0.5)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        unary::infer(self.function(), cx)
    }

    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        unary::vjp(self.function(), cx)
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        unary::lower(self.function(), cx)
    }

    fn quant(&self) -> QuantRole {
        QuantRole::Lowered
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
    fn values() {
        let x = Tensor::new(&[3], vec![-9.0f32, 1.0, 9.0]);
        assert_eq!(eval(&HardSigmoid { alpha: 0.25, beta: 0.5 }, &[&x]).unwrap().to_f32(), [0.0, 0.75, 1.0]);
    }

    #[test]
    fn gradient() {
        let mut draw = Draw::new(1);
        for rank in [0, 2, 4] {
            let shape = draw.shape(rank, 4);
            let x = draw.tensor_off(&shape, -3.0, 3.0, &[-2.0, 2.0], 0.02);
            check_gradient(HardSigmoid { alpha: 0.25, beta: 0.5 }, &[&x], 1, &[0]);
        }
    }
}
