//! `Neg` (ONNX 6, 13): `-x`.

crate::unary::operator! {
    /// `-x`, for f32 of any shape.
    pub struct Neg: Float
}
