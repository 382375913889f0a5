//! Options about training.

use clap::ValueEnum;
use onnx_qat::train::{
    CheckpointOptions, Decay, Distill, DistillLoss, DivergenceOptions, FitOptions, GradientClip, Keep,
    LSQ_SHARE, LossConfig, NoDecay, Optimizer, ParamGroup, Schedule,
};
use std::path::PathBuf;

/// How to train.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Training options")]
pub struct TrainingArgs {
    /// Epochs of quantization-aware training. 0: static calibration, no training.
    #[arg(long, value_name = "N", default_value_t = 1)]
    epochs: usize,
    /// Learning rate of the weights; 0.001 by default.
    #[arg(long, value_name = "X", value_parser = at_least_0)]
    lr: Option<f32>,
    /// Samples per step.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    /// How the weights are updated; by momentum, where the model does not bring an optimizer along.
    #[arg(long, value_enum)]
    optimizer: Option<OptimizerName>,
    /// L2 decay of the weights; biases and norms have none.
    #[arg(long, value_name = "X", default_value_t = 1e-5, value_parser = at_least_0)]
    weight_decay: f32,
    /// L2 decay for biases and norms, too, as PaddleSlim has it.
    #[arg(long)]
    decay_all: bool,
    /// No L2 decay for parameters whose name contains this; may be repeated.
    #[arg(long, value_name = "PATTERN")]
    no_decay: Vec<String>,
    /// How the learning rate changes over the run.
    #[arg(long, value_enum, default_value_t = ScheduleName::Cosine)]
    lr_schedule: ScheduleName,
    /// Epochs at which a piecewise schedule multiplies the rate by 0.1.
    #[arg(long, value_name = "EPOCH,…", value_delimiter = ',')]
    milestones: Vec<usize>,
    /// Steps over which the learning rate rises from zero.
    #[arg(long, value_name = "STEPS", default_value_t = 0)]
    warmup: usize,
    /// Scale the gradients of the weights so that their norm is at most X.
    #[arg(long, value_name = "X", value_parser = positive, conflicts_with = "clip_value")]
    clip_norm: Option<f32>,
    /// Keep each element of the gradients of the weights within plus and minus X.
    #[arg(long, value_name = "X", value_parser = positive)]
    clip_value: Option<f32>,
    /// Decay of an exponential moving average of the weights, which is what is evaluated and written.
    #[arg(long, value_name = "X", value_parser = below_1)]
    ema: Option<f32>,
    /// Epochs after which batch norms use their running statistics; by default never with labels, from the start without.
    #[arg(long, value_name = "N")]
    freeze_bn_after: Option<usize>,
    /// Epochs after which the ranges of activations stay as they are.
    #[arg(long, value_name = "N")]
    freeze_observers_after: Option<usize>,
    /// Stop when the int8 model was not better than the best for N epochs.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    patience: Option<u32>,
    /// Which epoch the int8 model is made of; the best by --eval.
    #[arg(long, value_enum, default_value_t = KeepName::Best)]
    keep: KeepName,
    /// How often to step back to the last good state, with a tenth of the learning rates, when training diverges.
    #[arg(long, value_name = "N", default_value_t = 3)]
    retries: usize,
    /// Seed of the order of samples.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    distillation: Distillation,
    #[command(flatten)]
    checkpoints: Checkpoints,
}

#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Distillation options")]
struct Distillation {
    /// Draw the int8 model to the float model as well: in all outputs, or in these tensors. Data without labels is always
    /// trained on so.
    #[arg(long, value_name = "TENSOR,…", value_delimiter = ',', num_args = 0..=1, require_equals = true)]
    distill: Option<Vec<String>>,
    /// How tensors are compared; by default class scores by kl, all others by l2.
    #[arg(long, value_enum)]
    distill_loss: Option<DistillLossName>,
    /// Both sides of kl are divided by this before their softmax.
    #[arg(long, value_name = "X", default_value_t = 1.0, value_parser = positive)]
    distill_temperature: f32,
    /// Weight of the distance from the float model.
    #[arg(long, value_name = "X", default_value_t = 1.0, value_parser = at_least_0)]
    distill_weight: f32,
    /// Weight of the loss on labels.
    #[arg(long, value_name = "X", default_value_t = 1.0, value_parser = at_least_0)]
    label_weight: f32,
}

#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Checkpoint options")]
struct Checkpoints {
    /// Save the state of training in this folder after each epoch.
    #[arg(long, value_name = "FOLDER")]
    checkpoint: Option<PathBuf>,
    /// Save it every N steps as well.
    #[arg(long, value_name = "N", requires = "checkpoint", value_parser = clap::value_parser!(u32).range(1..))]
    checkpoint_every: Option<u32>,
    /// Go on with the last checkpoint of the folder, if there is one; the result is that of a run that was never interrupted.
    #[arg(long, requires = "checkpoint")]
    resume: bool,
}

