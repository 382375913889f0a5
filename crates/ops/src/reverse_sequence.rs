//! `ReverseSequence` (ONNX 10, 28): the beginning of each sequence turned round.

use crate::shapes::by_width;
use ir::{Attrs, Infer, Io, Lower, Op, Parse, Parsed, Step, Type, Vjp};

/// `ReverseSequence(x, lengths)`: of each sequence of a batch, its first elements in reverse order, as many as its length
/// (i64) says, and the others as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReverseSequence {
    /// The axis of the batch, 0 or 1.
    pub batch_axis: usize,
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    match (cx.attrs.int("batch_axis", 1)?, cx.attrs.int("time_axis", 0)?) {
        (0, 1) => Ok(ReverseSequence { batch_axis: 0 }.into()),
        (1, 0) => Ok(ReverseSequence { batch_axis: 1 }.into()),
        (batch, time) => {
            Err(format!("batch_axis and time_axis should be 0 and 1, but are {batch} and {time}"))
        }
    }
}

impl Op for ReverseSequence {
    fn name(&self) -> &str {
        "ReverseSequence"
    }

    fn attrs(&self) -> Attrs {
        Attrs::new().with_int("batch_axis", self.batch_axis as i64, 1).with_int(
            "time_axis",
            1 - self.batch_axis as i64,
            0,
        )
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let (x, lengths) = (cx.ty(0)?, cx.ty(1)?);
        if let Some(dims) = &x.shape {
            let batch = dims.get(self.batch_axis).filter(|_| dims.len() >= 2);
            let fits =
                lengths.shape.as_ref().is_none_or(|l| l.len() == 1 && batch.is_some_and(|b| b.agrees(&l[0])));
            if batch.is_none() || !fits {
                return Err(format!("lengths {lengths} do not fit the batch of {x}"));
            }
        }
        Ok(vec![x.clone()])
    }

    /// Reversing is its own inverse.
    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        let (dy, lengths) = (cx.d_output(0)?, cx.input(1)?);
        let d = cx.add(*self, &[dy, lengths])?;
        cx.set(0, d);
        Some(())
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let x = cx.input(0)?;
        cx.typed::<i64>(1)?;
        let (first, second) = (x.shape[0], x.shape[1]);
        let (inner, by_rows) = (x.shape[2..].iter().product::<usize>(), self.batch_axis == 0);
        by_width!(x.dtype, T => Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let (x, lengths): (&[T], &[i64]) = (parts.input(0), parts.input(1));
            let time = if by_rows { second } else { first };
            for (at, y) in parts.output::<T>(0).chunks_exact_mut(inner.max(1)).enumerate() {
                let (a, b) = (at / second, at % second);
                let (batch, t) = if by_rows { (a, b) } else { (b, a) };
                let length = usize::try_from(lengths[batch]).ok().filter(|&n| n <= time);
                let length = length.ok_or_else(|| format!("length {} of {time} steps", lengths[batch]))?;
                let t = if t < length { length - 1 - t } else { t };
                let from = if by_rows { a * second + t } else { t * second + b };
                y.copy_from_slice(&x[from * inner..][..inner]);
            }
            Ok(())
        })))
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
        let x = Tensor::new(&[2, 3], (0..6i64).collect());
        let rows =
            eval(&ReverseSequence { batch_axis: 0 }, &[&x, &Tensor::new(&[2], vec![2i64, 3])]).unwrap();
        assert_eq!(rows.to_i64(), [1, 0, 2, 5, 4, 3]);
        let columns = eval(&ReverseSequence { batch_axis: 1 }, &[&x, &Tensor::new(&[3], vec![2i64, 1, 2])]);
        assert_eq!(columns.unwrap().to_i64(), [3, 1, 5, 0, 4, 2]);
        let long = eval(&ReverseSequence { batch_axis: 0 }, &[&x, &Tensor::new(&[2], vec![4i64, 1])]);
        assert!(long.unwrap_err().contains("length 4 of 3 steps"));
    }

    #[test]
    fn gradient() {
        let x = Draw::new(1).tensor(&[3, 2, 2], -1.0, 1.0);
        check_gradient(ReverseSequence { batch_axis: 1 }, &[&x, &Tensor::new(&[2], vec![2i64, 3])], 1, &[0]);
    }
}
