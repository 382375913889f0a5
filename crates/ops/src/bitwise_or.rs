//! `BitwiseOr` (ONNX 18): the bits that are set in either of two operands.

crate::binary::bitwise! {
    /// `BitwiseOr(a, b)`: the bits that are set in either of the operands, integers of one type that broadcast.
    pub struct BitwiseOr = std::ops::BitOr::bitor
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::eval;
    use tensor::Tensor;

    #[test]
    fn bits() {
        let (a, b) = (Tensor::new(&[2, 1], vec![0b1100i8, -1]), Tensor::new(&[1], vec![0b1010i8]));
        assert_eq!(eval(&BitwiseOr, &[&a, &b]).unwrap().to_i64(), [0b1110, -1]);
        assert!(
            eval(&BitwiseOr, &[&Tensor::scalar(1f32), &Tensor::scalar(1f32)])
                .unwrap_err()
                .contains("integers")
        );
    }
}