/// How thresholds of PACT and scales of LSQ are trained.
#[derive(clap::Args, Clone, Debug)]
pub struct LearnedGroups {
    /// Learning rate of the PACT thresholds; that of the weights by default.
    #[arg(long, value_name = "X", value_parser = at_least_0)]
    pact_lr: Option<f32>,
    /// L2 decay of the PACT thresholds.
    #[arg(long, value_name = "X", default_value_t = 1e-4, value_parser = at_least_0)]
    pact_decay: f32,
    /// How the PACT thresholds are updated; as the weights by default.
    #[arg(long, value_enum)]
    pact_optimizer: Option<OptimizerName>,
    /// Learning rate of the LSQ scales; a tenth of that of the weights by default.
    #[arg(long, value_name = "X", value_parser = at_least_0)]
    lsq_lr: Option<f32>,
    /// How the LSQ scales are updated. Their gradients are scaled for momentum and sgd, whose steps follow the size of a gradient.
    #[arg(long, value_enum, default_value_t = OptimizerName::Momentum)]
    lsq_optimizer: OptimizerName,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum OptimizerName {
    Sgd,
    Momentum,
    Adam,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ScheduleName {
    Constant,
    Piecewise,
    Cosine,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum KeepName {
    Best,
    Last,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum DistillLossName {
    Kl,
    L2,
}

impl From<OptimizerName> for Optimizer {
    fn from(name: OptimizerName) -> Optimizer {
        match name {
            OptimizerName::Sgd => Optimizer::Sgd,
            OptimizerName::Momentum => Optimizer::MOMENTUM,
            OptimizerName::Adam => Optimizer::ADAM,
        }
    }
}

impl TrainingArgs {
    /// Passes over the data.
    pub fn epochs(&self) -> usize {
        self.epochs
    }

    /// The learning rate, if one is given.
    pub fn given_rate(&self) -> Option<f32> {
        self.lr
    }

    /// Whether an optimizer is chosen here, whatever the model brings along.
    pub fn gives_optimizer(&self) -> bool {
        self.optimizer.is_some()
    }

    /// The options of the library.
    pub fn options(&self, learned: &LearnedGroups) -> FitOptions {
        let (lr, optimizer) = (self.lr.unwrap_or(1e-3), self.optimizer.unwrap_or(OptimizerName::Momentum));
        let decay = match self.lr_schedule {
            ScheduleName::Constant => Decay::Constant,
            ScheduleName::Piecewise => Decay::Piecewise { milestones: self.milestones.clone(), gamma: 0.1 },
            ScheduleName::Cosine => Decay::Cosine,
        };
        let schedule = |rate: f32| Schedule { rate, decay: decay.clone(), warmup: self.warmup };
        let clip = match (self.clip_norm, self.clip_value) {
            (Some(norm), _) => Some(GradientClip::GlobalNorm(norm)),
            (None, value) => value.map(GradientClip::Value),
        };
        let weights = ParamGroup {
            no_decay: NoDecay { one_dimensional: !self.decay_all, patterns: self.no_decay.clone() },
            clip,
            ..ParamGroup::weights(optimizer.into(), schedule(lr), self.weight_decay)
        };
        let pact = ParamGroup::pact(
            learned.pact_optimizer.unwrap_or(optimizer).into(),
            schedule(learned.pact_lr.unwrap_or(lr)),
            learned.pact_decay,
        );
        let lsq_rate = learned.lsq_lr.unwrap_or(LSQ_SHARE * lr);
        let lsq = ParamGroup::lsq(learned.lsq_optimizer.into(), schedule(lsq_rate));
        FitOptions {
            epochs: self.epochs,
            batch: self.batch as usize,
            seed: self.seed,
            keep: match self.keep {
                KeepName::Best => Keep::Best,
                KeepName::Last => Keep::Last,
            },
            patience: self.patience.map(|n| n as usize),
            freeze_batch_norm_after: self.freeze_bn_after,
            freeze_observers_after: self.freeze_observers_after,
            ema_decay: self.ema,
            loss: self.distillation.loss(),
            divergence: DivergenceOptions { retries: self.retries, ..DivergenceOptions::default() },
            checkpoint: self.checkpoints.options(),
            groups: vec![weights, pact, lsq],
        }
    }
}

impl Distillation {
    fn loss(&self) -> LossConfig {
        let distill = Distill {
            tensors: self.distill.clone().unwrap_or_default(),
            loss: self.distill_loss.map(|name| match name {
                DistillLossName::Kl => DistillLoss::Kl,
                DistillLossName::L2 => DistillLoss::L2,
            }),
            temperature: self.distill_temperature,
            weight: self.distill_weight,
        };
        // What is said of distillation also holds where it comes by itself.
        let said = self.distill.is_some() || distill != Distill::default();
        LossConfig { label_weight: self.label_weight, distill: said.then_some(distill) }
    }
}

impl Checkpoints {
    fn options(&self) -> Option<CheckpointOptions> {
        let folder = self.checkpoint.clone()?;
        let every = self.checkpoint_every.map(|n| n as usize);
        Some(CheckpointOptions { folder, every, resume: self.resume })
    }
}

fn number(s: &str, fits: impl Fn(f32) -> bool, expected: &str) -> Result<f32, String> {
    match s.parse::<f32>() {
        Ok(x) if x.is_finite() && fits(x) => Ok(x),
        _ => Err(format!("expected {expected}")),
    }
}

fn at_least_0(s: &str) -> Result<f32, String> {
    number(s, |x| x >= 0.0, "a number of at least 0")
}

fn positive(s: &str) -> Result<f32, String> {
    number(s, |x| x > 0.0, "a positive number")
}

fn below_1(s: &str) -> Result<f32, String> {
    number(s, |x| (0.0..1.0).contains(&x), "a number of at least 0 and below 1")
}
