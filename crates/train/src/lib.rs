//! Losses, optimizers, schedules, calibration, the training loop, evaluation.

mod analyze;
mod calibrate;
mod checkpoint;
mod clip;
mod error;
mod evaluate;
mod event;
mod fit;
mod loss;
mod metrics;
mod optimizer;
mod options;
mod recipe;
mod run;
mod signature;
mod state;
mod step;
mod teacher;

pub use analyze::{Observed, analyze};
pub use calibrate::{calibrate, write_back};
pub use clip::GradientClip;
pub use error::Error;
pub use evaluate::{Scores, evaluate, fidelity, predict};
pub use event::{Event, Quality};
pub use fit::{Divergence, fit};
pub use loss::{Distill, DistillLoss, LossConfig};
pub use metrics::{Accuracy, Fidelity};
pub use optimizer::{
    Decay, Gradient, Hook, LSQ_SHARE, NoDecay, Optimizer, ParamGroup, Schedule, Update, WEIGHTS,
};
pub use options::{CheckpointOptions, DivergenceOptions, FitOptions, Keep};
pub use recipe::Recipe;
pub use run::{Runner, batch_size, sample_shapes};
pub use signature::{LABEL, LOSS, Signature, add_loss, expose_scores, strip_loss};
pub use step::{StepConfig, StepGraph, bind_batch, training_step};
pub use teacher::float_model;
