//! What can go wrong in training and evaluation.

use crate::fit::Divergence;
use ir::GraphError;
use std::path::PathBuf;

/// What can go wrong in training and evaluation.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error(transparent)]
    Graph(#[from] GraphError),
    #[error(transparent)]
    Exec(#[from] exec::Error),
    #[error(transparent)]
    Data(#[from] data::Error),
    #[error("{0}")]
    Threads(String),
    #[error(
        "training diverged in epoch {}, step {}: {}; lower the learning rate (now {:.1e}) or clip the gradients",
        .0.epoch, .0.step, .0.what, .0.rate
    )]
    Diverged(Divergence),
    #[error("training options: {0}")]
    Options(String),
    #[error("checkpoint {}: {what}", path.display())]
    Checkpoint { path: PathBuf, what: String },
    #[error("the two models have no float output of the same name to compare")]
    NoCommonOutput,
    #[error("the model has no output with class scores [N, classes]; top-1 cannot be computed")]
    NoScores,
    #[error("the data has no labels; top-1 needs them (name them in the data argument)")]
    NoLabels,
    #[error(
        "tensor '{tensor}' has {what}, so its range is unknown; look for what makes them with the data and the model as \
         they are"
    )]
    NonFinite { tensor: String, what: observe::NonFinite },
    #[error("class scores have shape {shape:?}, expected [{batch}, classes]")]
    ScoreShape { shape: Vec<usize>, batch: usize },
}
