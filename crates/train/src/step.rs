//! The training step as a graph: forward, loss, backward, update.

use crate::loss::{Distillation, LossConfig, total};
use crate::optimizer::{Gradient, ParamGroup, Update, WEIGHTS};
use crate::signature::{LOSS, Signature, add_loss, strip_loss};
use ir::{Dim, Graph, GraphError, Kind, NodeId, Op, QuantRole, Role, Type, ValueId};
use ops::{Add, BatchNormalization, Clip, FakeQuant, Mul, Observe, Pact, Processed, Sub};
use passes::{FoldConstants, FuseEpilogue, Pass, Report, TrainOnCodes};
use std::sync::Arc;
use tensor::{DType, Tensor};

/// What a training step is to do beside its forward pass.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepConfig {
    /// Optimizers by parameter group. Groups that the graph does not have are ignored; it has no others.
    pub groups: Vec<ParamGroup>,
    /// What to minimize.
    pub loss: LossConfig,
    /// Batch norms keep their running statistics and use them.
    pub freeze_batch_norm: bool,
    /// Ranges stay as they are.
    pub freeze_observers: bool,
    /// Decay of the moving averages of the parameters, where there are any.
    pub ema_decay: Option<f32>,
}

impl StepConfig {
    /// Loss on labels, nothing frozen, no averages.
    pub fn new(groups: &[ParamGroup]) -> StepConfig {
        StepConfig { groups: groups.to_vec(), ..StepConfig::default() }
    }
}

