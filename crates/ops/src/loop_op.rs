//! `Loop` (ONNX 1 to 25): a sub-graph, again and again.

use crate::shapes::untouched;
use crate::{Concat, Scan};
use ir::{Attr, Attrs, Dim, Evaluate, Infer, Op, Parse, Parsed, Subgraph, Type};
use tensor::{DType, Tensor};

/// More rounds than this are taken for a loop that never ends.
const ROUNDS: i64 = 1 << 20;

/// `Loop(trip count?, cond?, carried..., captured...)`: runs the body, which takes `(round, cond, carried...)` and gives
/// `(cond, carried..., scanned...)`, as often as `trip count` (an i64) says and while `cond` holds. The results are the
/// carried values of the last round, and the scanned ones of all rounds stacked along a new first axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Loop {
    /// What runs in each round.
    pub body: Subgraph,
}

/// Reads the operator, where its sub-graph could be read.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    let Some(body) = cx.attrs.subgraph("body").filter(|b| b.formals() >= 2 && !is_deep(b)).cloned() else {
        return Ok(untouched("Loop", cx));
    };
    let (carried, results) = (body.formals() - 2, body.graph.outputs().len());
    let given = cx.ins.saturating_sub(2);
    if given != carried {
        return Err(format!("the body carries {carried} values, but {given} are given to begin with"));
    }
    if results < 1 + carried || cx.outs > results - 1 {
        let outs = cx.outs;
        return Err(format!(
            "the body should have a condition, {carried} carried values, and results for {outs} in all, but has {results}"
        ));
    }
    // Captured values stand behind the count and the condition, given or not: slot 1 is there in any case.
    Ok(Parsed { moved: vec![(1, 1)], ..Loop { body }.into() })
}

/// Types of a body's results once every round is possible, where results `first..` are the values `carried` of the next round.
pub(crate) fn settled(
    mut carried: Vec<Type>,
    first: usize,
    body: impl Fn(&[Type]) -> Result<Vec<Type>, String>,
) -> Result<Vec<Type>, String> {
    for _ in 0..2 {
        let results = body(&carried)?;
        let next: Vec<Type> = carried.iter().zip(&results[first..]).map(|(a, b)| a.common(b)).collect();
        if next == carried {
            return Ok(results);
        }
        carried = next;
    }
    // What changed may change all others, one more in each round: these are not followed.
    carried.iter_mut().for_each(|ty| ty.shape = None);
    let results = body(&carried)?;
    match carried.iter().zip(&results[first..]).find(|(a, b)| a.common(b) != **a) {
        Some((before, after)) => Err(format!("the body makes {after} of {before}, which it carries on")),
        None => Ok(results),
    }
}

/// More loops than this within each other are not read: what the inner ones make is found several times for each round of the
/// outer ones.
const NESTED: usize = 4;

/// Whether loops stand in each other too deep within this sub-graph.
pub(crate) fn is_deep(body: &Subgraph) -> bool {
    fn loops(body: &Subgraph) -> usize {
        let ops = body.graph.nodes().into_iter().filter_map(|id| body.graph.node(id).op());
        let within = ops.filter(|op| op.has_subgraphs()).map(|op| {
            let own = usize::from(op.is::<Loop>().is_some() || op.is::<Scan>().is_some());
            let bodies = op.attrs();
            let inner = bodies.iter().filter_map(|(_, attr)| match attr {
                Attr::Graph(body) => Some(loops(body)),
                _ => None,
            });
            own + inner.max().unwrap_or(0)
        });
        within.max().unwrap_or(0)
    }
    loops(body) >= NESTED
}

impl Loop {
    fn carried(&self) -> usize {
        self.body.formals() - 2
    }

    /// Types of the body's results once every round is possible.
    fn types(&self, carried: Vec<Type>, captured: &[Type]) -> Result<Vec<Type>, String> {
        let head = [Type::new(DType::I64, [0usize; 0]), Type::of(DType::Bool)];
        settled(carried, 1, |carried| self.body.infer(&[&head, carried, captured].concat()))
    }

