//! `ReduceL2` (ONNX 1, 11, 13, 18): the root of the sum of squares over some axes. The axes are an attribute before opset 18.

crate::reduce::operator! {
    /// `ReduceL2(x, axes?)`: the root of the sum of squares over some axes; `x` f32, `axes` i64, all axes where they are omitted.
    pub struct ReduceL2: L2, axes since 18
}
