//! `fuse-qdq`: an operator between DequantizeLinear and QuantizeLinear becomes one operator on codes.
//!
//! ```text
//! x_dq = DequantizeLinear (x_q, x_scale, x_zp)
//! w_dq = DequantizeLinear <axis=0> (w_q, w_scale, w_zp)
//! b_dq = DequantizeLinear <axis=0> (b_q, b_scale)       # b_scale = x_scale * w_scale
//! conv1 = Conv (x_dq, w_dq, b_dq)
//! relu1 = Relu (conv1)
//! relu1_q = QuantizeLinear (relu1, y_scale, y_zp)       # y_zp = 0
//! ->
//! [conv1] relu1_q = QLinearConv (x_q, x_scale, x_zp, w_q, w_scale, w_zp, y_scale, y_zp, b_q)
//! ```
//!
//! The rule is that of ONNX Runtime's CPU kernels, and so are the operators: what becomes one here is what runs in integers
//! there, and gives the same codes. All operands come from DequantizeLinear; the result goes to exactly one
//! QuantizeLinear, with at most a Relu or Clip in between that the quantizer's saturation repeats. Gemm and MatMul may have a
//! float result. The rest stays in floating point.
//!
//! The pass is for evaluating an emitted graph as the runtime will, and for predicting what runs in integers there. The
//! file itself keeps the pairs.

use crate::pass::{Pass, Report, operations};
use ir::{Graph, GraphError, NodeId, Op, QuantRole, ValueId};
use ops::{
    Add, AveragePool, Clip, Concat, Conv, DequantizeLinear, Gemm, GlobalAveragePool, LeakyRelu, MatMul,
    MatMulIntegerToFloat, MaxPool, Mul, QGemm, QLinearAdd, QLinearAveragePool, QLinearConcat, QLinearConv,
    QLinearGlobalAveragePool, QLinearLeakyRelu, QLinearMatMul, QLinearMul, QLinearSigmoid, QuantizeLinear,
    Relu, Sigmoid,
};
use std::sync::Arc;
use tensor::{DType, Tensor};

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct FuseQdq;

impl Pass for FuseQdq {
    fn name(&self) -> &'static str {
        "fuse-qdq"
    }

    fn run(&self, graph: &mut Graph, report: &mut Report) -> Result<(), GraphError> {
        for id in operations(graph)? {
            let label = graph.node(id).label();
            match find(graph, id) {
                None => {}
                Some(Err(why)) => report.skip(self.name(), label, why),
                Some(Ok(fused)) => {
                    let how = format!("computed on codes by {}", fused.op.name());
                    replace(graph, id, fused)?;
                    report.done(self.name(), label, how);
                }
            }
        }
        graph.infer()
    }
}

/// An operator on codes, and the value whose place its result takes.
struct Fused {
    op: Arc<dyn Op>,
    ins: Vec<Option<ValueId>>,
    replaces: ValueId,
}

fn replace(graph: &mut Graph, id: NodeId, fused: Fused) -> Result<(), GraphError> {
    let name = graph.value(fused.replaces).name.clone();
    let new = graph.add_node(fused.op, &fused.ins, &name, &[&name])?;
    // The node is the user's, its result what the quantizer gave.
    graph.swap_labels(id, new);
    graph.set_origin(new, &graph.node(id).origin.clone());
    graph.swap_names(fused.replaces, new.into());
    graph.replace(fused.replaces, new.into())
}

/// The operator on codes for a node; why there is none, when something about the node is quantized or it has a weight;
/// `None` for the rest.
fn find(graph: &Graph, id: NodeId) -> Option<Result<Fused, String>> {
    let node = graph.node(id);
    let op = node.op()?;
    let fuse: fn(&Graph, NodeId) -> Result<Fused, String> = if node.is::<Conv>().is_some() {
        conv
    } else if node.is::<Gemm>().is_some() {
        gemm
    } else if node.is::<MatMul>().is_some() {
        mat_mul
    } else if node.is::<Concat>().is_some() {
        concat
    } else if node.is::<Add>().is_some() || node.is::<Mul>().is_some() {
        binary
    } else if node.is::<MaxPool>().is_some() {
        max_pool
    } else if unary_form(graph, id).is_some() {
        unary
    } else {
        return None;
    };
    let weighted = matches!(op.quant(), QuantRole::Weighted { .. });
    let dequantized =
        |v: &Option<ValueId>| v.is_some_and(|v| graph.producer::<DequantizeLinear>(v).is_some());
    (weighted || node.ins.iter().any(dequantized)).then(|| fuse(graph, id))
}

