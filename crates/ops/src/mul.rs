//! `Mul` (ONNX 7, 13, 14): `a b`.

use crate::shapes::sum_to;
use ir::Vjp;

crate::binary::operator! {
    /// `a b`, for f32 (and integers, for shapes) that broadcast.
    pub struct Mul: Rescaling, params &[0, 1], gradient vjp
}

/// `dy b` and `dy a`.
fn vjp(cx: &mut Vjp) -> Option<()> {
    for i in 0..2 {
        if cx.wants(i) {
            let (dy, operand, other) = (cx.d_output(0)?, cx.input(i)?, cx.input(1 - i)?);
            let d = cx.add(Mul, &[dy, other])?;
            let d = sum_to(cx, d, operand)?;
            cx.set(i, d);
        }
    }
    Some(())
}
