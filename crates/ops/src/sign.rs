//! `Sign` (ONNX 9, 13): -1, 0 or 1; the gradient is 0.

crate::unary::operator! {
    /// -1, 0 or 1, for f32 and integers of any shape; the gradient is 0.
    pub struct Sign: Float
}
