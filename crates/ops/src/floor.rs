//! `Floor` (ONNX 6, 13): the largest integer not above `x`; the gradient is 0.

crate::unary::operator! {
    /// The largest integer not above `x`, for f32 of any shape; the gradient is 0.
    pub struct Floor: Float
}
