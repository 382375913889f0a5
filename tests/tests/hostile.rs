//! Damaged and malicious models are refused or compiled, without a panic and in little time: what the fuzz targets look for
//! at length, looked for briefly; and what they once found.

#![allow(clippy::unwrap_used)]

use onnx::proto::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, ValueInfoProto,
    attribute_proto,
};
use onnx_qat_tests::hostile::{self, Dice, mutate};
use ops::Ops;
use proptest::prelude::*;
use prost::Message;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// Far beyond what any of the small models here takes, also in a debug build beside other tests.
const LONGEST: Duration = Duration::from_secs(10);

static MODELS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(hostile::seeds);

fn within(bytes: &[u8], what: impl FnOnce(&[u8])) {
    let start = Instant::now();
    what(bytes);
    assert!(start.elapsed() < LONGEST, "{:?}", start.elapsed());
}

#[test]
fn there_are_models_to_begin_with() {
    assert!(MODELS.len() > 40, "{}", MODELS.len());
    assert!(MODELS.iter().all(|m| hostile::load(m).is_some()));
}

/// A case takes a fraction of a millisecond, so there are more than `PROPTEST_CASES` says.
fn many() -> ProptestConfig {
    let usual = ProptestConfig::default();
    ProptestConfig { cases: usual.cases.saturating_mul(8), failure_persistence: None, ..usual }
}

proptest! {
    #![proptest_config(many())]

    #[test]
    fn damaged_bytes(model in any::<prop::sample::Index>(), damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut bytes = MODELS[model.index(MODELS.len())].clone();
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        within(&bytes, |b| drop(hostile::load(b)));
        within(&bytes, |b| hostile::infer(b, 2));
    }

    #[test]
    fn changed_models(model in any::<prop::sample::Index>(), seed in any::<u64>(), changes in 1usize..6) {
        let bytes = &MODELS[model.index(MODELS.len())];
        let mut model = onnx::proto::ModelProto::decode(&bytes[..]).unwrap();
        let mut dice = Dice(seed);
        (0..changes).for_each(|_| mutate(&mut model, &mut dice));
        let bytes = model.encode_to_vec();
        within(&bytes, |b| hostile::infer(b, 3));
        within(&bytes, hostile::compile);
    }
}

/// A file with the graph of this text.
fn file(text: &str) -> Vec<u8> {
    let graph = ir::text::parse(text, &Ops).unwrap();
    onnx::export(&graph, &onnx::Meta::default(), None).unwrap().0.encode_to_vec()
}

#[test]
fn sizes_that_overflow() {
    for bytes in MODELS.iter() {
        let mut model = onnx::proto::ModelProto::decode(&bytes[..]).unwrap();
        let graph = model.graph.as_mut().unwrap();
        for value in graph.input.iter_mut().chain(&mut graph.output).chain(&mut graph.value_info) {
            let Some(ty) = value.r#type.as_mut().and_then(|t| t.value.as_mut()) else { continue };
            let onnx::proto::type_proto::Value::TensorType(tensor) = ty else { continue };
            for dim in tensor.shape.iter_mut().flat_map(|s| &mut s.dim) {
                let huge = onnx::proto::tensor_shape_proto::dimension::Value::DimValue(i64::MAX / 2);
                dim.value = Some(huge);
            }
        }
        let bytes = model.encode_to_vec();
        within(&bytes, |b| hostile::infer(b, 2));
        within(&bytes, hostile::compile);
    }
}

