//! Graph passes, one per file, and the quantization configuration.

mod bias;
mod config;
mod dynamic_quant;
mod equalize;
mod eval_form;
mod eval_mode;
mod float_view;
mod fold_batch_norm;
mod fold_bias;
mod fold_constants;
mod fold_pad;
mod freeze;
mod fuse_activation;
mod fuse_epilogue;
mod fuse_hard_swish;
mod fuse_matmul_add;
mod fuse_qdq;
mod hooks;
mod inline_branches;
mod insert_fake_quant;
mod learn_scales;
mod lower_activations;
mod mean_to_pool;
mod normalize;
mod observe_outputs;
mod own_statistics;
mod pact;
mod paddle_gradients;
mod pass;
mod quantize_activations;
mod quantize_weights;
mod quantizer;
mod remove_identity;
mod selection;
mod softmax_axis;
mod spell_out;
mod tensor_override;
mod thaw;
mod train_on_codes;
mod unroll_loops;
mod widen_halves;

pub use config::{
    ActivationQuantizeType, ConfigError, DeployBackend, Numerics, PreprocessType, QatConfig, QuantConfig,
    QuantConfigBuilder, WeightQuantizeType,
};
pub use dynamic_quant::{DynamicQuantize, DynamicWeights};
pub use equalize::Equalize;
pub use eval_form::DropUpdates;
pub use eval_mode::EvalMode;
pub use float_view::FloatWeights;
pub use fold_batch_norm::FoldBatchNorm;
pub use fold_bias::FoldBias;
pub use fold_constants::FoldConstants;
pub use fold_pad::FoldPad;
pub use freeze::Freeze;
pub use fuse_activation::FuseActivation;
pub use fuse_epilogue::FuseEpilogue;
pub use fuse_hard_swish::FuseHardSwish;
pub use fuse_matmul_add::FuseMatMulAdd;
pub use fuse_qdq::FuseQdq;
pub use hooks::{Hooks, Preprocess, Quantize, Site};
pub use inline_branches::InlineBranches;
pub use insert_fake_quant::InsertFakeQuant;
pub use learn_scales::{LSQ_GROUP, LearnScales};
pub use lower_activations::LowerActivations;
pub use mean_to_pool::MeanToPool;
pub use normalize::{Normalize, normalize, unroll};
pub use observe_outputs::{OUT_SCALE, ObserveOutputs};
pub use own_statistics::OwnStatistics;
pub use pact::{InsertPreprocess, PACT_GROUP, Pact};
pub use paddle_gradients::stand_ins;
pub use pass::{Line, Pass, Pipeline, Report, Verdict};
pub use quantize_activations::QuantizeActivations;
pub use quantize_weights::QuantizeWeights;
pub use quantizer::{ActivationQuantizer, WeightQuantizer};
pub use remove_identity::RemoveIdentity;
pub use selection::{Selection, Selector};
pub use softmax_axis::SoftmaxAxis;
pub use spell_out::SpellOut;
pub use tensor_override::{TensorOverride, onnx_runtime_overrides};
pub use thaw::Thaw;
pub use train_on_codes::TrainOnCodes;
pub use unroll_loops::UnrollLoops;
pub use widen_halves::WidenHalves;

use ir::{Graph, GraphError};

/// Inserts quantizers for training: PaddleSlim's `quant_aware`.
///
/// # Errors
/// When a quantizer cannot be built: names the node.
pub fn quant_aware(graph: &mut Graph, config: &QuantConfig, hooks: &Hooks) -> Result<Report, GraphError> {
    let weighted = InsertFakeQuant { config: config.clone(), hooks: hooks.clone() };
    let others = QuantizeActivations { config: config.clone(), hooks: hooks.clone() };
    let outputs = ObserveOutputs { moving_rate: config.moving_rate };
    let pipeline = Pipeline::new().then(weighted);
    match (config.numerics, config.onnx_format) {
        (Numerics::Deploy, _) => pipeline.then(others),
        // In the first format, the ranges of `others` have names of their own: a tensor with one is observed again.
        (Numerics::Compat, false) => pipeline.then(outputs).then(others),
        (Numerics::Compat, true) => pipeline.then(others).then(outputs),
    }
    .run(graph)
}

/// Freezes a trained graph into int8: PaddleSlim's `convert`.
///
/// # Errors
/// When the graph is not one that [`quant_aware`] made: names the node.
pub fn convert(graph: &mut Graph) -> Result<Report, GraphError> {
    Pipeline::new().then(DropUpdates).then(Freeze).then(LowerActivations).run(graph)
}

/// Quantizes without data: matrix products dynamically, with the range of their data found at every run; of convolutions
/// the weights alone.
///
/// # Errors
/// When a weight cannot be quantized: names the node.
pub fn quantize_weights(graph: &mut Graph, config: &QuantConfig) -> Result<Report, GraphError> {
    Pipeline::new()
        .then(DynamicQuantize { config: config.clone(), ..DynamicQuantize::default() })
        .then(QuantizeWeights { config: config.clone() })
        .then(DropUpdates)
        .then(Freeze)
        .run(graph)
}

/// The form in which our executor evaluates a graph: variables and ranges as they are, batch norms of training with their
/// running statistics, quantized groups on integers, as runtimes compute them, convolutions together with the clamp behind them.
pub fn evaluation() -> Pipeline {
    Pipeline::new().then(DropUpdates).then(EvalMode).then(FuseQdq).then(FuseActivation)
}
