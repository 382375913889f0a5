//! `quantize`: a float model in, an int8 model out.

use crate::data_args::{DataArgs, ThreadArgs, left_out};
use crate::output::{Output, Printer, accuracy_json};
use clap::ValueEnum;
use onnx_qat::data::{Dataset, Role};
use onnx_qat::onnx::SaveOptions;
use onnx_qat::passes::{ActivationQuantizeType, Hooks, Numerics, QuantConfig, Report, Verdict};
use onnx_qat::report::{Table, bytes, duration, percent};
use onnx_qat::train::{Accuracy, Decay, Event, FitOptions, Optimizer, ParamGroup, Schedule};
use onnx_qat::{Error, Model, Outcome, PactInit, QuantizeOptions, Stage};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Instant;

#[derive(clap::Args)]
pub struct Args {
    /// The float model: for inference, or for training with the loss inside.
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// Where the int8 model goes; MODEL.int8.onnx by default.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Training and calibration data: .npz, .npy pair, MNIST idx files or folder. Without it, only the weights are
    /// quantized.
    #[arg(long, value_name = "DATA")]
    train: Option<String>,
    /// Labelled data to measure the float and the int8 model on.
    #[arg(long, value_name = "DATA")]
    eval: Option<String>,
    /// Quantization configuration in TOML; keys as PaddleSlim's quant_aware config.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    training: Training,
    #[command(flatten)]
    quantization: Quantization,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    threads: ThreadArgs,
    #[command(flatten)]
    print: Output,
}

#[derive(clap::Args)]
#[command(next_help_heading = "Training options")]
struct Training {
    /// Epochs of quantization-aware training. 0: static calibration, no training.
    #[arg(long, value_name = "N", default_value_t = 1)]
    epochs: usize,
    /// Learning rate of the weights.
    #[arg(long, value_name = "X", default_value_t = 1e-3, value_parser = rate)]
    lr: f32,
    /// Samples per step.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    /// How the weights are updated.
    #[arg(long, value_enum, default_value_t = OptimizerName::Momentum)]
    optimizer: OptimizerName,
    /// L2 decay of the weights.
    #[arg(long, value_name = "X", default_value_t = 1e-5)]
    weight_decay: f32,
    /// How the learning rate changes over the run.
    #[arg(long, value_enum, default_value_t = ScheduleName::Cosine)]
    lr_schedule: ScheduleName,
    /// Epochs at which a piecewise schedule multiplies the rate by 0.1.
    #[arg(long, value_name = "EPOCH,…", value_delimiter = ',')]
    milestones: Vec<usize>,
    /// Steps over which the learning rate rises from zero.
    #[arg(long, value_name = "STEPS", default_value_t = 0)]
    warmup: usize,
    /// Seed of the order of samples.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

#[derive(clap::Args)]
#[command(next_help_heading = "Quantization options")]
struct Quantization {
    /// Learned clipping of activations (PACT).
    #[arg(long)]
    pact: bool,
    /// Where PACT thresholds start: a number, or the magnitudes that calibration saw.
    #[arg(long, value_name = "X|calibrated", value_parser = pact_init, default_value = "calibrated")]
    pact_init: PactInitArg,
    /// Learning rate of the PACT thresholds; that of the weights by default.
    #[arg(long, value_name = "X", value_parser = rate)]
    pact_lr: Option<f32>,
    /// L2 decay of the PACT thresholds.
    #[arg(long, value_name = "X", default_value_t = 1e-4)]
    pact_decay: f32,
    /// Cross-layer equalization of neighbouring layers without batch norm, before quantizers are inserted.
    #[arg(long, value_name = "on|off", default_value = "on", value_parser = on_off, action = clap::ArgAction::Set)]
    equalize: bool,
    /// Samples that calibration reads.
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..))]
    calib_samples: u32,
    /// How ranges are calibrated.
    #[arg(long, value_enum)]
    calibration_method: Option<Calibration>,
    /// Leave nodes in floating point whose name contains this; may be repeated.
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Opset of the int8 model, 13 to 20; that of the float model by default, but at least 13 and at most 20.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(13..=20))]
    opset: Option<u8>,
}

#[derive(Clone, Copy, Debug)]
struct PactInitArg(PactInit);

