//! `quantize`: a float model in, an int8 model out.

use crate::data_args::{DataArgs, ThreadArgs, left_out};
use crate::output::{Output, Printer, accuracy_json, quality_json, write};
use crate::records::{self, RecordArgs};
use crate::training_args::{LearnedGroups, TrainingArgs};
use clap::ValueEnum;
use onnx_qat::data::Dataset;
use onnx_qat::observe::Distributions;
use onnx_qat::onnx::SaveOptions;
use onnx_qat::passes::{
    ActivationQuantizeType, Numerics, QuantConfig, Report, Selector, Verdict, onnx_runtime_overrides,
};
use onnx_qat::report::{Table, bytes, duration, percent};
use onnx_qat::train::{Accuracy, Event, Quality};
use onnx_qat::{Becomes, Decision, Error, Model, Outcome, PactInit, RecipeRate, Run, RunData, Stage};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

#[derive(clap::Args)]
pub struct Args {
    /// The float model: for inference, or for training with the loss inside.
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// Where the int8 model goes; MODEL.int8.onnx by default.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Training and calibration data: .npz, .npy, idx or CIFAR files, a list of pictures, or a folder of any of these.
    /// Without it, only the weights are quantized.
    #[arg(long, value_name = "DATA")]
    train: Option<String>,
    /// Labelled data to measure the float and the int8 model on.
    #[arg(long, value_name = "DATA")]
    eval: Option<String>,
    /// Quantization configuration in TOML; keys as PaddleSlim's quant_aware config.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    training: TrainingArgs,
    #[command(flatten)]
    quantization: Quantization,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    threads: ThreadArgs,
    #[command(flatten)]
    print: Output,
    #[command(flatten)]
    records: RecordArgs,
}

#[derive(clap::Args)]
#[command(next_help_heading = "Quantization options")]
struct Quantization {
    /// Learned clipping (PACT); of activations where nothing more is said.
    #[arg(long, value_name = "WHAT", value_enum, num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "activations")]
    pact: Option<Learned>,
    /// Learned scales (LSQ) in place of observed ranges, of activations with both ends of the range (LSQ+); of all where nothing
    /// more is said.
    #[arg(long, value_name = "WHAT", value_enum, num_args = 0..=1, require_equals = true, default_missing_value = "all")]
    lsq: Option<Learned>,
    /// Where PACT thresholds start: a number, the magnitudes that calibration saw, or the file that `analyze` wrote, whose
    /// `mse` thresholds are taken.
    #[arg(long, value_name = "X|calibrated|FILE", value_parser = pact_init, default_value = "calibrated")]
    pact_init: PactInitArg,
    #[command(flatten)]
    learned: LearnedGroups,
    /// What training does with batch norms: they use the statistics of the batch and update the running ones, or keep and use
    /// the running ones, or are folded into convolutions first. The int8 model has them folded in any case. By default they
    /// are updated, or frozen where the float model is all there is to learn from.
    #[arg(long, value_name = "update|freeze|fold", value_enum, conflicts_with = "freeze_bn_after")]
    batch_norm: Option<BatchNorm>,
    /// Train with the optimizer, rate and states of the training step that the file holds (`TrainingInfoProto`), if it holds
    /// one. Off when an optimizer or its options are given.
    #[arg(long, value_name = "on|off", value_parser = on_off, action = clap::ArgAction::Set)]
    recipe: Option<bool>,
    /// Write the float model after training, without quantizers, here as well; with the states of the file's own optimizer,
    /// where that trained it.
    #[arg(long, value_name = "FILE")]
    trained: Option<PathBuf>,
    /// Cross-layer equalization of neighbouring layers without batch norm, before quantizers are inserted.
    #[arg(long, value_name = "on|off", default_value = "on", value_parser = on_off, action = clap::ArgAction::Set)]
    equalize: bool,
    /// Samples that calibration reads.
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..))]
    calib_samples: u32,
    /// How ranges are calibrated.
    #[arg(long, value_enum)]
    calibration_method: Option<Calibration>,
    /// Quantize these nodes only; may be repeated. A node name, a glob (`/block1/*`), `re:REGEX` for the whole name,
    /// `type:OPERATOR`, or `between A B` for the nodes on the ways from A to B.
    #[arg(long, value_name = "NODES")]
    include: Vec<Selector>,
    /// Leave these nodes in floating point; may be repeated. As --include.
    #[arg(long, value_name = "NODES")]
    exclude: Vec<Selector>,
    /// Bits, range and symmetry of single tensors: JSON as ONNX Runtime's TensorQuantOverrides.
    #[arg(long, value_name = "FILE.json")]
    tensor_overrides: Option<PathBuf>,
    /// Only list what would become of each node, and why; nothing is read but the model, and nothing written.
    #[arg(long)]
    dry_run: bool,
    /// Opset of the int8 model, 13 to 28; by default 17, or where that lacks something, the float model's or the nearest
    /// one that has all of it.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(13..=28))]
    opset: Option<u8>,
}

