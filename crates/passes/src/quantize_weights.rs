//! `quantize-weights`: int8 weights without data. Activations stay in floating point.
//!
//! ```text
//! conv1 = Conv (x, w, b)
//! ->
//! w_dequantized = DequantizeLinear <axis=0> (w_quantized, w_scale, w_zero_point)   # int8 constant
//! conv1 = Conv (x, w_dequantized, b)
//! ```
//!
//! The file shrinks to about a quarter; the arithmetic stays in floating point, because the range of an activation is only
//! known from data.

use crate::config::QuantConfig;
use crate::hooks::{Quantize, Site};
use crate::pass::{Pass, Report, operations};
use crate::quantizer::WeightQuantizer;
use crate::selection::Selection;
use crate::tensor_override;
use ir::{Graph, GraphError, QuantRole};
use std::collections::BTreeMap;
use tensor::DType;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct QuantizeWeights {
    /// What to quantize and how.
    pub config: QuantConfig,
}

/// Smaller weights gain nothing: scales and nodes take more than they save.
const WORTH: usize = 256;

impl Pass for QuantizeWeights {
    fn name(&self) -> &'static str {
        "quantize-weights"
    }

    fn run(&self, graph: &mut Graph, report: &mut Report) -> Result<(), GraphError> {
        let selection = Selection::of(graph, &self.config)?;
        let mut done = BTreeMap::new();
        for id in operations(graph)? {
            let node = graph.node(id);
            let Some(op) = node.op() else { continue };
            let QuantRole::Weighted { weight, axis, .. } = op.quant() else { continue };
            let label = node.label();
            if let Err(why) = selection.takes(op.name(), &node.name) {
                report.skip(self.name(), label, why);
                continue;
            }
            let Some(w) = node.ins.get(weight).copied().flatten() else { continue };
            let fit = match graph.constant(w) {
                None => Err("its weight is computed".to_string()),
                Some(t) if t.dtype() != DType::F32 => Err(format!("its weight is {}, not float", t.dtype())),
                Some(t) if t.len() < WORTH => Err(format!("its weight has {} elements only", t.len())),
                Some(_) => Ok(()),
            };
            if let Err(why) = fit {
                report.skip(self.name(), label, why);
                continue;
            }
            let name = graph.value(w).name.clone();
            let w_fq = match done.get(&(w, axis)) {
                Some(&q) => q,
                None => {
                    let config = tensor_override::of_tensor(&self.config, &name);
                    let site = Site { value: w, name: name.clone(), axis: Some(axis), config: &config };
                    let q = WeightQuantizer.insert(graph, &site)?;
                    done.insert((w, axis), q);
                    q
                }
            };
            graph.set_input(id, weight, Some(w_fq));
            report.done(
                self.name(),
                label,
                format!(
                    "int{} weight \"{name}\"",
                    tensor_override::of_tensor(&self.config, &name).weight_bits
                ),
            );
        }
        Ok(())
    }
}
