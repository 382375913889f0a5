//! `ReduceProd` (ONNX 1, 11, 13, 18): the product over some axes. The axes are an attribute before opset 18.

crate::reduce::fold! {
    /// `ReduceProd(x, axes?)`: the product over some axes; `x` f32 or i64, `axes` i64, all axes where they are omitted.
    /// Without gradient.
    pub struct ReduceProd {
        f32: |x| x.iter().product(),
        i64: |x| x.iter().fold(1, |a, &b| a.wrapping_mul(b))
    }, gradient vjp
}

fn vjp(_: crate::reduce::Form, _: &mut ir::Vjp) -> Option<()> {
    None
}
