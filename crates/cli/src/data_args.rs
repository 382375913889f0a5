//! Options about data, the same for all commands that read some.

use onnx_qat::data::{
    Color, Dataset, Filter, Jitter, Layout, MaxBroken, Preprocess, RandomCrop, Resize, Role, Size, Source,
    Steps, filter, fraction,
};
use onnx_qat::{Error, Model};
use std::fmt::Display;
use std::str::FromStr;

/// What becomes of stored pictures and values, and how they are read.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Data options")]
pub struct DataArgs {
    /// Preprocessing: imagenet, imagenet-tf, mnist, cifar10, none, or a .toml file; the options below change single steps
    /// of it.
    #[arg(long, value_name = "PRESET|FILE.toml", default_value = "none")]
    pub preprocess: String,
    /// Channels of pictures: rgb, bgr or gray; rgb by default, or gray where the model takes one channel.
    #[arg(long, value_name = "COLOR", value_parser = parse::<Color>)]
    pub color: Option<Color>,
    /// Resize pictures: the shorter side (256), both (48x192: height by width), or 87.5% for the share that the crop takes.
    #[arg(long, value_name = "N|HxW|N%", value_parser = parse::<Resize>)]
    pub resize: Option<Resize>,
    /// How pictures are resized: bilinear or bicubic, as Pillow does.
    #[arg(long, value_name = "NAME", value_parser = resize_filter)]
    pub filter: Option<Filter>,
    /// Cut this size out of the centre; what the model takes by default.
    #[arg(long, value_name = "N|HxW", value_parser = parse::<Size>)]
    pub crop: Option<Size>,
    /// In training, cut at random: off, resized (a random rectangle, resized), resized:0.5 (at least half of the picture),
    /// or a number of pixels to pad before the cut.
    #[arg(long, value_name = "CROP", value_parser = parse::<RandomCrop>)]
    pub random_crop: Option<RandomCrop>,
    /// In training, mirror this share of the pictures.
    #[arg(long, value_name = "X")]
    pub flip: Option<f64>,
    /// In training, change brightness, contrast and saturation by up to this share.
    #[arg(long, value_name = "X|X,X,X", value_parser = parse::<Jitter>)]
    pub jitter: Option<Jitter>,
    /// Factor for values, applied first; a fraction such as 1/255 is fine. Values become (x * scale - mean) / std.
    #[arg(long, value_name = "X", value_parser = number, allow_hyphen_values = true)]
    pub scale: Option<f32>,
    /// Subtracted: one value, or one per channel (`123.7,116.3,103.5`).
    #[arg(long, value_name = "X,…", value_delimiter = ',', allow_hyphen_values = true)]
    pub mean: Option<Vec<f32>>,
    /// Divides last: one value, or one per channel.
    #[arg(long, value_name = "X,…", value_delimiter = ',')]
    pub std: Option<Vec<f32>>,
    /// Layout of stored arrays: nchw (by default) or nhwc.
    #[arg(long, value_name = "LAYOUT", value_parser = parse::<Layout>)]
    pub layout: Option<Layout>,
    /// Use the first N samples only.
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Threads that read, decode and convert batches ahead; 0: none but the one that computes. Results do not depend on it.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(..=1024))]
    pub workers: u16,
    /// Leave out up to so many samples that cannot be read or decoded: a number, or a share such as 1%.
    #[arg(long, value_name = "N|N%", default_value = "1%", value_parser = parse::<MaxBroken>)]
    pub max_broken: MaxBroken,
}

impl DataArgs {
    /// Opens the data that `spec` names, for the inputs of a model.
    pub fn open(&self, model: &Model, spec: &str, role: Role) -> Result<Dataset, Error> {
        let data = model.open_data(&Source::parse(spec, role)?, &self.preprocess()?)?;
        let mut data = data.with_workers(self.workers.into()).with_max_broken(self.max_broken);
        if let Some(limit) = self.limit {
            data.truncate(limit);
        }
        Ok(data)
    }

    /// The preset or file, changed by what is given on the command line.
    pub fn preprocess(&self) -> Result<Preprocess, Error> {
        let given = Steps {
            preset: None,
            color: self.color,
            resize: self.resize,
            filter: self.filter,
            crop: self.crop,
            random_crop: self.random_crop,
            flip: self.flip,
            jitter: self.jitter,
            scale: self.scale,
            mean: self.mean.clone(),
            std: self.std.clone(),
            layout: self.layout,
        };
        Ok(given.or(Steps::read(&self.preprocess)?).build()?)
    }
}

/// A line about the samples of a dataset that were left out, if there are any.
pub fn left_out(data: &Dataset) -> Option<String> {
    let broken = data.broken();
    let (_, first) = broken.first()?;
    Some(format!("{} of {} samples could not be used and were left out: {first}", broken.len(), data.len()))
}

fn parse<T: FromStr<Err: Display>>(s: &str) -> Result<T, String> {
    s.parse().map_err(|e: T::Err| e.to_string())
}

fn resize_filter(s: &str) -> Result<Filter, String> {
    filter(s).map_err(|e| e.to_string())
}

fn number(s: &str) -> Result<f32, String> {
    fraction(s).map_err(|e| e.to_string())
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
