//! `Pow` (ONNX 7, 12, 13, 15): `a^b`.

use crate::binary::{self, plan};
use crate::shapes::broadcast;
use crate::{BinaryGrad, Cast, shapes::sum_to};
use ir::{Infer, Io, Layouts, Lower, Op, Parse, Parsed, Step, Type, Vjp};
use kernels::elementwise::{Binary, Operand};
use tensor::DType;

/// `Pow(a, b)`: operands that broadcast; the result has the element type of `a`. An exponent of another element type must
/// be constant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pow;

/// Reads the operator: it has no attributes.
pub fn parse(_: &Parse) -> Result<Parsed, String> {
    Ok(Pow.into())
}

impl Op for Pow {
    fn name(&self) -> &str {
        "Pow"
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let (a, b) = (cx.ty(0)?, cx.ty(1)?);
        Ok(vec![Type { dtype: a.dtype, shape: broadcast(a, b)? }])
    }

    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        let (dy, a, b) = (cx.d_output(0)?, cx.input(0)?, cx.input(1)?);
        let float =
            if cx.ty(b).dtype == Some(DType::F32) { b } else { cx.add(Cast { to: DType::F32 }, &[b])? };
        for (i, wrt, operand) in [(0, Operand::Left, a), (1, Operand::Right, b)] {
            if cx.wants(i) {
                let d = cx.add(BinaryGrad { of: Binary::Pow, wrt }, &[dy, a, float])?;
                let d = sum_to(cx, d, operand)?;
                cx.set(i, d);
            }
        }
        Some(())
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let (a, b) = (cx.input(0)?, cx.input(1)?);
        if a.dtype == b.dtype {
            return binary::lower(Binary::Pow, cx);
        }
        let exponent = cx.constant(1)?.to_f32();
        let plan = plan([cx.typed::<f32>(0)?, b], &cx.outs[0])?;
        Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            Binary::Pow.forward(&plan, parts.input(0), &exponent, parts.output(0));
            Ok(())
        }))
    }

    fn layouts(&self) -> Layouts {
        Layouts::Any
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{Draw, check_gradient, eval};
    use tensor::Tensor;

    #[test]
    fn an_integer_exponent() {
        let x = Tensor::new(&[2], vec![3.0f32, -2.0]);
        let two = Tensor::scalar(2i64);
        assert_eq!(eval(&Pow, &[&x, &two]).unwrap().to_f32(), [9.0, 4.0]);
        check_gradient(Pow, &[&Draw::new(1).tensor(&[2, 3, 2], 0.5, 2.0), &two], 1, &[0]);
        assert_eq!(eval(&Pow, &[&Tensor::scalar(3i64), &two]).unwrap().to_i64(), [9]);
    }
}
