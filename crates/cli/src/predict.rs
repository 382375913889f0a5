//! `predict`: what a model says about single samples.

use crate::data_args::{DataArgs, ThreadArgs};
use crate::output::Output;
use onnx_qat::data::Role;
use onnx_qat::report::{Table, percent};
use onnx_qat::{Error, Model};
use serde_json::json;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub struct Args {
    /// The model: float or QDQ.
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// A picture, or any other data: .npz, .npy, MNIST idx files, a list or folder of pictures.
    #[arg(value_name = "DATA")]
    data: String,
    /// Numbers of the samples.
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "0")]
    sample: Vec<usize>,
    /// Names of the classes, one per line.
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// Classes to print.
    #[arg(long, value_name = "K", default_value_t = 5)]
    top: usize,
    #[command(flatten)]
    preprocess: DataArgs,
    #[command(flatten)]
    threads: ThreadArgs,
    #[command(flatten)]
    print: Output,
}

pub fn run(args: &Args) -> Result<(), Error> {
    args.threads.run(|| {
        let model = Model::load(&args.model)?;
        let data = args.preprocess.open(&model, &args.data, Role::Eval)?;
        if let Some(sample) = args.sample.iter().find(|&&s| s >= data.len()) {
            let len = data.len();
            return Err(Error::Usage(format!("there is no sample {sample}: {} has {len}, from 0", args.data)));
        }
        let names = args.labels.as_deref().map(read_names).transpose()?;
        let mut printer = args.print.printer();
        for &sample in &args.sample {
            let scores = model.predict_samples(&data, &[sample])?.to_f32();
            let best = onnx_qat::top_classes(&scores, args.top);
            let name = |class: usize| match &names {
                Some(names) => names.get(class).cloned().unwrap_or_else(|| format!("class {class}")),
                None => format!("class {class}"),
            };
            let label = data.labels().map(|l| l[sample]);
            let own = label.and_then(|l| usize::try_from(l).ok()).map(|l| format!(", labelled {}", name(l)));
            let mut table = Table::new(["class", "probability", "name"])
                .title(format!("sample {sample}{}", own.unwrap_or_default()));
            for c in &best {
                table.row([c.class.to_string(), percent(c.probability.into()), name(c.class)]);
            }
            printer.line(&table.to_string());
            let classes: Vec<_> = best
                .iter()
                .map(|c| json!({"class": c.class, "name": name(c.class), "score": c.score, "probability": c.probability}))
                .collect();
            printer.object(json!({"event": "predicted", "sample": sample, "label": label, "classes": classes}));
        }
        Ok(())
    })
}

/// The names of classes, one per line.
fn read_names(path: &Path) -> Result<Vec<String>, Error> {
    let file = |what: String| Error::File { path: path.display().to_string(), what };
    let text = std::fs::read_to_string(path).map_err(|e| file(e.to_string()))?;
    let names: Vec<String> = text.lines().map(|l| l.trim().to_string()).collect();
    if names.is_empty() { Err(file("holds no names; expected one per line".into())) } else { Ok(names) }
}
