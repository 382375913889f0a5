//! `CumProd` (ONNX 26): products of all elements up to each along an axis.

use crate::cumulative;
use ir::{Attrs, Infer, Lower, OnnxForm, Op, Parse, Parsed, Step, Type};
use tensor::DType;

/// `CumProd(x, axis)`: the product of all elements up to each, along `axis` (a constant scalar).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CumProd {
    /// Without the element itself.
    pub exclusive: bool,
    /// From the end.
    pub reverse: bool,
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    let flag = |name| Ok::<_, String>(cx.attrs.int(name, 0)? != 0);
    Ok(CumProd { exclusive: flag("exclusive")?, reverse: flag("reverse")? }.into())
}

impl Op for CumProd {
    fn name(&self) -> &str {
        "CumProd"
    }

    fn attrs(&self) -> Attrs {
        let attrs = Attrs::new().with_int("exclusive", self.exclusive.into(), 0);
        attrs.with_int("reverse", self.reverse.into(), 0)
    }

    fn to_onnx(&self, opset: i64) -> Result<OnnxForm, String> {
        crate::unary::since(self, opset, 26)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        cumulative::infer(cx)
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let form = (self.exclusive, self.reverse);
        match cx.input(0)?.dtype {
            DType::F32 => cumulative::step::<f32>(cx, form, 1.0, |a, b| a * b),
            DType::I64 => cumulative::step::<i64>(cx, form, 1, i64::wrapping_mul),
            other => Err(format!("the executor does not compute with elements of type {other} here")),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::eval;
    use tensor::Tensor;

    #[test]
    fn values() {
        let (x, axis) = (Tensor::new(&[4], vec![2i64, 3, 4, 5]), Tensor::scalar(0i64));
        let product =
            |exclusive, reverse| eval(&CumProd { exclusive, reverse }, &[&x, &axis]).unwrap().to_i64();
        assert_eq!(product(false, false), [2, 6, 24, 120]);
        assert_eq!(product(true, true), [60, 20, 5, 1]);
    }
}
