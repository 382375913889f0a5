//! `ArgMin` (ONNX 1, 11, 12, 13): the position of the smallest element along an axis.

crate::arg::operator! {
    /// `ArgMin(x)`: `x` f32, f64 or i64; positions as i64.
    pub struct ArgMin: largest false
}