    /// Runs the body. `begin` says how often at most, whether at all, and with which values.
    fn run(&self, ins: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
        let first = |i: usize| ins.get(i).copied().flatten().and_then(|t| t.to_i64().first().copied());
        let (trips, mut cond) = (first(0), first(1).unwrap_or(1) != 0);
        let values: Vec<Tensor> = ins.iter().skip(2).flatten().map(|&t| t.clone()).collect();
        if values.len() != self.carried() + self.body.captured {
            return Err("a value with which the loop begins is missing".into());
        }
        let (carried, captured) = values.split_at(self.carried());
        let mut carried = carried.to_vec();
        let scanned = self.body.graph.outputs().len() - 1 - carried.len();
        let mut stacks: Vec<Vec<Tensor>> = vec![Vec::new(); scanned];
        let mut round = 0;
        while cond && trips.is_none_or(|n| round < n) {
            if round >= ROUNDS {
                return Err(format!("the loop did not end within {ROUNDS} rounds"));
            }
            let head = [Tensor::scalar(round), Tensor::bools(&[], &[cond])];
            let mut results =
                self.body.run(head.into_iter().chain(carried).chain(captured.iter().cloned()))?;
            cond = results[0].to_i64().first().is_some_and(|&c| c != 0);
            stacks.iter_mut().zip(results.split_off(1 + self.carried())).for_each(|(all, one)| all.push(one));
            carried = results.split_off(1);
            round += 1;
        }
        let types = |values: &[Tensor]| -> Vec<Type> {
            values.iter().map(|t| Type::new(t.dtype(), t.shape().iter().copied())).collect()
        };
        let known = self.types(types(&carried), &types(captured))?;
        let results = stacks.iter().zip(&known[1 + self.carried()..]).map(|(all, ty)| stacked(all, 0, ty));
        carried.extend(results.collect::<Result<Vec<_>, _>>()?);
        Ok(carried)
    }
}

/// Values of all rounds along a new axis; none at all where there was no round.
pub(crate) fn stacked(all: &[Tensor], axis: i64, ty: &Type) -> Result<Tensor, String> {
    let Some(first) = all.first() else {
        let (Some(dtype), Some(shape)) = (ty.dtype, &ty.shape) else {
            return Err(format!("no round ran, and of what it would stack only {ty} is known"));
        };
        let mut sizes: Vec<usize> = shape.iter().map(|d| d.fixed().unwrap_or(0)).collect();
        let at = crate::shapes::axis(axis, sizes.len() + 1)?;
        sizes.insert(at, 0);
        return Ok(Tensor::zeros(dtype, &sizes));
    };
    let at = crate::shapes::axis(axis, first.shape().len() + 1)?;
    let thick = |t: &Tensor| {
        let mut sizes = t.shape().to_vec();
        sizes.insert(at, 1);
        t.reshape(&sizes).map_err(|e| e.to_string())
    };
    let thick = all.iter().map(thick).collect::<Result<Vec<_>, _>>()?;
    let ins: Vec<Option<&Tensor>> = thick.iter().map(Some).collect();
    let joined = ir::eval(&Concat { axis: at as i64 }, &ins, 1).map_err(|e| e.0)?;
    joined.into_iter().next().ok_or_else(|| "nothing was stacked".to_string())
}

impl Op for Loop {
    fn name(&self) -> &str {
        "Loop"
    }

    fn attrs(&self) -> Attrs {
        Attrs::new().with("body", Attr::Graph(self.body.clone()))
    }

    fn captured(&self) -> usize {
        self.body.captured
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let values = (2..cx.len()).map(|i| cx.ty(i).cloned()).collect::<Result<Vec<_>, _>>()?;
        if values.len() != self.carried() + self.body.captured {
            return Err("a value with which the loop begins is missing".into());
        }
        let (carried, captured) = values.split_at(self.carried());
        let results = self.types(carried.to_vec(), captured)?;
        let kept = carried.iter().zip(&results[1..]).map(|(a, b)| a.common(b));
        let scanned = results[1 + carried.len()..].iter().map(|ty| Type {
            shape: ty.shape.as_ref().map(|s| [Dim::Unknown].into_iter().chain(s.iter().cloned()).collect()),
            ..*ty
        });
        Ok(kept.chain(scanned).collect())
    }

    fn evaluator(&self) -> Option<&dyn Evaluate> {
        Some(self)
    }
}

impl Evaluate for Loop {
    fn evaluate(&self, ins: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
        self.run(ins)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use ir::Graph;
    use std::sync::Arc;

    #[test]
    fn captured_values_stand_behind_a_condition_that_is_not_given() {
        let mut body = Graph::new("body");
        let round = body.add_input("round", Type::new(DType::I64, [0usize; 0]));
        let cond = body.add_input("cond", Type::new(DType::Bool, [0usize; 0]));
        let x = body.add_input("x", Type::unknown());
        let sum = body.add(crate::Add, &[round, x], "sum").unwrap();
        body.add_output("cond", cond);
        body.add_output("sum", sum);
        let body = Subgraph { graph: Arc::new(body), captured: 1, encoded: Default::default() };
        let attrs = Attrs::new().with("body", Attr::Graph(body));
        let parsed = parse(&Parse { attrs: &attrs, opset: 17, ins: 1, outs: 1 }).unwrap();
        assert_eq!(parsed.moved, [(1, 1)]);
        let (trips, x) = (Tensor::scalar(3i64), Tensor::scalar(10i64));
        let y = ir::eval(&*parsed.op, &[Some(&trips), None, Some(&x)], 1).unwrap();
        assert_eq!(y[0].to_i64(), [10, 11, 12]);
    }
}