/// Codes with their scale and zero point.
#[derive(Clone, Copy, Debug)]
struct Codes {
    codes: ValueId,
    scale: ValueId,
    zero_point: Option<ValueId>,
    axis: i64,
}

impl Codes {
    /// Operands of an operator on codes.
    fn operands(self) -> [Option<ValueId>; 3] {
        [Some(self.codes), Some(self.scale), self.zero_point]
    }
}

/// A DequantizeLinear with a constant scale and zero point.
fn dequantized(graph: &Graph, id: NodeId, slot: usize) -> Result<Codes, String> {
    let v = graph.node(id).ins.get(slot).copied().flatten().ok_or(format!("input {slot} is missing"))?;
    let node = graph.node(v.node);
    let name = &graph.value(v).name;
    let (Some(op), [Some(codes), Some(scale), ..]) = (node.is::<DequantizeLinear>(), &node.ins[..]) else {
        return Err(format!("its input \"{name}\" does not come from DequantizeLinear"));
    };
    if op.extra.iter().any(|(name, _)| name == "block_size") {
        return Err(format!("its input \"{name}\" has a scale per block"));
    }
    let zero_point = node.ins.get(2).copied().flatten();
    if [Some(*scale), zero_point].into_iter().flatten().any(|v| graph.constant(v).is_none()) {
        return Err(format!("the scale or zero point of its input \"{name}\" is computed"));
    }
    Ok(Codes { codes: *codes, scale: *scale, zero_point, axis: op.axis })
}

/// Checks that a scale, and a zero point if there is one, are one constant number each, the zero point uint8.
fn check_activation(graph: &Graph, scale: ValueId, zero_point: Option<ValueId>) -> Result<(), String> {
    let one = |v: ValueId| graph.constant(v).map(|t| t.len() == 1);
    match [Some(one(scale)), zero_point.map(one)].into_iter().flatten().collect::<Option<Vec<bool>>>() {
        None => return Err("has a computed scale or zero point".into()),
        Some(single) if single.contains(&false) => return Err("has a scale per channel".into()),
        _ => {}
    }
    match zero_point.and_then(|z| graph.constant(z)).map(Tensor::dtype) {
        None | Some(DType::U8) => Ok(()),
        Some(other) => Err(format!("holds {other} codes, not uint8")),
    }
}

/// An operand of uint8 codes with one scale.
fn activation(graph: &Graph, id: NodeId, slot: usize) -> Result<Codes, String> {
    let x = dequantized(graph, id, slot)?;
    let named = |why: String| format!("its input \"{}\" {why}", graph.value(x.codes).name);
    check_activation(graph, x.scale, x.zero_point).map_err(named)?;
    match graph.ty(x.codes).dtype {
        Some(DType::U8) => Ok(x),
        Some(other) => Err(named(format!("holds {other} codes, not uint8"))),
        None => Err(named("holds codes of an unknown type".into())),
    }
}

/// A constant operand of int8 codes with zero point 0, one scale or one per channel of `axis`.
fn weight(graph: &Graph, id: NodeId, slot: usize, axis: usize) -> Result<Codes, String> {
    let w = dequantized(graph, id, slot)?;
    let Some(codes) = graph.constant(w.codes) else {
        return Err(format!("its weight \"{}\" is computed", graph.value(w.codes).name));
    };
    let rank = codes.shape().len() as i64;
    let at = if w.axis < 0 { w.axis + rank } else { w.axis };
    let per_channel = graph.constant(w.scale).map_or(0, Tensor::len);
    if codes.dtype() != DType::I8 {
        return Err(format!("its weight holds {} codes, not int8", codes.dtype()));
    }
    if w.zero_point.and_then(|z| graph.constant(z)).is_some_and(|z| z.to_i64().iter().any(|&z| z != 0)) {
        return Err("its weight has a zero point".into());
    }
    if per_channel != 1 && at != axis as i64 {
        return Err(format!("its weight has a scale per entry of axis {at}, not of its output channels"));
    }
    Ok(w)
}

