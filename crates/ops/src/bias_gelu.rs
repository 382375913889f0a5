//! `BiasGelu` and `FastGelu` (com.microsoft 1): a bias and `Gelu`.

use crate::q_linear::MICROSOFT;
use crate::{Add, Gelu};
use ir::{Compose, Infer, Op, Parse, Parsed, Type, ValueId};

/// `BiasGelu(x, bias)`: `Gelu` of `x + bias`; `bias` broadcasts to `x`. `FastGelu(x, bias?)`: the same, with the approximation
/// by a hyperbolic tangent (Hendrycks and Gimpel 2016, arXiv 1606.08415).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BiasGelu {
    /// Whether it is `FastGelu`.
    pub tanh: bool,
}

/// Reads `BiasGelu`: it has no attributes.
pub fn parse(_: &Parse) -> Result<Parsed, String> {
    Ok(BiasGelu { tanh: false }.into())
}

/// Reads `FastGelu`: it has no attributes.
pub fn parse_fast(_: &Parse) -> Result<Parsed, String> {
    Ok(BiasGelu { tanh: true }.into())
}

impl Op for BiasGelu {
    fn name(&self) -> &str {
        if self.tanh { "FastGelu" } else { "BiasGelu" }
    }

    fn domain(&self) -> &str {
        MICROSOFT
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        Ok(vec![cx.float(0)?.clone()])
    }

    fn compose(&self, cx: &mut Compose) -> Option<Vec<ValueId>> {
        let x = cx.input(0)?;
        let x = match cx.input(1) {
            Some(bias) => cx.add(Add, &[x, bias])?,
            None => x,
        };
        Some(vec![cx.add(Gelu { tanh: self.tanh }, &[x])?])
    }

    fn params(&self) -> &'static [usize] {
        &[1]
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{Draw, check_gradient, eval};
    use tensor::Tensor;

    #[test]
    fn is_its_parts() {
        let (x, bias) = (Tensor::new(&[2], vec![0.5f32, 1.0]), Tensor::new(&[2], vec![0.5f32, -1.0]));
        let sum = Tensor::new(&[2], vec![1.0f32, 0.0]);
        for tanh in [false, true] {
            assert_eq!(
                eval(&BiasGelu { tanh }, &[&x, &bias]).unwrap(),
                eval(&Gelu { tanh }, &[&sum]).unwrap()
            );
            let mut draw = Draw::new(1);
            let (x, bias) = (draw.tensor(&[2, 3], -2.0, 2.0), draw.tensor(&[3], -1.0, 1.0));
            check_gradient(BiasGelu { tanh }, &[&x, &bias], 1, &[0, 1]);
        }
        let without = eval(&BiasGelu { tanh: true }, &[&sum]).unwrap();
        assert_eq!(without, eval(&Gelu { tanh: true }, &[&sum]).unwrap());
    }
}
