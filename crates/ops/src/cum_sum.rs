//! `CumSum` (ONNX 11, 14): sums of all elements up to each along an axis.

use crate::shapes::{axis, integers};
use ir::{Attrs, Infer, Io, Lower, Op, Parse, Parsed, Step, Type, Vjp};
use tensor::{DType, Element};

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

impl CumSum {
    fn step<T: Element>(self, cx: &Lower, start: T, join: fn(T, T) -> T) -> Result<Step, String> {
        let x = cx.typed::<T>(0)?;
        let along = cx.constant(1)?.to_i64();
        let at = axis(along.first().copied().ok_or("the axis is empty")?, x.shape.len())?;
        let (n, inner) = (x.shape[at], x.shape[at + 1..].iter().product::<usize>());
        Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let (x, y): (&[T], &mut [T]) = (parts.input(0), parts.output(0));
            for line in 0..x.len() / n.max(1) {
                let first = line / inner * n * inner + line % inner;
                let mut sofar = start;
                for i in 0..n {
                    let i = first + if self.reverse { n - 1 - i } else { i } * inner;
                    let next = join(sofar, x[i]);
                    y[i] = if self.exclusive { sofar } else { next };
                    sofar = next;
                }
            }
            Ok(())
        }))
    }
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
        let x = cx.ty(0)?;
        if let (Some(along), Some(rank)) = (integers(cx, 1)?, x.rank()) {
            along.iter().try_for_each(|&a| axis(a, rank).map(|_| ()))?;
        }
        Ok(vec![x.clone()])
    }

    /// The gradient runs the other way.
    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        let (dy, axis) = (cx.d_output(0)?, cx.input(1)?);
        let d = cx.add(CumSum { reverse: !self.reverse, ..*self }, &[dy, axis])?;
        cx.set(0, d);
        Some(())
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        match cx.input(0)?.dtype {
            DType::F32 => self.step::<f32>(cx, 0.0, |a, b| a + b),
            DType::I64 => self.step::<i64>(cx, 0, i64::wrapping_add),
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
