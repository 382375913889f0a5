//! `Tanh` (ONNX 6, 13): the hyperbolic tangent.

crate::unary::operator! {
    /// The hyperbolic tangent, for f32 of any shape.
    pub struct Tanh: Float
}
