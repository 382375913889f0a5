//! `CumProd` (ONNX 26): products of all elements up to each along an axis.

use crate::shapes::{axis, integers};
use ir::{Attrs, Infer, Io, Lower, OnnxForm, Op, Parse, Parsed, Step, Type};
use tensor::{DType, Element};

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

impl CumProd {
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
        let x = cx.ty(0)?;
        if let (Some(along), Some(rank)) = (integers(cx, 1)?, x.rank()) {
            along.iter().try_for_each(|&a| axis(a, rank).map(|_| ()))?;
        }
        Ok(vec![x.clone()])
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        match cx.input(0)?.dtype {
            DType::F32 => self.step::<f32>(cx, 1.0, |a, b| a * b),
            DType::I64 => self.step::<i64>(cx, 1, i64::wrapping_mul),
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