/// The data has no shape, so that only the parameters can tell the number of channels; they disagree.
#[test]
fn batch_norm_with_parameters_that_disagree() {
    let mut model = onnx::proto::ModelProto::decode(
        &file(
            "net (float[N,1,2,2] x) => (float[N,2,2,2] y)
             <
               float[2,1,1,1] w = {1.0, 2.0},
               float[2] gamma = {2.0, -1.0},
               float[2] beta = {0.5, 1.0},
               float[2] mean = {3.0, 4.0},
               float[2] var = {1.0, 1.0}
             >
             {
               c = Conv (x, w)
               y = BatchNormalization (c, gamma, beta, mean, var)
             }",
        )[..],
    )
    .unwrap();
    let graph = model.graph.as_mut().unwrap();
    graph
        .input
        .iter_mut()
        .chain(&mut graph.output)
        .chain(&mut graph.value_info)
        .for_each(|v| v.r#type = None);
    let beta = graph.initializer.iter_mut().find(|t| t.name() == "beta").unwrap();
    *beta = onnx::from_tensor("beta", &tensor::Tensor::new(&[1], vec![1f32]));
    assert!(hostile::load(&model.encode_to_vec()).is_none());
}

/// A list of sizes or axes so long that even a shape of unknown sizes would fill the memory.
#[test]
fn lists_of_sizes_that_are_longer_than_any_rank() {
    for operation in
        ["Expand (x, list)", "Reshape (x, list)", "Unsqueeze (x, list)", "ConstantOfShape (list)"]
    {
        let text =
            format!("net (float[2,3] x, int64[1099511627776] list) => (float[] y) {{ y = {operation} }}");
        let refused = ir::text::parse(&text, &Ops).unwrap_err().to_string();
        assert!(refused.contains("longer than the 64 of any tensor"), "{operation}: {refused}");
    }
}

/// A scale per channel, for each of the 2^31 channels of a weight that takes no room in the file.
#[test]
fn weights_of_many_channels_without_elements() {
    let bytes = file(
        "net (float[N,0] x) => (float[N,16777216] y)
         <float[0,16777216] w = {}>
         { y = MatMul (x, w) }",
    );
    within(&bytes, hostile::compile);
}

/// Millions of results, and not one element that they are made of.
#[test]
fn results_of_no_elements_in_great_number() {
    let bytes = file(
        "net (float[1] x) => (float y, float z) <float[65536,255,0] none = {}>
         {
           norm = GlobalLpPool (none)
           other = GlobalLpPool <p=1> (none)
           y = Add (norm, x)
           z = Add (other, x)
         }",
    );
    within(&bytes, hostile::compile);
}

#[test]
fn codes_that_no_type_has() {
    for low in ["-2147483648", "255", "-32769"] {
        let text = format!(
            "net (float[4] state) => (float[] scale) {{ scale, zero_point = qat.ActivationScale <low={low}> (state) }}"
        );
        let refused = ir::text::parse(&text, &Ops).unwrap_err().to_string();
        assert!(refused.contains("at most 16 bits"), "{low}: {refused}");
    }
}

/// Only the fused form of a convolution adds a fourth operand.
#[test]
fn convolution_with_an_operand_too_many() {
    let bytes = file(
        "net (float[1,1] x) => (float[2,2,1] y)
         <float[2,2,1] w = {1.0, 2.0, 3.0, 4.0}, float[2] b = {10.0, 20.0}, float[2,1] more = {0.25, 4.0}>
         {
           c = Conv (w, w, b, more)
           y = Mul (c, x)
         }",
    );
    within(&bytes, hostile::compile);
}

/// Weights and data that are finite, with a bias whose scale is not.
#[test]
fn scales_whose_product_overflows() {
    let text = "net (float[N,2] x) => (float[N,2] y)
         <
           float[4] x_range = {-1.0, 1.0, -1e30, 1e30},
           float[2,2] w = {1e30, 2e30, 1e30, -1e30},
           float[2] b = {0.5, -0.5}
         >
         {
           x_scale, x_scale_zero_point = qat.ActivationScale (x_range)
           x_fq = qat.FakeQuant (x, x_scale, x_scale_zero_point)
           w_abs_max = qat.AbsMax <axis=1> (w)
           w_scale = qat.WeightScale (w_abs_max)
           w_fq = qat.FakeQuant <axis=1, low=-127, high=127> (w, w_scale)
           y = Gemm (x_fq, w_fq, b)
         }";
    let refused = passes::convert(&mut ir::text::parse(text, &Ops).unwrap()).unwrap_err().to_string();
    assert!(refused.contains("is not finite"), "{refused}");
}

/// A scale per channel of an activation, or none at all: only constants are frozen with several.
#[test]
fn scales_of_an_activation_that_are_not_one() {
    for (scale, other) in [("float[0] s = {}", "t"), ("float[2] s = {0.5, 0.25}", "x")] {
        let bytes = file(&format!(
            "net (float[N,2] x, float h) => (float y, float z) <{scale}, int32[2] zero = {{0, 0}}>
             {{
               t = qat.BitwiseXor (x)
               y = qat.FakeQuant <axis=1, low=-127, high=127> (t, s)
               z = qat.FakeQuant <axis=1, low=-127, high=127> ({other}, s)
             }}"
        ));
        within(&bytes, hostile::compile);
    }
}

/// The only number among the outputs, which is taken for the loss, is one that a fusion computes otherwise.
#[test]
fn a_loss_that_a_fusion_replaces() {
    let bytes = file(
        "net (float[2,1,2,2] x, float[2,1,2,2] other) => (float[2,1,2,2] y, float[] scale)
         <
           float[1,1,1,1] k = {0.5},
           float[4] range = {0.0, 0.0, 0.0, 0.0},
           float[] zero = {0.0},
           float[] six = {6.0}
         >
         {
           sum = Add (x, other)
           relu = Clip (sum, zero, six)
           observed = qat.Observe (relu, range)
           scale, zp = qat.ActivationScale (observed)
           fq = qat.FakeQuant <clipped=1> (relu, scale, zp)
           y = Conv (fq, k)
         }",
    );
    within(&bytes, hostile::compile);
}

/// A bias as large as the file says, which no memory holds, and one that is the sum of a weight with itself so often that
/// computing each operand anew would never end.
#[test]
fn a_bias_that_is_computed() {
    let convolution = |bias: &str| {
        file(&format!(
            "net (float x) => (float y)
             <float[2,1,1,1] w = {{1.0, 2.0}}, float[] zero = {{0.0}}, int64[1] channels = {{1073741824002}},
              int8[2] codes = {{1, 2}}, float[] scale = {{0.5}}, int8[] zero_point = {{0}}>
             {{
               {bias}
               y = Conv (x, w, b)
             }}"
        ))
    };
    within(&convolution("b = Expand (zero, channels)"), hostile::compile);
    let sums: Vec<String> = (0..64).map(|i| format!("s{} = Add (s{i}, s{i})", i + 1)).collect();
    let sums =
        format!("s0 = DequantizeLinear (codes, scale, zero_point) {} b = Identity (s64)", sums.join(" "));
    within(&convolution(&sums), hostile::compile);
}

#[test]
fn a_program_that_no_memory_holds() {
    let bytes = file(
        "net (float[1] x) => (float[1048576,1048576,64] y)
         <int64[3] shape = {1048576, 1048576, 64}>
         { y = Expand (x, shape) }",
    );
    let (graph, _) = hostile::load(&bytes).unwrap();
    let error = exec::Program::compile(&graph).map(drop).unwrap_err().to_string();
    assert!(error.contains("more than this machine gives"), "{error}");
}

/// Constants that are small in the file, and whose results take hours.
#[test]
fn constants_that_take_long() {
    for operation in [
        "Conv (wide, high)",
        "AveragePool <kernel_shape=[2048, 2048]> (wide)",
        "Einsum <equation=\"abcd,efgh->a\"> (wide, high)",
        "MatMul (wide, wide)",
        "LRN <size=2000> (channels)",
    ] {
        let bytes = file(&format!(
            "net (float[1] x) => (float y)
             <float[] one = {{1.0}}, int64[4] sizes = {{1, 1, 4000, 4000}}, int64[4] kernel = {{1, 1, 2048, 2048}},
              int64[4] many = {{1, 4000, 2000, 2}}>
             {{
               wide = Expand (one, sizes)
               high = Expand (one, kernel)
               channels = Expand (one, many)
               made = {operation}
               y = Add (made, x)
             }}"
        ));
        within(&bytes, hostile::compile);
    }
}

/// Sizes beside one of 0, and lists that operators make for their own use: none is made as long as a file says.
#[test]
fn tables_as_long_as_sizes_say() {
    let typed = [
        ("float[1,1,46000,8] x", "y = Attention <is_causal=1> (x, x, x)"),
        ("float[1,1,1048576,1048576] x", "y = LpPool <kernel_shape=[2, 2]> (x)"),
        ("float[1,1,65536,1,1] x", "y = Conv <pads=[65536, 0, 0, 65536, 0, 0]> (x, deep)"),
        ("float[1,1,4096,1,1] x", "y = ConvTranspose <strides=[4096, 1, 1]> (x, deep)"),
        ("float[1,65536,1] x", "y = Col2Im (x, wide, wide)"),
        ("float[0,2147483647,1,1] x", "y = Attention (x, x, x)"),
        ("float[0,1099511627776] x", "y = Unique <axis=1> (x)"),
        ("float[0,1] x", "y = Pad (x, pads)"),
        ("float[1,1] x", "y = Pad (x, pads)"),
        ("float[1,2,3] x", "y = AffineGrid (x, image)"),
        ("float[1073741824,1,1] x", "y = MatMul (x, x)"),
    ];
    for (input, operation) in typed {
        let text = format!(
            "net ({input}) => (float y)
             <float[1,1,1,1,1] one = {{1.0}}, int64[5] sizes = {{1, 1, 65536, 1, 1}}, int64[1] wide = {{65536}},
              int64[4] pads = {{0, 0, 0, 137438953472}}, int64[4] image = {{1, 1, 46340, 46340}}>
             {{
               deep = Expand (one, sizes)
               {operation}
             }}"
        );
        // Some are refused as soon as their shapes are asked for.
        within(text.as_bytes(), |_| match ir::text::parse(&text, &Ops) {
            Ok(graph) => hostile::compile_graph(graph, &onnx::Meta::default()),
            Err(e) => assert!(e.to_string().contains("more elements than any memory holds"), "{e}"),
        });
    }
}

/// Loops in loops, each of which makes a value longer that the next one carries.
#[test]
fn loops_within_loops() {
    let carried = |what: &'static str, level: usize| (0..8).map(move |i| format!("{what}{i}_{level}"));
    let looped = |ins: Vec<String>, outs: Vec<String>, body| {
        let none = [String::new(), String::new()];
        NodeProto { attribute: vec![graph("body", body)], ..node("Loop", none.into_iter().chain(ins), outs) }
    };
    let mut inner: Option<GraphProto> = None;
    for level in 0..24 {
        let (old, new): (Vec<_>, Vec<_>) = (carried("c", level).collect(), carried("n", level).collect());
        let axis = AttributeProto {
            name: Some("axis".into()),
            r#type: Some(attribute_proto::AttributeType::Int as i32),
            i: Some(0),
            ..AttributeProto::default()
        };
        let twice = node("Concat", [old[0].clone(), old[0].clone()], vec![new[0].clone()]);
        let mut all = vec![NodeProto { attribute: vec![axis], ..twice }];
        all.extend((1..8).map(|i| node("Identity", [old[i - 1].clone()], vec![new[i].clone()])));
        all.extend(inner.take().map(|body| looped(old.clone(), carried("i", level).collect(), body)));
        let [round, cond] = ["round", "cond"].map(|what| format!("{what}_{level}"));
        let value = |name: String| ValueInfoProto { name: Some(name), ..ValueInfoProto::default() };
        inner = Some(GraphProto {
            input: [round, cond.clone()].into_iter().chain(old).map(value).collect(),
            output: [cond].into_iter().chain(new).map(value).collect(),
            ..nodes(all)
        });
    }
    let mut outermost =
        ModelProto::decode(&file("net (float[2] x) => (float y) { y = Relu (x) }")[..]).unwrap();
    let loops = looped(vec!["x".into(); 8], carried("o", 24).collect(), inner.unwrap());
    outermost.graph.as_mut().unwrap().node.push(loops);
    let bytes = outermost.encode_to_vec();
    assert!(hostile::load(&bytes).is_some());
    within(&bytes, |b| hostile::infer(b, 2));
    within(&bytes, hostile::compile);
}

/// A file with this graph and these functions of the domain `f`.
fn model(graph: GraphProto, functions: Vec<FunctionProto>) -> ModelProto {
    let opset = |domain: &str| OperatorSetIdProto { domain: Some(domain.into()), version: Some(17) };
    ModelProto {
        ir_version: Some(8),
        opset_import: vec![opset(""), opset("f")],
        graph: Some(graph),
        functions,
        ..ModelProto::default()
    }
}

fn nodes(node: Vec<NodeProto>) -> GraphProto {
    GraphProto { node, ..GraphProto::default() }
}

fn node(op_type: &str, ins: impl IntoIterator<Item = String>, outs: Vec<String>) -> NodeProto {
    let op_type = Some(op_type.to_string());
    NodeProto { op_type, input: ins.into_iter().collect(), output: outs, ..NodeProto::default() }
}

/// A call of the function `name`.
fn call(name: &str) -> NodeProto {
    NodeProto { domain: Some("f".into()), ..node(name, [], vec![]) }
}

fn function(name: &str, node: Vec<NodeProto>) -> FunctionProto {
    FunctionProto { name: Some(name.into()), domain: Some("f".into()), node, ..FunctionProto::default() }
}

/// An attribute that is a graph.
fn graph(name: &str, graph: GraphProto) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        r#type: Some(attribute_proto::AttributeType::Graph as i32),
        g: Some(graph),
        ..AttributeProto::default()
    }
}

