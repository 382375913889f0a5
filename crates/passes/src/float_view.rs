//! `float-weights`: PaddleSlim's `float_prog`. The frozen graph with float weights that lie on the int8 grid.
//!
//! ```text
//! w_dequantized = DequantizeLinear <axis=0> (w_quantized, w_scale, w_zp)
//! conv1 = Conv (x_dequantized, w_dequantized, b_dequantized)
//! ->
//! conv1 = Conv (x_dequantized, w, b)                    # w, b: float constants
//! ```

use crate::fold_constants::evaluate;
use crate::pass::{Pass, Report, operations};
use ir::{Graph, GraphError};
use ops::DequantizeLinear;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct FloatWeights;

impl Pass for FloatWeights {
    fn name(&self) -> &'static str {
        "float-weights"
    }

    fn run(&self, graph: &mut Graph, report: &mut Report) -> Result<(), GraphError> {
        for id in operations(graph)? {
            if graph.node(id).is::<DequantizeLinear>().is_none() {
                continue;
            }
            let Some(value) = evaluate(graph, id.into()) else { continue };
            let name = graph.value(id.into()).name.clone();
            let base = name.strip_suffix("_dequantized").unwrap_or(&name).to_string();
            let weight = graph.add_const(&base, value);
            graph.replace(id.into(), weight)?;
            report.done(self.name(), format!("tensor \"{base}\""), "in floating point again");
        }
        Ok(())
    }
}
