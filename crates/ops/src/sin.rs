//! `Sin` (ONNX 7, 22): the sine.

crate::unary::operator! {
    /// The sine, for f32 of any shape.
    pub struct Sin: Float
}
