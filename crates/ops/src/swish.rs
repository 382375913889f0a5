//! `Swish` (ONNX 24): `x sigmoid(alpha x)` (Ramachandran et al. 2017, arXiv 1710.05941).

crate::unary::parametric! {
    /// `Swish(x)`: `x sigmoid(alpha x)`, for f32 of any shape.
    pub struct Swish: Float {
        /// Slope of the gate.
        alpha = 1.0
    }
    since 24
}
