//! `Asinh` (ONNX 9, 22): the inverse hyperbolic sine.

crate::unary::operator! {
    /// The inverse hyperbolic sine, for f32 of any shape.
    pub struct Asinh: Float
}
