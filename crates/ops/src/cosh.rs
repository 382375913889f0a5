//! `Cosh` (ONNX 9, 22): the hyperbolic cosine.

crate::unary::operator! {
    /// The hyperbolic cosine, for f32 of any shape.
    pub struct Cosh: Float
}
