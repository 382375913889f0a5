//! `Cos` (ONNX 7, 22): the cosine.

crate::unary::operator! {
    /// The cosine, for f32 of any shape.
    pub struct Cos: Float
}
