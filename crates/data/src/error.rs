//! What can go wrong with data, each told with the file, the entry and the sample where it happened.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where an array comes from: a file, an entry of an archive, or the caller's memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file; none for an array that the caller made.
    pub path: Option<Arc<Path>>,
    /// The name of the array inside an archive or in memory; none where the file holds one array.
    pub entry: Option<Arc<str>>,
}

impl Place {
    /// A file that holds one array.
    pub fn file(path: &Path) -> Place {
        Place { path: Some(path.into()), entry: None }
    }

    /// An array of an archive.
    pub fn entry(path: &Path, entry: &str) -> Place {
        Place { path: Some(path.into()), entry: Some(entry.into()) }
    }

    /// An array that the caller made.
    pub fn memory(name: &str) -> Place {
        Place { path: None, entry: Some(name.into()) }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.path, &self.entry) {
            (Some(path), Some(entry)) => write!(f, "{}, entry '{entry}'", path.display()),
            (Some(path), None) => write!(f, "{}", path.display()),
            (None, entry) => write!(f, "array '{}'", entry.as_deref().unwrap_or_default()),
        }
    }
}

/// Everything that reading data can meet. The message is complete in itself: it holds the cause as well.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error("cannot read {place}: {cause}")]
    Read { place: Place, cause: io::Error },
    #[error("cannot write {}: {cause}", path.display())]
    Write { path: PathBuf, cause: io::Error },
    #[error(transparent)]
    Tensor(#[from] onnx::Error),
    /// The bytes are not what the format says.
    #[error("{place}: {problem}")]
    Format { place: Place, problem: String },
    /// The words that name a data source make no sense.
    #[error("data '{spec}': {problem}")]
    Spec { spec: String, problem: String },
    /// An archive does not hold what the model needs.
    #[error("{}: {problem}; it holds: {}", path.display(), entries.join(", "))]
    Entries { path: PathBuf, problem: String, entries: Vec<String> },
    #[error("{place}: there are no samples: its shape is {shape:?}")]
    Empty { place: Place, shape: Vec<usize> },
    #[error(
        "{first} has {first_len} samples, but {second} has {second_len}; they must be the same samples in the same order"
    )]
    Lengths { first: Place, first_len: usize, second: Place, second_len: usize },
    /// The model's input has another shape. `N` is the number of samples, `?` a dimension that the model leaves open.
    #[error("{place} has shape {found}, but the model's input '{input}' takes {expected}; {fix}")]
    Shape { place: Place, found: Box<str>, input: Box<str>, expected: Box<str>, fix: Box<str> },
    #[error("{place}: elements of type {found} cannot be used for the model's input '{input}'; {fix}")]
    ElementType { place: Place, found: tensor::DType, input: String, fix: &'static str },
    /// Mean, standard deviation or scale cannot be applied.
    #[error("preprocessing: {problem}")]
    Preprocess { problem: String },
    #[error(
        "{place}, sample {sample}: the value {value} at position {position} is not a finite 32-bit float after \
         preprocessing; remove or repair the sample"
    )]
    NotFinite { place: Place, sample: usize, position: usize, value: f64 },
    #[error(
        "{place}, sample {sample}: the value {value} at position {position} is not a whole number, but the model's \
         input '{input}' takes integers"
    )]
    NotInteger { place: Place, sample: usize, position: usize, value: f64, input: String },
    #[error(
        "{place}, sample {sample}: the label {label} is not a class number; labels are whole numbers from 0"
    )]
    LabelValue { place: Place, sample: usize, label: f64 },
    #[error(
        "{place}, sample {sample}: the label {label} is out of range, the model has {classes} classes (0 to {})",
        classes.saturating_sub(1)
    )]
    LabelRange { place: Place, sample: usize, label: i64, classes: usize },
    #[error(
        "{place}: labels have shape {shape:?}, but one class number per sample is needed, [N] or [N, 1]; \
         turn one-hot rows into class numbers with argmax"
    )]
    LabelShape { place: Place, shape: Vec<usize> },
    #[error("{place}: no labels were found; name them in the data source: x.npz#INPUT,LABELS or x.npy,y.npy")]
    NoLabels { place: Place },
    /// One sample that cannot be used, while others may.
    #[error("{place}: {problem}")]
    Broken { place: Place, problem: String },
    #[error(
        "{place}: {found} of {all} samples cannot be used, {limit} are allowed (--max-broken): {first}; repair or remove them"
    )]
    TooManyBroken { place: Place, found: usize, all: usize, limit: usize, first: String },
    #[error("batches of {size} cannot be made of {samples} samples; {fix}")]
    BatchSize { size: usize, samples: usize, fix: &'static str },
}

impl Error {
    pub(crate) fn format(place: &Place, problem: impl Into<String>) -> Error {
        Error::Format { place: place.clone(), problem: problem.into() }
    }

    pub(crate) fn read(place: &Place, cause: io::Error) -> Error {
        Error::Read { place: place.clone(), cause }
    }
}
