//! A model as a graph.

use crate::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, attribute_proto,
};
use crate::{Meta, ModelError, attributes, subgraph, tensors, types};
use ir::{Attr, Attrs, Graph, Opaque, Parse, Registry, Type, ValueId};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet};
use std::sync::Arc;
use tensor::Tensor;

/// Opsets that are read. Those behind 22 added operators and element types, and changed no node of before.
const OPSETS: std::ops::RangeInclusive<i64> = 7..=28;
/// The newest version of the format that the schema covers.
const IR_VERSION: i64 = 13;

/// Turns a model into a graph and what the file says beside it. Operators that `registry` does not know, calls of the
/// model's own functions among them, are kept as [`Opaque`]; weights become constants, wherever the file has them:
/// initializers, initializers that are listed as inputs, or `Constant` nodes. Names are kept; empty and repeated node
/// names are replaced by unique ones. Data of external tensors must have been read ([`crate::read_model`] does).
///
/// # Errors
/// When versions are unsupported, when a tensor is malformed, when a value has no or two definitions, when nodes depend
/// on each other in a circle, and when an operator refuses its attributes or operands. The error names the node.
pub fn import(mut model: ModelProto, registry: &dyn Registry) -> Result<(Graph, Meta), ModelError> {
    let mut meta = Meta::default();
    let file = model.graph.take().ok_or(ModelError::NoGraph)?;
    ir_version(&model, &mut meta)?;
    meta.opset = opset(&model, &file)?;
    let functions: HashSet<(&str, &str)> =
        model.functions.iter().map(|f| (domain(f.domain()), f.name())).collect();
    let reader = Reader {
        graph: Graph::new(file.name()),
        values: HashMap::new(),
        declared: declared(&file),
        meta: &mut meta,
        opsets: model.opset_import.iter().map(|o| (domain(o.domain()), o.version())).collect(),
        functions,
        registry,
    };
    let graph = reader.read(&file)?;
    keep(&mut meta, model, file);
    Ok((graph, meta))
}

/// `ai.onnx` is another way to write the empty domain.
fn domain(name: &str) -> &str {
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

struct Reader<'a> {
    graph: Graph,
    values: HashMap<String, ValueId>,
    declared: HashMap<String, Type>,
    meta: &'a mut Meta,
    opsets: BTreeMap<&'a str, i64>,
    functions: HashSet<(&'a str, &'a str)>,
    registry: &'a dyn Registry,
}

