//! `evaluate`: accuracy of a model on labelled data.

use crate::data_args::{DataArgs, ThreadArgs, left_out};
use crate::output::Output;
use onnx_qat::data::{Batches, Dataset, Last, Loader, Order, Role, Values, View, npz};
use onnx_qat::tensor::Tensor;
use onnx_qat::{Error, Model};
use std::collections::BTreeMap;
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Args {
    /// The model: float or QDQ.
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// Labelled data: .npz, .npy, idx or CIFAR files, a list of pictures, or a folder of any of these.
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
        let data = args.data.open(&model, &args.eval, Role::Eval)?;
        let batch = args.batch as usize;
        let mut printer = args.output.printer();
        let accuracy =
            model.evaluate_with(&data, batch, &mut |i, n| printer.bar("evaluating", i, n, "samples"))?;
        printer.done();
        printer.accuracy(&args.model.display().to_string(), accuracy);
        if let Some(note) = left_out(&data) {
            printer.line(&format!("note: {note}"));
        }
        if let Some(path) = &args.dump {
            let scores = model.signature().scores.unwrap_or_else(|| "scores".into());
            let mut arrays = BTreeMap::from([(scores, model.predict(&data, batch)?)]);
            arrays.extend(inputs(&data, batch)?);
            npz::write(path, &arrays)?;
            printer.line(&format!("inputs and class scores: {}", path.display()));
        }
        Ok(())
    })
}

/// All samples as the model gets them, by name of the input.
fn inputs(data: &Dataset, batch: usize) -> Result<BTreeMap<String, Tensor>, Error> {
    let mut all: Vec<Values> = Vec::new();
    let batches = Batches::new(data.len(), batch, Order::Stored, Last::Keep)?;
    for loaded in Loader::new(data, batches, View::Plain) {
        let loaded = loaded?.inputs;
        match all.is_empty() {
            true => all = loaded,
            false => all.iter_mut().zip(loaded).for_each(|(all, more)| all.append(more)),
        }
    }
    let tensor = |(i, values)| {
        let sample = data.sample_shape(i);
        let count = |len: usize| len / sample.iter().product::<usize>();
        let shape = |len| std::iter::once(count(len)).chain(sample.iter().copied()).collect::<Vec<_>>();
        let tensor = match values {
            Values::F32(v) => Tensor::new(&shape(v.len()), v),
            Values::I64(v) => Tensor::new(&shape(v.len()), v),
        };
        (data.name(i).to_string(), tensor)
    };
    Ok(all.into_iter().enumerate().map(tensor).collect())
}
