//! `ThresholdedRelu` (ONNX 10, 22): what is above a threshold (Konda et al. 2014, arXiv 1402.3337).

crate::unary::parametric! {
    /// `ThresholdedRelu(x)`: `x` above `alpha`, else 0, for f32 of any shape.
    pub struct ThresholdedRelu: Float {
        /// The threshold.
        alpha = 1.0
    }
}