/// A node around these.
fn around(inner: Vec<NodeProto>) -> NodeProto {
    NodeProto { attribute: vec![graph("body", nodes(inner))], ..node("A", [], vec![]) }
}

/// Why a file is refused, if it is.
fn refused(model: &ModelProto) -> Option<String> {
    let mut why = None;
    within(&model.encode_to_vec(), |bytes| {
        let model = ModelProto::decode(bytes).unwrap();
        why = onnx::import(model, &Ops).err().map(|e| e.to_string());
    });
    why
}

#[test]
fn equal_names_in_great_number() {
    let unnamed = vec![node("A", [], vec![]); 20_000];
    assert_eq!(refused(&model(nodes(unnamed), vec![])), None);
    let mut outs = vec![String::new(); 20_000];
    outs.push("last".into());
    assert_eq!(refused(&model(nodes(vec![node("A", [], outs)]), vec![])), None);
}

/// The result behind the last that a number of 16 bits counts would be the first one.
#[test]
fn results_and_operands_in_too_great_number() {
    let names = || (0..=65_535).map(|i| format!("o{i}"));
    let why = refused(&model(nodes(vec![node("A", [], names().collect())]), vec![])).unwrap();
    assert!(why.contains("at most 65535"), "{why}");
    let reader = node("A", std::iter::repeat_n("x".to_string(), 65_536), vec![]);
    let why = refused(&model(nodes(vec![node("A", [], vec!["x".into()]), reader]), vec![])).unwrap();
    assert!(why.contains("at most 65535"), "{why}");
}

