//! `ReduceMin` (ONNX 1, 11, 12, 13, 18, 20): the smallest element over some axes. The axes are an attribute before opset 18.

crate::reduce::operator! {
    /// `ReduceMin(x, axes?)`: the smallest element over some axes; `x` f32, integers or booleans, `axes` i64, all axes
    /// where they are omitted.
    pub struct ReduceMin: Min, axes since 18
}
