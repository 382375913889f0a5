//! `ReduceLogSumExp` (ONNX 1, 11, 13, 18, 28): the logarithm of the sum of exponentials over some axes.

use crate::reduce::{Form, aligned};
use crate::{Exp, Mul, Sub};
use ir::Vjp;

crate::reduce::fold! {
    /// `ReduceLogSumExp(x, axes?)`: the logarithm of the sum of `e^x` over some axes; `x` f32, `axes` i64, all axes where
    /// they are omitted.
    pub struct ReduceLogSumExp { f32: fold }, gradient vjp
}

/// The largest element is taken out, so that no exponential overflows.
fn fold(x: &[f32]) -> f32 {
    let largest = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if largest.is_infinite() {
        return largest;
    }
    largest + x.iter().map(|x| (x - largest).exp()).sum::<f32>().ln()
}

/// `dx = dy e^(x - y)`.
fn vjp(form: Form, cx: &mut Vjp) -> Option<()> {
    let [x, y, dy] = aligned(form, cx)?;
    let share = cx.add(Sub, &[x, y])?;
    let share = cx.add(Exp, &[share])?;
    let d = cx.add(Mul, &[dy, share])?;
    cx.set(0, d);
    Some(())
}
