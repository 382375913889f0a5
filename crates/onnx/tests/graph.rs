//! Models to graphs and back.
#![allow(clippy::unwrap_used)]

mod common;

use onnx_qat_onnx as onnx;

use common::*;
use ir::{Attr, Graph, Infer, Kind, OnnxForm, Op, Role, Type};
use onnx::proto::attribute_proto::AttributeType;
use onnx::proto::*;
use onnx::{Meta, ModelError, SaveOptions, Weights, export, import, load, save};
use std::sync::Arc;
use tensor::{DType, Tensor};

fn read(model: &ModelProto) -> (Graph, Meta) {
    import(model.clone(), &Ops).unwrap()
}

fn refused(model: &ModelProto) -> String {
    import(model.clone(), &Ops).unwrap_err().to_string()
}

fn op_types(model: &ModelProto) -> Vec<&str> {
    model.graph.as_ref().unwrap().node.iter().map(NodeProto::op_type).collect()
}

#[test]
fn weights_are_the_same_wherever_the_file_has_them() {
    let add = || node("Add", "add", &["x", "w"], &["y"]);
    let initializer = graph(vec![add()], vec![weights("w", &[1.0; 4])], &["y"]);

    let mut listed = initializer.clone();
    listed.input.insert(0, info("w", DType::F32, &[4]));

    let mut value = attribute("value", AttributeType::Tensor);
    value.t = Some(weights("anything", &[1.0; 4]));
    let with = |a: AttributeProto| NodeProto { attribute: vec![a], ..node("Constant", "c", &[], &["w"]) };
    let constant = graph(vec![with(value), add()], vec![], &["y"]);

    let floats = AttributeProto { floats: vec![1.0; 4], ..attribute("value_floats", AttributeType::Floats) };
    let short = graph(vec![with(floats), add()], vec![], &["y"]);

    let expected = text(&read(&model(initializer, 13)).0);
    for other in [listed, constant, short] {
        assert_eq!(text(&read(&model(other, 13)).0), expected);
    }
}

#[test]
fn node_names_become_unique() {
    let chain = ["", "a", "a", ""];
    let nodes = chain.iter().enumerate().map(|(i, name)| {
        let ins = if i == 0 { "x".to_string() } else { format!("t{i}") };
        node("Relu", name, &[&ins], &[&format!("t{}", i + 1)])
    });
    let (g, _) = read(&model(graph(nodes.collect(), vec![], &["t4"]), 13));
    let names: Vec<String> = g.nodes().into_iter().map(|id| g.node(id).name.clone()).collect();
    assert_eq!(names, ["x", "t1", "a", "a_1", "t4"]);
    g.check().unwrap();
}

#[test]
fn a_name_that_is_free_again_is_given_again() {
    let mut g = Graph::new("g");
    let b: Vec<_> = (0..4).map(|_| g.add_input("b", ir::Type::of(DType::F32))).collect();
    assert_eq!(b.iter().map(|&v| g.value(v).name.as_str()).collect::<Vec<_>>(), ["b", "b_1", "b_2", "b_3"]);
    g.rename(b[1], "c");
    assert_eq!([g.fresh("b"), g.fresh("b"), g.fresh("b_1")], ["b_1", "b_4", "b_1_1"]);
}

#[test]
fn nodes_out_of_order_are_sorted() {
    let (a, b) = (node("Relu", "a", &["x"], &["t"]), node("Relu", "b", &["t"], &["y"]));
    let sorted = read(&model(graph(vec![a.clone(), b.clone()], vec![], &["y"]), 13)).0;
    let unsorted = read(&model(graph(vec![b, a], vec![], &["y"]), 13)).0;
    assert_eq!(text(&sorted), text(&unsorted));
}

