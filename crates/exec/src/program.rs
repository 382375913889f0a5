//! From graph to flat program: layouts, kernels, buffers.

use crate::layout::{Seen, choose, neutral};
use crate::memory::{Buffer, Lifetime, share};
use crate::tail::Tail;
use ir::{
    Graph, GraphError, Kind, Layout, Lower, Node, NodeId, Opaque, Operand, Output, Step, Type, Update,
    ValueId,
};
use kernels::relayout;
use smallvec::SmallVec;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write;
use tensor::{DType, Tensor};

/// Why a graph cannot be compiled or a program cannot run.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error(transparent)]
    Graph(#[from] GraphError),
    #[error("{node}: {what}")]
    Node { node: String, what: String },
    #[error("\"{name}\" has the type {ty}; the executor needs every size: fix the sizes of the inputs first")]
    Unbound { name: String, ty: Type },
    #[error("the program has no {kind} named \"{name}\"; it has: {known}")]
    NoSuchName { kind: &'static str, name: String, known: String },
    #[error("\"{name}\" takes {expected}, but {found} was given")]
    Mismatch { name: String, expected: String, found: String },
    #[error(
        "the buffers of the program take {bytes} bytes, more than this machine gives at once; use a smaller batch or smaller inputs"
    )]
    Memory { bytes: usize },
}

/// Where a value lies: which buffer, and how much of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub buffer: usize,
    pub bytes: usize,
}

/// A step with its operands and results bound to memory.
pub(crate) struct Instr {
    pub step: Step,
    /// Operator and node, for messages and profiles.
    pub label: String,
    pub op: String,
    pub flops: u64,
    pub ins: Vec<Option<Place>>,
    pub outs: Vec<Place>,
    /// Which result took the buffer of operand `i`.
    pub shared: SmallVec<[Option<usize>; 8]>,
}

/// A named tensor at the border of a program.
#[derive(Clone, Debug)]
pub(crate) struct Port {
    pub name: String,
    pub dtype: DType,
    pub shape: Vec<usize>,
    pub place: Place,
}

/// A graph compiled for its shapes. Shared freely between threads; the memory is in a [`Machine`](crate::Machine).
pub struct Program {
    pub(crate) instrs: Vec<Instr>,
    pub(crate) inputs: Vec<Port>,
    pub(crate) outputs: Vec<Port>,
    /// Outputs that cannot be computed, and why.
    pub(crate) missing: Vec<(String, Error)>,
    pub(crate) variables: Vec<Port>,
    /// What runs behind the steps, bound to its shapes as it runs.
    pub(crate) tail: Tail,
    /// Copies after the run: from a result to the variable that it updates.
    pub(crate) copies: Vec<(Place, Place)>,
    /// Initial contents of the buffers; `None` is scratch of that size.
    pub(crate) buffers: Vec<(usize, Option<Tensor>)>,
    pub(crate) workspace: usize,
}

/// A tensor in one layout, before buffers are shared.
struct Virtual {
    bytes: usize,
    /// Inputs, constants and variables keep a buffer of their own.
    pinned: bool,
    initial: Option<Tensor>,
    /// Follows views and in-place results to the tensor whose memory this one is.
    parent: Option<usize>,
}

/// An instruction over virtual tensors.
struct Draft {
    step: Step,
    label: String,
    op: String,
    flops: u64,
    ins: Vec<Option<usize>>,
    outs: Vec<usize>,
}

/// One value: a tensor for each layout in which it is wanted.
#[derive(Default, Clone)]
struct Copies {
    plain: Option<usize>,
    channels_last: Option<usize>,
    made: Layout,
}

struct Compiler<'g> {
    graph: &'g Graph,
    tensors: Vec<Virtual>,
    drafts: Vec<Draft>,
    values: HashMap<ValueId, Copies>,
}

