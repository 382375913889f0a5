//! The whole way from a float model to an int8 model in one call: what the command `quantize` does.

use crate::{Error, Model};
use data::Dataset;
use observe::Distributions;
use passes::{
    Equalize, Hooks, InsertPreprocess, Normalize, Numerics, Pact, Pipeline, QuantConfig, Report, Thaw,
    Verdict,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use train::{Accuracy, Event, FitOptions};

/// Where PACT thresholds start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PactInit {
    /// At the largest magnitude that calibration saw of each tensor.
    #[default]
    Calibrated,
    /// At this value for every tensor; PaddleSlim's demo has 20.
    Value(f32),
    /// At these values by name of the tensor; as [`PactInit::Calibrated`] for tensors that are not named.
    Each(BTreeMap<String, f32>),
}

impl PactInit {
    /// The thresholds of least squared error of an [`analyze`](crate::analyze)d model.
    pub fn analyzed(found: &Distributions) -> PactInit {
        let thresholds = found.tensors.iter().map(|(name, d)| (name.clone(), d.thresholds.mse.magnitude));
        PactInit::Each(thresholds.filter(|(_, t)| *t > 0.0).collect())
    }
}

/// What to do.
#[derive(Clone)]
pub struct QuantizeOptions {
    /// What to quantize and how.
    pub config: QuantConfig,
    /// The user's own quantizers and pre-processes.
    pub hooks: Hooks,
    /// Cross-layer equalization before quantizers are inserted.
    pub equalize: bool,
    /// Fold batch norms into convolutions before quantizers are inserted, instead of training with them.
    pub fold_batch_norm: bool,
    /// Train with the optimizer that the file brings along ([`Model::recipe`]) where it has one, at this learning rate or at its
    /// own; `None` for [`FitOptions::groups`] whatever the file says.
    pub recipe: Option<RecipeRate>,
    /// Learned clipping of activations.
    pub pact: Option<PactInit>,
    /// Learned clipping of weights; thresholds start at the largest magnitude of each.
    pub pact_weights: bool,
    /// Samples with which calibration runs before training.
    pub calibration_samples: usize,
    /// Training; with no epochs it is static calibration alone.
    pub fit: FitOptions,
}

/// At which learning rate the optimizer of a file trains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecipeRate {
    /// That of the file.
    #[default]
    Own,
    /// This one.
    Value(f32),
}

