//! `Erf` (ONNX 9, 13): the error function.

crate::unary::operator! {
    /// The error function, for f32 of any shape.
    pub struct Erf: Float
}
