//! `QLinearLeakyRelu` (com.microsoft 1): `x` above 0, else `alpha x`, of uint8 codes, as a table.

use crate::q_linear::{MICROSOFT, infer_unary, lower_table};
use ir::{Attrs, Infer, Layouts, Lower, Op, Parse, Parsed, Step, Type};

/// `QLinearLeakyRelu(x, x_scale, x_zero_point, y_scale, y_zero_point?)`: `x` uint8 of any shape; scales and zero points
/// are constants of one element.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QLinearLeakyRelu {
    /// Slope of the negative part.
    pub alpha: f32,
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    Ok(QLinearLeakyRelu { alpha: cx.attrs.float("alpha", 0.01)? }.into())
}

impl Op for QLinearLeakyRelu {
    fn name(&self) -> &str {
        "QLinearLeakyRelu"
    }

    fn domain(&self) -> &str {
        MICROSOFT
    }

    fn attrs(&self) -> Attrs {
        Attrs::new().with_float("alpha", self.alpha, 0.01)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        Ok(vec![infer_unary(cx)?])
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        lower_table(cx, |x| if x >= 0.0 { x } else { self.alpha * x })
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
        let x = Tensor::new(&[2, 2], vec![0u8, 50, 100, 104]);
        let (x_scale, x_zero) = (Tensor::scalar(0.5f32), Tensor::scalar(100u8));
        let (y_scale, y_zero) = (Tensor::scalar(1f32), Tensor::scalar(20u8));
        let ins = [&x, &x_scale, &x_zero, &y_scale, &y_zero].map(Some);
        let y = run(&QLinearLeakyRelu { alpha: 0.2 }, &ins, 1).unwrap();
        assert_eq!(y[0], Tensor::new(&[2, 2], vec![10u8, 15, 20, 22]));
    }
}
