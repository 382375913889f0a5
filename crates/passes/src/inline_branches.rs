//! `inline-branches`: the branch of an `If` whose condition is constant, in the place of the node.
//!
//! ```text
//! y = If <then_branch=then () => (a) { a = Relu (x) },
//!         else_branch=else () => (b) { b = Neg (x) }> (true, x)
//! ->
//! y = Relu (x)
//! ```
//!
//! Exporters write an `If` where a program looks at a shape: once shapes are known, so is the branch. Conditions inside of
//! a branch may become constant with it, so constants are folded again behind it.

use crate::fold_constants::Folding;
use crate::pass::{Pass, Report, operations};
use ir::{Graph, GraphError, NodeId, ValueId};
use ops::If;
use std::collections::HashMap;
use std::sync::Arc;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct InlineBranches;

impl Pass for InlineBranches {
    fn name(&self) -> &'static str {
        "inline-branches"
    }

    fn run(&self, graph: &mut Graph, report: &mut Report) -> Result<(), GraphError> {
        let mut folding = None;
        loop {
            let mut inlined = false;
            for id in operations(graph)? {
                let Some((branch, taken)) = known_branch(graph, id) else { continue };
                let label = graph.node(id).label();
                let operands: Vec<ValueId> = graph.node(id).ins.iter().skip(1).flatten().copied().collect();
                let (name, origin, then) =
                    (graph.node(id).name.clone(), graph.node(id).origin.clone(), graph.now());
                let results = graph.splice(&branch, &operands, &name, &origin, &mut HashMap::new())?;
                graph.substitute(id, &results, then)?;
                report.done(self.name(), label, format!("its condition is always {taken}"));
                inlined = true;
            }
            if !inlined {
                return Ok(());
            }
            graph.sweep();
            graph.infer()?;
            folding.get_or_insert_with(|| Folding::of(graph)).run(graph, report)?;
        }
    }
}

/// The branch that an `If` takes, where that is known.
fn known_branch(graph: &Graph, id: NodeId) -> Option<(Arc<Graph>, bool)> {
    let op = graph.node(id).is::<If>()?;
    let cond = graph.constant(graph.node(id).ins.first().copied()??)?;
    let taken = op.branch(cond).ok()?;
    Some((taken.graph.clone(), cond.to_i64() == [1]))
}
