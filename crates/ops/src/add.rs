//! `Add` (ONNX 7, 13, 14): `a + b`.

use crate::shapes::sum_to;
use ir::Vjp;

crate::binary::operator! {
    /// `a + b`, for f32 (and integers, for shapes) that broadcast.
    pub struct Add: Rescaling, params &[0, 1], gradient vjp
}

/// Each operand gets the gradient of the sum.
fn vjp(cx: &mut Vjp) -> Option<()> {
    for i in 0..2 {
        if cx.wants(i) {
            let (dy, operand) = (cx.d_output(0)?, cx.input(i)?);
            let d = sum_to(cx, dy, operand)?;
            cx.set(i, d);
        }
    }
    Some(())
}
