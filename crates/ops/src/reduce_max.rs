//! `ReduceMax` (ONNX 1, 11, 12, 13, 18, 20): the largest element over some axes. The axes are an attribute before opset 18.

crate::reduce::operator! {
    /// `ReduceMax(x, axes?)`: the largest element over some axes; `x` f32, integers or booleans, `axes` i64, all axes
    /// where they are omitted.
    pub struct ReduceMax: Max, axes since 18
}