#[test]
fn structural_mistakes_name_node_and_tensor() {
    let relu = |name: &str, from: &str, to: &str| node("Relu", name, &[from], &[to]);
    let cases = [
        (
            vec![
                node("Add", "a", &["x", "t3"], &["t1"]),
                relu("b", "t1", "t2"),
                relu("c", "t2", "t3"),
                relu("d", "t3", "y"),
            ],
            "Add node \"a\": depends on its own result: the graph has a cycle through \"t3\", \"t2\", \"t1\"",
        ),
        (vec![relu("self", "y", "y")], "Relu node \"self\": depends on its own result"),
        (
            vec![relu("a", "w", "y")],
            "Relu node \"a\": reads \"w\", which no node, initializer or graph input defines",
        ),
        (vec![relu("a", "x", "t")], "graph output \"y\": reads \"y\", which no node"),
        (
            vec![relu("a", "x", "y"), relu("", "x", "y")],
            "Relu node of \"y\": defines \"y\", which is already the result of Relu node \"a\"",
        ),
        (vec![relu("a", "x", "x")], "Relu node \"a\": defines \"x\", which is already a graph input"),
        (
            vec![relu("a", "x", "v"), relu("b", "v", "y")],
            "Relu node \"a\": defines \"v\", which is already an initializer",
        ),
        (vec![node("Relu", "a", &["x", "x"], &["y"])], "Relu node \"a\": takes 1 input, not 2"),
    ];
    for (nodes, expected) in cases {
        let message = refused(&model(graph(nodes, vec![weights("v", &[0.0])], &["y"]), 13));
        assert!(message.starts_with(expected), "{message}");
    }
    let twice = graph(vec![relu("a", "x", "y")], vec![weights("v", &[0.0]), weights("v", &[1.0])], &["y"]);
    assert_eq!(refused(&model(twice, 13)), "tensor \"v\": it is defined by two initializers");
    let mut twice = graph(vec![relu("a", "x", "y")], vec![], &["y"]);
    twice.input.push(twice.input[0].clone());
    assert_eq!(refused(&model(twice, 13)), "tensor \"x\": it is listed twice among the graph inputs");
    let mut wrong = weights("v", &[0.0]);
    wrong.dims = vec![3];
    let message = refused(&model(graph(vec![relu("a", "x", "y")], vec![wrong], &["y"]), 13));
    assert_eq!(message, "tensor \"v\": a float tensor of shape [3] takes 12 bytes, but 4 are there");
}

#[test]
fn versions_out_of_range_are_refused() {
    let at = |opset| model(graph(vec![node("Relu", "a", &["x"], &["y"])], vec![], &["y"]), opset);
    assert!(refused(&at(6)).starts_with("opset 6 is not supported: opsets 7 to 28 are read"));
    assert!(refused(&at(29)).contains("opset_version=28"));
    let mut none = at(13);
    none.opset_import.clear();
    assert!(refused(&none).contains("does not say which version"));
    let mut old = at(13);
    old.ir_version = Some(2);
    assert!(refused(&old).starts_with("ONNX IR version 2 is not supported"));
    let mut new = at(13);
    new.ir_version = Some(99);
    assert!(read(&new).1.notes()[0].contains("IR version 99"));
    new.graph = None;
    assert_eq!(import(new, &Ops).unwrap_err(), ModelError::NoGraph);
    // Other operator sets may have any version.
    let mut other = at(13);
    other.opset_import.push(OperatorSetIdProto { domain: Some("com.example".into()), version: Some(999) });
    let (g, meta) = read(&other);
    let opset = |m: &ModelProto| {
        m.opset_import.iter().map(|o| (o.domain().to_string(), o.version())).collect::<Vec<_>>()
    };
    let (written, _) = export(&g, &meta, Some(20)).unwrap();
    assert_eq!(opset(&written), [("".to_string(), 20), ("com.example".to_string(), 999)]);
    assert_eq!(written.ir_version(), 9);
    let versions = [18, 22, 23, 24, 27, 28].map(|o| export(&g, &meta, Some(o)).unwrap().0.ir_version());
    assert_eq!(versions, [8, 10, 11, 12, 13, 14]);
    let newest = export(&g, &meta, Some(28)).unwrap().0;
    assert!(!read(&newest).1.notes().iter().any(|note| note.contains("IR version")));
    assert_eq!(export(&g, &meta, None).unwrap().0.ir_version(), 8);
    for opset in [12, 29] {
        let message = export(&g, &meta, Some(opset)).unwrap_err().to_string();
        assert_eq!(message, format!("opset {opset} is not supported: opsets 13 to 28 are written"));
    }
}

