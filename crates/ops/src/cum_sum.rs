//! `CumSum` (ONNX 11, 14): sums of all elements up to each along an axis.

use crate::cumulative;
use ir::{Attrs, Infer, Lower, Op, Parse, Parsed, Step, Type, Vjp};
use tensor::DType;

/// `CumSum(x, axis)`: the sum of all elements up to each, along `axis` (a constant scalar).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CumSum {
    /// Without the element itself.
    pub exclusive: bool,
    /// From the end.
    pub reverse: bool,
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    let flag = |name| Ok::<_, String>(cx.attrs.int(name, 0)? != 0);
    Ok(CumSum { exclusive: flag("exclusive")?, reverse: flag("reverse")? }.into())
}

impl Op for CumSum {
    fn name(&self) -> &str {
        "CumSum"
    }

    fn attrs(&self) -> Attrs {
        let attrs = Attrs::new().with_int("exclusive", self.exclusive.into(), 0);
        attrs.with_int("reverse", self.reverse.into(), 0)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        cumulative::infer(cx)
    }

    /// The gradient runs the other way.
    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        let (dy, axis) = (cx.d_output(0)?, cx.input(1)?);
        let d = cx.add(CumSum { reverse: !self.reverse, ..*self }, &[dy, axis])?;
        cx.set(0, d);
        Some(())
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let form = (self.exclusive, self.reverse);
        match cx.input(0)?.dtype {
            DType::F32 => cumulative::step::<f32>(cx, form, 0.0, |a, b| a + b),
            DType::I64 => cumulative::step::<i64>(cx, form, 0, i64::wrapping_add),
            other => Err(format!("the executor does not compute with elements of type {other} here")),
        }
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
        let (x, axis) = (Tensor::new(&[2, 3], (1..7i64).collect()), Tensor::scalar(1i64));
        let sum = |exclusive, reverse| eval(&CumSum { exclusive, reverse }, &[&x, &axis]).unwrap().to_i64();
        assert_eq!(sum(false, false), [1, 3, 6, 4, 9, 15]);
        assert_eq!(sum(true, false), [0, 1, 3, 0, 4, 9]);
        assert_eq!(sum(true, true), [5, 3, 0, 11, 6, 0]);
        let rows = eval(&CumSum::default(), &[&x, &Tensor::scalar(0i64)]).unwrap();
        assert_eq!(rows.to_i64(), [1, 2, 3, 5, 7, 9]);
        assert!(eval(&CumSum::default(), &[&x, &Tensor::scalar(2i64)]).unwrap_err().contains("axis 2"));
    }

    #[test]
    fn gradient() {
        let x = Draw::new(1).tensor(&[2, 3, 2], -1.0, 1.0);
        for (exclusive, reverse) in [(false, false), (false, true), (true, false), (true, true)] {
            check_gradient(CumSum { exclusive, reverse }, &[&x, &Tensor::scalar(1i64)], 1, &[0]);
        }
    }
}
