//! The operators: one file each, with attributes and opset history, shape rule, kernel call, gradient, behaviour
//! under quantization, and tests. Adding one is a file and a line in [`OPS`].

mod abs_max;
mod activation_scale;
mod adam;
mod add;
mod channel_sum;
mod dequantize_linear;
mod fake_quant;
mod mat_mul;
mod momentum;
mod observe;
mod pact;
mod quantize_linear;
mod relu;
mod sgd;
mod weight_scale;
mod window;

mod shapes;
#[cfg(test)]
mod testing;
mod unary;

pub use abs_max::AbsMax;
pub use activation_scale::{ActivationScale, Scheme};
pub use adam::Adam;
pub use add::Add;
pub use channel_sum::ChannelSum;
pub use dequantize_linear::DequantizeLinear;
pub use fake_quant::{FakeQuant, FakeQuantGrad, code_type};
pub use mat_mul::{MatMul, MatMulGrad, Side};
pub use momentum::Momentum;
pub use observe::Observe;
pub use pact::{Pact, PactGrad};
pub use quantize_linear::QuantizeLinear;
pub use relu::Relu;
pub use sgd::Sgd;
pub use weight_scale::WeightScale;
pub use window::{AutoPad, Window};

use ir::{Parse, Parsed, Registry};

type ParseFn = fn(&Parse) -> Result<Parsed, String>;

/// Every operator: domain, type, reader. Sorted.
const OPS: &[(&str, &str, ParseFn)] = &[
    ("", "Add", add::parse),
    ("", "DequantizeLinear", dequantize_linear::parse),
    ("", "MatMul", mat_mul::parse),
    ("", "QuantizeLinear", quantize_linear::parse),
    ("", "Relu", relu::parse),
    ("qat", "AbsMax", abs_max::parse),
    ("qat", "ActivationScale", activation_scale::parse),
    ("qat", "Adam", adam::parse),
    ("qat", "ChannelSum", channel_sum::parse),
    ("qat", "FakeQuant", fake_quant::parse),
    ("qat", "FakeQuantGrad", fake_quant::parse_grad),
    ("qat", "MatMulGrad", mat_mul::parse_grad),
    ("qat", "Momentum", momentum::parse),
    ("qat", "Observe", observe::parse),
    ("qat", "Pact", pact::parse),
    ("qat", "PactGrad", pact::parse_grad),
    ("qat", "Sgd", sgd::parse),
    ("qat", "WeightScale", weight_scale::parse),
];

/// The operators of this crate, for readers of ONNX files and graph text.
pub struct Ops;

impl Registry for Ops {
    fn parse(&self, domain: &str, op_type: &str, cx: &Parse) -> Option<Result<Parsed, String>> {
        let domain = if domain == "ai.onnx" { "" } else { domain };
        let i = OPS.binary_search_by(|(d, t, _)| (*d, *t).cmp(&(domain, op_type))).ok()?;
        Some(OPS[i].2(cx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted() {
        assert!(OPS.is_sorted_by(|a, b| (a.0, a.1) < (b.0, b.1)));
    }
}
