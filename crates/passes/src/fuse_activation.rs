//! `fuse-activation`: a convolution takes in the clamp behind it.
//!
//! ```text
//! conv1 = Conv (x, w, b)
//! relu1 = Relu (conv1)
//! ->
//! [conv1] relu1 = com.microsoft.FusedConv <activation="Relu"> (x, w, b)
//! ```
//!
//! For evaluating a float graph: one sweep over memory less. What else reads the convolution's result keeps it as it is.

use crate::fuse_epilogue::clip_bounds;
use crate::pass::{Pass, Report, operations, rename_and_replace};
use ir::{Graph, GraphError, NodeId, ValueId};
use kernels::elementwise::Unary;
use ops::{Clip, Conv, FusedConv, Relu};
use std::sync::Arc;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct FuseActivation;

impl Pass for FuseActivation {
    fn name(&self) -> &'static str {
        "fuse-activation"
    }

    fn run(&self, graph: &mut Graph, report: &mut Report) -> Result<(), GraphError> {
        for id in operations(graph)? {
            let Some(conv) = graph.node(id).is::<Conv>().cloned() else { continue };
            let Some(reader) = graph.only_consumer(id.into()) else { continue };
            let Some(activation) = clamp(graph, reader, id.into()) else { continue };
            let ins = graph.node(id).ins.to_vec();
            graph.set_op(id, Arc::new(FusedConv { conv, activation }), &ins)?;
            let label = graph.node(reader).label();
            rename_and_replace(graph, reader.into(), id.into())?;
            report.done(self.name(), graph.node(id).label(), format!("takes in {label}"));
        }
        Ok(())
    }
}

/// The clamp that a node applies to `x`, with constant bounds.
fn clamp(graph: &Graph, id: NodeId, x: ValueId) -> Option<Unary> {
    let node = graph.node(id);
    if node.ins.first().copied().flatten() != Some(x) {
        return None;
    }
    if node.is::<Relu>().is_some() {
        return Some(Unary::Relu);
    }
    node.is::<Clip>()?;
    clip_bounds(graph, id)
}
