//! The training runs of a small network (`e2e`), through the flow that users take: quantizers inserted into the graph of the
//! network, training steps, evaluation, freezing.
//!
//! The network is the forward pass of the recorded float program. With PACT a case runs twice: with the pre-process of this
//! project, and with the user's function as the quantized program records it, whose operators have output scales of their
//! own.

use crate::case::{Array, Fault, malformed};
use crate::compare::{self, Tolerance};
use crate::program::{LOGITS, LOSS, Network, Operator, Replayed, Stages, graph_fault};
use exec::{Machine, Program};
use ir::{Graph, GraphError, Kind, NodeId, QuantRole, Role, ValueId};
use kernels::quant::Pact as Form;
use observe::Statistic;
use ops::{ActivationScale, FakeQuant, Momentum, Observe, Processed};
use passes::{Hooks, OUT_SCALE, PACT_GROUP, Pact, Preprocess, QuantConfig};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::Range;
use std::sync::Arc;
use tensor::Tensor;
use train::{Optimizer, ParamGroup, Schedule, StepConfig, WEIGHTS};

/// One training run. The arrays of a case begin with its tag.
#[derive(Debug, Deserialize)]
struct Case {
    tag: String,
    attrs: Attrs,
    tolerance: Map<String, Value>,
}

#[derive(Debug, Deserialize)]
struct Attrs {
    /// Configuration of `quant_aware`; none trains the float network.
    config: Option<Map<String, Value>>,
    pact: Option<String>,
    pact_init: BTreeMap<String, f32>,
    lr: f32,
    momentum: f32,
    steps: usize,
    pact_optimizer: Option<PactOptimizer>,
}

#[derive(Debug, Deserialize)]
struct PactOptimizer {
    lr: f32,
    momentum: f32,
    l2: f32,
}

type Arrays = BTreeMap<String, Tensor>;

/// What a run gives.
#[derive(Default)]
struct Found {
    /// By the names of the recorded arrays without the tag.
    arrays: BTreeMap<String, Array>,
    /// Distance of two codes, where the logits are codes of a quantizer, up to a bias; otherwise 0.
    logit_step: f64,
}

/// Runs a case and compares everything that it records. The text says what deviates, if anything does.
pub(crate) fn run(
    case: Value,
    arrays: &Arrays,
    programs: &BTreeMap<String, Stages>,
) -> Result<Option<String>, Fault> {
    let case: Case = serde_json::from_value(case).map_err(|e| malformed(format!("not a valid case: {e}")))?;
    compare(&case, arrays, &case.runs(arrays, programs)?).map_err(malformed)
}

fn fault(e: impl std::fmt::Display) -> Fault {
    malformed(e.to_string())
}

fn array<'a>(arrays: &'a Arrays, key: &str) -> Result<&'a Tensor, Fault> {
    arrays.get(key).ok_or_else(|| malformed(format!("the archive has no array `{key}`")))
}

impl Case {
    /// PaddleSlim's configuration is ours, under `compat`.
    fn config(&self) -> Result<Option<QuantConfig>, Fault> {
        let Some(keys) = &self.attrs.config else { return Ok(None) };
        let mut config = serde_json::to_value(QuantConfig::paddle()).map_err(fault)?;
        if let Value::Object(all) = &mut config {
            all.extend(keys.clone());
        }
        let config: QuantConfig = serde_json::from_value(config).map_err(fault)?;
        config.check().map_err(fault)?;
        Ok(Some(config))
    }

    /// The runs of the case, each with what it finds.
    fn runs(&self, arrays: &Arrays, programs: &BTreeMap<String, Stages>) -> Result<Vec<Found>, Fault> {
        let stage = |name: &str| -> Result<&[Operator], Fault> {
            let found = programs.get(&self.tag).and_then(|stages| stages.get(name));
            Ok(found.ok_or_else(|| malformed(format!("there is no program `{name}` of `{}`", self.tag)))?)
        };
        let parameters: BTreeMap<&str, &Tensor> =
            arrays.iter().filter_map(|(key, t)| Some((key.strip_prefix("init.")?, t))).collect();
        let images = array(arrays, "data.x")?.shape();
        let network =
            Network::build(stage("float_train")?, &parameters, images.get(1..).unwrap_or_default())?;
        let thresholds = &self.attrs.pact_init;
        let form = match self.attrs.pact.as_deref() {
            None => return Ok(vec![self.run(&network, None, arrays)?]),
            Some("demo") => Form::Demo,
            Some("slim") => Form::Slim,
            Some(other) => return Err(malformed(format!("PACT of the form `{other}`"))),
        };
        let ours = Pact { form, thresholds: thresholds.clone(), ..Pact::default() };
        let theirs = Replayed { program: stage("quant_train")?.to_vec(), thresholds: thresholds.clone() };
        let hooks: [Arc<dyn Preprocess>; 2] = [Arc::new(ours), Arc::new(theirs)];
        hooks.into_iter().map(|hook| self.run(&network, Some(hook), arrays)).collect()
    }

