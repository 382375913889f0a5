//! `Relu` (ONNX 6, 13, 14): `max(x, 0)`.

crate::unary::operator! {
    /// `max(x, 0)`, for f32 and integers of any shape.
    pub struct Relu: Clamp
}