#[test]
fn attributes_that_became_inputs() {
    let mut clip = node("Clip", "clip", &["x"], &["y"]);
    clip.attribute = vec![float("max", 6.0), float("min", 0.0)];
    let (g, meta) = read(&model(graph(vec![clip], vec![], &["y"]), 9));
    g.check().unwrap();
    let (written, notes) = export(&g, &meta, None).unwrap();
    assert!(notes.is_empty());
    let file = written.graph.as_ref().unwrap();
    assert_eq!(file.node[0].input, ["x", "clip_input1", "clip_input2"]);
    assert_eq!(file.node[0].attribute, []);
    assert_eq!(written.opset_import[0].version(), 17);
    assert_eq!(text(&read(&written).0), text(&g));
    // They are of the type of what they bound.
    let mut clip = node("Clip", "clip", &["x"], &["y"]);
    clip.attribute = vec![float("max", 6.0)];
    let mut half = graph(vec![clip], vec![], &["y"]);
    half.input = vec![info("x", DType::F16, &[4])];
    half.output = vec![info("y", DType::F16, &[4])];
    let (g, meta) = read(&model(half, 10));
    let file = export(&g, &meta, None).unwrap().0.graph.unwrap();
    assert!(file.initializer.iter().all(|t| t.data_type() == DType::F16.onnx()));
    // A wrong attribute is reported with its node.
    let mut clip = node("Clip", "clip", &["x"], &["y"]);
    clip.attribute = vec![AttributeProto { i: Some(6), ..attribute("max", AttributeType::Int) }];
    let message = refused(&model(graph(vec![clip], vec![], &["y"]), 9));
    assert_eq!(message, "Clip node \"clip\": attribute max should be a float, but is Int(6)");
}

#[test]
fn inputs_that_are_attributes_for_us() {
    let mut g = Graph::new("g");
    let x = g.add_input("x", Type::new(DType::F32, [4usize]));
    let y = g.add(Scale(2.0), &[x], "y").unwrap();
    g.add_output("y", y);
    let (written, _) = export(&g, &Meta::default(), Some(13)).unwrap();
    let file = written.graph.unwrap();
    assert_eq!(file.node[0].input, ["x", "y_input1"]);
    assert_eq!(file.initializer[0].name(), "y_input1");
    let message = export(&g, &Meta::default(), Some(17)).unwrap_err().to_string();
    assert_eq!(message, "Scale node \"y\": at opset 17: Scale was removed");
    // What cannot be expressed at 17 stays at the opset of its file.
    let (_, meta) = read(&model(graph(vec![node("Relu", "r", &["x"], &["y"])], vec![], &["y"]), 14));
    assert_eq!(export(&g, &meta, None).unwrap().0.opset_import[0].version(), 14);
}

#[test]
fn inputs_that_were_attributes_or_elsewhere() {
    let axes = || onnx::from_tensor("axes", &Tensor::new(&[2], vec![0i64, -1]));
    let swapped = graph(vec![node("Mean2", "m", &["axes", "x"], &["y"])], vec![axes()], &["y"]);
    let ordered = graph(vec![node("Mean2", "m", &["x", "axes"], &["y"])], vec![axes()], &["y"]);
    let (g, meta) = read(&model(swapped, 11));
    assert_eq!(text(&g), text(&read(&model(ordered.clone(), 18)).0));

    let (written, _) = export(&g, &meta, Some(17)).unwrap();
    let file = written.graph.as_ref().unwrap();
    assert_eq!((file.node[0].input.len(), &file.node[0].attribute[0].ints), (1, &vec![0, -1]));
    assert!(file.initializer.is_empty(), "the constant is an attribute now");
    let (again, meta) = read(&written);
    let (newest, _) = export(&again, &meta, Some(20)).unwrap();
    assert_eq!(newest.graph.unwrap().node[0].input, ["x", "m_input1"]);

    // Computed axes have no form before opset 18: by default the file stays where it is.
    let mut computed = ordered;
    computed.initializer.clear();
    computed.input.push(info("axes", DType::I64, &[2]));
    let (g, meta) = read(&model(computed, 18));
    assert_eq!(export(&g, &meta, None).unwrap().0.opset_import[0].version(), 18);
    let message = export(&g, &meta, Some(17)).unwrap_err().to_string();
    assert_eq!(message, "Mean2 node \"m\": at opset 17 its axes must be constant, but input 1 is computed");
}

