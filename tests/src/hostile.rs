//! Model files as an enemy would write them, and how far each part of the compiler is led by one.
//!
//! [`mutate`] changes a decoded model where a change of bytes would seldom reach: sizes, attributes, names, operators. What
//! every function here promises is to return: an error is fine, a panic, much memory or much time is not.

use bytes::Bytes;
use ir::Graph;
use onnx::proto::type_proto::Value as TypeValue;
use onnx::proto::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto};
use onnx::proto::{attribute_proto, tensor_proto, tensor_shape_proto};
use passes::{Hooks, Normalize, QuantConfig};
use prost::Message;
use std::path::{Path, PathBuf};
use train::{Optimizer, ParamGroup, Schedule, StepConfig, training_step};

/// Reads a model.
pub fn load(bytes: &[u8]) -> Option<(Graph, onnx::Meta)> {
    let model = onnx::decode_model(Bytes::copy_from_slice(bytes), Path::new("hostile/model.onnx")).ok()?;
    onnx::import(model, &ops::Ops).ok()
}

/// Reads a model and finds its shapes, once all sizes that it leaves open are `size`.
pub fn infer(bytes: &[u8], size: usize) {
    let Some((mut graph, _)) = load(bytes) else { return };
    if graph.bind(|_, _| Some(size)).is_ok() {
        let _ = ir::text::print(&graph);
    }
}

/// Reads a model and takes it the ways that a user can: quantized without data; quantized for training, a step of training,
/// frozen, written, and compiled for evaluation.
pub fn compile(bytes: &[u8]) {
    if let Some((graph, meta)) = load(bytes) {
        compile_graph(graph, &meta);
    }
}

/// [`compile`], once it is read.
pub fn compile_graph(graph: Graph, meta: &onnx::Meta) {
    let config = QuantConfig::default();
    let mut weights = graph.clone();
    if passes::normalize(&mut weights, Normalize { fold_batch_norm: true }).is_ok()
        && passes::quantize_weights(&mut weights, &config).is_ok()
    {
        let _ = onnx::export(&weights, meta, None).map(|(model, _)| model.encode_to_vec());
    }
    let mut graph = graph;
    if passes::normalize(&mut graph, Normalize { fold_batch_norm: false }).is_err()
        || passes::quant_aware(&mut graph, &config, &Hooks::default()).is_err()
    {
        return;
    }
    let groups = [ParamGroup::weights(Optimizer::MOMENTUM, Schedule::constant(0.1), 0.0)];
    if let Ok(step) = training_step(&graph, 2, &[], &StepConfig::new(&groups)) {
        drop(exec::Program::compile(&step.graph));
    }
    if passes::convert(&mut graph).is_ok() {
        let _ = onnx::export(&graph, meta, None).map(|(model, _)| model.encode_to_vec());
        if passes::evaluation().run(&mut graph).is_ok() && graph.bind(|_, _| Some(2)).is_ok() {
            drop(exec::Program::compile(&graph));
        }
    }
}

fn files(folder: &str, ending: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let (mut files, mut todo) = (Vec::new(), vec![root]);
    while let Some(folder) = todo.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            match path.is_dir() {
                true => todo.push(path),
                false if path.extension().is_some_and(|e| e == ending) => files.push(path),
                false => {}
            }
        }
    }
    files.sort();
    files
}

/// Models that are in order, to begin with: the graphs of the pass tests that ONNX can express, and the fixtures.
pub fn seeds() -> Vec<Vec<u8>> {
    let texts = files("passes", "onnxtxt").into_iter().filter_map(|path| {
        let graph = ir::text::parse(&std::fs::read_to_string(path).ok()?, &ops::Ops).ok()?;
        onnx::export(&graph, &onnx::Meta::default(), None).ok().map(|(model, _)| model.encode_to_vec())
    });
    let folders = ["../fixtures/digits", "../fixtures/control-flow"].into_iter();
    let fixtures =
        folders.flat_map(|folder| files(folder, "onnx")).filter_map(|path| std::fs::read(path).ok());
    texts.chain(fixtures).collect()
}

