//! The state of a run: all that is needed to go on with it.

use crate::metrics::Accuracy;
use serde::{Deserialize, Serialize};
use tensor::Tensor;

/// Names and values of variables.
pub(crate) type Variables = Vec<(String, Tensor)>;

/// How far a run is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Progress {
    /// Epochs done.
    pub epoch: usize,
    /// Steps done in this epoch. With the seed, the position in the data: order and augmentation of an epoch depend on nothing
    /// else.
    pub step: usize,
    /// Sum of the losses in this epoch.
    pub loss: f64,
    /// Loss of the first step of the run.
    pub first_loss: Option<f32>,
    /// Moving average of the losses.
    pub average_loss: f32,
    /// Factor of all learning rates.
    pub rate_factor: f32,
    /// How often the run has stepped back.
    pub retries: usize,
    /// Epochs since the best one.
    pub stale: usize,
    /// Whether the run ended early.
    pub stopped: bool,
    /// Accuracy on the training data in this epoch.
    pub accuracy: Accuracy,
    /// The best state so far.
    pub best: Option<Best>,
}

/// The best state of a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Best {
    /// Epochs after which it was reached.
    pub epochs: usize,
    /// Its [`Quality::score`](crate::Quality::score).
    pub score: f64,
}

impl Default for Progress {
    fn default() -> Self {
        Progress {
            epoch: 0,
            step: 0,
            loss: 0.0,
            first_loss: None,
            average_loss: 0.0,
            rate_factor: 1.0,
            retries: 0,
            stale: 0,
            stopped: false,
            accuracy: Accuracy::default(),
            best: None,
        }
    }
}

/// The state of a run.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct State {
    pub progress: Progress,
    /// Every variable of the training step: parameters, moments of optimizers, averages, running statistics, ranges.
    pub variables: Variables,
    /// Trained values of the best state, where one was kept.
    pub best: Variables,
}