/// `If` with two branches that read `w`, `x` and an inner name from around.
fn with_branches() -> ModelProto {
    let inner = |op: &str, ins: [&str; 2]| GraphProto {
        name: Some("branch".into()),
        node: vec![node(op, "in1", &ins, &["inner"]), node("Neg", "in2", &["inner"], &["res"])],
        output: vec![info("res", DType::F32, &[4])],
        ..GraphProto::default()
    };
    let branch = |name: &str, g| AttributeProto { g: Some(g), ..attribute(name, AttributeType::Graph) };
    let mut choose = node("If", "choose", &["cond"], &["y"]);
    choose.attribute = vec![
        branch("else_branch", inner("Sub", ["x", "w"])),
        branch("then_branch", inner("Add", ["w", "x"])),
    ];
    choose.doc_string = Some("either".into());
    let relu = node("Relu", "relu", &["v"], &["w"]);
    let cond = onnx::from_tensor("cond", &Tensor::bools(&[], &[true]));
    model(graph(vec![choose, relu], vec![cond, weights("v", &[1.0; 4])], &["y"]), 16)
}

#[test]
fn sub_graphs_are_kept_and_what_they_read_stays_alive() {
    let file = with_branches();
    let (mut g, meta) = read(&file);
    g.sweep();
    g.check().unwrap();
    assert!(g.find("w").is_some(), "read only by the branches");
    let (written, notes) = export(&g, &meta, None).unwrap();
    assert_eq!(written.opset_import[0].version(), 16, "an operator that we cannot convert keeps the opset");
    assert!(notes.is_empty());
    let (before, after) = (&file.graph.as_ref().unwrap().node[0], &written.graph.as_ref().unwrap().node[1]);
    assert_eq!(before, after);
    assert_eq!(text(&read(&written).0), text(&g));
    let (_, notes) = export(&g, &meta, Some(17)).unwrap();
    assert_eq!(notes, ["written as at opset 16 into a file of opset 17: 1 nodes (If)"]);
    // New values may not take names from inside.
    assert_eq!(g.fresh("inner"), "inner_1");
}

#[test]
fn sub_graphs_follow_a_replaced_value() {
    let mut file = with_branches();
    // Attributes come back sorted by name; a file may have them in any order.
    file.graph.as_mut().unwrap().node[0].attribute.reverse();
    let (mut g, meta) = read(&file);
    let w = g.find("w").unwrap();
    let fq = g.add(Relu, &[w], "w_quantized").unwrap();
    g.replace(w, fq).unwrap();
    let (written, _) = export(&g, &meta, None).unwrap();
    let choose = written.graph.unwrap().node.into_iter().find(|n| n.op_type() == "If").unwrap();
    let reads: Vec<_> = choose.attribute.iter().map(|a| &a.g.as_ref().unwrap().node[0].input).collect();
    assert_eq!(reads, [&["x", "w_quantized"], &["w_quantized", "x"]]);
}

