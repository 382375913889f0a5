//! A model as a graph.

use crate::functions::{self, Functions};
use crate::limits::{self, Budget};
use crate::meta::NEWEST_OPSET;
use crate::proto::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    ValueInfoProto, attribute_proto,
};
use crate::{Meta, ModelError, attributes, subgraph, tensors, types};
use ir::{Attr, Attrs, Graph, Opaque, Parse, Registry, Subgraph, Type, ValueId};
use prost::Message;
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use tensor::Tensor;

/// Opsets that are read. Those behind 22 added operators and element types, and changed no node of before.
const OPSETS: std::ops::RangeInclusive<i64> = 7..=NEWEST_OPSET;
/// The newest version of the format that the schema covers.
const IR_VERSION: i64 = 14;

/// Turns a model into a graph and what the file says beside it. Operators that `registry` does not know are kept as
/// [`Opaque`]; calls of the model's own functions are replaced by what the functions do; weights become constants,
/// wherever the file has them: initializers, initializers that are listed as inputs, or `Constant` nodes. Names are kept;
/// empty and repeated node names are replaced by unique ones. Data of external tensors must have been read
/// ([`crate::read_model`] does).
///
/// # Errors
/// When versions are unsupported, when a tensor is malformed, when a value has no or two definitions, when nodes depend
/// on each other in a circle, when an operator refuses its attributes or operands, and when a name is very long or the
/// functions expand to very much. The error names the node.
pub fn import(mut model: ModelProto, registry: &dyn Registry) -> Result<(Graph, Meta), ModelError> {
    let mut meta = Meta::default();
    let file = model.graph.take().ok_or(ModelError::NoGraph)?;
    ir_version(&model, &mut meta)?;
    meta.opset = opset(&model, &file)?;
    limits::check_names(&file, &model.functions)?;
    let cx = Context { functions: Functions::new(&model.functions), registry, budget: Budget::default() };
    let opsets = Rc::new(Opsets::new(&model.opset_import, None));
    let scope = Scope { declared: declared(&file), opsets, ..Scope::default() };
    let graph =
        Reader { graph: Graph::new(file.name()), meta: &mut meta, cx: &cx, scope }.read(&file, &[])?;
    let called = cx.functions.still_called(&file);
    let mut called = called.into_iter();
    model.functions.retain(|_| called.next().unwrap_or(true));
    keep(&mut meta, model, file);
    Ok((graph, meta))
}

/// `ai.onnx` is another way to write the empty domain.
pub(crate) fn domain(name: &str) -> &str {
    if name == "ai.onnx" { "" } else { name }
}

fn ir_version(model: &ModelProto, meta: &mut Meta) -> Result<(), ModelError> {
    let found = model.ir_version();
    if found < 3 {
        return Err(ModelError::IrVersion { found, why: "files before version 3 do not say their opset" });
    }
    if found > IR_VERSION {
        meta.notes.push(format!(
            "IR version {found} is newer than {IR_VERSION}: what it added to the format is lost"
        ));
    }
    Ok(())
}

/// The version of the ONNX operator set; `None` in a file that uses none of its operators.
fn opset(model: &ModelProto, file: &GraphProto) -> Result<Option<i64>, ModelError> {
    let version = model.opset_import.iter().find(|o| domain(o.domain()).is_empty()).map(|o| o.version());
    match version {
        Some(v) if OPSETS.contains(&v) => Ok(Some(v)),
        Some(found) => {
            let (min, max) = (OPSETS.start(), OPSETS.end());
            let why = if found < *min {
                format!("opsets {min} to {max} are read; export the model again with a newer opset")
            } else {
                format!("opsets {min} to {max} are read; export the model with opset_version={max} or less")
            };
            Err(ModelError::Opset { found, why })
        }
        None if file.node.iter().any(|n| domain(n.domain()).is_empty()) => Err(ModelError::Opset {
            found: 0,
            why: "the model does not say which version its operators have; perhaps the file is cut off"
                .into(),
        }),
        None => Ok(None),
    }
}

