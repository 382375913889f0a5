//! The training step as a graph: forward, loss, backward, update.

use crate::optimizer::{Gradient, ParamGroup, WEIGHTS};
use crate::signature::{Signature, add_loss};
use ir::{Dim, Graph, GraphError, Kind, Op, QuantRole, Role, Type, ValueId};
use ops::{Add, BatchNormalization, Clip, FakeQuant, Pact, Processed};
use passes::{FoldConstants, FuseEpilogue, Pass, Report, TrainOnCodes};
use std::sync::Arc;
use tensor::{DType, Tensor};

/// A training step and the names of its inputs and outputs.
pub struct StepGraph {
    /// Inputs: data, labels, one learning rate per group. Outputs: loss, and class scores where there are any.
    pub graph: Graph,
    /// Roles of inputs and outputs.
    pub signature: Signature,
    /// Names of the trained parameters.
    pub parameters: Vec<String>,
}

/// Fixes the first dimension of every input that leaves it open to `batch`, and infers. An input whose other sizes are
/// open gets those of `samples` (name and shape without the batch).
///
/// # Errors
/// When the shapes do not fit the operators.
pub fn bind_batch(
    graph: &mut Graph,
    batch: usize,
    samples: &[(String, Vec<usize>)],
) -> Result<(), GraphError> {
    for id in graph.inputs().to_vec() {
        let mut ty = graph.ty(id.into()).clone();
        let sample = samples.iter().find(|(name, _)| *name == graph.node(id).name).map(|(_, s)| s);
        if let (None, Some(sample)) = (&ty.shape, sample) {
            ty.shape = Some(vec![Dim::Unknown; sample.len() + 1]);
        }
        for (axis, d) in ty.shape.iter_mut().flatten().enumerate() {
            let size = match axis {
                0 => Some(batch),
                _ => sample.and_then(|s| s.get(axis - 1).copied()),
            };
            if let (None, Some(size)) = (d.fixed(), size) {
                *d = Dim::Fixed(size);
            }
        }
        graph.set_input_type(id, ty);
    }
    graph.infer()?;
    // Reshapes to computed shapes get fixed sizes only once the shapes are constants.
    FoldConstants.run(graph, &mut Report::default())?;
    graph.sweep();
    Ok(())
}

/// Builds the training step of a (quantized) inference graph for one batch size. Batch norms take batch statistics and track
/// the running ones. Names of variables are those of the constants in `graph`, so that trained values find back.
///
/// # Errors
/// When there is no loss and no class scores to make one from, or something between a parameter and the loss has no
/// gradient.
pub fn training_step(
    graph: &Graph,
    batch: usize,
    samples: &[(String, Vec<usize>)],
    groups: &[ParamGroup],
) -> Result<StepGraph, GraphError> {
    let mut graph = graph.clone();
    if Signature::of(&graph).loss.is_none() {
        add_loss(&mut graph)?;
    }
    train_batch_norm(&mut graph)?;
    let parameters = promote_parameters(&mut graph)?;
    bind_batch(&mut graph, batch, samples)?;
    FuseEpilogue.run(&mut graph, &mut Report::default())?;
    graph.sweep();
    let signature = Signature::of(&graph);
    let missing = || GraphError { place: "outputs".into(), what: "the loss is not among the outputs".into() };
    let loss =
        graph.outputs().iter().find(|o| Some(&o.name) == signature.loss.as_ref()).ok_or_else(missing)?.value;

    let variables: Vec<(ValueId, String, Arc<str>)> = graph
        .nodes()
        .into_iter()
        .filter_map(|id| match &graph.node(id).kind {
            Kind::Variable(_, Role::Param(group)) => {
                Some((id.into(), graph.node(id).name.clone(), group.clone()))
            }
            _ => None,
        })
        .collect();
    let wrt: Vec<ValueId> = variables.iter().map(|v| v.0).collect();
    let stand_ins = passes::stand_ins(&graph)?;
    let gradients = ir::gradients_with(&mut graph, loss, &wrt, Arc::new(Add), &stand_ins)?;

    for group in groups {
        let rate = graph.add_input(&group.rate_input(), Type::new(DType::F32, [0usize; 0]));
        for ((parameter, name, of), gradient) in variables.iter().zip(&gradients) {
            let (true, Some(gradient)) = (**of == *group.name, *gradient) else { continue };
            let step = Gradient { parameter: *parameter, name, gradient, rate, l2_decay: group.l2_decay };
            let mut next = group.optimizer.update(&mut graph, &step)?;
            if let Some(minimum) = group.minimum {
                let low = graph.add_const(&format!("{name}_minimum"), Tensor::scalar(minimum));
                next = graph.add(Clip, &[next, low], &format!("{name}_bounded"))?;
            }
            graph.set_update(*parameter, next);
        }
    }
    let keep = [&signature.loss, &signature.scores];
    let outputs: Vec<_> = graph
        .outputs()
        .iter()
        .filter(|o| keep.contains(&&Some(o.name.clone())))
        .map(|o| (o.name.clone(), o.value))
        .collect();
    graph.set_outputs(outputs);
    graph.sweep();
    TrainOnCodes.run(&mut graph, &mut Report::default())?;
    graph.sweep();
    Ok(StepGraph { graph, signature, parameters })
}

