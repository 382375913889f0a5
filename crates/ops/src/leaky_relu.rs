//! `LeakyRelu` (ONNX 6, 16): `x` above 0, else `alpha x`.

use crate::unary;
use ir::{Attrs, Infer, Layouts, Lower, Op, Parse, Parsed, QuantRole, Step, Type, Vjp};
use kernels::elementwise::Unary;

/// `LeakyRelu(x)`: `x` above 0, else `alpha x`, for f32 of any shape.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LeakyRelu {
    /// Slope of the negative part.
    pub alpha: f32,
}

impl Default for LeakyRelu {
    fn default() -> LeakyRelu {
        LeakyRelu { alpha: 0.01 }
    }
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    Ok(LeakyRelu { alpha: cx.attrs.float("alpha", 0.01)? }.into())
}

impl LeakyRelu {
    fn function(&self) -> Unary {
        Unary::LeakyRelu { alpha: self.alpha }
    }
}

impl Op for LeakyRelu {
    fn name(&self) -> &str {
        "LeakyRelu"
    }

    fn attrs(&self) -> Attrs {
        Attrs::new().with_float("alpha", self.alpha, 0.01)
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
        QuantRole::Rescaling
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
        let x = Tensor::new(&[2], vec![-2.0f32, 3.0]);
        assert_eq!(eval(&LeakyRelu { alpha: 0.5 }, &[&x]).unwrap().to_f32(), [-1.0, 3.0]);
    }

    #[test]
    fn gradient() {
        let mut draw = Draw::new(1);
        for rank in [0, 2, 4] {
            let shape = draw.shape(rank, 4);
            let x = draw.tensor_off(&shape, -3.0, 3.0, &[0.0], 0.02);
            check_gradient(LeakyRelu { alpha: 0.2 }, &[&x], 1, &[0]);
        }
    }
}
