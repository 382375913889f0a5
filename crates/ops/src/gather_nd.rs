//! `GatherND` (ONNX 11, 12, 13): slices by the index of their place.

use crate::constant_of_shape::zeros_as;
use crate::scatter::{Join, index};
use crate::shapes::by_width;
use crate::{Concat, ScatterND};
use ir::{Attrs, Dim, Infer, Io, Lower, Op, Parse, Parsed, QuantRole, Step, Type, Vjp};
use kernels::select::strides;
use tensor::Tensor;

/// `GatherND(data, indices)`: the last axis of `indices` (i64; below 0 from the end) holds the coordinates of an element,
/// or of a slice where they are fewer than the axes of `data`. The first `batch_dims` axes of both go together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GatherND {
    /// Axes that `data` and `indices` share.
    pub batch_dims: usize,
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    let batch = cx.attrs.int("batch_dims", 0)?;
    let batch_dims = usize::try_from(batch).map_err(|_| format!("attribute batch_dims is {batch}"))?;
    Ok(GatherND { batch_dims }.into())
}

impl Op for GatherND {
    fn name(&self) -> &str {
        "GatherND"
    }

    fn attrs(&self) -> Attrs {
        Attrs::new().with_int("batch_dims", self.batch_dims as i64, 0)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let (data, indices) = (cx.ty(0)?, cx.ty(1)?);
        let shape = match (&data.shape, &indices.shape) {
            (Some(d), Some(at)) => match at.split_last() {
                Some((Dim::Fixed(k), outer))
                    if self.batch_dims + k <= d.len()
                        && self.batch_dims <= outer.len()
                        && outer.iter().zip(&d[..self.batch_dims]).all(|(a, b)| a.agrees(b)) =>
                {
                    Some(outer.iter().chain(&d[self.batch_dims + k..]).cloned().collect())
                }
                Some((Dim::Fixed(_), _)) | None => {
                    return Err(format!(
                        "indices {indices} do not fit {data} with {} batch axes",
                        self.batch_dims
                    ));
                }
                _ => None,
            },
            _ => None,
        };
        Ok(vec![Type { dtype: data.dtype, shape }])
    }

    /// Scatters to the same places, whose coordinates begin with those in the batch.
    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        let zeros = zeros_as(cx, cx.input(0)?)?;
        let (mut indices, dy) = (cx.input(1)?, cx.d_output(0)?);
        if self.batch_dims > 0 {
            let mut shape = cx.dims(indices)?;
            *shape.last_mut()? = self.batch_dims;
            let steps = strides(&shape[..shape.len() - 1]);
            let rows: usize = shape[..shape.len() - 1].iter().product();
            cx.claim(rows.checked_mul(self.batch_dims)?)?;
            let place = |row: usize| (0..self.batch_dims).map(move |i| (i, row));
            let coordinate = |(i, row): (usize, usize)| (row / steps[i] % shape[i]) as i64;
            let batch: Vec<i64> = (0..rows).flat_map(place).map(coordinate).collect();
            let batch = cx.constant_value(Tensor::new(&shape, batch));
            indices = cx.add(Concat { axis: -1 }, &[batch, indices])?;
        }
        let d = cx.add(ScatterND { reduction: Join::Add }, &[zeros, indices, dy])?;
        cx.set(0, d);
        Some(())
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let (data, indices) = (cx.input(0)?, cx.typed::<i64>(1)?);
        let (b, k) = (self.batch_dims, indices.shape.last().copied().unwrap_or(0));
        let batch: usize = data.shape[..b].iter().product();
        let (sizes, steps) = (data.shape[b..b + k].to_vec(), strides(&data.shape)[b..b + k].to_vec());
        let slice: usize = data.shape[b + k..].iter().product();
        let one: usize = data.shape[b..].iter().product();
        let rows = indices.len().checked_div(k).unwrap_or(cx.outs[0].len() / slice.max(1));
        by_width!(data.dtype, T => Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let (x, indices): (&[T], &[i64]) = (parts.input(0), parts.input(1));
            let y: &mut [T] = parts.output(0);
            for row in 0..rows {
                let mut at = row / (rows / batch.max(1)).max(1) * one;
                for (j, &i) in indices[row * k..][..k].iter().enumerate() {
                    at += index(i, sizes[j])? * steps[j];
                }
                y[row * slice..][..slice].copy_from_slice(&x[at..][..slice]);
            }
            Ok(())
        })))
    }

    fn quant(&self) -> QuantRole {
        QuantRole::SameScale
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{Draw, check_gradient, eval};

    #[test]
    fn values() {
        let x = Tensor::new(&[2, 2, 2], (0..8i64).collect());
        let at = Tensor::new(&[2, 2], vec![0i64, 1, 1, 0]);
        assert_eq!(eval(&GatherND::default(), &[&x, &at]).unwrap().to_i64(), [2, 3, 4, 5]);
        let at = Tensor::new(&[2, 1], vec![1i64, 0]);
        assert_eq!(eval(&GatherND { batch_dims: 1 }, &[&x, &at]).unwrap().to_i64(), [2, 3, 4, 5]);
        let far = Tensor::new(&[1, 1], vec![2i64]);
        assert!(eval(&GatherND::default(), &[&x, &far]).unwrap_err().contains("index 2"));
    }

    #[test]
    fn gradient() {
        let x = Draw::new(1).tensor(&[3, 4, 2], -1.0, 1.0);
        let at = Tensor::new(&[3, 2], vec![0i64, 1, 2, -1, 0, 1]);
        check_gradient(GatherND::default(), &[&x, &at], 1, &[0]);
    }
}
