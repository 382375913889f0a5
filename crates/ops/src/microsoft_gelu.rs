//! `Gelu` and `QuickGelu` (com.microsoft 1): activations that ONNX has only in later opsets.

use crate::q_linear::MICROSOFT;
use crate::unary;
use ir::{Attrs, Infer, Layouts, Lower, Op, Parse, Parsed, Step, Type, Vjp};
use kernels::elementwise::Unary;

/// `Gelu(x)`: `x Phi(x)`, with the distribution function of the normal distribution; `QuickGelu(x)`: `x sigmoid(alpha x)`
/// (Hendrycks and Gimpel 2016, arXiv 1606.08415). f32 of any shape.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MicrosoftGelu {
    /// The factor of `QuickGelu`; `None` for `Gelu`.
    pub quick: Option<f32>,
}

/// The factor that brings `QuickGelu` near to `Gelu`.
const ALPHA: f32 = 1.702;

/// Reads `Gelu`: it has no attributes.
pub fn parse(_: &Parse) -> Result<Parsed, String> {
    Ok(MicrosoftGelu { quick: None }.into())
}

/// Reads `QuickGelu`.
pub fn parse_quick(cx: &Parse) -> Result<Parsed, String> {
    Ok(MicrosoftGelu { quick: Some(cx.attrs.float("alpha", ALPHA)?) }.into())
}

impl MicrosoftGelu {
    fn function(&self) -> Unary {
        self.quick.map_or(Unary::Gelu, |alpha| Unary::Swish { alpha })
    }
}

impl Op for MicrosoftGelu {
    fn name(&self) -> &str {
        if self.quick.is_some() { "QuickGelu" } else { "Gelu" }
    }

    fn domain(&self) -> &str {
        MICROSOFT
    }

    fn attrs(&self) -> Attrs {
        self.quick.map_or(Attrs::new(), |alpha| Attrs::new().with_float("alpha", alpha, ALPHA))
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

    fn layouts(&self) -> Layouts {
        Layouts::Any
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{Draw, check_gradient, eval};
    use crate::{Gelu, Swish};

    #[test]
    fn values_and_gradients() {
        let x = Draw::new(1).tensor(&[2, 3], -3.0, 3.0);
        let (exact, quick) = (MicrosoftGelu { quick: None }, MicrosoftGelu { quick: Some(ALPHA) });
        assert_eq!(eval(&exact, &[&x]).unwrap(), eval(&Gelu { tanh: false }, &[&x]).unwrap());
        assert_eq!(eval(&quick, &[&x]).unwrap(), eval(&Swish { alpha: ALPHA }, &[&x]).unwrap());
        check_gradient(exact, &[&x], 1, &[0]);
        check_gradient(quick, &[&x], 1, &[0]);
        assert_eq!((exact.name(), quick.name()), ("Gelu", "QuickGelu"));
    }
}
