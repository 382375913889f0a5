//! `Celu` (ONNX 12, 28): a smooth exponential unit (Barron 2017, arXiv 1704.07483).

crate::unary::parametric! {
    /// `Celu(x)`: `x` above 0, else `alpha (e^(x / alpha) - 1)`, for f32 of any shape.
    pub struct Celu: Float {
        /// Where the negative part ends.
        alpha = 1.0
    }
}
