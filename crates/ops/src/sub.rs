//! `Sub` (ONNX 7, 13, 14): `a - b`.

use crate::Neg;
use crate::shapes::sum_to;
use ir::Vjp;

crate::binary::operator! {
    /// `a - b`, for f32 (and integers, for shapes) that broadcast.
    pub struct Sub: Float, params &[], gradient vjp
}

/// `dy` and `-dy`.
fn vjp(cx: &mut Vjp) -> Option<()> {
    let dy = cx.d_output(0)?;
    for i in 0..2 {
        if cx.wants(i) {
            let operand = cx.input(i)?;
            let d = sum_to(cx, dy, operand)?;
            let d = if i == 0 { d } else { cx.add(Neg, &[d])? };
            cx.set(i, d);
        }
    }
    Some(())
}
