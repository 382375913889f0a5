//! Optimizers, learning-rate schedules, parameter groups.

use crate::clip::GradientClip;
use ir::{Graph, GraphError, Role, ValueId};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;
use tensor::{DType, Tensor};

/// Adds the nodes that update one parameter: the optimizer hook. [`Optimizer`] implements it; so may a library user.
pub trait Update: Send + Sync {
    /// The parameter after the step. `gradient` has the parameter's type; `rate` is the learning rate, a scalar f32.
    /// State of the optimizer is a variable with an update of its own.
    ///
    /// # Errors
    /// When the nodes cannot be built.
    fn update(&self, graph: &mut Graph, step: &Gradient) -> Result<ValueId, GraphError>;
}

/// What an [`Update`] works with.
#[derive(Clone, Debug)]
pub struct Gradient<'a> {
    /// The parameter, a variable.
    pub parameter: ValueId,
    /// Its name.
    pub name: &'a str,
    /// Gradient of the loss.
    pub gradient: ValueId,
    /// Learning rate.
    pub rate: ValueId,
    /// L2 decay, to be added to the gradient as `l2_decay * parameter`.
    pub l2_decay: f32,
}

/// A user's own [`Update`]. Two are equal when they are the same object.
#[derive(Clone)]
pub struct Hook(pub Arc<dyn Update>);

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hook")
    }
}

impl PartialEq for Hook {
    fn eq(&self, other: &Hook) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Serialize for Hook {
    /// Writes nothing: a file cannot hold code.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serde::ser::SerializeMap::end(serializer.serialize_map(Some(0))?)
    }
}

/// The usual optimizers, and a place for others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Optimizer {
    /// Gradient descent.
    Sgd,
    /// Gradient descent with momentum; the rate is not part of the velocity (Paddle, PyTorch).
    Momentum {
        /// Decay of the velocity.
        #[serde(default = "usual::momentum")]
        momentum: f32,
        /// Nesterov's form.
        #[serde(default)]
        nesterov: bool,
    },
    /// Kingma and Ba 2015, with L2 decay in the gradient.
    Adam {
        /// Decay of the first moment.
        #[serde(default = "usual::beta1")]
        beta1: f32,
        /// Decay of the second moment.
        #[serde(default = "usual::beta2")]
        beta2: f32,
        /// Added to the root of the second moment.
        #[serde(default = "usual::epsilon")]
        epsilon: f32,
    },
    /// A library user's own. A file cannot name it.
    #[serde(skip_deserializing)]
    Custom(Hook),
}

/// What a file leaves out.
mod usual {
    pub fn momentum() -> f32 {
        0.9
    }

    pub fn beta1() -> f32 {
        0.9
    }

    pub fn beta2() -> f32 {
        0.999
    }

    pub fn epsilon() -> f32 {
        1e-8
    }
}

impl Optimizer {
    /// Momentum 0.9, as PaddleSlim's demos.
    pub const MOMENTUM: Optimizer = Optimizer::Momentum { momentum: 0.9, nesterov: false };
    /// Adam with its usual constants.
    pub const ADAM: Optimizer = Optimizer::Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 };
}

impl Update for Optimizer {
    fn update(&self, graph: &mut Graph, step: &Gradient) -> Result<ValueId, GraphError> {
        let Gradient { parameter, name, gradient, rate, l2_decay: decay } = *step;
        let shape = graph.ty(parameter).dims().unwrap_or_default();
        let updated = format!("{name}_updated");
        let state = |graph: &mut Graph, what: &str, value: Tensor| {
            graph.add_variable(&format!("{name}_{what}"), value, Role::State)
        };
        match *self {
            Optimizer::Custom(ref hook) => hook.0.update(graph, step),
            Optimizer::Sgd => graph.add(ops::Sgd { decay }, &[parameter, gradient, rate], &updated),
            Optimizer::Momentum { momentum, nesterov } => {
                let velocity = state(graph, "velocity", Tensor::zeros(DType::F32, &shape));
                let op = Arc::new(ops::Momentum { momentum, nesterov, decay });
                let ins = [parameter, gradient, velocity, rate].map(Some);
                let node =
                    graph.add_node(op, &ins, &updated, &[&updated, &format!("{name}_velocity_updated")])?;
                graph.set_update(velocity, ValueId { node, out: 1 });
                Ok(node.into())
            }
            Optimizer::Adam { beta1, beta2, epsilon } => {
                let mean = state(graph, "mean", Tensor::zeros(DType::F32, &shape));
                let square = state(graph, "square", Tensor::zeros(DType::F32, &shape));
                let count = state(graph, "step", Tensor::scalar(0i64));
                let op = Arc::new(ops::Adam { beta1, beta2, epsilon, decay });
                let ins = [parameter, gradient, mean, square, count, rate].map(Some);
                let names = ["mean", "square", "step"].map(|s| format!("{name}_{s}_updated"));
                let node =
                    graph.add_node(op, &ins, &updated, &[&updated, &names[0], &names[1], &names[2]])?;
                for (i, v) in [mean, square, count].into_iter().enumerate() {
                    graph.set_update(v, ValueId { node, out: 1 + i as u16 });
                }
                Ok(node.into())
            }
        }
    }
}

/// How the learning rate changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Decay {
    /// Not at all.
    Constant,
    /// Multiplied by `gamma` at the beginning of each of these epochs.
    Piecewise {
        /// Epochs, counted from 0.
        milestones: Vec<usize>,
        /// Factor.
        gamma: f32,
    },
    /// Half a cosine from the full rate to zero over the whole run (Loshchilov and Hutter 2017, without restarts).
    Cosine,
}

