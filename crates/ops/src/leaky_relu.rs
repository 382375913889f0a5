//! `LeakyRelu` (ONNX 6, 16): `x` above 0, else `alpha x`.

crate::unary::parametric! {
    /// `LeakyRelu(x)`: `x` above 0, else `alpha x`, for f32 of any shape.
    pub struct LeakyRelu: Rescaling {
        /// Slope of the negative part.
        alpha = 0.01
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
        let x = Tensor::new(&[2], vec![-2.0f32, 3.0]);
        assert_eq!(eval(&LeakyRelu { alpha: 0.5 }, &[&x]).unwrap().to_f32(), [-1.0, 3.0]);
    }

    #[test]
    fn gradient() {
        let mut draw = Draw::new(1);
        for rank in [0, 2, 4] {
            let shape = draw.shape(rank, 4);
            let x = draw.tensor_off(&shape, -3.0, 3.0, &[0.0], 0.02);
            check_gradient(LeakyRelu { alpha: 0.2 }, &[&x], 1, &[0]);
        }
    }
}
