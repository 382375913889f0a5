//! `Pow` (ONNX 7, 12, 13, 15): `a^b`, of one element type.

use ir::Vjp;
use kernels::elementwise::Binary;

crate::binary::operator! {
    /// `a^b`, of one element type, for f32 (and integers, for shapes) that broadcast.
    pub struct Pow: Float, params &[], gradient vjp
}

fn vjp(cx: &mut Vjp) -> Option<()> {
    crate::binary::vjp(Binary::Pow, cx)
}
