//! Forms in which files hold a model: for inference, in training mode, with a loss, with a training step, quantized.
//!
//! [`recover`] brings what a file holds into one form: the forward pass with its parameters as constants and its loss, where it
//! has one, among the outputs. The rest of the library need not know where it came from.

use crate::Error;
use ir::{Graph, GraphError, Kind, NodeId, Opaque, ValueId};
use onnx::{ModelError, RuntimeCheckpoint};
use ops::{BatchNormalization, DequantizeLinear, Dropout, QuantizeLinear};
use std::collections::HashSet;
use std::fmt;
use std::path::Path;
use tensor::Tensor;
use train::{Recipe, Signature};

/// A form in which a file holds a model. A file may have several: a loss and batch norms in training mode, say.
#[derive(Clone, Debug, PartialEq)]
pub enum Form {
    /// For inference, in floating point.
    Inference,
    /// Exported in training mode.
    TrainingMode {
        /// Batch norms that normalize with the statistics of the batch.
        batch_norms: usize,
        /// Dropouts that drop.
        dropouts: usize,
    },
    /// The loss is in the graph.
    Loss {
        /// Output with the loss.
        output: String,
        /// Operator that makes it.
        op: String,
        /// Input for class numbers; without one, what the loss compares with is data.
        label: Option<String>,
    },
    /// A training step beside the graph (`TrainingInfoProto`): its optimizer, or why it cannot be followed.
    TrainingInfo(Result<String, String>),
    /// ONNX Runtime's artifacts for training: the gradient is in the graph, parameters are inputs.
    RuntimeTraining {
        /// Nodes that compute gradients.
        gradients: usize,
        /// Parameters that were found in the file `checkpoint` beside the model.
        parameters: usize,
    },
    /// Quantized already, with pairs of `QuantizeLinear` and `DequantizeLinear`.
    Quantized {
        /// Tensors with a pair.
        pairs: usize,
        /// Constants stored as codes.
        constants: usize,
    },
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Form::Inference => write!(f, "inference"),
            Form::TrainingMode { batch_norms, dropouts } => {
                write!(f, "training mode: {batch_norms} batch norms, {dropouts} dropouts")
            }
            Form::Loss { output, op, label } => {
                write!(f, "loss inside: \"{output}\" of {op}")?;
                match label {
                    Some(label) => write!(f, ", labels go to \"{label}\""),
                    None => write!(f, ", compared with inputs"),
                }
            }
            Form::TrainingInfo(Ok(recipe)) => write!(f, "training step in the file: {recipe}"),
            Form::TrainingInfo(Err(why)) => {
                write!(f, "training step in the file, which is left aside: {why}")
            }
            Form::RuntimeTraining { gradients, parameters } => {
                write!(
                    f,
                    "ONNX Runtime training: {gradients} gradient nodes left out, {parameters} parameters "
                )?;
                write!(
                    f,
                    "{}",
                    if *parameters == 0 {
                        "found: the file \"checkpoint\" is not beside it"
                    } else {
                        "from \"checkpoint\""
                    }
                )
            }
            Form::Quantized { pairs, constants } => {
                write!(f, "quantized: {pairs} tensors with QuantizeLinear, {constants} constants as codes")
            }
        }
    }
}

/// What [`recover`] found.
pub(crate) struct Recovered {
    pub graph: Graph,
    pub forms: Vec<Form>,
    pub recipe: Option<Recipe>,
}

