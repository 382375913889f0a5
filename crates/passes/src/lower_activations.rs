//! `lower-activations`: activations for which runtimes have no integer kernel are spelled in operators that have one.
//!
//! ```text
//! x_dequantized = DequantizeLinear (x_quantized, x_scale, x_zp)
//! y = HardSwish (x_dequantized)
//! ->
//! x_dequantized = DequantizeLinear (x_quantized, x_scale, x_zp)
//! y_slope = DequantizeLinear (x_quantized, x_scale / 6, x_zp)
//! y_half = DequantizeLinear (255, 0.5 / 255, 0)
//! y_line = Add (y_slope, y_half)
//! y_gate = QuantizeLinear, DequantizeLinear (y_line, 1 / 255, 0)
//! y = Mul (x_dequantized, y_gate)
//! ```
//!
//! `DequantizeLinear` with another scale than that of the quantizer is an exact linear function of the codes, and the saturation
//! of a quantizer is a clamp. So `HardSigmoid` is an addition whose quantizer covers no more than 0 to 1, and `HardSwish` the
//! product with it. `Add` and `Mul` between pairs run on codes everywhere. The gate has 255 steps: a result is at most one
//! step of its own quantizer from the one that was trained.
//!
//! What has no quantized operand or no quantized result stays.

use crate::freeze::pair;
use crate::pass::{Pass, Report, operations, supersede};
use ir::{Graph, GraphError, NodeId, ValueId};
use ops::{Add, DequantizeLinear, HardSigmoid, HardSwish, Mul, QuantizeLinear};
use tensor::{DType, Tensor};

/// See the module. Wants a frozen graph.
#[derive(Clone, Copy, Debug, Default)]
pub struct LowerActivations;

impl Pass for LowerActivations {
    fn name(&self) -> &'static str {
        "lower-activations"
    }

    fn run(&self, graph: &mut Graph, report: &mut Report) -> Result<(), GraphError> {
        let then = graph.now();
        for id in operations(graph)? {
            let node = graph.node(id);
            let (swish, sigmoid) = (node.is::<HardSwish>().is_some(), node.is::<HardSigmoid>().copied());
            let gate = match sigmoid {
                Some(gate) => gate,
                None if swish => HardSigmoid { alpha: 1.0 / 6.0, beta: 0.5 },
                None => continue,
            };
            let label = node.label();
            match plan(graph, id, gate, swish) {
                Err(why) => report.skip(self.name(), label, why),
                Ok(x) => {
                    lower(graph, id, x, gate, swish)?;
                    let how = if swish { "an addition and a product" } else { "an addition" };
                    report.done(self.name(), label, format!("now {how} on codes"));
                }
            }
        }
        if graph.now() == then { Ok(()) } else { graph.infer() }
    }
}

/// The dequantized operand.
struct Operand {
    value: ValueId,
    codes: ValueId,
    scale: f32,
    zero_point: ValueId,
}

/// What a node is computed from, or why it stays.
fn plan(graph: &Graph, id: NodeId, gate: HardSigmoid, swish: bool) -> Result<Operand, String> {
    let value = graph.node(id).ins.first().copied().flatten().ok_or("it has no operand")?;
    if graph.producer::<DequantizeLinear>(value).is_none() {
        return Err("its operand is not quantized".into());
    }
    let &[Some(codes), Some(scale), Some(zero_point)] = &graph.node(value.node).ins[..] else {
        return Err("its operand has no zero point".into());
    };
    let one = |v: ValueId| graph.constant(v).filter(|t| t.len() == 1);
    let (Some(scale), Some(zero)) = (one(scale), one(zero_point)) else {
        return Err("its operand has more than one scale".into());
    };
    if zero.dtype() != DType::U8 || gate.alpha <= 0.0 || gate.beta <= 0.0 {
        return Err("its operand or its slope is not positive uint8".into());
    }
    let readers = graph.consumers(id.into());
    let quantized = |reader: NodeId| graph.node(reader).is::<QuantizeLinear>().is_some();
    if readers.is_empty() || graph.is_output(id.into()) || !readers.iter().all(|&(r, _)| quantized(r)) {
        return Err("its result is not quantized".into());
    }
    // The quantizer of a gate is its clamp.
    if !swish && !readers.iter().all(|&(reader, _)| clamps(graph, reader)) {
        return Err("the quantizer of its result covers more than 0 to 1".into());
    }
    Ok(Operand { value, codes, scale: scale.to_f32()[0], zero_point })
}

/// Whether a quantizer covers a part of 0 to 1, from 0 on, in uint8.
fn clamps(graph: &Graph, id: NodeId) -> bool {
    let constant = |i: usize| graph.node(id).ins.get(i).copied().flatten().and_then(|v| graph.constant(v));
    let (Some(scale), Some(zero)) = (constant(1), constant(2)) else { return false };
    // A last bit of the scale above 1/255 is no step above 1.
    let within = scale.to_f32().iter().all(|s| s * 255.0 <= 1.0 + 1e-6);
    within && zero.dtype() == DType::U8 && zero.to_i64().iter().all(|&z| z == 0)
}

fn lower(
    graph: &mut Graph,
    id: NodeId,
    x: Operand,
    gate: HardSigmoid,
    swish: bool,
) -> Result<(), GraphError> {
    let name = graph.value(id.into()).name.clone();
    let named = |what: &str| format!("{name}_{what}");
    let line = |graph: &mut Graph| -> Result<ValueId, GraphError> {
        let slope = graph.add_const(&named("slope_scale"), Tensor::scalar(x.scale * gate.alpha));
        let ins = [x.codes, slope, x.zero_point];
        let slope = graph.add(DequantizeLinear::default(), &ins, &named("slope"))?;
        let top = graph.add_const(&named("offset_quantized"), Tensor::scalar(u8::MAX));
        let step = graph.add_const(&named("offset_scale"), Tensor::scalar(gate.beta / 255.0));
        let zero = graph.add_const(&named("offset_zero_point"), Tensor::scalar(0u8));
        let offset = graph.add(DequantizeLinear::default(), &[top, step, zero], &named("offset"))?;
        graph.add(Add, &[slope, offset], &named("line"))
    };
    let line = line(graph)?;
    let mut result = line;
    if swish {
        let step = graph.add_const(&named("gate_scale"), Tensor::scalar(1f32 / 255.0));
        let zero = graph.add_const(&named("gate_zero_point"), Tensor::scalar(0u8));
        let gate = pair(graph, &named("gate"), line, step, zero)?;
        graph.set_origin(line.node, &graph.node(id).origin.clone());
        result = graph.add(Mul, &[x.value, gate], &named("gated"))?;
    }
    supersede(graph, id, result.node)
}
