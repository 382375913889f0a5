//! `drop-updates`: the evaluation form of a training graph. Ranges stay where they are, variables become constants, and what
//! stands in front of activation quantizers for training alone goes.
//!
//! ```text
//! x_pact = qat.Pact (x, x_threshold)
//! x_processed = qat.Processed (x_pact, x)
//! x_observed = qat.Observe (x_processed, x_range)       # x_range <- x_observed
//! x_scale, x_zp = qat.ActivationScale (x_observed)
//! x_fq = qat.FakeQuant (x_processed, x_scale, x_zp)
//! ->
//! x_scale, x_zp = qat.ActivationScale (x_range)         # constant
//! x_fq = qat.FakeQuant (x, x_scale, x_zp)
//! ```

use crate::pass::{Pass, Report, operations};
use ir::{Graph, GraphError, Kind};
use ops::{AbsMax, Observe, Processed};

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct DropUpdates;

impl Pass for DropUpdates {
    fn name(&self) -> &'static str {
        "drop-updates"
    }

    fn run(&self, graph: &mut Graph, _: &mut Report) -> Result<(), GraphError> {
        for update in graph.updates().to_vec() {
            // Scales of weights that a step kept, where Paddle does.
            if graph.producer::<AbsMax>(update.next).is_some() {
                graph.replace(update.next, update.variable.into())?;
            }
        }
        graph.clear_updates();
        for id in operations(graph)? {
            let node = graph.node(id);
            let ins = |i: usize| node.ins.get(i).copied().flatten();
            let stays = match (node.is::<Observe>(), node.is::<Processed>()) {
                (Some(_), _) => ins(1),
                (_, Some(Processed { bypassed: true })) => ins(0),
                // A weight is quantized as training saw it; an activation saturates at the range that was left.
                (_, Some(_)) => ins(1).filter(|&x| graph.tensor(x).is_none()),
                _ => None,
            };
            if let Some(stays) = stays {
                graph.replace(id.into(), stays)?;
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
