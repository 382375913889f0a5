//! What no static plan can hold: operations whose shapes only the data decide, and those that need an operand to be a
//! constant which is computed here. They run one by one behind the compiled steps, each bound to its shapes as it runs.
//!
//! ```text
//! scores = Conv (x, w)            # compiled
//! found  = NonZero (scores)       # int64[4,?]   ┐
//! boxes  = Gather (x, found)      # float[?,...] ┘ the tail
//! ```

use crate::program::{Error, Port};
use ir::{Graph, NodeId, Op, ValueId};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use tensor::Tensor;

/// Where an operand comes from.
enum Source {
    Constant(Tensor),
    /// A value of the tail: first those that it reads of the steps, then its own results.
    Value(usize),
}

struct Operation {
    op: Arc<dyn Op>,
    label: String,
    ins: Vec<Option<Source>>,
    /// Values behind `first` are its results.
    first: usize,
    outs: usize,
    /// Values that nobody reads afterwards.
    done: Vec<usize>,
}

/// The operations behind the compiled steps, in order.
#[derive(Default)]
pub(crate) struct Tail {
    operations: Vec<Operation>,
    values: usize,
    /// Name and value of those graph outputs that are made here.
    pub outputs: Vec<(String, usize)>,
    /// Name of a variable and its next value.
    pub updates: Vec<(String, usize)>,
    /// What is read of the steps, in the order of the values.
    pub reads: Vec<Port>,
}

impl Tail {
    /// The values that `nodes` read of the others, constants apart, in order of appearance.
    pub fn borders(graph: &Graph, nodes: &[NodeId]) -> Vec<ValueId> {
        let own: HashSet<NodeId> = nodes.iter().copied().collect();
        let mut seen = HashSet::new();
        let operands = nodes.iter().flat_map(|&id| graph.node(id).ins.iter().flatten().copied());
        operands
            .filter(|v| !own.contains(&v.node) && graph.constant(*v).is_none() && seen.insert(*v))
            .collect()
    }

    /// `nodes` of the graph, in order; `reads` as [`Tail::borders`] has them, and where they lie.
    pub fn new(graph: &Graph, nodes: &[NodeId], reads: &[ValueId], ports: Vec<Port>) -> Tail {
        let mut of: HashMap<ValueId, usize> = reads.iter().enumerate().map(|(i, &v)| (v, i)).collect();
        let mut tail = Tail { values: reads.len(), reads: ports, ..Tail::default() };
        for &id in nodes {
            let node = graph.node(id);
            let ir::Kind::Op(op) = &node.kind else { continue };
            let source = |v: &ValueId| match graph.constant(*v) {
                Some(t) => Source::Constant(t.clone()),
                None => Source::Value(of[v]),
            };
            let ins = node.ins.iter().map(|v| v.as_ref().map(source)).collect();
            let (first, outs) = (tail.values, node.outs.len());
            tail.operations.push(Operation {
                op: op.clone(),
                label: node.label(),
                ins,
                first,
                outs,
                done: vec![],
            });
            of.extend((0..outs).map(|out| (ValueId { node: id, out: out as u16 }, first + out)));
            tail.values += outs;
        }
        let own: HashSet<NodeId> = nodes.iter().copied().collect();
        let outputs = graph.outputs().iter().filter(|o| own.contains(&o.value.node));
        tail.outputs = outputs.map(|o| (o.name.clone(), of[&o.value])).collect();
        let updates = graph.updates().iter().filter(|u| own.contains(&u.next.node));
        tail.updates = updates.map(|u| (graph.node(u.variable).name.clone(), of[&u.next])).collect();
        tail.forget_early();
        tail
    }

    /// Notes behind which operation each value is no longer needed.
    fn forget_early(&mut self) {
        let mut kept = vec![false; self.values];
        self.outputs.iter().chain(&self.updates).for_each(|&(_, value)| kept[value] = true);
        for operation in self.operations.iter_mut().rev() {
            let read = operation.ins.iter().flatten().filter_map(|s| match s {
                Source::Value(v) => Some(*v),
                Source::Constant(_) => None,
            });
            let results = operation.first..operation.first + operation.outs;
            for value in read.chain(results) {
                if !std::mem::replace(&mut kept[value], true) {
                    operation.done.push(value);
                }
            }
        }
    }

    /// Nothing is left to do behind the steps.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// Operator and node of each operation.
    pub fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        self.operations.iter().map(|o| (o.op.name(), o.label.as_str()))
    }

    /// Runs all operations on what `read` finds for [`Tail::reads`]; `ran` is called behind each one, with its number.
    /// Returns the values that are outputs or updates, at their places.
    pub fn run(
        &self,
        read: impl Fn(&Port) -> Tensor,
        mut ran: impl FnMut(usize),
    ) -> Result<Vec<Option<Tensor>>, Error> {
        let mut values: Vec<Option<Tensor>> = self.reads.iter().map(|port| Some(read(port))).collect();
        values.resize(self.values, None);
        for (i, operation) in self.operations.iter().enumerate() {
            let error = |what: String| Error::Node { node: operation.label.clone(), what };
            let operand = |source: &Source| match source {
                Source::Constant(t) => Some(t.clone()),
                Source::Value(v) => values[*v].clone(),
            };
            let ins: Vec<Option<Tensor>> =
                operation.ins.iter().map(|s| s.as_ref().and_then(operand)).collect();
            let ins: Vec<Option<&Tensor>> = ins.iter().map(Option::as_ref).collect();
            let results = ir::eval(&*operation.op, &ins, operation.outs).map_err(|e| error(e.0))?;
            for (out, value) in results.into_iter().enumerate() {
                values[operation.first + out] = Some(value);
            }
            operation.done.iter().for_each(|&value| values[value] = None);
            ran(i);
        }
        Ok(values)
    }
}