    fn groups(&self) -> Vec<ParamGroup> {
        let group = |name: &str, lr, momentum, l2_decay| {
            let optimizer = Optimizer::Momentum { momentum, nesterov: false };
            ParamGroup { l2_decay, ..ParamGroup::new(name, optimizer, Schedule::constant(lr)) }
        };
        let weights = group(WEIGHTS, self.attrs.lr, self.attrs.momentum, 0.0);
        let pact = self.attrs.pact_optimizer.as_ref().map(|p| group(PACT_GROUP, p.lr, p.momentum, p.l2));
        [weights].into_iter().chain(pact).collect()
    }

    /// Trains, evaluates and freezes.
    fn run(
        &self,
        network: &Network,
        pact: Option<Arc<dyn Preprocess>>,
        arrays: &Arrays,
    ) -> Result<Found, Fault> {
        let mut graph = network.graph.clone();
        let config = self.config()?;
        if let Some(config) = &config {
            let hooks = Hooks { act_preprocess: pact, ..Hooks::default() };
            passes::quant_aware(&mut graph, config, &hooks).map_err(graph_fault)?;
        }
        let mut log = Found::default();
        let watches = self.train(network, &mut graph, config.as_ref(), arrays, &mut log)?;
        self.restore(&mut graph, &watches, arrays).map_err(graph_fault)?;
        evaluate(network, &graph, arrays, &mut log)?;
        if config.is_some() {
            freeze(network, &graph, arrays, &mut log)?;
        }
        Ok(log)
    }

    fn train(
        &self,
        network: &Network,
        graph: &mut Graph,
        config: Option<&QuantConfig>,
        arrays: &Arrays,
        log: &mut Found,
    ) -> Result<Vec<Watch>, Fault> {
        let groups = self.groups();
        let (images, labels) = (array(arrays, "data.x")?, array(arrays, "data.y")?);
        let &[count, batch, ..] = images.shape() else { return Err(malformed("`data.x` has no batches")) };
        if count < self.attrs.steps || labels.len() != count * batch {
            return Err(malformed(format!("data of {count} batches for {} steps", self.attrs.steps)));
        }
        let mut step =
            train::training_step(graph, batch, &[], &StepConfig::new(&groups)).map_err(graph_fault)?.graph;
        let watches = watches(&mut step, config.is_some_and(|c| c.onnx_format), arrays);
        let mut machine = Machine::new(Arc::new(Program::compile(&step).map_err(fault)?));
        for watch in watches.iter().filter(|w| w.when == When::Always) {
            log.row(watch, &machine)?;
        }
        for group in &groups {
            let rate = Tensor::scalar(group.schedule.at(0, 1, 1));
            machine.set_input(&group.rate_input(), &rate).map_err(fault)?;
        }
        let (images, labels) = (images.to_f32(), labels.to_i64());
        let size = images.len() / count;
        for (index, (image, label)) in
            images.chunks(size).zip(labels.chunks(batch)).take(self.attrs.steps).enumerate()
        {
            machine.input_mut::<f32>(&network.image).map_err(fault)?.copy_from_slice(image);
            machine.input_mut::<i64>(&network.label).map_err(fault)?.copy_from_slice(label);
            machine.run().map_err(fault)?;
            for watch in watches.iter().filter(|w| index == 0 || w.when != When::First) {
                log.row(watch, &machine)?;
            }
        }
        train::write_back(graph, &machine).map_err(fault)?;
        Ok(watches)
    }

