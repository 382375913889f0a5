//! `thaw-quant`: the reverse of `freeze-quant`. Pairs of a quantized file become quantizers of training that start with its
//! scales, whichever tool wrote it; codes of weights and biases become floats again.
//!
//! ```text
//! x_q = QuantizeLinear (x, s, z)
//! x_dq = DequantizeLinear (x_q, s, z)
//! w_dq = DequantizeLinear <axis=0> (w_codes, w_s)       # int8 constant
//! b_dq = DequantizeLinear <axis=0> (b_codes, b_s)       # int32 constant
//! conv1 = Conv (x_dq, w_dq, b_dq)
//! ->
//! x_observed = qat.Observe (x, x_range)                 # holds the range (0 - z) s .. (255 - z) s
//! x_scale, x_zero_point = qat.ActivationScale (x_observed)
//! x_fq = qat.FakeQuant (x, x_scale, x_zero_point)
//! w_fq = qat.FakeQuant <axis=0, high=127, low=-127> (w, w_scale)
//! conv1 = Conv (x_fq, w_fq, b)
//! ```
//!
//! The scale of a weight follows the weight, as in any other training, where that is the scale that the file has; where it is
//! another one (a clipped weight, a reduced range), the scale of the file stays. A Relu that a tool left to the saturation of the
//! quantizer behind it comes back, since ranges move in training. Pairs that only repeat those of their operand
//! behind an operator that moves values go: freezing puts them back.

use crate::config::{ActivationQuantizeType, Numerics, QuantConfig};
use crate::hooks::{Quantize, Site};
use crate::pass::{Pass, Report, operations};
use crate::quantizer::{ActivationQuantizer, MARK, hold};
use ir::{Graph, GraphError, Kind, NodeId, QuantRole, Role, ValueId};
use kernels::quant::{Axis, Grid, Quantizer};
use observe::Range;
use ops::{AbsMax, ActivationScale, Clip, DequantizeLinear, FakeQuant, QuantizeLinear, Relu, WeightScale};
use std::collections::BTreeMap;
use tensor::{DType, Tensor};

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Thaw {
    /// How ranges of activations are followed from here on. PTQ files have ranges with two ends, so a type that follows
    /// magnitudes gives way to the moving average of both ends.
    pub config: QuantConfig,
}

/// Scale and zero point of a pair, per tensor or along an axis.
struct Grading {
    scale: Vec<f32>,
    zero_point: Vec<i64>,
    /// Type of the codes.
    codes: DType,
    axis: i64,
}

impl Pass for Thaw {
    fn name(&self) -> &'static str {
        "thaw-quant"
    }

    fn run(&self, graph: &mut Graph, report: &mut Report) -> Result<(), GraphError> {
        let followed = match self.config.activation_quantize_type {
            ActivationQuantizeType::MinMax => ActivationQuantizeType::MinMax,
            _ => ActivationQuantizeType::MovingAverageMinMax,
        };
        let config = QuantConfig {
            activation_quantize_type: followed,
            numerics: Numerics::Deploy,
            ..self.config.clone()
        };
        // Several DequantizeLinear may read one QuantizeLinear.
        let mut thawed: BTreeMap<ValueId, ValueId> = BTreeMap::new();
        for id in operations(graph)? {
            if graph.node(id).is::<DequantizeLinear>().is_none() {
                continue;
            }
            let Some(codes) = graph.node(id).ins[0] else { continue };
            let label = graph.node(id).label();
            let grading = match grading(graph, id) {
                Ok(grading) => grading,
                Err(why) => {
                    report.skip(self.name(), label, why);
                    continue;
                }
            };
            let done = if let Some(values) = graph.constant(codes).cloned() {
                constant(graph, id, &values, &grading)?
            } else if graph.producer::<QuantizeLinear>(codes).is_none() {
                Err("its codes come from an operator that computes on them".to_string())
            } else if let Some(&quantized) = thawed.get(&codes) {
                Ok((quantized, "reads a quantizer that another node has already".to_string()))
            } else {
                let done = activation(graph, codes.node, &grading, &config)?;
                if let Ok((quantized, _)) = &done {
                    thawed.insert(codes, *quantized);
                }
                done
            };
            match done {
                Err(why) => report.skip(self.name(), label, why),
                Ok((value, how)) => {
                    graph.replace(id.into(), value)?;
                    report.done(self.name(), label, how);
                }
            }
        }
        Ok(())
    }
}

/// A value that takes the place of a DequantizeLinear, with a sentence on how; or why none does.
type Thawed = Result<(ValueId, String), String>;