/// Calls that multiply what a function holds, and what it refers to, by far more than the file is large.
#[test]
fn functions_that_grow() {
    let calls = |n| nodes(vec![call("F"); n]);
    let floats = |name: &str| AttributeProto {
        name: Some(name.into()),
        r#type: Some(attribute_proto::AttributeType::Floats as i32),
        floats: vec![0.5; 125_000],
        ..AttributeProto::default()
    };
    let constant = |value| NodeProto { attribute: vec![value], ..node("Constant", [], vec!["c".into()]) };
    let large = function("F", vec![constant(floats("value_floats"))]);
    let why = refused(&model(calls(25_000), vec![large])).unwrap();
    assert!(why.contains("expand to more than 64 MiB"), "{why}");

    let reference = |i| AttributeProto {
        name: Some(format!("a{i}")),
        ref_attr_name: Some("x".into()),
        ..AttributeProto::default()
    };
    let referring = NodeProto { attribute: (0..20_000).map(reference).collect(), ..node("A", [], vec![]) };
    let giving = NodeProto { attribute: vec![floats("x")], ..call("F") };
    let why = refused(&model(nodes(vec![giving]), vec![function("F", vec![referring])])).unwrap();
    assert!(why.contains("expand to more than 64 MiB"), "{why}");

    let many = function("F", vec![node("A", [], vec![String::new(); 1 << 16]); 8]);
    let why = refused(&model(calls(25_000), vec![many])).unwrap();
    assert!(why.contains("expand to more than 524288 nodes"), "{why}");
}

