//! `cargo xtask corpus`: is every model of a folder read, computed, trained and emitted as it should be?
//!
//! `tests/interop/corpus.py` asks ONNX Runtime and OpenVINO, and writes the page. What it has to know of our side it gets from
//! this program: from its commands, and from the [`trial`] of one model.

use crate::chore::{self, Failure, root};
use clap::Parser;
use onnx_qat::Model;
use onnx_qat::data::npz;
use onnx_qat::exec::{Machine, Program};
use onnx_qat::ir::{Graph, Kind, Output, Type};
use onnx_qat::onnx::SaveOptions;
use onnx_qat::ops::{BatchNormalization, Resize};
use onnx_qat::passes::{FoldConstants, Hooks, Pass, Pipeline, QuantConfig, RemoveIdentity, Report};
use onnx_qat::prelude::{Optimizer, ParamGroup, Schedule, quant_aware};
use onnx_qat::tensor::{DType, Tensor};
use onnx_qat::train::{LossConfig, StepConfig, training_step};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;

/// Tries every model below a folder: its float outputs beside ONNX Runtime's, a step of quantization-aware training with the
/// gradients that arrive, and the emitted file in ONNX Runtime and OpenVINO.
#[derive(Parser)]
#[command(name = "cargo xtask corpus")]
struct Args {
    /// A folder with ONNX models.
    #[arg(value_name = "FOLDER")]
    models: PathBuf,
    /// Only models whose path contains this; the page is printed, not written.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// The page to write.
    #[arg(long, default_value = "docs/corpus.md", value_name = "FILE")]
    output: PathBuf,
    /// The interpreter with onnxruntime and openvino (tests/interop/setup.sh makes it).
    #[arg(long, default_value = "target/interop-venv/bin/python", value_name = "FILE")]
    python: PathBuf,
    /// Try this one model on the file inputs.npz in this folder: what the script starts.
    #[arg(long, value_name = "FOLDER", hide = true)]
    trial: Option<PathBuf>,
}

/// Runs the command with these arguments.
pub fn run(args: &[OsString]) -> ExitCode {
    chore::run(args, |args: Args| match &args.trial {
        Some(folder) => trial(&args.models, folder).map(|()| ExitCode::SUCCESS),
        None => page(&args),
    })
}

