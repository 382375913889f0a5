//! `Round` (ONNX 11, 22): the nearest integer, ties to even; the gradient is 0.

crate::unary::operator! {
    /// The nearest integer, ties to even, for f32 of any shape; the gradient is 0.
    pub struct Round: Float
}
