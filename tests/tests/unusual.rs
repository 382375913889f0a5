//! Files as they come: halves, tied weights, names that repeat or are missing, nodes in any order, sub-graphs, open shapes. Each is
//! quantized on drawn data and computes about the same.

#![allow(clippy::unwrap_used)]

use ir::{Graph, Kind};
use onnx::proto::attribute_proto::AttributeType;
use onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto,
    TypeProto, ValueInfoProto, tensor_shape_proto::Dimension, tensor_shape_proto::dimension::Value as Size,
    type_proto,
};
use onnx_qat::data::Dataset;
use onnx_qat::prelude::{DataRole, Model, Preprocess, Source};
use onnx_qat::{Run, quantize};
use ops::DequantizeLinear;
use tensor::{DType, Tensor};

fn node(op: &str, name: &str, ins: &[&str], outs: &[&str]) -> NodeProto {
    let names = |list: &[&str]| list.iter().map(|s| s.to_string()).collect();
    NodeProto {
        op_type: Some(op.into()),
        name: (!name.is_empty()).then(|| name.into()),
        input: names(ins),
        output: names(outs),
        ..NodeProto::default()
    }
}

/// Sizes below 0 are `N`.
fn info(name: &str, dtype: DType, dims: &[i64]) -> ValueInfoProto {
    let size = |&d: &i64| if d < 0 { Size::DimParam("N".into()) } else { Size::DimValue(d) };
    let dim = dims.iter().map(|d| Dimension { value: Some(size(d)), ..Dimension::default() }).collect();
    let tensor = type_proto::Tensor { elem_type: Some(dtype.onnx()), shape: Some(TensorShapeProto { dim }) };
    let value = Some(type_proto::Value::TensorType(tensor));
    ValueInfoProto {
        name: Some(name.into()),
        r#type: Some(TypeProto { value, ..TypeProto::default() }),
        ..ValueInfoProto::default()
    }
}

/// Numbers between -0.5 and 0.5: the same in every run.
fn draw(shape: &[usize], seed: u64) -> Tensor {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    Tensor::new(shape, (0..shape.iter().product()).map(|_| next()).collect())
}

fn weight(name: &str, shape: &[usize]) -> TensorProto {
    onnx::from_tensor(name, &draw(shape, name.len() as u64 + shape[0] as u64))
}

fn model(
    nodes: Vec<NodeProto>,
    initializer: Vec<TensorProto>,
    input: ValueInfoProto,
    outputs: Vec<ValueInfoProto>,
) -> ModelProto {
    ModelProto {
        ir_version: Some(8),
        graph: Some(GraphProto {
            node: nodes,
            name: Some("net".into()),
            initializer,
            input: vec![input],
            output: outputs,
            ..GraphProto::default()
        }),
        opset_import: vec![OperatorSetIdProto { domain: None, version: Some(17) }],
        ..ModelProto::default()
    }
}

struct Quantized {
    graph: Graph,
    /// Signal to noise of each output, in dB.
    sqnr: Vec<f64>,
    opset: i64,
}

impl Quantized {
    fn int8_weights(&self) -> usize {
        let of_constant = |&id: &ir::NodeId| {
            let node = self.graph.node(id);
            let codes = node.is::<DequantizeLinear>().and_then(|_| node.ins[0]);
            codes.and_then(|v| self.graph.constant(v)).is_some_and(|t| t.dtype() == DType::I8)
        };
        self.graph.nodes().iter().filter(|id| of_constant(id)).count()
    }
}

/// [`through_on`] drawn samples of this shape.
fn through(file: &ModelProto, sample: &[usize]) -> Quantized {
    let shape: Vec<usize> = [32].iter().chain(sample).copied().collect();
    through_on(file, &draw(&shape, 99))
}

