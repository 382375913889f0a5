//! `ReduceSumSquare` (ONNX 1, 11, 13, 18): the sum of squares over some axes. The axes are an attribute before opset 18.

crate::reduce::operator! {
    /// `ReduceSumSquare(x, axes?)`: the sum of squares over some axes; `x` f32, `axes` i64, all axes where they are omitted.
    pub struct ReduceSumSquare: SumSquare, axes since 18
}
