//! `Tile` (ONNX 6, 13): repeats a tensor along its axes.

use crate::shapes::{by_width, integers, list};
use crate::{ReduceForm, ReduceSum, Reshape};
use ir::{Dim, Infer, Io, Lower, Op, Parse, Parsed, QuantRole, Step, Type, Vjp};
use kernels::select::{Axis, Selection, strides};

/// `Tile(x, repeats)`: `repeats` i64, one per axis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tile;

/// Reads the operator: it has no attributes.
pub fn parse(_: &Parse) -> Result<Parsed, String> {
    Ok(Tile.into())
}

impl Op for Tile {
    fn name(&self) -> &str {
        "Tile"
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let x = cx.ty(0)?;
        cx.ty(1)?;
        let shape = match (&x.shape, integers(cx, 1)?) {
            (Some(dims), Some(repeats)) => {
                if repeats.len() != dims.len() {
                    return Err(format!("{} repeats are given for {x}", repeats.len()));
                }
                let size = |(dim, &n): (&Dim, &i64)| match (dim, usize::try_from(n)) {
                    (_, Err(_)) => Err(format!("repeats {repeats:?} hold a negative number")),
                    (Dim::Fixed(size), Ok(n)) => size
                        .checked_mul(n)
                        .map(Dim::Fixed)
                        .ok_or_else(|| format!("repeats {repeats:?} of {x} are too many")),
                    (open, Ok(1)) => Ok(open.clone()),
                    _ => Ok(Dim::Unknown),
                };
                Some(dims.iter().zip(&repeats).map(size).collect::<Result<_, _>>()?)
            }
            (Some(dims), None) => Some(crate::shapes::unknown(dims.len())),
            _ => None,
        };
        Ok(vec![Type { dtype: x.dtype, shape }])
    }

    /// With every axis split into repeats and elements, the repeats are summed.
    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        let (x, y) = (cx.dims(cx.input(0)?)?, cx.dims(cx.output(0))?);
        if x.contains(&0) || y.contains(&0) {
            return None;
        }
        let split: Vec<i64> = x.iter().zip(&y).flat_map(|(x, y)| [(y / x) as i64, *x as i64]).collect();
        let repeats: Vec<i64> = (0..x.len() as i64).map(|i| 2 * i).collect();
        if x.is_empty() {
            cx.set(0, cx.d_output(0)?);
            return Some(());
        }
        let (split, repeats) = (cx.constant_value(list(&split)), cx.constant_value(list(&repeats)));
        let d = cx.add(Reshape::default(), &[cx.d_output(0)?, split])?;
        let form = ReduceForm { keep_dims: false, noop: false };
        let d = cx.add(ReduceSum { form }, &[d, repeats])?;
        cx.set(0, d);
        Some(())
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let (x, y) = (cx.input(0)?, &cx.outs[0]);
        if x.shape == y.shape {
            return Ok(Step::view());
        }
        let axes = x.shape.iter().zip(&y.shape).zip(strides(&x.shape)).flat_map(|((&n, &m), stride)| {
            [Axis::strided(m.checked_div(n).unwrap_or(0), 0), Axis::strided(n, stride)]
        });
        let plan = Selection::new(x.len(), axes.collect());
        by_width!(x.dtype, T => Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            plan.run::<T>(parts.input(0), T::default(), parts.output(0));
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
    use tensor::Tensor;

    #[test]
    fn values() {
        let x = Tensor::new(&[2, 2], vec![1i64, 2, 3, 4]);
        let y = eval(&Tile, &[&x, &list(&[2, 2])]).unwrap();
        assert_eq!(y.to_i64(), [1, 2, 1, 2, 3, 4, 3, 4, 1, 2, 1, 2, 3, 4, 3, 4]);
        assert_eq!(eval(&Tile, &[&x, &list(&[1, 1])]).unwrap(), x);
        assert!(eval(&Tile, &[&x, &list(&[0, 1])]).unwrap().is_empty());
        assert!(eval(&Tile, &[&x, &list(&[2])]).unwrap_err().contains("1 repeats"));
        assert!(eval(&Tile, &[&x, &list(&[2, -1])]).unwrap_err().contains("negative"));
    }

    #[test]
    fn gradient() {
        let mut draw = Draw::new(1);
        for repeats in [&[2, 1, 3][..], &[1, 1], &[3], &[]] {
            let shape = draw.shape(repeats.len(), 3);
            check_gradient(Tile, &[&draw.tensor(&shape, -1.0, 1.0), &list(repeats)], 1, &[0]);
        }
    }
}
