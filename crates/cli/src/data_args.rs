//! Options about data, the same for all commands that read some.

use onnx_qat::data::{Dataset, Layout, MaxBroken, Preprocess, Role, Source};
use onnx_qat::{Error, Model};

/// How stored values become what the model takes: `(x * scale - mean) / std`.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Data options")]
pub struct DataArgs {
    /// Factor for stored values, applied first; a fraction such as 1/255 is fine.
    #[arg(long, value_name = "X", default_value = "1", value_parser = number, allow_hyphen_values = true)]
    pub scale: f32,
    /// Subtracted: one value, or one per channel (`123.7,116.3,103.5`).
    #[arg(long, value_name = "X,…", value_delimiter = ',', default_value = "0", allow_hyphen_values = true)]
    pub mean: Vec<f32>,
    /// Divides last: one value, or one per channel.
    #[arg(long, value_name = "X,…", value_delimiter = ',', default_value = "1")]
    pub std: Vec<f32>,
    /// Layout of the stored arrays: `nchw` or `nhwc`.
    #[arg(long, value_name = "LAYOUT", default_value = "nchw", value_parser = layout)]
    pub layout: Layout,
    /// Use the first N samples only.
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Threads that read, decode and convert batches ahead; 0: none but the one that computes. Results do not depend on it.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(..=1024))]
    pub workers: u16,
    /// Leave out up to so many samples that cannot be read or decoded: a number, or a share such as 1%.
    #[arg(long, value_name = "N|N%", default_value = "1%", value_parser = max_broken)]
    pub max_broken: MaxBroken,
}

impl DataArgs {
    /// Opens the data that `spec` names, for the inputs of a model.
    pub fn open(&self, model: &Model, spec: &str, role: Role) -> Result<Dataset, Error> {
        let data = model.open_data(&Source::parse(spec, role)?, &self.preprocess())?;
        let mut data = data.with_workers(self.workers.into()).with_max_broken(self.max_broken);
        if let Some(limit) = self.limit {
            data.truncate(limit);
        }
        Ok(data)
    }

    fn preprocess(&self) -> Preprocess {
        Preprocess { scale: self.scale, mean: self.mean.clone(), std: self.std.clone(), layout: self.layout }
    }
}

/// A line about the samples of a dataset that were left out, if there are any.
pub fn left_out(data: &Dataset) -> Option<String> {
    let broken = data.broken();
    let (_, first) = broken.first()?;
    Some(format!("{} of {} samples could not be used and were left out: {first}", broken.len(), data.len()))
}

fn number(s: &str) -> Result<f32, String> {
    let parse = |s: &str| s.trim().parse::<f32>().map_err(|_| format!("'{s}' is no number"));
    match s.split_once('/') {
        Some((a, b)) => Ok(parse(a)? / parse(b)?),
        None => parse(s),
    }
}

fn max_broken(s: &str) -> Result<MaxBroken, String> {
    s.parse().map_err(|e: onnx_qat::data::Error| e.to_string())
}

fn layout(s: &str) -> Result<Layout, String> {
    s.parse().map_err(|e: onnx_qat::data::Error| e.to_string())
}

/// How many threads to compute with.
#[derive(clap::Args, Clone, Debug)]
pub struct ThreadArgs {
    /// Number of threads; all processors by default. Results do not depend on it.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
}

impl ThreadArgs {
    /// Runs `work` on a pool of that many threads.
    pub fn run<T: Send>(
        &self,
        work: impl FnOnce() -> Result<T, onnx_qat::Error> + Send,
    ) -> Result<T, onnx_qat::Error> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(self.threads.unwrap_or(0).into()).build();
        pool.map_err(|e| onnx_qat::Error::Usage(format!("threads cannot be started: {e}")))?.install(work)
    }
}
