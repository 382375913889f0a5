//! `Round` (ONNX 11, 22): the nearest integer, ties to even; the gradient is 0.

crate::unary::operator! {
    /// The nearest integer, ties to even; the gradient is 0, for f32 of any shape.
    pub struct Round: Float
}
