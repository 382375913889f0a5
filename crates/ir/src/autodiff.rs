//! Reverse-mode differentiation, graph to graph: gradients are ordinary nodes, so that passes, the planner and
//! snapshots see forward, backward and update alike.

use crate::{Budget, Compose, Graph, GraphError, Kind, NodeId, Op, Type, ValueId};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use tensor::{DType, Tensor};

/// What gradient rules read in the place of other values: for a node, and an operand or result of it, the value that its
/// rule gets to see instead, of the same type. Gradients still flow to the operands proper.
///
/// So the backward pass can be rewired as other frameworks do it, without a trace in the forward pass.
pub type StandIns = BTreeMap<(NodeId, ValueId), ValueId>;

/// What an operator sees while it emits the gradients of its operands.
pub struct Vjp<'g> {
    emit: Compose<'g>,
    stand_ins: &'g StandIns,
    node: NodeId,
    d_outs: Vec<Option<ValueId>>,
    wanted: Vec<bool>,
    d_ins: Vec<Option<ValueId>>,
}

impl Vjp<'_> {
    fn stand_in(&self, v: ValueId) -> Option<ValueId> {
        self.stand_ins.get(&(self.node, v)).copied()
    }

    /// Operand `i`, where given, or its stand-in.
    pub fn input(&self, i: usize) -> Option<ValueId> {
        let v = self.emit.input(i)?;
        Some(self.stand_in(v).unwrap_or(v))
    }

    /// Result `i`, or its stand-in.
    pub fn output(&self, i: usize) -> ValueId {
        let v = ValueId { node: self.node, out: i as u16 };
        self.stand_in(v).unwrap_or(v)
    }

    /// What stands in for result `i`, if anything does: for rules that need not read the result itself.
    pub fn output_stand_in(&self, i: usize) -> Option<ValueId> {
        self.stand_in(ValueId { node: self.node, out: i as u16 })
    }

    /// Number of results that the node has.
    pub fn outs(&self) -> usize {
        self.d_outs.len()
    }

    /// Gradient of the loss with respect to result `i`; `None` when the loss does not depend on it.
    pub fn d_output(&self, i: usize) -> Option<ValueId> {
        self.d_outs.get(i).copied().flatten()
    }

    /// Whether somebody wants the gradient of operand `i`.
    pub fn wants(&self, i: usize) -> bool {
        self.wanted.get(i).copied().unwrap_or(false)
    }

    /// Type of a value.
    pub fn ty(&self, v: ValueId) -> &Type {
        self.emit.ty(v)
    }

    /// Sizes of a value.
    pub fn dims(&self, v: ValueId) -> Option<Vec<usize>> {
        self.emit.dims(v)
    }

    /// The constant behind a value, if it is one.
    pub fn constant(&self, v: ValueId) -> Option<&Tensor> {
        self.emit.constant(v)
    }

    /// Emits an operation with one result, as [`Compose::add`].
    pub fn add(&mut self, op: impl Op, ins: &[ValueId]) -> Option<ValueId> {
        self.emit.add(op, ins)
    }

    /// Emits an operation with several results.
    pub fn add_multi(
        &mut self,
        op: Arc<dyn Op>,
        ins: &[Option<ValueId>],
        outs: usize,
    ) -> Option<Vec<ValueId>> {
        self.emit.add_multi(op, ins, outs)
    }

    /// [`Compose::claim`].
    pub fn claim(&mut self, elements: usize) -> Option<()> {
        self.emit.claim(elements)
    }

    /// Adds a constant for the rule's own use.
    pub fn constant_value(&mut self, value: Tensor) -> ValueId {
        self.emit.constant_value(value)
    }

    /// States the gradient of operand `i`.
    pub fn set(&mut self, i: usize, gradient: ValueId) {
        if self.d_ins.len() <= i {
            self.d_ins.resize(i + 1, None);
        }
        self.d_ins[i] = Some(gradient);
    }
}

