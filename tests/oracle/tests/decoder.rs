//! `onnx-protobuf` decodes what we write: every tensor, node, attribute and type reads the same, and it meets no field
//! that its own schema does not have.
#![allow(clippy::unwrap_used)]

use ir::{Graph, Op, Parse, Parsed, Registry};
use onnx::proto as ours;
use onnx::{Error, Meta, ModelError, SaveOptions, Weights, from_tensor, load, read_model, save, write_model};
use onnx_protobuf as theirs;
use protobuf::Message;
use std::fs;
use std::path::{Path, PathBuf};
use tensor::{DType, Tensor};

fn decode(path: &Path) -> theirs::ModelProto {
    theirs::ModelProto::parse_from_bytes(&fs::read(path).unwrap()).unwrap()
}

/// Decodes a file twice and compares.
fn compare(path: &Path) {
    let (a, b) = (read_model(path).unwrap(), decode(path));
    assert_eq!(a.ir_version(), b.ir_version);
    assert_eq!(a.producer_name(), b.producer_name);
    assert_eq!(a.producer_version(), b.producer_version);
    assert_eq!(a.doc_string(), b.doc_string);
    let opsets = a.opset_import.iter().map(|o| (o.domain(), o.version()));
    assert!(opsets.eq(b.opset_import.iter().map(|o| (o.domain.as_str(), o.version))));
    entries(&a.metadata_props, &b.metadata_props);
    assert_eq!(a.functions.len(), b.functions.len());
    for (a, b) in a.functions.iter().zip(&b.functions) {
        assert_eq!(
            (a.name(), a.domain(), &a.input, &a.output),
            (b.name.as_str(), b.domain.as_str(), &b.input, &b.output)
        );
        nodes(&a.node, &b.node);
    }
    assert_eq!(a.training_info.len(), b.training_info.len());
    for (a, b) in a.training_info.iter().zip(&b.training_info) {
        entries(&a.update_binding, &b.update_binding);
        let pairs = [(&a.initialization, &b.initialization), (&a.algorithm, &b.algorithm)];
        for (a, b) in pairs {
            assert_eq!(a.is_some(), b.is_some());
            a.iter().for_each(|a| graph(a, b));
        }
    }
    assert_eq!(b.special_fields.unknown_fields().iter().count(), 0);
    graph(a.graph.as_ref().unwrap(), &b.graph);
}

fn entries(a: &[ours::StringStringEntryProto], b: &[theirs::StringStringEntryProto]) {
    let pairs = a.iter().map(|e| (e.key(), e.value()));
    assert!(pairs.eq(b.iter().map(|e| (e.key.as_str(), e.value.as_str()))));
}

fn graph(a: &ours::GraphProto, b: &theirs::GraphProto) {
    assert_eq!(a.name(), b.name);
    assert_eq!(a.initializer.len(), b.initializer.len());
    a.initializer.iter().zip(&b.initializer).for_each(|(a, b)| tensor(a, b));
    assert_eq!(a.sparse_initializer.len(), b.sparse_initializer.len());
    infos(&a.input, &b.input);
    infos(&a.output, &b.output);
    infos(&a.value_info, &b.value_info);
    nodes(&a.node, &b.node);
    assert_eq!(b.special_fields.unknown_fields().iter().count(), 0);
}

fn infos(a: &[ours::ValueInfoProto], b: &[theirs::ValueInfoProto]) {
    use ours::tensor_shape_proto::dimension::Value as OurDim;
    use theirs::tensor_shape_proto::dimension::Value as TheirDim;
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(b) {
        assert_eq!(a.name(), b.name);
        let Some(ours::type_proto::Value::TensorType(x)) = a.r#type.as_ref().and_then(|t| t.value.as_ref())
        else {
            continue;
        };
        assert!(b.type_.has_tensor_type());
        let y = b.type_.tensor_type();
        assert_eq!((x.elem_type(), x.shape.is_some()), (y.elem_type, y.shape.is_some()));
        let dims = x.shape.iter().flat_map(|s| &s.dim).map(|d| match &d.value {
            Some(OurDim::DimValue(n)) => n.to_string(),
            Some(OurDim::DimParam(s)) => s.clone(),
            None => "?".into(),
        });
        let same = dims.eq(y.shape.dim.iter().map(|d| match &d.value {
            Some(TheirDim::DimValue(n)) => n.to_string(),
            Some(TheirDim::DimParam(s)) => s.clone(),
            _ => "?".into(),
        }));
        assert!(same, "{}", a.name());
    }
}

