//! `insert-pact`: learned clipping in front of activation quantizers (Choi et al. 2018, arXiv 1805.06085).
//!
//! ```text
//! x_observed = qat.Observe (x, x_range)
//! x_fq = qat.FakeQuant (x, x_scale, x_zero_point)
//! ->
//! x_pact = qat.Pact (x, x_threshold)                    # x_threshold is trained, group "pact"
//! x_processed = qat.Processed (x_pact, x)               # the mark by which freezing finds x
//! x_observed = qat.Observe (x_processed, x_range)
//! x_scale, x_zero_point = qat.ActivationScale (x_observed, x_threshold)
//! x_fq = qat.FakeQuant (x_processed, x_scale, x_zero_point)
//! ```
//!
//! Under [`Numerics::Deploy`] the inputs of the model are not clipped.
//!
//! PACT is no more than a [`Preprocess`]: `quant_aware` takes it as `act_preprocess`, as PaddleSlim does. The pass of this
//! module puts any pre-process in front of the quantizers that a graph has already, when the thresholds are to start from
//! calibrated ranges.

use crate::config::{Numerics, QuantConfig};
use crate::hooks::{Preprocess, Site, pact_threshold, process};
use crate::pass::{Pass, Report, operations, supersede};
use ir::{Graph, GraphError, Kind, Role, ValueId};
use kernels::quant::Pact as Form;
use ops::{ActivationScale, FakeQuant, Observe};
use std::collections::BTreeMap;
use std::sync::Arc;
use tensor::Tensor;

/// Parameter group of PACT thresholds.
pub const PACT_GROUP: &str = "pact";

/// PACT as a pre-process: a threshold per tensor.
#[derive(Clone, Debug)]
pub struct Pact {
    /// Threshold where `thresholds` has none. PaddleSlim's is 20.
    pub initial: f32,
    /// Thresholds by tensor name.
    pub thresholds: BTreeMap<String, f32>,
    /// Which formulation.
    pub form: Form,
}

impl Default for Pact {
    fn default() -> Self {
        Pact { initial: 20.0, thresholds: BTreeMap::new(), form: Form::Symmetric }
    }
}

impl Preprocess for Pact {
    fn insert(&self, graph: &mut Graph, site: &Site) -> Result<ValueId, GraphError> {
        // A model's own input has the range of its data, nothing in front of it is trained, and its gradient costs as much as
        // that of a layer.
        let is_input = matches!(graph.node(site.value.node).kind, Kind::Input);
        if is_input && site.config.numerics == Numerics::Deploy {
            return Ok(site.value);
        }
        let initial = self.thresholds.get(&site.name).copied().unwrap_or(self.initial);
        let role = Role::Param(PACT_GROUP.into());
        let name = format!("{}_threshold", site.name);
        let threshold = graph.add_variable(&name, Tensor::new(&[1], vec![initial]), role);
        graph.add(ops::Pact { form: self.form }, &[site.value, threshold], &format!("{}_pact", site.name))
    }
}

/// See the module.
pub struct InsertPreprocess {
    /// What to put in front of each activation quantizer.
    pub preprocess: Arc<dyn Preprocess>,
    /// The configuration with which the quantizers were inserted.
    pub config: QuantConfig,
}

impl Pass for InsertPreprocess {
    fn name(&self) -> &'static str {
        "insert-pact"
    }

    fn run(&self, graph: &mut Graph, report: &mut Report) -> Result<(), GraphError> {
        for id in operations(graph)? {
            let Some(quant) = graph.node(id).is::<FakeQuant>().copied() else { continue };
            let (Some(x), Some(scale)) = (graph.node(id).ins[0], graph.node(id).ins[1]) else { continue };
            // Weights have no tracked range.
            let Some(scale_op) = graph.producer::<ActivationScale>(scale).copied() else { continue };
            if graph.tensor(x).is_some() {
                continue;
            }
            let site = Site { value: x, name: graph.value(x).name.clone(), axis: None, config: &self.config };
            let processed = process(&*self.preprocess, graph, &site)?;
            if processed == x {
                continue;
            }
            let threshold = pact_threshold(graph, processed);
            // Its own observer, which is not the only one where a tensor has two quantizers or an output scale.
            let observer = graph.node(scale.node).ins[0]
                .map(|v| v.node)
                .filter(|&n| graph.node(n).is::<Observe>().is_some());
            let observers: Vec<_> = graph
                .consumers(x)
                .into_iter()
                .filter(|&(n, slot)| slot == 0 && (n == id || Some(n) == observer))
                .collect();
            graph.replace_if(x, processed, |n, slot| observers.contains(&(n, slot)))?;
            if self.config.numerics == Numerics::Deploy && threshold.is_some() {
                limit(graph, id, quant, scale, scale_op, threshold)?;
            }
            report.done(self.name(), format!("tensor \"{}\"", site.name), "clipped at a learned threshold");
        }
        Ok(())
    }
}

/// Rebuilds scale and quantizer so that the range ends at the threshold, and the gradient passes to it.
fn limit(
    graph: &mut Graph,
    id: ir::NodeId,
    quant: FakeQuant,
    scale: ValueId,
    scale_op: ActivationScale,
    threshold: Option<ValueId>,
) -> Result<(), GraphError> {
    let state = graph.node(scale.node).ins[0];
    let name = graph.value(scale).name.clone();
    let zero_point = format!("{name}_zero_point");
    let limited = graph.add_node(Arc::new(scale_op), &[state, threshold], &name, &[&name, &zero_point])?;
    let ins = [graph.node(id).ins[0], Some(limited.into()), Some(ValueId { node: limited, out: 1 })];
    let fq_name = graph.value(id.into()).name.clone();
    let fq = graph.add_node(Arc::new(FakeQuant { clipped: false, ..quant }), &ins, &fq_name, &[&fq_name])?;
    for (old, new) in
        [(scale, limited.into()), (ValueId { out: 1, ..scale }, ValueId { node: limited, out: 1 })]
    {
        graph.swap_names(old, new);
    }
    graph.swap_labels(scale.node, limited);
    supersede(graph, id, fq)
}
