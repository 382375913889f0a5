//! `Mish` (ONNX 18, 22): `x tanh(log(1 + e^x))` (Misra 2019, arXiv 1908.08681).

crate::unary::operator! {
    /// `x tanh(log(1 + e^x))`, for f32 of any shape.
    pub struct Mish: Float, since 18
}