impl Program {
    /// Compiles what the outputs and updates of `graph` need. All sizes of the inputs must be known (see
    /// [`Graph::bind`]). What cannot be bound to its shapes before it runs, because they depend on data, or because an
    /// operand that should be a constant is computed, runs operation by operation behind the rest. Outputs behind an operator
    /// that is not known are left out: [`Machine::output`](crate::Machine::output) says why.
    /// Operations that are composed of others run as these.
    ///
    /// # Errors
    /// When a size of an input is open, an update or every output needs an operator that is not known, or the memory is not
    /// there: names it.
    pub fn compile(graph: &Graph) -> Result<Program, Error> {
        let mut graph = graph.clone();
        ir::spell_out(&mut graph, |_| true)?;
        let graph = &graph;
        let live = live(graph);
        let order: Vec<NodeId> = graph.order()?.into_iter().filter(|id| live.contains(id)).collect();
        let mut c = Compiler { graph, tensors: Vec::new(), drafts: Vec::new(), values: HashMap::new() };
        let mut late = Vec::new();
        let mut refused: HashMap<NodeId, Error> = HashMap::new();
        for &id in &order {
            let node = graph.node(id);
            let behind = node.ins.iter().flatten().find_map(|v| refused.get(&v.node)).cloned();
            if let Some(error) = behind.or_else(|| unknown(node)) {
                refused.insert(id, error);
            } else if !c.node(id)? {
                late.push(id);
            }
        }
        if let Some(error) = graph.updates().iter().find_map(|u| refused.get(&u.next.node)) {
            return Err(error.clone());
        }
        c.finish(&late, refused, &live)
    }

    /// The program as text: one line per step with its buffers.
    pub fn text(&self) -> String {
        let mut s = String::new();
        let place = |p: &Place| format!("b{}:{}", p.buffer, p.bytes);
        for i in &self.instrs {
            let outs: Vec<String> = i.outs.iter().map(place).collect();
            let ins: Vec<String> = i.ins.iter().map(|p| p.as_ref().map_or("_".into(), place)).collect();
            let how = if i.step.view { "view " } else { "" };
            let _ = writeln!(s, "{} = {how}{} ({})", outs.join(", "), i.label, ins.join(", "));
        }
        for (_, label) in self.tail.labels() {
            let _ = writeln!(s, "late {label}");
        }
        let _ = writeln!(
            s,
            "# {} buffers, {} bytes, workspace {}",
            self.buffers.len(),
            self.bytes(),
            self.workspace
        );
        s
    }

    /// How many operations are bound to their shapes as they run.
    pub fn late(&self) -> usize {
        self.tail.labels().count()
    }

    /// Bytes of all buffers and of the workspace.
    pub fn bytes(&self) -> usize {
        self.buffers.iter().map(|b| b.0).fold(self.workspace, usize::saturating_add)
    }
}

/// Nodes that the outputs and updates need.
fn live(graph: &Graph) -> HashSet<NodeId> {
    let mut live = HashSet::new();
    let mut todo: Vec<NodeId> = graph.outputs().iter().map(|o| o.value.node).collect();
    todo.extend(graph.updates().iter().flat_map(|u| [u.variable, u.next.node]));
    while let Some(id) = todo.pop() {
        if live.insert(id) {
            todo.extend(graph.node(id).ins.iter().flatten().map(|v| v.node));
        }
    }
    live
}

/// Why a node cannot be run at all.
fn unknown(node: &Node) -> Option<Error> {
    let op = node.is::<Opaque>()?;
    let domain = if op.domain.is_empty() { "ai.onnx" } else { &op.domain };
    let what = format!(
        "the operator {} of the domain {domain} is not known here, so that it can be neither run nor trained; a \
         model that is only to be stored smaller needs no data: leave out --train and --eval",
        op.op_type
    );
    Some(Error::Node { node: node.label(), what })
}