/// The codes of a bias in steps of the product of the scales; `None` where the node has none.
fn bias(graph: &Graph, id: NodeId, slot: usize, x: Codes, w: Codes) -> Result<Option<ValueId>, String> {
    if graph.node(id).ins.get(slot).copied().flatten().is_none() {
        return Ok(None);
    }
    let b = dequantized(graph, id, slot).map_err(|_| "its bias does not come from DequantizeLinear")?;
    let numbers = |v: ValueId| graph.constant(v).map(Tensor::to_f64);
    let (Some(codes), Some(scale), Some(x_scale), Some(w_scale)) =
        (graph.constant(b.codes), numbers(b.scale), numbers(x.scale), numbers(w.scale))
    else {
        return Err("its bias is computed".into());
    };
    if codes.dtype() != DType::I32 {
        return Err(format!("its bias holds {} codes, not int32", codes.dtype()));
    }
    if b.zero_point.and_then(|z| graph.constant(z)).is_some_and(|z| z.to_i64().iter().any(|&z| z != 0)) {
        return Err("its bias has a zero point".into());
    }
    let at = |s: &[f64], i: usize| s[i.min(s.len() - 1)];
    let expected = |i: usize| at(&x_scale, 0) * at(&w_scale, i);
    let fits = |i: usize| (at(&scale, i) - expected(i)).abs() <= 1e-5 * expected(i);
    if scale.is_empty() || !(0..scale.len().max(w_scale.len())).all(fits) {
        return Err("the scale of its bias is not the product of the scales of its data and weight".into());
    }
    Ok(Some(b.codes))
}

/// The quantizer behind a node.
struct Target {
    /// The codes.
    codes: ValueId,
    scale: ValueId,
    zero_point: Option<ValueId>,
}

/// The only QuantizeLinear behind the result of a node, directly or through what its saturation repeats.
fn target(graph: &Graph, id: NodeId) -> Result<Target, String> {
    let mut v = ValueId::from(id);
    let mut clamps = Vec::new();
    let quantizer = loop {
        if graph.is_output(v) {
            return Err("its result is an output of the graph".into());
        }
        let [(reader, slot)] = graph.consumers(v)[..] else {
            return Err(match graph.consumers(v).len() {
                0 => "nobody reads its result".into(),
                n => format!("its result is read {n} times"),
            });
        };
        let node = graph.node(reader);
        match (node.is::<QuantizeLinear>(), node.is::<Relu>(), node.is::<Clip>()) {
            (Some(_), ..) if slot == 0 => break reader,
            (_, Some(_), _) => {}
            (_, _, Some(_)) if slot == 0 => {}
            _ => return Err(format!("{} reads its result, not QuantizeLinear", node.label())),
        }
        clamps.push(reader);
        v = reader.into();
    };
    let node = graph.node(quantizer);
    let [_, Some(scale), ..] = node.ins[..] else { return Err("its quantizer has no scale".into()) };
    let zero_point = node.ins.get(2).copied().flatten();
    let codes = ValueId::from(quantizer);
    let named = |why: String| format!("its result \"{}\" {why}", graph.value(codes).name);
    check_activation(graph, scale, zero_point).map_err(named)?;
    if graph.ty(codes).dtype != Some(DType::U8) {
        return Err(named("is not quantized to uint8".into()));
    }
    let number =
        |v: Option<ValueId>| v.and_then(|v| graph.constant(v)).and_then(|t| t.to_f32().first().copied());
    let (s, z) = (number(Some(scale)).unwrap_or(1.0), number(zero_point).unwrap_or(0.0));
    for clamp in clamps {
        let (low, high) = match graph.node(clamp).is::<Clip>() {
            None => (0.0, f32::INFINITY),
            Some(_) => {
                let bound = |slot: usize, none: f32| match graph.node(clamp).ins.get(slot).copied().flatten()
                {
                    None => Ok(none),
                    v => number(v).ok_or(format!("the bounds of {} are computed", graph.node(clamp).label())),
                };
                (bound(1, f32::NEG_INFINITY)?, bound(2, f32::INFINITY)?)
            }
        };
        if -z * s < low - f32::EPSILON || (255.0 - z) * s > high + f32::EPSILON {
            let label = graph.node(clamp).label();
            return Err(format!("{label} cuts into the range of the quantizer behind it"));
        }
    }
    Ok(Target { codes, scale, zero_point })
}

