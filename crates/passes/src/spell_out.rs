//! `spell-out`: an operator that is quantized part by part becomes its parts.
//!
//! ```text
//! y = Attention (q, k, v)                               # heads of size 16
//! ->
//! q_scaled = Mul (q, root)
//! k_back = Transpose <perm=[0, 1, 3, 2]> (k)
//! k_scaled = Mul (k_back, root)
//! scores = MatMul (q_scaled, k_scaled)
//! weights = Softmax (scores)
//! y = MatMul (weights, v)
//! ```

use crate::pass::{Pass, Report, operations};
use ir::{Graph, GraphError, Op, QuantRole};

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct SpellOut;

impl Pass for SpellOut {
    fn name(&self) -> &'static str {
        "spell-out"
    }

    fn run(&self, graph: &mut Graph, report: &mut Report) -> Result<(), GraphError> {
        let composite = |op: &dyn Op| op.quant() == QuantRole::Composite;
        let done = ir::spell_out(graph, composite)?;
        graph.sweep();
        for id in operations(graph)? {
            if graph.node(id).op().is_some_and(composite) {
                report.skip(self.name(), graph.node(id).label(), "the sizes of its operands are not known");
            }
        }
        for label in done {
            report.done(self.name(), label, "now what it is made of");
        }
        Ok(())
    }
}