/// A training step and the names of its inputs and outputs.
pub struct StepGraph {
    /// Inputs: data, labels, one learning rate per group. Outputs: loss, and class scores where there are any.
    pub graph: Graph,
    /// Roles of inputs and outputs.
    pub signature: Signature,
    /// Names of the trained weights.
    pub parameters: Vec<String>,
    /// Names of trained parameters, and of the variables with their moving averages.
    pub averages: Vec<(String, String)>,
    /// What is minimized, in words.
    pub loss: String,
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
/// the running ones. Names of variables are those of the constants in `graph`, so that trained values find back. The teacher of
/// distillation is the float form of `graph` itself.
///
/// # Errors
/// When there is no loss and no class scores to make one from, something between a parameter and the loss has no
/// gradient, a running statistic has another reader (see [`passes::OwnStatistics`]), or a parameter is in none of the groups.
pub fn training_step(
    graph: &Graph,
    batch: usize,
    samples: &[(String, Vec<usize>)],
    config: &StepConfig,
) -> Result<StepGraph, GraphError> {
    let mut graph = graph.clone();
    let with_labels = config.loss.label_weight != 0.0;
    match (with_labels, Signature::of(&graph).loss) {
        (true, None) => add_loss(&mut graph)?,
        (true, Some(_)) => {}
        (false, _) => strip_loss(&mut graph),
    }
    let distillation = match &config.loss.distill {
        Some(distill) => Some(Distillation::begin(&mut graph, distill)?),
        None => None,
    };
    train_batch_norm(&mut graph, config.freeze_batch_norm)?;
    if config.freeze_observers {
        freeze_observers(&mut graph)?;
    }
    let parameters = promote_parameters(&mut graph)?;
    bind_batch(&mut graph, batch, samples)?;
    let mut signature = Signature::of(&graph);
    let words = add_total_loss(&mut graph, &mut signature, &config.loss, distillation)?;
    FuseEpilogue.run(&mut graph, &mut Report::default())?;
    graph.sweep();
    let loss = graph.outputs()[0].value;

    let variables: Vec<Trained> =
        graph.nodes().into_iter().filter_map(|id| Trained::of(&graph, id)).collect();
    if let Some(left) = variables.iter().find(|v| config.groups.iter().all(|g| *g.name != *v.group)) {
        let what = format!(
            "is to be trained in group \"{}\", for which there is no optimizer; add the group, with rate 0 to leave it as it is",
            left.group
        );
        return Err(GraphError { place: format!("parameter \"{}\"", left.name), what });
    }
    let wrt: Vec<ValueId> = variables.iter().map(|v| v.value).collect();
    let stand_ins = passes::stand_ins(&graph)?;
    let gradients = ir::gradients_with(&mut graph, loss, &wrt, Arc::new(Add), &stand_ins)?;
    let mut averages = Vec::new();
    for group in &config.groups {
        averages.extend(add_updates(&mut graph, group, config.ema_decay, &variables, &gradients)?);
    }
    graph.sweep();
    TrainOnCodes.run(&mut graph, &mut Report::default())?;
    graph.sweep();
    Ok(StepGraph { graph, signature, parameters, averages, loss: words })
}

/// Adds up what is to be minimized, and leaves it and the class scores, in this order, as the only outputs. Returns what it
/// is in words.
fn add_total_loss(
    graph: &mut Graph,
    signature: &mut Signature,
    config: &LossConfig,
    distillation: Option<Distillation>,
) -> Result<String, GraphError> {
    let output =
        |graph: &Graph, name: &String| graph.outputs().iter().find(|o| o.name == *name).map(|o| o.value);
    let mut words = Vec::new();
    let of_labels = signature.loss.as_ref().filter(|_| config.label_weight != 0.0);
    let of_labels = of_labels.and_then(|name| output(graph, name));
    if of_labels.is_some() {
        words.push(format!("{} * loss of labels", config.label_weight));
    }
    let distilled = match distillation {
        None => None,
        Some(distillation) => {
            let (value, compared) = distillation.finish(graph)?;
            let weight = config.distill.as_ref().map_or(1.0, |d| d.weight);
            words.push(format!("{weight} * distillation ({})", compared.join(", ")));
            Some(value)
        }
    };
    let loss = total(graph, config, of_labels, distilled)?.ok_or_else(|| GraphError {
        place: "outputs".into(),
        what: "there is no loss: its weight on labels is 0 and nothing is distilled".into(),
    })?;
    let name = signature.loss.take().filter(|_| Some(loss) == of_labels).unwrap_or_else(|| LOSS.into());
    let scores = signature.scores.as_ref().and_then(|name| Some((name.clone(), output(graph, name)?)));
    graph.set_outputs([(name.clone(), loss)].into_iter().chain(scores));
    signature.loss = Some(name);
    graph.sweep();
    Ok(words.join(" + "))
}

/// A trained parameter.
struct Trained {
    value: ValueId,
    name: String,
    group: Arc<str>,
}

impl Trained {
    fn of(graph: &Graph, id: NodeId) -> Option<Trained> {
        match &graph.node(id).kind {
            Kind::Variable(_, Role::Param(group)) => {
                Some(Trained { value: id.into(), name: graph.node(id).name.clone(), group: group.clone() })
            }
            _ => None,
        }
    }
}

/// Adds the updates of the parameters of one group; returns their names and those of their averages.
fn add_updates(
    graph: &mut Graph,
    group: &ParamGroup,
    ema_decay: Option<f32>,
    variables: &[Trained],
    gradients: &[Option<ValueId>],
) -> Result<Vec<(String, String)>, GraphError> {
    let rate = graph.add_input(&group.rate_input(), Type::new(DType::F32, [0usize; 0]));
    let of_group = variables.iter().zip(gradients).filter(|(v, _)| *v.group == *group.name);
    let (trained, mut gradients): (Vec<&Trained>, Vec<ValueId>) =
        of_group.filter_map(|(v, gradient)| Some((v, (*gradient)?))).unzip();
    if let Some(clip) = group.clip {
        gradients = clip.apply(graph, &group.name, &gradients)?;
    }
    let mut averages = Vec::new();
    for (&Trained { value: parameter, ref name, .. }, gradient) in trained.into_iter().zip(gradients) {
        let rank = graph.ty(parameter).rank().unwrap_or_default();
        let l2_decay = if group.no_decay.spares(name, rank) { 0.0 } else { group.l2_decay };
        let mut next =
            group.optimizer.update(graph, &Gradient { parameter, name, gradient, rate, l2_decay })?;
        if let Some(minimum) = group.minimum {
            let low = graph.add_const(&format!("{name}_minimum"), Tensor::scalar(minimum));
            next = graph.add(Clip, &[next, low], &format!("{name}_bounded"))?;
        }
        graph.set_update(parameter, next);
        if let Some(decay) = ema_decay {
            averages.push((name.clone(), average(graph, name, parameter, next, decay)?));
        }
    }
    Ok(averages)
}

/// Adds the exponential moving average of a parameter, `a + (1 - decay) (next - a)`, which starts at the parameter; returns
/// the name of its variable.
fn average(
    graph: &mut Graph,
    name: &str,
    parameter: ValueId,
    next: ValueId,
    decay: f32,
) -> Result<String, GraphError> {
    let initial = graph.tensor(parameter).cloned().unwrap_or_else(|| Tensor::zeros(DType::F32, &[]));
    let average = graph.add_variable(&format!("{name}_average"), initial, Role::State);
    let part = graph.add_const(&format!("{name}_average_part"), Tensor::scalar(1.0 - decay));
    let away = graph.add(Sub, &[next, average], &format!("{name}_from_average"))?;
    let step = graph.add(Mul, &[away, part], &format!("{name}_average_step"))?;
    let moved = graph.add(Add, &[average, step], &format!("{name}_average_updated"))?;
    graph.set_update(average, moved);
    Ok(graph.value(average).name.clone())
}

/// Ranges stay as they are: what an observer finds is not looked at.
fn freeze_observers(graph: &mut Graph) -> Result<(), GraphError> {
    let updates = graph.updates().to_vec();
    graph.clear_updates();
    for update in updates {
        match graph.producer::<Observe>(update.next) {
            Some(_) => graph.replace(update.next, update.variable.into())?,
            None => graph.set_update(update.variable.into(), update.next),
        }
    }
    Ok(())
}

/// Turns batch norms of inference into those of training, with running statistics as variables; frozen ones stay.
fn train_batch_norm(graph: &mut Graph, frozen: bool) -> Result<(), GraphError> {
    for id in graph.order()? {
        let Some(op) = graph.node(id).is::<BatchNormalization>().filter(|op| !op.training).cloned() else {
            continue;
        };
        let ins = graph.node(id).ins.clone();
        let (label, origin) = (graph.node(id).name.clone(), graph.node(id).origin.clone());
        let y = graph.value(id.into()).name.clone();
        let mut statistics = Vec::new();
        for v in [ins.get(3), ins.get(4)].into_iter().flatten().flatten() {
            if graph.tensor(*v).is_some() && graph.only_consumer(*v) != Some(id) {
                let what = format!(
                    "its running statistic \"{}\" is read elsewhere, too: normalize",
                    graph.value(*v).name
                );
                return Err(GraphError { place: graph.node(id).label(), what });
            }
            if let Kind::Const(value) = &graph.node(v.node).kind {
                let value = value.clone();
                graph.set_leaf(v.node, Kind::Variable(value, Role::State))?;
            }
            statistics.push(*v);
        }
        if frozen {
            continue;
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{Optimizer, Schedule};
    use passes::{Normalize, normalize};

    /// As simplifiers leave what is equal before training.
    #[test]
    fn statistics_that_share_a_constant_with_parameters() {
        let text = "net (float[N,2,2,2] x) => (float[N,2] y)
            <float[2,2,1,1] w = {1, 2, 3, 4}, float[2] zeros = {0, 0}, float[2] ones = {1, 1}>
            {
              c = Conv (x, w, zeros)
              b = BatchNormalization (c, ones, zeros, zeros, ones)
              d = BatchNormalization (b, ones, zeros, zeros, ones)
              p = GlobalAveragePool (d)
              y = Flatten (p)
            }";
        let mut graph = ir::text::parse(text, &ops::Ops).unwrap();
        let groups = [ParamGroup::weights(Optimizer::MOMENTUM, Schedule::constant(0.1), 0.0)];
        let step = |graph: &Graph| training_step(graph, 2, &[], &StepConfig::new(&groups));
        let refused = step(&graph).map(drop).unwrap_err().to_string();
        assert!(refused.contains("\"zeros\" is read elsewhere"), "{refused}");
        normalize(&mut graph, Normalize::default()).unwrap();
        let step = step(&graph).unwrap();
        assert_eq!(step.parameters, ["w", "zeros", "ones"]);
        let tracked: Vec<&str> = ["b_mean", "b_var", "d_mean", "d_var"]
            .into_iter()
            .filter(|name| {
                let v = step.graph.find(name).unwrap();
                graph.constant(graph.find(name).unwrap()).is_some()
                    && step.graph.updates().iter().filter(|u| u.variable == v.node).count() == 1
            })
            .collect();
        assert_eq!(tracked.len(), 4, "{tracked:?}");
    }
}
