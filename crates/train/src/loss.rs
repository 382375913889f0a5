//! What training minimizes: the loss on labels, the distance from the float model, or both, as nodes of the training step.
//!
//! Distillation (Hinton et al. 2015, arXiv 1503.02531) needs no labels: the float model, as it was before training, runs
//! beside the quantized one, and each chosen tensor of the two is compared.
//!
//! ```text
//! kl:  T² Σ softmax(t/T) (log softmax(t/T) - log softmax(s/T)) / rows
//! l2:  Σ (s - t)² / Σ t²
//! ```
//!
//! `s` is of the quantized model, `t` of the float model. The l2 distance is relative: tensors of all sizes weigh alike,
//! and -10 lg of it is the signal-to-noise ratio in dB.

use crate::signature::{Signature, strip_loss};
use crate::teacher::{graft, teacher};
use ir::{Graph, GraphError, ValueId};
use ops::{
    Add, Div, FakeQuant, LogSoftmax, Max, Mul, ReduceForm, ReduceSum, ReduceSumSquare, Softmax, Sub, Sum,
};
use passes::{FoldConstants, Pass, Report};
use serde::{Deserialize, Serialize};
use std::fmt;
use tensor::{DType, Tensor};

/// What training minimizes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LossConfig {
    /// Weight of the loss on labels: the model's own, or softmax cross-entropy. Without labels it counts as 0.
    pub label_weight: f32,
    /// Distillation from the float model. Without labels it is there even if nothing is said of it.
    pub distill: Option<Distill>,
}

impl Default for LossConfig {
    fn default() -> Self {
        LossConfig { label_weight: 1.0, distill: None }
    }
}

impl LossConfig {
    /// What this means for data with or without labels.
    pub fn resolved(&self, labels: bool) -> LossConfig {
        if labels {
            return self.clone();
        }
        LossConfig { label_weight: 0.0, distill: Some(self.distill.clone().unwrap_or_default()) }
    }
}

/// Which tensors of the quantized model are drawn to those of the float model, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Distill {
    /// Names of tensors; every float output of the model where there are none.
    pub tensors: Vec<String>,
    /// How two tensors are compared; by their form where nothing is said.
    pub loss: Option<DistillLoss>,
    /// Both are divided by this in front of a softmax.
    pub temperature: f32,
    /// Weight of the mean over the tensors.
    pub weight: f32,
}

impl Default for Distill {
    fn default() -> Self {
        Distill { tensors: Vec::new(), loss: None, temperature: 1.0, weight: 1.0 }
    }
}

/// How two tensors are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DistillLoss {
    /// Kullback-Leibler divergence of their softmax. The choice for class scores: two dimensions, or a softmax in front.
    Kl,
    /// Squared distance over the square of the float tensor.
    L2,
}

impl fmt::Display for DistillLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DistillLoss::Kl => "kl",
            DistillLoss::L2 => "l2",
        })
    }
}

/// One tensor of the quantized model and how it is compared.
struct Target {
    name: String,
    student: ValueId,
    loss: DistillLoss,
    /// Of the classes.
    axis: i64,
}

/// A distillation loss in the making: the graph is still to be turned into one for training, and its sizes to be fixed.
pub(crate) struct Distillation {
    targets: Vec<Target>,
    teacher: Graph,
    temperature: f32,
}

/// Outputs by which the tensors of the quantized model are found again.
fn mark(target: usize) -> String {
    format!("distilled/{target}")
}

impl Distillation {
    /// Chooses the tensors to compare, which become outputs of `graph`, and takes its float form as the teacher.
    ///
    /// # Errors
    /// When a named tensor is not there or not float, or there is nothing to compare.
    pub fn begin(graph: &mut Graph, distill: &Distill) -> Result<Distillation, GraphError> {
        let targets = targets(graph, distill)?;
        let wanted: Vec<(String, ValueId)> =
            targets.iter().enumerate().map(|(i, t)| (mark(i), t.student)).collect();
        let teacher = teacher(graph, &wanted)?;
        wanted.iter().for_each(|(name, v)| graph.add_output(name, *v));
        Ok(Distillation { targets, teacher, temperature: distill.temperature })
    }