/// Writes the file, calibrates on samples, quantizes, saves and loads again.
fn through_on(file: &ModelProto, samples: &Tensor) -> Quantized {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("float.onnx");
    onnx::write_model(file, &path, onnx::Weights::Auto).unwrap();
    let model = Model::load(&path).unwrap();
    let npy = folder.path().join("x.npy");
    onnx_qat::data::npy::write(&npy, samples).unwrap();
    let source = Source::parse(&npy.display().to_string(), DataRole::Train).unwrap();
    let data = model.open_data(&source, &Preprocess::default()).unwrap();
    let mut run = Run::from_toml("model = ''\noutput = ''").unwrap();
    (run.training.epochs, run.training.batch) = (0, 8);
    let done = quantize(&model, Some(&data), None, &run.options(), &mut |_| {}).unwrap();
    let int8 = folder.path().join("int8.onnx");
    done.model.save(&int8).unwrap();
    let after = Model::load(int8).unwrap();
    after.graph.check().unwrap();
    let (sqnr, opset) = (compare(&model, &after, &data), after.meta.opset());
    Quantized { graph: after.graph, sqnr, opset }
}

fn compare(before: &Model, after: &Model, data: &Dataset) -> Vec<f64> {
    let run = |model: &Model| {
        let mut graph = model.graph.clone();
        passes::normalize(&mut graph, Default::default()).unwrap();
        passes::evaluation().run(&mut graph).unwrap();
        let batch = data.batch(&(0..8).collect::<Vec<_>>()).unwrap();
        let mut runner = onnx_qat::train::Runner::new(&graph, data);
        let machine = runner.run(&batch).unwrap();
        graph.outputs().iter().map(|o| machine.output(&o.name).unwrap().to_f64()).collect::<Vec<_>>()
    };
    let pairs = run(before).into_iter().zip(run(after));
    let sqnr = |(a, b): (Vec<f64>, Vec<f64>)| {
        let signal: f64 = a.iter().map(|x| x * x).sum();
        let noise: f64 = a.iter().zip(&b).map(|(a, b)| (a - b) * (a - b)).sum();
        10.0 * (signal / noise.max(1e-30)).log10()
    };
    pairs.map(sqnr).collect()
}

