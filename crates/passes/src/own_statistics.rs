//! `own-statistics`: a running statistic that something else reads, too, becomes a constant of its own.
//!
//! ```text
//! b = BatchNormalization (x, ones, zeros, zeros, ones)
//! ->
//! b = BatchNormalization (x, ones, zeros, b_mean, b_var)      # b_mean = zeros, b_var = ones
//! ```
//!
//! Simplifiers make one constant of those that are equal, as before training many are. Training moves them apart: it tracks the
//! statistics of each batch norm, and trains the rest.

use crate::fold_constants::ROOM;
use crate::pass::{Pass, Report, operations};
use ir::{Graph, GraphError, ValueId};
use ops::BatchNormalization;
use std::collections::HashMap;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct OwnStatistics;

impl Pass for OwnStatistics {
    fn name(&self) -> &'static str {
        "own-statistics"
    }

    fn run(&self, graph: &mut Graph, report: &mut Report) -> Result<(), GraphError> {
        let nodes = operations(graph)?;
        let mut readers: HashMap<ValueId, usize> = HashMap::new();
        let read = nodes.iter().flat_map(|&id| graph.node(id).ins.iter().flatten().copied());
        for v in read.chain(graph.outputs().iter().map(|o| o.value)) {
            *readers.entry(v).or_default() += 1;
        }
        let mut room = ROOM;
        for id in nodes {
            if graph.node(id).is::<BatchNormalization>().is_none_or(|op| op.training) {
                continue;
            }
            let (label, name) = (graph.node(id).label(), graph.value(id.into()).name.clone());
            for (slot, what) in [(3, "mean"), (4, "var")] {
                let Some(v) = graph.node(id).ins.get(slot).copied().flatten() else { continue };
                let (Some(value), Some(readers)) = (graph.constant(v).cloned(), readers.get_mut(&v)) else {
                    continue;
                };
                if *readers == 1 {
                    continue;
                }
                let Some(left) = room.checked_sub(value.bytes().len()) else {
                    report.skip(self.name(), &label, format!("\"{}\" is too large", graph.value(v).name));
                    continue;
                };
                (room, *readers) = (left, *readers - 1);
                let own = graph.add_const(&format!("{name}_{what}"), value);
                graph.set_input(id, slot, Some(own));
                let how =
                    format!("has \"{}\" in the place of \"{}\"", graph.value(own).name, graph.value(v).name);
                report.done(self.name(), &label, how);
            }
        }
        Ok(())
    }
}
