//! `Gelu` (ONNX 20): `x Phi(x)`, with the distribution function of the normal distribution (Hendrycks and Gimpel 2016,
//! arXiv 1606.08415).

use crate::unary;
use ir::{Attrs, Infer, Layouts, Lower, OnnxForm, Op, Parse, Parsed, Step, Type, Vjp};
use kernels::elementwise::Unary;

/// `Gelu(x)`: `x Phi(x)`, with the distribution function of the normal distribution (Hendrycks and Gimpel 2016, arXiv
/// 1606.08415), for f32 of any shape.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gelu {
    /// Whether `Phi` is approximated by a hyperbolic tangent.
    pub tanh: bool,
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    match cx.attrs.str("approximate", "none")? {
        "none" => Ok(Gelu { tanh: false }.into()),
        "tanh" => Ok(Gelu { tanh: true }.into()),
        other => Err(format!("attribute approximate should be none or tanh, but is \"{other}\"")),
    }
}

impl Gelu {
    fn function(&self) -> Unary {
        if self.tanh { Unary::GeluTanh } else { Unary::Gelu }
    }
}

impl Op for Gelu {
    fn name(&self) -> &str {
        "Gelu"
    }

    fn attrs(&self) -> Attrs {
        Attrs::new().with_str("approximate", if self.tanh { "tanh" } else { "none" }, "none")
    }

    fn to_onnx(&self, opset: i64) -> Result<OnnxForm, String> {
        unary::since(self, opset, 20)
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
    use tensor::Tensor;

    #[test]
    fn values() {
        let value = |tanh| eval(&Gelu { tanh }, &[&Tensor::new(&[1], vec![1.0f32])]).unwrap().to_f64()[0];
        assert!((value(false) - 0.841_344_746).abs() < 1e-6);
        assert!((value(true) - 0.841_191_990).abs() < 1e-6);
        let attrs = Attrs::new().with_str("approximate", "cubic", "");
        assert!(parse(&Parse { attrs: &attrs, opset: 20, ins: 1, outs: 1 }).unwrap_err().contains("cubic"));
        check_gradient(Gelu { tanh: true }, &[&Draw::new(2).tensor(&[5], -3.0, 3.0)], 1, &[0]);
    }

    #[test]
    fn gradient() {
        let mut draw = Draw::new(1);
        for rank in [0, 2, 4] {
            let shape = draw.shape(rank, 4);
            let x = draw.tensor_off(&shape, -3.0, 3.0, &[], 0.02);
            check_gradient(Gelu { tanh: false }, &[&x], 1, &[0]);
        }
    }
}
