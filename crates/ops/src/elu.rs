//! `Elu` (ONNX 6, 22): `x` above 0, else `alpha (e^x - 1)` (Clevert et al. 2015, arXiv 1511.07289).

crate::unary::parametric! {
    /// `Elu(x)`: `x` above 0, else `alpha (e^x - 1)` (Clevert et al. 2015, arXiv 1511.07289), for f32 of any shape.
    pub struct Elu: Float {
        /// Scale of the negative part.
        alpha = 1.0
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
        let x = Tensor::new(&[2], vec![-1.0f32, 3.0]);
        let y = eval(&Elu { alpha: 2.0 }, &[&x]).unwrap().to_f64();
        assert!((y[0] - 2.0 * (-1f64).exp_m1()).abs() < 1e-6 && y[1] == 3.0);
    }

    #[test]
    fn gradient() {
        let mut draw = Draw::new(1);
        for rank in [0, 2, 4] {
            let shape = draw.shape(rank, 4);
            let x = draw.tensor_off(&shape, -3.0, 3.0, &[0.0], 0.02);
            check_gradient(Elu { alpha: 0.7 }, &[&x], 1, &[0]);
        }
    }
}
