//! `Xor` (ONNX 7): whether one but not both of two booleans holds.

crate::binary::logic! {
    /// Whether one but not both of the operands holds: booleans that broadcast.
    pub struct Xor
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::eval;
    use tensor::Tensor;

    #[test]
    fn truth_table() {
        let (a, b) = (Tensor::bools(&[2, 1], &[false, true]), Tensor::bools(&[2], &[false, true]));
        assert_eq!(eval(&Xor, &[&a, &b]).unwrap(), Tensor::bools(&[2, 2], &[false, true, true, false]));
        assert!(eval(&Xor, &[&a, &Tensor::scalar(1f32)]).is_err());
    }
}