/// Whose clipping or scales are learned.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Learned {
    Weights,
    Activations,
    All,
}

impl Learned {
    fn weights(this: Option<Learned>) -> bool {
        matches!(this, Some(Learned::Weights | Learned::All))
    }

    fn activations(this: Option<Learned>) -> bool {
        matches!(this, Some(Learned::Activations | Learned::All))
    }
}

#[derive(Clone, Debug)]
struct PactInitArg(PactInit);

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum BatchNorm {
    /// Statistics of the batch; the running ones follow.
    Update,
    /// Running statistics, as they are.
    Freeze,
    /// Folded before quantizers are inserted.
    Fold,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Calibration {
    /// Smallest and largest value of all batches. The default without training.
    Minmax,
    /// Moving average of smallest and largest value. The default with training.
    Ema,
}

pub fn on_off(s: &str) -> Result<bool, String> {
    match s {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("expected on or off".into()),
    }
}

fn pact_init(s: &str) -> Result<PactInitArg, String> {
    match s {
        "calibrated" => Ok(PactInitArg(PactInit::Calibrated)),
        s => match s.parse::<f32>() {
            Ok(x) if x.is_finite() && x > 0.0 => Ok(PactInitArg(PactInit::Value(x))),
            Ok(_) => Err("expected a positive number, 'calibrated', or a file of `analyze`".into()),
            Err(_) => {
                let text = std::fs::read_to_string(s).map_err(|e| format!("{s}: {e}"))?;
                let found = Distributions::from_toml(&text).map_err(|e| format!("{s}: {e}"))?;
                Ok(PactInitArg(PactInit::analyzed(&found)))
            }
        },
    }
}

pub fn run(args: &Args) -> Result<(), Error> {
    let out = args.output.clone().unwrap_or_else(|| args.model.with_extension("int8.onnx"));
    if out.is_dir() {
        return Err(Error::Usage(format!("{} is a folder; name a file with -o", out.display())));
    }
    let config = config(args)?;
    let run = resolve(args, out, config)?;
    if args.quantization.dry_run {
        return dry_run(&run, &args.print);
    }
    args.threads.run(|| execute(&run, args.data.workers.into(), &args.print, &args.records))
}

/// Lists what would become of each node.
fn dry_run(run: &Run, print: &Output) -> Result<(), Error> {
    let model = Model::load(&run.model)?;
    let mut printer = print.printer();
    let plan = onnx_qat::plan(&model, &run.options(), run.data.train.is_some())?;
    let mut table = Table::new(["node", "becomes", "why"]);
    for Decision { node, becomes, why } in &plan {
        table.row([node.clone(), becomes.to_string(), why.clone()]);
        printer
            .object(json!({"event": "decision", "node": node, "becomes": becomes.to_string(), "why": why}));
    }
    printer.line(table.to_string().trim_end());
    let integer = plan.iter().filter(|d| d.becomes != Becomes::Float).count();
    printer.line(&format!("{integer} of {} nodes on codes", plan.len()));
    Ok(())
}

/// The run that the flags describe.
fn resolve(args: &Args, output: PathBuf, quantization: QuantConfig) -> Result<Run, Error> {
    let q = &args.quantization;
    let mut training = args.training.options(&q.learned);
    training.freeze_batch_norm_after = match q.batch_norm {
        None => training.freeze_batch_norm_after,
        Some(BatchNorm::Update) => Some(training.epochs),
        Some(BatchNorm::Freeze | BatchNorm::Fold) => Some(0),
    };
    let rate = args.training.given_rate().map_or(RecipeRate::Own, RecipeRate::Value);
    let recipe = q.recipe.unwrap_or(!args.training.gives_optimizer()).then_some(rate);
    Ok(Run {
        version: env!("CARGO_PKG_VERSION").into(),
        model: args.model.clone(),
        output,
        opset: q.opset.map(i64::from),
        // PaddleSlim has no equalization, so its arithmetic comes without.
        equalize: q.equalize && quantization.numerics == Numerics::Deploy,
        fold_batch_norm: q.batch_norm == Some(BatchNorm::Fold),
        recipe,
        trained: q.trained.clone(),
        calibration_samples: q.calib_samples as usize,
        pact: Learned::activations(q.pact).then(|| q.pact_init.0.clone()),
        pact_weights: Learned::weights(q.pact),
        data: RunData {
            train: args.train.clone(),
            eval: args.eval.clone(),
            limit: args.data.limit,
            max_broken: args.data.max_broken,
            preprocess: args.data.preprocess()?,
        },
        quantization,
        training,
    })
}

/// The configuration of a file; the default one without.
pub fn read_config(path: Option<&Path>) -> Result<QuantConfig, Error> {
    let Some(path) = path else { return Ok(QuantConfig::default()) };
    let file = |what: String| Error::File { path: path.display().to_string(), what };
    let text = std::fs::read_to_string(path).map_err(|e| file(e.to_string()))?;
    QuantConfig::from_toml(&text).map_err(|e| file(e.to_string()))
}

/// The configuration of the file and of the flags.
fn config(args: &Args) -> Result<QuantConfig, Error> {
    let mut config = read_config(args.config.as_deref())?;
    let trained = args.train.is_some() && args.training.epochs() > 0;
    let learned = [("--pact", args.quantization.pact), ("--lsq", args.quantization.lsq)];
    if let Some((flag, _)) = learned.iter().find(|(_, what)| what.is_some() && !trained) {
        let what =
            format!("{flag} learns in training, but there is none: give --train DATA and 1 or more --epochs");
        return Err(Error::Usage(what));
    }
    match args.quantization.calibration_method {
        Some(Calibration::Minmax) => config.activation_quantize_type = ActivationQuantizeType::MinMax,
        Some(Calibration::Ema) => {
            config.activation_quantize_type = ActivationQuantizeType::MovingAverageMinMax
        }
        None if !trained && args.config.is_none() => {
            config.activation_quantize_type = ActivationQuantizeType::MinMax
        }
        None => {}
    }
    config.include.extend(args.quantization.include.iter().cloned());
    config.exclude.extend(args.quantization.exclude.iter().cloned());
    if let Some(path) = &args.quantization.tensor_overrides {
        let file = |what: String| Error::File { path: path.display().to_string(), what };
        let text = std::fs::read_to_string(path).map_err(|e| file(e.to_string()))?;
        let overrides = onnx_runtime_overrides(&text).map_err(|e| file(e.to_string()))?;
        config.tensor_overrides.extend(overrides);
    }
    if Learned::weights(args.quantization.lsq) {
        config.weight_quantize_type = config.weight_quantize_type.to_learned();
    }
    if Learned::activations(args.quantization.lsq) {
        config.activation_quantize_type = config.activation_quantize_type.to_learned();
    }
    Ok(config)
}

/// Quantizes, tells of it, and writes the int8 model with the run beside it.
pub fn execute(run: &Run, workers: usize, print: &Output, records: &RecordArgs) -> Result<(), Error> {
    let start = Instant::now();
    let out = &run.output;
    // Said now, not after an hour of training.
    onnx_qat::onnx::check_writable(out)?;
    run.trained.iter().try_for_each(onnx_qat::onnx::check_writable)?;
    let mut printer = print.printer();
    let mut recorder = records.recorder()?;
    let model = Model::load(&run.model)?;
    printer.line(&format!("model: {} ({})", run.model.display(), describe(&model)));
    for form in &model.forms {
        printer.line(&format!("form: {form}"));
    }
    for note in model.meta.notes() {
        printer.line(&format!("note: {note}"));
    }
    let (train, eval) = run.data.open(&model, workers)?;
    let samples =
        |d: &Option<Dataset>| d.as_ref().map_or("none".to_string(), |d| format!("{} samples", d.len()));
    printer.line(&format!("data: training {}, evaluation {}", samples(&train), samples(&eval)));

    let options = run.options();
    let verbose = print.verbose;
    let mut show = Show {
        printer: &mut printer,
        verbose,
        log_every: records.log_every as usize,
        epochs: options.fit.epochs,
        quantized: false,
    };
    let done = onnx_qat::quantize(&model, train.as_ref(), eval.as_ref(), &options, &mut |stage| {
        recorder.hear(stage);
        show.stage(stage);
    })?;
    let quantized = show.quantized;
    let save = SaveOptions { opset: run.opset, ..SaveOptions::default() };
    let saved = done.model.save_as(out, &save)?;
    if let (Some(path), Some(trained)) = (&run.trained, &done.trained) {
        trained.save_as(path, &save)?;
    }
    printer.done();
    let left_out = [&train, &eval].into_iter().flatten().filter_map(left_out);
    for note in left_out.chain(saved.notes.iter().cloned()) {
        printer.line(&format!("note: {note}"));
    }

    let size = |paths: &[PathBuf]| {
        paths.iter().filter_map(|p| std::fs::metadata(p).ok()).map(|m| m.len()).sum::<u64>()
    };
    let (before, after) = (size(&onnx_qat::onnx::files(&run.model)?), size(&saved.files));
    let score =
        |a: Option<Accuracy>, f: fn(&Accuracy) -> f64| a.as_ref().map_or("-".into(), |a| percent(f(a)));
    let mut table = Table::new(["", "float", "int8"]);
    if done.float.is_some() || done.int8.is_some() {
        table.row(["top-1".into(), score(done.float, Accuracy::top1), score(done.int8, Accuracy::top1)]);
        table.row(["top-5".into(), score(done.float, Accuracy::top5), score(done.int8, Accuracy::top5)]);
    }
    table.row(["size".to_string(), bytes(before), bytes(after)]);
    printer.line("");
    printer.line(table.to_string().trim_end());
    if !quantized {
        printer.line("nothing was quantized: the written model computes in floating point as before");
    } else if done.outcome == Outcome::WeightOnly {
        printer.line(
            "no data: matrix products find the ranges of their data at every run, convolutions have int8 weights but compute \
             in floating point. With --train DATA convolutions run in int8 too, and training recovers accuracy.",
        );
    }
    printer.line(&format!("written: {} in {}", out.display(), duration(start.elapsed())));
    write_beside(run)?;
    let page = recorder.finish(&records::Finished {
        float: &model,
        files: (&run.model, out),
        sizes: (before, after),
        quantized: &done,
        took: start.elapsed(),
        data: eval.as_ref().or(train.as_ref()),
    })?;
    if let Some(path) = page {
        printer.line(&format!("written: {}", path.display()));
    }
    printer.object(json!({
        "event": "done",
        "file": out.display().to_string(),
        "outcome": format!("{:?}", done.outcome),
        "float": done.float.map(accuracy_json),
        "int8": done.int8.map(accuracy_json),
        "bytes": {"float": before, "int8": after},
    }));
    Ok(())
}

/// Writes the run next to its result: `model.int8.toml` for `model.int8.onnx`. Checkpoints change nothing about the result and
/// are left out.
fn write_beside(run: &Run) -> Result<(), Error> {
    let mut run = run.clone();
    run.training.checkpoint = None;
    let path = run.output.with_extension("toml");
    let file = |what: String| Error::File { path: path.display().to_string(), what };
    let text = run.to_toml().map_err(|e| file(e.to_string()))?;
    write(&path, &text)
}

/// One line about a model.
fn describe(model: &Model) -> String {
    let nodes: usize = model.operator_counts().iter().map(|(_, n)| n).sum();
    format!("opset {}, {nodes} nodes", model.meta.opset())
}

/// Shows what goes on.
struct Show<'p> {
    printer: &'p mut Printer,
    verbose: bool,
    log_every: usize,
    epochs: usize,
    /// Whether anything was.
    quantized: bool,
}