/// Extends the graph by the gradients of the scalar `loss` with respect to `wrt`, in that order; `None` for a value
/// on which the loss does not depend. `sum` adds two tensors of one shape, for values that several nodes read. Operations
/// that are composed of others are spelled out first.
///
/// # Errors
/// When the loss is not a float scalar, or a node between a wanted value and the loss has no gradient: names the
/// node.
pub fn gradients(
    graph: &mut Graph,
    loss: ValueId,
    wrt: &[ValueId],
    sum: Arc<dyn Op>,
) -> Result<Vec<Option<ValueId>>, GraphError> {
    gradients_with(graph, loss, wrt, sum, &StandIns::new())
}

/// [`gradients`], with rules that read stand-ins.
///
/// # Errors
/// As [`gradients`].
pub fn gradients_with(
    graph: &mut Graph,
    loss: ValueId,
    wrt: &[ValueId],
    sum: Arc<dyn Op>,
    stand_ins: &StandIns,
) -> Result<Vec<Option<ValueId>>, GraphError> {
    let loss_ty = graph.ty(loss).clone();
    let elements = loss_ty.dims().map(|d| d.iter().product::<usize>());
    if elements != Some(1) || loss_ty.dtype != Some(DType::F32) {
        let what = format!("the loss \"{}\" must be one float, but is {loss_ty}", graph.value(loss).name);
        return Err(GraphError { place: graph.node(loss.node).label(), what });
    }
    crate::spell_out(graph, |_| true)?;
    let order = graph.order()?;

    // Values that depend on a wanted one; only these carry gradients.
    let mut active: HashSet<ValueId> = wrt.iter().copied().collect();
    for &id in &order {
        let node = graph.node(id);
        if node.ins.iter().flatten().any(|v| active.contains(v)) {
            let float = |i: &usize| node.outs[*i].ty.dtype.is_none_or(|d| d.is_float());
            active.extend((0..node.outs.len()).filter(float).map(|i| ValueId { node: id, out: i as u16 }));
        }
    }

    let one = Tensor::new(&loss_ty.dims().unwrap_or_default(), vec![1f32]);
    let seed = graph.add_const("d_loss", one);
    let mut budget = Budget::TABLES;
    let mut grads: BTreeMap<ValueId, ValueId> = BTreeMap::from([(loss, seed)]);
    for &id in order.iter().rev() {
        let node = graph.node(id);
        let Kind::Op(op) = &node.kind else { continue };
        let outs = node.outs.len();
        let d_outs: Vec<Option<ValueId>> =
            (0..outs).map(|i| grads.get(&ValueId { node: id, out: i as u16 }).copied()).collect();
        let wanted: Vec<bool> = node.ins.iter().map(|v| v.is_some_and(|v| active.contains(&v))).collect();
        if d_outs.iter().all(Option::is_none) || !wanted.contains(&true) {
            continue;
        }
        let (op, ins, label) = (op.clone(), node.ins.clone(), node.label());
        let d_ins = vec![None; ins.len()];
        let (name, origin) = (format!("grad_{}", node.name), node.origin.clone());
        let emit = Compose::new(graph, ins.to_vec(), outs, name, origin, &mut budget);
        let mut cx = Vjp { emit, stand_ins, node: id, d_outs, wanted, d_ins };
        let done = op.vjp(&mut cx);
        let d_ins = cx.d_ins;
        if let Some(e) = cx.emit.error() {
            return Err(GraphError { place: label, what: format!("its gradient cannot be built: {e}") });
        }
        if done.is_none() {
            let what =
                "lies between a trained parameter and the loss, but this operator has no gradient here; \
                        exclude it from training or replace it"
                    .to_string();
            return Err(GraphError { place: label, what });
        }
        for (v, d) in ins.iter().zip(d_ins) {
            let (Some(v), Some(d)) = (*v, d) else { continue };
            if !active.contains(&v) {
                continue;
            }
            let total = match grads.get(&v) {
                None => d,
                Some(&sofar) => {
                    let name = format!("d_{}", graph.value(v).name);
                    let id = graph.add_node(sum.clone(), &[Some(sofar), Some(d)], &name, &[&name])?;
                    graph.set_origin(id, &graph.node(v.node).origin.clone());
                    id.into()
                }
            };
            grads.insert(v, total);
        }
    }
    Ok(wrt.iter().map(|v| grads.get(v).copied()).collect())
}
