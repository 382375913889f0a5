//! `Ceil` (ONNX 6, 13): the smallest integer not below `x`; the gradient is 0.

crate::unary::operator! {
    /// The smallest integer not below `x`; the gradient is 0, for f32 of any shape.
    pub struct Ceil: Float
}