fn grading(graph: &Graph, id: NodeId) -> Result<Grading, String> {
    let node = graph.node(id);
    let (axis, extra) = match (node.is::<DequantizeLinear>(), node.is::<QuantizeLinear>()) {
        (Some(op), _) => (op.axis, &op.extra),
        (_, Some(op)) => (op.axis, &op.extra),
        _ => return Err("is neither QuantizeLinear nor DequantizeLinear".into()),
    };
    if extra.iter().any(|(name, _)| name == "block_size") {
        return Err("its scales are per block".into());
    }
    let operand = |slot: usize| node.ins.get(slot).copied().flatten();
    let constant =
        |slot: usize| operand(slot).map(|v| graph.constant(v).ok_or("its scale or zero point is computed"));
    let scale = constant(1).ok_or("it has no scale")??.to_f32();
    let zero_point = constant(2).transpose()?;
    let codes = match node.is::<QuantizeLinear>() {
        Some(_) => graph.ty(id.into()).dtype,
        None => operand(0).and_then(|v| graph.ty(v).dtype),
    };
    let codes = codes.ok_or("the type of its codes is not known")?;
    let zero_point = zero_point.map_or_else(|| vec![0; scale.len()], Tensor::to_i64);
    if zero_point.len() != scale.len() || scale.iter().any(|s| !s.is_finite() || *s <= 0.0) {
        return Err("its scales and zero points do not belong together".into());
    }
    Ok(Grading { scale, zero_point, codes, axis })
}

/// Puts a quantizer of training in the place of a pair, whose first node is `quantize`.
fn activation(
    graph: &mut Graph,
    quantize: NodeId,
    grading: &Grading,
    config: &QuantConfig,
) -> Result<Thawed, GraphError> {
    let same = |other: &Grading| other.scale == grading.scale && other.zero_point == grading.zero_point;
    if !self::grading(graph, quantize).is_ok_and(|q| same(&q)) {
        return Ok(Err("its QuantizeLinear has another scale or zero point".into()));
    }
    let (&[scale], &[zero_point]) = (&grading.scale[..], &grading.zero_point[..]) else {
        return Ok(Err("activations are quantized per tensor here, but it has a scale per channel".into()));
    };
    let (low, high) = match grading.codes {
        DType::U8 => (0, 255),
        DType::I8 => (-128, 127),
        other => return Ok(Err(format!("its codes are {other}; 8 bits are trained"))),
    };
    let Some(x) = graph.node(quantize).ins[0] else { return Ok(Err("it has no operand".into())) };
    if graph.ty(x).dtype.is_some_and(|dtype| !dtype.is_float()) {
        return Ok(Err("its operand is not floating point".into()));
    }
    let range = Range { min: (low - zero_point) as f32 * scale, max: (high - zero_point) as f32 * scale };
    if let Some(held) = held_range(graph, x)
        && [(held.min, range.min), (held.max, range.max)]
            .iter()
            .all(|(a, b)| (a - b).abs() <= 1e-5 * (high - low) as f32 * scale)
    {
        return Ok(Ok((x, "repeats the scale of its operand".into())));
    }
    let clamp = if zero_point == low { restored_clamp(graph, x, range.max, scale)? } else { None };
    let (x, how) = clamp.map_or((x, ""), |clamped| (clamped, ", behind the clamp that it had taken over"));
    let born = graph.now();
    let name = graph.value(x).name.clone();
    let site = Site { value: x, name, axis: None, config };
    let quantized = ActivationQuantizer.insert(graph, &site)?;
    let origin = format!("{MARK}{})", site.name);
    for id in graph.born_since(born) {
        graph.set_origin(id, &origin);
        if matches!(graph.node(id).kind, Kind::Variable(_, Role::State)) {
            hold(graph, id, config.statistic(), range)?;
        }
    }
    Ok(Ok((quantized, format!("quantizer of \"{}\" starts at {}..{}{how}", site.name, range.min, range.max))))
}

/// A clamp in front of a quantizer whose range begins at 0. Tools drop a Relu in front of a quantizer that saturates
/// there, but in training the range moves, and negative values would come through. A range that ends at 6 is that of the
/// clamp between 0 and 6.
fn restored_clamp(graph: &mut Graph, x: ValueId, max: f32, step: f32) -> Result<Option<ValueId>, GraphError> {
    let role = graph.node(x.node).op().map(|op| op.quant());
    if !matches!(role, Some(QuantRole::Weighted { .. } | QuantRole::Rescaling | QuantRole::Folded)) {
        return Ok(None);
    }
    let name = format!("{}_clamped", graph.value(x).name);
    let clamped = match (max - 6.0).abs() <= step {
        true => {
            let [low, high] = [("low", 0.0f32), ("high", 6.0)]
                .map(|(what, bound)| graph.add_const(&format!("{name}_{what}"), Tensor::scalar(bound)));
            graph.add(Clip, &[x, low, high], &name)?
        }
        false => graph.add(Relu, &[x], &name)?,
    };
    graph.set_origin(clamped.node, &graph.node(x.node).origin.clone());
    Ok(Some(clamped))
}

