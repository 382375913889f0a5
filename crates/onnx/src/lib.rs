//! ONNX files: to and from the graph.
//!
//! The message types in [`proto`] are generated from the schema in `proto/onnx.proto`. A file is mapped, decoded without
//! copying its weights, and turned into an [`ir::Graph`]; operators are parsed by an [`ir::Registry`]; this crate knows
//! none of them, but for the two that belong to the format (a `Constant` is read as a constant, and an `Identity` is
//! written where one value has two names) and for the table of where the operator set of ONNX broke with itself.

mod attributes;
mod encode;
mod error;
mod export;
mod external;
mod file;
mod functions;
mod history;
mod import;
mod limits;
mod meta;
mod model;
mod runtime_checkpoint;
mod sha1;
mod subgraph;
mod tensors;
mod training;
mod types;

/// The messages of the format, generated from `proto/onnx.proto` by the test `schema`.
#[rustfmt::skip]
#[allow(missing_docs, clippy::all, clippy::pedantic)]
#[path = "generated/onnx.rs"]
pub mod proto;

pub use error::{Error, ModelError};
pub use export::export;
pub use file::read_bytes;
pub use import::import;
pub use meta::Meta;
pub use model::{Weights, decode_model, files, read_model, write_model};
pub use runtime_checkpoint::{RuntimeCheckpoint, read_runtime_checkpoint};
pub use tensors::{decode_tensor, from_tensor, read_tensor, to_tensor};
pub use training::import_training;

use ir::{Graph, Registry};
use std::path::{Path, PathBuf};

/// Reads a model file: the graph, and what the file says beside it.
///
/// # Errors
/// As [`read_model`] and [`import`].
pub fn load(path: impl AsRef<Path>, registry: &dyn Registry) -> Result<(Graph, Meta), Error> {
    let path = path.as_ref();
    let model = read_model(path)?;
    import(model, registry).map_err(|source| Error::Model { path: path.to_path_buf(), source })
}

/// How [`save`] writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SaveOptions {
    /// Opset, 13 to 28. `None`: see [`export`].
    pub opset: Option<i64>,
    /// Where the weights go.
    pub weights: Weights,
}

/// What [`save`] wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// The model, and its data file where there is one.
    pub files: Vec<PathBuf>,
    /// What deserves a look, a sentence each.
    pub notes: Vec<String>,
}

/// Writes a graph as a model file. What was at `path` is replaced only when the new file is complete.
///
/// # Errors
/// As [`export`] and [`write_model`].
pub fn save(
    graph: &Graph,
    meta: &Meta,
    path: impl AsRef<Path>,
    options: &SaveOptions,
) -> Result<Saved, Error> {
    let path = path.as_ref();
    let error = |source| Error::Model { path: path.to_path_buf(), source };
    let (model, notes) = export(graph, meta, options.opset).map_err(error)?;
    Ok(Saved { files: write_model(&model, path, options.weights)?, notes })
}

/// Whether a file can be written at `path`, asked before hours of work and without leaving a trace.
///
/// # Errors
/// When it cannot.
pub fn check_writable(path: impl AsRef<Path>) -> Result<(), Error> {
    file::Draft::new(path.as_ref()).map(drop)
}

/// Writes a file whole or not at all. What was at `path` is replaced only when the new file is complete.
///
/// # Errors
/// When it cannot be written.
pub fn write_file(path: impl AsRef<Path>, content: &[u8]) -> Result<(), Error> {
    let mut draft = file::Draft::new(path.as_ref())?;
    draft.write(content)?;
    draft.sync()?;
    draft.publish().map(drop)
}