#[test]
fn half_precision_weights() {
    let half = |name: &str, shape: &[usize]| {
        let values = draw(shape, 5).to_f32().into_iter().map(half::f16::from_f32).collect();
        onnx::from_tensor(name, &Tensor::new(shape, values))
    };
    // Stored in 16 bits, computed in 32.
    let mut cast = node("Cast", "cast", &["w16"], &["w"]);
    cast.attribute = vec![AttributeProto { i: Some(1), ..attribute("to", AttributeType::Int) }];
    let nodes = vec![cast, node("MatMul", "product", &["x", "w"], &["y"])];
    let file = model(
        nodes,
        vec![half("w16", &[16, 16])],
        info("x", DType::F32, &[-1, 16]),
        vec![info("y", DType::F32, &[-1, 16])],
    );
    let done = through(&file, &[16]);
    assert_eq!(done.int8_weights(), 1);
    assert!(done.sqnr[0] > 30.0, "{:?}", done.sqnr);

    // Stored and computed in 16 bits: the file goes on taking and giving halves.
    let nodes = vec![node("MatMul", "product", &["x", "w"], &["t"]), node("Relu", "relu", &["t"], &["y"])];
    let file = model(
        nodes,
        vec![half("w", &[16, 16])],
        info("x", DType::F16, &[-1, 16]),
        vec![info("y", DType::F16, &[-1, 16])],
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("half.onnx");
    onnx::write_model(&file, &path, onnx::Weights::Auto).unwrap();
    let mut model = Model::load(&path).unwrap();
    let report = passes::normalize(&mut model.graph, Default::default()).unwrap();
    assert!(report.lines[0].to_string().contains("computes in 32 bits, 1 constants"), "{}", report.lines[0]);
    let report = passes::quantize_weights(&mut model.graph, &Default::default()).unwrap();
    assert!(report.lines.iter().any(|l| l.to_string().contains("int8 weight")), "{report:?}");
    let ty = |v: ir::ValueId| model.graph.ty(v).dtype;
    let (input, output) = (model.graph.inputs()[0], model.graph.outputs()[0].value);
    assert_eq!([ty(input.into()), ty(output)], [Some(DType::F16); 2]);
    let done = through(&file, &[16]);
    assert!(done.int8_weights() == 1 && done.sqnr[0] > 30.0, "{:?}", done.sqnr);
}

/// Operators and forms that came after the default opset: the int8 file is of the opset of the float one.
#[test]
fn opsets_of_their_own() {
    let int = |name: &str, i: i64| AttributeProto { i: Some(i), ..attribute(name, AttributeType::Int) };
    let with = |mut node: NodeProto, attributes: &[AttributeProto]| {
        node.attribute.extend_from_slice(attributes);
        node
    };
    let written = |nodes: Vec<NodeProto>, constants: Vec<TensorProto>, opset: i64| {
        let mut all = vec![node("MatMul", "entry", &["x", "v"], &["t"])];
        all.extend(nodes);
        let mut weights = vec![weight("v", &[16, 16])];
        weights.extend(constants);
        let (input, output) = (info("x", DType::F32, &[-1, 16]), info("y", DType::F32, &[-1, 16]));
        let mut file = model(all, weights, input, vec![output]);
        file.opset_import[0].version = Some(opset);
        let done = through(&file, &[16]);
        assert!(done.sqnr[0] > 30.0, "{:?}", done.sqnr);
        (done.int8_weights(), done.opset)
    };
    let norm = node("RMSNormalization", "norm", &["t", "s"], &["n"]);
    let exit = node("MatMul", "exit", &["n", "w"], &["y"]);
    let constants = || vec![weight("s", &[16]), weight("w", &[16, 16])];
    assert_eq!(written(vec![norm, exit.clone()], constants(), 23), (2, 23));
    let groups = with(node("GroupNormalization", "norm", &["t", "s", "b"], &["n"]), &[int("num_groups", 4)]);
    let mut with_bias = constants();
    with_bias.push(weight("b", &[16]));
    assert_eq!(written(vec![groups, exit.clone()], with_bias, 22), (2, 22));
    // A weight that another tool quantized in blocks stays as it is.
    let blocks = [int("axis", 0), int("block_size", 8)];
    let dequantize = with(node("DequantizeLinear", "dq", &["codes", "steps"], &["w"]), &blocks);
    let codes: Vec<i8> = (0..256).map(|i| (i * 37 % 251 - 125) as i8).collect();
    let steps = (0..32).map(|i| 0.002 + i as f32 * 1e-4).collect();
    let blocked = vec![
        onnx::from_tensor("codes", &Tensor::new(&[16, 16], codes)),
        onnx::from_tensor("steps", &Tensor::new(&[2, 16], steps)),
    ];
    let nodes = vec![dequantize, node("Relu", "relu", &["t"], &["n"]), exit];
    assert_eq!(written(nodes, blocked, 21), (2, 21));
    // So does one with codes of 16 bits.
    let pair = |op: &str, x: &str, y: &str| node(op, y, &[x, "step", "zero"], &[y]);
    let nodes = vec![pair("QuantizeLinear", "t", "q"), pair("DequantizeLinear", "q", "y")];
    let constants = vec![
        onnx::from_tensor("step", &Tensor::scalar(1e-4f32)),
        onnx::from_tensor("zero", &Tensor::scalar(32768u16)),
    ];
    assert_eq!(written(nodes, constants, 21), (1, 21));
    // What the default opset has is written in it.
    let relu = node("Relu", "relu", &["t"], &["y"]);
    assert_eq!(written(vec![relu], vec![], 23), (1, 17));
}

/// Data holds integers of 64 bits; a model that takes bytes gets bytes.
#[test]
fn integers_of_any_width_are_fed() {
    let mut cast = node("Cast", "cast", &["x"], &["t"]);
    cast.attribute = vec![AttributeProto { i: Some(1), ..attribute("to", AttributeType::Int) }];
    let file = model(
        vec![cast, node("MatMul", "product", &["t", "w"], &["y"])],
        vec![weight("w", &[16, 16])],
        info("x", DType::U8, &[-1, 16]),
        vec![info("y", DType::F32, &[-1, 16])],
    );
    let bytes = (0..32 * 16).map(|i| (i * 7 % 200) as i64).collect();
    let done = through_on(&file, &Tensor::new(&[32, 16], bytes));
    assert!(done.int8_weights() == 1 && done.sqnr[0] > 30.0, "{:?}", done.sqnr);
}

fn attribute(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto { name: Some(name.into()), r#type: Some(kind as i32), ..AttributeProto::default() }
}

#[test]
fn tied_weights_stay_tied() {
    let nodes = vec![
        node("MatMul", "first", &["x", "w"], &["a"]),
        node("Relu", "relu", &["a"], &["b"]),
        node("MatMul", "second", &["b", "w"], &["y"]),
    ];
    let file = model(
        nodes,
        vec![weight("w", &[16, 16])],
        info("x", DType::F32, &[-1, 16]),
        vec![info("y", DType::F32, &[-1, 16])],
    );
    let done = through(&file, &[16]);
    assert_eq!(done.int8_weights(), 1, "both products read the same codes");
    assert!(done.sqnr[0] > 25.0, "{:?}", done.sqnr);
}

#[test]
fn names_that_repeat_or_are_missing() {
    let nodes = vec![
        node("MatMul", "", &["x", "w"], &["a"]),
        node("Relu", "same", &["a"], &["b"]),
        node("MatMul", "same", &["b", "v"], &["c"]),
        node("Relu", "", &["c"], &["y"]),
    ];
    let weights = vec![weight("w", &[16, 16]), weight("v", &[16, 16])];
    let file =
        model(nodes, weights, info("x", DType::F32, &[-1, 16]), vec![info("y", DType::F32, &[-1, 16])]);
    let done = through(&file, &[16]);
    assert_eq!(done.int8_weights(), 2);
    assert!(done.sqnr[0] > 25.0, "{:?}", done.sqnr);
    let mut names: Vec<String> =
        done.graph.nodes().iter().map(|&id| done.graph.node(id).name.clone()).collect();
    let all = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), all, "{names:?}");
}

