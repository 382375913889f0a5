//! `Sinh` (ONNX 9, 22): the hyperbolic sine.

crate::unary::operator! {
    /// The hyperbolic sine, for f32 of any shape.
    pub struct Sinh: Float
}