/// Tells the forms of a graph from a file, and brings it into the one form: see the module. `step` is the training step that
/// the file holds beside it.
pub(crate) fn recover(
    mut graph: Graph,
    step: Result<Option<Graph>, ModelError>,
    path: &Path,
) -> Result<Recovered, Error> {
    let mut forms = Vec::new();
    let mut recipe = None;
    let of_model =
        |source: GraphError| onnx::Error::Model { path: path.to_path_buf(), source: source.into() };
    match step {
        Ok(None) => {}
        Err(e) => forms.push(Form::TrainingInfo(Err(e.to_string()))),
        Ok(Some(step)) => match Recipe::of(&step) {
            Err(e) => forms.push(Form::TrainingInfo(Err(e.to_string()))),
            Ok((found, forward)) => {
                forms.push(Form::TrainingInfo(Ok(found.to_string())));
                graph = forward;
                recipe = Some(found);
            }
        },
    }
    if let Some(form) = runtime_training(&mut graph, path)? {
        forms.push(form);
    }
    drop_modes(&mut graph);
    let (batch_norms, dropouts) = in_training_mode(&graph);
    if batch_norms + dropouts > 0 {
        forms.push(Form::TrainingMode { batch_norms, dropouts });
    }
    if let Some(form) = loss(&graph) {
        forms.push(form);
        train::expose_scores(&mut graph).map_err(of_model)?;
    }
    if let Some(form) = quantized(&graph) {
        forms.push(form);
    }
    if forms.is_empty() {
        forms.push(Form::Inference);
    }
    Ok(Recovered { graph, forms, recipe })
}

fn loss(graph: &Graph) -> Option<Form> {
    let Signature { loss, label, .. } = Signature::of(graph);
    let output = loss?;
    let value = graph.outputs().iter().find(|o| o.name == output)?.value;
    let op = graph.node(value.node).op().map_or("an input", |op| op.name()).to_string();
    Some(Form::Loss { output, op, label })
}

fn quantized(graph: &Graph) -> Option<Form> {
    let (mut pairs, mut constants) = (0, 0);
    for id in graph.nodes() {
        let node = graph.node(id);
        pairs += usize::from(node.is::<QuantizeLinear>().is_some());
        let codes = node.is::<DequantizeLinear>().and_then(|_| node.ins[0]);
        constants += usize::from(codes.is_some_and(|v| graph.constant(v).is_some()));
    }
    (pairs + constants > 0).then_some(Form::Quantized { pairs, constants })
}

/// Batch norms and dropouts in training mode.
fn in_training_mode(graph: &Graph) -> (usize, usize) {
    let (mut batch_norms, mut dropouts) = (0, 0);
    for id in graph.nodes() {
        let node = graph.node(id);
        batch_norms += usize::from(node.is::<BatchNormalization>().is_some_and(|op| op.training));
        let mode = node.is::<Dropout>().and_then(|_| node.ins.get(2).copied().flatten());
        dropouts += usize::from(mode.is_some_and(|m| graph.constant(m).is_none_or(|t| t.to_i64() != [0])));
    }
    (batch_norms, dropouts)
}

/// Graph inputs that only say whether dropouts drop are no data: the dropouts are set to drop, which is what
/// [`in_training_mode`] counts and normalizing removes.
fn drop_modes(graph: &mut Graph) {
    let given = graph.inputs().len();
    for id in graph.inputs().to_vec() {
        let readers = graph.consumers(id.into());
        let mode = |&(n, slot): &(NodeId, usize)| slot == 2 && graph.node(n).is::<Dropout>().is_some();
        if readers.is_empty() || !readers.iter().all(mode) || graph.is_output(id.into()) {
            continue;
        }
        let name = graph.node(id).name.clone();
        let on = graph.add_const(&format!("{name}_on"), Tensor::bools(&[], &[true]));
        for (reader, slot) in readers {
            graph.set_input(reader, slot, Some(on));
        }
        graph.remove_input(id);
    }
    if graph.inputs().len() < given {
        graph.sweep();
    }
}

/// Operators that ONNX Runtime adds to compute and add up gradients.
fn is_gradient(graph: &Graph, id: NodeId) -> bool {
    let of_runtime = |op: &Opaque| match op.domain.as_str() {
        "com.microsoft" => op.op_type.ends_with("Grad") || op.op_type.contains("Accumulator"),
        "" => op.op_type.ends_with("Grad"),
        _ => false,
    };
    graph.node(id).is::<Opaque>().is_some_and(of_runtime)
}

