//! `observe-outputs`: follows the magnitude of every operator's result, PaddleSlim's output scales
//! (`OutScaleForTrainingPass`).
//!
//! ```text
//! y = Relu (x)
//! ->
//! y = Relu (x)
//! y_out_observed = qat.Observe <kind="moving_average_abs_max"> (y, y_out_scale)   # y_out_scale <- y_out_observed
//! ```
//!
//! A side branch: nothing computes with it. A tensor that a quantizer follows already has its scale from there.

use crate::pass::{Pass, Report, operations};
use ir::{Graph, GraphError, Role, ValueId};
use observe::Statistic;
use ops::Observe;
use tensor::{DType, Tensor};

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct ObserveOutputs {
    /// Decay of the moving average.
    pub moving_rate: f32,
}

/// Suffix of the variables that hold output scales.
pub const OUT_SCALE: &str = "_out_scale";

impl Pass for ObserveOutputs {
    fn name(&self) -> &'static str {
        "observe-outputs"
    }

    fn run(&self, graph: &mut Graph, _: &mut Report) -> Result<(), GraphError> {
        let statistic = Statistic::MovingAverageAbsMax { rate: self.moving_rate };
        for id in operations(graph)? {
            if graph.node(id).op().is_some_and(|op| op.domain() == "qat") {
                continue;
            }
            for out in 0..graph.node(id).outs.len() {
                let y = ValueId { node: id, out: out as u16 };
                let observed =
                    graph.consumers(y).iter().any(|&(n, _)| graph.node(n).is::<Observe>().is_some());
                if observed || graph.ty(y).dtype != Some(DType::F32) {
                    continue;
                }
                let name = graph.value(y).name.clone();
                // Paddle's output observers start at 1 throughout.
                let initial = Tensor::new(&[4], vec![0.0f32, 1.0, 1.0, 1.0]);
                let state = graph.add_variable(&format!("{name}{OUT_SCALE}"), initial, Role::State);
                let next = graph.add(Observe { statistic }, &[y, state], &format!("{name}_out_observed"))?;
                graph.set_update(state, next);
            }
        }
        Ok(())
    }
}