/// What is going on, for progress bars and logs.
#[derive(Clone, Debug, PartialEq)]
pub enum Stage<'a> {
    /// The graph was brought into normal form.
    Normalized(&'a Report),
    /// Quantizers were inserted, taken over from a quantized file, or the weights quantized.
    Inserted(&'a Report),
    /// Training takes the optimizer of the file; in words.
    Recipe(&'a str),
    /// Evaluation of the float model: samples so far, and all.
    EvaluatingFloat(usize, usize),
    /// The float model's accuracy.
    Float(Accuracy),
    /// Calibration: batches so far, and all.
    Calibrating(usize, usize),
    /// Training.
    Training(&'a Event),
    /// The model was frozen.
    Frozen(&'a Report),
    /// Evaluation of the int8 model: samples so far, and all.
    EvaluatingInt8(usize, usize),
    /// The int8 model's accuracy.
    Int8(Accuracy),
}

/// Hears of each [`Stage`].
pub type Progress<'a> = dyn FnMut(&Stage) + 'a;

/// How a model was quantized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Fine-tuned with quantizers in the graph.
    QuantizationAwareTraining,
    /// Ranges from data, weights as they were.
    StaticCalibration,
    /// No data: weights alone, activations at run time where a runtime can.
    WeightOnly,
}

/// The result of [`quantize`].
#[derive(Clone, Debug)]
pub struct Quantized {
    /// The int8 model, ready to be saved.
    pub model: Model,
    /// The float model after training, without quantizers, with the states of the file's own optimizer where that trained it.
    /// `None` where nothing was trained.
    pub trained: Option<Model>,
    /// How it came about.
    pub outcome: Outcome,
    /// Accuracy of the float model, where there is labelled data to evaluate on.
    pub float: Option<Accuracy>,
    /// Accuracy of the int8 model on the same data.
    pub int8: Option<Accuracy>,
}

/// Quantizes a float model. With training data and epochs: quantization-aware training. With training data and no epochs: static
/// calibration. Without data: weights only.
///
/// # Errors
/// When data does not fit, training diverges, or a node cannot be handled.
pub fn quantize(
    model: &Model,
    train: Option<&Dataset>,
    eval: Option<&Dataset>,
    options: &QuantizeOptions,
    progress: &mut Progress,
) -> Result<Quantized, Error> {
    options.config.check()?;
    if options.pact.is_some() && options.config.activation_quantize_type.learned() {
        let what = "PACT and LSQ both learn where activations are clipped; choose one of them";
        return Err(Error::Usage(what.into()));
    }
    let batch = options.fit.batch;
    let labelled = eval.filter(|d| d.labels().is_some());
    let float = labelled
        .map(|data| {
            let mut done = |i, n| progress(&Stage::EvaluatingFloat(i, n));
            train::evaluate(&evaluation_form(model)?, data, batch, &mut done).map_err(Error::from)
        })
        .transpose()?;
    if let Some(float) = float {
        progress(&Stage::Float(float));
    }

    let mut int8 = model.clone();
    let mut report = if train.is_some() && options.fit.epochs > 0 {
        passes::unroll(&mut int8.graph)?
    } else {
        Report::default()
    };
    let normalize = Normalize { fold_batch_norm: train.is_none() || options.fold_batch_norm };
    report.lines.extend(passes::normalize(&mut int8.graph, normalize)?.lines);
    progress(&Stage::Normalized(&report));
    let (outcome, trained) = match train {
        None => {
            train::strip_loss(&mut int8.graph);
            progress(&Stage::Inserted(&passes::quantize_weights(&mut int8.graph, &options.config)?));
            (Outcome::WeightOnly, None)
        }
        Some(data) => quantize_with_data(&mut int8, data, eval, options, progress)?,
    };
    let after = labelled
        .map(|data| int8.evaluate_with(data, batch, &mut |i, n| progress(&Stage::EvaluatingInt8(i, n))))
        .transpose()?;
    if let Some(after) = after {
        progress(&Stage::Int8(after));
    }
    Ok(Quantized { model: int8, trained, outcome, float, int8: after })
}

/// A model as it is evaluated in floating point: batch norms of a training graph use their running statistics.
fn evaluation_form(model: &Model) -> Result<ir::Graph, Error> {
    let mut graph = model.graph.clone();
    train::strip_loss(&mut graph);
    passes::normalize(&mut graph, Normalize { fold_batch_norm: true })?;
    Ok(graph)
}

fn quantize_with_data(
    model: &mut Model,
    data: &Dataset,
    eval: Option<&Dataset>,
    options: &QuantizeOptions,
    progress: &mut Progress,
) -> Result<(Outcome, Option<Model>), Error> {
    let QuantizeOptions { config, pact, calibration_samples, fit, .. } = options;
    let graph = &mut model.graph;
    let training = fit.epochs > 0;
    let calibrated = insert_quantizers(graph, options, progress)? == Inserted::Thawed;

    // Compat starts training where PaddleSlim does, with its initial scales, unless asked to calibrate first.
    if !calibrated && (!training || config.numerics == Numerics::Deploy || config.quant_post_first) {
        let batches = calibration_samples.div_ceil(train::batch_size(graph, fit.batch)).max(1);
        train::calibrate(graph, data, fit.batch, Some(batches), &mut |i, n| {
            progress(&Stage::Calibrating(i, n))
        })?;
    }
    let mut trained = None;
    if training {
        if let Some(init) = pact {
            insert_pact(graph, config, init)?;
        }
        let fit = with_recipe(model, options, progress)?;
        train::fit(&mut model.graph, data, eval, &fit, &mut |event| progress(&Stage::Training(event)))?;
        trained = Some(float_model(model)?);
    }
    progress(&Stage::Frozen(&crate::convert(model)?));
    let outcome = if training { Outcome::QuantizationAwareTraining } else { Outcome::StaticCalibration };
    Ok((outcome, trained))
}

/// The options of training, with the optimizer of the file where it has one and that is wanted. Its states are added to the
/// graph.
fn with_recipe(
    model: &mut Model,
    options: &QuantizeOptions,
    progress: &mut Progress,
) -> Result<FitOptions, Error> {
    let mut fit = options.fit.clone();
    if let (Some(recipe), Some(rate)) = (&model.recipe, options.recipe) {
        let rate = match rate {
            RecipeRate::Own => None,
            RecipeRate::Value(rate) => Some(rate),
        };
        let group = recipe.group(rate).map_err(train::Error::Options)?;
        fit.groups.retain(|g| g.name != group.name);
        fit.groups.insert(0, group);
        recipe.attach(&mut model.graph);
        progress(&Stage::Recipe(&recipe.to_string()));
    }
    Ok(fit)
}

/// The float model in a trained graph with quantizers.
fn float_model(model: &Model) -> Result<Model, Error> {
    let mut meta = model.meta.clone();
    if let Some(recipe) = &model.recipe {
        meta.set_training_states(&recipe.states(&model.graph));
    }
    Ok(Model { graph: train::float_model(&model.graph)?, meta, ..model.clone() })
}

/// Where the quantizers of a graph come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inserted {
    /// From the configuration; their ranges are to be calibrated.
    New,
    /// From the pairs of a quantized file, with their scales.
    Thawed,
}

/// Equalizes a normalized graph where that is asked for, and inserts quantizers. A graph that is quantized already says itself
/// what is quantized, and with which scales.
pub(crate) fn insert_quantizers(
    graph: &mut ir::Graph,
    options: &QuantizeOptions,
    progress: &mut Progress,
) -> Result<Inserted, Error> {
    let thawed = Pipeline::new().then(Thaw { config: options.config.clone() }).run(graph)?;
    if thawed.lines.iter().any(|line| matches!(line.verdict, Verdict::Done(_))) {
        let QuantConfig { weight_quantize_type, activation_quantize_type, .. } = options.config;
        if weight_quantize_type.learned() || activation_quantize_type.learned() || options.pact_weights {
            let what = "the file is quantized already and keeps its own scales: they are not learned (LSQ), and weights are not \
                        clipped (PACT) once more";
            return Err(Error::Usage(what.into()));
        }
        progress(&Stage::Inserted(&thawed));
        return Ok(Inserted::Thawed);
    }
    if options.equalize {
        progress(&Stage::Normalized(&Pipeline::new().then(Equalize).run(graph)?));
    }
    let mut hooks = options.hooks.clone();
    if options.pact_weights && options.fit.epochs > 0 && hooks.weight_preprocess.is_none() {
        let thresholds = constant_magnitudes(graph);
        hooks.weight_preprocess = Some(Arc::new(Pact { thresholds, ..Pact::default() }));
    }
    progress(&Stage::Inserted(&passes::quant_aware(graph, &options.config, &hooks)?));
    Ok(Inserted::New)
}

/// The largest magnitude of each float constant: among them all weights.
fn constant_magnitudes(graph: &ir::Graph) -> BTreeMap<String, f32> {
    let magnitude = |id: ir::NodeId| {
        let value = graph.constant(id.into()).filter(|t| t.dtype() == tensor::DType::F32)?;
        let magnitude = value.to_f32().iter().fold(0.0f32, |m, x| m.max(x.abs()));
        Some((graph.node(id).name.clone(), magnitude))
    };
    graph.nodes().into_iter().filter_map(magnitude).filter(|(_, m)| *m > 0.0).collect()
}

/// Puts PACT in front of the activation quantizers of a calibrated graph.
fn insert_pact(graph: &mut ir::Graph, config: &QuantConfig, init: &PactInit) -> Result<(), Error> {
    let mut pact = Pact::default();
    match init {
        PactInit::Value(value) => pact.initial = *value,
        PactInit::Calibrated => pact.thresholds = observed_magnitudes(graph),
        PactInit::Each(given) => {
            pact.thresholds = observed_magnitudes(graph);
            for (name, threshold) in &mut pact.thresholds {
                *threshold = given.get(name).copied().unwrap_or(*threshold);
            }
        }
    }
    Pipeline::new()
        .then(InsertPreprocess { preprocess: Arc::new(pact), config: config.clone() })
        .run(graph)?;
    Ok(())
}

/// The largest magnitude that the observer of each tensor has seen.
fn observed_magnitudes(graph: &ir::Graph) -> BTreeMap<String, f32> {
    let observed = graph.nodes().into_iter().filter_map(|id| {
        let node = graph.node(id);
        let observe = node.is::<ops::Observe>()?;
        let (x, state) = (node.ins[0]?, graph.tensor(node.ins[1]?)?.to_f32());
        let magnitude = observe.statistic.range(&state)?.abs_max();
        Some((graph.value(x).name.clone(), magnitude))
    });
    observed.filter(|(_, m)| *m > 0.0).collect()
}
