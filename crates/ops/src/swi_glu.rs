//! `SwiGLU` (ONNX 28): one half of a layer lets the other through (Shazeer 2020, arXiv 2002.05202).

use crate::{Mul, Swish, unary};
use ir::{Attrs, Compose, Infer, OnnxForm, Op, Parse, Parsed, Type, ValueId};

/// `SwiGLU(a, b)`: `a sigmoid(alpha a) b`, floats of one type and shape.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SwiGLU {
    /// Steepness of the sigmoid.
    pub alpha: f32,
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    Ok(SwiGLU { alpha: cx.attrs.float("alpha", 1.0)? }.into())
}

impl Op for SwiGLU {
    fn name(&self) -> &str {
        "SwiGLU"
    }

    fn attrs(&self) -> Attrs {
        Attrs::new().with_float("alpha", self.alpha, 1.0)
    }

    fn to_onnx(&self, opset: i64) -> Result<OnnxForm, String> {
        unary::since(self, opset, 28)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let (a, b) = (cx.float(0)?, cx.float(1)?);
        if a.agrees(b) {
            Ok(vec![a.clone()])
        } else {
            Err(format!("the operands should have one type, but are {a} and {b}"))
        }
    }

    fn compose(&self, cx: &mut Compose) -> Option<Vec<ValueId>> {
        let gate = cx.add(Swish { alpha: self.alpha }, &[cx.input(0)?])?;
        Some(vec![cx.add(Mul, &[gate, cx.input(1)?])?])
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{Draw, check_gradient, eval};
    use tensor::Tensor;

    #[test]
    fn values_and_gradient() {
        let (a, b) = (Tensor::new(&[1], vec![2.0f32]), Tensor::new(&[1], vec![3.0f32]));
        let y = eval(&SwiGLU { alpha: 1.5 }, &[&a, &b]).unwrap().to_f64()[0];
        assert!((y - 6.0 / (1.0 + (-3f64).exp())).abs() < 1e-5);
        let mut draw = Draw::new(1);
        let [a, b] = [0; 2].map(|_| draw.tensor(&[2, 3], -2.0, 2.0));
        check_gradient(SwiGLU { alpha: 1.0 }, &[&a, &b], 1, &[0, 1]);
        assert!(eval(&SwiGLU { alpha: 1.0 }, &[&a, &Tensor::scalar(1f32)]).unwrap_err().contains("one type"));
    }
}
