//! `qat.SumTo`: the gradient of broadcasting. Sums over the dimensions in which an operand was repeated.

use ir::{Infer, Io, Layouts, Lower, Op, Parse, Parsed, Step, Type, Vjp};
use kernels::reduce::{Reduce, Reduction};

/// `SumTo(dy, like)`: `dy` f32, summed to the shape of `like`, which broadcasts to the shape of `dy`. Only the shape of
/// `like` is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SumTo;

/// Reads the operator: it has no attributes.
pub fn parse(_: &Parse) -> Result<Parsed, String> {
    Ok(SumTo.into())
}

impl Op for SumTo {
    fn name(&self) -> &str {
        "SumTo"
    }

    fn domain(&self) -> &str {
        "qat"
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let (dy, like) = (cx.float(0)?, cx.ty(1)?);
        if let (Some(from), Some(to)) = (dy.dims(), like.dims()) {
            Reduction::to_shape(&from, &to).map_err(|e| e.to_string())?;
        }
        Ok(vec![Type { dtype: dy.dtype, shape: like.shape.clone() }])
    }

    /// The gradient of a sum repeats: `dy + 0 like`, which broadcasts, would read `like`; `Expand` does not.
    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        let shape: Vec<i64> = cx.dims(cx.input(0)?)?.iter().map(|&d| d as i64).collect();
        let shape = cx.constant_value(crate::shapes::list(&shape));
        let d = cx.add(crate::Expand, &[cx.d_output(0)?, shape])?;
        cx.set(0, d);
        Some(())
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let (dy, result) = (cx.typed::<f32>(0)?, &cx.outs[0]);
        if dy.len() == result.len() {
            return Ok(Step::view());
        }
        let plan =
            Reduction::to_shape(&dy.memory_shape(), &result.memory_shape()).map_err(|e| e.to_string())?;
        let workspace = plan.workspace();
        let run = move |io: &mut Io| {
            let mut parts = io.split();
            plan.run(
                Reduce::Sum,
                parts.input(0),
                parts.output(0),
                &mut parts.workspace()[..plan.workspace()],
            );
            Ok(())
        };
        Ok(Step::new(run).workspace::<f32>(workspace))
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
    fn sums_where_the_operand_was_repeated() {
        let dy = Tensor::new(&[2, 3], vec![1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let sum = |like: &[usize]| {
            eval(&SumTo, &[&dy, &Tensor::zeros(tensor::DType::F32, like)]).map(|t| t.to_f32())
        };
        assert_eq!(sum(&[3]).unwrap(), [5.0, 7.0, 9.0]);
        assert_eq!(sum(&[2, 1]).unwrap(), [6.0, 15.0]);
        assert_eq!(sum(&[]).unwrap(), [21.0]);
        assert_eq!(sum(&[2, 3]).unwrap(), dy.to_f32());
        assert!(sum(&[2]).unwrap_err().contains("[2, 3] and [2]"));
        assert!(sum(&[1, 2, 3]).is_err());
    }

    #[test]
    fn gradient() {
        let mut draw = Draw::new(3);
        for _ in 0..20 {
            let rank = draw.int(0, 5);
            let full = draw.shape(rank, 4);
            let like = draw.broadcast_operand(&full);
            let (dy, like) = (draw.tensor(&full, -1.0, 1.0), draw.tensor(&like, -1.0, 1.0));
            check_gradient(SumTo, &[&dy, &like], 1, &[0]);
        }
    }
}
