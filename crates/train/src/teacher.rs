//! The float model behind a graph with quantizers: what calibration runs, and the teacher of distillation.

use ir::{Graph, GraphError, Kind, NodeId, ValueId};
use ops::{FakeQuant, Pact, Processed};
use passes::{DropUpdates, EvalMode, FoldBatchNorm, FuseActivation, Pipeline};
use std::collections::BTreeMap;

/// Takes quantizers and what stands in front of them out of a graph from [`passes::quant_aware`]. Observers stay, until
/// nobody reads what they observe.
///
/// # Errors
/// When the graph has a cycle.
pub(crate) fn without_quantizers(graph: &mut Graph) -> Result<(), GraphError> {
    for id in graph.order()? {
        let node = graph.node(id);
        let quantizer = node.is::<FakeQuant>().is_some()
            || node.is::<Pact>().is_some()
            || node.is::<Processed>().is_some();
        if let Some(x) = node.ins.first().copied().flatten().filter(|_| quantizer) {
            graph.replace(id.into(), x)?;
        }
    }
    Ok(())
}

/// The float model in a graph with quantizers, with the values that training left: what goes on to be trained elsewhere.
///
/// # Errors
/// When a pass fails.
pub fn float_model(graph: &Graph) -> Result<Graph, GraphError> {
    let mut float = graph.clone();
    crate::strip_loss(&mut float);
    without_quantizers(&mut float)?;
    Pipeline::new().then(DropUpdates).run(&mut float)?;
    Ok(float)
}

/// The float model as it is evaluated, with `tensors` of the quantized graph as its outputs: quantizers give way to what
/// they quantize, variables to their values, batch norms take their running statistics.
///
/// # Errors
/// When a pass fails.
pub(crate) fn teacher(graph: &Graph, tensors: &[(String, ValueId)]) -> Result<Graph, GraphError> {
    let mut graph = graph.clone();
    graph.clear_updates();
    graph.set_outputs(tensors.iter().cloned());
    without_quantizers(&mut graph)?;
    graph.sweep();
    for id in graph.nodes() {
        if let Kind::Variable(value, _) = &graph.node(id).kind {
            let value = value.clone();
            graph.set_leaf(id, Kind::Const(value))?;
        }
    }
    Pipeline::new().then(EvalMode).then(FoldBatchNorm).then(FuseActivation).run(&mut graph)?;
    Ok(graph)
}

/// Adds the nodes of `other` to `graph`, inputs of the same name being one, and returns the outputs of `other` there. The names
/// of what is added begin with `prefix`.
///
/// # Errors
/// When an operation does not fit the inputs of `graph`.
pub(crate) fn graft(graph: &mut Graph, other: &Graph, prefix: &str) -> Result<Vec<ValueId>, GraphError> {
    let named = |name: &str| format!("{prefix}{name}");
    let mut there: BTreeMap<NodeId, NodeId> = BTreeMap::new();
    for id in other.order()? {
        let node = other.node(id);
        let added = match &node.kind {
            Kind::Input => match graph.find(&node.name).filter(|v| graph.inputs().contains(&v.node)) {
                Some(input) => input,
                None => graph.add_input(&node.name, other.ty(id.into()).clone()),
            },
            Kind::Const(value) => graph.add_const(&named(&node.name), value.clone()),
            Kind::Variable(value, role) => {
                graph.add_variable(&named(&node.name), value.clone(), role.clone())
            }
            Kind::Op(op) => {
                let ins: Vec<Option<ValueId>> =
                    node.ins.iter().map(|v| v.map(|v| ValueId { node: there[&v.node], ..v })).collect();
                let outs: Vec<String> = node.outs.iter().map(|v| named(&v.name)).collect();
                let outs: Vec<&str> = outs.iter().map(String::as_str).collect();
                graph.add_node(op.clone(), &ins, &named(&node.name), &outs)?.into()
            }
        };
        there.insert(id, added.node);
    }
    Ok(other.outputs().iter().map(|o| ValueId { node: there[&o.value.node], ..o.value }).collect())
}