    /// Gives the trained graph the values that Paddle had after its last step. Evaluation and freezing begin there: beside
    /// a tie, one code more or less of a weight moves a logit further than the parameters may differ after training.
    fn restore(&self, graph: &mut Graph, watches: &[Watch], arrays: &Arrays) -> Result<(), GraphError> {
        let last = |key: &str| {
            let rows = arrays.get(&format!("{}.{key}", self.tag))?;
            let row = rows.len().checked_div(*rows.shape().first()?)?;
            Some(rows.to_f32().split_off(rows.len() - row))
        };
        let mut restored = Vec::new();
        for watch in watches {
            let (name, range) = match &watch.place {
                Place::Variable(name) => (name, 0..usize::MAX),
                Place::State(name, range) => (name, range.clone()),
                Place::Output(_) => continue,
            };
            restored.extend(graph.find(name).zip(last(&watch.key)).map(|(v, row)| (v, range, row)));
        }
        // Scales of weights that a step keeps for the evaluation.
        for quantizer in quantizers(graph) {
            let kept = graph.updates().iter().find(|u| u.next == quantizer.scale).map(|u| u.variable.into());
            let row = last(&format!("wscale.{}", quantizer.tensor));
            restored.extend(kept.zip(row).map(|(v, row)| (v, 0..usize::MAX, row)));
        }
        for (v, range, row) in restored {
            let Some(old) = graph.tensor(v) else { continue };
            let mut values = old.to_f32();
            let end = range.end.min(values.len());
            values[range.start.min(end)..end]
                .iter_mut()
                .zip(row)
                .for_each(|(value, recorded)| *value = recorded);
            let value = Tensor::new(old.shape(), values);
            let kind = match &graph.node(v.node).kind {
                Kind::Variable(_, role) => Kind::Variable(value, role.clone()),
                _ => Kind::Const(value),
            };
            graph.set_leaf(v.node, kind)?;
        }
        Ok(())
    }
}

/// When something is recorded.
#[derive(Clone, Copy, PartialEq)]
enum When {
    /// Before the first step and after each.
    Always,
    /// After each step.
    Steps,
    /// After the first step, without an axis for the steps.
    First,
}

/// Where a machine has it.
enum Place {
    Output(String),
    Variable(String),
    /// Part of the state of an observer.
    State(String, Range<usize>),
}

/// Something that is recorded of a training run.
struct Watch {
    key: String,
    when: When,
    place: Place,
}

impl Found {
    fn whole(&mut self, key: String, tensor: &Tensor) {
        self.arrays.insert(key, Array::new(tensor.shape(), tensor.to_f32()));
    }

    /// Adds what a machine has now.
    fn row(&mut self, watch: &Watch, machine: &Machine) -> Result<(), Fault> {
        let tensor = match &watch.place {
            Place::Output(name) => machine.output(name).map_err(fault)?,
            Place::Variable(name) => machine.variable(name).map_err(fault)?,
            Place::State(name, range) => {
                let state = machine.variable(name).map_err(fault)?.to_f32();
                let part = state.get(range.clone()).unwrap_or_default().to_vec();
                Tensor::new(&[part.len()], part)
            }
        };
        if watch.when == When::First {
            self.whole(watch.key.clone(), &tensor);
            return Ok(());
        }
        let row = tensor.shape();
        let array =
            self.arrays.entry(watch.key.clone()).or_insert_with(|| Array::new(&[&[0], row].concat(), vec![]));
        array.shape[0] += 1;
        array.values.extend(tensor.to_f32());
        Ok(())
    }
}

/// A quantizer of the graph.
struct Quantizer {
    /// Name of the tensor that it quantizes.
    tensor: String,
    is_weight: bool,
    /// A convolution or matrix product reads it.
    is_weighted: bool,
    scale: ValueId,
}

fn is_weighted(graph: &Graph, id: NodeId) -> bool {
    matches!(graph.node(id).op().map(|op| op.quant()), Some(QuantRole::Weighted { .. }))
}

fn quantizers(graph: &Graph) -> Vec<Quantizer> {
    let original = |v: ValueId| match graph.producer::<Processed>(v) {
        Some(_) => graph.node(v.node).ins.get(1).copied().flatten().unwrap_or(v),
        None => v,
    };
    let of = |id: NodeId| {
        let node = graph.node(id);
        node.is::<FakeQuant>()?;
        let x = original(node.ins[0]?);
        Some(Quantizer {
            tensor: graph.value(x).name.clone(),
            is_weight: graph.tensor(x).is_some(),
            is_weighted: graph.consumers(id.into()).iter().any(|&(reader, _)| is_weighted(graph, reader)),
            scale: node.ins[1]?,
        })
    };
    graph.nodes().into_iter().filter_map(of).collect()
}

