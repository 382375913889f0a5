//! `Log` (ONNX 6, 13): the natural logarithm.

crate::unary::operator! {
    /// The natural logarithm, for f32 of any shape.
    pub struct Log: Float
}
