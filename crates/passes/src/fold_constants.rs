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

/// Results above this size are not stored, so that folding an `Expand` cannot blow up the file.
const LIMIT: usize = 16 << 20;

/// Work for which constants are evaluated in any graph, and for each element of its constants: weights go through several
/// operations, but what takes much longer than to read them is done as the graph runs.
const WORK: u64 = 1 << 28;
const WORK_PER_ELEMENT: u64 = 64;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct FoldConstants;

impl Pass for FoldConstants {
    fn name(&self) -> &'static str {
        "fold-constants"
    }

    fn run(&self, graph: &mut Graph, report: &mut Report) -> Result<(), GraphError> {
        let constants = graph.nodes().into_iter().filter_map(|id| graph.tensor(id.into()));
        let elements: u64 = constants.map(|t| t.len() as u64).sum();
        let mut budget = Budget { elements: LIMIT, work: WORK + WORK_PER_ELEMENT * elements };
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
            let folded = known.or_else(|| evaluate_node(graph, id.into(), &mut budget));
            if let Some(value) = folded {
                let label = graph.node(id).label();
                let name = graph.value(id.into()).name.clone();
                let constant = graph.add_const(&name, value);
                graph.swap_names(id.into(), constant);
                graph.replace(id.into(), constant)?;
                report.done(self.name(), label, "depends on constants alone");
            }
        }
        // Shapes behind the folded values are better known now.
        graph.infer()
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

/// The result of an operation whose operands are all constant; `None` when they are not, or it cannot be computed.
fn evaluate_node(graph: &Graph, v: ValueId, budget: &mut Budget) -> Option<Tensor> {
    let node = graph.node(v.node);
    let ins: Vec<Option<&Tensor>> = node
        .ins
        .iter()
        .map(|v| v.map(|v| graph.constant(v)).map_or(Some(None), |t| t.map(Some)))
        .collect::<Option<_>>()?;
    if node.ins.is_empty() {
        return None;
    }
    ir::eval_within(node.op()?, &ins, node.outs.len(), budget).ok()?.into_iter().nth(v.out as usize)
}

/// The value of anything that depends on constants and variables alone, computed without changing the graph; `None` also
/// where something on the way is much larger than these, or takes much longer.
pub(crate) fn evaluate(graph: &Graph, v: ValueId) -> Option<Tensor> {
    let mut known: HashMap<NodeId, Vec<Tensor>> = HashMap::new();
    let mut budget = Budget { elements: LIMIT, work: WORK / 16 };
    let mut todo = vec![v.node];
    while let Some(&id) = todo.last() {
        if known.contains_key(&id) {
            todo.pop();
            continue;
        }
        let node = graph.node(id);
        let waiting = todo.len();
        todo.extend(node.ins.iter().flatten().map(|v| v.node).filter(|n| !known.contains_key(n)));
        if todo.len() > waiting {
            continue;
        }
        todo.pop();
        let values = match graph.tensor(id.into()) {
            Some(t) => {
                budget.work += WORK_PER_ELEMENT * t.len() as u64;
                budget.elements = budget.elements.max(t.len());
                vec![t.clone()]
            }
            None => {
                let operand = |v: &ValueId| known.get(&v.node)?.get(v.out as usize);
                let ins =
                    node.ins.iter().map(|v| v.as_ref().map(operand).map_or(Some(None), |t| t.map(Some)));
                let ins = ins.collect::<Option<Vec<_>>>()?;
                ir::eval_within(node.op()?, &ins, node.outs.len(), &mut budget).ok()?
            }
        };
        known.insert(id, values);
    }
    known.remove(&v.node)?.into_iter().nth(v.out as usize)
}
