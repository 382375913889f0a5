//! `fold-constants`: evaluates what depends on constants alone.
//!
//! ```text
//! shape = Shape (x)                                     # x: float[2,8,4,4]
//! axis = Constant <value_int=1>
//! tail = Gather (shape, axis)
//! ->
//! tail = {8}
//! ```
//!
//! Where only some sizes are known, those alone are taken of a shape. Dequantized constants stay: they are weights in
//! their quantized form, not work to be saved.

use crate::pass::{Pass, Report, operations};
use ir::{Budget, Dim, Graph, GraphError, NodeId, Type, ValueId};
use ops::{DequantizeLinear, FakeQuant, Gather, Shape, Slice};
use std::collections::HashMap;
use tensor::Tensor;

/// Results of more elements are not stored, so that folding an `Expand` cannot blow up the file.
const LIMIT: usize = 16 << 20;

/// Bytes of constants that a pass adds to any graph; where its constants have more, as many as these.
pub(crate) const ROOM: usize = 128 << 20;

/// Work for which constants are evaluated in any graph, and for each byte of its constants: weights go through several
/// operations, but what takes much longer than to read them is done as the graph runs.
const WORK: u64 = 1 << 26;
const WORK_PER_BYTE: u64 = 4;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct FoldConstants;

impl Pass for FoldConstants {
    fn name(&self) -> &'static str {
        "fold-constants"
    }

    fn run(&self, graph: &mut Graph, report: &mut Report) -> Result<(), GraphError> {
        Folding::of(graph).run(graph, report)
    }
}

/// What may still be spent on folding a graph. A pass that folds again and again does so with one: what was folded counts as
/// constants of the graph for the next.
pub(crate) struct Folding {
    work: u64,
    /// Bytes of results.
    room: usize,
}

impl Folding {
    pub(crate) fn of(graph: &Graph) -> Folding {
        let constants = graph.nodes().into_iter().filter_map(|id| graph.tensor(id.into()));
        let bytes: usize = constants.map(|t| t.bytes().len()).sum();
        Folding { work: WORK + WORK_PER_BYTE * bytes as u64, room: ROOM.max(bytes) }
    }

    pub(crate) fn run(&mut self, graph: &mut Graph, report: &mut Report) -> Result<(), GraphError> {
        for id in operations(graph)? {
            let node = graph.node(id);
            if node.is::<DequantizeLinear>().is_some()
                || node.is::<FakeQuant>().is_some()
                || node.outs.len() != 1
            {
                continue;
            }
            // A constant shape is one even when the tensor is not.
            let known = graph.known(id).or_else(|| known_sizes(graph, id));
            let folded = known.or_else(|| self.evaluate(graph, id));
            if let Some(value) = folded.filter(|value| value.bytes().len() <= self.room) {
                self.room -= value.bytes().len();
                let label = graph.node(id).label();
                let name = graph.value(id.into()).name.clone();
                let constant = graph.add_const(&name, value);
                graph.swap_names(id.into(), constant);
                graph.replace(id.into(), constant)?;
                report.done(FoldConstants.name(), label, "depends on constants alone");
            }
        }
        // Shapes behind the folded values are better known now.
        graph.infer()
    }

    /// The only result of an operation whose operands are all constant; `None` when they are not, or it cannot be computed.
    fn evaluate(&mut self, graph: &Graph, id: NodeId) -> Option<Tensor> {
        let node = graph.node(id);
        let ins: Vec<Option<&Tensor>> = node
            .ins
            .iter()
            .map(|v| v.map(|v| graph.constant(v)).map_or(Some(None), |t| t.map(Some)))
            .collect::<Option<_>>()?;
        if node.ins.is_empty() {
            return None;
        }
        // What there is no room for is not computed.
        let mut budget = Budget { elements: LIMIT.min(self.room), work: self.work };
        let results = ir::eval_within(node.op()?, &ins, 1, &mut budget);
        self.work = budget.work;
        results.ok()?.into_iter().next()
    }
}

/// What a `Gather` or `Slice` takes of a shape, where it takes known sizes alone: those two move values, so it does if the
/// result is the same for two values of the sizes that are not known.
fn known_sizes(graph: &Graph, id: NodeId) -> Option<Tensor> {
    let node = graph.node(id);
    let op = node.op().filter(|_| node.is::<Gather>().is_some() || node.is::<Slice>().is_some())?;
    let shape = node.ins.first().copied()??;
    let of = graph.producer::<Shape>(shape)?;
    let x = graph.ty(graph.node(shape.node).ins.first().copied()??);
    let taken = |unknown: usize| {
        let sizes = x.shape.as_ref()?.iter().map(|d| d.fixed().unwrap_or(unknown));
        let sizes = of.value(&Type { shape: Some(sizes.map(Dim::Fixed).collect()), ..*x })?;
        let rest = node.ins[1..].iter().map(|v| v.map(|v| graph.constant(v)));
        let rest = rest.map(|t| t.map_or(Some(None), |t| t.map(Some)));
        let ins = std::iter::once(Some(Some(&sizes))).chain(rest).collect::<Option<Vec<_>>>()?;
        ir::eval(op, &ins, 1).ok()?.into_iter().next()
    };
    let (one, other) = (taken(2)?, taken(3)?);
    (one == other).then_some(one)
}

