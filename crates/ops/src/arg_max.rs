//! `ArgMax` (ONNX 1, 11, 12, 13): the position of the largest element along an axis.

crate::arg::operator! {
    /// `ArgMax(x)`: `x` f32, f64 or i64; positions as i64.
    pub struct ArgMax: largest true
}
