//! `Expand` (ONNX 8, 13): repeats a tensor to the shape that it and a given shape broadcast to.

use crate::shapes::{broadcast, by_width, integers, listed, sum_to};
use ir::{Dim, Infer, Io, Lower, Op, Parse, Parsed, QuantRole, Step, Type, Vjp};
use kernels::broadcast::Broadcast;

/// `Expand(x, shape)`: `shape` i64; a size of 1 in it keeps that of `x`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expand;

/// Reads the operator: it has no attributes.
pub fn parse(_: &Parse) -> Result<Parsed, String> {
    Ok(Expand.into())
}

impl Op for Expand {
    fn name(&self) -> &str {
        "Expand"
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let (x, target) = (cx.ty(0)?, cx.ty(1)?);
        let shape = match integers(cx, 1)? {
            Some(list) => {
                let sizes = list.iter().map(|&n| usize::try_from(n)).collect::<Result<Vec<_>, _>>();
                let sizes = sizes.map_err(|_| format!("shape {list:?} holds a negative size"))?;
                broadcast(
                    x,
                    &Type { dtype: x.dtype, shape: Some(sizes.into_iter().map(Dim::Fixed).collect()) },
                )?
            }
            None => {
                let rank = target.dims().and_then(|d| d.first().copied());
                x.rank().zip(rank).map(|(a, b)| listed(a.max(b))).transpose()?
            }
        };
        Ok(vec![Type { dtype: x.dtype, shape }])
    }

    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        let d = sum_to(cx, cx.d_output(0)?, cx.input(0)?)?;
        cx.set(0, d);
        Some(())
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let (x, y) = (cx.input(0)?, &cx.outs[0]);
        if x.len() == y.len() {
            return Ok(Step::view());
        }
        let plan = Broadcast::to(&x.shape, &y.shape).map_err(|e| e.to_string())?;
        by_width!(x.dtype, T => Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            plan.expand::<T>(parts.input(0), parts.output(0));
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
    use crate::shapes::list;
    use crate::testing::{Draw, check_gradient, eval};
    use tensor::Tensor;

    #[test]
    fn values() {
        let x = Tensor::new(&[2, 1], vec![1i64, 2]);
        let y = eval(&Expand, &[&x, &list(&[2, 1, 3])]).unwrap();
        assert_eq!((y.shape(), y.to_i64()), (&[2, 2, 3][..], vec![1, 1, 1, 2, 2, 2, 1, 1, 1, 2, 2, 2]));
        assert_eq!(eval(&Expand, &[&x, &list(&[1])]).unwrap(), x);
        assert!(eval(&Expand, &[&x, &list(&[3, 1])]).unwrap_err().contains("do not broadcast"));
        assert!(eval(&Expand, &[&x, &list(&[-1, 1])]).unwrap_err().contains("negative"));
    }

    #[test]
    fn gradient() {
        let mut draw = Draw::new(1);
        for _ in 0..10 {
            let rank = draw.int(0, 5);
            let full = draw.shape(rank, 3);
            let x = draw.broadcast_operand(&full);
            let target: Vec<i64> = full.iter().map(|&d| d as i64).collect();
            check_gradient(Expand, &[&draw.tensor(&x, -1.0, 1.0), &list(&target)], 1, &[0]);
        }
    }
}