/// The range that the quantizer of a value holds, which it may have through operators that only move values.
fn held_range(graph: &Graph, mut v: ValueId) -> Option<Range> {
    loop {
        let node = graph.node(v.node);
        let operand = node.ins.first().copied().flatten();
        if node.is::<FakeQuant>().is_some() {
            let scale = node.ins[1]?;
            let op = graph.producer::<ActivationScale>(scale)?;
            let observed = graph.node(scale.node).ins[0]?;
            let state = match graph.tensor(observed) {
                Some(state) => state,
                None => graph.tensor(graph.node(observed.node).ins.get(1).copied().flatten()?)?,
            };
            return op.statistic.range(&state.to_f32());
        }
        match node.op().map(|op| op.quant()) {
            Some(QuantRole::SameScale) => v = operand?,
            _ => return None,
        }
    }
}

/// Puts floats in the place of codes, behind a quantizer where they are a weight.
fn constant(graph: &mut Graph, id: NodeId, codes: &Tensor, grading: &Grading) -> Result<Thawed, GraphError> {
    let Grading { scale, zero_point, codes: dtype, axis } = grading;
    let rank = codes.shape().len() as i64;
    let channel_axis = (scale.len() > 1).then_some(if *axis < 0 { axis + rank } else { *axis });
    let rows = match channel_axis.map(usize::try_from) {
        None => Some(Axis::whole(codes.len())),
        Some(axis) => axis.ok().and_then(|axis| Axis::of(codes.shape(), axis)),
    };
    let Some(rows) = rows.filter(|rows| rows.channels == scale.len()) else {
        return Ok(Err(format!("{} scales do not fit axis {axis} of {:?}", scale.len(), codes.shape())));
    };
    let channel = |i: usize| i / rows.inner.max(1) % rows.channels.max(1);
    let values: Vec<i64> =
        codes.to_i64().iter().enumerate().map(|(i, q)| q - zero_point[channel(i)]).collect();
    let floats = values.iter().enumerate().map(|(i, &q)| q as f32 * scale[channel(i)]).collect();
    let name = float_name(graph, id);
    let float = graph.add_const(&name, Tensor::new(codes.shape(), floats));
    if graph.value(id.into()).name == name {
        graph.swap_names(id.into(), float);
    }
    let name = graph.value(float).name.clone();
    if *dtype == DType::I32 {
        return Ok(Ok((float, format!("float bias \"{name}\""))));
    }
    let grid = Grid::I8_NARROW;
    let mut largest = vec![0i64; scale.len()];
    values.iter().enumerate().for_each(|(i, q)| largest[channel(i)] = largest[channel(i)].max(q.abs()));
    // Where a channel reaches the last code, its scale follows from its weights.
    let follows = largest.iter().all(|&q| q == i64::from(grid.high) || q == 0);
    let axis = channel_axis.and_then(|axis| usize::try_from(axis).ok());
    let fits = largest.iter().all(|&q| q <= i64::from(grid.high) + 1);
    let (scale, how) = if follows || !fits {
        let magnitude = graph.add(AbsMax { axis }, &[float], &format!("{name}_abs_max"))?;
        let scale = graph.add(WeightScale { bits: 8 }, &[magnitude], &format!("{name}_scale"))?;
        (
            scale,
            if fits {
                "its scale follows the weight"
            } else {
                "its zero points give way to a symmetric scale"
            },
        )
    } else {
        let shape: &[usize] = if axis.is_some() { &[rows.channels] } else { &[] };
        let scale = Tensor::new(shape, scale.clone());
        (graph.add_const(&format!("{name}_scale"), scale), "its scale stays that of the file")
    };
    let fq = FakeQuant { quantizer: Quantizer::onnx(grid), axis, clipped: false, learned: false };
    let quantized = graph.add(fq, &[float, scale], &format!("{name}_fq"))?;
    Ok(Ok((quantized, format!("int8 weight \"{name}\", {how}"))))
}

/// The name of the tensor before it was quantized, where the tools that we know left it.
fn float_name(graph: &Graph, id: NodeId) -> String {
    let codes = graph.node(id).ins[0].map_or("", |v| graph.value(v).name.as_str());
    codes.strip_suffix("_quantized").unwrap_or(codes).to_string()
}
