//! `Reciprocal` (ONNX 6, 13): `1 / x`.

crate::unary::operator! {
    /// `1 / x`, for f32 of any shape.
    pub struct Reciprocal: Float
}
