//! `ReduceProd` (ONNX 1, 11, 13, 18): products.

use crate::reduce::{Form, aligned};
use crate::{Cast, Div, Equal, Mul, ReduceSum, Sub, Where};
use ir::{Op, ValueId, Vjp};
use std::sync::Arc;
use tensor::{DType, Tensor};

crate::reduce::fold! {
    /// `ReduceProd(x, axes?)`: the product over some axes; `x` f32 or i64, `axes` i64, all axes where they are omitted.
    pub struct ReduceProd {
        f32: |x| x.iter().product(),
        i64: |x| x.iter().fold(1, |a, &b| a.wrapping_mul(b))
    }, gradient vjp
}

/// Each factor gets the product of all others.
fn vjp(form: Form, cx: &mut Vjp) -> Option<()> {
    let [x, _, dy] = aligned(form, cx)?;
    let axes = cx.input(1);
    let reduce = |cx: &mut Vjp, op: Arc<dyn Op>, v| {
        let ins = [Some(v), axes];
        cx.add_multi(op, &ins[..1 + usize::from(axes.is_some())], 1).map(|y| y[0])
    };
    let form = Form { keep_dims: true, ..form };
    let own = Factors::of(cx, x)?;
    let all = Factors {
        zeros: reduce(cx, Arc::new(ReduceSum { form }), own.zeros)?,
        product: reduce(cx, Arc::new(ReduceProd { form }), own.product)?,
    };
    let d = own.gradient(cx, &all, dy)?;
    cx.set(0, d);
    Some(())
}

/// Products, zeros left out and counted instead: so the product of all factors but one is a division, though some may be 0.
pub(crate) struct Factors {
    /// How many zeros there are.
    pub zeros: ValueId,
    /// The product of all others.
    pub product: ValueId,
}

impl Factors {
    /// Each element as a product of its own.
    pub fn of(cx: &mut Vjp, v: ValueId) -> Option<Factors> {
        let [zero, one] = [0f32, 1.0].map(|n| cx.constant_value(Tensor::scalar(n)));
        let none = cx.add(Equal, &[v, zero])?;
        let zeros = cx.add(Cast { to: DType::F32 }, &[none])?;
        Some(Factors { zeros, product: cx.add(Where, &[none, one, v])? })
    }

    /// The gradients of these factors, where `all` is the product that they are in, and `dy` its gradient.
    pub fn gradient(&self, cx: &mut Vjp, all: &Factors, dy: ValueId) -> Option<ValueId> {
        let zero = cx.constant_value(Tensor::scalar(0f32));
        let zeros = cx.add(Sub, &[all.zeros, self.zeros])?;
        let nonzero = cx.add(Equal, &[zeros, zero])?;
        let others = cx.add(Div, &[all.product, self.product])?;
        let others = cx.add(Where, &[nonzero, others, zero])?;
        cx.add(Mul, &[dy, others])
    }
}