/// Types that the file declares, by name.
fn declared(file: &GraphProto) -> HashMap<String, Type> {
    let infos = file.value_info.iter().chain(&file.output);
    infos.map(|v| (v.name().to_string(), types::read(v.r#type.as_ref()))).collect()
}

/// Moves what the graph does not hold into `meta`.
fn keep(meta: &mut Meta, model: ModelProto, mut file: GraphProto) {
    meta.value_info = file.value_info.iter().map(|v| v.name().to_string()).collect();
    let name = |v: ValueInfoProto| (v.name().to_string(), v);
    let lists = [&mut file.value_info, &mut file.input, &mut file.output];
    meta.values = lists.into_iter().flat_map(std::mem::take).map(name).collect();
    for mut tensor in std::mem::take(&mut file.initializer) {
        if tensor.doc_string.is_some() || !tensor.metadata_props.is_empty() {
            tensor = TensorProto {
                name: tensor.name,
                doc_string: tensor.doc_string,
                metadata_props: tensor.metadata_props,
                ..TensorProto::default()
            };
            meta.tensors.insert(tensor.name().to_string(), tensor);
        }
    }
    file.node.clear();
    file.sparse_initializer.clear();
    meta.model = ModelProto { graph: Some(file), ..model };
}

/// For messages: `Conv node "conv1"`.
fn label(node: &NodeProto) -> String {
    match (node.name(), node.output.iter().find(|o| !o.is_empty())) {
        ("", Some(result)) => format!("{} node of \"{result}\"", node.op_type()),
        (name, _) => format!("{} node \"{name}\"", node.op_type()),
    }
}

/// Where a value comes from.
#[derive(Clone, Copy)]
enum Source {
    Leaf(&'static str),
    Node(usize),
}

/// What is the same in the whole file.
struct Context<'a> {
    functions: Functions<'a>,
    registry: &'a dyn Registry,
    budget: Budget,
}

/// Versions of operator sets: those that the file or a function lists, then those where the function is called.
#[derive(Default)]
struct Opsets {
    own: HashMap<String, i64>,
    outer: Option<Rc<Opsets>>,
}

impl Opsets {
    fn new(list: &[OperatorSetIdProto], outer: Option<Rc<Opsets>>) -> Opsets {
        let own = list.iter().map(|o| (domain(o.domain()).to_string(), o.version())).collect();
        Opsets { own, outer }
    }

    fn version(&self, domain: &str) -> Option<i64> {
        self.own.get(domain).copied().or_else(|| self.outer.as_ref()?.version(domain))
    }
}

/// Where names are looked up: the graph, a sub-graph, or one call of a function.
#[derive(Default)]
struct Scope {
    /// `None` for an operand that a call omits.
    values: HashMap<String, Option<ValueId>>,
    declared: HashMap<String, Type>,
    opsets: Rc<Opsets>,
    /// What stands in front of names in a call, and how its results are called outside.
    prefix: String,
    outer: HashMap<String, String>,
    /// Calls and sub-graphs around this one.
    depth: usize,
    /// Inside of a call: the file holds this once, but it may be read many times.
    repeated: bool,
}

struct Reader<'a> {
    graph: Graph,
    meta: &'a mut Meta,
    cx: &'a Context<'a>,
    scope: Scope,
}

impl Reader<'_> {
    /// `around`: the values of the graph around this one that it may read, each of which becomes an input.
    fn read(mut self, file: &GraphProto, around: &[(&str, Type)]) -> Result<Graph, ModelError> {
        let known = around.iter().map(|&(name, _)| (name, "a value of the graph around"));
        let order = order(&file.node, sources(file)?.into_iter().chain(known))?;
        let constants: HashSet<&str> = initializer_names(file).collect();
        for info in file.input.iter().filter(|info| !constants.contains(info.name())) {
            let value = self.graph.add_input(info.name(), types::read(info.r#type.as_ref()));
            self.define(info.name(), value);
        }
        for (name, ty) in around {
            let value = self.graph.add_input(name, ty.clone());
            self.scope.values.entry(name.to_string()).or_insert(Some(value));
        }
        for tensor in &file.initializer {
            self.initializer(tensor)?;
        }
        for sparse in &file.sparse_initializer {
            let name = sparse.values.as_ref().map_or("", |v| v.name());
            let attribute = AttributeProto {
                name: Some("sparse_value".into()),
                r#type: Some(attribute_proto::AttributeType::SparseTensor as i32),
                sparse_tensor: Some(sparse.clone()),
                ..AttributeProto::default()
            };
            self.opaque_constant(name, &attribute)?;
        }
        for i in order {
            self.node(&file.node[i])?;
        }
        for info in &file.output {
            let reader = || format!("graph output \"{}\"", info.name());
            let value = self.value(info.name(), reader)?;
            let value = value.ok_or_else(|| ModelError::node(reader(), missing(info.name())))?;
            self.graph.add_output(info.name(), value);
        }
        // Names inside of sub-graphs are not values here, but no new value may take them.
        let mut inner = BTreeSet::new();
        file.node.iter().for_each(|node| subgraph::inner_names(&node.attribute, &mut inner));
        for name in inner.iter().filter(|name| !self.scope.values.contains_key(*name)) {
            self.graph.fresh(name);
        }
        Ok(self.graph)
    }

    /// The value of this name, `None` where a call omits it.
    fn value(&self, name: &str, reader: impl Fn() -> String) -> Result<Option<ValueId>, ModelError> {
        let missing = || ModelError::node(reader(), missing(name));
        self.scope.values.get(name).copied().ok_or_else(missing)
    }

    fn define(&mut self, name: &str, value: ValueId) {
        self.scope.values.insert(name.to_string(), Some(value));
    }

    /// The name in the graph of what is called `name` here.
    fn qualified(&self, name: &str) -> String {
        match self.scope.outer.get(name) {
            Some(outer) => outer.clone(),
            None => format!("{}{name}", self.scope.prefix),
        }
    }

    fn constant(&mut self, name: &str, tensor: Tensor) {
        let value = self.graph.add_const(&self.qualified(name), tensor);
        self.define(name, value);
    }

    fn initializer(&mut self, tensor: &TensorProto) -> Result<(), ModelError> {
        if tensors::dtype(tensor).is_some() {
            self.constant(tensor.name(), tensors::to_tensor(tensor)?);
            return Ok(());
        }
        // Strings, complex numbers, 8-bit floats: nothing here computes with them, so they travel encoded.
        let attribute = AttributeProto {
            name: Some("value".into()),
            r#type: Some(attribute_proto::AttributeType::Tensor as i32),
            t: Some(tensor.clone()),
            ..AttributeProto::default()
        };
        self.opaque_constant(tensor.name(), &attribute)
    }

    fn opaque_constant(&mut self, name: &str, attribute: &AttributeProto) -> Result<(), ModelError> {
        let attrs = Attrs::new().with(attribute.name(), attributes::raw(attribute));
        let op = Opaque { domain: String::new(), op_type: "Constant".into(), attrs, captured: 0 };
        let id = self.graph.add_node(Arc::new(op), &[], name, &[name])?;
        self.define(name, id.into());
        Ok(())
    }

    fn node(&mut self, node: &NodeProto) -> Result<(), ModelError> {
        let error = |what: String| ModelError::node(label(node), what);
        let names = trimmed(&node.output);
        let base = [node.name(), names.iter().find(|n| !n.is_empty()).map_or("", |n| n), node.op_type()];
        let base = base.into_iter().find(|n| !n.is_empty()).unwrap_or("node");
        let base = format!("{}{base}", self.scope.prefix);
        limits::check_name(&base)?;
        let unnamed = names.iter().filter(|n| n.is_empty()).count();
        let made = self.scope.prefix.len() * (1 + names.len()) + base.len() * unnamed;
        self.cx.budget.spend(&[], made).map_err(error)?;
        if let Some(function) = self.cx.functions.find(node) {
            return self.call(function, node, &base);
        }
        let mut attrs = attributes::read(&node.attribute).map_err(error)?;
        if let ([name], Some(tensor)) = (names, constant(node, &attrs)) {
            self.constant(name, tensor);
            return Ok(());
        }
        let mut ins = Vec::new();
        for name in trimmed(&node.input) {
            ins.push(if name.is_empty() { None } else { self.value(name, || label(node))? });
        }
        // Operands that a call omits may be the last ones.
        let given = ins.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        ins.truncate(given);
        let captured = subgraph::captured(&node.attribute);
        let mut around = Vec::new();
        for name in &captured {
            let value = self.value(name, || label(node))?;
            around.push(value.ok_or_else(|| error(missing(name)))?);
        }
        self.bodies(node, &mut attrs, &captured, &around);

        let domain = domain(node.domain());
        let opset = self.scope.opsets.version(domain).unwrap_or(1);
        let cx = Parse { attrs: &attrs, opset, ins: given, outs: names.len() };
        let parsed = self.cx.registry.parse(domain, node.op_type(), &cx).transpose().map_err(error)?;
        let op = match parsed.filter(|parsed| parsed.op.is::<Opaque>().is_none()) {
            Some(parsed) => {
                // All are taken before any is put: two may change places.
                let taken: Vec<(usize, Option<ValueId>)> = parsed
                    .moved
                    .iter()
                    .map(|&(from, to)| (to, ins.get_mut(from).and_then(Option::take)))
                    .collect();
                for (to, value) in taken {
                    ins.resize(ins.len().max(to + 1), None);
                    ins[to] = value;
                }
                let first = ins.first().copied().flatten();
                let parsed = parsed.typed(first.and_then(|v| self.graph.ty(v).dtype));
                for (slot, tensor) in parsed.inputs {
                    ins.resize(ins.len().max(slot + 1), None);
                    ins[slot] = Some(self.graph.add_const(&format!("{base}_input{slot}"), tensor));
                }
                parsed.op
            }
            None => Arc::new(Opaque {
                domain: domain.to_string(),
                op_type: node.op_type().to_string(),
                attrs: attributes::read_untouched(&node.attribute).map_err(error)?,
                captured: captured.len(),
            }),
        };
        if op.captured() > 0 {
            ins.extend(around.into_iter().map(Some));
        }
        let placeholder = format!("{base}_unused");
        let outs: Vec<String> = names
            .iter()
            .map(|n| if n.is_empty() { placeholder.clone() } else { self.qualified(n) })
            .collect();
        let outs: Vec<&str> = outs.iter().map(String::as_str).collect();
        let id = self.graph.add_node(op, &ins, &base, &outs)?;
        for (i, name) in names.iter().enumerate() {
            let value = ValueId { node: id, out: i as u16 };
            if name.is_empty() {
                self.meta.omitted.insert(self.graph.value(value).name.clone());
                continue;
            }
            self.define(name, value);
            self.declare(name, value).map_err(error)?;
        }
        self.keep_node(node, &self.graph.node(id).name.clone());
        Ok(())
    }

    /// Adds what the file declares of a value. A declaration that is wrong is told.
    ///
    /// # Errors
    /// When that was told of too many.
    fn declare(&mut self, name: &str, value: ValueId) -> Result<(), String> {
        if let Some(Err(e)) = self.scope.declared.get(name).map(|ty| self.graph.refine(value, ty)) {
            let note = e.to_string();
            self.cx.budget.spend(&[], note.len())?;
            self.meta.notes.push(note);
        }
        Ok(())
    }

    /// Reads the sub-graphs among the attributes. One that cannot be read stays encoded, and is told.
    fn bodies(&mut self, node: &NodeProto, attrs: &mut Attrs, captured: &[&str], around: &[ValueId]) {
        let types = around.iter().map(|&v| self.graph.ty(v).clone());
        let around: Vec<(&str, Type)> = captured.iter().copied().zip(types).collect();
        for (a, file) in node.attribute.iter().filter_map(|a| Some((a, a.g.as_ref()?))) {
            let Some(Attr::Raw(encoded)) = attrs.get(a.name()) else { continue };
            let encoded = encoded.clone();
            let mut meta = Meta::default();
            let scope = Scope {
                declared: declared(file),
                opsets: self.scope.opsets.clone(),
                depth: self.scope.depth + 1,
                repeated: self.scope.repeated,
                ..Scope::default()
            };
            let paid = if scope.repeated { self.cx.budget.spend(&file.node, encoded.len()) } else { Ok(()) };
            let reader = Reader { graph: Graph::new(file.name()), meta: &mut meta, cx: self.cx, scope };
            match paid.and_then(|()| reader.read(file, &around).map_err(|e| e.to_string())) {
                Ok(graph) => {
                    let body = Subgraph { graph: Arc::new(graph), captured: captured.len(), encoded };
                    attrs.set(a.name(), Attr::Graph(body));
                }
                Err(e) => {
                    self.meta.notes.push(format!("{}: its {} cannot be read: {e}", label(node), a.name()))
                }
            }
        }
    }

    /// What a function does, in the place of a call of it, which has the name `base` in the graph.
    fn call(&mut self, function: &FunctionProto, node: &NodeProto, base: &str) -> Result<(), ModelError> {
        let error = |what: String| ModelError::node(label(node), what);
        functions::check_depth(function, self.scope.depth).map_err(error)?;
        let bytes = function.encoded_len() + node.encoded_len();
        self.cx.budget.spend(&function.node, bytes).map_err(error)?;
        if node.input.len() > function.input.len() || node.output.len() > function.output.len() {
            let (ins, outs) = (function.input.len(), function.output.len());
            let (given, asked) = (node.input.len(), node.output.len());
            return Err(error(format!(
                "the function takes {ins} operands and has {outs} results, but is called with {given} for {asked}"
            )));
        }
        let mut inner = Scope {
            opsets: Rc::new(Opsets::new(&function.opset_import, Some(self.scope.opsets.clone()))),
            prefix: format!("{base}/"),
            depth: self.scope.depth + 1,
            repeated: true,
            ..Scope::default()
        };
        for (i, formal) in function.input.iter().enumerate() {
            let value = match node.input.get(i).filter(|name| !name.is_empty()) {
                Some(name) => self.value(name, || label(node))?,
                None => None,
            };
            inner.values.insert(formal.clone(), value);
        }
        let results = || function.output.iter().zip(&node.output).filter(|(_, name)| !name.is_empty());
        inner.outer = results().map(|(formal, name)| (formal.clone(), self.qualified(name))).collect();
        let leaves = function.input.iter().map(|name| (name.as_str(), "an operand of the function"));
        let order = order(&function.node, leaves)?;
        let attributes = functions::bindings(function, node);
        let outside = std::mem::replace(&mut self.scope, inner);
        for i in order {
            let bound = functions::bound(&function.node[i], &attributes, &self.cx.budget).map_err(error)?;
            self.node(&bound)?;
        }
        let inside = std::mem::replace(&mut self.scope, outside);
        for (formal, name) in results() {
            let value = inside.values.get(formal).copied().flatten();
            let value = value
                .ok_or_else(|| error(format!("the function does not define its result \"{formal}\"")))?;
            self.define(name, value);
            self.declare(name, value).map_err(error)?;
        }
        Ok(())
    }

    fn keep_node(&mut self, node: &NodeProto, name: &str) {
        let bare = NodeProto {
            op_type: node.op_type.clone(),
            doc_string: node.doc_string.clone(),
            overload: node.overload.clone(),
            metadata_props: node.metadata_props.clone(),
            device_configurations: node.device_configurations.clone(),
            ..NodeProto::default()
        };
        let plain = NodeProto { op_type: node.op_type.clone(), ..NodeProto::default() };
        if bare != plain {
            self.meta.nodes.insert(name.to_string(), bare);
        }
    }
}

/// The tensor of a `Constant` node, unless it is of a kind that stays encoded.
fn constant(node: &NodeProto, attrs: &Attrs) -> Option<Tensor> {
    if node.op_type() != "Constant" || !domain(node.domain()).is_empty() {
        return None;
    }
    match attrs.iter().next()? {
        ("value", Attr::Tensor(t)) => Some(t.clone()),
        ("value_float", Attr::Float(x)) => Some(Tensor::scalar(*x)),
        ("value_int", Attr::Int(x)) => Some(Tensor::scalar(*x)),
        ("value_floats", Attr::Floats(x)) => Some(Tensor::new(&[x.len()], x.clone())),
        ("value_ints", Attr::Ints(x)) => Some(Tensor::new(&[x.len()], x.clone())),
        _ => None,
    }
}

/// Without the empty names at the end.
fn trimmed(names: &[String]) -> &[String] {
    let len = names.iter().rposition(|n| !n.is_empty()).map_or(0, |i| i + 1);
    &names[..len]
}

fn missing(name: &str) -> String {
    format!("reads \"{name}\", which no node, initializer or graph input defines")
}

fn initializer_names(file: &GraphProto) -> impl Iterator<Item = &str> {
    let sparse = file.sparse_initializer.iter().map(|s| s.values.as_ref().map_or("", |v| v.name()));
    file.initializer.iter().map(|t| t.name()).chain(sparse)
}

/// What a graph has beside the results of its nodes, and of which kind it is.
///
/// # Errors
/// When a name is given twice, or an initializer has none.
fn sources(file: &GraphProto) -> Result<Vec<(&str, &'static str)>, ModelError> {
    let mut names = HashSet::new();
    for name in initializer_names(file) {
        if name.is_empty() {
            return Err(ModelError::tensor("", "an initializer has no name"));
        }
        if !names.insert(name) {
            return Err(ModelError::tensor(name, "it is defined by two initializers"));
        }
    }
    let mut inputs = HashSet::new();
    if let Some(twice) = file.input.iter().find(|info| !inputs.insert(info.name())) {
        return Err(ModelError::tensor(twice.name(), "it is listed twice among the graph inputs"));
    }
    let constants = initializer_names(file).map(|name| (name, "an initializer"));
    Ok(constants.chain(file.input.iter().map(|info| (info.name(), "a graph input"))).collect())
}

/// The nodes, each after those whose results it reads, otherwise in the order of the file. `leaves` are defined elsewhere.
///
/// # Errors
/// When a value is defined twice or not at all, or when there is a cycle.
fn order<'a>(
    nodes: &'a [NodeProto],
    leaves: impl Iterator<Item = (&'a str, &'static str)>,
) -> Result<Vec<usize>, ModelError> {
    let mut sources: HashMap<&str, Source> = HashMap::new();
    for (name, kind) in leaves {
        sources.entry(name).or_insert(Source::Leaf(kind));
    }
    let describe = |source: &Source| match source {
        Source::Leaf(kind) => kind.to_string(),
        Source::Node(i) => format!("the result of {}", label(&nodes[*i])),
    };
    for (i, node) in nodes.iter().enumerate() {
        for name in node.output.iter().filter(|n| !n.is_empty()) {
            if let Some(other) = sources.insert(name, Source::Node(i)) {
                let what = format!("defines \"{name}\", which is already {}", describe(&other));
                return Err(ModelError::node(label(node), what));
            }
        }
    }

    let mut reads: Vec<Vec<(usize, &str)>> = Vec::with_capacity(nodes.len());
    let mut readers = vec![Vec::new(); nodes.len()];
    for (i, node) in nodes.iter().enumerate() {
        let captured = subgraph::captured(&node.attribute);
        let mut from = Vec::new();
        let named = node.input.iter().map(String::as_str).filter(|n| !n.is_empty());
        for name in named.chain(captured) {
            match sources.get_key_value(name) {
                Some((name, Source::Node(producer))) => {
                    from.push((*producer, *name));
                    readers[*producer].push(i);
                }
                Some((_, Source::Leaf(_))) => {}
                None => return Err(ModelError::node(label(node), missing(name))),
            }
        }
        reads.push(from);
    }

    let mut waiting: Vec<usize> = reads.iter().map(Vec::len).collect();
    let mut ready: BinaryHeap<Reverse<usize>> =
        (0..waiting.len()).filter(|&i| waiting[i] == 0).map(Reverse).collect();
    let mut order = Vec::with_capacity(waiting.len());
    while let Some(Reverse(i)) = ready.pop() {
        order.push(i);
        for &reader in &readers[i] {
            waiting[reader] -= 1;
            if waiting[reader] == 0 {
                ready.push(Reverse(reader));
            }
        }
    }
    match waiting.iter().position(|&n| n > 0) {
        Some(stuck) => Err(cycle(nodes, &reads, &waiting, stuck)),
        None => Ok(order),
    }
}

/// Follows the operands that never become ready until a node comes again.
fn cycle(nodes: &[NodeProto], reads: &[Vec<(usize, &str)>], waiting: &[usize], start: usize) -> ModelError {
    let mut path: Vec<(usize, &str)> = Vec::new();
    let mut at = start;
    let mut seen = HashSet::new();
    while seen.insert(at) {
        let Some(&(producer, name)) = reads[at].iter().find(|(p, _)| waiting[*p] > 0) else { break };
        path.push((at, name));
        at = producer;
    }
    let first = path.iter().position(|(node, _)| *node == at).unwrap_or(0);
    let names: Vec<String> = path[first..].iter().map(|(_, name)| format!("\"{name}\"")).collect();
    let what = format!("depends on its own result: the graph has a cycle through {}", names.join(", "));
    ModelError::node(label(&nodes[at]), what)
}
