//! `Shrink` (ONNX 9): moves numbers towards 0 and makes the small ones 0.

crate::unary::parametric! {
    /// `Shrink(x)`: `x + bias` below `-lambd`, `x - bias` above `lambd`, else 0, for f32 and integers of any
    /// shape; of integers the result is truncated.
    pub struct Shrink: Float {
        /// How far numbers are moved.
        bias = 0.0,
        /// The threshold.
        lambd = 0.5
    }
}
