//! `Atanh` (ONNX 9, 22): the inverse hyperbolic tangent.

crate::unary::operator! {
    /// The inverse hyperbolic tangent, for f32 of any shape.
    pub struct Atanh: Float
}
