//! `eval-mode`: of a graph exported in training mode, batch norms take the running statistics and dropouts keep everything.
//!
//! ```text
//! b, mean_out, var_out = BatchNormalization <training_mode=1> (x, gamma, beta, mean, var)
//! y = Dropout (b, ratio, true)
//! ->
//! b = BatchNormalization (x, gamma, beta, mean, var)
//! y = Dropout (b, ratio)
//! ```
//!
//! This is the form in which graphs are rewritten and calibrated; the training step turns batch norms back.

use crate::pass::{Pass, Report, operations, supersede};
use ir::{Graph, GraphError, ValueId};
use ops::{BatchNormalization, Dropout};
use std::sync::Arc;

/// Which operand of a dropout says whether it drops.
const MODE: usize = 2;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct EvalMode;

impl Pass for EvalMode {
    fn name(&self) -> &'static str {
        "eval-mode"
    }

    fn run(&self, graph: &mut Graph, report: &mut Report) -> Result<(), GraphError> {
        for id in operations(graph)? {
            let node = graph.node(id);
            if node.is::<Dropout>().is_some() && node.ins.get(MODE).is_some_and(Option::is_some) {
                let label = node.label();
                graph.set_input(id, MODE, None);
                report.done(self.name(), label, "keeps everything");
                continue;
            }
            let Some(op) = node.is::<BatchNormalization>().filter(|op| op.training).copied() else {
                continue;
            };
            let (label, ins) = (node.label(), node.ins.clone());
            let name = graph.value(id.into()).name.clone();
            let statistics = (1..node.outs.len()).map(|out| ValueId { node: id, out: out as u16 });
            let read = statistics.into_iter().find(|&v| graph.is_output(v) || !graph.consumers(v).is_empty());
            if let Some(v) = read {
                let why = format!("its statistics \"{}\" are read", graph.value(v).name);
                report.skip(self.name(), label, why);
                continue;
            }
            let op = BatchNormalization { training: false, ..op };
            let new = graph.add_node(Arc::new(op), &ins, &name, &[&name])?;
            supersede(graph, id, new)?;
            report.done(self.name(), label, "takes the running statistics");
        }
        Ok(())
    }
}
