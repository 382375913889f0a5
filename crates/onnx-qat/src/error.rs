//! What can go wrong.

/// What can go wrong. Every message names the file, node or tensor, says what was expected and found, and what helps.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error(transparent)]
    Onnx(#[from] onnx::Error),
    #[error(transparent)]
    Graph(#[from] ir::GraphError),
    #[error(transparent)]
    Data(#[from] data::Error),
    #[error(transparent)]
    Train(#[from] train::Error),
    #[error(transparent)]
    Exec(#[from] exec::Error),
    #[error(transparent)]
    Config(#[from] passes::ConfigError),
    #[error("{path}: {what}")]
    File { path: String, what: String },
    #[error("{0}")]
    Usage(String),
}