#[test]
fn nodes_in_any_order() {
    let nodes = vec![
        node("Relu", "d", &["c"], &["y"]),
        node("MatMul", "c", &["b", "v"], &["c"]),
        node("Relu", "b", &["a"], &["b"]),
        node("MatMul", "a", &["x", "w"], &["a"]),
    ];
    let weights = vec![weight("w", &[16, 16]), weight("v", &[16, 16])];
    let io = (info("x", DType::F32, &[-1, 16]), vec![info("y", DType::F32, &[-1, 16])]);
    let done = through(&model(nodes, weights, io.0, io.1), &[16]);
    assert_eq!(done.int8_weights(), 2);
    assert!(done.sqnr[0] > 25.0, "{:?}", done.sqnr);
}

/// Batch, height and width are open, and a shape is computed from them.
#[test]
fn symbolic_shapes() {
    let nodes = vec![
        node("Conv", "conv", &["x", "w"], &["a"]),
        node("Relu", "relu", &["a"], &["b"]),
        node("Shape", "shape", &["b"], &["s"]),
        node("Gather", "batch", &["s", "zero"], &["n"]),
        node("Concat", "target", &["n", "rest"], &["t"]),
        node("Reshape", "flat", &["b", "t"], &["f"]),
        node("MatMul", "product", &["f", "v"], &["y"]),
    ];
    let mut nodes = nodes;
    nodes[4].attribute = vec![AttributeProto { i: Some(0), ..attribute("axis", AttributeType::Int) }];
    let integers =
        |name: &str, values: Vec<i64>| onnx::from_tensor(name, &Tensor::new(&[values.len()], values));
    let weights = vec![
        weight("w", &[4, 2, 1, 1]),
        weight("v", &[64, 8]),
        integers("zero", vec![0]),
        integers("rest", vec![-1]),
    ];
    let file =
        model(nodes, weights, info("x", DType::F32, &[-1, 2, -1, -1]), vec![info("y", DType::F32, &[-1, 8])]);
    let done = through(&file, &[2, 4, 4]);
    assert_eq!(done.int8_weights(), 2);
    assert!(done.sqnr[0] > 25.0, "{:?}", done.sqnr);
    let input = done.graph.ty(done.graph.inputs()[0].into());
    assert!(input.dims().is_none(), "the sizes stay open: {input}");
}