#[test]
fn an_unknown_node_is_not_taken_to_an_opset_where_it_means_something_else() {
    let softmax = || node("Softmax", "s", &["x"], &["y"]);
    let (g, meta) = read(&model(graph(vec![softmax()], vec![], &["y"]), 9));
    let message = export(&g, &meta, None).unwrap_err().to_string();
    assert!(message.starts_with("Softmax node \"s\": Softmax changed in opset 13"), "{message}");
    // Nor inside of a sub-graph.
    let mut loop_node = node("Loop", "l", &["x"], &["y"]);
    let body = GraphProto { node: vec![softmax()], ..GraphProto::default() };
    loop_node.attribute = vec![AttributeProto { g: Some(body), ..attribute("body", AttributeType::Graph) }];
    let (g, meta) = read(&model(graph(vec![loop_node], vec![], &["y"]), 11));
    let message = export(&g, &meta, None).unwrap_err().to_string();
    assert!(message.starts_with("Loop node \"l\": Softmax changed in opset 13"), "{message}");
    // Where only newer opsets differ, an older one serves.
    let roi = node("RoiAlign", "r", &["x"], &["y"]);
    let (g, meta) = read(&model(graph(vec![roi], vec![], &["y"]), 10));
    assert_eq!(export(&g, &meta, None).unwrap().0.opset_import[0].version(), 15);
}

#[test]
fn a_file_with_types_that_are_not_stored_keeps_its_opset() {
    let float8 = |name: &str| {
        let mut value = info(name, DType::F32, &[4]);
        if let Some(type_proto::Value::TensorType(tensor)) =
            value.r#type.as_mut().and_then(|t| t.value.as_mut())
        {
            tensor.elem_type = Some(17);
        }
        value
    };
    let mut file = graph(vec![node("Relu", "a", &["x"], &["y"])], vec![], &["y"]);
    (file.input, file.output) = (vec![float8("x")], vec![float8("y")]);
    let (g, meta) = read(&model(file, 19));
    assert_eq!(export(&g, &meta, None).unwrap().0.opset_import[0].version(), 19);
}

#[test]
fn unknown_nodes_are_untouched() {
    let mut strange = node("Strange", "s", &["x", "", "w"], &["", "y", "z"]);
    strange.domain = Some("com.example".into());
    strange.doc_string = Some("what is this".into());
    strange.metadata_props = vec![StringStringEntryProto { key: Some("k".into()), value: Some("v".into()) }];
    strange.overload = Some("fast".into());
    let mut typed = attribute("tensor", AttributeType::Tensor);
    typed.t = Some(TensorProto { float_data: vec![1.0], raw_data: None, ..weights("inner name", &[1.0]) });
    strange.attribute = vec![
        AttributeProto { s: Some(vec![0xff, 0].into()), ..attribute("blob", AttributeType::String) },
        AttributeProto { doc_string: Some("documented".into()), ..float("f", f32::NAN) },
        AttributeProto { ints: vec![], ..attribute("list", AttributeType::Ints) },
        typed,
        AttributeProto {
            tp: info("", DType::U8, &[1]).r#type,
            ..attribute("type", AttributeType::TypeProto)
        },
    ];
    let relu = node("Relu", "r", &["z"], &["out"]);
    let mut file = model(graph(vec![strange.clone(), relu], vec![weights("w", &[1.0])], &["y", "out"]), 13);
    file.graph.as_mut().unwrap().value_info = vec![info("z", DType::F32, &[-1, 4])];
    let (g, meta) = read(&file);
    g.check().unwrap();
    assert_eq!(g.ty(g.find("out").unwrap()).to_string(), "float[?,4]", "declared types carry inference on");
    let (written, notes) = export(&g, &meta, Some(17)).unwrap();
    // NaN is not equal to itself: compare the text.
    assert_eq!(format!("{:?}", written.graph.as_ref().unwrap().node[0]), format!("{strange:?}"));
    assert!(notes.is_empty(), "another domain has its own version");
    assert_eq!(text(&read(&written).0), text(&g));
}