/// Gives ONNX Runtime's training artifacts their parameters, and leaves their gradients out.
fn runtime_training(graph: &mut Graph, path: &Path) -> Result<Option<Form>, Error> {
    let of_model =
        |source: GraphError| onnx::Error::Model { path: path.to_path_buf(), source: source.into() };
    let gradients = graph.nodes().into_iter().filter(|&id| is_gradient(graph, id)).count();
    let beside = path.with_file_name("checkpoint");
    let checkpoint = if beside.is_file() { onnx::read_runtime_checkpoint(&beside)? } else { None };
    let RuntimeCheckpoint { trained, frozen } = checkpoint.unwrap_or_default();
    let mut parameters = 0;
    for (name, value) in trained.into_iter().chain(frozen) {
        let Some(input) = graph.find(&name).filter(|v| graph.inputs().contains(&v.node)) else { continue };
        let constant = graph.add_const(&name, value);
        graph.replace(input, constant).map_err(of_model)?;
        graph.swap_names(input, constant);
        graph.remove_input(input.node);
        parameters += 1;
    }
    if parameters > 0 {
        graph.sweep();
    }
    if gradients + parameters == 0 {
        return Ok(None);
    }
    leave_gradients_out(graph).map_err(of_model)?;
    Ok(Some(Form::RuntimeTraining { gradients, parameters }))
}

/// Keeps the outputs that do not depend on a gradient, and the inputs that they need.
fn leave_gradients_out(graph: &mut Graph) -> Result<(), GraphError> {
    let mut behind: HashSet<NodeId> = HashSet::new();
    for id in graph.order()? {
        let reads = graph.node(id).ins.iter().flatten().any(|v: &ValueId| behind.contains(&v.node));
        if reads || is_gradient(graph, id) {
            behind.insert(id);
        }
    }
    let outputs: Vec<_> = graph
        .outputs()
        .iter()
        .filter(|o| !behind.contains(&o.value.node))
        .map(|o| (o.name.clone(), o.value))
        .collect();
    if outputs.len() == graph.outputs().len() || outputs.is_empty() {
        return Ok(());
    }
    graph.set_outputs(outputs);
    graph.sweep();
    for id in graph.inputs().to_vec() {
        debug_assert!(matches!(graph.node(id).kind, Kind::Input));
        graph.remove_input(id);
    }
    graph.sweep();
    // Results that only a gradient read (the mask of a pool) are no longer asked for.
    for id in graph.nodes() {
        let outs = graph.node(id).outs.len();
        let used = |out: usize| {
            let v = ValueId { node: id, out: out as u16 };
            graph.is_output(v) || !graph.consumers(v).is_empty()
        };
        let needed = (0..outs).rposition(used).map_or(1, |last| last + 1);
        if needed < outs {
            graph.truncate_results(id, needed);
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use ir::Type;
    use std::sync::Arc;
    use tensor::DType;

    #[test]
    fn dropouts_with_a_mode_each() {
        let mut graph = Graph::new("net");
        let mut x = graph.add_input("x", Type::new(DType::F32, [2]));
        for i in 0..3000 {
            let mode = graph.add_input(&format!("mode{i}"), Type::new(DType::Bool, [0usize; 0]));
            let ins = [Some(x), None, Some(mode)];
            let name = format!("y{i}");
            x = graph.add_node(Arc::new(Dropout { seed: None }), &ins, &name, &[&name]).unwrap().into();
        }
        graph.set_outputs([("y".to_string(), x)]);
        drop_modes(&mut graph);
        graph.check().unwrap();
        assert_eq!((graph.inputs().len(), in_training_mode(&graph)), (1, (0, 3000)));
        assert!(graph.find("mode0").is_none());
    }
}
