//! `Acos` (ONNX 7, 22): the arc cosine.

crate::unary::operator! {
    /// The arc cosine, for f32 of any shape.
    pub struct Acos: Float
}
