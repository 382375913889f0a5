//! `Pow` (ONNX 7, 12, 13, 15): `a^b`.

use crate::binary;
use crate::parts::cast;
use crate::shapes::broadcast;
use ir::{Compose, Infer, Layouts, Lower, Op, Parse, Parsed, Step, Type, ValueId, Vjp};
use kernels::elementwise::Binary;

/// `Pow(a, b)`: operands that broadcast; the result has the element type of `a`. Where the exponent is of another, both are
/// computed in the type of the one that is a float.
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

    fn compose(&self, cx: &mut Compose) -> Option<Vec<ValueId>> {
        let (a, b) = (cx.input(0)?, cx.input(1)?);
        let (base, exponent) = (cx.ty(a).dtype?, cx.ty(b).dtype?);
        if base == exponent {
            return None;
        }
        let common = if exponent.is_float() && !base.is_float() { exponent } else { base };
        let (a, b) = (cast(cx, a, common)?, cast(cx, b, common)?);
        let y = cx.add(Pow, &[a, b])?;
        Some(vec![cast(cx, y, base)?])
    }

    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        binary::vjp(Binary::Pow, cx)
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        match (cx.input(0)?.dtype, cx.input(1)?.dtype) {
            (a, b) if a == b => binary::lower(Binary::Pow, cx),
            (a, b) => Err(format!("the executor computes in one type, but the operands are {a} and {b}")),
        }
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
        assert_eq!(
            eval(&Pow, &[&Tensor::scalar(3i32), &Tensor::scalar(2.5f32)]).unwrap(),
            Tensor::scalar(15i32)
        );
    }
}