#[derive(Clone, Copy, Debug, ValueEnum)]
enum OptimizerName {
    Sgd,
    Momentum,
    Adam,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ScheduleName {
    Constant,
    Piecewise,
    Cosine,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Calibration {
    /// Smallest and largest value of all batches. The default without training.
    Minmax,
    /// Moving average of smallest and largest value. The default with training.
    Ema,
}

fn rate(s: &str) -> Result<f32, String> {
    match s.parse::<f32>() {
        Ok(x) if x.is_finite() && x >= 0.0 => Ok(x),
        _ => Err("a learning rate is a number of at least 0".into()),
    }
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
            _ => Err("expected a positive number or 'calibrated'".into()),
        },
    }
}

pub fn run(args: &Args) -> Result<(), Error> {
    let out = args.output.clone().unwrap_or_else(|| args.model.with_extension("int8.onnx"));
    if out.is_dir() {
        return Err(Error::Usage(format!("{} is a folder; name a file with -o", out.display())));
    }
    let config = config(args)?;
    // Said now, not after an hour of training.
    onnx_qat::onnx::check_writable(&out)?;
    args.threads.run(|| quantize(args, &out, config))
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
    let trained = args.train.is_some() && args.training.epochs > 0;
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
    config.not_quant_pattern.extend(args.quantization.exclude.iter().cloned());
    Ok(config)
}

fn options(args: &Args, config: QuantConfig) -> QuantizeOptions {
    let t = &args.training;
    let optimizer = match t.optimizer {
        OptimizerName::Sgd => Optimizer::Sgd,
        OptimizerName::Momentum => Optimizer::MOMENTUM,
        OptimizerName::Adam => Optimizer::ADAM,
    };
    let decay = match t.lr_schedule {
        ScheduleName::Constant => Decay::Constant,
        ScheduleName::Piecewise => Decay::Piecewise { milestones: t.milestones.clone(), gamma: 0.1 },
        ScheduleName::Cosine => Decay::Cosine,
    };
    let schedule = |rate: f32| Schedule { rate, decay: decay.clone(), warmup: t.warmup };
    let q = &args.quantization;
    let groups = vec![
        ParamGroup::weights(optimizer, schedule(t.lr), t.weight_decay),
        ParamGroup::pact(optimizer, schedule(q.pact_lr.unwrap_or(t.lr)), q.pact_decay),
    ];
    // PaddleSlim has no equalization, so its arithmetic comes without.
    let config_deploy = config.numerics == Numerics::Deploy;
    QuantizeOptions {
        config,
        hooks: Hooks::default(),
        equalize: q.equalize && config_deploy,
        pact: q.pact.then_some(q.pact_init.0),
        calibration_samples: q.calib_samples as usize,
        fit: FitOptions { epochs: t.epochs, batch: t.batch as usize, seed: t.seed, groups },
    }
}

fn quantize(args: &Args, out: &Path, config: QuantConfig) -> Result<(), Error> {
    let start = Instant::now();
    let mut printer = args.print.printer();
    let model = Model::load(&args.model)?;
    printer.line(&format!("model: {} ({})", args.model.display(), describe(&model)));
    for note in model.meta.notes() {
        printer.line(&format!("note: {note}"));
    }
    let open = |spec: &Option<String>, role| {
        spec.as_ref().map(|spec| args.data.open(&model, spec, role)).transpose()
    };
    let train = open(&args.train, Role::Train)?;
    let eval = open(&args.eval, Role::Eval)?;
    let samples =
        |d: &Option<Dataset>| d.as_ref().map_or("none".to_string(), |d| format!("{} samples", d.len()));
    printer.line(&format!("data: training {}, evaluation {}", samples(&train), samples(&eval)));

    let options = options(args, config);
    let verbose = args.print.verbose;
    let mut show =
        Show { printer: &mut printer, verbose, epochs: options.fit.epochs, epoch_start: Instant::now() };
    let done =
        onnx_qat::quantize(&model, train.as_ref(), eval.as_ref(), &options, &mut |stage| show.stage(stage))?;
    let save = SaveOptions { opset: args.quantization.opset.map(i64::from), ..SaveOptions::default() };
    let saved = done.model.save_as(out, &save)?;
    printer.done();
    let left_out = [&train, &eval].into_iter().flatten().filter_map(left_out);
    for note in left_out.chain(saved.notes.iter().cloned()) {
        printer.line(&format!("note: {note}"));
    }

    let size = |paths: &[PathBuf]| {
        paths.iter().filter_map(|p| std::fs::metadata(p).ok()).map(|m| m.len()).sum::<u64>()
    };
    let (before, after) = (size(std::slice::from_ref(&args.model)), size(&saved.files));
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
    if done.outcome == Outcome::WeightOnly {
        printer.line(
            "no data: matrix products find the ranges of their data at every run, convolutions have int8 weights but compute \
             in floating point. With --train DATA convolutions run in int8 too, and training recovers accuracy.",
        );
    }
    printer.line(&format!("written: {} in {}", out.display(), duration(start.elapsed())));
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

/// One line about a model.
fn describe(model: &Model) -> String {
    let nodes: usize = model.operator_counts().iter().map(|(_, n)| n).sum();
    let training = if model.signature().loss.is_some() { ", loss inside" } else { "" };
    format!("opset {}, {nodes} nodes{training}", model.meta.opset())
}

/// Shows what goes on.
struct Show<'p> {
    printer: &'p mut Printer,
    verbose: bool,
    epochs: usize,
    epoch_start: Instant,
}

