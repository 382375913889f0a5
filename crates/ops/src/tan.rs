//! `Tan` (ONNX 7, 22): the tangent.

crate::unary::operator! {
    /// The tangent, for f32 of any shape.
    pub struct Tan: Float
}
