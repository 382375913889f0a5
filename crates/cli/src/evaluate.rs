//! `evaluate`: accuracy of a model on labelled data.

use crate::data_args::{DataArgs, ThreadArgs};
use crate::output::Output;
use onnx_qat::data::{Role, Source, npz};
use onnx_qat::{Error, Model};
use std::collections::BTreeMap;
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Args {
    /// The model: float or QDQ.
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// Labelled data: .npz, .npy pair, MNIST idx files or folder.
    #[arg(long, value_name = "DATA")]
    eval: String,
    /// Samples per run.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    /// Write the class scores, under the output's name, to this .npz file.
    #[arg(long, value_name = "FILE.npz")]
    scores: Option<PathBuf>,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    threads: ThreadArgs,
    #[command(flatten)]
    output: Output,
}

pub fn run(args: &Args) -> Result<(), Error> {
    args.threads.run(|| {
        let model = Model::load(&args.model)?;
        let source = Source::parse(&args.eval, Role::Eval)?;
        let mut data = model.open_data(&source, &args.data.preprocess())?;
        if let Some(limit) = args.data.limit {
            data.truncate(limit);
        }
        let batch = args.batch as usize;
        let mut printer = args.output.printer();
        let accuracy =
            model.evaluate_with(&data, batch, &mut |i, n| printer.bar("evaluating", i, n, "samples"))?;
        printer.done();
        printer.accuracy(&args.model.display().to_string(), accuracy);
        if let Some(path) = &args.scores {
            let name = model.signature().scores.unwrap_or_else(|| "scores".into());
            npz::write(path, &BTreeMap::from([(name, model.predict(&data, batch)?)]))?;
            printer.line(&format!("class scores: {}", path.display()));
        }
        Ok(())
    })
}
