//! `Compress` (ONNX 9, 11, 28): the slices that a condition selects.

use crate::GatherGrad;
use crate::reshape::reshape_as;
use crate::shapes::{axis, by_width, list};
use ir::{Attr, Attrs, Dim, Infer, Io, Lower, Op, Parse, Parsed, Step, Type, Vjp};
use tensor::{DType, Tensor};

/// `Compress(x, condition)`: the slices of `x` along an axis, or its elements where there is none, at which the booleans
/// hold. The condition may be shorter; how often it holds is known only where it is a constant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compress {
    /// The axis; `None`: all elements in order.
    pub axis: Option<i64>,
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    let axis = cx.attrs.get("axis").map(|_| cx.attrs.int("axis", 0)).transpose()?;
    Ok(Compress { axis }.into())
}

impl Op for Compress {
    fn name(&self) -> &str {
        "Compress"
    }

    fn attrs(&self) -> Attrs {
        self.axis.map_or_else(Attrs::new, |axis| Attrs::new().with("axis", Attr::Int(axis)))
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let (x, condition) = (cx.ty(0)?, cx.ty(1)?);
        if condition.dtype.is_some_and(|d| d != DType::Bool) {
            return Err(format!("the condition should be boolean, but is {condition}"));
        }
        let count = |c: &Tensor| c.bytes().iter().filter(|&&b| b != 0).count();
        let chosen = cx.value(1).map_or(Dim::Unknown, |c| Dim::Fixed(count(c)));
        let shape = match (self.axis, &x.shape) {
            (None, _) => Some(vec![chosen]),
            (Some(_), None) => None,
            (Some(along), Some(dims)) => {
                let (along, mut dims) = (axis(along, dims.len())?, dims.clone());
                dims[along] = chosen;
                Some(dims)
            }
        };
        Ok(vec![Type { dtype: x.dtype, shape }])
    }

    /// That of a `Gather` of the slices, where the condition is a constant.
    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        let (dy, x) = (cx.d_output(0)?, cx.input(0)?);
        let condition = cx.constant(cx.input(1)?)?.bytes().clone();
        let chosen: Vec<i64> =
            (0..).zip(condition).filter(|(_, holds)| *holds != 0).map(|(i, _)| i).collect();
        let chosen = cx.constant_value(list(&chosen));
        let dims = cx.dims(x)?;
        let (axis, shape) = match self.axis {
            Some(along) => (axis(along, dims.len()).ok()?, dims),
            None => (0, vec![dims.iter().product()]),
        };
        let d = cx.add(GatherGrad { axis, shape }, &[dy, chosen])?;
        let d = if self.axis.is_some() { d } else { reshape_as(cx, d, x)? };
        cx.set(0, d);
        Some(())
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let x = cx.input(0)?;
        let (n, inner) = match self.axis {
            None => (x.len(), 1),
            Some(along) => {
                let at = axis(along, x.shape.len())?;
                (x.shape[at], x.shape[at + 1..].iter().product::<usize>())
            }
        };
        let chosen: Vec<usize> =
            cx.constant(1)?.bytes().iter().enumerate().filter(|(_, b)| **b != 0).map(|(i, _)| i).collect();
        if let Some(far) = chosen.iter().find(|&&i| i >= n) {
            return Err(format!("the condition holds at {far}, behind the {n} elements of the axis"));
        }
        by_width!(x.dtype, T => Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let x: &[T] = parts.input(0);
            let mut y = parts.output::<T>(0).chunks_exact_mut(inner.max(1));
            for outer in x.chunks_exact((n * inner).max(1)) {
                for (&i, y) in chosen.iter().zip(&mut y) {
                    y.copy_from_slice(&outer[i * inner..][..inner]);
                }
            }
            Ok(())
        })))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::eval;

    #[test]
    fn chooses() {
        let x = Tensor::new(&[3, 2], (1..7i64).collect());
        let condition = Tensor::bools(&[3], &[false, true, true]);
        let y = eval(&Compress { axis: Some(0) }, &[&x, &condition]).unwrap();
        assert_eq!((y.shape(), y.to_i64()), (&[2, 2][..], vec![3, 4, 5, 6]));
        assert_eq!(eval(&Compress { axis: None }, &[&x, &condition]).unwrap().to_i64(), [2, 3]);
        assert!(eval(&Compress { axis: Some(1) }, &[&x, &condition]).unwrap_err().contains("holds at 2"));
    }
}
