//! `remove-identity`: drops operators that pass their operand on unchanged.
//!
//! ```text
//! a = Identity (x)
//! b = Dropout (a)
//! c = Reshape (b, shape)                                # to the shape that b has
//! y = Relu (c)
//! ->
//! y = Relu (x)
//! ```
//!
//! Dropout goes in whatever mode it stands: fine-tuning of a quantized network does without. Cast, Reshape, Flatten, Expand,
//! Transpose, Pad, Slice and sums or concatenations of one operand go where they change nothing.

use crate::pass::{Pass, Report, operations};
use ir::{Dim, Graph, GraphError, NodeId, ValueId};
use ops::{
    Cast, Concat, Dropout, Expand, Flatten, Identity, Max, Mean, Min, Pad, Reshape, Slice, Sum, Transpose,
};
use tensor::Tensor;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct RemoveIdentity;

impl Pass for RemoveIdentity {
    fn name(&self) -> &'static str {
        "remove-identity"
    }

    fn run(&self, graph: &mut Graph, report: &mut Report) -> Result<(), GraphError> {
        for id in operations(graph)? {
            let Some(how) = no_op(graph, id) else { continue };
            let (label, y) = (graph.node(id).label(), ValueId::from(id));
            let Some(x) = graph.node(id).ins.first().copied().flatten() else { continue };
            let read = (1..graph.node(id).outs.len()).map(|out| ValueId { node: id, out: out as u16 });
            if let Some(v) = read.into_iter().find(|&v| graph.is_output(v) || !graph.consumers(v).is_empty())
            {
                report.skip(self.name(), label, format!("its result \"{}\" is read", graph.value(v).name));
                continue;
            }
            if graph.is_output(y) {
                // The operand takes over the name of the output, unless it has to keep its own.
                if graph.node(x.node).op().is_none() || graph.is_output(x) {
                    let why = format!("it gives \"{}\" the name of an output", graph.value(x).name);
                    report.skip(self.name(), label, why);
                    continue;
                }
                graph.swap_names(x, y);
            }
            graph.replace(y, x)?;
            report.done(self.name(), label, how);
        }
        Ok(())
    }
}

/// Why result 0 of a node is its operand 0; `None` when it is not.
fn no_op(graph: &Graph, id: NodeId) -> Option<&'static str> {
    let node = graph.node(id);
    let operand = |i: usize| node.ins.get(i).copied().flatten();
    let x = graph.ty(operand(0)?);
    let y = &node.outs.first()?.ty;
    // Equal names are equal sizes.
    let known = |d: &Dim| *d != Dim::Unknown;
    let same_shape = || x.shape == y.shape && x.shape.as_ref().is_some_and(|s| s.iter().all(known));
    let all = |i: usize, value: i64| {
        let t = operand(i).map(|v| graph.constant(v).map(Tensor::to_i64));
        t.map(|t| t.is_some_and(|t| t.iter().all(|&x| x == value)))
    };
    let is_one_operand = node.ins.len() == 1
        && (node.is::<Concat>().is_some()
            || node.is::<Sum>().is_some()
            || node.is::<Mean>().is_some()
            || node.is::<Max>().is_some()
            || node.is::<Min>().is_some());
    if node.is::<Identity>().is_some() {
        return Some("removed");
    }
    if node.is::<Dropout>().is_some() {
        return Some("removed: it does nothing at inference");
    }
    if node.is::<Cast>().is_some() && x.dtype.is_some() && x.dtype == y.dtype {
        return Some("removed: the type is that of its operand");
    }
    let moves =
        node.is::<Reshape>().is_some() || node.is::<Flatten>().is_some() || node.is::<Expand>().is_some();
    if moves && same_shape() {
        return Some("removed: the shape is that of its operand");
    }
    let in_order = |t: &Transpose| t.order.as_ref().is_some_and(|order| order.iter().is_sorted());
    if node.is::<Transpose>().is_some_and(in_order) {
        return Some("removed: the axes keep their order");
    }
    if node.is::<Pad>().is_some() && all(1, 0) == Some(true) {
        return Some("removed: it pads nothing");
    }
    // Forward and of the same size: everything is taken.
    if node.is::<Slice>().is_some() && same_shape() && all(4, 1) != Some(false) {
        return Some("removed: it takes everything");
    }
    is_one_operand.then_some("removed: it has one operand")
}
