//! `Asin` (ONNX 7, 22): the arc sine.

crate::unary::operator! {
    /// The arc sine, for f32 of any shape.
    pub struct Asin: Float
}
