//! `Clip` (ONNX 6, 11, 12, 13): `min(max(x, low), high)`. Before opset 11 the bounds were attributes.

use crate::shapes::same_dtype;
use ir::{Infer, Io, Layouts, Lower, Op, Pair, Parse, Parsed, QuantRole, Step, Type, Vjp};
use kernels::elementwise::Unary;
use std::sync::Arc;
use tensor::{DType, Tensor};

/// `Clip(x, low?, high?)`: f32, or i64 for shapes; the bounds have one element each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clip;

/// Reads the operator. Bounds at the ends of the float range, the old defaults, count as none.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    let (low, high) = (cx.attrs.float("min", f32::MIN)?, cx.attrs.float("max", f32::MAX)?);
    let given = [(1, low, f32::MIN), (2, high, f32::MAX)];
    let inputs = given
        .into_iter()
        .filter(|(_, bound, none)| bound != none)
        .map(|(slot, bound, _)| (slot, Tensor::scalar(bound)));
    Ok(Parsed { inputs: inputs.collect(), like_operand: true, ..Clip.into() })
}

/// Reads the gradient: it has no attributes.
pub fn parse_grad(_: &Parse) -> Result<Parsed, String> {
    Ok(ClipGrad.into())
}

/// Checks operand 0 and the bounds at `slot` and `slot + 1`.
fn check(cx: &Infer, slot: usize) -> Result<Vec<Type>, String> {
    let x = cx.ty(0)?;
    for i in [slot, slot + 1].into_iter().filter(|&i| cx.has(i)) {
        let bound = cx.ty(i)?;
        same_dtype(x, bound)?;
        if bound.dims().is_some_and(|d| d.iter().product::<usize>() != 1) {
            return Err(format!("a bound should be one number, but input {i} is {bound}"));
        }
    }
    Ok(vec![x.clone()])
}

/// The function, with the bounds of this run.
fn clip(low: Option<&[f32]>, high: Option<&[f32]>) -> Unary {
    let first = |bound: Option<&[f32]>, none: f32| bound.and_then(|b| b.first().copied()).unwrap_or(none);
    Unary::Clip { lo: first(low, f32::NEG_INFINITY), hi: first(high, f32::INFINITY) }
}

impl Op for Clip {
    fn name(&self) -> &str {
        "Clip"
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        check(cx, 1)
    }

    /// For `x` only: a bound that is trained is what PACT is for.
    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        if cx.wants(1) || cx.wants(2) {
            return None;
        }
        let ins = [cx.d_output(0), cx.input(0), cx.input(1), cx.input(2)];
        let dx = cx.add_multi(Arc::new(ClipGrad), &ins, 1)?[0];
        cx.set(0, dx);
        Some(())
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        if cx.input(0)?.dtype == DType::I64 {
            (1..3).try_for_each(|i| cx.optional_typed::<i64>(i).map(|_| ()))?;
            return Ok(Step::new(|io: &mut Io| {
                let mut parts = io.split();
                let bound = |i, none| parts.input::<i64>(i).first().copied().unwrap_or(none);
                let (low, high) = (bound(1, i64::MIN), bound(2, i64::MAX));
                let (x, y): (&[i64], &mut [i64]) = (parts.input(0), parts.output(0));
                y.iter_mut().zip(x).for_each(|(y, &x)| *y = x.max(low).min(high));
                Ok(())
            }));
        }
        cx.typed::<f32>(0)?;
        (1..3).try_for_each(|i| cx.optional_typed::<f32>(i).map(|_| ()))?;
        let run = |io: &mut Io| {
            let bound = |i| if io.has(i) { Some(io.input::<f32>(i)) } else { None };
            let op = clip(bound(1), bound(2));
            match io.pair(0, 0) {
                Pair::InPlace(x) => op.forward_in_place(x),
                Pair::Apart(x, y) => op.forward(x, y),
            }
            Ok(())
        };
        Ok(Step::new(run).in_place(0, 0))
    }

    fn quant(&self) -> QuantRole {
        QuantRole::Clamp
    }

    fn layouts(&self) -> Layouts {
        Layouts::Same { ins: 1, outs: 1 }
    }
}

/// `ClipGrad(dy, x, low?, high?)`: `dy` where `x` is within the bounds (both included), 0 elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClipGrad;

impl Op for ClipGrad {
    fn name(&self) -> &str {
        "ClipGrad"
    }

    fn domain(&self) -> &str {
        "qat"
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        crate::shapes::gradient_of(cx.float(0)?, cx.float(1)?)?;
        check(cx, 2)
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        (0..2).try_for_each(|i| cx.typed::<f32>(i).map(|_| ()))?;
        (2..4).try_for_each(|i| cx.optional_typed::<f32>(i).map(|_| ()))?;
        let run = |io: &mut Io| {
            let mut parts = io.split();
            let op = clip(parts.optional(2), parts.optional(3));
            let (x, dx) = (parts.input(1), parts.output(0));
            match parts.optional(0) {
                Some(dy) => op.grad(x, &[], dy, dx),
                None => op.grad_in_place(x, &[], dx),
            }
            Ok(())
        };
        Ok(Step::new(run).in_place(0, 0))
    }

    fn layouts(&self) -> Layouts {
        Layouts::Same { ins: 0b11, outs: 1 }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{Draw, check_gradient_within, eval, run};
    use ir::Attrs;

    #[test]
    fn bounds() {
        let x = Tensor::new(&[3], vec![-2.0f32, 0.5, 9.0]);
        let (low, high) = (Tensor::scalar(0f32), Tensor::new(&[1], vec![6f32]));
        assert_eq!(eval(&Clip, &[&x, &low, &high]).unwrap().to_f32(), [0.0, 0.5, 6.0]);
        assert_eq!(run(&Clip, &[Some(&x), None, Some(&high)], 1).unwrap()[0].to_f32(), [-2.0, 0.5, 6.0]);
        assert_eq!(eval(&Clip, &[&x]).unwrap(), x);
        assert!(eval(&Clip, &[&x, &x]).unwrap_err().contains("one number"));
        let (x, low) = (Tensor::new(&[2], vec![-3i64, 3]), Tensor::scalar(0i64));
        assert_eq!(eval(&Clip, &[&x, &low]).unwrap().to_i64(), [0, 3]);
    }

    #[test]
    fn attributes_become_inputs() {
        let attrs = Attrs::new().with_float("min", 0.0, f32::MIN).with_float("max", f32::MAX, 0.0);
        let parsed = parse(&Parse { attrs: &attrs, opset: 6, ins: 1, outs: 1 }).unwrap();
        assert_eq!(parsed.inputs, [(1, Tensor::scalar(0f32))]);
        let half = parsed.typed(Some(DType::F16));
        assert_eq!(half.inputs, [(1, Tensor::from_f32(DType::F16, &[], &[0.0]).unwrap())]);
    }

    #[test]
    fn gradient() {
        let mut draw = Draw::new(1);
        let (low, high) = (Tensor::scalar(-1f32), Tensor::scalar(1.5f32));
        for bounds in [[Some(&low), Some(&high)], [None, Some(&high)], [Some(&low), None], [None, None]] {
            let x = draw.tensor_off(&[2, 3, 2, 3], -3.0, 3.0, &[-1.0, 1.5], 0.02);
            let ins = [Some(&x), bounds[0], bounds[1]];
            check_gradient_within(Arc::new(Clip), &ins, 1, &[0], Default::default());
        }
    }
}
