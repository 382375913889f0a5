//! A graph as a model.

use crate::meta::{DEFAULT_OPSET, NEWEST_OPSET};
use crate::proto::{AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto};
use crate::{Meta, ModelError, attributes, history, subgraph, tensors, types};
use ir::{Attr, Graph, Kind, NodeId, OnnxForm, Opaque, Value, ValueId};
use std::collections::{BTreeSet, HashMap, HashSet};
use tensor::{DType, Tensor};

/// Opsets that are written.
const OPSETS: std::ops::RangeInclusive<i64> = 13..=NEWEST_OPSET;

/// Turns a graph into a model at `opset`, and says what of it deserves a look. Without an `opset` it is 17, where that has
/// all of the graph, else that of the file, else the nearest one above or, at last, below 17; that of the file comes first
/// where operators or types are carried through that we could not convert. Variables become initializers with their
/// present value. An output keeps its name: the value behind it takes it over, or an `Identity` carries it.
///
/// # Errors
/// When the opset is not one of 13 to 28, an operator cannot be expressed there, or variables still have updates.
pub fn export(
    graph: &Graph,
    meta: &Meta,
    opset: Option<i64>,
) -> Result<(ModelProto, Vec<String>), ModelError> {
    if let Some(u) = graph.updates().first() {
        let what = "has an update: a training step cannot be written as a model (clear the updates first)";
        return Err(ModelError::node(graph.node(u.variable).label(), what));
    }
    let order = graph.order()?;
    let opset = match opset {
        Some(opset) => opset,
        None => default_opset(graph, meta, &order),
    };
    if !OPSETS.contains(&opset) {
        let why = format!("opsets {} to {} are written", OPSETS.start(), OPSETS.end());
        return Err(ModelError::Opset { found: opset, why });
    }
    let mut writer = Writer {
        graph,
        meta,
        opset,
        names: Names::new(graph, &order)?,
        file: GraphProto::default(),
        foreign: vec![],
        notes: vec![],
    };
    let mut forms = Vec::new();
    for &id in &order {
        forms.push(Form::of(graph, meta, id, opset)?);
    }
    // A constant that became an attribute everywhere is not written a second time.
    let as_attributes: HashSet<(NodeId, usize)> = order
        .iter()
        .zip(&forms)
        .flat_map(|(&id, form)| {
            form.iter().flat_map(move |f| f.as_attributes.iter().map(move |&slot| (id, slot)))
        })
        .collect();
    let is_attribute = |id: NodeId| {
        let readers = graph.consumers(id.into());
        !readers.is_empty()
            && readers.iter().all(|r| as_attributes.contains(r))
            && !graph.is_output(id.into())
    };
    for (&id, form) in order.iter().zip(forms) {
        match (&graph.node(id).kind, form) {
            (Kind::Const(_), _) if is_attribute(id) => {}
            (Kind::Const(tensor) | Kind::Variable(tensor, _), _) => writer.leaf(id, tensor),
            (Kind::Op(op), Some(form)) => writer.operation(id, op.domain(), form),
            _ => {}
        }
    }
    writer.finish(&order)
}

/// What the graph can be expressed in without doubt.
fn default_opset(graph: &Graph, meta: &Meta, order: &[NodeId]) -> i64 {
    let own = OPSETS.contains(&meta.opset()).then_some(meta.opset());
    // Nor is it known since when an operator takes a type that no tensor here has: strings, floats of 8 bits.
    let alien =
        |id: NodeId| matches!(graph.node(id).kind, Kind::Input) && graph.ty(id.into()).dtype.is_none();
    let kept = order.iter().any(|&id| foreign(graph, id) || alien(id)) || meta.has_functions();
    let convertible = |opset: &i64| order.iter().all(|&id| Form::of(graph, meta, id, *opset).is_ok());
    let candidates = if kept { [own, Some(DEFAULT_OPSET)] } else { [Some(DEFAULT_OPSET), own] };
    let others = (DEFAULT_OPSET + 1..=*OPSETS.end()).chain((*OPSETS.start()..DEFAULT_OPSET).rev());
    candidates.into_iter().flatten().chain(others).find(convertible).unwrap_or(DEFAULT_OPSET)
}

/// Whether a node of ONNX is written as it was read: an operator that is only carried through, or one with a sub-graph.
/// Constants are the same in every opset.
fn foreign(graph: &Graph, id: NodeId) -> bool {
    let Some(op) = graph.node(id).op() else { return false };
    let as_read = op.is::<Opaque>().is_some() || op.has_subgraphs();
    as_read && op.domain().is_empty() && op.name() != "Constant"
}

