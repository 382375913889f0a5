//! `Ceil` (ONNX 6, 13): the smallest integer not below `x`; the gradient is 0.

crate::unary::operator! {
    /// The smallest integer not below `x`, for f32 of any shape; the gradient is 0.
    pub struct Ceil: Float
}
