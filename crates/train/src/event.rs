//! What training tells of itself.

use crate::metrics::{Accuracy, Fidelity};
use std::path::PathBuf;

/// What happened, for progress bars and logs.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Training begins, or goes on.
    Begin {
        /// What is minimized, in words.
        loss: String,
        /// Epoch and step in it, of a run that goes on from a checkpoint.
        resumed: Option<(usize, usize)>,
    },
    /// A training step is done.
    Step {
        /// Epoch, from 0.
        epoch: usize,
        /// Step in the epoch, from 0.
        step: usize,
        /// Steps in the epoch.
        steps: usize,
        /// Loss of this step.
        loss: f32,
        /// Learning rates by parameter group, in the order of the options.
        rates: Vec<(String, f32)>,
        /// Accuracy over the epoch so far; counts nothing without labels.
        accuracy: Accuracy,
        /// Time that the step took, with the wait for its data.
        seconds: f64,
    },
    /// The int8 form of the model was evaluated: before the first epoch, or at the end of one.
    Evaluated {
        /// Epochs done so far.
        epochs: usize,
        /// How good it is.
        quality: Quality,
        /// Whether nothing before was as good.
        best: bool,
    },
    /// An epoch is done.
    Epoch {
        /// Epoch, from 0.
        epoch: usize,
        /// Mean loss over the epoch.
        loss: f32,
        /// Accuracy on the training data, as the steps saw it; counts nothing without labels.
        train: Accuracy,
        /// On the evaluation data, in int8 form.
        eval: Option<Quality>,
        /// Trained thresholds and step sizes: whatever has a group other than that of the weights, one number each.
        thresholds: Vec<(String, f32)>,
        /// Time of the epoch, without evaluation.
        seconds: f64,
    },
    /// Training diverged and stepped back.
    Diverged {
        /// Epoch in which it did, from 0.
        epoch: usize,
        /// Step in it, from 0.
        step: usize,
        /// What was seen, and where.
        what: String,
        /// Epoch and step at which it goes on.
        back_to: (usize, usize),
        /// Factor of all learning rates from now on.
        rate_factor: f32,
    },
    /// A checkpoint was written.
    Checkpoint {
        /// Its folder.
        path: PathBuf,
    },
    /// Training ended before its last epoch: nothing got better for some time.
    Stopped {
        /// Epochs done.
        epochs: usize,
    },
    /// The best state was taken in place of the last one.
    Restored {
        /// Epochs after which it was reached.
        epochs: usize,
    },
}

/// How good an int8 model is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Quality {
    /// On data with labels: how often it is right.
    Accuracy(Accuracy),
    /// On data without: how near it is to the float model.
    Fidelity(Fidelity),
}

impl Quality {
    /// A number that is larger for a better model: the share of right answers, or decibels.
    pub fn score(&self) -> f64 {
        match self {
            Quality::Accuracy(accuracy) => accuracy.top1(),
            Quality::Fidelity(fidelity) => fidelity.sqnr(),
        }
    }

    /// The accuracy, on data with labels.
    pub fn accuracy(&self) -> Option<Accuracy> {
        match self {
            Quality::Accuracy(accuracy) => Some(*accuracy),
            Quality::Fidelity(_) => None,
        }
    }
}
