//! `drop-updates`: the evaluation form of a training graph. Ranges stay where they are, variables become constants.
//!
//! ```text
//! x_observed = qat.Observe (x, x_range)                 # x_range <- x_observed
//! x_scale, x_zp = qat.ActivationScale (x_observed)
//! ->
//! x_scale, x_zp = qat.ActivationScale (x_range)         # constant
//! ```

use crate::pass::{Pass, Report, operations};
use ir::{Graph, GraphError, Kind};
use ops::Observe;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct DropUpdates;

impl Pass for DropUpdates {
    fn name(&self) -> &'static str {
        "drop-updates"
    }

    fn run(&self, graph: &mut Graph, _: &mut Report) -> Result<(), GraphError> {
        graph.clear_updates();
        for id in operations(graph)? {
            if graph.node(id).is::<Observe>().is_some()
                && let Some(state) = graph.node(id).ins[1]
            {
                graph.replace(id.into(), state)?;
            }
        }
        for id in graph.nodes() {
            if let Kind::Variable(value, _) = &graph.node(id).kind {
                let value = value.clone();
                graph.set_leaf(id, Kind::Const(value))?;
            }
        }
        Ok(())
    }
}
