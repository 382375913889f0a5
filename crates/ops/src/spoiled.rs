//! Operands as no model in order has them: of other types, of other shapes, too many or missing. Every operator refuses or
//! computes them. `PROPTEST_CASES` is the number of cases of each operator, 1000 where it is not set: a case takes
//! microseconds.

use crate::gradients::{Case, DRAWN};
use crate::testing::Draw;
use crate::{Ops, operators};
use ir::{Attrs, Budget, Parse, Registry};
use std::panic::{AssertUnwindSafe, catch_unwind};
use tensor::{DType, Tensor};

/// What takes longer is not computed.
const BUDGET: Budget = Budget { elements: 1 << 16, work: 1 << 24 };

/// A tensor of any type; small integers, so that they may be sizes and axes.
fn any(d: &mut Draw, shape: &[usize]) -> Tensor {
    let dtype = if d.chance(3) { DType::I64 } else { d.pick(&DType::all().collect::<Vec<_>>()) };
    let n = shape.iter().product();
    let made = if dtype.is_float() {
        Tensor::from_f32(dtype, shape, &(0..n).map(|_| d.float(-2.0, 4.0)).collect::<Vec<_>>())
    } else {
        let low = if d.chance(2) { -2 } else { 0 };
        Tensor::from_i64(dtype, shape, &(0..n).map(|_| d.int(0, 4) as i64 + low).collect::<Vec<_>>())
    };
    made.unwrap_or_else(|_| Tensor::zeros(dtype, shape))
}

fn any_shape(d: &mut Draw) -> Vec<usize> {
    let mut shape = d.dims(0, 5);
    if d.chance(8) && !shape.is_empty() {
        shape[0] = 0;
    }
    shape
}

/// Operands of a case, some of them others; whatever comes without a case.
fn operands(d: &mut Draw, case: Option<Case>) -> (Attrs, Vec<Option<Tensor>>, usize) {
    let Some(case) = case else {
        let mut ins = Vec::new();
        for _ in 0..d.int(0, 6) {
            let shape = any_shape(d);
            ins.push((!d.chance(8)).then(|| any(d, &shape)));
        }
        return (Attrs::new(), ins, d.int(1, 3));
    };
    let drawn = case(d);
    let mut ins = drawn.ins;
    for operand in &mut ins {
        *operand = match (d.int(0, 5), operand.take()) {
            (0, _) if d.chance(3) => None,
            (0 | 1, Some(t)) => Some(any(d, t.shape())),
            (2, _) => {
                let shape = any_shape(d);
                Some(any(d, &shape))
            }
            (_, same) => same,
        };
    }
    if d.chance(8) {
        let shape = any_shape(d);
        ins.push(Some(any(d, &shape)));
    }
    (drawn.attrs, ins, d.int(1, drawn.outs.max(1) + 1))
}

/// Parses and evaluates what is drawn. Errors are fine.
fn evaluate(domain: &str, name: &str, case: Option<Case>, seed: u64) {
    let d = &mut Draw::new(seed);
    let (attrs, mut ins, outs) = operands(d, case);
    let opset = [26, 21, 13, 10, 7][d.int(0, 4)];
    let cx = Parse { attrs: &attrs, opset, ins: ins.len(), outs };
    let Some(Ok(parsed)) = Ops.parse(domain, name, &cx) else { return };
    for (slot, value) in parsed.inputs {
        ins.resize(ins.len().max(slot + 1), None);
        ins[slot] = Some(value);
    }
    let ins: Vec<Option<&Tensor>> = ins.iter().map(Option::as_ref).collect();
    match parsed.op.evaluator() {
        Some(evaluator) => drop(evaluator.evaluate(&ins)),
        None => drop(ir::eval_within(&*parsed.op, &ins, outs, &mut BUDGET.clone())),
    }
}

#[test]
fn operands_are_refused_or_computed() {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(1000);
    let mut wrong = Vec::new();
    for (domain, name) in operators() {
        let case = DRAWN.iter().find(|(d, n, _)| (*d, *n) == (domain, name)).map(|(.., case)| *case);
        let panics =
            |&seed: &u64| catch_unwind(AssertUnwindSafe(|| evaluate(domain, name, case, seed))).is_err();
        if let Some(seed) = (0..cases).find(panics) {
            wrong.push(format!("{name} (seed {seed})"));
        }
    }
    assert!(wrong.is_empty(), "these panic: {}", wrong.join(", "));
}
