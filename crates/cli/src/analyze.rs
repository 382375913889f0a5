//! `analyze`: how the activations of a model are distributed.

use crate::data_args::{DataArgs, ThreadArgs};
use crate::output::{Output, file_name, write};
use crate::quantize::read_config;
use onnx_qat::data::Role;
use onnx_qat::report::Table;
use onnx_qat::{AnalyzeOptions, Error, Model, pages};
use serde_json::json;
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Args {
    /// The float model.
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// Data to run the model on, as for training: .npz, .npy pair, MNIST idx files or folder.
    #[arg(long, value_name = "DATA")]
    data: String,
    /// Where the distributions go, in TOML; MODEL.analysis.toml by default. `quantize --pact-init FILE` reads it.
    #[arg(long, short, value_name = "FILE.toml")]
    output: Option<PathBuf>,
    /// Write a page with the histograms.
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
    /// Samples to run the model on.
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..))]
    samples: u32,
    /// Samples per run: all observed tensors of that many are in memory at once.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    /// Quantization configuration in TOML, which says what would be quantized.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Cross-layer equalization first, as `quantize` does.
    #[arg(long, value_name = "on|off", default_value = "on", value_parser = crate::quantize::on_off, action = clap::ArgAction::Set)]
    equalize: bool,
    #[command(flatten)]
    preprocess: DataArgs,
    #[command(flatten)]
    threads: ThreadArgs,
    #[command(flatten)]
    print: Output,
}

/// Tensors that are printed; the file has all.
const SHOWN: usize = 12;

pub fn run(args: &Args) -> Result<(), Error> {
    let out = args.output.clone().unwrap_or_else(|| args.model.with_extension("analysis.toml"));
    for path in std::iter::once(&out).chain(&args.report) {
        onnx_qat::onnx::check_writable(path)?;
    }
    args.threads.run(|| {
        let model = Model::load(&args.model)?;
        let data = args.preprocess.open(&model, &args.data, Role::Train)?;
        let options = AnalyzeOptions {
            config: read_config(args.config.as_deref())?,
            equalize: args.equalize,
            batch: args.batch as usize,
            samples: Some(args.samples as usize),
            ..AnalyzeOptions::default()
        };
        let mut printer = args.print.printer();
        let analysis = onnx_qat::analyze(&model, &data, &options, &mut |i, n| {
            printer.bar("analyzing", i, n, "samples")
        })?;
        printer.done();

        let distributions = analysis.distributions();
        let text = distributions.to_toml().map_err(|e| Error::Usage(format!("{}: {e}", out.display())))?;
        write(&out, &text)?;
        if let Some(path) = &args.report {
            let samples = data.len().min(args.samples as usize);
            let source = format!(
                "{} on {samples} samples of {}",
                file_name(&args.model),
                file_name(args.data.as_ref())
            );
            write(path, &pages::analysis(&analysis, &source))?;
        }

        let worst = analysis.worst_first();
        let mut table =
            Table::new(["tensor", "min", "max", "99.9 %", "spread", "abs_max", "hist", "kl", "mse"])
                .title("signal-to-noise ratio in 8 bits by calibration method, worst tensors first");
        for t in worst.iter().take(SHOWN) {
            let d = &t.distribution;
            let numbers = [d.min, d.max, d.percentile_99_9, d.channel_spread].map(|x| format!("{x:.3}"));
            let ratios = d.thresholds.named().map(|(_, t)| format!("{:.1} dB", t.sqnr));
            table.row(std::iter::once(t.name.clone()).chain(numbers).chain(ratios));
        }
        printer.line(table.to_string().trim_end());
        if worst.len() > SHOWN {
            printer.line(&format!("… and {} more in the file", worst.len() - SHOWN));
        }
        for path in std::iter::once(&out).chain(&args.report) {
            printer.line(&format!("written: {}", path.display()));
        }
        printer.object(json!({
            "event": "analyzed", "tensors": worst.len(), "file": out.display().to_string(),
            "report": args.report.as_ref().map(|p| p.display().to_string()),
        }));
        Ok(())
    })
}
