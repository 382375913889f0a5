//! `HardSwish` (ONNX 14): `x max(0, min(1, x / 6 + 1/2))` (Howard et al. 2019, arXiv 1905.02244).

crate::unary::operator! {
    /// `x max(0, min(1, x / 6 + 1/2))` (Howard et al. 2019, arXiv 1905.02244), for f32 of any shape.
    pub struct HardSwish: Lowered, since 14
}