/// Numbers from which everything here is drawn (splitmix64).
#[derive(Clone, Debug)]
pub struct Dice(pub u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Below `n`; 0 for 0.
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    fn of<'a, T>(&mut self, among: &'a [T]) -> Option<&'a T> {
        among.get(self.below(among.len()))
    }

    fn of_mut<'a, T>(&mut self, among: &'a mut [T]) -> Option<&'a mut T> {
        let at = self.below(among.len());
        among.get_mut(at)
    }

    /// Sizes, axes and counts that are just right, just wrong, or absurd.
    fn integer(&mut self) -> i64 {
        const EDGES: [i64; 18] = [
            0,
            1,
            -1,
            2,
            3,
            -2,
            4,
            7,
            8,
            64,
            255,
            65_536,
            i32::MAX as i64,
            i32::MIN as i64,
            1 << 40,
            -(1 << 40),
            i64::MAX,
            i64::MIN,
        ];
        EDGES[self.below(EDGES.len())]
    }

    fn float(&mut self) -> f32 {
        const EDGES: [f32; 10] = [
            0.0,
            -0.0,
            1.0,
            -1.0,
            1e-30,
            1e30,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::NAN,
            f32::MIN_POSITIVE,
        ];
        EDGES[self.below(EDGES.len())]
    }
}

/// Changes one thing of a model.
pub fn mutate(model: &mut ModelProto, dice: &mut Dice) {
    match dice.below(12) {
        0 => model.opset_import.iter_mut().for_each(|o| o.version = Some(dice.below(26) as i64)),
        1 => {
            let values =
                model.graph.iter_mut().flat_map(|g| [&mut g.input, &mut g.output, &mut g.value_info]);
            let mut values: Vec<&mut ValueInfoProto> = values.flatten().collect();
            if let Some(value) = dice.of_mut(&mut values) {
                declared(value, dice);
            }
        }
        2 | 3 => {
            if let Some(tensor) = model.graph.as_mut().and_then(|g| dice.of_mut(&mut g.initializer)) {
                weight(tensor, dice);
            }
        }
        4 => {
            if let Some(graph) = &mut model.graph {
                rewire(graph, dice);
            }
        }
        _ => {
            let names = model.graph.as_ref().map(values).unwrap_or_default();
            let nodes = match dice.of_mut(&mut model.functions) {
                Some(function) if dice.below(3) == 0 => Some(&mut function.node),
                _ => model.graph.as_mut().map(|g| &mut g.node),
            };
            if let Some(node) = nodes.and_then(|nodes| inside(nodes, dice)) {
                operation(node, &names, dice);
            }
        }
    }
}

/// One of the nodes, or of those in their sub-graphs.
fn inside<'a>(nodes: &'a mut [NodeProto], dice: &mut Dice) -> Option<&'a mut NodeProto> {
    let node = dice.of_mut(nodes)?;
    let deeper = node.attribute.iter().position(|a| a.g.as_ref().is_some_and(|g| !g.node.is_empty()));
    match deeper {
        Some(at) if dice.below(3) > 0 => inside(&mut node.attribute[at].g.as_mut()?.node, dice),
        _ => Some(node),
    }
}

/// Names of all values of a graph.
fn values(graph: &GraphProto) -> Vec<String> {
    let named = graph.input.iter().map(|v| v.name()).chain(graph.initializer.iter().map(|t| t.name()));
    named.chain(graph.node.iter().flat_map(|n| n.output.iter().map(|o| &**o))).map(String::from).collect()
}

fn declared(value: &mut ValueInfoProto, dice: &mut Dice) {
    let Some(TypeValue::TensorType(tensor)) = value.r#type.as_mut().and_then(|t| t.value.as_mut()) else {
        return;
    };
    match (dice.below(4), &mut tensor.shape) {
        (0, _) => tensor.elem_type = Some(dice.below(24) as i32),
        (1, shape) => *shape = None,
        (2, Some(shape)) if !shape.dim.is_empty() => drop(shape.dim.remove(0)),
        (_, Some(shape)) => {
            if let Some(dim) = dice.of_mut(&mut shape.dim) {
                dim.value = Some(tensor_shape_proto::dimension::Value::DimValue(dice.integer()));
            }
        }
        _ => {}
    }
}