impl Compiler<'_> {
    fn new_tensor(&mut self, bytes: usize, pinned: bool, initial: Option<Tensor>) -> usize {
        self.tensors.push(Virtual { bytes, pinned, initial, parent: None });
        self.tensors.len() - 1
    }

    fn operand(&self, v: ValueId, layout: Layout) -> Result<Operand, Error> {
        let value = self.graph.value(v);
        let (Some(dtype), Some(shape)) = (value.ty.dtype, value.ty.dims()) else {
            return Err(Error::Unbound { name: value.name.clone(), ty: value.ty.clone() });
        };
        let constant = self.graph.constant(v).filter(|_| layout == Layout::Plain).cloned();
        Ok(Operand { dtype, shape, layout, value: constant })
    }

    /// Whether the node could be bound to its shapes.
    fn node(&mut self, id: NodeId) -> Result<bool, Error> {
        let node = self.graph.node(id);
        match &node.kind {
            Kind::Op(op) => self.op(id, &**op),
            Kind::Input | Kind::Const(_) | Kind::Variable(..) => {
                let o = self.operand(id.into(), Layout::Plain)?;
                let initial = self.graph.tensor(id.into()).cloned();
                let t = self.new_tensor(o.dtype.bytes(o.len()), true, initial);
                self.values.insert(id.into(), Copies { plain: Some(t), ..Copies::default() });
                Ok(true)
            }
        }
    }

    fn op(&mut self, id: NodeId, op: &dyn ir::Op) -> Result<bool, Error> {
        let node = self.graph.node(id);
        let results: Vec<ValueId> =
            (0..node.outs.len()).map(|i| ValueId { node: id, out: i as u16 }).collect();
        let made = |v: &ValueId| self.values.contains_key(v);
        let sized = |v: &ValueId| self.graph.ty(*v).dtype.is_some() && self.graph.ty(*v).dims().is_some();
        if !node.ins.iter().flatten().all(made) || !results.iter().all(sized) {
            return Ok(false);
        }
        let mut ins = node
            .ins
            .iter()
            .map(|v| v.map(|v| self.operand(v, Layout::Plain)).transpose())
            .collect::<Result<Vec<_>, _>>()?;
        let mut outs =
            results.iter().map(|&v| self.operand(v, Layout::Plain)).collect::<Result<Vec<_>, _>>()?;

        let seen_ins: Vec<Option<Seen>> = node
            .ins
            .iter()
            .zip(&ins)
            .map(|(v, o)| {
                o.as_ref().map(|o| Seen { shape: &o.shape, layout: v.map(|v| self.values[&v].made) })
            })
            .collect();
        let seen_outs: Vec<Seen> = outs.iter().map(|o| Seen { shape: &o.shape, layout: None }).collect();
        let (in_layouts, out_layouts) = choose(op.layouts(), &seen_ins, &seen_outs);
        for (o, &l) in ins.iter_mut().zip(&in_layouts) {
            if let Some(o) = o {
                o.layout = l;
                o.value = o.value.take().filter(|_| l == Layout::Plain || neutral(&o.shape));
            }
        }
        for (o, &l) in outs.iter_mut().zip(&out_layouts) {
            o.layout = l;
        }

        let lower = Lower { ins, outs };
        // Kernels have tables of their operands' and results' sizes.
        let bytes = lower.ins.iter().flatten().chain(&lower.outs).map(|o| o.dtype.bytes(o.len())).sum();
        tensor::check_room(bytes).map_err(|_| Error::Memory { bytes })?;
        let Ok(step) = ir::lower(op, &lower) else { return Ok(false) };
        let mut operands = Vec::with_capacity(node.ins.len());
        for (v, &l) in node.ins.iter().zip(&in_layouts) {
            operands.push(v.map(|v| self.tensor(v, l)).transpose()?);
        }
        let mut made = Vec::with_capacity(results.len());
        for (i, (&v, o)) in results.iter().zip(&lower.outs).enumerate() {
            let t = self.new_tensor(o.dtype.bytes(o.len()), false, None);
            if step.view && i == 0 {
                self.tensors[t].parent = operands.first().copied().flatten();
            }
            let mut copies = Copies { made: o.layout, ..Copies::default() };
            match o.layout {
                Layout::Plain => copies.plain = Some(t),
                Layout::ChannelsLast => copies.channels_last = Some(t),
            }
            self.values.insert(v, copies);
            made.push(t);
        }
        self.drafts.push(Draft {
            step,
            label: node.label(),
            op: op.name().to_string(),
            flops: op.flops(&lower).unwrap_or(0),
            ins: operands,
            outs: made,
        });
        Ok(true)
    }

    /// The tensor that holds `v` in `layout`; converts it where it is not there yet.
    fn tensor(&mut self, v: ValueId, layout: Layout) -> Result<usize, Error> {
        let copies = self.values[&v].clone();
        let (wanted, other) = match layout {
            Layout::Plain => (copies.plain, copies.channels_last),
            Layout::ChannelsLast => (copies.channels_last, copies.plain),
        };
        if let Some(t) = wanted {
            return Ok(t);
        }
        let o = self.operand(v, copies.made)?;
        let Some(source) = other else {
            return Err(Error::Node {
                node: self.graph.node(v.node).label(),
                what: "its result was not made".into(),
            });
        };
        let t = if neutral(&o.shape) {
            source
        } else {
            let t = self.new_tensor(self.tensors[source].bytes, false, None);
            let label = format!("Relayout of \"{}\"", self.graph.value(v).name);
            let step = convert(&o, layout);
            let op = "Relayout".to_string();
            let draft = Draft { step, label, op, flops: 0, ins: vec![Some(source)], outs: vec![t] };
            self.drafts.push(draft);
            t
        };
        if let Some(copies) = self.values.get_mut(&v) {
            match layout {
                Layout::Plain => copies.plain = Some(t),
                Layout::ChannelsLast => copies.channels_last = Some(t),
            }
        }
        Ok(t)
    }

    fn root(&self, mut t: usize) -> usize {
        while let Some(p) = self.tensors[t].parent {
            t = p;
        }
        t
    }

    /// Shares memory and binds the drafts to it, and the `late` nodes behind them. The `refused` ones do not run.
    fn finish(
        mut self,
        late: &[NodeId],
        refused: HashMap<NodeId, Error>,
        live: &HashSet<NodeId>,
    ) -> Result<Program, Error> {
        let graph = self.graph;
        let why = |o: &Output| Some((o.name.clone(), refused.get(&o.value.node)?.clone()));
        let missing: Vec<(String, Error)> = graph.outputs().iter().filter_map(why).collect();
        let nothing = graph.updates().is_empty() && missing.len() == graph.outputs().len();
        if let (true, Some((_, error))) = (nothing, missing.first()) {
            return Err(error.clone());
        }
        // What must survive the steps: the graph outputs, what the tail reads, and what variables become.
        let behind: HashSet<NodeId> = late.iter().copied().collect();
        let early = |v: ValueId| !behind.contains(&v.node) && !refused.contains_key(&v.node);
        let outputs: Vec<&Output> = graph.outputs().iter().filter(|o| early(o.value)).collect();
        let reads = Tail::borders(graph, late);
        let updates: Vec<&Update> = graph.updates().iter().filter(|u| early(u.next)).collect();
        let mut kept = Vec::new();
        for v in outputs.iter().map(|o| o.value).chain(reads.iter().copied()) {
            kept.push(self.tensor(v, Layout::Plain)?);
        }
        let nexts =
            updates.iter().map(|u| self.tensor(u.next, Layout::Plain)).collect::<Result<Vec<_>, _>>()?;
        let leaf = |c: &Compiler, id: NodeId| c.values[&id.into()].plain.unwrap_or_default();

        // Last reader of each piece of memory; what survives the run is read after the last step.
        let end = self.drafts.len();
        let mut last: BTreeMap<usize, usize> = BTreeMap::new();
        for (step, d) in self.drafts.iter().enumerate() {
            for t in d.ins.iter().flatten().chain(&d.outs) {
                last.insert(self.root(*t), step);
            }
        }
        for &t in kept.iter().chain(&nexts) {
            last.insert(self.root(t), end);
        }

        // A variable's next value may be written over the variable once nobody reads the old one.
        let mut next_of: BTreeMap<usize, usize> = BTreeMap::new();
        for (u, &next) in updates.iter().zip(&nexts) {
            let (variable, next) = (leaf(&self, u.variable), self.root(next));
            let is_kept = kept.iter().any(|&t| self.root(t) == variable);
            if !is_kept && !self.tensors[next].pinned {
                next_of.entry(next).or_insert(variable);
            }
        }

        let mut shared: Vec<SmallVec<[Option<usize>; 8]>> = Vec::with_capacity(end);
        for step in 0..end {
            let d = &self.drafts[step];
            let mut takes: SmallVec<[Option<usize>; 8]> = d.ins.iter().map(|_| None).collect();
            let mut unions = Vec::new();
            for &(i, o) in &d.step.in_place {
                let (Some(Some(operand)), Some(&result)) = (d.ins.get(i), d.outs.get(o)) else { continue };
                let (from, to) = (self.root(*operand), self.root(result));
                let alone = d.ins.iter().flatten().filter(|&&t| self.root(t) == from).count() == 1;
                let free = last.get(&from) == Some(&step)
                    && (!self.tensors[from].pinned || next_of.get(&to) == Some(&from));
                let fresh =
                    !takes.contains(&Some(o)) && to == result && !unions.iter().any(|&(f, _)| f == from);
                if alone && free && fresh && self.tensors[from].bytes == self.tensors[to].bytes {
                    takes[i] = Some(o);
                    unions.push((from, to));
                }
            }
            for (from, to) in unions {
                self.tensors[to].parent = Some(from);
                let until = last.remove(&to).unwrap_or(step);
                last.insert(from, until);
            }
            shared.push(takes);
        }

        // Slots for the rest.
        let mut first: BTreeMap<usize, usize> = BTreeMap::new();
        for (step, d) in self.drafts.iter().enumerate() {
            for &t in &d.outs {
                let root = self.root(t);
                if !self.tensors[root].pinned {
                    first.entry(root).or_insert(step);
                }
            }
        }
        let roots: Vec<usize> = first.keys().copied().collect();
        let lifetimes: Vec<Lifetime> = roots
            .iter()
            .map(|r| Lifetime {
                bytes: self.tensors[*r].bytes,
                first: first[r],
                last: last.get(r).copied().unwrap_or(first[r]),
            })
            .collect();
        let (slot_of, slot_bytes) = share(&lifetimes);

        let mut buffers: Vec<(usize, Option<Tensor>)> = slot_bytes.into_iter().map(|b| (b, None)).collect();
        let mut buffer_of: HashMap<usize, usize> = roots.into_iter().zip(slot_of).collect();
        for (t, v) in self.tensors.iter_mut().enumerate() {
            if v.pinned {
                buffer_of.insert(t, buffers.len());
                buffers.push((v.bytes, v.initial.take()));
            }
        }
        let place = |t: usize| {
            let buffer = buffer_of.get(&self.root(t)).copied().unwrap_or_default();
            Place { buffer, bytes: self.tensors[t].bytes }
        };
        let port = |name: &str, v: ValueId, t: usize| -> Result<Port, Error> {
            let o = self.operand(v, Layout::Plain)?;
            Ok(Port { name: name.to_string(), dtype: o.dtype, shape: o.shape, place: place(t) })
        };

        let mut inputs = Vec::new();
        for &id in graph.inputs().iter().filter(|id| live.contains(id)) {
            inputs.push(port(&graph.node(id).name, id.into(), leaf(&self, id))?);
        }
        let mut variables = Vec::new();
        let mut constants: HashSet<usize> = HashSet::new();
        for id in graph.nodes().into_iter().filter(|id| live.contains(id)) {
            match graph.node(id).kind {
                Kind::Variable(..) => variables.push(port(&graph.node(id).name, id.into(), leaf(&self, id))?),
                Kind::Const(_) => {
                    constants.insert(place(leaf(&self, id)).buffer);
                }
                _ => {}
            }
        }
        let (of_outputs, of_reads) = kept.split_at(outputs.len());
        let outputs = outputs
            .iter()
            .zip(of_outputs)
            .map(|(o, &t)| port(&o.name, o.value, t))
            .collect::<Result<_, _>>()?;
        let read = |(&v, &t): (&ValueId, &usize)| port(&graph.value(v).name, v, t);
        let ports = reads.iter().zip(of_reads).map(read).collect::<Result<_, _>>()?;
        let tail = Tail::new(graph, late, &reads, ports);
        let copies = updates
            .iter()
            .zip(&nexts)
            .map(|(u, &next)| (place(next), place(leaf(&self, u.variable))))
            .filter(|(from, to)| from.buffer != to.buffer)
            .collect();
        let workspace = self.drafts.iter().map(|d| d.step.workspace).max().unwrap_or(0);
        let bound: Vec<(Vec<Option<Place>>, Vec<Place>)> = self
            .drafts
            .iter()
            .map(|d| {
                (d.ins.iter().map(|t| t.map(place)).collect(), d.outs.iter().map(|&t| place(t)).collect())
            })
            .collect();
        let instrs = self
            .drafts
            .into_iter()
            .zip(bound)
            .zip(shared)
            .map(|((d, (ins, outs)), shared)| Instr {
                step: d.step,
                label: d.label,
                op: d.op,
                flops: d.flops,
                ins,
                outs,
                shared,
            })
            .collect();
        let program =
            Program { instrs, inputs, outputs, missing, variables, tail, copies, buffers, workspace };
        let bytes = program.bytes();
        tensor::check_room(bytes).map_err(|_| Error::Memory { bytes })?;
        Ok(program)
    }
}