/// Starts the script, which starts this program for every model.
fn page(args: &Args) -> Result<ExitCode, Failure> {
    let mut command = Command::new(&args.python);
    command.arg(root().join("tests/interop/corpus.py")).arg(&args.models);
    command.arg("--program").arg(std::env::current_exe()?);
    match &args.only {
        Some(only) => command.arg("--only").arg(only),
        None => command.arg("--output").arg(&args.output),
    };
    let status = command.status().map_err(|e| chore::cannot_start(&args.python, &e, "setup.sh"))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Reads a model and prints what it finds, a line per fact: key, tab, value. On the tensors of `inputs.npz` in `folder`, by
/// name, it computes the float outputs, to `outputs.npz` there, and makes a step of quantization-aware training. The file as
/// it is saved untouched goes to `copy.onnx`, the forward pass that was found in it to `forward.onnx`.
fn trial(path: &Path, folder: &Path) -> Result<(), Failure> {
    let model = Model::load(path)?;
    let nodes: usize = model.operator_counts().iter().map(|(_, count)| count).sum();
    tell("nodes", nodes);
    model.forms.iter().for_each(|form| tell("form", form));
    model.signature().label.iter().for_each(|label| tell("label", label));
    model.save(folder.join("forward.onnx"))?;
    let (untouched, meta) = onnx_qat::onnx::load(path, &onnx_qat::ops::Ops)?;
    onnx_qat::onnx::save(&untouched, &meta, folder.join("copy.onnx"), &SaveOptions::default())?;
    let signature = model.signature();
    signature.data.iter().for_each(|name| tell("data", name));
    let float = |output: &Output| model.graph.ty(output.value).dtype == Some(DType::F32);
    if !model.graph.outputs().iter().any(float) {
        tell("no network", "no output is a float tensor");
        return Ok(());
    }
    let mut inputs = npz::read(folder.join("inputs.npz"))?;
    let batch = signature.data.iter().find_map(|name| inputs.get(name)?.shape().first().copied());
    let batch = batch.ok_or("no input has samples")?;
    let classes = classes(&model.graph, signature.scores.as_ref());
    classes.iter().for_each(|classes| tell("classes", classes));
    if let Some(label) = signature.label.filter(|label| !inputs.contains_key(label)) {
        inputs.insert(label, drawn_labels(batch, classes));
    }
    match forward(&model, &inputs) {
        Ok(outputs) => npz::write(folder.join("outputs.npz"), &outputs)?,
        Err(e) => tell("forward failed", e),
    }
    if let Err(e) = step(model, batch, inputs) {
        tell("step failed", e);
    }
    Ok(())
}

fn tell(key: &str, value: impl std::fmt::Display) {
    println!("{key}\t{}", value.to_string().replace(['\t', '\n'], " "));
}

/// The outputs of the forward pass in floating point, without dropouts.
fn forward(model: &Model, inputs: &BTreeMap<String, Tensor>) -> Result<BTreeMap<String, Tensor>, Failure> {
    let mut graph = model.graph.clone();
    Pipeline::new().then(FoldConstants).then(RemoveIdentity).run(&mut graph)?;
    for id in graph.inputs().to_vec() {
        if let Some(value) = inputs.get(&graph.node(id).name) {
            graph.set_input_type(id, Type::new(value.dtype(), value.shape().iter().copied()));
        }
    }
    graph.infer()?;
    FoldConstants.run(&mut graph, &mut Report::default())?;
    graph.sweep();
    let mut machine = machine(&graph, inputs)?;
    machine.run()?;
    graph.outputs().iter().map(|o| Ok((o.name.clone(), machine.output(&o.name)?))).collect()
}

/// A machine with these inputs, of which the graph need not read all.
fn machine(graph: &Graph, inputs: &BTreeMap<String, Tensor>) -> Result<Machine, Failure> {
    let mut machine = Machine::new(Arc::new(Program::compile(graph)?));
    for (name, value) in inputs.iter().filter(|(name, _)| graph.find(name).is_some()) {
        if machine.has_input(name) {
            machine.set_input(name, value)?;
        }
    }
    Ok(machine)
}

/// Makes a step of quantization-aware training at rate 0, and tells the loss, which gradients arrived, and why others did not.
/// The velocity of momentum, from zero, is the gradient.
fn step(mut model: Model, batch: usize, mut inputs: BTreeMap<String, Tensor>) -> Result<(), Failure> {
    quant_aware(&mut model, &QuantConfig::default(), &Hooks::default())?;
    let signature = model.signature();
    let trainable = constants(&model.graph);
    let labels = signature.loss.is_some() || signature.scores.is_some();
    let group = ParamGroup::weights(Optimizer::MOMENTUM, Schedule::constant(0.0), 0.0);
    let rate = group.rate_input();
    let config = StepConfig {
        loss: LossConfig::default().resolved(labels),
        freeze_batch_norm: !labels,
        ..StepConfig::new(&[group])
    };
    let samples: Vec<(String, Vec<usize>)> =
        inputs.iter().map(|(n, t)| (n.clone(), t.shape().iter().skip(1).copied().collect())).collect();
    let step = training_step(&model.graph, batch, &samples, &config)?;
    if let Some(label) = step.signature.label.as_ref().filter(|label| !inputs.contains_key(*label)) {
        let classes = classes(&step.graph, step.signature.scores.as_ref());
        inputs.insert(label.clone(), drawn_labels(batch, classes));
    }
    let mut machine = machine(&step.graph, &inputs)?;
    machine.input_mut::<f32>(&rate)?[0] = 0.0;
    machine.run()?;
    tell("minimized", &step.loss);
    let loss = step.signature.loss.as_deref().unwrap_or_default();
    tell("loss", machine.output(loss)?.to_f64().first().copied().unwrap_or(f64::NAN));

    let (mut arrived, mut wanted) = (0, 0);
    for name in &step.parameters {
        wanted += 1;
        match machine.variable(&format!("{name}_velocity")).map(|gradient| gradient.to_f32()) {
            Err(_) => tell("missing", format!("\"{name}\": the loss does not depend on it")),
            Ok(gradient) if gradient.iter().any(|x| !x.is_finite()) => {
                tell("missing", format!("\"{name}\": not finite"));
            }
            Ok(gradient) => {
                arrived += 1;
                if gradient.iter().all(|x| *x == 0.0) {
                    tell("zero", name);
                }
            }
        }
    }
    for (name, reader) in trainable.iter().filter(|(name, _)| !step.parameters.contains(name)) {
        wanted += 1;
        tell("missing", format!("\"{name}\": {reader}"));
    }
    tell("gradients", format!("{arrived} of {wanted}"));
    Ok(())
}

/// Number of classes of the scores.
fn classes(graph: &Graph, scores: Option<&String>) -> Option<usize> {
    let output = graph.outputs().iter().find(|o| Some(&o.name) == scores)?;
    graph.ty(output.value).shape.as_ref()?.last()?.fixed()
}

/// One class after the other; the script draws the same.
fn drawn_labels(batch: usize, classes: Option<usize>) -> Tensor {
    Tensor::new(&[batch], (0..batch).map(|i| (i % classes.unwrap_or(2)) as i64).collect())
}

/// What might be trained: the float constants of more than one element, with a word on who reads them. The running statistics
/// of batch norms and the scales of a resize are not among them.
fn constants(graph: &Graph) -> Vec<(String, String)> {
    let found = graph.nodes().into_iter().filter_map(|id| {
        let Kind::Const(value) = &graph.node(id).kind else { return None };
        let (reader, slot) = *graph.consumers(id.into()).first()?;
        let node = graph.node(reader);
        let statistic = node.is::<BatchNormalization>().is_some() && slot >= 3;
        let sizes = node.is::<Resize>().is_some() && slot >= 1;
        let read = format!("operand {slot} of {}, which is no weight", node.label());
        (value.dtype() == DType::F32 && value.len() > 1 && !statistic && !sizes)
            .then(|| (graph.node(id).name.clone(), read))
    });
    found.collect()
}
