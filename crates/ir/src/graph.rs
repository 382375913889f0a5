//! The graph: nodes, values, and the additive edits from which every pass is made.

use crate::{Arg, Infer, Op, Type};
use petgraph::Direction;
use petgraph::stable_graph::{NodeIndex, StableDiGraph};
use petgraph::visit::{EdgeRef, NodeIndexable};
use smallvec::SmallVec;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use tensor::Tensor;

/// A node of one graph. Valid until [`Graph::sweep`] removes the node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(NodeIndex);

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node{}", self.0.index())
    }
}

/// A value: result number `out` of its one producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId {
    /// The producer.
    pub node: NodeId,
    /// Which of its results.
    pub out: u16,
}

impl From<NodeId> for ValueId {
    /// The first result.
    fn from(node: NodeId) -> ValueId {
        ValueId { node, out: 0 }
    }
}

/// The most operands, and the most results, of a node: as [`ValueId::out`] counts them.
const MAX_SLOTS: usize = u16::MAX as usize;

/// How a variable takes part in training.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// Trained by gradient, with the optimizer settings of this parameter group (`weights`, `pact`, …).
    Param(Arc<str>),
    /// Tracked, not trained: running statistics, observed ranges, optimizer moments.
    State,
}

/// What a node is.
#[derive(Clone, Debug)]
pub enum Kind {
    /// A graph input.
    Input,
    /// A constant.
    Const(Tensor),
    /// A tensor that survives from one run to the next and may have an update.
    Variable(Tensor, Role),
    /// An operation.
    Op(Arc<dyn Op>),
}

/// One value: its name in the file and what is known of its type.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// Tensor name, unique in the graph.
    pub name: String,
    /// Static type.
    pub ty: Type,
}

/// A node with its ordered operands and results.
#[derive(Clone, Debug)]
pub struct Node {
    /// What it is.
    pub kind: Kind,
    /// Node name, unique among the operations of the graph.
    pub name: String,
    /// The user's node that this one stems from; equal to `name` for a node of the file.
    pub origin: String,
    /// Operands; holes are omitted optional inputs.
    pub ins: SmallVec<[Option<ValueId>; 4]>,
    /// Results.
    pub outs: SmallVec<[Value; 1]>,
    seq: u32,
}

impl Node {
    /// The operation, if it is one.
    pub fn op(&self) -> Option<&dyn Op> {
        match &self.kind {
            Kind::Op(op) => Some(&**op),
            _ => None,
        }
    }

    /// The operation as a concrete type, if it is one.
    pub fn is<T: Op>(&self) -> Option<&T> {
        self.op()?.is()
    }

    /// For messages: `Conv node "conv1"`.
    pub fn label(&self) -> String {
        match &self.kind {
            Kind::Op(op) => format!("{} node \"{}\"", op.name(), self.name),
            Kind::Input => format!("input \"{}\"", self.name),
            Kind::Const(_) => format!("constant \"{}\"", self.name),
            Kind::Variable(..) => format!("variable \"{}\"", self.name),
        }
    }
}

/// A graph output: the name under which the caller asks for a value.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// Name of the output. The writer inserts an Identity where it differs from the value's name.
    pub name: String,
    /// The value.
    pub value: ValueId,
}

/// After a run the variable holds `next`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Update {
    /// A [`Kind::Variable`].
    pub variable: NodeId,
    /// Its value for the next run.
    pub next: ValueId,
}

/// What is wrong with a graph, and where.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{place}: {what}")]
pub struct GraphError {
    /// The node, with its operator.
    pub place: String,
    /// A sentence on what was expected and found.
    pub what: String,
}

/// Names and values are looked up at every edit: the standard hash would take a tenth of a pass.
type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// A computation graph in single-assignment form.
///
/// Edits are additive: nodes are added, uses are redirected, and [`Graph::sweep`] removes what nobody reads any more.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// Name of the graph, as in the file.
    pub name: String,
    // petgraph gives the storage and its algorithms; ordered operands live in the node, edges mirror them.
    g: StableDiGraph<Node, u16>,
    inputs: Vec<NodeId>,
    outputs: Vec<Output>,
    updates: Vec<Update>,
    /// How many updates take a value.
    taken: Map<ValueId, usize>,
    names: Map<String, Named>,
    /// Where [`Graph::fresh`] goes on for a base: all lower suffixes are taken.
    suffixes: Map<String, usize>,
    /// Nodes by birth.
    births: BTreeMap<u32, NodeIndex>,
    next_seq: u32,
}