fn nodes(a: &[ours::NodeProto], b: &[theirs::NodeProto]) {
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(b) {
        assert_eq!(
            (a.name(), a.op_type(), a.domain()),
            (b.name.as_str(), b.op_type.as_str(), b.domain.as_str())
        );
        assert_eq!((&a.input, &a.output), (&b.input, &b.output));
        assert_eq!(a.doc_string(), b.doc_string);
        assert_eq!(a.attribute.len(), b.attribute.len());
        a.attribute.iter().zip(&b.attribute).for_each(|(a, b)| attribute(a, b));
        assert_eq!(b.special_fields.unknown_fields().iter().count(), 0);
    }
}

fn attribute(a: &ours::AttributeProto, b: &theirs::AttributeProto) {
    assert_eq!((a.name(), a.r#type() as i32), (b.name.as_str(), b.type_.value()));
    assert_eq!((a.f().to_bits(), a.i(), a.s()), (b.f.to_bits(), b.i, b.s.as_slice()));
    floats(&a.floats, &b.floats);
    assert_eq!(a.ints, b.ints);
    assert!(a.strings.iter().eq(&b.strings));
    assert_eq!((a.t.is_some(), a.g.is_some()), (b.t.is_some(), b.g.is_some()));
    a.t.iter().for_each(|t| tensor(t, &b.t));
    a.g.iter().for_each(|g| graph(g, &b.g));
    assert_eq!((a.tensors.len(), a.graphs.len()), (b.tensors.len(), b.graphs.len()));
    a.graphs.iter().zip(&b.graphs).for_each(|(a, b)| graph(a, b));
    assert_eq!(b.special_fields.unknown_fields().iter().count(), 0);
}

/// By their bits: NaN is not equal to itself.
fn floats(a: &[f32], b: &[f32]) {
    assert!(a.iter().map(|x| x.to_bits()).eq(b.iter().map(|x| x.to_bits())));
}

fn tensor(a: &ours::TensorProto, b: &theirs::TensorProto) {
    assert_eq!((a.name(), a.data_type(), &a.dims), (b.name.as_str(), b.data_type, &b.dims));
    assert_eq!(a.raw_data(), b.raw_data, "{}", a.name());
    floats(&a.float_data, &b.float_data);
    assert_eq!((&a.int32_data, &a.int64_data), (&b.int32_data, &b.int64_data));
    assert!(a.double_data.iter().map(|x| x.to_bits()).eq(b.double_data.iter().map(|x| x.to_bits())));
    assert_eq!(a.uint64_data, b.uint64_data);
    assert!(a.string_data.iter().eq(&b.string_data));
}

fn models(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        match path.is_dir() {
            true => models(&path, found),
            false if path.extension().is_some_and(|e| e == "onnx") => found.push(path),
            false => {}
        }
    }
}

struct Nothing;

impl Registry for Nothing {
    fn parse(&self, _: &str, _: &str, _: &Parse) -> Option<Result<Parsed, String>> {
        None
    }
}

#[test]
fn files_read_the_same_before_and_after() {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("copy.onnx");
    let mut paths = Vec::new();
    models(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures"), &mut paths);
    assert!(!paths.is_empty());
    match std::env::var_os("ONNX_QAT_CORPUS") {
        Some(corpus) => models(Path::new(&corpus), &mut paths),
        None => println!("skipping the corpus: ONNX_QAT_CORPUS is not set"),
    }
    for path in paths {
        compare(&path);
        let (g, meta) = match load(&path, &Nothing) {
            Err(Error::Model { source: ModelError::Opset { .. }, .. }) => continue,
            loaded => loaded.unwrap(),
        };
        // Without operators nothing can be converted to another opset.
        if (13..=20).contains(&meta.opset()) {
            save(&g, &meta, &copy, &SaveOptions::default()).unwrap();
            compare(&copy);
        }
    }
}

/// An operator with one attribute of every kind.
#[derive(Debug)]
struct Kinds;

impl Op for Kinds {
    fn name(&self) -> &str {
        "Kinds"
    }
    fn domain(&self) -> &str {
        "qat"
    }
    fn attrs(&self) -> ir::Attrs {
        use ir::Attr::*;
        ir::Attrs::new()
            .with("int", Int(i64::MIN))
            .with("float", Float(-0.1))
            .with("str", Str("näme".into()))
            .with("ints", Ints(vec![-1, i64::MAX]))
            .with("floats", Floats(vec![0.5, f32::MAX]))
            .with("strs", Strs(vec!["a".into(), String::new()]))
            .with("tensor", Tensor(tensor::Tensor::new(&[2], vec![1u8, 255])))
    }
    fn infer(&self, cx: &ir::Infer) -> Result<Vec<ir::Type>, String> {
        Ok(vec![cx.ty(0)?.clone()])
    }
}

#[test]
fn a_graph_of_ours_says_what_we_mean() {
    let mut g = Graph::new("made here");
    let shape = [ir::Dim::sym("N"), ir::Dim::Fixed(3), ir::Dim::Unknown];
    let x = g.add_input("x", ir::Type::new(DType::F32, shape));
    let floats: Vec<f32> = (0..100).map(|i| i as f32 / 7.0 - 3.0).collect();
    let w = g.add_const("w", Tensor::new(&[4, 25], floats.clone()));
    let ints = g.add_const("ints", Tensor::new(&[], vec![-5i64]));
    let op = std::sync::Arc::new(Kinds);
    let y = g.add_node(op, &[Some(x), None, Some(w), Some(ints)], "node", &["y"]).unwrap();
    g.add_output("y", y.into());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.onnx");

    for weights in [Weights::Auto, Weights::Beside { from: 64 }] {
        save(&g, &Meta::default(), &path, &SaveOptions { opset: None, weights }).unwrap();
        let model = decode(&path);
        assert_eq!((model.ir_version, model.opset_import[0].version), (8, 17));
        assert_eq!((model.opset_import[1].domain.as_str(), model.opset_import[1].version), ("qat", 1));
        let [a, b] = &model.graph.initializer[..] else { panic!("two initializers") };
        assert_eq!((a.name.as_str(), a.data_type, &a.dims[..]), ("w", 1, &[4i64, 25][..]));
        let bytes: Vec<u8> = floats.iter().flat_map(|x| x.to_le_bytes()).collect();
        if weights == Weights::Auto {
            assert_eq!(a.raw_data, bytes);
        } else {
            let entry = |key: &str| a.external_data.iter().find(|e| e.key == key).unwrap().value.clone();
            assert_eq!(a.data_location.value(), 1);
            assert_eq!(
                (entry("location"), entry("offset"), entry("length")),
                ("m.onnx.data".into(), "0".into(), "400".into())
            );
            assert_eq!(fs::read(dir.path().join("m.onnx.data")).unwrap(), bytes);
        }
        assert_eq!((b.dims.len(), b.raw_data.as_slice()), (0, &(-5i64).to_le_bytes()[..]));
        let node = &model.graph.node[0];
        assert_eq!(node.input, ["x", "", "w", "ints"]);
        let attribute = |name: &str| node.attribute.iter().find(|a| a.name == name).unwrap();
        assert_eq!((attribute("int").i, attribute("float").f), (i64::MIN, -0.1));
        assert_eq!(attribute("str").s, "näme".as_bytes());
        assert_eq!(attribute("ints").ints, [-1, i64::MAX]);
        assert_eq!(attribute("floats").floats, [0.5, f32::MAX]);
        assert_eq!(attribute("strs").strings, [b"a".to_vec(), vec![]]);
        assert_eq!(attribute("tensor").t.raw_data, [1, 255]);
        let kinds: Vec<i32> = node.attribute.iter().map(|a| a.type_.value()).collect();
        assert_eq!(kinds, [1, 6, 2, 7, 3, 8, 4], "float, floats, int, ints, str, strs, tensor");
        let input = model.graph.input[0].type_.tensor_type();
        let dims = &input.shape.dim;
        assert_eq!((dims[0].dim_param(), dims[1].dim_value(), dims[2].value.is_none()), ("N", 3, true));
    }
}

#[test]
fn every_field_of_a_tensor_reads_the_same() {
    use ours::TensorProto as T;
    let typed = |data_type: DType, dims: &[i64]| T {
        dims: dims.to_vec(),
        data_type: Some(data_type.onnx()),
        name: Some(data_type.name().into()),
        ..T::default()
    };
    let initializer = vec![
        T { float_data: vec![1.5, -2.0], ..typed(DType::F32, &[2]) },
        T { int32_data: vec![-1, i32::MAX], ..typed(DType::I32, &[2, 1]) },
        T { int64_data: vec![i64::MIN], ..typed(DType::I64, &[]) },
        T { double_data: vec![0.1], ..typed(DType::F64, &[1]) },
        T { uint64_data: vec![u64::MAX], ..typed(DType::U64, &[1]) },
        T { string_data: vec!["a".into(), "".into()], data_type: Some(8), ..typed(DType::F32, &[2]) },
        from_tensor("raw", &Tensor::new(&[3], vec![1i8, -2, 3])),
    ];
    let graph = ours::GraphProto { name: Some("g".into()), initializer, ..Default::default() };
    let model = ours::ModelProto { ir_version: Some(8), graph: Some(graph), ..Default::default() };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.onnx");
    write_model(&model, &path, Weights::Auto).unwrap();
    compare(&path);
}
