//! `Abs` (ONNX 6, 13): `|x|`; the gradient at 0 is 0.

crate::unary::operator! {
    /// `|x|`; the gradient at 0 is 0, for f32 of any shape.
    pub struct Abs: Float
}
