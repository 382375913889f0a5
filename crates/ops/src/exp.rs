//! `Exp` (ONNX 6, 13): `e^x`.

crate::unary::operator! {
    /// `e^x`, for f32 of any shape.
    pub struct Exp: Float
}