impl Reader<'_> {
    fn read(mut self, file: &GraphProto) -> Result<Graph, ModelError> {
        let order = order(file)?;
        let constants: HashSet<&str> = initializer_names(file).collect();
        for info in file.input.iter().filter(|info| !constants.contains(info.name())) {
            let value = self.graph.add_input(info.name(), types::read(info.r#type.as_ref()));
            self.values.insert(info.name().to_string(), value);
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
            let value = self.value(info.name(), || format!("graph output \"{}\"", info.name()))?;
            self.graph.add_output(info.name(), value);
        }
        // Names inside of sub-graphs are not values here, but no new value may take them.
        let mut inner = BTreeSet::new();
        file.node.iter().for_each(|node| subgraph::inner_names(&node.attribute, &mut inner));
        for name in inner.iter().filter(|name| !self.values.contains_key(*name)) {
            self.graph.fresh(name);
        }
        Ok(self.graph)
    }

    fn value(&self, name: &str, reader: impl Fn() -> String) -> Result<ValueId, ModelError> {
        let missing = || ModelError::node(reader(), missing(name));
        self.values.get(name).copied().ok_or_else(missing)
    }

    fn constant(&mut self, name: &str, tensor: Tensor) {
        let value = self.graph.add_const(name, tensor);
        self.values.insert(name.to_string(), value);
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
        self.values.insert(name.to_string(), id.into());
        Ok(())
    }

    fn node(&mut self, node: &NodeProto) -> Result<(), ModelError> {
        let error = |what: String| ModelError::node(label(node), what);
        let names = trimmed(&node.output);
        let attrs = attributes::read(&node.attribute).map_err(error)?;
        if let ([name], Some(tensor)) = (names, constant(node, &attrs)) {
            self.constant(name, tensor);
            return Ok(());
        }
        let mut ins = Vec::new();
        for name in trimmed(&node.input) {
            let value = if name.is_empty() { None } else { Some(self.value(name, || label(node))?) };
            ins.push(value);
        }
        let given = ins.len();
        let base = [node.name(), names.iter().find(|n| !n.is_empty()).map_or("", |n| n), node.op_type()];
        let base = base.into_iter().find(|n| !n.is_empty()).unwrap_or("node");

        let domain = domain(node.domain());
        let opset = self.opsets.get(domain).copied().unwrap_or(1);
        let cx = Parse { attrs: &attrs, opset, ins: given, outs: names.len() };
        let ours = !self.functions.contains(&(domain, node.op_type()));
        let parsed = if ours { self.registry.parse(domain, node.op_type(), &cx) } else { None };
        let op = match parsed {
            Some(parsed) => {
                let parsed = parsed.map_err(error)?;
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
                for (slot, tensor) in parsed.inputs {
                    ins.resize(ins.len().max(slot + 1), None);
                    ins[slot] = Some(self.graph.add_const(&format!("{base}_input{slot}"), tensor));
                }
                parsed.op
            }
            None => {
                let captured = subgraph::captured(&node.attribute);
                for name in &captured {
                    ins.push(Some(self.value(name, || label(node))?));
                }
                Arc::new(Opaque {
                    domain: domain.to_string(),
                    op_type: node.op_type().to_string(),
                    attrs: attributes::read_untouched(&node.attribute).map_err(error)?,
                    captured: captured.len(),
                })
            }
        };
        let placeholder = format!("{base}_unused");
        let outs: Vec<&str> =
            names.iter().map(|n| if n.is_empty() { &placeholder } else { n.as_str() }).collect();
        let id = self.graph.add_node(op, &ins, base, &outs)?;
        for (i, name) in names.iter().enumerate() {
            let value = ValueId { node: id, out: i as u16 };
            if name.is_empty() {
                self.meta.omitted.insert(self.graph.value(value).name.clone());
                continue;
            }
            self.values.insert(name.clone(), value);
            if let Some(Err(e)) = self.declared.get(name).map(|ty| self.graph.refine(value, ty)) {
                self.meta.notes.push(e.to_string());
            }
        }
        self.keep_node(node, &self.graph.node(id).name.clone());
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

/// The nodes, each after those whose results it reads, otherwise in the order of the file.
///
/// # Errors
/// When a value is defined twice or not at all, or when there is a cycle.
fn order(file: &GraphProto) -> Result<Vec<usize>, ModelError> {
    let mut sources: HashMap<&str, Source> = HashMap::new();
    let describe = |source: &Source| match source {
        Source::Leaf(kind) => kind.to_string(),
        Source::Node(i) => format!("the result of {}", label(&file.node[*i])),
    };
    for name in initializer_names(file) {
        if name.is_empty() {
            return Err(ModelError::tensor("", "an initializer has no name"));
        }
        if sources.insert(name, Source::Leaf("an initializer")).is_some() {
            return Err(ModelError::tensor(name, "it is defined by two initializers"));
        }
    }
    let mut inputs = HashSet::new();
    for info in &file.input {
        if !inputs.insert(info.name()) {
            return Err(ModelError::tensor(info.name(), "it is listed twice among the graph inputs"));
        }
        sources.entry(info.name()).or_insert(Source::Leaf("a graph input"));
    }
    for (i, node) in file.node.iter().enumerate() {
        for name in node.output.iter().filter(|n| !n.is_empty()) {
            if let Some(other) = sources.insert(name, Source::Node(i)) {
                let what = format!("defines \"{name}\", which is already {}", describe(&other));
                return Err(ModelError::node(label(node), what));
            }
        }
    }

    let mut reads: Vec<Vec<(usize, &str)>> = Vec::with_capacity(file.node.len());
    let mut readers = vec![Vec::new(); file.node.len()];
    for (i, node) in file.node.iter().enumerate() {
        let captured = subgraph::captured(&node.attribute);
        let mut from = Vec::new();
        for name in node.input.iter().chain(&captured).filter(|n| !n.is_empty()) {
            match sources.get_key_value(name.as_str()) {
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
        Some(stuck) => Err(cycle(file, &reads, &waiting, stuck)),
        None => Ok(order),
    }
}

/// Follows the operands that never become ready until a node comes again.
fn cycle(file: &GraphProto, reads: &[Vec<(usize, &str)>], waiting: &[usize], start: usize) -> ModelError {
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
    ModelError::node(label(&file.node[at]), what)
}
