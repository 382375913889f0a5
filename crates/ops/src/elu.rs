//! `Elu` (ONNX 6, 22): `x` above 0, else `alpha (e^x - 1)` (Clevert et al. 2015, arXiv 1511.07289).

use crate::unary;
use ir::{Attrs, Infer, Layouts, Lower, Op, Parse, Parsed, QuantRole, Step, Type, Vjp};
use kernels::elementwise::Unary;

/// `Elu(x)`: `x` above 0, else `alpha (e^x - 1)` (Clevert et al. 2015, arXiv 1511.07289), for f32 of any shape.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Elu {
    /// Scale of the negative part.
    pub alpha: f32,
}

impl Default for Elu {
    fn default() -> Elu {
        Elu { alpha: 1.0 }
    }
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    Ok(Elu { alpha: cx.attrs.float("alpha", 1.0)? }.into())
}

impl Elu {
    fn function(&self) -> Unary {
        Unary::Elu { alpha: self.alpha }
    }
}

impl Op for Elu {
    fn name(&self) -> &str {
        "Elu"
    }

    fn attrs(&self) -> Attrs {
        Attrs::new().with_float("alpha", self.alpha, 1.0)
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
        QuantRole::Float
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
        let x = Tensor::new(&[2], vec![-1.0f32, 3.0]);
        let y = eval(&Elu { alpha: 2.0 }, &[&x]).unwrap().to_f64();
        assert!((y[0] - 2.0 * (-1f64).exp_m1()).abs() < 1e-6 && y[1] == 3.0);
    }

    #[test]
    fn gradient() {
        let mut draw = Draw::new(1);
        for rank in [0, 2, 4] {
            let shape = draw.shape(rank, 4);
            let x = draw.tensor_off(&shape, -3.0, 3.0, &[0.0], 0.02);
            check_gradient(Elu { alpha: 0.7 }, &[&x], 1, &[0]);
        }
    }
}
