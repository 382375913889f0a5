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
//! Dequantized constants stay: they are weights in their quantized form, not work to be saved.

use crate::pass::{Pass, Report, operations};
use ir::{Graph, GraphError, ValueId};
use ops::{DequantizeLinear, FakeQuant};
use tensor::Tensor;

/// Results above this size are not stored, so that folding an `Expand` cannot blow up the file.
const LIMIT: usize = 16 << 20;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct FoldConstants;

impl Pass for FoldConstants {
    fn name(&self) -> &'static str {
        "fold-constants"
    }

    fn run(&self, graph: &mut Graph, report: &mut Report) -> Result<(), GraphError> {
        for id in operations(graph)? {
            let node = graph.node(id);
            if node.is::<DequantizeLinear>().is_some()
                || node.is::<FakeQuant>().is_some()
                || node.outs.len() != 1
            {
                continue;
            }
            // A constant shape is one even when the tensor is not.
            let folded = graph.known(id).or_else(|| evaluate_node(graph, id.into()));
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

/// The result of an operation whose operands are all constant; `None` when they are not, or it cannot be computed.
fn evaluate_node(graph: &Graph, v: ValueId) -> Option<Tensor> {
    let node = graph.node(v.node);
    let op = node.op()?;
    let ins: Vec<Option<&Tensor>> = node
        .ins
        .iter()
        .map(|v| v.map(|v| graph.constant(v)).map_or(Some(None), |t| t.map(Some)))
        .collect::<Option<_>>()?;
    let elements = graph.ty(v).dims().map_or(Some(0), |d| tensor::element_count(&d));
    if node.ins.is_empty() || elements.is_none_or(|n| n > LIMIT) {
        return None;
    }
    ir::eval(op, &ins, node.outs.len()).ok()?.into_iter().nth(v.out as usize)
}

/// The value of anything that depends on constants and variables alone, computed without changing the graph.
pub(crate) fn evaluate(graph: &Graph, v: ValueId) -> Option<Tensor> {
    if let Some(t) = graph.tensor(v) {
        return Some(t.clone());
    }
    let node = graph.node(v.node);
    let op = node.op()?;
    let ins: Vec<Option<Tensor>> = node
        .ins
        .iter()
        .map(|v| match v {
            None => Some(None),
            Some(v) => evaluate(graph, *v).map(Some),
        })
        .collect::<Option<_>>()?;
    let ins: Vec<Option<&Tensor>> = ins.iter().map(Option::as_ref).collect();
    ir::eval(op, &ins, node.outs.len()).ok()?.into_iter().nth(v.out as usize)
}
