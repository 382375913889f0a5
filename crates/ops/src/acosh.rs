//! `Acosh` (ONNX 9, 22): the inverse hyperbolic cosine.

crate::unary::operator! {
    /// The inverse hyperbolic cosine, for f32 of any shape.
    pub struct Acosh: Float
}