/// How an operation is written at an opset.
struct Form {
    op_type: String,
    attribute: Vec<AttributeProto>,
    /// Constants for further inputs: slot and value.
    inputs: Vec<(usize, Tensor)>,
    /// Operands that are attributes there.
    as_attributes: Vec<usize>,
    /// How many results are written.
    results: usize,
}

impl Form {
    /// Nothing for a leaf.
    fn of(graph: &Graph, meta: &Meta, id: NodeId, opset: i64) -> Result<Option<Form>, ModelError> {
        let node = graph.node(id);
        let Some(op) = node.op() else { return Ok(None) };
        let error = |what: String| ModelError::node(node.label(), what);
        let settled = graph.settled(id);
        let op = settled.as_deref().unwrap_or(op);
        let OnnxForm { op_type, mut attrs, inputs, as_attrs, outs, fewest } =
            op.to_onnx(opset).map_err(|what| error(format!("at opset {opset}: {what}")))?;
        let mut as_attributes = Vec::new();
        for (slot, name) in as_attrs {
            let Some(value) = node.ins.get(slot).copied().flatten() else { continue };
            let computed = || {
                error(format!("at opset {opset} its {name} must be constant, but input {slot} is computed"))
            };
            attrs.set(&name, Attr::Ints(graph.constant(value).ok_or_else(computed)?.to_i64()));
            as_attributes.push(slot);
        }
        let attribute: Result<Vec<_>, _> =
            attrs.iter().map(|(name, attr)| attributes::write(name, attr)).collect();
        let attribute = attribute.map_err(error)?;
        if foreign(graph, id)
            && let Some(what) = history::obstacle(&op_type, &attribute, meta.opset(), opset)
        {
            return Err(error(what));
        }
        if op.domain().is_empty() {
            let given = node.ins.iter().flatten().map(|&v| graph.ty(v));
            let types = given.chain(node.outs.iter().map(|out| &out.ty)).filter_map(|ty| ty.dtype);
            if let Some(what) = history::young_type(&op_type, types, opset) {
                return Err(error(what));
            }
        }
        let results = outs.unwrap_or(usize::MAX).min(node.outs.len());
        if results < fewest {
            return Err(error(format!(
                "at opset {opset} it means something else with fewer than {fewest} results, and it has {results}"
            )));
        }
        let read = |out: usize| {
            let v = ValueId { node: id, out: out as u16 };
            graph.is_output(v) || !graph.consumers(v).is_empty()
        };
        if let Some(out) = (results..node.outs.len()).find(|&out| read(out)) {
            return Err(error(format!(
                "at opset {opset} it has no result \"{}\", which is read",
                node.outs[out].name
            )));
        }
        Ok(Some(Form { op_type, attribute, inputs, as_attributes, results }))
    }
}

/// Names of the values in the file.
struct Names {
    of: HashMap<ValueId, String>,
    used: HashSet<String>,
    /// Outputs that need an `Identity`: value and name.
    copies: Vec<(ValueId, String)>,
}

impl Names {
    fn new(graph: &Graph, order: &[NodeId]) -> Result<Names, ModelError> {
        let mut names = Names { of: HashMap::new(), used: HashSet::new(), copies: Vec::new() };
        for &id in graph.inputs() {
            let name = &graph.value(id.into()).name;
            names.used.insert(name.clone());
            names.of.insert(id.into(), name.clone());
        }
        // Outputs come first: callers know their names.
        let mut outputs: HashMap<&str, ValueId> = HashMap::new();
        for out in graph.outputs() {
            match outputs.insert(&out.name, out.value) {
                Some(other) if other == out.value => continue,
                Some(_) => return Err(ModelError::tensor(&out.name, "two graph outputs have this name")),
                None => {}
            }
            let own_name = graph.value(out.value).name == out.name;
            let is_result = graph.node(out.value.node).op().is_some();
            if matches!(graph.node(out.value.node).kind, Kind::Input) && own_name {
                continue;
            }
            if names.used.contains(&out.name) {
                return Err(ModelError::tensor(&out.name, "a graph input and a graph output have this name"));
            }
            names.used.insert(out.name.clone());
            if (own_name || is_result) && !names.of.contains_key(&out.value) {
                names.of.insert(out.value, out.name.clone());
            } else {
                names.copies.push((out.value, out.name.clone()));
            }
        }
        for &id in order {
            let attrs = graph.node(id).op().map(ir::Op::attrs).unwrap_or_default();
            for (name, attr) in attrs.iter() {
                if let (Attr::Graph(_) | Attr::Raw(_), Ok(a)) = (attr, attributes::write(name, attr)) {
                    let mut inner = BTreeSet::new();
                    subgraph::inner_names([&a], &mut inner);
                    names.used.extend(inner);
                }
            }
        }
        for &id in order {
            for out in 0..graph.node(id).outs.len() {
                let value = ValueId { node: id, out: out as u16 };
                if !names.of.contains_key(&value) {
                    let name = names.fresh(&graph.value(value).name);
                    names.of.insert(value, name);
                }
            }
        }
        Ok(names)
    }

