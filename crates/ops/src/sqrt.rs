//! `Sqrt` (ONNX 6, 13): the square root.

crate::unary::operator! {
    /// The square root, for f32 of any shape.
    pub struct Sqrt: Float
}
