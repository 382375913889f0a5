//! `Atan` (ONNX 7, 22): the arc tangent.

crate::unary::operator! {
    /// The arc tangent, for f32 of any shape.
    pub struct Atan: Float
}
