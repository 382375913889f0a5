//! Losses, optimizers, schedules, calibration, the training loop, evaluation.

mod analyze;
mod calibrate;
mod error;
mod evaluate;
mod fit;
mod metrics;
mod optimizer;
mod run;
mod signature;
mod step;

pub use analyze::{Observed, analyze};
pub use calibrate::{calibrate, write_back};
pub use error::Error;
pub use evaluate::{Scores, evaluate, predict};
pub use fit::{Event, FitOptions, fit};
pub use metrics::Accuracy;
pub use optimizer::{Decay, Gradient, Optimizer, ParamGroup, Schedule, Update, WEIGHTS};
pub use run::{Runner, batch_size, sample_shapes};
pub use signature::{LABEL, LOSS, Signature, add_loss, strip_loss};
pub use step::{StepGraph, bind_batch, training_step};
