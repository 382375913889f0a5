//! `QLinearAdd` (com.microsoft 1): a sum on uint8 codes, each with its own scale, rounded once.

use crate::q_linear::{MICROSOFT, binary, infer_binary};
use ir::{Infer, Io, Layouts, Lower, Op, Parse, Parsed, Step, Type};
use kernels::integer;

/// `QLinearAdd(a, a_scale, a_zero_point, b, b_scale, b_zero_point, y_scale, y_zero_point?)`: `a` and `b` uint8 of any shapes that
/// broadcast together; scales and zero points are constants of one element.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QLinearAdd;

/// Reads the operator: it has no attributes.
pub fn parse(_: &Parse) -> Result<Parsed, String> {
    Ok(QLinearAdd.into())
}

impl Op for QLinearAdd {
    fn name(&self) -> &str {
        "QLinearAdd"
    }

    fn domain(&self) -> &str {
        MICROSOFT
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        infer_binary(cx)
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let (plan, [a, b, y]) = binary(cx)?;
        let kernel = integer::Add::new(plan, a, b, y);
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
        check_against_float(&QLinearAdd, &crate::Add);
    }

    /// Recorded from ONNX Runtime 1.31.1 on x86-64 with AVX2: sums that lie so near to the middle of two codes that another
    /// order of the operations gives the other.
    #[rustfmt::skip]
    const RECORDED: [Recorded; 8] = [
        (0.25, 128, 0.14117648, 0, 0.057142857, 0, 76, 153, 151),
        (0.23000059, 128, 1.96, 175, 0.40392157, 166, 130, 159, 89),
        (0.125, 86, 2.1764705, 0, 1.4627451, 0, 210, 8, 22),
        (0.00390625, 61, 0.19442865, 0, 0.078431375, 14, 188, 63, 177),
        (0.40784314, 0, 0.0078125, 128, 4.0, 128, 152, 129, 144),
        (0.0046195844, 139, 20.666666, 189, 0.0625, 128, 254, 189, 136),
        (0.125, 16, 1.6666666, 0, 0.87058824, 0, 184, 54, 127),
        (1.2235295, 209, 0.00390625, 77, 27.0, 246, 21, 211, 238),
    ];

    #[test]
    fn follows_the_arithmetic_of_the_runtime() {
        check_recorded(&QLinearAdd, &RECORDED);
    }
}
