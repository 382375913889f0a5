//! `ReduceSum` (ONNX 1, 11, 13): the sum over some axes. The axes are an attribute before opset 13.

crate::reduce::operator! {
    /// `ReduceSum(x, axes?)`: the sum over some axes; `x` f32, `axes` i64, all axes where they are omitted.
    pub struct ReduceSum: Sum, axes since 13
}