/// Whether any reader of a node's result quantizes it, directly or behind a clamp.
fn is_quantized(graph: &Graph, id: NodeId) -> bool {
    let mut todo = vec![id];
    while let Some(id) = todo.pop() {
        for (reader, slot) in graph.consumers(id.into()) {
            let node = graph.node(reader);
            if node.is::<QuantizeLinear>().is_some() {
                return true;
            }
            // What is only a bound is not clamped; and by its data, a clamp is reached once.
            if slot == 0 && (node.is::<Relu>().is_some() || node.is::<Clip>().is_some()) {
                todo.push(reader);
            }
        }
    }
    false
}

fn conv(graph: &Graph, id: NodeId) -> Result<Fused, String> {
    let op = graph.node(id).is::<Conv>().ok_or("no Conv")?;
    let (x, w) = (activation(graph, id, 0)?, weight(graph, id, 1, 0)?);
    let bias = bias(graph, id, 2, x, w)?;
    let rank = graph.constant(w.codes).map_or(0, |w| w.shape().len());
    if !(3..=4).contains(&rank) {
        return Err(format!("the executor runs one and two spatial axes, not {}", rank.saturating_sub(2)));
    }
    let y = target(graph, id)?;
    let mut ins = [x.operands(), w.operands()].concat();
    ins.extend([Some(y.scale), y.zero_point]);
    ins.extend(bias.map(Some));
    let op = QLinearConv { window: op.window.clone(), group: op.group };
    Ok(Fused { op: Arc::new(op), ins, replaces: y.codes })
}

fn gemm(graph: &Graph, id: NodeId) -> Result<Fused, String> {
    let op = graph.node(id).is::<Gemm>().ok_or("no Gemm")?;
    if op.alpha != 1.0 || op.beta != 1.0 || op.trans_a {
        return Err("it scales or transposes its operands".into());
    }
    let (x, w) = (activation(graph, id, 0)?, weight(graph, id, 1, usize::from(!op.trans_b))?);
    let bias = bias(graph, id, 2, x, w)?;
    let mut ins = [x.operands(), w.operands()].concat();
    let replaces = if is_quantized(graph, id) {
        let y = target(graph, id)?;
        ins.extend([bias, Some(y.scale), y.zero_point]);
        y.codes
    } else {
        ins.extend(bias.map(Some));
        id.into()
    };
    Ok(Fused { op: Arc::new(QGemm { alpha: 1.0, trans_b: op.trans_b }), ins, replaces })
}

fn mat_mul(graph: &Graph, id: NodeId) -> Result<Fused, String> {
    let (x, w) = (activation(graph, id, 0)?, weight(graph, id, 1, 1)?);
    if graph.constant(w.codes).is_some_and(|w| w.shape().len() != 2) {
        return Err("its weight is no matrix".into());
    }
    if is_quantized(graph, id) {
        let y = target(graph, id)?;
        let mut ins = [x.operands(), w.operands()].concat();
        ins.extend([Some(y.scale), y.zero_point]);
        return Ok(Fused { op: Arc::new(QLinearMatMul), ins, replaces: y.codes });
    }
    let ins = vec![Some(x.codes), Some(w.codes), Some(x.scale), Some(w.scale), x.zero_point, w.zero_point];
    Ok(Fused { op: Arc::new(MatMulIntegerToFloat), ins, replaces: id.into() })
}

fn binary(graph: &Graph, id: NodeId) -> Result<Fused, String> {
    let (a, b) = (activation(graph, id, 0)?, activation(graph, id, 1)?);
    let y = target(graph, id)?;
    let mut ins = [a.operands(), b.operands()].concat();
    ins.extend([Some(y.scale), y.zero_point]);
    let op: Arc<dyn Op> =
        if graph.node(id).is::<Add>().is_some() { Arc::new(QLinearAdd) } else { Arc::new(QLinearMul) };
    Ok(Fused { op, ins, replaces: y.codes })
}

fn concat(graph: &Graph, id: NodeId) -> Result<Fused, String> {
    let op = graph.node(id).is::<Concat>().ok_or("no Concat")?;
    let operands = graph.node(id).ins.len();
    let codes = (0..operands).map(|i| activation(graph, id, i)).collect::<Result<Vec<_>, _>>()?;
    let y = target(graph, id)?;
    let ins = [Some(y.scale), y.zero_point].into_iter().chain(codes.into_iter().flat_map(Codes::operands));
    let op = QLinearConcat { axis: op.axis, operands };
    Ok(Fused { op: Arc::new(op), ins: ins.collect(), replaces: y.codes })
}