#[test]
fn tensors_that_we_do_not_store_travel_as_constants() {
    let words = TensorProto {
        name: Some("words".into()),
        data_type: Some(tensor_proto::DataType::String as i32),
        dims: vec![1],
        string_data: vec!["hello".into()],
        ..TensorProto::default()
    };
    let sparse = SparseTensorProto {
        values: Some(weights("holes", &[1.0])),
        indices: Some(onnx::from_tensor("", &Tensor::new(&[1], vec![2i64]))),
        dims: vec![4],
    };
    let lookup = node("Lookup", "l", &["words", "holes", "x"], &["y"]);
    let mut file = graph(vec![lookup], vec![words.clone()], &["y"]);
    file.sparse_initializer = vec![sparse.clone()];
    let (g, meta) = read(&model(file, 13));
    let (written, _) = export(&g, &meta, None).unwrap();
    assert_eq!(op_types(&written), ["Constant", "Constant", "Lookup"]);
    let nodes = &written.graph.as_ref().unwrap().node;
    assert_eq!((nodes[0].attribute[0].t.as_ref(), nodes[0].attribute[0].name()), (Some(&words), "value"));
    assert_eq!(nodes[1].attribute[0].sparse_tensor.as_ref(), Some(&sparse));
    assert_eq!(text(&read(&written).0), text(&g));
}

