//! `HardSigmoid` (ONNX 6, 22): `max(0, min(1, alpha x + beta))`.

crate::unary::parametric! {
    /// `HardSigmoid(x)`: `max(0, min(1, alpha x + beta))`, for f32 of any shape.
    pub struct HardSigmoid: Lowered {
        /// Slope.
        alpha = 0.2,
        /// Value at 0.
        beta = 0.5
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{Draw, check_gradient, eval};
    use tensor::Tensor;

    #[test]
    fn values() {
        let x = Tensor::new(&[3], vec![-9.0f32, 1.0, 9.0]);
        assert_eq!(eval(&HardSigmoid { alpha: 0.25, beta: 0.5 }, &[&x]).unwrap().to_f32(), [0.0, 0.75, 1.0]);
    }

    #[test]
    fn gradient() {
        let mut draw = Draw::new(1);
        for rank in [0, 2, 4] {
            let shape = draw.shape(rank, 4);
            let x = draw.tensor_off(&shape, -3.0, 3.0, &[-2.0, 2.0], 0.02);
            check_gradient(HardSigmoid { alpha: 0.25, beta: 0.5 }, &[&x], 1, &[0]);
        }
    }
}