#[test]
fn operator_sets_in_great_number() {
    let mut model = model(nodes(vec![call("F"); 4000]), vec![function("F", vec![node("A", [], vec![])])]);
    let opset = |i| OperatorSetIdProto { domain: Some(format!("d{i}")), version: Some(1) };
    model.opset_import.extend((0..60_000).map(opset));
    assert_eq!(refused(&model), None);
}

/// Functions that call the next one from within many sub-graphs.
#[test]
fn calls_deep_inside_of_sub_graphs() {
    let nested = |i: usize| (0..28).fold(call(&format!("F{}", i + 1)), |inner, _| around(vec![inner]));
    let functions = (0..64).map(|i| function(&format!("F{i}"), vec![nested(i)])).collect();
    assert_eq!(refused(&model(nodes(vec![call("F0")]), functions)), None, "the innermost stay encoded");
}

#[test]
fn a_sub_graph_that_reads_very_many_values() {
    let reader = node("A", (0..150_000).map(|i| format!("v{i}")), vec![]);
    let why = refused(&model(nodes(vec![around(vec![reader])]), vec![])).unwrap();
    assert!(why.contains("reads \"v0\", which no node"), "{why}");
}

#[test]
fn long_names() {
    let named = |node: NodeProto, len: usize| NodeProto { name: Some("n".repeat(len)), ..node };
    let unnamed = |n| {
        let mut outs = vec![String::new(); n];
        outs.push("last".into());
        node("A", [], outs)
    };
    let why = refused(&model(nodes(vec![named(unnamed(10_000), 500_000)]), vec![])).unwrap();
    assert!(why.contains("is longer than 4096 bytes"), "{why}");
    assert!(why.len() < 200, "{why}");
    let why = refused(&model(nodes(vec![named(unnamed(60_000), 4000)]), vec![])).unwrap();
    assert!(why.contains("expand to more than 64 MiB"), "{why}");

    let deeper = |node| around(vec![named(node, 5000)]);
    let inner = function("F", vec![deeper(node("A", [], vec![]))]);
    let why = refused(&model(nodes(vec![call("F")]), vec![inner])).unwrap();
    assert!(why.contains("is longer than 4096 bytes"), "{why}");

    // A call in a call, each with a long name.
    let functions = || {
        vec![function("F", vec![named(call("G"), 3000)]), function("G", vec![node("A", [], vec![]); 10_000])]
    };
    let why = refused(&model(nodes(vec![named(call("F"), 3000)]), functions())).unwrap();
    assert!(why.contains("is longer than 4096 bytes"), "{why}");
    let why = refused(&model(nodes(vec![named(call("G"), 4000); 10]), functions())).unwrap();
    assert!(why.contains("expand to more than 64 MiB"), "{why}");
}

