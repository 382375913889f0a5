//! `Softplus` (ONNX 1, 22): `log(1 + e^x)`.

crate::unary::operator! {
    /// `log(1 + e^x)`, for f32 of any shape.
    pub struct Softplus: Float
}