    /// Adds teacher and loss to the graph, in which all sizes are fixed now. Returns the loss with a word on each tensor that
    /// it compares.
    ///
    /// # Errors
    /// When the teacher does not fit the inputs.
    pub fn finish(mut self, graph: &mut Graph) -> Result<(ValueId, Vec<String>), GraphError> {
        for id in self.teacher.inputs().to_vec() {
            let name = self.teacher.node(id).name.clone();
            if let Some(input) = graph.find(&name) {
                self.teacher.set_input_type(id, graph.ty(input).clone());
            }
        }
        self.teacher.infer()?;
        FoldConstants.run(&mut self.teacher, &mut Report::default())?;
        self.teacher.sweep();
        let references = graft(graph, &self.teacher, "teacher/")?;
        let (mut terms, mut words) = (Vec::new(), Vec::new());
        for (i, (target, reference)) in self.targets.iter().zip(references).enumerate() {
            let output = graph.outputs().iter().find(|o| o.name == mark(i)).map(|o| o.value);
            let student = output.unwrap_or(target.student);
            terms.push(match target.loss {
                DistillLoss::Kl => divergence(graph, target, student, reference, self.temperature)?,
                DistillLoss::L2 => relative_error(graph, &target.name, student, reference)?,
            });
            words.push(format!("{} of \"{}\"", target.loss, target.name));
        }
        let sum = match terms[..] {
            [one] => one,
            _ => graph.add(Sum, &terms, "distill_sum")?,
        };
        Ok((scaled(graph, sum, 1.0 / terms.len() as f32, "distill_mean")?, words))
    }
}

/// `weight * value`; the value itself where the weight is 1.
pub(crate) fn scaled(graph: &mut Graph, v: ValueId, weight: f32, name: &str) -> Result<ValueId, GraphError> {
    if weight == 1.0 {
        return Ok(v);
    }
    let weight = graph.add_const(&format!("{name}_weight"), Tensor::scalar(weight));
    graph.add(Mul, &[v, weight], name)
}

/// The tensors to compare.
fn targets(graph: &Graph, distill: &Distill) -> Result<Vec<Target>, GraphError> {
    let error = |place: String, what: String| Err(GraphError { place, what });
    let mut inference = graph.clone();
    strip_loss(&mut inference);
    let scores = Signature::of(&inference).scores;
    let found: Vec<(String, ValueId)> = match &distill.tensors[..] {
        [] => inference
            .outputs()
            .iter()
            .filter(|o| graph.ty(o.value).dtype == Some(DType::F32))
            .map(|o| (o.name.clone(), o.value))
            .collect(),
        names => {
            let mut found = Vec::new();
            for name in names {
                let output = graph.outputs().iter().find(|o| o.name == *name).map(|o| o.value);
                let Some(v) = output.or_else(|| graph.find(name)) else {
                    let what = "no tensor of the model has this name; `inspect` lists them".to_string();
                    return error(format!("distillation of \"{name}\""), what);
                };
                if graph.ty(v).dtype != Some(DType::F32) {
                    let what = format!("only float tensors can be compared, but it is {}", graph.ty(v));
                    return error(format!("distillation of \"{name}\""), what);
                }
                found.push((name.clone(), quantized(graph, v)));
            }
            found
        }
    };
    if found.is_empty() {
        return error("distillation".into(), "the model has no float output to compare".into());
    }
    let target = |(name, v): (String, ValueId)| {
        let (logits, axis) = logits(graph, v);
        let several = |axis: i64| {
            let dims = graph.ty(logits).shape.as_deref().unwrap_or_default();
            let axis = if axis < 0 { axis + dims.len() as i64 } else { axis };
            dims.get(axis as usize).is_some_and(|d| d.fixed() != Some(1))
        };
        let is_scores = axis.is_some() || scores.as_deref() == Some(&name);
        let usual = axis.unwrap_or_else(|| if graph.ty(v).rank() >= Some(4) { 1 } else { -1 });
        let by_form = if is_scores && several(usual) { DistillLoss::Kl } else { DistillLoss::L2 };
        let loss = distill.loss.unwrap_or(by_form);
        let student = if loss == DistillLoss::Kl { logits } else { v };
        Target { name, student, loss, axis: usual }
    };
    Ok(found.into_iter().map(target).collect())
}