/// A scale is recorded as a list, even if it is one number.
fn list(graph: &mut Graph, v: ValueId) -> ValueId {
    if graph.ty(v).rank() != Some(0) {
        return v;
    }
    let axes = graph.add_const("first_axis", Tensor::new(&[1], vec![0i64]));
    let name = format!("{}_list", graph.value(v).name);
    graph.add(ops::Unsqueeze, &[v, axes], &name).unwrap_or(v)
}

/// What to record of a training step. Makes outputs of what is neither an output nor a variable.
fn watches(graph: &mut Graph, second_format: bool, arrays: &Arrays) -> Vec<Watch> {
    let mut found = Vec::new();
    let mut watch = |key: String, when, place| found.push(Watch { key, when, place });
    watch("loss".into(), When::Steps, Place::Output(LOSS.into()));
    watch("logits".into(), When::Steps, Place::Output(LOGITS.into()));

    let mut outputs = Vec::new();
    for id in graph.nodes() {
        let node = graph.node(id);
        let name_of = |slot: usize| node.ins[slot].map(|v| graph.value(v).name.clone()).unwrap_or_default();
        match &node.kind {
            Kind::Variable(..) if arrays.contains_key(&format!("init.{}", node.name)) => {
                watch(format!("param.{}", node.name), When::Always, Place::Variable(node.name.clone()));
            }
            Kind::Variable(_, Role::Param(group)) if **group == *PACT_GROUP => {
                let tensor = node.name.trim_end_matches("_threshold");
                watch(format!("pact.{tensor}"), When::Always, Place::Variable(node.name.clone()));
            }
            _ => {}
        }
        if node.is::<Momentum>().is_some()
            && let Some(gradient) = node.ins[1]
        {
            let (parameter, velocity) = (name_of(0), name_of(2));
            let key = match parameter.strip_suffix("_threshold") {
                Some(tensor) => {
                    watch(format!("pact_velocity.{tensor}"), When::Steps, Place::Variable(velocity));
                    format!("grad_step1.pact.{tensor}")
                }
                None => format!("grad_step1.{parameter}"),
            };
            outputs.push((key, When::First, gradient));
        }
        if node.is::<Observe>().is_some()
            && let Some(tensor) = name_of(1).strip_suffix(OUT_SCALE)
        {
            watch(format!("outscale.{tensor}"), When::Steps, Place::State(name_of(1), 1..2));
        }
    }
    let mut named: Vec<String> = Vec::new();
    for quantizer in quantizers(graph) {
        let scale = graph.node(quantizer.scale.node);
        let tracked = scale.is::<ActivationScale>().and_then(|op| {
            let state = graph.node(scale.ins[0]?.node);
            let state = if state.op().is_some() { graph.node(state.ins[1]?.node) } else { state };
            Some((op.statistic, state.name.clone()))
        });
        let Some((statistic, state)) = tracked.filter(|_| !quantizer.is_weight) else {
            outputs.push((format!("wscale.{}", quantizer.tensor), When::Steps, quantizer.scale));
            continue;
        };
        // In the first format, the ranges of operators without weights have names of their own.
        let tensor = match (second_format, quantizer.is_weighted, named.contains(&quantizer.tensor)) {
            (false, false, _) => format!("{}.quant_dequant", quantizer.tensor),
            (true, _, true) => format!("{}#2", quantizer.tensor),
            _ => quantizer.tensor,
        };
        let mut part = |kind: &str, range| {
            watch(format!("{kind}.{tensor}"), When::Steps, Place::State(state.clone(), range));
        };
        part("actscale", 1..2);
        match statistic {
            Statistic::MovingAverageAbsMax { .. } => {
                part("state", 2..3);
                part("accum", 3..4);
            }
            Statistic::RangeAbsMax { window } => part("window", 3..3 + window),
            _ => {}
        }
        named.push(tensor);
    }
    for (key, when, value) in outputs {
        let value = if when == When::Steps { list(graph, value) } else { value };
        graph.add_output(&key, value);
        watch(key.clone(), when, Place::Output(key));
    }
    found
}

