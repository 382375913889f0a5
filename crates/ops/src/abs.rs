//! `Abs` (ONNX 6, 13): `|x|`; the gradient at 0 is 0.

crate::unary::operator! {
    /// `|x|`, for f32 and integers of any shape; the gradient at 0 is 0.
    pub struct Abs: Float
}
