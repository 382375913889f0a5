//! `Sigmoid` (ONNX 6, 13): `1 / (1 + e^-x)`.

crate::unary::operator! {
    /// `1 / (1 + e^-x)`, for f32 of any shape.
    pub struct Sigmoid: Rescaling
}