/// The tensor as its readers get it: behind its quantizer where it has one.
fn quantized(graph: &Graph, v: ValueId) -> ValueId {
    let quantizer = |&(n, slot): &(ir::NodeId, usize)| slot == 0 && graph.node(n).is::<FakeQuant>().is_some();
    graph.consumers(v).into_iter().find(quantizer).map_or(v, |(n, _)| n.into())
}

/// What a softmax turned into a value, and the axis of the classes; the value itself where none did.
fn logits(graph: &Graph, v: ValueId) -> (ValueId, Option<i64>) {
    let axis = match (graph.producer::<Softmax>(v), graph.producer::<LogSoftmax>(v)) {
        (Some(op), _) if !op.flatten => Some(op.axis),
        (_, Some(op)) if !op.flatten => Some(op.axis),
        _ => None,
    };
    let logits = axis.and_then(|_| graph.node(v.node).ins[0]);
    logits.map_or((v, None), |logits| (logits, axis))
}

/// `T² Σ softmax(t/T) (log softmax(t/T) - log softmax(s/T)) / rows`
fn divergence(
    graph: &mut Graph,
    target: &Target,
    student: ValueId,
    reference: ValueId,
    temperature: f32,
) -> Result<ValueId, GraphError> {
    let Target { name, axis, .. } = target;
    let dims = graph.ty(student).dims().unwrap_or_default();
    let at = if *axis < 0 { axis + dims.len() as i64 } else { *axis };
    let rows = dims.iter().product::<usize>() / dims.get(at as usize).copied().unwrap_or(1).max(1);
    let s = scaled(graph, student, 1.0 / temperature, &format!("{name}_cooled"))?;
    let t = scaled(graph, reference, 1.0 / temperature, &format!("{name}_reference_cooled"))?;
    let log = LogSoftmax { axis: *axis, flatten: false };
    let log_s = graph.add(log, &[s], &format!("{name}_log"))?;
    let log_t = graph.add(log, &[t], &format!("{name}_reference_log"))?;
    let share =
        graph.add(Softmax { axis: *axis, flatten: false }, &[t], &format!("{name}_reference_share"))?;
    let ratio = graph.add(Sub, &[log_t, log_s], &format!("{name}_log_ratio"))?;
    let terms = graph.add(Mul, &[share, ratio], &format!("{name}_divergences"))?;
    let sum = graph.add(ReduceSum { form: SCALAR }, &[terms], &format!("{name}_divergence_sum"))?;
    scaled(graph, sum, temperature * temperature / rows.max(1) as f32, &format!("{name}_divergence"))
}

/// `Σ (s - t)² / Σ t²`
fn relative_error(
    graph: &mut Graph,
    name: &str,
    student: ValueId,
    reference: ValueId,
) -> Result<ValueId, GraphError> {
    let square = ReduceSumSquare { form: SCALAR };
    let error = graph.add(Sub, &[student, reference], &format!("{name}_error"))?;
    let noise = graph.add(square, &[error], &format!("{name}_noise"))?;
    let signal = graph.add(square, &[reference], &format!("{name}_signal"))?;
    let least = graph.add_const(&format!("{name}_least_signal"), Tensor::scalar(f32::MIN_POSITIVE));
    let signal = graph.add(Max, &[signal, least], &format!("{name}_signal_bounded"))?;
    graph.add(Div, &[noise, signal], &format!("{name}_relative_error"))
}

const SCALAR: ReduceForm = ReduceForm { keep_dims: false, noop: false };

/// The weighted sum of the two losses, each where it is there.
pub(crate) fn total(
    graph: &mut Graph,
    config: &LossConfig,
    labels: Option<ValueId>,
    distillation: Option<ValueId>,
) -> Result<Option<ValueId>, GraphError> {
    let weight = config.distill.as_ref().map_or(1.0, |d| d.weight);
    let labels = labels.map(|v| scaled(graph, v, config.label_weight, "loss_of_labels")).transpose()?;
    let distillation = distillation.map(|v| scaled(graph, v, weight, "loss_of_distillation")).transpose()?;
    match (labels, distillation) {
        (Some(a), Some(b)) => graph.add(Add, &[a, b], "loss_of_both").map(Some),
        (a, b) => Ok(a.or(b)),
    }
}