/// Each wrong declaration is told, with both types.
#[test]
fn wrong_declarations_of_long_types() {
    use onnx::proto::tensor_shape_proto::{Dimension, dimension::Value};
    use onnx::proto::{TensorShapeProto, TypeProto, type_proto};
    let info = |name: &str, dim: Vec<Dimension>| {
        let shape = Some(TensorShapeProto { dim });
        let tensor = type_proto::Tensor { elem_type: Some(1), shape };
        let ty = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), denotation: None };
        ValueInfoProto { name: Some(name.into()), r#type: Some(ty), ..ValueInfoProto::default() }
    };
    let dim = |i: usize| Dimension { value: Some(Value::DimParam(format!("{i:0>500}"))), denotation: None };
    let relu = |i: usize| node("Relu", ["x".to_string()], vec![format!("y{i}")]);
    let graph = GraphProto {
        node: (0..10_000).map(relu).collect(),
        input: vec![info("x", (0..64).map(dim).collect())],
        value_info: (0..10_000).map(|i| info(&format!("y{i}"), vec![])).collect(),
        ..GraphProto::default()
    };
    let why = refused(&model(graph, vec![])).unwrap();
    assert!(why.contains("expand to more than 64 MiB"), "{why}");
}

#[test]
fn one_value_under_very_many_names() {
    let mut graph = ir::text::parse("net (float[1] x) => () { y = Relu (x) }", &Ops).unwrap();
    let y = graph.find("y").unwrap();
    (0..20_000).for_each(|i| graph.add_output(&format!("y{i}"), y));
    let start = Instant::now();
    onnx::export(&graph, &onnx::Meta::default(), None).unwrap();
    assert!(start.elapsed() < LONGEST, "{:?}", start.elapsed());
}