/// Turns batch norms of inference into those of training, with running statistics as variables.
fn train_batch_norm(graph: &mut Graph) -> Result<(), GraphError> {
    for id in graph.order()? {
        let Some(op) = graph.node(id).is::<BatchNormalization>().filter(|op| !op.training).cloned() else {
            continue;
        };
        let ins = graph.node(id).ins.clone();
        let (label, origin) = (graph.node(id).name.clone(), graph.node(id).origin.clone());
        let y = graph.value(id.into()).name.clone();
        let mut statistics = Vec::new();
        for v in [ins.get(3), ins.get(4)].into_iter().flatten().flatten() {
            if let Kind::Const(value) = &graph.node(v.node).kind {
                let value = value.clone();
                graph.set_leaf(v.node, Kind::Variable(value, Role::State))?;
            }
            statistics.push(*v);
        }
        // The statistics of the batch are results too, so that the gradient need not compute them again.
        let more =
            ["running_mean", "running_var", "batch_mean", "batch_inverse_std"].map(|s| format!("{y}_{s}"));
        let names: Vec<&str> = std::iter::once(y.as_str()).chain(more.iter().map(String::as_str)).collect();
        let op = Arc::new(BatchNormalization { training: true, ..op });
        let new = graph.add_node(op, &ins, &label, &names)?;
        graph.set_origin(new, &origin);
        graph.swap_names(id.into(), new.into());
        graph.replace(id.into(), new.into())?;
        for (i, v) in statistics.into_iter().enumerate() {
            if matches!(graph.node(v.node).kind, Kind::Variable(..)) {
                graph.set_update(v, ValueId { node: new, out: 1 + i as u16 });
            }
        }
    }
    graph.sweep();
    Ok(())
}

/// Quantizers and pre-processes stand between a weight and its reader.
fn in_front_of_weight(op: &dyn Op) -> bool {
    op.is::<FakeQuant>().is_some() || op.is::<Pact>().is_some() || op.is::<Processed>().is_some()
}

/// Makes trained parameters of the float constants that operators use as weights, looking through quantizers.
fn promote_parameters(graph: &mut Graph) -> Result<Vec<String>, GraphError> {
    let mut names = Vec::new();
    for id in graph.order()? {
        let Some(op) = graph.node(id).op() else { continue };
        for &slot in op.params() {
            let Some(mut v) = graph.node(id).ins.get(slot).copied().flatten() else { continue };
            while graph.node(v.node).op().is_some_and(in_front_of_weight) {
                match graph.node(v.node).ins[0] {
                    Some(x) => v = x,
                    None => break,
                }
            }
            let Some(value) = graph.constant(v).cloned() else { continue };
            // A single number is a hyper-parameter of the network (x + 3, x / 6), not a weight.
            let elementwise = graph.node(id).op().is_some_and(|op| op.quant() == QuantRole::Rescaling);
            if value.dtype() == DType::F32 && (!elementwise || value.len() >= 2) {
                names.push(graph.node(v.node).name.clone());
                graph.set_leaf(v.node, Kind::Variable(value, Role::Param(WEIGHTS.into())))?;
            }
        }
    }
    Ok(names)
}
