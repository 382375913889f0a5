//! `unroll-loops`: a `Loop` or `Scan` of few rounds, known beforehand, as the rounds themselves.
//!
//! ```text
//! y, ys = Scan <body=step (h, x) => (n, n) { n = Add (h, x) }, num_scan_inputs=1> (h0, x)   # x: float[2,4]
//! ->
//! x0 = Gather <axis=0> (x, {0})
//! n0 = Add (h0, x0)
//! x1 = Gather <axis=0> (x, {1})
//! y = Add (n0, x1)
//! ys = Concat <axis=0> (Unsqueeze (n0, {0}), Unsqueeze (y, {0}))
//! ```
//!
//! Gradients know no loops. For training alone: the file grows with the rounds.

use crate::pass::{Pass, Report, operations};
use ir::{Dim, Graph, GraphError, Kind, NodeId, Subgraph, ValueId};
use ops::{Concat, Gather, Identity, Loop, Scan, Sequence, Unsqueeze};
use std::collections::HashMap;
use std::sync::Arc;
use tensor::Tensor;

/// All rounds of all loops together, those inside of bodies among them, may have so many nodes.
const LIMIT: usize = 1 << 16;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct UnrollLoops;

impl Pass for UnrollLoops {
    fn name(&self) -> &'static str {
        "unroll-loops"
    }

    fn run(&self, graph: &mut Graph, report: &mut Report) -> Result<(), GraphError> {
        // A body may hold loops of its own.
        let (mut done, mut left) = (0, LIMIT);
        loop {
            let mut unrolled = false;
            for id in operations(graph)? {
                let label = graph.node(id).label();
                let plan = match Plan::of(graph, id, left) {
                    None => continue,
                    Some(Err(why)) if done == 0 => {
                        report.skip(self.name(), label, why);
                        continue;
                    }
                    Some(Err(_)) => continue,
                    Some(Ok(plan)) => plan,
                };
                let (name, origin, then) =
                    (graph.node(id).name.clone(), graph.node(id).origin.clone(), graph.now());
                left -= plan.nodes();
                let results = plan.rounds(graph, &name, &origin)?;
                graph.substitute(id, &results, then)?;
                report.done(self.name(), label, format!("{} rounds, one behind the other", plan.rounds));
                unrolled = true;
            }
            if !unrolled {
                return Ok(());
            }
            done += 1;
            graph.sweep();
            graph.infer()?;
        }
    }
}

/// A loop of known length.
struct Plan {
    body: Subgraph,
    rounds: usize,
    /// What the first round begins with.
    states: Vec<ValueId>,
    /// What each round takes one element of.
    read: Vec<(ValueId, Sequence)>,
    /// How the elements that each round gives are put together.
    made: Vec<Sequence>,
    captured: Vec<ValueId>,
    /// The body of a `Loop` takes the round and a condition, and gives a condition.
    counted: bool,
}

impl Plan {
    /// `None` for other operators; a sentence for a loop whose rounds are not known, or more than `most` nodes.
    fn of(graph: &Graph, id: NodeId, most: usize) -> Option<Result<Plan, String>> {
        let node = graph.node(id);
        let plan = match (node.is::<Loop>(), node.is::<Scan>()) {
            (Some(op), _) => Plan::of_loop(graph, id, op),
            (_, Some(op)) => Plan::of_scan(graph, id, op),
            _ => return None,
        };
        Some(plan.and_then(|plan| {
            if plan.rounds == 0 {
                return Err("it has no round".into());
            }
            let (rounds, nodes) = (plan.rounds, plan.nodes());
            if nodes > most {
                let what =
                    format!("its {rounds} rounds would be {nodes} nodes, more than the {most} that are left");
                return Err(what);
            }
            Ok(plan)
        }))
    }

    /// How many nodes its rounds are.
    fn nodes(&self) -> usize {
        self.rounds.saturating_mul(self.body.graph.len() + self.made.len())
    }

    fn of_loop(graph: &Graph, id: NodeId, op: &Loop) -> Result<Plan, String> {
        let ins = &graph.node(id).ins;
        let at = |i: usize| ins.get(i).copied().flatten();
        let constant = |v: ValueId| graph.constant(v).and_then(|t| t.to_i64().first().copied());
        let trips = at(0).and_then(constant).ok_or("the number of its rounds is computed")?;
        if at(1).is_some_and(|v| constant(v) != Some(1)) || !goes_on(&op.body.graph) {
            return Err("a condition decides how long it runs".into());
        }
        let values: Vec<ValueId> = ins.iter().skip(2).flatten().copied().collect();
        let carried = op.body.formals() - 2;
        let results = op.body.graph.outputs().len();
        Ok(Plan {
            body: op.body.clone(),
            rounds: usize::try_from(trips).unwrap_or(0),
            states: values[..carried].to_vec(),
            read: vec![],
            made: vec![Sequence::default(); results - 1 - carried],
            captured: values[carried..].to_vec(),
            counted: true,
        })
    }