impl Show<'_> {
    fn stage(&mut self, stage: &Stage) {
        match stage {
            Stage::Normalized(report) => {
                let left =
                    |l: &&onnx_qat::passes::Line| self.verbose || matches!(l.verdict, Verdict::Done(_));
                let lines = report.lines.iter().filter(left).cloned().collect();
                self.report("normalized", &Report { lines }, &[])
            }
            Stage::Inserted(report) => self.report(
                "quantized",
                report,
                &["insert-fake-quant", "quantize-activations", "quantize-weights", "dynamic-quantize"],
            ),
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

    /// Counts what was done by operator type, and tells what was left and why.
    fn report(&mut self, what: &str, report: &Report, passes: &[&str]) {
        self.printer.done();
        let lines: Vec<_> =
            report.lines.iter().filter(|l| passes.is_empty() || passes.contains(&l.pass.as_str())).collect();
        let mut done = std::collections::BTreeMap::new();
        for l in lines.iter().filter(|l| matches!(l.verdict, Verdict::Done(_))) {
            let kind = l.node.split(' ').next().unwrap_or_default().to_string();
            *done.entry(kind).or_insert(0usize) += 1;
        }
        let counts: Vec<String> = done.iter().map(|(kind, n)| format!("{kind} {n}")).collect();
        let counts = if counts.is_empty() { "nothing to do".to_string() } else { counts.join(", ") };
        self.printer.line(&format!("{what}: {counts}"));
        for l in &lines {
            match &l.verdict {
                Verdict::Skip(why) => self.printer.line(&format!("  left {}: {why}", l.node)),
                Verdict::Done(how) if self.verbose => self.printer.line(&format!("  {}: {how}", l.node)),
                Verdict::Done(_) => {}
            }
        }
        let entries: Vec<_> = lines.iter().map(|l| l.to_string()).collect();
        self.printer.object(json!({"event": what, "decisions": entries}));
    }

    fn training(&mut self, event: &Event) {
        match *event {
            Event::Step { epoch, step, steps, loss, rate, accuracy } => {
                if step == 0 {
                    self.epoch_start = Instant::now();
                }
                let shown = format!(
                    "loss {loss:.4} top1 {} top5 {} lr {rate:.2e}",
                    percent(accuracy.top1()),
                    percent(accuracy.top5())
                );
                self.printer.bar_with(&format!("epoch {epoch}"), step + 1, steps, "batches", &shown);
                self.printer.object(json!({
                    "event": "step", "epoch": epoch, "step": step, "loss": loss, "lr": rate,
                    "train": accuracy_json(accuracy),
                }));
            }
            Event::Epoch { epoch, loss, train, eval } => {
                self.printer.done();
                let took = self.epoch_start.elapsed();
                let per_second = train.samples as f64 / took.as_secs_f64().max(1e-9);
                let mut text = format!(
                    "epoch {} of {}: loss {loss:.4}, training top-1 {}",
                    epoch + 1,
                    self.epochs,
                    percent(train.top1())
                );
                if let Some(eval) = eval {
                    text += &format!(
                        ", evaluation top-1 {} top-5 {}",
                        percent(eval.top1()),
                        percent(eval.top5())
                    );
                }
                text += &format!(", {per_second:.0} samples/s, {}", duration(took));
                self.printer.line(&text);
                self.printer.object(json!({
                    "event": "epoch", "epoch": epoch, "loss": loss, "train": accuracy_json(train),
                    "eval": eval.map(accuracy_json),
                }));
            }
        }
    }
}
