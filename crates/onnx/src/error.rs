//! What can be wrong with a file, and with the model in it.

use ir::GraphError;
use std::io;
use std::path::PathBuf;

/// Why a file was not read or written. Each message begins with the file.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error("{}: there is no such file", path.display())]
    NotFound { path: PathBuf },

    /// The operating system refused; `action` is `read`, `written`, ….
    #[error("{}: cannot be {action}: {source}", path.display())]
    Io { path: PathBuf, action: &'static str, source: io::Error },

    #[error("{}: the file is empty", path.display())]
    Empty { path: PathBuf },

    #[error("{}: this is not an ONNX model: {found}", path.display())]
    NotOnnx { path: PathBuf, found: String },

    #[error("{}: the file is cut off: {part} should end at byte {needed}, but the file has {found} bytes", path.display())]
    Truncated { path: PathBuf, part: &'static str, needed: u64, found: u64 },

    #[error("{}: the ONNX model is damaged: {what}", path.display())]
    Damaged { path: PathBuf, what: String },

    /// `file` is what the model names; a message about it begins with the model.
    #[error("{}: the data of tensor \"{tensor}\" in \"{file}\" cannot be used: {what}", path.display())]
    External { path: PathBuf, tensor: String, file: String, what: String },

    #[error("{}: {source}", path.display())]
    Model { path: PathBuf, source: ModelError },
}

/// What is wrong with a model, and where in it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[allow(missing_docs)]
pub enum ModelError {
    #[error("the model holds no graph")]
    NoGraph,

    #[error("ONNX IR version {found} is not supported: {why}")]
    IrVersion { found: i64, why: &'static str },

    #[error("opset {found} is not supported: {why}")]
    Opset { found: i64, why: String },

    #[error("tensor \"{tensor}\": {what}")]
    Tensor { tensor: String, what: String },

    /// `node` reads like `Conv node "conv1"`.
    #[error("{node}: {what}")]
    Node { node: String, what: String },

    #[error(transparent)]
    Graph(#[from] GraphError),
}

impl ModelError {
    pub(crate) fn tensor(tensor: &str, what: impl Into<String>) -> ModelError {
        ModelError::Tensor { tensor: tensor.to_string(), what: what.into() }
    }

    pub(crate) fn node(node: impl Into<String>, what: impl Into<String>) -> ModelError {
        ModelError::Node { node: node.into(), what: what.into() }
    }
}