/// A node with branches that read values from around it is carried through; what is in front of it is quantized.
#[test]
fn sub_graphs_are_carried_through() {
    let branch = |op: &str| GraphProto {
        name: Some("branch".into()),
        node: vec![node(op, "inner", &["b"], &["r"])],
        output: vec![info("r", DType::F32, &[-1, 16])],
        ..GraphProto::default()
    };
    let graph = |name: &str, g| AttributeProto { g: Some(g), ..attribute(name, AttributeType::Graph) };
    let mut choose = node("If", "choose", &["cond"], &["y"]);
    choose.attribute = vec![graph("else_branch", branch("Neg")), graph("then_branch", branch("Relu"))];
    let mut largest = node("ReduceMax", "largest", &["x"], &["m"]);
    largest.attribute = vec![AttributeProto { i: Some(0), ..attribute("keepdims", AttributeType::Int) }];
    let nodes = vec![
        node("MatMul", "product", &["x", "w"], &["a"]),
        node("Relu", "relu", &["a"], &["b"]),
        largest,
        node("Greater", "greater", &["m", "zero"], &["cond"]),
        choose,
    ];
    let zero = onnx::from_tensor("zero", &Tensor::scalar(0.0f32));
    let file = model(
        nodes,
        vec![weight("w", &[16, 16]), zero],
        info("x", DType::F32, &[-1, 16]),
        vec![info("y", DType::F32, &[-1, 16])],
    );
    let (mut graph, meta) = onnx::import(file.clone(), &ops::Ops).unwrap();
    passes::normalize(&mut graph, Default::default()).unwrap();
    passes::quantize_weights(&mut graph, &Default::default()).unwrap();
    graph.check().unwrap();
    let (written, _) = onnx::export(&graph, &meta, None).unwrap();
    let choose =
        |m: &ModelProto| m.graph.as_ref().unwrap().node.iter().find(|n| n.op_type() == "If").cloned();
    assert_eq!(choose(&written).unwrap().attribute, choose(&file).unwrap().attribute);
    let products = graph
        .nodes()
        .into_iter()
        .filter(|&id| graph.node(id).op().is_some_and(|op| op.name().starts_with("MatMul")));
    assert!(products.count() >= 1);
    assert!(!graph.nodes().iter().any(
        |&id| matches!(&graph.node(id).kind, Kind::Const(t) if t.len() == 256 && t.dtype() == DType::F32)
    ));
    // With data it runs, so that ranges are observed in front of it.
    let done = through(&file, &[16]);
    assert_eq!(done.int8_weights(), 1);
    assert!(done.sqnr[0] > 25.0, "{:?}", done.sqnr);
}

/// What scikit-learn's converter writes behind a network: a map of classes to probabilities, of a domain that is not known.
/// The scores are there all the same; the map is refused when it is asked for, and carried through.
#[test]
fn operators_behind_the_scores_may_be_unknown() {
    let map = NodeProto { domain: Some("ai.onnx.ml".into()), ..node("ZipMap", "zip", &["p"], &["map"]) };
    let nodes =
        vec![node("MatMul", "product", &["x", "w"], &["a"]), node("Softmax", "softmax", &["a"], &["p"]), map];
    let outputs = vec![
        info("p", DType::F32, &[-1, 16]),
        ValueInfoProto { name: Some("map".into()), ..Default::default() },
    ];
    let file = model(nodes, vec![weight("w", &[16, 16])], info("x", DType::F32, &[-1, 16]), outputs);
    let (mut graph, meta) = onnx::import(file, &ops::Ops).unwrap();
    graph.bind(|_, _| Some(2)).unwrap();
    let mut machine = exec::Machine::new(exec::Program::compile(&graph).unwrap().into());
    machine.run().unwrap();
    let sum: f64 = machine.output("p").unwrap().to_f64().iter().sum();
    assert!((sum - 2.0).abs() < 1e-5, "{sum}");
    let message = machine.output("map").unwrap_err().to_string();
    assert!(
        message.contains("ZipMap node \"zip\": the operator ZipMap of the domain ai.onnx.ml is not known"),
        "{message}"
    );
    let (written, _) = onnx::export(&graph, &meta, None).unwrap();
    assert!(written.graph.unwrap().node.iter().any(|n| n.op_type() == "ZipMap"));
}
