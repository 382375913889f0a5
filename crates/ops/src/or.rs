//! `Or` (ONNX 7): whether either of two booleans holds.

crate::binary::logic! {
    /// Whether either of the operands holds: booleans that broadcast.
    pub struct Or
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
        assert_eq!(eval(&Or, &[&a, &b]).unwrap(), Tensor::bools(&[2, 2], &[false, true, true, true]));
        assert!(eval(&Or, &[&a, &Tensor::scalar(1f32)]).is_err());
    }
}
