//! Operators that are others put together: their compositions take their place where nothing runs the whole.

use crate::{Budget, Graph, GraphError, Kind, Op, Type, ValueId};
use std::collections::BTreeMap;
use std::sync::Arc;
use tensor::Tensor;

/// What an operator sees while it spells itself out in others.
pub struct Compose<'g> {
    pub(crate) graph: &'g mut Graph,
    ins: Vec<Option<ValueId>>,
    outs: usize,
    name: String,
    origin: String,
    budget: &'g mut Budget,
    error: Option<GraphError>,
}

impl<'g> Compose<'g> {
    /// On these operands, for `outs` results. What is added is named `name` and stems from the user's node `origin`; its
    /// tables are held to `budget`.
    pub(crate) fn new(
        graph: &'g mut Graph,
        ins: Vec<Option<ValueId>>,
        outs: usize,
        name: String,
        origin: String,
        budget: &'g mut Budget,
    ) -> Compose<'g> {
        Compose { graph, ins, outs, name, origin, budget, error: None }
    }

    /// The first operation whose operands did not fit: a mistake of the rule.
    pub(crate) fn error(self) -> Option<GraphError> {
        self.error
    }

    /// Operand `i`, where given.
    pub fn input(&self, i: usize) -> Option<ValueId> {
        self.ins.get(i).copied().flatten()
    }

    /// Number of results that are asked for.
    pub fn outs(&self) -> usize {
        self.outs
    }

    /// Type of a value.
    pub fn ty(&self, v: ValueId) -> &Type {
        self.graph.ty(v)
    }

    /// Sizes of a value.
    pub fn dims(&self, v: ValueId) -> Option<Vec<usize>> {
        self.graph.ty(v).dims()
    }

    /// The constant behind a value, if it is one.
    pub fn constant(&self, v: ValueId) -> Option<&Tensor> {
        self.graph.constant(v)
    }

    /// Emits an operation with one result. `None` when the operands do not fit: a mistake of the rule, which is reported.
    pub fn add(&mut self, op: impl Op, ins: &[ValueId]) -> Option<ValueId> {
        let ins: Vec<_> = ins.iter().copied().map(Some).collect();
        self.add_multi(Arc::new(op), &ins, 1).map(|v| v[0])
    }

    /// Emits an operation with several results.
    pub fn add_multi(
        &mut self,
        op: Arc<dyn Op>,
        ins: &[Option<ValueId>],
        outs: usize,
    ) -> Option<Vec<ValueId>> {
        let name = |i: usize| if i == 0 { self.name.clone() } else { format!("{}_{i}", self.name) };
        let names: Vec<String> = (0..outs).map(name).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        match self.graph.add_node(op, ins, &self.name, &names) {
            Ok(id) => {
                self.graph.set_origin(id, &self.origin);
                Some((0..outs).map(|i| ValueId { node: id, out: i as u16 }).collect())
            }
            Err(e) => {
                self.error.get_or_insert(e);
                None
            }
        }
    }

    /// Asks whether the rule may make a table of so many elements, in front of making it. `None`: it is too large.
    pub fn claim(&mut self, elements: usize) -> Option<()> {
        let most = self.budget.elements.min(Budget::TABLES.elements);
        if elements <= most { self.budget.spend(elements as u64) } else { None }
    }

    /// Adds a constant for the rule's own use.
    pub fn constant_value(&mut self, value: Tensor) -> ValueId {
        let name = format!("{}_const", self.name);
        self.graph.add_const(&name, value)
    }

    /// The results of the composition of `op`, as many as are asked for; `None` where it has no composition.
    fn of(mut self, op: &dyn Op) -> Result<Option<Vec<ValueId>>, String> {
        let results = op.compose(&mut self);
        match (self.error.take(), results) {
            (Some(e), _) => Err(format!("its parts do not fit together: {e}")),
            (None, Some(results)) if results.len() < self.outs => {
                Err(format!("its composition has {} results instead of {}", results.len(), self.outs))
            }
            (None, results) => Ok(results.map(|r| r[..self.outs].to_vec())),
        }
    }
}

/// Puts compositions in the place of the operations whose operator `which` accepts, where [`Op::compose`] has one for
/// their operands, and those of what these are made of in turn. What was replaced stays, unread, for [`Graph::sweep`].
/// Returns the labels of the operations that were spelled out.
///
/// # Errors
/// When a composition does not fit the operands: names the node.
pub fn spell_out(graph: &mut Graph, which: impl Fn(&dyn Op) -> bool) -> Result<Vec<String>, GraphError> {
    let mut done = Vec::new();
    let mut budget = Budget::TABLES;
    let mut todo = graph.order()?;
    todo.reverse();
    while let Some(id) = todo.pop() {
        let node = graph.node(id);
        let op = match &node.kind {
            Kind::Op(op) if which(&**op) => op.clone(),
            _ => continue,
        };
        let label = node.label();
        let (ins, outs) = (node.ins.to_vec(), node.outs.len());
        let (name, origin, then) = (node.name.clone(), node.origin.clone(), graph.now());
        let composed = Compose::new(graph, ins, outs, name, origin, &mut budget);
        let results = composed.of(&*op).map_err(|what| GraphError { place: label.clone(), what })?;
        let Some(results) = results else { continue };
        graph.substitute(id, &results, then)?;
        todo.extend(graph.born_since(then).into_iter().rev());
        done.push(label);
    }
    Ok(done)
}

/// The results of `op` on constants by its composition, whose parts are evaluated within `budget`; `None` where it has none
/// for them.
///
/// # Errors
/// When the composition does not fit the operands, or a part of it cannot be evaluated.
pub fn eval_composed(
    op: &dyn Op,
    ins: &[Option<&Tensor>],
    outs: usize,
    budget: &mut Budget,
) -> Result<Option<Vec<Tensor>>, String> {
    let mut graph = Graph::new("composition");
    let ins = ins.iter().map(|x| x.map(|x| graph.add_const("x", x.clone()))).collect();
    let name = op.name().to_string();
    let Some(results) = Compose::new(&mut graph, ins, outs, name.clone(), name, budget).of(op)? else {
        return Ok(None);
    };
    let mut known: BTreeMap<ValueId, Tensor> = BTreeMap::new();
    for id in graph.order().map_err(|e| e.to_string())? {
        if let Some(value) = graph.tensor(id.into()) {
            known.insert(id.into(), value.clone());
        }
        let node = graph.node(id);
        let Some(part) = node.op() else { continue };
        let ins: Vec<Option<&Tensor>> = node.ins.iter().map(|v| v.and_then(|v| known.get(&v))).collect();
        let values = crate::eval_within(part, &ins, node.outs.len(), budget);
        let values = values.map_err(|e| format!("{}: {e}", part.name()))?;
        known.extend(values.into_iter().enumerate().map(|(i, v)| (ValueId { node: id, out: i as u16 }, v)));
    }
    let result = |v: &ValueId| known.get(v).cloned().ok_or_else(|| "a result is not computed".to_string());
    results.iter().map(result).collect::<Result<_, _>>().map(Some)
}
