//! `Mod` (ONNX 10, 13, 28): the remainder of a division.

use crate::binary::{infer, lower_map};
use crate::shapes::sum_to;
use crate::{Div, Mul, Round, Sub};
use ir::{Attrs, Infer, Layouts, Lower, Op, Parse, Parsed, Step, Type, Vjp};
use tensor::DType;

/// `Mod(a, b)`: the remainder of `a / b`, of operands of one type that broadcast.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mod {
    /// The remainder has the sign of `a`, as in C, instead of that of `b`, as in Python.
    pub fmod: bool,
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    Ok(Mod { fmod: cx.attrs.int("fmod", 0)? != 0 }.into())
}

impl Op for Mod {
    fn name(&self) -> &str {
        "Mod"
    }

    fn attrs(&self) -> Attrs {
        Attrs::new().with_int("fmod", self.fmod.into(), 0)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        infer(cx)
    }

    /// With `q = (a - y) / b`, the whole number of times that `b` goes into `a`: `da = dy` and `db = -q dy`.
    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        let (dy, a, b) = (cx.d_output(0)?, cx.input(0)?, cx.input(1)?);
        if cx.wants(0) {
            let d = sum_to(cx, dy, a)?;
            cx.set(0, d);
        }
        if cx.wants(1) {
            let y = cx.output(0);
            let minus = cx.add(Sub, &[y, a])?;
            let times = cx.add(Div, &[minus, b])?;
            let times = cx.add(Round, &[times])?;
            let d = cx.add(Mul, &[dy, times])?;
            let d = sum_to(cx, d, b)?;
            cx.set(1, d);
        }
        Some(())
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let fmod = self.fmod;
        match cx.input(0)?.dtype {
            DType::F32 => lower_map::<f32>(cx, move |a, b| {
                let c = a % b;
                Ok(if !fmod && c != 0.0 && (c < 0.0) != (b < 0.0) { c + b } else { c })
            }),
            DType::I64 => lower_map::<i64>(cx, move |a, b| {
                if b == 0 {
                    return Err(format!("the remainder of {a} by 0"));
                }
                let c = a.wrapping_rem(b);
                Ok(if !fmod && c != 0 && (c < 0) != (b < 0) { c + b } else { c })
            }),
            DType::U64 => lower_map::<u64>(cx, |a, b| {
                a.checked_rem(b).ok_or_else(|| format!("the remainder of {a} by 0"))
            }),
            other => Err(format!("the executor computes no remainders of {other}")),
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
    use crate::testing::eval;
    use tensor::Tensor;

    #[test]
    fn signs() {
        let (a, b) = (Tensor::new(&[4], vec![7i64, -7, 7, -7]), Tensor::new(&[4], vec![3i64, 3, -3, -3]));
        assert_eq!(eval(&Mod { fmod: false }, &[&a, &b]).unwrap().to_i64(), [1, 2, -2, -1]);
        assert_eq!(eval(&Mod { fmod: true }, &[&a, &b]).unwrap().to_i64(), [1, -1, 1, -1]);
        let (x, y) = (Tensor::new(&[2], vec![-4.5f32, 4.5]), Tensor::scalar(2f32));
        assert_eq!(eval(&Mod { fmod: true }, &[&x, &y]).unwrap().to_f32(), [-0.5, 0.5]);
        assert!(eval(&Mod::default(), &[&a, &Tensor::scalar(0i64)]).unwrap_err().contains("by 0"));
    }
}