/// The largest value has the largest code, as long as codes mean the same before and behind.
fn max_pool(graph: &Graph, id: NodeId) -> Result<Fused, String> {
    let op = graph.node(id).is::<MaxPool>().ok_or("no MaxPool")?;
    let positions = ValueId { node: id, out: 1 };
    if graph.node(id).outs.len() > 1 && (!graph.consumers(positions).is_empty() || graph.is_output(positions))
    {
        return Err("the positions of the largest values are asked for".into());
    }
    let (x, y) = (activation(graph, id, 0)?, target(graph, id)?);
    let numbers = |v: Option<ValueId>| v.and_then(|v| graph.constant(v)).map_or(vec![0.0], Tensor::to_f64);
    if numbers(Some(x.scale)) != numbers(Some(y.scale)) || numbers(x.zero_point) != numbers(y.zero_point) {
        return Err("its data and its result have different scales or zero points".into());
    }
    Ok(Fused { op: Arc::new(op.clone()), ins: vec![Some(x.codes)], replaces: y.codes })
}

/// The operator on codes for a node of one operand.
fn unary_form(graph: &Graph, id: NodeId) -> Option<Arc<dyn Op>> {
    let node = graph.node(id);
    if let Some(op) = node.is::<AveragePool>() {
        return Some(Arc::new(QLinearAveragePool { pool: op.clone() }));
    }
    if let Some(op) = node.is::<LeakyRelu>() {
        return Some(Arc::new(QLinearLeakyRelu { alpha: op.alpha }));
    }
    if node.is::<GlobalAveragePool>().is_some() {
        return Some(Arc::new(QLinearGlobalAveragePool));
    }
    node.is::<Sigmoid>().map(|_| Arc::new(QLinearSigmoid) as Arc<dyn Op>)
}