    fn of_scan(graph: &Graph, id: NodeId, op: &Scan) -> Result<Plan, String> {
        if op.batched {
            return Err("it has the form of opset 8; convert the model to opset 9".into());
        }
        let values: Vec<ValueId> = graph.node(id).ins.iter().flatten().copied().collect();
        let (own, captured) = values.split_at(op.body.formals());
        let (states, sequences) = own.split_at(op.body.formals() - op.read.len());
        let read: Vec<(ValueId, Sequence)> = sequences.iter().copied().zip(op.read.iter().copied()).collect();
        let steps = read.iter().find_map(|&(v, sequence)| {
            let shape = graph.ty(v).shape.as_ref()?;
            let axis = if sequence.axis < 0 { sequence.axis + shape.len() as i64 } else { sequence.axis };
            shape.get(usize::try_from(axis).ok()?).and_then(Dim::fixed)
        });
        Ok(Plan {
            body: op.body.clone(),
            rounds: steps.ok_or("the length of its sequences is not known")?,
            states: states.to_vec(),
            read,
            made: op.made.clone(),
            captured: captured.to_vec(),
            counted: false,
        })
    }

    fn rounds(&self, graph: &mut Graph, name: &str, origin: &str) -> Result<Vec<ValueId>, GraphError> {
        let add = |graph: &mut Graph, op: Arc<dyn ir::Op>, ins: &[ValueId], label: &str| {
            let ins: Vec<Option<ValueId>> = ins.iter().copied().map(Some).collect();
            let id = graph.add_node(op, &ins, label, &[label])?;
            graph.set_origin(id, origin);
            Ok::<ValueId, GraphError>(id.into())
        };
        let mut leaves = HashMap::new();
        let (mut states, mut made) = (self.states.clone(), vec![Vec::new(); self.made.len()]);
        for round in 0..self.rounds {
            let prefix = format!("{name}/{round}");
            let mut operands = Vec::new();
            if self.counted {
                operands.push(graph.add_const(&format!("{prefix}/round"), Tensor::scalar(round as i64)));
                operands.push(graph.add_const(&format!("{prefix}/cond"), Tensor::bools(&[], &[true])));
            }
            operands.extend(&states);
            for &(v, Sequence { axis, reverse }) in &self.read {
                let i = if reverse { self.rounds - 1 - round } else { round };
                let i = graph.add_const(&format!("{prefix}/step"), Tensor::scalar(i as i64));
                operands.push(add(graph, Arc::new(Gather { axis }), &[v, i], &format!("{prefix}/element"))?);
            }
            operands.extend(&self.captured);
            let mut results = graph.splice(&self.body.graph, &operands, &prefix, origin, &mut leaves)?;
            if self.counted {
                results.remove(0);
            }
            made.iter_mut().zip(results.split_off(states.len())).for_each(|(all, one)| all.push(one));
            states = results;
        }
        for (sequence, mut all) in self.made.iter().zip(made) {
            if sequence.reverse {
                all.reverse();
            }
            let at = graph.add_const(&format!("{name}/axis"), Tensor::new(&[1], vec![sequence.axis]));
            let thick = all
                .into_iter()
                .map(|v| add(graph, Arc::new(Unsqueeze), &[v, at], &format!("{name}/one")))
                .collect::<Result<Vec<_>, _>>()?;
            let axis = sequence.axis;
            states.push(add(graph, Arc::new(Concat { axis }), &thick, &format!("{name}/all"))?);
        }
        Ok(states)
    }
}

/// Whether the body of a `Loop` never ends it: its condition is constant, or the one that it was given.
fn goes_on(body: &Graph) -> bool {
    let (Some(result), Some(&given)) = (body.outputs().first(), body.inputs().get(1)) else { return false };
    let mut v = result.value;
    while let (Some(Identity), Some(&Some(x))) = (body.producer(v), body.node(v.node).ins.first()) {
        v = x;
    }
    match &body.node(v.node).kind {
        Kind::Const(t) => t.to_i64() == [1],
        _ => v == given.into(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use ir::Type;
    use tensor::DType;

    /// `rounds` rounds of a body, in a graph with one input.
    fn rounds(graph: &mut Graph, rounds: i64, x: ValueId, body: Graph) -> ValueId {
        let body = Subgraph { graph: Arc::new(body), captured: 0, encoded: Default::default() };
        let trips = graph.add_const("trips", Tensor::scalar(rounds));
        let ins = [Some(trips), None, Some(x)];
        graph.add_node(Arc::new(Loop { body }), &ins, "loop", &["looped"]).unwrap().into()
    }

    /// A body that carries one number.
    fn body(step: impl FnOnce(&mut Graph, ValueId) -> ValueId) -> Graph {
        let mut graph = Graph::new("body");
        let none = [0usize; 0];
        graph.add_input("round", Type::new(DType::I64, none));
        let cond = graph.add_input("cond", Type::new(DType::Bool, none));
        let x = graph.add_input("x", Type::new(DType::F32, none));
        let y = step(&mut graph, x);
        graph.set_outputs([("cond".to_string(), cond), ("y".to_string(), y)]);
        graph
    }

    #[test]
    fn loops_within_loops_share_the_nodes() {
        let inner = body(|graph, x| graph.add(ops::Neg, &[x], "negated").unwrap());
        let outer = body(|graph, x| rounds(graph, 8000, x, inner));
        let mut graph = Graph::new("net");
        let x = graph.add_input("x", Type::new(DType::F32, [0usize; 0]));
        let y = rounds(&mut graph, 8, x, outer);
        graph.set_outputs([("y".to_string(), y)]);
        UnrollLoops.run(&mut graph, &mut Report::default()).unwrap();
        graph.check().unwrap();
        let left = graph.nodes().into_iter().filter(|&id| graph.node(id).is::<Loop>().is_some()).count();
        assert!(left == 6 && graph.len() < LIMIT, "{left} loops, {} nodes", graph.len());
    }
}