impl Show<'_> {
    fn stage(&mut self, stage: &Stage) {
        match stage {
            Stage::Normalized(report) => {
                let left =
                    |l: &&onnx_qat::passes::Line| self.verbose || matches!(l.verdict, Verdict::Done(_));
                let lines = report.lines.iter().filter(left).cloned().collect();
                self.report("normalized", &Report { lines }, &[]);
            }
            Stage::Inserted(report) => {
                self.quantized = self.report(
                    "quantized",
                    report,
                    &[
                        "insert-fake-quant",
                        "quantize-activations",
                        "quantize-weights",
                        "dynamic-quantize",
                        "thaw-quant",
                    ],
                );
            }
            Stage::Recipe(recipe) => {
                self.printer.line(&format!("optimizer of the file: {recipe}"));
                self.printer.object(json!({"event": "recipe", "optimizer": recipe}));
            }
            Stage::Frozen(report) => {
                self.printer.done();
                self.report("frozen", report, &["freeze-quant"]);
            }
            Stage::EvaluatingFloat(i, n) => self.printer.bar("float model", *i, *n, "samples"),
            Stage::EvaluatingInt8(i, n) => self.printer.bar("int8 model", *i, *n, "samples"),
            Stage::Calibrating(i, n) => self.printer.bar("calibrating", *i, *n, "batches"),
            Stage::Float(a) => self.accuracy("float model", *a),
            Stage::Int8(a) => self.accuracy("int8 model", *a),
            Stage::Training(event) => self.training(event),
        }
    }

    fn accuracy(&mut self, name: &str, a: Accuracy) {
        self.printer.done();
        self.printer.accuracy(name, a);
    }

    /// Counts what was done by operator type, and tells what was left and why. Returns whether anything was done.
    fn report(&mut self, what: &str, report: &Report, passes: &[&str]) -> bool {
        self.printer.done();
        let lines: Vec<_> =
            report.lines.iter().filter(|l| passes.is_empty() || passes.contains(&l.pass.as_str())).collect();
        let mut done = std::collections::BTreeMap::new();
        // What is told of a node: that something was done, or each reason once why a pass left it.
        let mut told = std::collections::BTreeSet::new();
        for l in lines.iter().filter(|l| matches!(l.verdict, Verdict::Done(_))) {
            // `Conv node "conv1"` is one of its kind, `the model` is the only one.
            let kind = if l.node.contains('"') { l.node.split(' ').next() } else { None };
            *done.entry(kind.unwrap_or(&l.node)).or_insert(0usize) += 1;
            told.insert((&l.node, ""));
        }
        let count = |(&kind, n): (&&str, &usize)| match kind.contains(' ') {
            true => kind.to_string(),
            false => format!("{kind} {n}"),
        };
        let counts: Vec<String> = done.iter().map(count).collect();
        let counts = if counts.is_empty() { "nothing to do".to_string() } else { counts.join(", ") };
        self.printer.line(&format!("{what}: {counts}"));
        for l in &lines {
            match &l.verdict {
                Verdict::Skip(_) if !self.verbose && told.contains(&(&l.node, "")) => {}
                Verdict::Skip(why) if !told.insert((&l.node, why)) => {}
                Verdict::Skip(why) => self.printer.line(&format!("  left {}: {why}", l.node)),
                Verdict::Done(how) if self.verbose => self.printer.line(&format!("  {}: {how}", l.node)),
                Verdict::Done(_) => {}
            }
        }
        let entries: Vec<_> = lines.iter().map(|l| l.to_string()).collect();
        self.printer.object(json!({"event": what, "decisions": entries}));
        !done.is_empty()
    }

    fn training(&mut self, event: &Event) {
        match event {
            Event::Begin { loss, resumed } => {
                self.printer.line(&format!("loss: {loss}"));
                if let Some((epoch, step)) = resumed {
                    self.printer.line(&format!("resumed in epoch {}, step {step}", epoch + 1));
                }
                self.printer.object(json!({"event": "training", "loss": loss, "resumed": resumed}));
            }
            Event::Step { epoch, step, steps, loss, rates, accuracy, seconds } => {
                let rate = rates.first().map_or(0.0, |r| r.1);
                let mut shown = format!("loss {}", short(*loss));
                if accuracy.samples > 0 {
                    shown += &format!(" top1 {} top5 {}", percent(accuracy.top1()), percent(accuracy.top5()));
                }
                shown += &format!(" lr {rate:.2e}");
                if self.printer.has_bar() {
                    self.printer.bar_with(&format!("epoch {epoch}"), step + 1, *steps, "batches", &shown);
                } else if step % self.log_every == 0 {
                    self.printer.line(&format!("epoch[{epoch}]-batch[{step}] {shown} time {seconds:.3}"));
                }
                let rates: serde_json::Map<_, _> = rates.iter().map(|(n, r)| (n.clone(), json!(r))).collect();
                self.printer.object(json!({
                    "event": "step", "epoch": epoch, "step": step, "loss": loss, "lr": rate, "rates": rates,
                    "train": accuracy_json(*accuracy),
                }));
            }
            Event::Evaluated { epochs: 0, quality, .. } => {
                self.printer.done();
                self.printer.line(&format!("before training: {}", words(quality)));
                self.printer.object(json!({"event": "start", "eval": quality_json(quality)}));
            }
            Event::Evaluated { .. } => {}
            Event::Epoch { epoch, loss, train, eval, thresholds, seconds } => {
                self.printer.done();
                let mut text = format!("epoch {} of {}: loss {}", epoch + 1, self.epochs, short(*loss));
                if train.samples > 0 {
                    let per_second = train.samples as f64 / seconds.max(1e-9);
                    text += &format!(", training top-1 {}, {per_second:.0} samples/s", percent(train.top1()));
                }
                if let Some(quality) = eval {
                    text += &format!(", {}", words(quality));
                }
                text += &format!(", {}", duration(Duration::from_secs_f64(*seconds)));
                self.printer.line(&text);
                if self.verbose {
                    for (name, value) in thresholds {
                        self.printer.line(&format!("  {name} {value:.4}"));
                    }
                }
                let numbers: serde_json::Map<_, _> =
                    thresholds.iter().map(|(n, t)| (n.clone(), json!(t))).collect();
                self.printer.object(json!({
                    "event": "epoch", "epoch": epoch, "loss": loss, "train": accuracy_json(*train),
                    "eval": eval.as_ref().map(quality_json), "thresholds": numbers, "seconds": seconds,
                }));
            }
            Event::Diverged { epoch, step, what, back_to, rate_factor } => {
                self.printer.done();
                self.printer.line(&format!(
                    "diverged in epoch {}, step {step}: {what}; back to epoch {}, step {}, learning rates times {rate_factor}",
                    epoch + 1,
                    back_to.0 + 1,
                    back_to.1
                ));
                self.printer.object(json!({
                    "event": "diverged", "epoch": epoch, "step": step, "what": what, "back_to": back_to,
                    "rate_factor": rate_factor,
                }));
            }
            Event::Checkpoint { path } => {
                if self.verbose {
                    self.printer.line(&format!("checkpoint: {}", path.display()));
                }
                self.printer.object(json!({"event": "checkpoint", "path": path.display().to_string()}));
            }
            Event::Stopped { epochs } => {
                self.printer.line(&format!("stopped after epoch {epochs}: it got no better"));
                self.printer.object(json!({"event": "stopped", "epochs": epochs}));
            }
            Event::Restored { epochs: 0 } => {
                self.printer.line("training made it no better: weights and ranges are those before it");
                self.printer.object(json!({"event": "restored", "epochs": 0}));
            }
            Event::Restored { epochs } => {
                self.printer.line(&format!("weights and ranges are those after epoch {epochs}, the best"));
                self.printer.object(json!({"event": "restored", "epochs": epochs}));
            }
        }
    }
}

/// A loss with four digits that tell something.
fn short(loss: f32) -> String {
    if (1e-2..1e4).contains(&loss) { format!("{loss:.4}") } else { format!("{loss:.3e}") }
}

/// What was measured on the int8 form of the model.
fn words(quality: &Quality) -> String {
    match quality {
        Quality::Accuracy(a) => format!("int8 top-1 {} top-5 {}", percent(a.top1()), percent(a.top5())),
        Quality::Fidelity(f) => format!("int8 SQNR {:.1} dB", f.sqnr()),
    }
}
