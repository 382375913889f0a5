//! `ReduceLogSum` (ONNX 1, 11, 13, 18, 28): the logarithm of the sum over some axes.

use crate::reduce::{Form, aligned};
use crate::{Exp, Neg};
use ir::Vjp;

crate::reduce::fold! {
    /// `ReduceLogSum(x, axes?)`: the logarithm of the sum over some axes; `x` f32, `axes` i64, all axes where they are
    /// omitted.
    pub struct ReduceLogSum { f32: |x| x.iter().sum::<f32>().ln() }, gradient vjp
}

/// `dx = dy / e^y`.
fn vjp(form: Form, cx: &mut Vjp) -> Option<()> {
    let [x, y, dy] = aligned(form, cx)?;
    let inverse = cx.add(Neg, &[y])?;
    let inverse = cx.add(Exp, &[inverse])?;
    let d = cx.add(crate::Mul, &[dy, inverse])?;
    let shape: Vec<i64> = cx.dims(x)?.iter().map(|&n| n as i64).collect();
    let shape = cx.constant_value(crate::shapes::list(&shape));
    let d = cx.add(crate::Expand, &[d, shape])?;
    cx.set(0, d);
    Some(())
}