#[test]
fn outputs_keep_their_names() {
    let relu = || node("Relu", "r", &["x"], &["y"]);
    // A pass puts a node behind the output.
    let (mut g, meta) = read(&model(graph(vec![relu()], vec![], &["y"]), 13));
    let y = g.find("y").unwrap();
    let behind = g.add(Relu, &[y], "y_quantized").unwrap();
    g.replace(y, behind).unwrap();
    let file = export(&g, &meta, None).unwrap().0.graph.unwrap();
    let ends: Vec<_> = file.node.iter().map(|n| (n.input[0].as_str(), n.output[0].as_str())).collect();
    assert_eq!(ends, [("x", "y_1"), ("y_1", "y")]);

    // One value under two names, an input and a constant as outputs.
    let (mut g, meta) =
        read(&model(graph(vec![relu()], vec![weights("w", &[0.0; 4])], &["y", "w", "x"]), 13));
    let find = |g: &Graph, name| g.find(name).unwrap();
    let outputs = ["y", "w", "x"].map(|name| (name.to_string(), find(&g, name)));
    let (y, w, x) = (find(&g, "y"), find(&g, "w"), find(&g, "x"));
    let more = [("again".to_string(), y), ("constant".to_string(), w), ("echo".to_string(), x)];
    g.set_outputs(outputs.into_iter().chain(more));
    let (written, _) = export(&g, &meta, None).unwrap();
    assert_eq!(op_types(&written), ["Relu", "Identity", "Identity", "Identity"]);
    let names = |m: &ModelProto| {
        m.graph.as_ref().unwrap().output.iter().map(|o| o.name().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names(&written), ["y", "w", "x", "again", "constant", "echo"]);
    let again = read(&written);
    assert_eq!(names(&export(&again.0, &again.1, None).unwrap().0), names(&written));

    g.set_outputs([("y".to_string(), y), ("y".to_string(), x)]);
    assert!(export(&g, &meta, None).unwrap_err().to_string().contains("two graph outputs"));
    g.set_outputs([("x".to_string(), y)]);
    assert!(export(&g, &meta, None).unwrap_err().to_string().contains("a graph input and a graph output"));
}

#[test]
fn what_a_file_says_beside_its_graph_is_kept() {
    let entry = |k: &str, v: &str| StringStringEntryProto { key: Some(k.into()), value: Some(v.into()) };
    let mut add = node("Add", "add", &["t", "w"], &["y"]);
    add.doc_string = Some("sum".into());
    let mut file = graph(vec![node("Relu", "r", &["x"], &["t"]), add], vec![weights("w", &[1.0; 4])], &["y"]);
    file.doc_string = Some("graph".into());
    file.initializer[0].doc_string = Some("weights".into());
    file.input[0].doc_string = Some("pictures".into());
    file.value_info = vec![info("t", DType::F32, &[-1, 4])];
    let quantized = |tensor: &str, scale: &str| TensorAnnotation {
        tensor_name: Some(tensor.into()),
        quant_parameter_tensor_names: vec![entry("SCALE_TENSOR", scale)],
    };
    file.quantization_annotation = vec![quantized("t", "w")];
    let mut m = model(file, 14);
    m.doc_string = Some("model".into());
    m.domain = Some("com.example".into());
    m.model_version = Some(3);
    m.metadata_props = vec![entry("classes", "cat,dog")];
    m.functions = vec![FunctionProto {
        name: Some("Relu2".into()),
        domain: Some("local".into()),
        ..FunctionProto::default()
    }];
    let step = GraphProto {
        node: vec![node("Neg", "n", &["w"], &["w_new"])],
        output: vec![info("w_new", DType::F32, &[4])],
        ..GraphProto::default()
    };
    m.training_info = vec![TrainingInfoProto {
        algorithm: Some(step),
        update_binding: vec![entry("w", "w_new")],
        ..TrainingInfoProto::default()
    }];

    let (mut g, mut meta) = read(&m);
    assert_eq!((meta.opset(), meta.ir_version(), meta.producer()), (14, 8, ("by hand", "1")));
    assert_eq!(meta.metadata().collect::<Vec<_>>(), [("classes", "cat,dog")]);
    assert!(meta.has_functions() && meta.has_training_info());
    let (written, notes) = export(&g, &meta, Some(14)).unwrap();
    assert_eq!((written, notes), (m.clone(), vec![]));

    // The trained weights are replaced: the training steps no longer fit.
    let w = g.find("w").unwrap();
    let new = g.add_const("w_int8", Tensor::new(&[4], vec![0f32; 4]));
    g.replace(w, new).unwrap();
    g.sweep();
    let (written, notes) = export(&g, &meta, Some(14)).unwrap();
    assert_eq!(notes, ["the training steps of the file were left out: they use values that are gone"]);
    assert!(written.training_info.is_empty() && written.graph.unwrap().quantization_annotation.is_empty());
    meta.drop_training_info();
    meta.set_metadata("classes", "dog");
    meta.set_metadata("bits", "8");
    meta.set_producer("us", "2");
    let (written, notes) = export(&g, &meta, Some(14)).unwrap();
    assert!(notes.is_empty());
    assert_eq!(written.metadata_props, [entry("classes", "dog"), entry("bits", "8")]);
    assert_eq!(written.producer_name(), "us");
}

#[test]
fn calls_of_local_functions_are_not_taken_for_ours() {
    let mut m = model(graph(vec![node("Relu", "r", &["x"], &["y"])], vec![], &["y"]), 13);
    m.functions = vec![FunctionProto {
        name: Some("Relu".into()),
        input: vec!["a".into()],
        output: vec!["b".into()],
        node: vec![node("Neg", "inner", &["a"], &["b"])],
        ..FunctionProto::default()
    }];
    let (g, meta) = read(&m);
    assert_eq!(g.node(g.find_node("r/inner").unwrap()).op().unwrap().name(), "Neg");
    assert!(!meta.has_functions(), "nobody calls it any more");
    let written = export(&g, &meta, None).unwrap().0;
    assert_eq!(written.graph.unwrap().node[0].op_type(), "Neg");
}

#[test]
fn functions_that_never_end_are_refused() {
    let calling = |name: &str, calls: usize| FunctionProto {
        name: Some(name.into()),
        domain: Some("local".into()),
        input: vec!["a".into()],
        output: vec!["b0".into()],
        node: (0..calls).map(|i| local("Again", &format!("n{i}"), &["a"], &[&format!("b{i}")])).collect(),
        ..FunctionProto::default()
    };
    let mut m = model(graph(vec![local("Again", "r", &["x"], &["y"])], vec![], &["y"]), 13);
    for calls in [1, 100] {
        m.functions = vec![calling("Again", calls)];
        let message = import(m.clone(), &Ops).unwrap_err().to_string();
        assert!(
            message.contains("\"Again\" calls itself") || message.contains("expand to more than"),
            "{message}"
        );
    }
    m.functions = vec![FunctionProto { output: vec!["c".into()], ..calling("Again", 0) }];
    let message = import(m, &Ops).unwrap_err().to_string();
    assert!(message.contains("the function does not define its result \"c\""), "{message}");
}

fn local(op_type: &str, name: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    NodeProto { domain: Some("local".into()), ..node(op_type, name, inputs, outputs) }
}

/// With one result alone it is another operator before opset 14.
#[derive(Debug)]
struct Paired;

impl Op for Paired {
    fn name(&self) -> &str {
        "Paired"
    }
    fn to_onnx(&self, opset: i64) -> Result<OnnxForm, String> {
        let fewest = if opset < 14 { 2 } else { 1 };
        Ok(OnnxForm { op_type: "Paired".into(), fewest, ..OnnxForm::default() })
    }
    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        Ok(vec![cx.ty(0)?.clone(); 2])
    }
}