    fn fresh(&mut self, base: &str) -> String {
        let mut name = base.to_string();
        let mut n = 0;
        while !self.used.insert(name.clone()) {
            n += 1;
            name = format!("{base}_{n}");
        }
        name
    }

    fn get(&self, value: ValueId) -> String {
        self.of.get(&value).cloned().unwrap_or_default()
    }
}

struct Writer<'a> {
    graph: &'a Graph,
    meta: &'a Meta,
    opset: i64,
    names: Names,
    file: GraphProto,
    /// Types of the nodes that are only carried through.
    foreign: Vec<String>,
    notes: Vec<String>,
}

impl Writer<'_> {
    fn leaf(&mut self, id: NodeId, tensor: &Tensor) {
        let name = self.names.get(id.into());
        let mut proto = tensors::from_tensor(&name, tensor);
        if let Some(kept) = self.meta.tensors.get(&name) {
            proto.doc_string.clone_from(&kept.doc_string);
            proto.metadata_props.clone_from(&kept.metadata_props);
        }
        self.file.initializer.push(proto);
    }

    fn operation(&mut self, id: NodeId, domain: &str, form: Form) {
        let node = self.graph.node(id);
        let captured = node.op().map_or(0, |op| op.captured().min(node.ins.len()));
        let (given, captured) = node.ins.split_at(node.ins.len() - captured);
        let mut input: Vec<String> =
            given.iter().map(|v| v.map(|v| self.names.get(v)).unwrap_or_default()).collect();
        form.as_attributes.iter().for_each(|&slot| input[slot].clear());
        for (slot, tensor) in form.inputs {
            let name = self.names.fresh(&format!("{}_input{slot}", node.name));
            self.file.initializer.push(tensors::from_tensor(&name, &tensor));
            input.resize(input.len().max(slot + 1), String::new());
            input[slot] = name;
        }
        let mut attribute = form.attribute;
        // Sub-graphs read by name, and a pass may have put another value there.
        let before = if captured.is_empty() { vec![] } else { subgraph::captured(&attribute) };
        let now = captured.iter().flatten().map(|&v| self.names.get(v));
        let changed = before.into_iter().zip(now).filter(|(a, b)| a != b);
        let changed: HashMap<String, String> = changed.map(|(a, b)| (a.to_string(), b)).collect();
        if !changed.is_empty() {
            attribute.iter_mut().for_each(|a| subgraph::rename(a, &changed));
        }
        let output = (0..form.results).map(|out| self.result_name(ValueId { node: id, out: out as u16 }));
        let mut proto = NodeProto {
            input: trimmed(input),
            output: trimmed(output.collect()),
            name: Some(node.name.clone()),
            op_type: Some(form.op_type.clone()),
            domain: (!domain.is_empty()).then(|| domain.to_string()),
            attribute,
            ..NodeProto::default()
        };
        if let Some(kept) = self.meta.nodes.get(&node.name).filter(|kept| kept.op_type == proto.op_type) {
            proto.doc_string.clone_from(&kept.doc_string);
            proto.overload.clone_from(&kept.overload);
            proto.metadata_props.clone_from(&kept.metadata_props);
            proto.device_configurations.clone_from(&kept.device_configurations);
        }
        if foreign(self.graph, id) {
            self.foreign.push(form.op_type);
        }
        self.file.node.push(proto);
    }

    fn result_name(&self, value: ValueId) -> String {
        let unused = || self.graph.consumers(value).is_empty() && !self.graph.is_output(value);
        if self.meta.omitted.contains(&self.graph.value(value).name) && unused() {
            String::new()
        } else {
            self.names.get(value)
        }
    }

    fn finish(mut self, order: &[NodeId]) -> Result<(ModelProto, Vec<String>), ModelError> {
        let graph = self.graph;
        let (from, to) = (self.meta.opset(), self.opset);
        if from != to && !self.foreign.is_empty() {
            let types: BTreeSet<&str> = self.foreign.iter().map(String::as_str).collect();
            let types = types.into_iter().collect::<Vec<_>>().join(", ");
            let n = self.foreign.len();
            self.notes
                .push(format!("written as at opset {from} into a file of opset {to}: {n} nodes ({types})"));
        }
        let mut labels: HashSet<String> = self.file.node.iter().map(|n| n.name().to_string()).collect();
        for (value, name) in std::mem::take(&mut self.names.copies) {
            let mut label = name.clone();
            while !labels.insert(label.clone()) {
                label.push('_');
            }
            self.file.node.push(NodeProto {
                input: vec![self.names.get(value)],
                output: vec![name],
                name: Some(label),
                op_type: Some("Identity".into()),
                ..NodeProto::default()
            });
        }
        let declare = |name: &str, value: &Value| types::declare(name, &value.ty, self.meta.values.get(name));
        let value = |id: NodeId| graph.value(id.into());
        self.file.input = graph.inputs().iter().map(|&id| declare(&value(id).name, value(id))).collect();
        self.file.output = graph.outputs().iter().map(|o| declare(&o.name, graph.value(o.value))).collect();
        let inner: HashMap<&str, ValueId> = order
            .iter()
            .filter(|&&id| graph.node(id).op().is_some())
            .flat_map(|&id| {
                (0..graph.node(id).outs.len()).map(move |out| ValueId { node: id, out: out as u16 })
            })
            .filter(|&v| !graph.is_output(v))
            .filter_map(|v| Some((self.names.of.get(&v)?.as_str(), v)))
            .collect();
        let known = self.meta.value_info.iter().filter_map(|name| Some((name, *inner.get(name.as_str())?)));
        self.file.value_info = known.map(|(name, v)| declare(name, graph.value(v))).collect();

        let mut model = self.meta.model.clone();
        let kept = model.graph.take().unwrap_or_default();
        self.file.name = Some(if graph.name.is_empty() { "graph".into() } else { graph.name.clone() });
        self.file.doc_string = kept.doc_string;
        self.file.metadata_props = kept.metadata_props;
        let defined = |name: &str| self.names.used.contains(name);
        self.file.quantization_annotation = kept.quantization_annotation;
        self.file.quantization_annotation.retain(|a| {
            defined(a.tensor_name()) && a.quant_parameter_tensor_names.iter().all(|p| defined(p.value()))
        });
        let training = model.training_info.len();
        model.training_info.retain(|info| {
            let graphs = || info.initialization.iter().chain(&info.algorithm);
            let own: HashSet<&str> = graphs().flat_map(|g| &g.initializer).map(TensorProto::name).collect();
            let bound = info.initialization_binding.iter().chain(&info.update_binding);
            let reads_known = graphs().flat_map(subgraph::free_names).all(defined);
            reads_known && bound.into_iter().all(|b| own.contains(b.key()) || defined(b.key()))
        });
        if model.training_info.len() < training {
            self.notes
                .push("the training steps of the file were left out: they use values that are gone".into());
        }
        model.opset_import = self.opsets(&model);
        model.ir_version = Some(self.ir_version(&model));
        model.graph = Some(self.file);
        Ok((model, self.notes))
    }

    /// Versions of the operator sets: those of the file, and the first one of sets that are new.
    fn opsets(&self, model: &ModelProto) -> Vec<OperatorSetIdProto> {
        let is_onnx = |o: &OperatorSetIdProto| ["", "ai.onnx"].contains(&o.domain());
        let mut list = model.opset_import.clone();
        match list.iter_mut().find(|o| is_onnx(o)) {
            Some(o) => o.version = Some(self.opset),
            None => {
                list.insert(0, OperatorSetIdProto { domain: Some(String::new()), version: Some(self.opset) })
            }
        }
        let used: BTreeSet<&str> = self.file.node.iter().map(NodeProto::domain).collect();
        for domain in used {
            if !domain.is_empty() && !list.iter().any(|o| o.domain() == domain) {
                list.push(OperatorSetIdProto { domain: Some(domain.to_string()), version: Some(1) });
            }
        }
        list
    }

    /// The oldest version of the format that has everything that is used: the more readers know it. At least the one that
    /// an opset was released with.
    fn ir_version(&self, model: &ModelProto) -> i64 {
        let four_bits =
            |t: &TensorProto| tensors::dtype(t).is_some_and(|d| matches!(d, DType::I4 | DType::U4));
        let overloads = self.file.node.iter().any(|n| !n.overload().is_empty());
        let of_content = match () {
            _ if !model.configuration.is_empty() => 11,
            _ if overloads || self.file.initializer.iter().any(four_bits) => 10,
            _ => 8,
        };
        let of_opset = match self.opset {
            ..=18 => 8,
            19..=20 => 9,
            21..=22 => 10,
            23 => 11,
            24 => 12,
            25..=27 => 13,
            _ => 14,
        };
        of_content.max(of_opset)
    }
}

fn trimmed(mut names: Vec<String>) -> Vec<String> {
    names.truncate(names.iter().rposition(|n| !n.is_empty()).map_or(0, |i| i + 1));
    names
}
