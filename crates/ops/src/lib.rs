//! The operators: one file each, with attributes and opset history, shape rule, kernel call, gradient, behaviour
//! under quantization, and tests. Adding one is a file and a line in [`OPS`].

mod add;
mod relu;

mod shapes;
mod unary;

pub use add::Add;
pub use relu::Relu;

use ir::{Parse, Parsed, Registry};

type ParseFn = fn(&Parse) -> Result<Parsed, String>;

/// Every operator: domain, type, reader. Sorted.
const OPS: &[(&str, &str, ParseFn)] = &[("", "Add", add::parse), ("", "Relu", relu::parse)];

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
