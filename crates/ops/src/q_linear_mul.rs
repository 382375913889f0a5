//! `QLinearMul` (com.microsoft 1): a product on uint8 codes, each with its own scale, rounded once.

use crate::q_linear::{MICROSOFT, binary, infer_binary};
use ir::{Infer, Io, Layouts, Lower, Op, Parse, Parsed, Step, Type};
use kernels::integer;

/// `QLinearMul(a, a_scale, a_zero_point, b, b_scale, b_zero_point, y_scale, y_zero_point?)`: `a` and `b` uint8 of any shapes that
/// broadcast together; scales and zero points are constants of one element.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QLinearMul;

/// Reads the operator: it has no attributes.
pub fn parse(_: &Parse) -> Result<Parsed, String> {
    Ok(QLinearMul.into())
}

impl Op for QLinearMul {
    fn name(&self) -> &str {
        "QLinearMul"
    }

    fn domain(&self) -> &str {
        MICROSOFT
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        infer_binary(cx)
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let (plan, [a, b, y]) = binary(cx)?;
        let kernel = integer::Mul::new(plan, a, b, y);
        Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            kernel.run(parts.input(0), parts.input(3), parts.output(0));
            Ok(())
        }))
    }

    fn layouts(&self) -> Layouts {
        Layouts::Any
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::q_linear::testing::{Recorded, check_against_float, check_recorded};

    #[test]
    fn agrees_with_the_float_operator_between_pairs() {
        check_against_float(&QLinearMul, &crate::Mul);
    }

    /// Recorded from ONNX Runtime 1.31.1 on x86-64 with AVX2: products that lie so near to the middle of two codes that another
    /// order of the operations gives the other.
    #[rustfmt::skip]
    const RECORDED: [Recorded; 8] = [
        (0.125, 128, 1.2901961, 29, 1.3199695, 128, 90, 22, 160),
        (0.015625, 48, 0.015114825, 128, 0.3448276, 128, 241, 215, 140),
        (0.09090909, 0, 0.0625, 128, 0.07058824, 239, 16, 95, 196),
        (0.03125, 128, 1.5254902, 217, 1.2, 227, 152, 13, 32),
        (0.41666666, 104, 0.125, 0, 0.98039216, 254, 93, 160, 160),
        (0.015625, 3, 0.006300221, 128, 0.05490196, 128, 64, 96, 124),
        (1.4705882, 0, 0.125, 251, 0.94509804, 19, 241, 255, 206),
        (0.83870965, 166, 0.0625, 0, 0.8666667, 45, 183, 124, 172),
    ];

    #[test]
    fn follows_the_arithmetic_of_the_runtime() {
        check_recorded(&QLinearMul, &RECORDED);
    }
}