/// The value of anything that depends on constants and variables alone, computed without changing the graph; `None` also
/// where something on the way is much larger than these, or takes much longer.
pub(crate) fn evaluate(graph: &Graph, v: ValueId) -> Option<Tensor> {
    Evaluator::default().value(graph, v)
}

/// Evaluates values of one graph as [`evaluate`] does, each once, and all of them within one budget.
pub(crate) struct Evaluator {
    budget: Budget,
    /// Results of nodes; `None` where there are none.
    known: HashMap<NodeId, Option<Vec<Tensor>>>,
    /// Bytes of the results of operations, and how many of them are kept.
    stored: usize,
    room: usize,
}

impl Default for Evaluator {
    fn default() -> Evaluator {
        let budget = Budget { elements: LIMIT, work: WORK / 4 };
        Evaluator { budget, known: HashMap::new(), stored: 0, room: ROOM }
    }
}

impl Evaluator {
    pub(crate) fn value(&mut self, graph: &Graph, v: ValueId) -> Option<Tensor> {
        if self.stored > self.room {
            self.known.retain(|&id, _| graph.tensor(id.into()).is_some());
            self.stored = 0;
        }
        if self.find(graph, v.node).is_none() {
            self.known.insert(v.node, None);
        }
        self.known.get(&v.node)?.as_ref()?.get(v.out as usize).cloned()
    }

    /// Evaluates a node and what it depends on; `None` where that cannot be done.
    fn find(&mut self, graph: &Graph, id: NodeId) -> Option<()> {
        let mut todo = vec![id];
        while let Some(&id) = todo.last() {
            if self.known.contains_key(&id) {
                todo.pop();
                continue;
            }
            let node = graph.node(id);
            let waiting = todo.len();
            todo.extend(node.ins.iter().flatten().map(|v| v.node).filter(|n| !self.known.contains_key(n)));
            if todo.len() > waiting {
                continue;
            }
            todo.pop();
            let values = match graph.tensor(id.into()) {
                Some(t) => {
                    self.budget.work += WORK_PER_BYTE * t.bytes().len() as u64;
                    self.budget.elements = self.budget.elements.max(t.len());
                    self.room += t.bytes().len();
                    vec![t.clone()]
                }
                None => {
                    let operand = |v: &ValueId| self.known.get(&v.node)?.as_ref()?.get(v.out as usize);
                    let ins = node
                        .ins
                        .iter()
                        .map(|v| v.as_ref().map(operand).map_or(Some(None), |t| t.map(Some)))
                        .collect::<Option<Vec<_>>>()?;
                    let values = ir::eval_within(node.op()?, &ins, node.outs.len(), &mut self.budget).ok()?;
                    self.stored += values.iter().map(|t| t.bytes().len()).sum::<usize>();
                    if self.stored > 2 * self.room {
                        return None;
                    }
                    values
                }
            };
            self.known.insert(id, Some(values));
        }
        Some(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use ops::Ops;

    fn constants(graph: &Graph) -> usize {
        graph.nodes().into_iter().filter_map(|id| graph.tensor(id.into())).map(|t| t.bytes().len()).sum()
    }

    #[test]
    fn results_have_one_room_together() {
        let made: Vec<String> = (0..8).map(|i| format!("m{i} = Expand (one, sizes)")).collect();
        let sums: Vec<String> = (0..8).map(|i| format!("y{} = Add (y{i}, m{i})", i + 1)).collect();
        let text = format!(
            "net (int64[64] y0) => (int64[64] y8) <int64[] one = {{1}}, int64[1] sizes = {{64}}> {{ {} {} }}",
            made.join(" "),
            sums.join(" ")
        );
        let mut graph = ir::text::parse(&text, &Ops).unwrap();
        let before = constants(&graph);
        let mut folding = Folding { room: 1200, ..Folding::of(&graph) };
        for _ in 0..2 {
            folding.run(&mut graph, &mut Report::default()).unwrap();
            graph.sweep();
            graph.check().unwrap();
            assert_eq!(constants(&graph), before + 2 * 512);
        }
    }

    #[test]
    fn a_value_is_computed_once() {
        let text = "net () => (float[] y)
            <float[] one = {1.0}, int64[1] sizes = {4096}, int64[1] axes = {0}>
            {
              wide = Expand (one, sizes)
              y = ReduceSum <keepdims=0> (wide, axes)
            }";
        let graph = ir::text::parse(text, &Ops).unwrap();
        let (y, mut evaluator) = (graph.outputs()[0].value, Evaluator::default());
        let first = evaluator.value(&graph, y).unwrap();
        assert_eq!(first.to_f32(), [4096.0]);
        let left = evaluator.budget.work;
        assert_eq!(evaluator.value(&graph, y).unwrap(), first);
        assert_eq!(evaluator.budget.work, left);
        // What was forgotten is computed again; constants count once.
        (evaluator.stored, evaluator.room) = (1 << 15, 1 << 14);
        assert_eq!(evaluator.value(&graph, y).unwrap(), first);
        assert!(evaluator.budget.work < left);
    }
}
