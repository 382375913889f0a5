//! `Selu` (ONNX 6, 22): the self-normalizing unit (Klambauer et al. 2017, arXiv 1706.02515).

crate::unary::parametric! {
    /// `Selu(x)`: `gamma x` above 0, else `gamma alpha (e^x - 1)`, for f32 of any shape.
    pub struct Selu: Float {
        /// Scale of the negative part.
        alpha = 1.673_263_2,
        /// Scale of everything.
        gamma = 1.050_701
    }
}