/// What has a name. Node names stand behind a mark that no tensor name can begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Named {
    /// Nothing yet, or nothing in this graph.
    Reserved,
    Value(ValueId),
    Node(NodeId),
}

impl Graph {
    /// An empty graph.
    pub fn new(name: &str) -> Graph {
        Graph { name: name.to_string(), ..Graph::default() }
    }

    // ---- reading ----

    /// The node.
    ///
    /// # Panics
    /// When the node was swept: ids do not outlive a sweep.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.g[id.0]
    }

    /// Name and type of a value.
    pub fn value(&self, v: ValueId) -> &Value {
        &self.node(v.node).outs[v.out as usize]
    }

    /// Type of a value.
    pub fn ty(&self, v: ValueId) -> &Type {
        &self.value(v).ty
    }

    /// The constant behind a value, if it is one.
    pub fn constant(&self, v: ValueId) -> Option<&Tensor> {
        match &self.node(v.node).kind {
            Kind::Const(t) => Some(t),
            _ => None,
        }
    }

    /// The tensor that a constant or a variable holds.
    pub fn tensor(&self, v: ValueId) -> Option<&Tensor> {
        match &self.node(v.node).kind {
            Kind::Const(t) | Kind::Variable(t, _) => Some(t),
            _ => None,
        }
    }

    /// The operation that makes a value, if it is a `T`.
    pub fn producer<T: Op>(&self, v: ValueId) -> Option<&T> {
        self.node(v.node).is()
    }

    /// All nodes, in birth order.
    pub fn nodes(&self) -> Vec<NodeId> {
        self.births.values().copied().map(NodeId).collect()
    }

    /// Where [`Graph::born_since`] is to begin: behind the nodes that are there now.
    pub fn now(&self) -> u32 {
        self.next_seq
    }

    /// The nodes that were added since [`Graph::now`] said `then`, in birth order.
    pub fn born_since(&self, then: u32) -> Vec<NodeId> {
        self.births.range(then..).map(|(_, &i)| NodeId(i)).collect()
    }

    /// Number of nodes.
    pub fn len(&self) -> usize {
        self.g.node_count()
    }

    /// No nodes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Nodes in execution order: operands first, ties by birth.
    ///
    /// # Errors
    /// When there is a cycle: names a node on it.
    pub fn order(&self) -> Result<Vec<NodeId>, GraphError> {
        // By index: how many operands are still to come, and the birth. Nodes are large: each is read once.
        let mut waiting = vec![(0usize, 0u32); self.g.node_bound()];
        let mut ready = BinaryHeap::new();
        for i in self.g.node_indices() {
            let node = &self.g[i];
            let missing = node.ins.iter().flatten().count();
            waiting[i.index()] = (missing, node.seq);
            if missing == 0 {
                ready.push(Reverse((node.seq, i)));
            }
        }
        let mut order = Vec::with_capacity(self.len());
        while let Some(Reverse((_, i))) = ready.pop() {
            order.push(NodeId(i));
            for reader in self.g.neighbors_directed(i, Direction::Outgoing) {
                let (missing, seq) = &mut waiting[reader.index()];
                *missing -= 1;
                if *missing == 0 {
                    ready.push(Reverse((*seq, reader)));
                }
            }
        }
        if order.len() == self.len() {
            return Ok(order);
        }
        let stuck = self.nodes().into_iter().find(|id| waiting[id.0.index()].0 > 0);
        let place = stuck.map_or_else(String::new, |id| self.node(id).label());
        Err(GraphError { place, what: "the node depends on its own result: the graph has a cycle".into() })
    }

    /// Who reads a value: node and operand slot, in birth order of the readers.
    pub fn consumers(&self, v: ValueId) -> Vec<(NodeId, usize)> {
        let mut uses: Vec<(NodeId, usize)> = self
            .g
            .edges_directed(v.node.0, Direction::Outgoing)
            .map(|e| (NodeId(e.target()), *e.weight() as usize))
            .filter(|&(n, slot)| self.node(n).ins[slot] == Some(v))
            .collect();
        uses.sort_by_key(|&(n, slot)| (self.node(n).seq, slot));
        uses
    }

    /// The only reader of a value that is neither a graph output nor an update, if there is just one.
    pub fn only_consumer(&self, v: ValueId) -> Option<NodeId> {
        if self.is_output(v) || self.taken.contains_key(&v) {
            return None;
        }
        match self.consumers(v)[..] {
            [(n, _)] => Some(n),
            _ => None,
        }
    }

    /// Graph inputs in order.
    pub fn inputs(&self) -> &[NodeId] {
        &self.inputs
    }

    /// Graph outputs in order.
    pub fn outputs(&self) -> &[Output] {
        &self.outputs
    }

    /// Variables and what they become.
    pub fn updates(&self) -> &[Update] {
        &self.updates
    }

    /// Whether a value is a graph output.
    pub fn is_output(&self, v: ValueId) -> bool {
        self.outputs.iter().any(|o| o.value == v)
    }

    /// The value of this name.
    pub fn find(&self, name: &str) -> Option<ValueId> {
        match self.names.get(name) {
            Some(Named::Value(v)) => Some(*v),
            _ => None,
        }
    }

    /// The operation of this node name.
    pub fn find_node(&self, name: &str) -> Option<NodeId> {
        match self.names.get(&format!("\0{name}")) {
            Some(Named::Node(id)) => Some(*id),
            _ => None,
        }
    }

    // ---- adding ----

    /// A name that no value and no node has: `base`, else `base_1`, `base_2`, …
    pub fn fresh(&mut self, base: &str) -> String {
        let mut name = base.to_string();
        if self.names.contains_key(base) {
            let next = self.suffixes.entry(name.clone()).or_insert(1);
            name = format!("{base}_{next}");
            while self.names.contains_key(&name) {
                *next += 1;
                name = format!("{base}_{next}");
            }
        }
        self.names.insert(name.clone(), Named::Reserved);
        name
    }

    /// Nothing has this name any more.
    fn forget(&mut self, name: &str) {
        self.names.remove(name);
        if let Some((base, suffix)) = name.rsplit_once('_')
            && let (Some(next), Ok(suffix)) = (self.suffixes.get_mut(base), suffix.parse::<usize>())
        {
            *next = suffix.min(*next).max(1);
        }
    }

    fn push(&mut self, kind: Kind, name: String, origin: String, outs: SmallVec<[Value; 1]>) -> NodeId {
        let seq = self.next_seq;
        self.next_seq += 1;
        let label = matches!(kind, Kind::Op(_)).then(|| format!("\0{name}"));
        let id = NodeId(self.g.add_node(Node { kind, name, origin, ins: SmallVec::new(), outs, seq }));
        self.births.insert(seq, id.0);
        for (out, value) in self.g[id.0].outs.iter().enumerate() {
            // `fresh` put the name there.
            if let Some(named) = self.names.get_mut(&value.name) {
                *named = Named::Value(ValueId { node: id, out: out as u16 });
            }
        }
        if let Some(label) = label {
            self.names.insert(label, Named::Node(id));
        }
        id
    }

    fn leaf(&mut self, kind: Kind, name: &str, ty: Type) -> NodeId {
        let name = self.fresh(name);
        let outs = SmallVec::from_iter([Value { name: name.clone(), ty }]);
        self.push(kind, name.clone(), name, outs)
    }

    /// Adds a graph input. The name is made unique.
    pub fn add_input(&mut self, name: &str, ty: Type) -> ValueId {
        let id = self.leaf(Kind::Input, name, ty);
        self.inputs.push(id);
        id.into()
    }

    /// Adds a constant.
    pub fn add_const(&mut self, name: &str, value: Tensor) -> ValueId {
        let ty = Type::new(value.dtype(), value.shape().iter().copied());
        self.leaf(Kind::Const(value), name, ty).into()
    }

    /// Adds a variable: a trained parameter or tracked state.
    pub fn add_variable(&mut self, name: &str, value: Tensor, role: Role) -> ValueId {
        let ty = Type::new(value.dtype(), value.shape().iter().copied());
        self.leaf(Kind::Variable(value, role), name, ty).into()
    }

    /// Adds an operation with one result. `name` names the result and, with it, the node.
    ///
    /// # Errors
    /// When the operands do not fit the operator.
    pub fn add(&mut self, op: impl Op, ins: &[ValueId], name: &str) -> Result<ValueId, GraphError> {
        let ins: Vec<Option<ValueId>> = ins.iter().copied().map(Some).collect();
        Ok(self.add_node(Arc::new(op), &ins, name, &[name])?.into())
    }

    /// Adds an operation. Names are made unique; `outs` names the results. The node's origin is its own name:
    /// see [`Graph::set_origin`].
    ///
    /// # Errors
    /// When the operands do not fit the operator; nothing is added then.
    pub fn add_node(
        &mut self,
        op: Arc<dyn Op>,
        ins: &[Option<ValueId>],
        name: &str,
        outs: &[&str],
    ) -> Result<NodeId, GraphError> {
        let error = |what| GraphError { place: format!("{} node \"{name}\"", op.name()), what };
        let types = self.infer_op(&*op, ins, outs.len()).map_err(error)?;
        // A node may bear the name of its result, as exporters do: node names and tensor names are two spaces in
        // ONNX. The clash is only avoided among nodes.
        let outs: SmallVec<[Value; 1]> =
            outs.iter().zip(types).map(|(n, ty)| Value { name: self.fresh(n), ty }).collect();
        let label = self.fresh_label(name);
        let id = self.push(Kind::Op(op), label.clone(), label, outs);
        for (slot, v) in ins.iter().enumerate() {
            if let Some(v) = v {
                self.g.add_edge(v.node.0, id.0, slot as u16);
            }
        }
        self.g[id.0].ins = ins.iter().copied().collect();
        Ok(id)
    }

    /// Puts a copy of what `body` does here: `operands` take the places of its inputs, and its results are returned. Names
    /// begin with `prefix`; `origin` is the node that stood here. Constants and variables are added once for all copies
    /// that share `leaves`.
    ///
    /// # Errors
    /// When there are fewer operands than inputs, or they do not fit: names the node inside.
    pub fn splice(
        &mut self,
        body: &Graph,
        operands: &[ValueId],
        prefix: &str,
        origin: &str,
        leaves: &mut HashMap<ValueId, ValueId>,
    ) -> Result<Vec<ValueId>, GraphError> {
        let inputs = body.inputs.iter().map(|&id| id.into());
        let mut of: HashMap<ValueId, ValueId> = inputs.zip(operands.iter().copied()).collect();
        let missing = |v: ValueId| GraphError {
            place: body.node(v.node).label(),
            what: "is read, but no operand is given for it".into(),
        };
        for id in body.order()? {
            let node = body.node(id);
            let named = |name: &str| format!("{prefix}/{name}");
            match &node.kind {
                Kind::Input => {}
                Kind::Const(t) => {
                    let add = || self.add_const(&named(&node.name), t.clone());
                    of.insert(id.into(), *leaves.entry(id.into()).or_insert_with(add));
                }
                Kind::Variable(t, role) => {
                    let add = || self.add_variable(&named(&node.name), t.clone(), role.clone());
                    of.insert(id.into(), *leaves.entry(id.into()).or_insert_with(add));
                }
                Kind::Op(op) => {
                    let operand = |v: &ValueId| of.get(v).copied().ok_or_else(|| missing(*v));
                    let ins = node.ins.iter().map(|v| v.as_ref().map(operand).transpose());
                    let ins = ins.collect::<Result<Vec<_>, _>>()?;
                    let names: Vec<String> = node.outs.iter().map(|out| named(&out.name)).collect();
                    let names: Vec<&str> = names.iter().map(String::as_str).collect();
                    let copy = self.add_node(op.clone(), &ins, &named(&node.name), &names)?;
                    self.set_origin(copy, origin);
                    for out in 0..node.outs.len() as u16 {
                        of.insert(ValueId { node: id, out }, ValueId { node: copy, out });
                    }
                }
            }
        }
        body.outputs.iter().map(|o| of.get(&o.value).copied().ok_or_else(|| missing(o.value))).collect()
    }

    /// Node names live in `names` behind a mark that no tensor name can begin with.
    fn fresh_label(&mut self, base: &str) -> String {
        self.fresh(&format!("\0{base}"))[1..].to_string()
    }

    fn infer_op(&self, op: &dyn Op, ins: &[Option<ValueId>], outs: usize) -> Result<Vec<Type>, String> {
        if ins.len().max(outs) > MAX_SLOTS {
            return Err(format!(
                "{} operands and {outs} results; a node has at most {MAX_SLOTS} of either",
                ins.len()
            ));
        }
        let args: SmallVec<[Option<Arg>; 4]> =
            ins.iter().map(|v| v.map(|v| Arg { ty: self.ty(v), value: self.constant(v) })).collect();
        let absurd = |ty: &Type| match ty.rank() {
            Some(rank) if rank > Type::MAX_RANK => {
                format!("a tensor of {rank} dimensions has more than {}", Type::MAX_RANK)
            }
            _ => format!("a tensor {ty} has more elements than any memory holds"),
        };
        if let Some(arg) = args.iter().flatten().find(|a| !a.ty.is_countable()) {
            return Err(absurd(arg.ty));
        }
        let types = op.infer(&Infer::new(&args, outs))?;
        if types.len() < outs {
            return Err(format!("the operator has {} results, but {outs} are named", types.len()));
        }
        if let Some(ty) = types.iter().find(|ty| !ty.is_countable()) {
            return Err(absurd(ty));
        }
        Ok(types)
    }

    /// The only result of an operation, where the types of its operands alone determine it ([`Op::known`]).
    pub fn known(&self, id: NodeId) -> Option<Tensor> {
        self.ask(id, |op, cx| op.known(cx))
    }

    /// An operation in a plainer form, where its operands allow it ([`Op::settled`]).
    pub fn settled(&self, id: NodeId) -> Option<Arc<dyn Op>> {
        self.ask(id, |op, cx| op.settled(cx))
    }

    fn ask<T>(&self, id: NodeId, question: impl FnOnce(&dyn Op, &Infer) -> Option<T>) -> Option<T> {
        let node = self.node(id);
        let args: SmallVec<[Option<Arg>; 4]> =
            node.ins.iter().map(|v| v.map(|v| Arg { ty: self.ty(v), value: self.constant(v) })).collect();
        question(node.op()?, &Infer::new(&args, node.outs.len()))
    }

    // ---- editing ----

    /// Declares the graph outputs anew.
    pub fn set_outputs(&mut self, outputs: impl IntoIterator<Item = (String, ValueId)>) {
        self.outputs = outputs.into_iter().map(|(name, value)| Output { name, value }).collect();
    }

    /// Adds a graph output.
    pub fn add_output(&mut self, name: &str, value: ValueId) {
        self.outputs.push(Output { name: name.to_string(), value });
    }

    /// After each run `variable` becomes `next`. Replaces an earlier update of the variable.
    pub fn set_update(&mut self, variable: ValueId, next: ValueId) {
        if let Some(at) = self.updates.iter().position(|u| u.variable == variable.node) {
            let old = self.updates.remove(at);
            self.release(old.next);
        }
        self.updates.push(Update { variable: variable.node, next });
        *self.taken.entry(next).or_default() += 1;
    }

    /// One update takes the value no longer.
    fn release(&mut self, v: ValueId) {
        if let Some(n) = self.taken.get_mut(&v) {
            *n -= 1;
            if *n == 0 {
                self.taken.remove(&v);
            }
        }
    }

    /// Drops all updates: the variables keep their values.
    pub fn clear_updates(&mut self) {
        self.updates.clear();
        self.taken.clear();
    }

    /// Removes a graph input that nobody reads. Returns whether it did.
    pub fn remove_input(&mut self, id: NodeId) -> bool {
        let unused = self.consumers(id.into()).is_empty() && !self.is_output(id.into());
        if unused {
            self.inputs.retain(|&i| i != id);
        }
        unused
    }

    /// Says from which of the user's nodes a node stems.
    pub fn set_origin(&mut self, id: NodeId, origin: &str) {
        self.g[id.0].origin = origin.to_string();
    }

    /// Turns a constant into a variable, a variable into a constant, or gives either a new value of the same type.
    ///
    /// # Errors
    /// When the node is an input or an operation, or the new value is of another type.
    pub fn set_leaf(&mut self, id: NodeId, kind: Kind) -> Result<(), GraphError> {
        let node = &mut self.g[id.0];
        let error = |what| Err(GraphError { place: node.label(), what });
        let (Kind::Const(old) | Kind::Variable(old, _), Kind::Const(new) | Kind::Variable(new, _)) =
            (&node.kind, &kind)
        else {
            return error("only constants and variables hold a value".into());
        };
        if old.dtype() != new.dtype() || old.shape() != new.shape() {
            return error(format!(
                "holds {:?} of {}, not {:?} of {}",
                old.shape(),
                old.dtype(),
                new.shape(),
                new.dtype()
            ));
        }
        node.kind = kind;
        Ok(())
    }

    /// Redirects every use of `old`, graph outputs and updates included, to `new`, except the uses by `new`'s own
    /// producer: so a node can be put behind `old`.
    ///
    /// # Errors
    /// When the two types cannot be the same.
    pub fn replace(&mut self, old: ValueId, new: ValueId) -> Result<(), GraphError> {
        self.replace_if(old, new, |reader, _| reader != new.node)?;
        for o in self.outputs.iter_mut().filter(|o| o.value == old) {
            o.value = new;
        }
        if let Some(n) = self.taken.remove(&old) {
            *self.taken.entry(new).or_default() += n;
            for u in self.updates.iter_mut().filter(|u| u.next == old) {
                u.next = new;
            }
        }
        Ok(())
    }

    /// Puts `results` in the place of those of `node`, which stays, unread, for [`Graph::sweep`]. Results of operations that
    /// were added since [`Graph::now`] said `then` take the names over; other values keep their own.
    ///
    /// # Errors
    /// As [`Graph::replace`].
    pub fn substitute(&mut self, node: NodeId, results: &[ValueId], then: u32) -> Result<(), GraphError> {
        let mut named = HashSet::new();
        for (out, &new) in results.iter().enumerate().take(self.node(node).outs.len()) {
            let old = ValueId { node, out: out as u16 };
            self.replace(old, new)?;
            let made = self.node(new.node);
            if made.seq >= then && made.op().is_some() && named.insert(new) {
                self.swap_names(old, new);
            }
        }
        Ok(())
    }

    /// Redirects the uses of `old` by those operand slots that `which` accepts.
    ///
    /// # Errors
    /// When the two types cannot be the same.
    pub fn replace_if(
        &mut self,
        old: ValueId,
        new: ValueId,
        which: impl Fn(NodeId, usize) -> bool,
    ) -> Result<(), GraphError> {
        let (a, b) = (self.ty(old), self.ty(new));
        if !a.agrees(b) {
            let what =
                format!("its result {a} cannot be replaced by \"{}\", which is {b}", self.value(new).name);
            return Err(GraphError { place: self.node(old.node).label(), what });
        }
        for (reader, slot) in self.consumers(old) {
            if which(reader, slot) {
                self.set_input(reader, slot, Some(new));
            }
        }
        Ok(())
    }

    /// Gives an operation another operator and operands; it keeps its place in the order, its names and its number of results.
    ///
    /// # Errors
    /// When the node is no operation, or the operands do not fit; nothing is changed then.
    pub fn set_op(
        &mut self,
        node: NodeId,
        op: Arc<dyn Op>,
        ins: &[Option<ValueId>],
    ) -> Result<(), GraphError> {
        let error = |what| GraphError { place: self.node(node).label(), what };
        if self.node(node).op().is_none() {
            return Err(error(format!("is no operation that could become {}", op.name())));
        }
        let types = self.infer_op(&*op, ins, self.node(node).outs.len()).map_err(error)?;
        for slot in 0..self.node(node).ins.len().max(ins.len()) {
            self.set_input(node, slot, ins.get(slot).copied().flatten());
        }
        let node = &mut self.g[node.0];
        node.ins.truncate(ins.len());
        node.kind = Kind::Op(op);
        node.outs.iter_mut().zip(types).for_each(|(out, ty)| out.ty = ty);
        Ok(())
    }

    /// Forgets the results of a node from `len` on, which nobody may read: optional ones that are no longer asked for.
    pub fn truncate_results(&mut self, node: NodeId, len: usize) {
        let read = |out: usize| {
            let v = ValueId { node, out: out as u16 };
            self.is_output(v) || !self.consumers(v).is_empty()
        };
        let len = (0..self.node(node).outs.len()).rposition(read).map_or(0, |last| last + 1).max(len);
        while self.node(node).outs.len() > len.max(1) {
            if let Some(out) = self.g[node.0].outs.pop() {
                self.forget(&out.name);
            }
        }
    }

    /// Points one operand slot elsewhere. Omitted operands at the end are none.
    pub fn set_input(&mut self, node: NodeId, slot: usize, value: Option<ValueId>) {
        let edge = self.g.edges_directed(node.0, Direction::Incoming).find(|e| *e.weight() as usize == slot);
        if let Some(edge) = edge.map(|e| e.id()) {
            self.g.remove_edge(edge);
        }
        let ins = &mut self.g[node.0].ins;
        if ins.len() <= slot {
            ins.resize(slot + 1, None);
        }
        ins[slot] = value;
        while let Some(None) = ins.last() {
            ins.pop();
        }
        if let Some(v) = value {
            self.g.add_edge(v.node.0, node.0, slot as u16);
        }
    }

    /// Exchanges the names of two values: what replaces a named tensor takes its name over. An input, constant or
    /// variable bears the name of its value, so it is renamed too.
    pub fn swap_names(&mut self, a: ValueId, b: ValueId) {
        let name = |g: &Graph, v: ValueId| g.value(v).name.clone();
        for (v, name) in [(a, name(self, b)), (b, name(self, a))] {
            self.names.insert(name.clone(), Named::Value(v));
            let node = &mut self.g[v.node.0];
            if !matches!(node.kind, Kind::Op(_)) {
                node.name = name.clone();
            }
            node.outs[v.out as usize].name = name;
        }
    }

    /// Gives a value another name: `base`, made unique.
    pub fn rename(&mut self, v: ValueId, base: &str) {
        let old = self.value(v).name.clone();
        self.forget(&old);
        let name = self.fresh(base);
        self.names.insert(name.clone(), Named::Value(v));
        let node = &mut self.g[v.node.0];
        if !matches!(node.kind, Kind::Op(_)) {
            node.name = name.clone();
        }
        node.outs[v.out as usize].name = name;
    }

    /// Exchanges the names of two operations: a node that takes another's place takes its name over.
    pub fn swap_labels(&mut self, a: NodeId, b: NodeId) {
        if self.node(a).op().is_some() && self.node(b).op().is_some() {
            let (x, y) = (self.node(a).name.clone(), self.node(b).name.clone());
            self.names.insert(format!("\0{y}"), Named::Node(a));
            self.names.insert(format!("\0{x}"), Named::Node(b));
            self.g[a.0].name = y;
            self.g[b.0].name = x;
        }
    }

    /// Adds what is known from elsewhere (a declared shape) to a value's type, unless both together are a shape that no
    /// tensor can have.
    ///
    /// # Errors
    /// When it contradicts what is known already.
    pub fn refine(&mut self, v: ValueId, ty: &Type) -> Result<(), GraphError> {
        let known = self.ty(v);
        if !known.agrees(ty) {
            let what = format!("\"{}\" is declared as {ty}, but is {known}", self.value(v).name);
            return Err(GraphError { place: self.node(v.node).label(), what });
        }
        let refined = known.refined(ty);
        if refined.is_countable() {
            self.g[v.node.0].outs[v.out as usize].ty = refined;
        }
        Ok(())
    }

    /// Gives a graph input a type; [`Graph::infer`] carries it on.
    pub fn set_input_type(&mut self, id: NodeId, ty: Type) {
        self.g[id.0].outs[0].ty = ty;
    }

    /// Infers all types anew from those of the inputs, constants and variables.
    ///
    /// # Errors
    /// When operands do not fit their operator.
    pub fn infer(&mut self) -> Result<(), GraphError> {
        for id in self.order()? {
            let node = self.node(id);
            let Some(op) = node.op() else { continue };
            let types = self
                .infer_op(op, &node.ins, node.outs.len())
                .map_err(|what| GraphError { place: node.label(), what })?;
            for (value, ty) in self.g[id.0].outs.iter_mut().zip(types) {
                // What was declared stays where inference knows nothing (an operator that we do not understand).
                value.ty = if ty == Type::unknown() { value.ty.clone() } else { ty };
            }
        }
        Ok(())
    }

    /// Fixes named dimensions of the inputs (batch `N` = 8), unnamed ones through `unknown`, and infers again.
    ///
    /// # Errors
    /// As [`Graph::infer`].
    pub fn bind(&mut self, size: impl Fn(&Type, usize) -> Option<usize>) -> Result<(), GraphError> {
        for id in self.inputs.clone() {
            let mut ty = self.node(id).outs[0].ty.clone();
            let before = ty.clone();
            for (axis, d) in ty.shape.iter_mut().flatten().enumerate() {
                if d.fixed().is_none()
                    && let Some(n) = size(&before, axis)
                {
                    *d = crate::Dim::Fixed(n);
                }
            }
            self.set_input_type(id, ty);
        }
        // Types of opaque results were declared for the symbolic sizes.
        self.infer()
    }

    /// Removes every operation, constant and variable from which no output and no update can be reached.
    /// Inputs stay: they are the signature. Ids of removed nodes are invalid afterwards.
    pub fn sweep(&mut self) {
        let mut live = vec![false; self.g.node_bound()];
        let mut todo: Vec<NodeIndex> = self.outputs.iter().map(|o| o.value.node.0).collect();
        todo.extend(self.inputs.iter().map(|i| i.0));
        todo.extend(self.updates.iter().flat_map(|u| [u.variable.0, u.next.node.0]));
        while let Some(i) = todo.pop() {
            if !std::mem::replace(&mut live[i.index()], true) {
                todo.extend(self.g[i].ins.iter().flatten().map(|v| v.node.0));
            }
        }
        let dead: Vec<NodeIndex> = self.g.node_indices().filter(|i| !live[i.index()]).collect();
        for i in dead {
            if let Some(node) = self.g.remove_node(i) {
                self.births.remove(&node.seq);
                for out in &node.outs {
                    self.forget(&out.name);
                }
                if matches!(node.kind, Kind::Op(_)) {
                    self.forget(&format!("\0{}", node.name));
                }
            }
        }
    }

    // ---- checking ----

    /// The verifier. Checks that
    /// operands name existing results, edges mirror operands, there is no cycle, names of values and of nodes are
    /// unique, types are what inference says, outputs and updates exist, and an update has the type of its variable.
    ///
    /// # Errors
    /// The first violation.
    pub fn check(&self) -> Result<(), GraphError> {
        let mut names: HashSet<&str> = HashSet::new();
        let mut labels: HashSet<&str> = HashSet::new();
        for id in self.nodes() {
            let node = self.node(id);
            let error = |what: String| Err(GraphError { place: node.label(), what });
            for (slot, v) in node.ins.iter().enumerate() {
                let edges = self
                    .g
                    .edges_directed(id.0, Direction::Incoming)
                    .filter(|e| *e.weight() as usize == slot)
                    .map(|e| e.source())
                    .collect::<Vec<_>>();
                match v {
                    Some(v)
                        if self.g.node_weight(v.node.0).is_none_or(|n| n.outs.len() <= v.out as usize) =>
                    {
                        return error(format!("operand {slot} names a result that does not exist"));
                    }
                    _ if edges != v.iter().map(|v| v.node.0).collect::<Vec<_>>() => {
                        return error(format!("the edges do not mirror operand {slot}"));
                    }
                    _ => {}
                }
            }
            for out in &node.outs {
                if !names.insert(&out.name) {
                    return error(format!("another value is named \"{}\" too", out.name));
                }
            }
            if let Some(op) = node.op() {
                if !labels.insert(&node.name) {
                    return error("another node has the same name".into());
                }
                let types = match self.infer_op(op, &node.ins, node.outs.len()) {
                    Ok(types) => types,
                    Err(what) => return error(what),
                };
                for (out, ty) in node.outs.iter().zip(types) {
                    if !out.ty.agrees(&ty) {
                        return error(format!(
                            "\"{}\" is recorded as {}, but inference says {ty}",
                            out.name, out.ty
                        ));
                    }
                }
            }
        }
        for value in self.outputs.iter().map(|o| o.value).chain(self.updates.iter().map(|u| u.next)) {
            if self.g.node_weight(value.node.0).is_none_or(|n| n.outs.len() <= value.out as usize) {
                return Err(GraphError {
                    place: "outputs".into(),
                    what: "an output or update does not exist".into(),
                });
            }
        }
        for u in &self.updates {
            let node = self.node(u.variable);
            let fits = matches!(node.kind, Kind::Variable(..)) && node.outs[0].ty.agrees(self.ty(u.next));
            if !fits {
                let what = format!("cannot become \"{}\" ({})", self.value(u.next).name, self.ty(u.next));
                return Err(GraphError { place: node.label(), what });
            }
        }
        self.order().map(|_| ())
    }
}