#[test]
fn results_that_tell_the_meaning_must_be_there() {
    let written = |outs: &[&str], opset| {
        let mut g = Graph::new("g");
        let x = g.add_input("x", Type::of(DType::F32));
        let id = g.add_node(Arc::new(Paired), &[Some(x)], "p", outs).unwrap();
        g.add_output("y", id.into());
        export(&g, &Meta::default(), Some(opset)).map(|_| ()).map_err(|e| e.to_string())
    };
    assert_eq!([written(&["y", "z"], 13), written(&["y"], 14)], [Ok(()), Ok(())]);
    let message = written(&["y"], 13).unwrap_err();
    assert!(message.contains("fewer than 2 results, and it has 1"), "{message}");
}

#[test]
fn variables_are_written_with_their_value() {
    let mut g = Graph::new("");
    let x = g.add_input("x", Type::new(DType::F32, [4usize]));
    let w = g.add_variable("w", Tensor::new(&[4], vec![1f32, 2., 3., 4.]), Role::Param("weights".into()));
    let y = g.add(Relu, &[x], "y").unwrap();
    g.add_output("y", y);
    g.add_output("w", w);
    let (written, _) = export(&g, &Meta::default(), None).unwrap();
    let (back, _) = read(&written);
    assert!(
        matches!(&back.node(back.find("w").unwrap().node).kind, Kind::Const(t) if t.to_f64() == [1., 2., 3., 4.])
    );
    g.set_update(w, x);
    let message = export(&g, &Meta::default(), None).unwrap_err().to_string();
    assert!(message.starts_with("variable \"w\": has an update"), "{message}");
}

#[test]
fn wrong_declarations_are_noted() {
    let mut file = graph(vec![node("Relu", "r", &["x"], &["y"])], vec![], &["y"]);
    file.output = vec![info("y", DType::F32, &[1, 5])];
    let (g, meta) = read(&model(file, 13));
    assert_eq!(g.ty(g.find("y").unwrap()).to_string(), "float[?,4]");
    assert_eq!(meta.notes(), ["Relu node \"r\": \"y\" is declared as float[1,5], but is float[?,4]"]);
}

#[test]
fn files_hold_graphs() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.onnx");
    let (g, meta) = read(&with_branches());
    for weights in [Weights::Auto, Weights::Beside { from: 1 }] {
        let saved = save(&g, &meta, &path, &SaveOptions { opset: Some(16), weights }).unwrap();
        assert_eq!(saved.files.len(), if weights == Weights::Auto { 1 } else { 2 });
        assert_eq!(text(&load(&path, &Ops).unwrap().0), text(&g));
    }
    let message = load(dir.path().join("other.onnx"), &Ops).unwrap_err().to_string();
    assert!(message.ends_with("other.onnx: there is no such file"), "{message}");
    let options = SaveOptions { opset: Some(7), ..SaveOptions::default() };
    let message = save(&g, &meta, &path, &options).unwrap_err().to_string();
    assert!(message.ends_with("m.onnx: opset 7 is not supported: opsets 13 to 28 are written"), "{message}");
    std::fs::remove_file(dir.path().join("m.onnx.data")).unwrap();
    let message = load(&path, &Ops).unwrap_err().to_string();
    assert!(
        message.contains("tensor \"cond\" in \"m.onnx.data\" cannot be used: there is no such file"),
        "{message}"
    );
}

#[test]
fn raw_attributes_survive() {
    let (g, _) = read(&with_branches());
    let op = g.node(g.find_node("choose").unwrap()).op().unwrap();
    assert!(matches!(op.attrs().get("then_branch"), Some(Attr::Raw(_))));
}
