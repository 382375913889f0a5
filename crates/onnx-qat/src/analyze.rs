//! The distributions of the tensors that would be quantized: what the command `analyze` does.

use crate::{Error, Model};
use data::Dataset;
use observe::Distributions;
use passes::{Equalize, Hooks, Normalize, Pipeline, QuantConfig};
use train::Observed;

/// What to analyze.
#[derive(Clone)]
pub struct AnalyzeOptions {
    /// What would be quantized.
    pub config: QuantConfig,
    /// The user's own choices of the same.
    pub hooks: Hooks,
    /// Cross-layer equalization first, which changes the ranges that quantization sees.
    pub equalize: bool,
    /// Samples that are in memory at once.
    pub batch: usize,
    /// Samples to run the model on; all for `None`.
    pub samples: Option<usize>,
}

impl Default for AnalyzeOptions {
    fn default() -> AnalyzeOptions {
        let (config, hooks) = (QuantConfig::default(), Hooks::default());
        AnalyzeOptions { config, hooks, equalize: true, batch: 8, samples: None }
    }
}

/// What was found, in graph order.
#[derive(Clone, Debug)]
pub struct Analysis {
    /// One entry per tensor.
    pub tensors: Vec<Observed>,
}

impl Analysis {
    /// The summaries by name: what is written to a file, and read to start PACT thresholds from.
    pub fn distributions(&self) -> Distributions {
        let named = self.tensors.iter().map(|t| (t.name.clone(), t.distribution.clone()));
        Distributions { tensors: named.collect() }
    }

    /// The tensors that lose most in 8 bits over their whole range first.
    pub fn worst_first(&self) -> Vec<&Observed> {
        let mut all: Vec<&Observed> = self.tensors.iter().collect();
        let loss = |t: &Observed| t.distribution.thresholds.abs_max.sqnr;
        all.sort_by(|a, b| loss(a).total_cmp(&loss(b)));
        all
    }
}

/// Runs a float model on data and observes every activation that [`quantize`](crate::quantize) would quantize with these
/// options. `done` hears of each batch: samples so far, and all.
///
/// # Errors
/// When the data does not fit, nothing would be quantized, or a tensor is not finite: names it.
pub fn analyze(
    model: &Model,
    data: &Dataset,
    options: &AnalyzeOptions,
    done: &mut dyn FnMut(usize, usize),
) -> Result<Analysis, Error> {
    options.config.check()?;
    let mut graph = model.graph.clone();
    train::strip_loss(&mut graph);
    passes::normalize(&mut graph, Normalize { fold_batch_norm: false })?;
    if options.equalize {
        Pipeline::new().then(Equalize).run(&mut graph)?;
    }
    passes::quant_aware(&mut graph, &options.config, &options.hooks)?;
    let tensors = train::analyze(&graph, data, options.batch, options.samples, done)?;
    if tensors.is_empty() {
        let what =
            "nothing in the model would be quantized with this configuration, so there is nothing to analyze";
        return Err(Error::Usage(what.into()));
    }
    Ok(Analysis { tensors })
}