/// A learning rate over the course of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// The full rate.
    pub rate: f32,
    /// How it changes.
    #[serde(default = "constant")]
    pub decay: Decay,
    /// Steps over which the rate rises linearly from zero first.
    #[serde(default)]
    pub warmup: usize,
}

fn constant() -> Decay {
    Decay::Constant
}

impl Schedule {
    /// The same rate throughout.
    pub fn constant(rate: f32) -> Schedule {
        Schedule { rate, decay: Decay::Constant, warmup: 0 }
    }

    /// The rate of step `step`, counted from 0, of `epochs` epochs with `per_epoch` steps each.
    ///
    /// ```
    /// use onnx_qat_train::{Decay, Schedule};
    /// let s = Schedule { rate: 1.0, decay: Decay::Piecewise { milestones: vec![1], gamma: 0.1 }, warmup: 2 };
    /// let rates: Vec<f32> = (0..6).map(|i| s.at(i, 3, 2)).collect();
    /// assert_eq!(rates, [0.5, 1.0, 1.0, 0.1, 0.1, 0.1]);
    /// ```
    pub fn at(&self, step: usize, per_epoch: usize, epochs: usize) -> f32 {
        let factor = match &self.decay {
            Decay::Constant => 1.0,
            Decay::Piecewise { milestones, gamma } => {
                let epoch = step / per_epoch.max(1);
                gamma.powi(milestones.iter().filter(|&&m| m <= epoch).count() as i32)
            }
            Decay::Cosine => {
                let done = step as f64 / (per_epoch * epochs).max(1) as f64;
                (0.5 * (1.0 + (std::f64::consts::PI * done).cos())) as f32
            }
        };
        let warm = if step < self.warmup { (step + 1) as f32 / self.warmup as f32 } else { 1.0 };
        self.rate * factor * warm
    }
}

/// Which parameters of a group have no L2 decay.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NoDecay {
    /// Those with one dimension: biases, and factors and offsets of norms.
    pub one_dimensional: bool,
    /// Those whose name contains one of these.
    pub patterns: Vec<String>,
}

impl NoDecay {
    /// Whether a parameter goes without decay.
    pub fn spares(&self, name: &str, rank: usize) -> bool {
        (self.one_dimensional && rank <= 1) || self.patterns.iter().any(|p| name.contains(p.as_str()))
    }
}

/// The parameters of one group ([`ir::Role::Param`]) and how they are trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParamGroup {
    /// Name of the group.
    pub name: String,
    /// How a parameter is updated.
    pub optimizer: Optimizer,
    /// Learning rate.
    pub schedule: Schedule,
    /// L2 decay.
    #[serde(default)]
    pub l2_decay: f32,
    /// Parameters without decay.
    #[serde(default)]
    pub no_decay: NoDecay,
    /// Limit of the gradients.
    #[serde(default)]
    pub clip: Option<GradientClip>,
    /// Lower bound that the parameters keep, for thresholds that must stay positive.
    #[serde(default)]
    pub minimum: Option<f32>,
}

/// Share of the learning rate of the weights with which scales of LSQ are trained where nothing is said. The scaling of their
/// gradients is that of LSQ, made for few bits: with 8, a weight that saturates moves its range `127² / sqrt(127 n)` times as far
/// as itself, for `n` weights in the tensor.
pub const LSQ_SHARE: f32 = 0.1;

/// Group of the model's own weights.
pub const WEIGHTS: &str = "weights";

impl ParamGroup {
    /// A group without decay, clipping or bound.
    pub fn new(name: &str, optimizer: Optimizer, schedule: Schedule) -> ParamGroup {
        let (no_decay, clip, minimum) = (NoDecay::default(), None, None);
        ParamGroup { name: name.into(), optimizer, schedule, l2_decay: 0.0, no_decay, clip, minimum }
    }

    /// The model's weights. Biases and norms have no decay.
    pub fn weights(optimizer: Optimizer, schedule: Schedule, l2_decay: f32) -> ParamGroup {
        let no_decay = NoDecay { one_dimensional: true, patterns: Vec::new() };
        ParamGroup { l2_decay, no_decay, ..ParamGroup::new(WEIGHTS, optimizer, schedule) }
    }

    /// The thresholds of PACT, which stay positive. PaddleSlim trains them with momentum, a constant rate and a decay of
    /// 1e-4.
    pub fn pact(optimizer: Optimizer, schedule: Schedule, l2_decay: f32) -> ParamGroup {
        let minimum = Some(1e-3);
        ParamGroup { l2_decay, minimum, ..ParamGroup::new(passes::PACT_GROUP, optimizer, schedule) }
    }

    /// The scales of learned quantizers (LSQ), which stay positive and have no decay. Their gradients are scaled for an optimizer
    /// whose steps follow the size of a gradient: not for Adam. [`LSQ_SHARE`] of the rate of the weights is a good one.
    pub fn lsq(optimizer: Optimizer, schedule: Schedule) -> ParamGroup {
        ParamGroup {
            minimum: Some(observe::scale::MIN_SCALE),
            ..ParamGroup::new(passes::LSQ_GROUP, optimizer, schedule)
        }
    }

    /// Name of the graph input for the learning rate of this group.
    pub fn rate_input(&self) -> String {
        format!("learning_rate_{}", self.name)
    }
}
