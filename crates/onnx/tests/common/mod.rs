//! Models made by hand, a registry of two operators, and a canonical text of a graph.
#![allow(dead_code, clippy::unwrap_used)]

use ir::{Attr, Attrs, Graph, Infer, Kind, OnnxForm, Op, Parse, Parsed, Registry, Type};
use onnx::from_tensor;
use onnx::proto::attribute_proto::AttributeType;
use onnx::proto::tensor_shape_proto::{Dimension, dimension};
use onnx::proto::*;
use onnx_qat_onnx as onnx;
use tensor::{DType, Tensor};

pub fn node(op: &str, name: &str, ins: &[&str], outs: &[&str]) -> NodeProto {
    NodeProto {
        op_type: Some(op.into()),
        name: (!name.is_empty()).then(|| name.into()),
        input: ins.iter().map(|s| s.to_string()).collect(),
        output: outs.iter().map(|s| s.to_string()).collect(),
        ..NodeProto::default()
    }
}

pub fn attribute(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto { name: Some(name.into()), r#type: Some(kind as i32), ..AttributeProto::default() }
}

pub fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto { f: Some(value), ..attribute(name, AttributeType::Float) }
}

pub fn info(name: &str, dtype: DType, dims: &[i64]) -> ValueInfoProto {
    let dim = |d: &i64| Dimension { value: Some(dimension::Value::DimValue(*d)), denotation: None };
    let tensor = type_proto::Tensor {
        elem_type: Some(dtype.onnx()),
        shape: Some(TensorShapeProto { dim: dims.iter().map(dim).collect() }),
    };
    ValueInfoProto {
        name: Some(name.into()),
        r#type: Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), denotation: None }),
        ..ValueInfoProto::default()
    }
}

pub fn weights(name: &str, values: &[f32]) -> TensorProto {
    from_tensor(name, &Tensor::new(&[values.len()], values.to_vec()))
}

pub fn graph(nodes: Vec<NodeProto>, initializer: Vec<TensorProto>, outputs: &[&str]) -> GraphProto {
    GraphProto {
        name: Some("g".into()),
        node: nodes,
        initializer,
        input: vec![info("x", DType::F32, &[-1, 4])],
        output: outputs.iter().map(|name| info(name, DType::F32, &[-1, 4])).collect(),
        ..GraphProto::default()
    }
}

pub fn model(graph: GraphProto, opset: i64) -> ModelProto {
    ModelProto {
        ir_version: Some(8),
        producer_name: Some("by hand".into()),
        producer_version: Some("1".into()),
        opset_import: vec![OperatorSetIdProto { domain: Some("".into()), version: Some(opset) }],
        graph: Some(graph),
        ..ModelProto::default()
    }
}

/// An element-wise operator of the tests.
#[derive(Debug)]
pub struct Relu;

impl Op for Relu {
    fn name(&self) -> &str {
        "Relu"
    }
    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        Ok(vec![cx.float(0)?.clone()])
    }
}

/// Bounds are attributes before opset 11, inputs later.
#[derive(Debug)]
pub struct Clip;

impl Op for Clip {
    fn name(&self) -> &str {
        "Clip"
    }
    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        Ok(vec![cx.float(0)?.clone()])
    }
}

/// Its scale is an attribute for us and an input in ONNX; exists until opset 15.
#[derive(Debug)]
pub struct Scale(pub f32);

impl Op for Scale {
    fn name(&self) -> &str {
        "Scale"
    }
    fn attrs(&self) -> Attrs {
        Attrs::new().with("scale", Attr::Float(self.0))
    }
    fn to_onnx(&self, opset: i64) -> Result<OnnxForm, String> {
        if opset > 15 {
            return Err("Scale was removed".into());
        }
        let inputs = vec![(1, Tensor::scalar(self.0))];
        Ok(OnnxForm { op_type: "Scale".into(), attrs: Attrs::new(), inputs, ..OnnxForm::default() })
    }
    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        Ok(vec![cx.float(0)?.clone()])
    }
}

/// Axes are an input since opset 18, an attribute before; two inputs change places in opset 12.
#[derive(Debug)]
pub struct Mean;

impl Op for Mean {
    fn name(&self) -> &str {
        "Mean2"
    }
    fn to_onnx(&self, opset: i64) -> Result<OnnxForm, String> {
        let as_attrs = if opset < 18 { vec![(1, "axes".into())] } else { vec![] };
        Ok(OnnxForm { op_type: "Mean2".into(), as_attrs, ..OnnxForm::default() })
    }
    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        Ok(vec![cx.float(0)?.clone()])
    }
}

pub struct Ops;

impl Registry for Ops {
    fn parse(&self, domain: &str, op_type: &str, cx: &Parse) -> Option<Result<Parsed, String>> {
        match (domain, op_type) {
            ("", "Relu") if cx.ins == 1 => Some(Ok(Relu.into())),
            ("", "Relu") => Some(Err(format!("takes 1 input, not {}", cx.ins))),
            ("", "Clip") if cx.opset < 11 => Some((|| {
                let bound = |name, default| cx.attrs.float(name, default).map(Tensor::scalar);
                let inputs = vec![(1, bound("min", f32::MIN)?), (2, bound("max", f32::MAX)?)];
                Ok(Parsed { inputs, like_operand: true, ..Clip.into() })
            })()),
            ("", "Clip") => Some(Ok(Clip.into())),
            ("", "Mean2") if cx.opset < 12 => Some(Ok(Parsed { moved: vec![(0, 1), (1, 0)], ..Mean.into() })),
            ("", "Mean2") => Some((|| {
                let axes = cx.attrs.ints("axes")?.map(|a| (1, Tensor::new(&[a.len()], a)));
                Ok(Parsed { inputs: axes.into_iter().collect(), ..Mean.into() })
            })()),
            _ => None,
        }
    }
}

/// No operator at all: every node is carried through.
pub struct Nothing;

impl Registry for Nothing {
    fn parse(&self, _: &str, _: &str, _: &Parse) -> Option<Result<Parsed, String>> {
        None
    }
}

/// What makes two graphs the same: constants by name, then operations in order, with all names, types and attributes.
pub fn text(g: &Graph) -> String {
    let name = |v: &ir::ValueId| g.value(*v).name.clone();
    let mut constants = Vec::new();
    let mut lines = vec![format!("graph {}", g.name)];
    lines.extend(g.inputs().iter().map(|&i| format!("input {} {}", g.node(i).name, g.ty(i.into()))));
    for id in g.order().unwrap() {
        let node = g.node(id);
        match &node.kind {
            Kind::Input => {}
            Kind::Const(t) | Kind::Variable(t, _) => constants.push(format!("{} = {t:?}", node.name)),
            Kind::Op(op) => {
                let ins: Vec<String> = node.ins.iter().map(|v| v.as_ref().map_or("-".into(), name)).collect();
                let outs: Vec<String> = node.outs.iter().map(|o| format!("{} {}", o.name, o.ty)).collect();
                let attrs: Vec<String> = op.attrs().iter().map(|(n, a)| format!("{n}={a:?}")).collect();
                let (op, domain) = (op.name(), op.domain());
                lines.push(format!("[{}] {outs:?} = {domain}.{op} {attrs:?} {ins:?}", node.name));
            }
        }
    }
    constants.sort();
    lines.extend(g.outputs().iter().map(|o| format!("output {} {}", o.name, name(&o.value))));
    [constants, lines].concat().join("\n")
}