fn weight(tensor: &mut TensorProto, dice: &mut Dice) {
    match dice.below(6) {
        0 => tensor.data_type = Some(dice.below(24) as i32),
        1 => tensor.dims.push(dice.integer()),
        2 => drop(tensor.dims.pop()),
        3 => {
            let integer = dice.integer();
            if let Some(dim) = dice.of_mut(&mut tensor.dims) {
                *dim = integer;
            }
        }
        4 => {
            // Consistent, but of another size than its readers expect.
            tensor.dims = (0..dice.below(4)).map(|_| dice.below(5) as i64).collect();
            let count = tensor.dims.iter().product::<i64>() as usize;
            tensor.data_type = Some(tensor_proto::DataType::Float as i32);
            tensor.raw_data = None;
            tensor.float_data = (0..count).map(|_| dice.float()).collect();
        }
        _ => {
            let small = tensor.raw_data.as_ref().filter(|raw| raw.len() <= 256).map(|raw| raw.to_vec());
            if let Some(mut raw) = small {
                let bytes = if dice.below(2) == 0 { dice.integer().to_le_bytes() } else { [0; 8] };
                let start = dice.below(raw.len() / 8 + 1) * 8;
                raw.iter_mut().skip(start).zip(bytes).for_each(|(to, from)| *to = from);
                tensor.raw_data = Some(raw.into());
            }
        }
    }
}

fn rewire(graph: &mut GraphProto, dice: &mut Dice) {
    let names = values(graph);
    match dice.below(5) {
        0 => {
            let at = dice.below(graph.node.len());
            if at < graph.node.len() {
                graph.node.remove(at);
            }
        }
        1 => {
            if let Some(node) = dice.of(&graph.node).cloned() {
                graph.node.push(node);
            }
        }
        2 => {
            // The same operation once more, on what it made: shapes grow.
            if let Some(mut node) = dice.of(&graph.node).cloned() {
                let made = node.output.clone();
                node.output.iter_mut().for_each(|o| o.push_str("_again"));
                node.name.iter_mut().for_each(|n| n.push_str("_again"));
                node.input.iter_mut().zip(made).take(1).for_each(|(i, o)| *i = o);
                graph.node.push(node);
            }
        }
        3 => {
            let (name, output) = (dice.of(&names).cloned(), dice.of_mut(&mut graph.output));
            if let (Some(name), Some(output)) = (name, output) {
                output.name = Some(name);
            }
        }
        _ => {
            let (a, b) = (dice.below(graph.node.len()), dice.below(graph.node.len()));
            if !graph.node.is_empty() {
                graph.node.swap(a, b);
            }
        }
    }
}

fn operation(node: &mut NodeProto, names: &[String], dice: &mut Dice) {
    match dice.below(8) {
        0 => {
            let known: Vec<&str> = ops::operators().filter(|(d, _)| d.is_empty()).map(|(_, n)| n).collect();
            node.op_type = dice.of(&known).map(|n| n.to_string());
        }
        1 => {
            if let (Some(input), Some(name)) = (dice.of_mut(&mut node.input), dice.of(names)) {
                *input = name.clone();
            }
        }
        2 => drop(node.input.pop()),
        3 => node.input.extend(dice.of(names).cloned()),
        4 => {
            if let Some(input) = dice.of_mut(&mut node.input) {
                input.clear();
            }
        }
        5 => {
            let at = dice.below(node.attribute.len());
            if at < node.attribute.len() {
                node.attribute.remove(at);
            }
        }
        _ => {
            if let Some(a) = dice.of_mut(&mut node.attribute) {
                attribute(a, dice);
            }
        }
    }
}

fn attribute(a: &mut AttributeProto, dice: &mut Dice) {
    use attribute_proto::AttributeType as Type;
    match a.r#type() {
        Type::Int => a.i = Some(dice.integer()),
        Type::Float => a.f = Some(dice.float()),
        Type::Ints => match dice.below(3) {
            0 => a.ints.push(dice.integer()),
            1 => drop(a.ints.pop()),
            _ => {
                let integer = dice.integer();
                if let Some(i) = dice.of_mut(&mut a.ints) {
                    *i = integer;
                }
            }
        },
        Type::String => a.s = Some(Bytes::from_static(b"nothing that exists")),
        Type::Tensor => a.t.iter_mut().for_each(|t| weight(t, dice)),
        _ => a.r#type = Some(dice.below(15) as i32),
    }
}
