//! `fuse-hard-swish`: hard sigmoid and hard swish, as files older than the operators spell them, become one operator.
//!
//! ```text
//! shifted = Add (x, three)
//! clipped = Clip (shifted, zero, six)
//! scaled = Mul (x, clipped)
//! y = Div (scaled, six)
//! ->
//! y = HardSwish (x)
//! ```
//!
//! Without the product with `x` it is `HardSigmoid`; the factor 1/6 may come before or behind that product, and the HardSigmoid
//! may be there already.

use crate::pass::{Pass, Report, operations, supersede};
use ir::{Graph, GraphError, NodeId, Op, ValueId};
use ops::{Add, Clip, Div, HardSigmoid, HardSwish, Mul};
use std::sync::Arc;
use tensor::DType;

/// The hard sigmoid of the hard swish.
const GATE: HardSigmoid = HardSigmoid { alpha: 1.0 / 6.0, beta: 0.5 };

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct FuseHardSwish;

impl Pass for FuseHardSwish {
    fn name(&self) -> &'static str {
        "fuse-hard-swish"
    }

    fn run(&self, graph: &mut Graph, report: &mut Report) -> Result<(), GraphError> {
        for id in operations(graph)? {
            let (op, x): (Arc<dyn Op>, ValueId) = match (hard_swish(graph, id), hard_sigmoid(graph, id)) {
                (Some(x), _) => (Arc::new(HardSwish), x),
                (None, Some(x)) => (Arc::new(GATE), x),
                (None, None) => continue,
            };
            let label = graph.node(id).label();
            // A constant of one element may have more axes than the operand, which the result gets.
            let (from, to) = (graph.ty(x), graph.ty(id.into()));
            if from.rank().is_none() || from.rank() != to.rank() || !from.dtype.is_none_or(DType::is_float) {
                let why = format!("its operand is {from}, its result {to}");
                report.skip(self.name(), label, why);
                continue;
            }
            let how = format!("now {}", op.name());
            let name = format!("{}_fused", graph.value(id.into()).name);
            let new = graph.add_node(op, &[Some(x)], &name, &[&name])?;
            supersede(graph, id, new)?;
            report.done(self.name(), label, how);
        }
        Ok(())
    }
}

/// `x` of `x * hard_sigmoid(x)`.
fn hard_swish(graph: &Graph, id: NodeId) -> Option<ValueId> {
    if let Some(product) = sixth(graph, id) {
        return gated(graph, product.node, |gate| six_times_gate(graph, gate));
    }
    gated(graph, id, |gate| {
        let node = graph.node(gate.node);
        let is_gate = node.is::<HardSigmoid>().is_some_and(|op| *op == GATE);
        if is_gate { node.ins[0] } else { hard_sigmoid(graph, gate.node) }
    })
}

/// `x` of `hard_sigmoid(x)` from its parts.
fn hard_sigmoid(graph: &Graph, id: NodeId) -> Option<ValueId> {
    six_times_gate(graph, sixth(graph, id)?)
}

/// `x` of a product of `x` with a gate of `x`.
fn gated(graph: &Graph, id: NodeId, gate: impl Fn(ValueId) -> Option<ValueId>) -> Option<ValueId> {
    graph.node(id).is::<Mul>()?;
    let [a, b] = operands(graph, id)?;
    if gate(b) == Some(a) {
        return Some(a);
    }
    (gate(a) == Some(b)).then_some(b)
}

/// `x` of `clip(x + 3, 0, 6)`.
fn six_times_gate(graph: &Graph, v: ValueId) -> Option<ValueId> {
    let node = graph.node(v.node);
    node.is::<Clip>()?;
    let [Some(shifted), Some(low), Some(high)] = node.ins[..] else { return None };
    if number(graph, low)? != 0.0 || number(graph, high)? != 6.0 {
        return None;
    }
    graph.node(shifted.node).is::<Add>()?;
    let [a, b] = operands(graph, shifted.node)?;
    let three = |v: ValueId| number(graph, v) == Some(3.0);
    if three(b) { Some(a) } else { three(a).then_some(b) }
}

/// `v` of `v / 6` or `v * (1/6)`.
fn sixth(graph: &Graph, id: NodeId) -> Option<ValueId> {
    let node = graph.node(id);
    let [a, b] = operands(graph, id)?;
    if node.is::<Div>().is_some() {
        return (number(graph, b)? == 6.0).then_some(a);
    }
    node.is::<Mul>()?;
    let is_sixth = |v: ValueId| number(graph, v).is_some_and(|n| (n - 1.0 / 6.0).abs() < 1e-6);
    if is_sixth(b) { Some(a) } else { is_sixth(a).then_some(b) }
}

fn operands(graph: &Graph, id: NodeId) -> Option<[ValueId; 2]> {
    match graph.node(id).ins[..] {
        [Some(a), Some(b)] => Some([a, b]),
        _ => None,
    }
}

/// A constant of one element.
fn number(graph: &Graph, v: ValueId) -> Option<f32> {
    graph.constant(v).filter(|t| t.len() == 1).map(|t| t.to_f32()[0])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_operand_of_unknown_rank_may_have_fewer_axes() {
        let text = "net (float[2] x) => (float y)
            <float[1,1] three = {3.0}, float[] zero = {0.0}, float[] six = {6.0}>
            {
              other = qat.Unknown (x)
              shifted = Add (other, three)
              clipped = Clip (shifted, zero, six)
              y = Div (clipped, six)
            }";
        let mut graph = ir::text::parse(text, &ops::Ops).unwrap();
        let mut report = Report::default();
        FuseHardSwish.run(&mut graph, &mut report).unwrap();
        assert!(graph.producer::<Div>(graph.outputs()[0].value).is_some(), "{report:?}");
    }
}