/// What is inferred and what is declared are shapes that could exist, and both together are not.
#[test]
fn declared_sizes_that_multiply_with_inferred_ones() {
    let text = "net (float[N,1099511627776] x) => (float[1099511627776,M] y) { y = Relu (x) }";
    let graph = ir::text::parse(text, &Ops).unwrap();
    assert_eq!(graph.ty(graph.outputs()[0].value).to_string(), "float[N,1099511627776]");
    assert_eq!(train::Signature::of(&graph).loss, None);
}

/// Deeper than any stack, if each of them were looked through by a call.
#[test]
fn a_convolution_behind_many_transposes() {
    let turns: Vec<String> =
        (0..4000).map(|i| format!("x{} = Transpose <perm=[0, 1, 3, 2]> (x{i})", i + 1)).collect();
    let bytes = file(&format!(
        "net (float[1,1,2,2] x0) => (float[1,1,2,2] y) <float[1,1,1,1] w = {{1.0}}>
         {{ {} y = Conv (x4000, w) }}",
        turns.join(" ")
    ));
    within(&bytes, hostile::compile);
}

/// A bias of one number that is taken of millions, for each convolution anew.
#[test]
fn a_bias_that_all_share() {
    let layers: Vec<String> = (0..300).map(|i| format!("x{} = Conv (x{i}, w, b)", i + 1)).collect();
    let bytes = file(&format!(
        "net (float[1,1,2] x0) => (float[1,1,2] x300)
         <float[1,1,1] w = {{1.0}}, int8[1] codes = {{1}}, float[] scale = {{0.5}}, int8[] zero_point = {{0}},
          int64[1] sizes = {{4194304}}, int64[1] from = {{7}}, int64[1] to = {{8}}>
         {{
           number = DequantizeLinear (codes, scale, zero_point)
           wide = Expand (number, sizes)
           b = Slice (wide, from, to)
           {}
         }}",
        layers.join(" ")
    ));
    within(&bytes, hostile::compile);
}

#[test]
fn as_many_outputs_as_tensors() {
    let layers: Vec<String> = (0..2000).map(|i| format!("y{i} = Conv (x, w)")).collect();
    let outputs: Vec<String> = (0..2000).map(|i| format!("float[1,1,2] y{i}")).collect();
    let bytes = file(&format!(
        "net (float[1,1,2] x) => ({}) <float[1,1,1] w = {{1.0}}> {{ {} }}",
        outputs.join(", "),
        layers.join(" ")
    ));
    within(&bytes, hostile::compile);
}
