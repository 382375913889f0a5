//! `Sign` (ONNX 9, 13): -1, 0 or 1; the gradient is 0.

crate::unary::operator! {
    /// -1, 0 or 1; the gradient is 0, for f32 of any shape.
    pub struct Sign: Float
}
