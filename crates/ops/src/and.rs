//! `And` (ONNX 7): whether both of two booleans hold.

crate::binary::logic! {
    /// Whether both of the operands hold: booleans that broadcast.
    pub struct And
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
        assert_eq!(eval(&And, &[&a, &b]).unwrap(), Tensor::bools(&[2, 2], &[false, false, false, true]));
        assert!(eval(&And, &[&a, &Tensor::scalar(1f32)]).is_err());
    }
}
