//! The training step that a file holds beside its graph (`TrainingInfoProto`), as a graph of its own.

use crate::proto::{GraphProto, ModelProto, TensorProto};
use crate::{ModelError, import};
use ir::{Graph, Kind, Registry, Role, ValueId};
use std::collections::{BTreeMap, HashSet};

/// The training step of a model: its graph and the algorithm of its training information together, with the bound
/// initializers as variables and the bindings as their updates. `None` in a model without training information. Of several
/// training steps it is the first.
///
/// A file may repeat the nodes of the graph in the algorithm; they are one.
///
/// # Errors
/// As [`import`], and when a binding names what is not there: names the binding.
pub fn import_training(model: &ModelProto, registry: &dyn Registry) -> Result<Option<Graph>, ModelError> {
    let Some(info) = model.training_info.first() else { return Ok(None) };
    let (Some(inference), Some(algorithm)) = (&model.graph, &info.algorithm) else { return Ok(None) };
    let joined =
        ModelProto { graph: Some(join(inference, algorithm)), training_info: Vec::new(), ..model.clone() };
    let (mut graph, _) = import(joined, registry)?;
    let mut values = BTreeMap::new();
    for id in graph.nodes() {
        for (out, value) in graph.node(id).outs.iter().enumerate() {
            values.insert(value.name.clone(), ValueId { node: id, out: out as u16 });
        }
    }
    for binding in &info.update_binding {
        let error = |what: &str| {
            let place = format!("update binding of \"{}\" to \"{}\"", binding.key(), binding.value());
            ModelError::node(place, what)
        };
        let state = values.get(binding.key()).copied();
        let state = state.ok_or_else(|| error("no initializer of the model has the first name"))?;
        let next = values.get(binding.value()).copied();
        let next = next.ok_or_else(|| error("nothing in the training step has the second name"))?;
        let Kind::Const(value) = &graph.node(state.node).kind else {
            return Err(error("the first name is not that of an initializer"));
        };
        let variable = Kind::Variable(value.clone(), Role::State);
        graph.set_leaf(state.node, variable)?;
        graph.set_update(state, next);
    }
    let updated: HashSet<ValueId> = graph.updates().iter().map(|u| u.next).collect();
    let outputs: Vec<_> = graph.outputs().iter().map(|o| (o.name.clone(), o.value)).collect();
    graph.set_outputs(outputs.into_iter().filter(|(_, value)| !updated.contains(value)));
    Ok(Some(graph))
}

/// Both graphs as one. What the algorithm defines again is left out.
fn join(inference: &GraphProto, algorithm: &GraphProto) -> GraphProto {
    let mut joined = inference.clone();
    let results: HashSet<&str> =
        inference.node.iter().flat_map(|n| &n.output).map(String::as_str).filter(|n| !n.is_empty()).collect();
    let again = |output: &[String]| output.iter().any(|name| results.contains(name.as_str()));
    joined.node.extend(algorithm.node.iter().filter(|n| !again(&n.output)).cloned());
    let names =
        |list: &[TensorProto]| -> HashSet<String> { list.iter().map(|t| t.name().to_string()).collect() };
    let known = names(&inference.initializer);
    joined.initializer.extend(algorithm.initializer.iter().filter(|t| !known.contains(t.name())).cloned());
    let known: HashSet<&str> = inference.input.iter().map(|v| v.name()).collect();
    joined.input.extend(algorithm.input.iter().filter(|v| !known.contains(v.name())).cloned());
    let known: HashSet<&str> = inference.output.iter().map(|v| v.name()).collect();
    joined.output.extend(algorithm.output.iter().filter(|v| !known.contains(v.name())).cloned());
    joined.value_info.extend(algorithm.value_info.iter().cloned());
    joined
}
