//! `run`: a run that is described by a file.

use crate::data_args::ThreadArgs;
use crate::output::Output;
use crate::quantize::execute;
use crate::records::RecordArgs;
use onnx_qat::{Error, Run};
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Args {
    /// The run: what `quantize` wrote next to its result, or a file like it.
    #[arg(value_name = "FILE.toml")]
    file: PathBuf,
    /// Where the int8 model goes, in place of what the file says.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Threads that read, decode and convert batches ahead. Results do not depend on it.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(..=1024))]
    workers: u16,
    #[command(flatten)]
    threads: ThreadArgs,
    #[command(flatten)]
    print: Output,
    #[command(flatten)]
    records: RecordArgs,
}

pub fn run(args: &Args) -> Result<(), Error> {
    let mut run = Run::load(&args.file)?;
    if let Some(output) = &args.output {
        run.output = output.clone();
    }
    args.threads.run(|| execute(&run, args.workers.into(), &args.print, &args.records))
}