/// Runs an inference graph on the images for evaluation.
fn infer(network: &Network, graph: &Graph, arrays: &Arrays) -> Result<Machine, Fault> {
    let mut machine = Machine::new(Arc::new(Program::compile(graph).map_err(fault)?));
    machine.set_input(&network.image, array(arrays, "data.eval_x")?).map_err(fault)?;
    machine.run().map_err(fault)?;
    Ok(machine)
}

/// Scale and largest code of the quantizer whose codes the logits are, up to a bias.
fn logit_step(graph: &Graph) -> Option<(ValueId, f64)> {
    let logits = graph.outputs().iter().find(|o| o.name == LOGITS)?.value;
    let quantizer =
        graph.node(logits.node).ins.iter().flatten().find(|v| graph.producer::<FakeQuant>(**v).is_some())?;
    let high = graph.producer::<FakeQuant>(*quantizer)?.quantizer.grid.high;
    // Not that of a matrix product's operand.
    let is_code = !is_weighted(graph, logits.node);
    graph.node(quantizer.node).ins[1].filter(|_| is_code).map(|scale| (scale, f64::from(high)))
}

/// Logits and scales of the trained graph in its evaluation form.
fn evaluate(network: &Network, trained: &Graph, arrays: &Arrays, log: &mut Found) -> Result<(), Fault> {
    let mut graph = trained.clone();
    passes::evaluation().run(&mut graph).map_err(graph_fault)?;
    train::strip_loss(&mut graph);
    let mut scales = Vec::new();
    for quantizer in quantizers(&graph).into_iter().filter(|q| q.is_weight) {
        let scale = list(&mut graph, quantizer.scale);
        scales.push((format!("frozen_scale.{}", quantizer.tensor), scale));
    }
    for id in graph.nodes() {
        let Some(QuantRole::Weighted { weight, .. }) = graph.node(id).op().map(|op| op.quant()) else {
            continue;
        };
        let scale = graph.node(id).ins[weight].filter(|&w| graph.producer::<FakeQuant>(w).is_some());
        if let Some(scale) = scale.and_then(|w| graph.node(w.node).ins[1]) {
            let scale = list(&mut graph, scale);
            scales.push((format!("channel_scale.{}", graph.value(id.into()).name), scale));
        }
    }
    for (key, scale) in
        scales.iter().filter(|(_, scale)| graph.tensor(*scale).is_none()).cloned().collect::<Vec<_>>()
    {
        graph.add_output(&key, scale);
    }
    let step = logit_step(&graph);
    if let Some((scale, _)) = step {
        graph.add_output("logit_scale", scale);
    }
    let machine = infer(network, &graph, arrays)?;
    if let Some((_, steps)) = step {
        let scale = machine.output("logit_scale").map_err(fault)?.to_f64();
        log.logit_step = scale.first().copied().unwrap_or(0.0) / steps;
    }
    for (key, scale) in scales {
        let value = match graph.tensor(scale) {
            Some(constant) => constant.clone(),
            None => machine.output(&key).map_err(fault)?,
        };
        log.whole(key, &value);
    }
    log.whole("eval.test_logits".into(), &machine.output(LOGITS).map_err(fault)?);
    Ok(())
}

/// Integer weights and logits of the frozen graph.
fn freeze(network: &Network, trained: &Graph, arrays: &Arrays, log: &mut Found) -> Result<(), Fault> {
    let mut graph = trained.clone();
    let weights: Vec<String> =
        quantizers(&graph).into_iter().filter(|q| q.is_weight).map(|q| q.tensor).collect();
    passes::convert(&mut graph).map_err(graph_fault)?;
    train::strip_loss(&mut graph);
    for weight in weights {
        let codes = graph.find(&format!("{weight}_quantized")).and_then(|v| graph.constant(v));
        if let Some(codes) = codes {
            log.whole(format!("int8.{weight}"), codes);
            log.whole(format!("frozen.{weight}"), codes);
        }
    }
    let machine = infer(network, &graph, arrays)?;
    log.whole("eval.float_prog_logits".into(), &machine.output(LOGITS).map_err(fault)?);
    Ok(())
}

/// What a recorded array may differ by.
enum Bound {
    Real(Tolerance),
    /// Integers: by so many units, in this share of the elements.
    Units(f64, f64),
}

