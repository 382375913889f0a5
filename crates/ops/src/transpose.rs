//! `Transpose` (ONNX 1, 13, 21): reorders axes.

use crate::shapes::by_width;
use ir::{Attr, Attrs, Infer, Io, Lower, Op, Parse, Parsed, QuantRole, Step, Type, Vjp};
use kernels::select::Selection;

/// `Transpose(x)`, for any element type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transpose {
    /// Axis `i` of the result is axis `order[i]` of the operand; `None` reverses the axes.
    pub order: Option<Vec<usize>>,
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    Ok(Transpose { order: cx.attrs.sizes("perm")? }.into())
}

impl Transpose {
    /// With this order of axes.
    pub fn new(order: &[usize]) -> Transpose {
        Transpose { order: Some(order.to_vec()) }
    }

    fn order(&self, rank: usize) -> Result<Vec<usize>, String> {
        let Some(order) = &self.order else { return Ok((0..rank).rev().collect()) };
        let mut sorted = order.clone();
        sorted.sort_unstable();
        if sorted.into_iter().eq(0..rank) {
            return Ok(order.clone());
        }
        Err(format!("perm {order:?} does not order the axes of a tensor of rank {rank}"))
    }
}

impl Op for Transpose {
    fn name(&self) -> &str {
        "Transpose"
    }

    fn attrs(&self) -> Attrs {
        match &self.order {
            Some(order) => Attrs::new().with("perm", Attr::Ints(order.iter().map(|&a| a as i64).collect())),
            None => Attrs::new(),
        }
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let x = cx.ty(0)?;
        let shape = match &x.shape {
            Some(dims) => Some(self.order(dims.len())?.into_iter().map(|a| dims[a].clone()).collect()),
            None => None,
        };
        Ok(vec![Type { dtype: x.dtype, shape }])
    }

    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        let order = self.order(cx.dims(cx.input(0)?)?.len()).ok()?;
        let mut back = vec![0; order.len()];
        order.iter().enumerate().for_each(|(i, &a)| back[a] = i);
        let d = cx.add(Transpose { order: Some(back) }, &[cx.d_output(0)?])?;
        cx.set(0, d);
        Some(())
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let x = cx.input(0)?;
        let order = self.order(x.shape.len())?;
        let moving: Vec<usize> = order.iter().copied().filter(|&a| x.shape[a] != 1).collect();
        if moving.is_sorted() {
            return Ok(Step::view());
        }
        let plan = Selection::transpose(&x.shape, &order);
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
        let x = Tensor::new(&[2, 3], vec![1i64, 2, 3, 4, 5, 6]);
        let y = eval(&Transpose::default(), &[&x]).unwrap();
        assert_eq!((y.shape(), y.to_i64()), (&[3, 2][..], vec![1, 4, 2, 5, 3, 6]));
        assert!(eval(&Transpose::new(&[0, 0]), &[&x]).unwrap_err().contains("does not order"));
        assert!(eval(&Transpose::new(&[0]), &[&x]).is_err());
    }

    #[test]
    fn gradient() {
        let mut draw = Draw::new(1);
        for order in [&[0, 2, 3, 1][..], &[3, 1, 0, 2], &[1, 0], &[0], &[]] {
            let shape = draw.shape(order.len(), 4);
            check_gradient(Transpose::new(order), &[&draw.tensor(&shape, -1.0, 1.0)], 1, &[0]);
        }
        // Only axes of size 1 move: a view.
        check_gradient(Transpose::new(&[0, 2, 3, 1]), &[&draw.tensor(&[2, 5, 1, 1], -1.0, 1.0)], 1, &[0]);
    }
}
