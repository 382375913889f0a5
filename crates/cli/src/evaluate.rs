//! `evaluate`: accuracy of a model on labelled data.

use crate::data_args::{DataArgs, ThreadArgs};
use crate::output::Output;
use onnx_qat::data::{Role, Source, npz};
use onnx_qat::tensor::Tensor;
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
    /// Write the inputs, as the model gets them, and the class scores to this .npz file, under their names in the model:
    /// what another runtime's results can be compared with.
    #[arg(long, value_name = "FILE.npz")]
    dump: Option<PathBuf>,
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
        if let Some(path) = &args.dump {
            let scores = model.signature().scores.unwrap_or_else(|| "scores".into());
            let mut arrays = BTreeMap::from([(scores, model.predict(&data, batch)?)]);
            let all: Vec<usize> = (0..data.len()).collect();
            for i in 0..data.inputs() {
                let shape: Vec<usize> =
                    std::iter::once(all.len()).chain(data.sample_shape(i).to_vec()).collect();
                let len = shape.iter().product();
                let array = if data.is_float(i) {
                    let mut values = vec![0f32; len];
                    data.read_f32(i, &all, &mut values)?;
                    Tensor::new(&shape, values)
                } else {
                    let mut values = vec![0i64; len];
                    data.read_i64(i, &all, &mut values)?;
                    Tensor::new(&shape, values)
                };
                arrays.insert(data.name(i).to_string(), array);
            }
            npz::write(path, &arrays)?;
            printer.line(&format!("inputs and class scores: {}", path.display()));
        }
        Ok(())
    })
}
