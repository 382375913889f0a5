//! Quantization of ONNX files: quantization-aware training with learned clipping, and post-training quantization, on the file
//! alone.
//!
//! PaddleSlim's flow in a few lines: load, [`quant_aware`], train, [`convert`], save.
//!
//! ```
//! use onnx_qat::prelude::*;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/digits");
//! # std::env::set_current_dir(root)?;
//! # let out = tempfile::tempdir()?;
//! let mut model = Model::load("digits_cnn.onnx")?;
//! let train = model.open_data(&Source::parse("digits.npz", DataRole::Train)?, &Preprocess::default())?;
//! let test = model.open_data(&Source::parse("digits.npz", DataRole::Eval)?, &Preprocess::default())?;
//! let float = model.evaluate(&test, 64)?;
//!
//! quant_aware(&mut model, &QuantConfig::default(), &Hooks::default())?;
//! calibrate(&mut model, &train, 64, Some(8))?;
//! let weights = ParamGroup::weights(Optimizer::MOMENTUM, Schedule::constant(1e-3), 1e-4);
//! let options = FitOptions { epochs: 1, batch: 64, groups: vec![weights], ..FitOptions::default() };
//! fit(&mut model, &train, None, &options, &mut |_| {})?;
//!
//! convert(&mut model)?;
//! assert!(model.evaluate(&test, 64)?.top1() >= float.top1() - 0.01);
//! model.save(out.path().join("digits_cnn.int8.onnx"))?;
//! # Ok(())
//! # }
//! ```

mod analyze;
mod classes;
mod compare;
mod error;
mod forms;
mod history;
mod model;
pub mod pages;
mod plan;
mod quantize;
mod run;

pub use analyze::{Analysis, AnalyzeOptions, analyze};
pub use classes::{ClassScore, top_classes};
pub use compare::{Classes, Comparison, Difference, Layer, Output, compare};
pub use data;
pub use error::Error;
pub use exec;
pub use forms::Form;
pub use history::{EpochRecord, History, StepRecord};
pub use ir;
pub use kernels;
pub use model::Model;
pub use observe;
pub use onnx;
pub use ops;
pub use passes;
pub use plan::{Becomes, Decision, plan};
pub use quantize::{Outcome, PactInit, Progress, QuantizeOptions, Quantized, RecipeRate, Stage, quantize};
pub use report;
pub use run::{Run, RunData};
pub use tensor;
pub use train;

use data::Dataset;
use passes::{Hooks, Normalize, QuantConfig, Report};
use train::{Event, FitOptions};

/// What most programs need.
pub mod prelude {
    pub use crate::{Error, Model, calibrate, convert, fit, quant_aware, quantize};
    pub use data::{Dataset, Layout, Preprocess, Role as DataRole, Source};
    pub use passes::{Hooks, Pact, QatConfig, QuantConfig};
    pub use train::{Decay, Event, FitOptions, Optimizer, ParamGroup, Schedule};
}

/// Inserts quantizers for training: PaddleSlim's `quant_aware`. Normalizes the graph first; a batch norm stays one.
///
/// # Errors
/// When the graph cannot be quantized: names the node.
pub fn quant_aware(model: &mut Model, config: &QuantConfig, hooks: &Hooks) -> Result<Report, Error> {
    config.check()?;
    let mut report = passes::unroll(&mut model.graph)?;
    report.lines.extend(passes::normalize(&mut model.graph, Normalize { fold_batch_norm: false })?.lines);
    report.lines.extend(passes::quant_aware(&mut model.graph, config, hooks)?.lines);
    Ok(report)
}

/// Sets the ranges of activations from `batches` batches of data (all for `None`): static calibration.
///
/// # Errors
/// When the graph cannot run on the data.
pub fn calibrate(
    model: &mut Model,
    data: &Dataset,
    batch: usize,
    batches: Option<usize>,
) -> Result<(), Error> {
    Ok(train::calibrate(&mut model.graph, data, batch, batches, &mut |_, _| {})?)
}

/// Trains weights, running statistics, ranges and thresholds: on labels, or by distillation from the float model.
///
/// # Errors
/// When the data does not fit, or training diverges.
pub fn fit(
    model: &mut Model,
    data: &Dataset,
    eval: Option<&Dataset>,
    options: &FitOptions,
    on: &mut dyn FnMut(&Event),
) -> Result<(), Error> {
    Ok(train::fit(&mut model.graph, data, eval, options, on)?)
}

/// Freezes a trained model into int8, without loss and labels: PaddleSlim's `convert`.
///
/// # Errors
/// When the graph is not one from [`quant_aware`].
pub fn convert(model: &mut Model) -> Result<Report, Error> {
    train::strip_loss(&mut model.graph);
    Ok(passes::convert(&mut model.graph)?)
}
