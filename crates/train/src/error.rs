//! What can go wrong in training and evaluation.

use ir::GraphError;

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
        "the loss is {loss} in epoch {epoch}, batch {batch}: training diverged; lower the learning rate (now {rate}) or \
         the batch norm's share of it"
    )]
    Diverged { loss: f32, epoch: usize, batch: usize, rate: f32 },
    #[error("the model has no output with class scores [N, classes]; top-1 cannot be computed")]
    NoScores,
    #[error(
        "the data has no labels; training with a loss and top-1 need them (name them in the data argument)"
    )]
    NoLabels,
    #[error(
        "tensor '{tensor}' has {what}, so its range is unknown; look for what makes them with the data and the model as \
         they are"
    )]
    NonFinite { tensor: String, what: observe::NonFinite },
    #[error("class scores have shape {shape:?}, expected [{batch}, classes]")]
    ScoreShape { shape: Vec<usize>, batch: usize },
}
