//! `ReduceMean` (ONNX 1, 11, 13, 18): the mean over some axes. The axes are an attribute before opset 18.

crate::reduce::operator! {
    /// `ReduceMean(x, axes?)`: the mean over some axes; `x` f32 or i64, `axes` i64, all axes where they are omitted.
    pub struct ReduceMean: Mean, axes since 18
}
