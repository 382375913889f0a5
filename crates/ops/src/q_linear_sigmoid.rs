//! `QLinearSigmoid` (com.microsoft 1): the logistic function of uint8 codes, as a table.

use crate::q_linear::{MICROSOFT, infer_unary, lower_table};
use ir::{Infer, Layouts, Lower, Op, Parse, Parsed, Step, Type};

/// `QLinearSigmoid(x, x_scale, x_zero_point, y_scale, y_zero_point?)`: `x` uint8 of any shape; scales and zero points are
/// constants of one element.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QLinearSigmoid;

/// Reads the operator: it has no attributes.
pub fn parse(_: &Parse) -> Result<Parsed, String> {
    Ok(QLinearSigmoid.into())
}

impl Op for QLinearSigmoid {
    fn name(&self) -> &str {
        "QLinearSigmoid"
    }

    fn domain(&self) -> &str {
        MICROSOFT
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        Ok(vec![infer_unary(cx)?])
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        lower_table(cx, |x| (1.0 / (1.0 + (-f64::from(x)).exp())) as f32)
    }

    fn layouts(&self) -> Layouts {
        Layouts::Any
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::run;
    use tensor::Tensor;

    #[test]
    fn values() {
        let x = Tensor::new(&[4], vec![0u8, 128, 138, 255]);
        let (x_scale, x_zero) = (Tensor::scalar(0.1f32), Tensor::scalar(128u8));
        let (y_scale, y_zero) = (Tensor::scalar(1.0f32 / 256.0), Tensor::scalar(0u8));
        let ins = [&x, &x_scale, &x_zero, &y_scale, &y_zero].map(Some);
        // sigmoid(1) = 0.731
        assert_eq!(run(&QLinearSigmoid, &ins, 1).unwrap()[0].to_i64(), [0, 128, 187, 255]);
    }
}
