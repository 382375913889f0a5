//! `fuse-activation`: a convolution takes in the sum and the clamp behind it.
//!
//! ```text
//! conv1 = Conv (x, w, b)
//! add1 = Add (conv1, z)                 # z of the shape of conv1
//! relu1 = Relu (add1)
//! ->
//! [conv1] relu1 = com.microsoft.FusedConv <activation="Relu"> (x, w, b, z)
//! ```
//!
//! For evaluating a float graph: sweeps over memory less. What else reads the convolution's result keeps it as it is.

use crate::fuse_epilogue::clip_bounds;
use crate::pass::{Pass, Report, operations, rename_and_replace};
use ir::{Dim, Graph, GraphError, NodeId, ValueId};
use kernels::elementwise::Unary;
use ops::{Add, Clip, Conv, FusedConv, Relu};
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
            let (mut ins, mut activation) = (graph.node(id).ins.to_vec(), Unary::Identity);
            let (mut last, mut taken) = (id, Vec::new());
            if let Some((add, addend)) = sum(graph, id) {
                ins.resize(3, None);
                ins.push(Some(addend));
                taken.push(graph.node(add).label());
                last = add;
            }
            if let Some(reader) = graph.only_consumer(last.into())
                && let Some(clamp) = clamp(graph, reader, last.into())
            {
                activation = clamp;
                taken.push(graph.node(reader).label());
                last = reader;
            }
            if last == id {
                continue;
            }
            // The node moves behind what it reads now.
            let op = Arc::new(FusedConv { conv, activation });
            let name = graph.value(id.into()).name.clone();
            let fused = graph.add_node(op, &ins, &name, &[&name])?;
            graph.swap_labels(id, fused);
            graph.set_origin(fused, &graph.node(id).origin.clone());
            rename_and_replace(graph, last.into(), fused.into())?;
            report.done(self.name(), graph.node(fused).label(), format!("takes in {}", taken.join(" and ")));
        }
        Ok(())
    }
}

/// The sum that alone reads the result of a node, and what it adds of the same shape.
fn sum(graph: &Graph, id: NodeId) -> Option<(NodeId, ValueId)> {
    let add = graph.only_consumer(id.into())?;
    graph.node(add).is::<Add>()?;
    let [Some(a), Some(b)] = graph.node(add).ins[..] else { return None };
    let addend = if a == id.into() { b } else { a };
    let shape = graph.ty(addend).shape.as_ref()?;
    let known = !shape.contains(&Dim::Unknown);
    let same = Some(shape) == graph.ty(id.into()).shape.as_ref();
    (addend != id.into() && known && same).then_some((add, addend))
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
