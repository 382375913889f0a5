//! `Neg` (ONNX 6, 13): `-x`.

crate::unary::operator! {
    /// `-x`, for f32 and integers of any shape.
    pub struct Neg: Float
}
