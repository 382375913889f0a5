//! `Where` (ONNX 9, 16): chooses between two operands element by element.

use crate::binary::plan;
use crate::shapes::{broadcast, by_width, same_dtype, sum_to};
use ir::{Infer, Io, Layouts, Lower, Op, Parse, Parsed, Step, Type, Vjp};
use tensor::{DType, Tensor};

/// `Where(condition, a, b)`: `a` where the boolean holds, else `b`; all three broadcast.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Where;

/// Reads the operator: it has no attributes.
pub fn parse(_: &Parse) -> Result<Parsed, String> {
    Ok(Where.into())
}

impl Op for Where {
    fn name(&self) -> &str {
        "Where"
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let (condition, a, b) = (cx.ty(0)?, cx.ty(1)?, cx.ty(2)?);
        if condition.dtype.is_some_and(|d| d != DType::Bool) {
            return Err(format!("the condition should be boolean, but is {condition}"));
        }
        let choices = Type { dtype: same_dtype(a, b)?, shape: broadcast(a, b)? };
        Ok(vec![Type { shape: broadcast(condition, &choices)?, ..choices }])
    }

    /// Each choice gets the gradient where it was taken.
    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        let (dy, condition) = (cx.d_output(0)?, cx.input(0)?);
        for i in [1, 2] {
            if cx.wants(i) {
                let (operand, zero) = (cx.input(i)?, cx.constant_value(Tensor::scalar(0f32)));
                let d = cx.add(Where, &if i == 1 { [condition, dy, zero] } else { [condition, zero, dy] })?;
                let d = sum_to(cx, d, operand)?;
                cx.set(i, d);
            }
        }
        Some(())
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let plan = plan([cx.input(0)?, cx.input(1)?, cx.input(2)?], &cx.outs[0])?;
        by_width!(cx.outs[0].dtype, T => Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let (a, b) = (parts.input::<T>(1), parts.input::<T>(2));
            kernels::elementwise::select(&plan, parts.input(0), a, b, parts.output(0));
            Ok(())
        })))
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

    #[test]
    fn chooses() {
        let condition = Tensor::bools(&[2, 1], &[true, false]);
        let (a, b) = (Tensor::new(&[3], vec![1i64, 2, 3]), Tensor::scalar(-1i64));
        assert_eq!(eval(&Where, &[&condition, &a, &b]).unwrap().to_i64(), [1, 2, 3, -1, -1, -1]);
        assert!(eval(&Where, &[&a, &a, &b]).unwrap_err().contains("boolean"));
    }

    #[test]
    fn gradient() {
        let mut draw = Draw::new(1);
        for _ in 0..12 {
            let rank = draw.int(0, 5);
            let full = draw.shape(rank, 3);
            let condition = draw.broadcast_operand(&full);
            let holds: Vec<bool> = (0..condition.iter().product()).map(|_| draw.int(0, 2) == 0).collect();
            let (a, b) = (draw.broadcast_operand(&full), full);
            let (a, b) = (draw.tensor(&a, -1.0, 1.0), draw.tensor(&b, -1.0, 1.0));
            check_gradient(Where, &[&Tensor::bools(&condition, &holds), &a, &b], 1, &[1, 2]);
        }
    }
}
