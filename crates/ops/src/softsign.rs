//! `Softsign` (ONNX 1, 22): `x / (1 + |x|)`.

crate::unary::operator! {
    /// `x / (1 + |x|)`, for f32 of any shape.
    pub struct Softsign: Float
}
