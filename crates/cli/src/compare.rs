//! `compare`: a float model beside its int8 model, on the same data.

use crate::data_args::{DataArgs, ThreadArgs};
use crate::output::{Output, accuracy_json, decibel, file_name, write};
use onnx_qat::data::Role;
use onnx_qat::report::{Table, percent};
use onnx_qat::{Comparison, Error, Model, pages};
use serde_json::json;
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Args {
    /// The float model.
    #[arg(value_name = "FLOAT")]
    float: PathBuf,
    /// The int8 model made of it.
    #[arg(value_name = "INT8")]
    int8: PathBuf,
    /// Data to run both on: .npz, .npy pair, MNIST idx files or folder. Labels are not needed.
    #[arg(long, value_name = "DATA")]
    data: String,
    /// Write a page with everything.
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
    /// Samples per run: all quantized tensors of that many are in memory at once.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    #[command(flatten)]
    preprocess: DataArgs,
    #[command(flatten)]
    threads: ThreadArgs,
    #[command(flatten)]
    print: Output,
}

/// Layers and samples that are printed; the page and JSON have more.
const SHOWN: usize = 10;

pub fn run(args: &Args) -> Result<(), Error> {
    args.report.iter().try_for_each(onnx_qat::onnx::check_writable)?;
    args.threads.run(|| {
        let (float, int8) = (Model::load(&args.float)?, Model::load(&args.int8)?);
        let data = args.preprocess.open(&float, &args.data, Role::Eval)?;
        let mut printer = args.print.printer();
        let comparison = onnx_qat::compare(&float, &int8, &data, args.batch as usize, &mut |i, n| {
            printer.bar("comparing", i, n, "samples")
        })?;
        printer.done();
        for text in texts(&comparison) {
            printer.line(text.trim_end());
        }
        if let Some(path) = &args.report {
            let (a, b) = (file_name(&args.float), file_name(&args.int8));
            let source =
                format!("{a} and {b} on {} samples of {}", data.len(), file_name(args.data.as_ref()));
            write(path, &pages::comparison(&comparison, &source))?;
            printer.line(&format!("written: {}", path.display()));
        }
        printer.object(json(&comparison));
        Ok(())
    })
}

fn texts(c: &Comparison) -> Vec<String> {
    let mut texts = Vec::new();
    if let Some(classes) = &c.classes {
        if let (Some(float), Some(int8)) = (classes.float, classes.int8) {
            let mut table = Table::new(["", "float", "int8"]);
            table.row(["top-1".into(), percent(float.top1()), percent(int8.top1())]);
            table.row(["top-5".into(), percent(float.top5()), percent(int8.top5())]);
            texts.push(table.to_string());
        }
        let agreement = percent(c.agreement().unwrap_or(1.0));
        texts.push(format!(
            "agreement: {agreement}, {} of {} samples differ\n",
            classes.differing.len(),
            c.samples
        ));
    }
    let mut outputs = Table::new(["output", "SQNR", "cosine"]);
    for o in &c.outputs {
        outputs.row([o.name.clone(), decibel(o.sqnr), format!("{:.6}", o.cosine)]);
    }
    texts.push(outputs.to_string());
    let mut layers = Table::new(["tensor", "operator", "accumulated", "own"])
        .title(format!("SQNR of {} quantized tensors, worst first", c.layers.len()));
    for l in c.worst_first().into_iter().take(SHOWN) {
        layers.row([l.name.clone(), l.operator.clone(), decibel(l.sqnr), decibel(l.own)]);
    }
    texts.push(layers.to_string());
    if c.equalized {
        texts.push("the float model was equalized across layers first, as the int8 model was\n".into());
    }
    let differing = c.classes.iter().flat_map(|c| &c.differing);
    let list: Vec<String> = differing.clone().take(SHOWN).map(|d| d.sample.to_string()).collect();
    if !list.is_empty() {
        let more = if differing.count() > SHOWN { ", …" } else { "" };
        texts.push(format!("samples that differ: {}{more}", list.join(", ")));
    }
    texts
}

fn json(c: &Comparison) -> serde_json::Value {
    // JSON has no infinity: a tensor without any error has no ratio.
    let finite = |x: f64| x.is_finite().then_some(x);
    let difference = |d: &onnx_qat::Difference| json!({"sample": d.sample, "label": d.label, "float": d.float, "int8": d.int8, "margin": d.margin});
    json!({
        "event": "compared",
        "samples": c.samples,
        "agreement": c.agreement(),
        "float": c.classes.as_ref().and_then(|c| c.float).map(accuracy_json),
        "int8": c.classes.as_ref().and_then(|c| c.int8).map(accuracy_json),
        "equalized": c.equalized,
        "outputs": c.outputs.iter()
            .map(|o| json!({"name": o.name, "sqnr": finite(o.sqnr), "cosine": o.cosine})).collect::<Vec<_>>(),
        "layers": c.layers.iter()
            .map(|l| json!({"name": l.name, "operator": l.operator, "sqnr": finite(l.sqnr), "own": finite(l.own)}))
            .collect::<Vec<_>>(),
        "differing": c.classes.iter().flat_map(|c| &c.differing).map(difference).collect::<Vec<_>>(),
    })
}
