//! `GreaterOrEqual` (ONNX 12, 16): `a >= b`.

crate::binary::comparison! {
    /// `a >= b`, as booleans, for operands of one element type that broadcast. NaN differs from everything.
    pub struct GreaterOrEqual
}
