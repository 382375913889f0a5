//! How to train.

use crate::loss::LossConfig;
use crate::optimizer::{Decay, LSQ_SHARE, Optimizer, ParamGroup, Schedule};
use crate::step::StepConfig;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// How to train. In a file, keys are the names of the fields, and absent ones keep their defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FitOptions {
    /// Passes over the data.
    pub epochs: usize,
    /// Samples per step.
    pub batch: usize,
    /// Seed of the order of samples.
    pub seed: u64,
    /// Which state the model ends with.
    pub keep: Keep,
    /// Ends when so many epochs in a row were no better than the best. Needs evaluation data.
    pub patience: Option<usize>,
    /// Epochs after which batch norms keep their running statistics and use them. Where nothing is said: never with labels, and from
    /// the start when the float model is all there is to learn from, which uses them, too.
    pub freeze_batch_norm_after: Option<usize>,
    /// Epochs after which ranges of activations stay as they are.
    pub freeze_observers_after: Option<usize>,
    /// Decay per step of an exponential moving average of the parameters, which is evaluated and kept in their place.
    pub ema_decay: Option<f32>,
    /// What to minimize.
    pub loss: LossConfig,
    /// When training diverges.
    pub divergence: DivergenceOptions,
    /// Where to save the state of training.
    pub checkpoint: Option<CheckpointOptions>,
    /// Optimizers by parameter group. Groups that the graph does not have are ignored.
    pub groups: Vec<ParamGroup>,
}

impl Default for FitOptions {
    fn default() -> Self {
        let schedule = Schedule { rate: 1e-3, decay: Decay::Cosine, warmup: 0 };
        FitOptions {
            epochs: 1,
            batch: 64,
            seed: 1,
            keep: Keep::default(),
            patience: None,
            freeze_batch_norm_after: None,
            freeze_observers_after: None,
            ema_decay: None,
            loss: LossConfig::default(),
            divergence: DivergenceOptions::default(),
            checkpoint: None,
            groups: vec![
                ParamGroup::weights(Optimizer::MOMENTUM, schedule.clone(), 1e-5),
                ParamGroup::pact(Optimizer::MOMENTUM, schedule.clone(), 1e-4),
                ParamGroup::lsq(
                    Optimizer::MOMENTUM,
                    Schedule { rate: LSQ_SHARE * schedule.rate, ..schedule },
                ),
            ],
        }
    }
}

impl FitOptions {
    /// The step of an epoch, for data with or without labels.
    pub(crate) fn step(&self, epoch: usize, labels: bool) -> StepConfig {
        let after = |epochs: Option<usize>| epochs.is_some_and(|n| epoch >= n);
        let loss = self.loss.resolved(labels);
        let alone = (loss.label_weight == 0.0).then_some(0);
        StepConfig {
            groups: self.groups.clone(),
            loss,
            freeze_batch_norm: after(self.freeze_batch_norm_after.or(alone)),
            freeze_observers: after(self.freeze_observers_after),
            ema_decay: self.ema_decay,
        }
    }

    /// Checks what the types do not express.
    ///
    /// # Errors
    /// Names the first option whose value makes no sense.
    pub fn check(&self) -> Result<(), String> {
        let positive = |what: &str, x: f32| match x.is_finite() && x > 0.0 {
            true => Ok(()),
            false => Err(format!("{what} is {x}, expected a positive number")),
        };
        let weight = |what: &str, x: f32| match x.is_finite() && x >= 0.0 {
            true => Ok(()),
            false => Err(format!("{what} is {x}, expected a number of at least 0")),
        };
        if self.batch == 0 {
            return Err("batch is 0, expected at least 1 sample".into());
        }
        weight("loss.label_weight", self.loss.label_weight)?;
        if let Some(distill) = &self.loss.distill {
            positive("loss.distill.temperature", distill.temperature)?;
            weight("loss.distill.weight", distill.weight)?;
        }
        if let Some(decay) = self.ema_decay.filter(|d| !(0.0..1.0).contains(d)) {
            return Err(format!("ema_decay is {decay}, expected at least 0 and below 1"));
        }
        positive("divergence.factor", self.divergence.factor)?;
        positive("divergence.backoff", self.divergence.backoff)?;
        if self.checkpoint.as_ref().is_some_and(|c| c.every == Some(0)) {
            return Err("checkpoint.every is 0, expected at least 1 step".into());
        }
        Ok(())
    }
}

/// Which state the model ends with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// The one that was best on the evaluation data, in its int8 form; of equal ones the first. That before training counts,
    /// too. Without evaluation data: the last.
    #[default]
    Best,
    /// The last.
    Last,
}

/// What counts as divergence, and what is done then.
///
/// A loss or a tensor that is not finite is divergence, and so is a loss that, as a moving average with decay 0.9, is more than
/// `factor` times the larger of 1 and the loss of the first step: training steps back to the last good state, at the
/// beginning of an epoch or at a checkpoint, and goes on with lower rates.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DivergenceOptions {
    /// How much larger than at the beginning a loss may become.
    pub factor: f32,
    /// How often training steps back before it gives up.
    pub retries: usize,
    /// Factor of all learning rates at each step back.
    pub backoff: f32,
}

impl Default for DivergenceOptions {
    fn default() -> Self {
        DivergenceOptions { factor: 3.0, retries: 3, backoff: 0.1 }
    }
}

/// Where and when to save the state of training.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointOptions {
    /// Folder of the checkpoints; made where it is missing.
    pub folder: PathBuf,
    /// Steps from one checkpoint to the next. There is one at the end of each epoch as well.
    #[serde(default)]
    pub every: Option<usize>,
    /// Goes on with the last checkpoint of the folder; begins anew where it holds none. Otherwise the folder must hold none.
    #[serde(default)]
    pub resume: bool,
}