/// Copies a tensor into the other layout.
fn convert(from: &Operand, to: Layout) -> Step {
    let batch = from.shape[0];
    let channels = from.shape[1];
    let spatial: usize = from.shape[2..].iter().product();
    let bits = from.dtype.bits();
    Step::new(move |io| {
        let mut parts = io.split();
        macro_rules! copy {
            ($t:ty) => {{
                let (x, y) = (parts.input::<$t>(0), parts.output::<$t>(0));
                match to {
                    Layout::ChannelsLast => relayout::to_channels_last(x, batch, channels, spatial, y),
                    Layout::Plain => relayout::from_channels_last(x, batch, channels, spatial, y),
                }
            }};
        }
        match bits {
            8 => copy!(u8),
            16 => copy!(u16),
            32 => copy!(u32),
            64 => copy!(u64),
            _ => return Err("a packed type has no channels-last form".into()),
        }
        Ok(())
    })
}

/// Memory for the buffers of a program.
pub(crate) fn allocate(program: &Program) -> Vec<Buffer> {
    // Variables are written, so only what no instruction and no copy writes may be shared with the file.
    let written: HashSet<usize> = program
        .variables
        .iter()
        .map(|v| v.place.buffer)
        .chain(program.instrs.iter().flat_map(|i| i.outs.iter().map(|p| p.buffer)))
        .collect();
    program
        .buffers
        .iter()
        .enumerate()
        .map(|(i, (bytes, initial))| match initial {
            Some(t) if !written.contains(&i) => Buffer::constant(t),
            Some(t) => {
                let mut b = Buffer::new(*bytes);
                b.bytes_mut()[..*bytes].copy_from_slice(t.bytes());
                b
            }
            None => Buffer::new(*bytes),
        })
        .collect()
}
