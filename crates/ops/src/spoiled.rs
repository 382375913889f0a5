//! Operands as no model in order has them: of other types, of other shapes, known in part, too many or missing. Every operator
//! refuses them, or computes and transforms them. `PROPTEST_CASES` is the number of cases of each operator, 1000 where it is not
//! set: a case takes microseconds.

use crate::gradients::{Case, DRAWN};
use crate::testing::{Draw, Plus, Project};
use crate::{Ops, operators};
use ir::{Attrs, Budget, Dim, Graph, Op, Parse, Registry, Type, ValueId};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
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
            (2, Some(t)) if d.chance(2) && !t.shape().is_empty() => {
                let mut shape = t.shape().to_vec();
                let axis = d.int(0, shape.len());
                shape[axis] = d.int(0, 5);
                Some(any(d, &shape))
            }
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

/// An operation that is drawn.
struct Operation {
    op: Arc<dyn Op>,
    ins: Vec<Option<Tensor>>,
    outs: usize,
}

impl Operation {
    /// `None` where the operator refuses the attributes.
    fn draw(domain: &str, name: &str, case: Option<Case>, d: &mut Draw) -> Option<Operation> {
        let (attrs, mut ins, outs) = operands(d, case);
        let opset = [26, 21, 13, 10, 7][d.int(0, 4)];
        let cx = Parse { attrs: &attrs, opset, ins: ins.len(), outs };
        let parsed = Ops.parse(domain, name, &cx)?.ok()?;
        for (slot, value) in parsed.inputs {
            ins.resize(ins.len().max(slot + 1), None);
            ins[slot] = Some(value);
        }
        Some(Operation { op: parsed.op, ins, outs })
    }
}

/// Evaluates an operation. Errors are fine.
fn evaluate(drawn: Operation, _: &mut Draw) {
    let Operation { op, ins, outs } = drawn;
    let ins: Vec<Option<&Tensor>> = ins.iter().map(Option::as_ref).collect();
    match op.evaluator() {
        Some(evaluator) => drop(evaluator.evaluate(&ins)),
        None => drop(ir::eval_within(&*op, &ins, outs, &mut BUDGET.clone())),
    }
}

/// A type of which something may be missing.
fn vague(d: &mut Draw, of: &Type) -> Type {
    let mut ty = of.clone();
    ty.shape = ty.shape.filter(|_| !d.chance(4));
    for dim in ty.shape.iter_mut().flatten() {
        match d.int(0, 8) {
            0 => *dim = Dim::Unknown,
            1 => *dim = Dim::Sym("N".into()),
            _ => {}
        }
    }
    ty.dtype = ty.dtype.filter(|_| !d.chance(12));
    ty
}

/// Puts an operation into a graph that knows of its operands only in part; there, it is spelled out, differentiated and
/// written. Errors are fine.
fn transform(drawn: Operation, d: &mut Draw) {
    let Operation { op, ins, outs } = drawn;
    let mut graph = Graph::new("net");
    let mut values: Vec<Option<ValueId>> = Vec::new();
    for value in ins {
        let value = value.map(|value| match d.chance(4) {
            true => graph.add_const("constant", value),
            false => {
                let ty = Type::new(value.dtype(), value.shape().iter().copied());
                graph.add_input("input", vague(d, &ty))
            }
        });
        values.push(if d.chance(12) { values.first().copied().flatten() } else { value });
    }
    let names: Vec<String> = (0..outs).map(|i| format!("y{i}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let Ok(id) = graph.add_node(op.clone(), &values, "node", &names) else { return };
    for opset in [13, 17, 21, 28] {
        let _ = op.to_onnx(opset);
    }
    graph.known(id);
    if let Some(op) = graph.settled(id) {
        let _ = graph.set_op(id, op, &values);
    }
    let mut terms = Vec::new();
    for out in 0..outs {
        let result = ValueId { node: id, out: out as u16 };
        let declared = Type::new(d.pick(&[DType::F32, DType::I64]), any_shape(d));
        if d.chance(4) {
            let _ = graph.refine(result, &vague(d, &declared));
        }
        let ty = graph.ty(result).clone();
        terms.extend([Some(result), Some(graph.add_input("factor", ty))]);
    }
    let Ok(loss) = graph.add_node(Arc::new(Project), &terms, "loss", &["loss"]) else { return };
    let _ = ir::spell_out(&mut graph.clone(), |_| true);
    let wanted: Vec<ValueId> = values.iter().copied().flatten().collect();
    if ir::gradients(&mut graph, loss.into(), &wanted, Arc::new(Plus)).is_ok() {
        let _ = graph.bind(|_, _| Some(2));
    }
}

/// The operators that panic on one of many cases.
fn panics(check: impl Fn(Operation, &mut Draw)) -> String {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(1000);
    let mut wrong = Vec::new();
    for (domain, name) in operators() {
        let case = DRAWN.iter().find(|(d, n, _)| (*d, *n) == (domain, name)).map(|(.., case)| *case);
        let once = |seed| {
            let d = &mut Draw::new(seed);
            Operation::draw(domain, name, case, d).into_iter().for_each(|drawn| check(drawn, d));
        };
        let panics = |&seed: &u64| catch_unwind(AssertUnwindSafe(|| once(seed))).is_err();
        if let Some(seed) = (0..cases).find(panics) {
            wrong.push(format!("{name} (seed {seed})"));
        }
    }
    wrong.join(", ")
}

#[test]
fn operands_are_refused_or_computed() {
    assert_eq!(panics(evaluate), "");
}

#[test]
fn operands_known_in_part_are_refused_or_transformed() {
    assert_eq!(panics(transform), "");
}
