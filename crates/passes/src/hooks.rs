//! The hooks of `quant_aware`: a library user's own quantizers and pre-processes.
//!
//! PaddleSlim has four: `weight_quantize_func`, `act_quantize_func`, `weight_preprocess_func`, `act_preprocess_func`. Here
//! each is a trait object that adds nodes to the graph. The project's own quantizers and PACT are made the same way.

use crate::QuantConfig;
use ir::{Graph, GraphError, ValueId};
use std::sync::Arc;

/// The tensor that a hook is asked about.
#[derive(Clone, Debug)]
pub struct Site<'a> {
    /// The tensor.
    pub value: ValueId,
    /// Its name in the model: the base for the names of what the hook adds.
    pub name: String,
    /// Output-channel axis, for a weight.
    pub axis: Option<usize>,
    /// The configuration.
    pub config: &'a QuantConfig,
}

/// Replaces the quantizer of weights or activations (`weight_quantize_func`, `act_quantize_func`).
pub trait Quantize: Send + Sync {
    /// Adds nodes that quantize and dequantize `site.value`, and returns their result. So that the model can be frozen,
    /// the result has to come from an [`ops::FakeQuant`] whose scale and zero point depend on constants and
    /// variables alone once updates are dropped.
    ///
    /// # Errors
    /// When the nodes cannot be built.
    fn insert(&self, graph: &mut Graph, site: &Site) -> Result<ValueId, GraphError>;
}

/// Stands between a tensor and its quantizer (`weight_preprocess_func`, `act_preprocess_func`): learned clipping, say.
pub trait Preprocess: Send + Sync {
    /// Adds nodes that transform `site.value`, and returns their result, of the same type. Trained parameters are
    /// variables in a parameter group of their own ([`ir::Role::Param`]), to which an optimizer is assigned by name.
    ///
    /// # Errors
    /// When the nodes cannot be built.
    fn insert(&self, graph: &mut Graph, site: &Site) -> Result<ValueId, GraphError>;

    /// Whether the nodes stay in the frozen model. By default they go, as in PaddleSlim: the quantizer saturates at the
    /// range that the pre-process left, and a convolution in front of it stays next to its quantizer.
    fn kept_when_frozen(&self) -> bool {
        false
    }
}

/// Adds a pre-process to the graph, with the mark by which freezing finds the tensor in front of it.
pub(crate) fn process(hook: &dyn Preprocess, graph: &mut Graph, site: &Site) -> Result<ValueId, GraphError> {
    let processed = hook.insert(graph, site)?;
    if hook.kept_when_frozen() || processed == site.value {
        return Ok(processed);
    }
    graph.add(ops::Processed::default(), &[processed, site.value], &format!("{}_processed", site.name))
}

/// The tensor in front of the pre-process that made a value; the value itself where none did.
pub(crate) fn unprocessed(graph: &Graph, v: ValueId) -> ValueId {
    match graph.producer::<ops::Processed>(v) {
        Some(_) => graph.node(v.node).ins.get(1).copied().flatten().unwrap_or(v),
        None => v,
    }
}

/// The threshold of PACT, where that is the pre-process that made a value.
pub(crate) fn pact_threshold(graph: &Graph, v: ValueId) -> Option<ValueId> {
    let clipped = graph.producer::<ops::Processed>(v).and_then(|_| graph.node(v.node).ins[0]).unwrap_or(v);
    graph.producer::<ops::Pact>(clipped).and_then(|_| graph.node(clipped.node).ins[1])
}

/// The four hooks; `None` stands for the configured quantizer, and for no pre-process.
#[derive(Clone, Default)]
pub struct Hooks {
    /// `weight_quantize_func`
    pub weight_quantize: Option<Arc<dyn Quantize>>,
    /// `act_quantize_func`
    pub act_quantize: Option<Arc<dyn Quantize>>,
    /// `weight_preprocess_func`
    pub weight_preprocess: Option<Arc<dyn Preprocess>>,
    /// `act_preprocess_func`
    pub act_preprocess: Option<Arc<dyn Preprocess>>,
}