impl Case {
    /// The tolerance of a kind of arrays, the first part of their names.
    fn bound(&self, kind: &str) -> Result<Bound, String> {
        let name = match kind {
            "window" => "actscale",
            "frozen_scale" | "channel_scale" => "wscale",
            "pact_velocity" => "pact",
            "eval" => "logits",
            "frozen" => "int8",
            other => other,
        };
        let tolerance = self.tolerance.iter().find(|(names, _)| names.split('/').any(|n| n == name));
        match tolerance.map(|(_, tolerance)| tolerance) {
            Some(Value::Object(keys)) => Tolerance::parse(keys).map(Bound::Real),
            // "at most 1 unit on at most 2 % of the entries"
            Some(Value::String(text)) => {
                let numbers: Vec<f64> =
                    text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
                match numbers[..] {
                    [units, percent] => Ok(Bound::Units(units, percent / 100.0)),
                    _ => Err(format!("tolerance `{name}` is \"{text}\"")),
                }
            }
            _ => Err(format!("the case has no tolerance `{name}`")),
        }
    }
}

fn units(got: &Array, want: &Tensor, most: f64, share: f64) -> Result<(), String> {
    let exact = Tolerance::default();
    let off: Vec<f64> = got.values.iter().zip(want.to_f64()).map(|(&g, w)| (g as f64 - w).abs()).collect();
    let differing = off.iter().filter(|&&d| d != 0.0).count();
    let few = differing as f64 <= share * off.len() as f64 && off.iter().all(|&d| d <= most);
    if few && got.shape == want.shape() { Ok(()) } else { compare::array(&exact, got, want, None) }
}

/// Compares every recorded array with each run that has it; the error says what differs, the text what deviates.
fn compare(case: &Case, arrays: &Arrays, runs: &[Found]) -> Result<Option<String>, String> {
    let mut problems = String::new();
    let mut deviations = Vec::new();
    let mut any = false;
    for (key, want) in arrays {
        let Some(name) = key.strip_prefix(&case.tag).and_then(|rest| rest.strip_prefix('.')) else {
            continue;
        };
        any = true;
        let bound = case.bound(name.split('.').next().unwrap_or(name));
        let mut found = runs.iter().filter_map(|run| Some((run, run.arrays.get(name)?))).peekable();
        let verdict = match (bound, found.peek()) {
            (Err(why), _) => Err(why),
            (_, None) => Err("is not computed".into()),
            (Ok(Bound::Real(tolerance)), _) => found.try_for_each(|(run, got)| {
                let verdict = compare::array(&tolerance, got, want, None);
                if verdict.is_ok() || !name.starts_with("eval.") || run.logit_step == 0.0 {
                    return verdict;
                }
                let step = run.logit_step;
                compare::array(&Tolerance { abs: tolerance.abs + step, ..tolerance }, got, want, None)?;
                deviations.push(format!(
                    "`{name}` has codes, {step:.3} apart, that are one off: biases are int32 here, float in Paddle"
                ));
                Ok(())
            }),
            (Ok(Bound::Units(most, share)), _) => found.try_for_each(|(_, got)| units(got, want, most, share)),
        };
        if let Err(why) = verdict {
            let _ = write!(problems, "{}`{name}` {why}", if problems.is_empty() { "" } else { "; " });
        }
    }
    match (any, problems.is_empty()) {
        (false, _) => Err("the case records no output".into()),
        (true, true) => Ok((!deviations.is_empty()).then(|| deviations.join("; "))),
        (true, false) => Err(problems),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::path::Path;

    fn read<T: serde::de::DeserializeOwned>(name: &str) -> T {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden").join(name);
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    /// A case fails when any one array that it records, and nothing else, is spoilt.
    #[test]
    fn no_array_can_be_wrong_unnoticed() {
        let index: Value = read("e2e.index.json");
        let programs: BTreeMap<String, Stages> = read("e2e.graphs.json");
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden");
        let good = data::npz::read(folder.join("e2e.npz")).unwrap();
        for case in index["cases"].as_array().unwrap() {
            let case: Case = serde_json::from_value(case.clone()).unwrap();
            let runs = case.runs(&good, &programs).unwrap();
            for (key, array) in &good {
                if !key.starts_with(&format!("{}.", case.tag)) {
                    continue;
                }
                let mut values = array.to_f32();
                let middle = values.len() / 2;
                values[middle] += values[middle].abs().max(2.0);
                let mut arrays = good.clone();
                arrays.insert(key.clone(), Tensor::new(array.shape(), values));
                assert!(compare(&case, &arrays, &runs).is_err(), "{key}");
            }
        }
    }
}
