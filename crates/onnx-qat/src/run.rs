//! A whole run as one file: from which model, on which data, how, and where to.

use crate::{Error, Model, PactInit, QuantizeOptions, RecipeRate};
use data::{Dataset, MaxBroken, Preprocess, Role, Source};
use passes::{Hooks, QuantConfig};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use train::FitOptions;

/// Everything that [`quantize`](crate::quantize) depends on: the same run gives the same bytes. The command `quantize` makes
/// one of its flags and writes it next to its result; the command `run` reads it.
///
/// ```
/// use onnx_qat::Run;
///
/// let run = Run::from_toml("model = 'a.onnx'\noutput = 'b.onnx'\n[data]\ntrain = 'a.npz'\n[training]\nepochs = 3\n")?;
/// assert_eq!((run.training.epochs, run.training.batch, run.equalize), (3, 64, true));
/// assert_eq!(Run::from_toml(&run.to_toml()?)?, run);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Version of the program that wrote the file.
    #[serde(default)]
    pub version: String,
    /// The float model. Paths are relative to the working folder.
    pub model: PathBuf,
    /// Where the int8 model goes.
    pub output: PathBuf,
    /// Its opset, 13 to 28; where it is not given, 17 or the nearest that has all of it.
    #[serde(default)]
    pub opset: Option<i64>,
    /// Cross-layer equalization before quantizers are inserted.
    #[serde(default = "yes")]
    pub equalize: bool,
    /// Fold batch norms into convolutions before training.
    #[serde(default)]
    pub fold_batch_norm: bool,
    /// Train with the optimizer that the model brings along, where it has one.
    #[serde(default)]
    pub recipe: Option<RecipeRate>,
    /// Where the float model goes as it is after training.
    #[serde(default)]
    pub trained: Option<PathBuf>,
    /// Samples with which calibration runs before training.
    #[serde(default = "calibration_samples")]
    pub calibration_samples: usize,
    /// Learned clipping of activations, and where its thresholds start.
    #[serde(default)]
    pub pact: Option<PactInit>,
    /// Learned clipping of weights.
    #[serde(default)]
    pub pact_weights: bool,
    /// The data.
    #[serde(default)]
    pub data: RunData,
    /// What to quantize and how.
    #[serde(default)]
    pub quantization: QuantConfig,
    /// How to train; with no epochs it is static calibration alone.
    #[serde(default)]
    pub training: FitOptions,
}

fn yes() -> bool {
    true
}

fn calibration_samples() -> usize {
    300
}

/// The data of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunData {
    /// Training and calibration data, in the words of [`Source`]; without it only the weights are quantized.
    pub train: Option<String>,
    /// Data to measure the float and the int8 model on.
    pub eval: Option<String>,
    /// The first samples only.
    pub limit: Option<usize>,
    /// Samples that may be left out since they cannot be read: `5`, or `1%`.
    pub max_broken: MaxBroken,
    /// What becomes of stored values.
    pub preprocess: Preprocess,
}

impl Run {
    /// Reads TOML.
    ///
    /// # Errors
    /// When the text is not TOML, a key is not known, or model or output are missing.
    pub fn from_toml(text: &str) -> Result<Run, toml::de::Error> {
        toml::from_str(text)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// As [`Run::from_toml`], and when the file cannot be read.
    pub fn load(path: &Path) -> Result<Run, Error> {
        let file = |what: String| Error::File { path: path.display().to_string(), what };
        let text = std::fs::read_to_string(path).map_err(|e| file(e.to_string()))?;
        Run::from_toml(&text).map_err(|e| file(e.to_string()))
    }

    /// Writes TOML, with every default spelled out.
    ///
    /// # Errors
    /// When a number is too large for TOML: a seed beyond 2^63.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(self)
    }

    /// The options of [`quantize`](crate::quantize).
    pub fn options(&self) -> QuantizeOptions {
        QuantizeOptions {
            config: self.quantization.clone(),
            hooks: Hooks::default(),
            equalize: self.equalize,
            fold_batch_norm: self.fold_batch_norm,
            recipe: self.recipe,
            pact: self.pact.clone(),
            pact_weights: self.pact_weights,
            calibration_samples: self.calibration_samples,
            fit: self.training.clone(),
        }
    }
}

impl RunData {
    /// Opens training and evaluation data, where there are any; `workers` threads read ahead.
    ///
    /// # Errors
    /// When data cannot be read or does not fit the model's inputs.
    pub fn open(&self, model: &Model, workers: usize) -> Result<(Option<Dataset>, Option<Dataset>), Error> {
        let open = |spec: &Option<String>, role| {
            let Some(spec) = spec else { return Ok(None) };
            let data = model.open_data(&Source::parse(spec, role)?, &self.preprocess)?;
            let mut data = data.with_workers(workers).with_max_broken(self.max_broken);
            data.truncate(self.limit.unwrap_or(usize::MAX));
            Ok::<_, Error>(Some(data))
        };
        Ok((open(&self.train, Role::Train)?, open(&self.eval, Role::Eval)?))
    }
}
