//! `BitwiseAnd` (ONNX 18): the bits that are set in both of two operands.

crate::binary::bitwise! {
    /// `BitwiseAnd(a, b)`: the bits that are set in both of the operands, integers of one type that broadcast.
    pub struct BitwiseAnd = std::ops::BitAnd::bitand
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
        assert_eq!(eval(&BitwiseAnd, &[&a, &b]).unwrap().to_i64(), [0b1000, 0b1010]);
        assert!(
            eval(&BitwiseAnd, &[&Tensor::scalar(1f32), &Tensor::scalar(1f32)])
                .unwrap_err()
                .contains("integers")
        );
    }
}
