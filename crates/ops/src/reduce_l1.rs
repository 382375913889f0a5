//! `ReduceL1` (ONNX 1, 11, 13, 18): the sum of absolute values over some axes. The axes are an attribute before opset 18.

crate::reduce::operator! {
    /// `ReduceL1(x, axes?)`: the sum of absolute values over some axes; `x` f32, `axes` i64, all axes where they are omitted.
    pub struct ReduceL1: L1, axes since 18
}
