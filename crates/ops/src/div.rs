//! `Div` (ONNX 7, 13, 14): `a / b`, truncated toward zero for integers.

use crate::BinaryGrad;
use crate::shapes::sum_to;
use ir::Vjp;
use kernels::elementwise::{Binary, Operand};

crate::binary::operator! {
    /// `a / b`, truncated toward zero for integers, for f32 (and integers, for shapes) that broadcast.
    pub struct Div: Float, params &[], gradient vjp
}

/// `dy / b` and `-dy a / b^2`.
fn vjp(cx: &mut Vjp) -> Option<()> {
    let (dy, a, b) = (cx.d_output(0)?, cx.input(0)?, cx.input(1)?);
    if cx.wants(0) {
        let d = cx.add(Div, &[dy, b])?;
        let d = sum_to(cx, d, a)?;
        cx.set(0, d);
    }
    if cx.wants(1) {
        let d = cx.add(BinaryGrad { of: Binary::Div, wrt: Operand::Right }, &[dy, a, b])?;
        let d = sum_to(cx, d, b)?;
        cx.set(1, d);
    }
    Some(())
}