fn unary(graph: &Graph, id: NodeId) -> Result<Fused, String> {
    let op = unary_form(graph, id).ok_or("it has no form on codes")?;
    let (x, y) = (activation(graph, id, 0)?, target(graph, id)?);
    let ins = x.operands().into_iter().chain([Some(y.scale), y.zero_point]).collect();
    Ok(Fused { op, ins, replaces: y.codes })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{Pipeline, Verdict};
    use ops::Ops;

    fn read(constants: &str, head: &str, body: &str) -> Graph {
        let text = format!("{head}\n<\n{constants}\n>\n{{\n{body}\n}}\n");
        ir::text::parse(&text, &Ops).unwrap_or_else(|e| panic!("{e}\n{text}"))
    }

    fn fuse(graph: &mut Graph) -> Report {
        let report = Pipeline::new().then(FuseQdq).run(graph).unwrap();
        graph.check().unwrap();
        report
    }

    /// The operations of the text of a graph.
    fn body(graph: &Graph) -> Vec<String> {
        let text = ir::text::print(graph);
        let inside = text.split_once("\n{\n").unwrap().1;
        inside.lines().take_while(|l| *l != "}").map(|l| l.trim().to_string()).collect()
    }

    const CONSTANTS: &str = r#"
        float[] s = {0.05}, float[] t = {0.1}, float[] u = {0.02}, uint8[] z = {0}, uint8[] m = {128},
        int8[4,3,3,3] w = ["fnv": "cd19c3a6", "range": "-127..127"], float[4] ws = {0.01, 0.02, 0.03, 0.04},
        int8[4] wz = {0, 0, 0, 0}, int32[4] b = {-100, 5, 1000, 0}, float[4] bs = {0.0005, 0.001, 0.0015, 0.002},
        int8[3,2] g = {1, -2, 3, 4, 5, -6}, float[] gs = {0.1}, int8[] gz = {0}, int32[2] gb = {7, 8}, float[] gbs = {0.005},
        float[] low = {0}, float[] high = {6}, float[4] us = {0.01, 0.01, 0.01, 0.01}, uint8[4] uz = {0, 0, 0, 0},
        int8[] iz = {0}, float[3,1] gb2 = {0.01, 0.02, 0.03}, float[3] w3 = {0.01, 0.02, 0.03}
    "#;

    /// The largest difference of the outputs of two graphs.
    fn furthest(before: &Graph, after: &Graph, x: &Tensor) -> f64 {
        let run = |graph: &Graph| -> Vec<f64> {
            let mut values: std::collections::BTreeMap<ValueId, Tensor> = std::collections::BTreeMap::new();
            for id in graph.order().unwrap() {
                match (&graph.node(id).kind, graph.node(id).op()) {
                    (ir::Kind::Const(t), _) => drop(values.insert(id.into(), t.clone())),
                    (_, Some(op)) => {
                        let ins: Vec<_> = graph.node(id).ins.iter().map(|v| v.map(|v| &values[&v])).collect();
                        let outs = ir::eval(op, &ins, 1).unwrap();
                        values.insert(id.into(), outs[0].clone());
                    }
                    _ => drop(values.insert(id.into(), x.clone())),
                }
            }
            graph.outputs().iter().flat_map(|o| values[&o.value].to_f64()).collect()
        };
        let (a, b) = (run(before), run(after));
        assert_eq!(a.len(), b.len());
        assert!(a.iter().any(|y| *y != a[0]), "nothing to compare");
        a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
    }

    fn drawn(shape: &[usize]) -> Tensor {
        let n = shape.iter().product();
        Tensor::new(shape, (0..n).map(|i: usize| (i * 7919 % 101) as f32 * 0.12 - 4.0).collect::<Vec<f32>>())
    }

    /// Each clamp reads the one in front of it three times: there are 3^40 ways through.
    #[test]
    fn clamps_that_clamp_with_themselves() {
        let clamps: Vec<String> = (0..40).map(|i| format!("c{} = Clip (c{i}, c{i}, c{i})", i + 1)).collect();
        let mut graph = read(
            CONSTANTS,
            "net (uint8[N,3] x_q) => (float[N,2] c40)",
            &format!(
                "x = DequantizeLinear (x_q, s, z)
                 g_dq = DequantizeLinear (g, gs, gz)
                 c0 = MatMul (x, g_dq)
                 {}",
                clamps.join("\n")
            ),
        );
        fuse(&mut graph);
        assert!(body(&graph)[0].contains("MatMulIntegerToFloat"), "{:?}", body(&graph)[0]);
    }

    #[test]
    fn scales_per_block_have_no_integer_form() {
        let mut graph = read(
            CONSTANTS,
            "net (float[4,3] x) => (float[4,2] y)",
            "x_q = QuantizeLinear (x, s, m)
             x_dq = DequantizeLinear (x_q, s, m)
             g_dq = DequantizeLinear <axis=1, block_size=2> (g, gb2)
             y = MatMul (x_dq, g_dq)",
        );
        let before = body(&graph);
        let report = fuse(&mut graph);
        assert_eq!(body(&graph), before);
        assert!(report.lines[0].to_string().contains("\"g_dq\" has a scale per block"), "{report:?}");
    }

    #[test]
    fn pooling_keeps_codes() {
        let body_of = |second: &str| {
            let mut graph = read(
                CONSTANTS,
                "net (float[2,3,6,6] x) => (uint8[2,3,3,3] y_q)",
                &format!(
                    "x_q = QuantizeLinear (x, s, m)
                     x_dq = DequantizeLinear (x_q, s, m)
                     pool1 = MaxPool <kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]> (x_dq)
                     y_q = QuantizeLinear (pool1, {second}, m)"
                ),
            );
            let before = graph.clone();
            fuse(&mut graph);
            assert_eq!(furthest(&before, &graph, &drawn(&[2, 3, 6, 6])), 0.0);
            body(&graph)
        };
        let fused = body_of("s");
        assert_eq!(fused.len(), 2);
        assert!(fused[1].contains("MaxPool") && fused[1].contains("(x_q)"), "{fused:?}");
        assert_eq!(body_of("t").len(), 4);
    }

    #[test]
    fn a_residual_block_becomes_integers() {
        let mut graph = read(
            CONSTANTS,
            "net (float[2,3,6,6] x) => (uint8[2,4,3,3] y_q)",
            "x_q = QuantizeLinear (x, s, m)
             x_dq = DequantizeLinear (x_q, s, m)
             w_dq = DequantizeLinear <axis=0> (w, ws, wz)
             b_dq = DequantizeLinear <axis=0> (b, bs)
             conv1 = Conv <pads=[1, 1, 1, 1], strides=[2, 2]> (x_dq, w_dq, b_dq)
             relu1 = Relu (conv1)
             relu1_q = QuantizeLinear (relu1, t, z)
             relu1_dq = DequantizeLinear (relu1_q, t, z)
             sigmoid1 = Sigmoid (relu1_dq)
             sigmoid1_q = QuantizeLinear (sigmoid1, u, z)
             sigmoid1_dq = DequantizeLinear (sigmoid1_q, u, z)
             mul1 = Mul (relu1_dq, sigmoid1_dq)
             mul1_q = QuantizeLinear (mul1, t, z)
             mul1_dq = DequantizeLinear (mul1_q, t, z)
             add1 = Add (mul1_dq, relu1_dq)
             clip1 = Clip (add1, low, )
             y_q = QuantizeLinear (clip1, t, z)",
        );
        let before = graph.clone();
        let report = fuse(&mut graph);
        assert_eq!(
            body(&graph),
            [
                "x_q = QuantizeLinear (x, s, m)  # uint8[2,3,6,6]",
                "[conv1] relu1_q = QLinearConv <pads=[1, 1, 1, 1], strides=[2, 2]> (x_q, s, m, w, ws, wz, t, z, b)  # uint8[2,4,3,3]",
                "[sigmoid1] sigmoid1_q = com.microsoft.QLinearSigmoid (relu1_q, t, z, u, z)  # uint8[2,4,3,3]",
                "[mul1] mul1_q = com.microsoft.QLinearMul (relu1_q, t, z, sigmoid1_q, u, z, t, z)  # uint8[2,4,3,3]",
                "[add1] y_q = com.microsoft.QLinearAdd (mul1_q, t, z, relu1_q, t, z, t, z)  # uint8[2,4,3,3]",
            ]
        );
        assert!(report.lines.iter().all(|l| matches!(l.verdict, Verdict::Done(_))));
        assert_eq!(
            report.lines[0].to_string(),
            "fuse-qdq: Conv node \"conv1\": computed on codes by QLinearConv"
        );
        assert!(furthest(&before, &graph, &drawn(&[2, 3, 6, 6])) <= 1.0);
        let again = ir::text::parse(&ir::text::print(&graph), &Ops).unwrap();
        assert_eq!(body(&again), body(&graph));
    }

    #[test]
    fn pools_concat_and_logits() {
        let mut graph = read(
            CONSTANTS,
            "net (float[2,3,6,6] x) => (float[2,2] y, float[2,2] n)",
            "x_q = QuantizeLinear (x, s, m)
             x_dq = DequantizeLinear (x_q, s, m)
             pool1 = AveragePool <kernel_shape=[3, 3], pads=[1, 1, 1, 1]> (x_dq)
             pool1_q = QuantizeLinear (pool1, u, m)
             pool1_dq = DequantizeLinear (pool1_q, u, m)
             leaky1 = LeakyRelu <alpha=0.1> (x_dq)
             leaky1_q = QuantizeLinear (leaky1, t, m)
             leaky1_dq = DequantizeLinear (leaky1_q, t, m)
             both = Concat <axis=2> (pool1_dq, leaky1_dq)
             both_q = QuantizeLinear (both, s, m)
             both_dq = DequantizeLinear (both_q, s, m)
             max1 = MaxPool <kernel_shape=[2, 2], strides=[2, 2]> (both_dq)
             max1_q = QuantizeLinear (max1, s, m)
             max1_dq = DequantizeLinear (max1_q, s, m)
             mean1 = GlobalAveragePool (max1_dq)
             mean1_q = QuantizeLinear (mean1, s, m)
             mean1_dq = DequantizeLinear (mean1_q, s, m)
             flat = Flatten (mean1_dq)
             flat_q = QuantizeLinear (flat, s, m)
             flat_dq = DequantizeLinear (flat_q, s, m)
             g_dq = DequantizeLinear (g, gs, gz)
             gb_dq = DequantizeLinear (gb, gbs)
             y = Gemm (flat_dq, g_dq, gb_dq)
             n = MatMul (flat_dq, g_dq)",
        );
        let before = graph.clone();
        fuse(&mut graph);
        let integer: Vec<String> = body(&graph)
            .into_iter()
            .filter(|l| l.contains("QL") || l.contains("QGemm") || l.contains("Integer"))
            .collect();
        assert_eq!(
            integer,
            [
                "[pool1] pool1_q = com.microsoft.QLinearAveragePool <kernel_shape=[3, 3], pads=[1, 1, 1, 1]> (x_q, s, m, u, m)  # uint8[2,3,6,6]",
                "[leaky1] leaky1_q = com.microsoft.QLinearLeakyRelu <alpha=0.1> (x_q, s, m, t, m)  # uint8[2,3,6,6]",
                "[both] both_q = com.microsoft.QLinearConcat <axis=2> (s, m, pool1_q, u, m, leaky1_q, t, m)  # uint8[2,3,12,6]",
                "[mean1] mean1_q = com.microsoft.QLinearGlobalAveragePool (max1_q, s, m, s, m)  # uint8[2,3,1,1]",
                "y = com.microsoft.QGemm (flat_q, s, m, g, gs, gz, gb)  # float[2,2]",
                "n = com.microsoft.MatMulIntegerToFloat (flat_q, g, s, gs, m, gz)  # float[2,2]",
            ]
        );
        assert!(furthest(&before, &graph, &drawn(&[2, 3, 6, 6])) <= 0.05 * 0.6 * 3.0);
    }

    /// Why a convolution stays in floating point.
    fn refusal(head: &str, body: &str) -> String {
        let start = "x_q = QuantizeLinear (x, s, m)
                     x_dq = DequantizeLinear (x_q, s, m)
                     w_dq = DequantizeLinear <axis=0> (w, ws, wz)
                     b_dq = DequantizeLinear <axis=0> (b, bs)";
        let mut graph = read(CONSTANTS, head, &format!("{start}\n{body}"));
        graph.sweep();
        let before = ir::text::print(&graph);
        let report = fuse(&mut graph);
        assert_eq!(ir::text::print(&graph), before);
        match &report.lines[..] {
            [line] => line.to_string(),
            lines => panic!("{lines:?}"),
        }
    }

    #[test]
    fn what_stays_in_floating_point_says_why() {
        let one = "net (float[1,3,4,4] x) => (uint8[1,4,2,2] q)";
        let why = |body: &str| refusal(one, body).replace("fuse-qdq: left Conv node \"c\": ", "");
        assert_eq!(
            why("c = Conv (x_dq, w_dq)\nr = Relu (c)\nq = QuantizeLinear (r, t, m)"),
            "Relu node \"r\" cuts into the range of the quantizer behind it"
        );
        assert_eq!(
            why("c = Conv (x_dq, w_dq)\nr = Clip (c, low, high)\nq = QuantizeLinear (r, t, z)"),
            "Clip node \"r\" cuts into the range of the quantizer behind it"
        );
        assert_eq!(
            why("c = Conv (x_dq, w_dq)\nq = QuantizeLinear <axis=1> (c, us, uz)"),
            "its result \"q\" has a scale per channel"
        );
        assert_eq!(
            why("c = Conv (x, w_dq)\nq = QuantizeLinear (c, t, z)"),
            "its input \"x\" does not come from DequantizeLinear"
        );
        assert_eq!(
            why("c = Conv (x_dq, w_dq, us)\nq = QuantizeLinear (c, t, z)"),
            "its bias does not come from DequantizeLinear"
        );
        assert_eq!(
            why(
                "v_dq = DequantizeLinear <axis=0> (b, us)\nc = Conv (x_dq, w_dq, v_dq)\nq = QuantizeLinear (c, t, z)"
            ),
            "the scale of its bias is not the product of the scales of its data and weight"
        );
        assert_eq!(
            why("c = Conv (x_dq, w_dq, b_dq)\nh = HardSwish (c)\nq = QuantizeLinear (h, t, z)"),
            "HardSwish node \"h\" reads its result, not QuantizeLinear"
        );
        assert_eq!(
            why(
                "v_dq = DequantizeLinear <axis=1> (w, w3)\nc = Conv (x_dq, v_dq)\nq = QuantizeLinear (c, t, z)"
            ),
            "its weight has a scale per entry of axis 1, not of its output channels"
        );
        let signed = "net (float[1,3,4,4] x) => (int8[1,4,2,2] q)";
        let line = refusal(signed, "c = Conv (x_dq, w_dq)\nq = QuantizeLinear (c, t, iz)");
        assert!(line.ends_with("its result \"q\" holds int8 codes, not uint8"), "{line}");
        let two = "net (float[1,3,4,4] x) => (uint8[1,4,2,2] q, float[1,4,2,2] r)";
        let line = refusal(two, "c = Conv (x_dq, w_dq)\nq = QuantizeLinear (c, t, z)\nr = Relu (c)");
        assert!(line.ends_with("its result is read 2 times"), "{line}");
        let float = "net (float[1,3,4,4] x) => (float[1,4,2,2] c)";
        assert!(refusal(float, "c = Conv (x_dq, w_dq)").ends_with("its result is an output of the graph"));
    }
}
