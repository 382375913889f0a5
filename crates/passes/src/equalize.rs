//! `equalize`: cross-layer equalization (Nagel et al. 2019, arXiv 1906.04721, section 4.1; AIMET's CLE).
//!
//! ```text
//! conv1 = Conv (x, w1, b1)
//! relu1 = Relu (conv1)
//! conv2 = Conv (relu1, w2, b2)
//! ->
//! conv1 = Conv (x, w1 / s, b1 / s)                      # channel by channel
//! relu1 = Relu (conv1)
//! conv2 = Conv (relu1, w2 * s, b2)
//! ```
//!
//! `Relu(x / s) * s = Relu(x)` for positive `s`, so the function stays the same, while `s = sqrt(r1 / r2)`, with `r1` and
//! `r2` the largest weights of the channel in `w1` and `w2`, makes both equal. A tensor whose channels have very different
//! ranges loses its small channels when it is quantized with one scale; afterwards it does not.
//!
//! A batch norm does the same in training, and goes in between: pairs with one are left.

use crate::pass::{Pass, Report, operations};
use ir::{Graph, GraphError, Kind, NodeId, QuantRole, ValueId};
use kernels::quant::{Axis, abs_max_channels};
use ops::{LeakyRelu, Relu};
use tensor::{DType, Tensor};

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct Equalize;

/// Pairs share layers, so one round does not reach the fixed point; it is close after a few.
const ROUNDS: usize = 10;

/// Channels whose weights already agree within this factor are left: rescaling would only cost rounding.
const CLOSE: f32 = 1.05;

/// A layer and the one behind it.
struct Chain {
    first: Weights,
    second: Weights,
}

/// The weight of one layer, seen from the channels between two layers.
#[derive(Clone, Copy)]
struct Weights {
    node: NodeId,
    weight: ValueId,
    /// Bias of the layer, where it has one.
    bias: Option<ValueId>,
    /// Axis of the weight along which the channels in between run.
    axis: usize,
}

impl Pass for Equalize {
    fn name(&self) -> &'static str {
        "equalize"
    }

    fn run(&self, graph: &mut Graph, report: &mut Report) -> Result<(), GraphError> {
        let mut chains = Vec::new();
        for id in operations(graph)? {
            if !matches!(graph.node(id).op().map(|op| op.quant()), Some(QuantRole::Weighted { .. })) {
                continue;
            }
            match chain(graph, id) {
                Ok(chain) => chains.push((chain, 1f32)),
                Err(why) => report.skip(self.name(), graph.node(id).label(), why),
            }
        }
        for _ in 0..ROUNDS {
            for (chain, largest) in &mut chains {
                *largest = largest.max(equalize(graph, chain)?);
            }
        }
        for (chain, largest) in chains {
            let between = format!(
                "{} and {}",
                graph.node(chain.first.node).label(),
                graph.node(chain.second.node).label()
            );
            if largest > CLOSE {
                report.done(self.name(), between, format!("channels rescaled by up to {largest:.1}"));
            }
        }
        Ok(())
    }
}

/// The pair that begins at a layer, or why there is none.
fn chain(graph: &Graph, id: NodeId) -> Result<Chain, String> {
    let first = output_side(graph, id)?;
    let mut y = ValueId::from(id);
    loop {
        let next = graph.only_consumer(y).ok_or("its result is read elsewhere or is an output")?;
        let node = graph.node(next);
        let homogeneous = node.is::<Relu>().is_some() || node.is::<LeakyRelu>().is_some();
        if homogeneous {
            y = next.into();
            continue;
        }
        let second = input_side(graph, next, y)?;
        let channels = |w: &Weights| graph.tensor(w.weight).map(|t| t.shape()[w.axis]);
        if channels(&first) != channels(&second) {
            return Err("the next layer has groups".into());
        }
        return Ok(Chain { first, second });
    }
}

/// The float constant in an operand slot that only this node reads.
fn own_constant(graph: &Graph, id: NodeId, slot: usize) -> Result<Option<ValueId>, String> {
    let Some(v) = graph.node(id).ins.get(slot).copied().flatten() else { return Ok(None) };
    let float = graph.constant(v).is_some_and(|t| t.dtype() == DType::F32);
    if !float || graph.consumers(v).len() != 1 {
        return Err(format!("\"{}\" is not a float constant of its own", graph.value(v).name));
    }
    Ok(Some(v))
}

fn output_side(graph: &Graph, id: NodeId) -> Result<Weights, String> {
    let Some(QuantRole::Weighted { weight, axis, bias, .. }) = graph.node(id).op().map(|op| op.quant())
    else {
        return Err("it has no weight".into());
    };
    let weight = own_constant(graph, id, weight)?.ok_or("its weight is missing")?;
    let bias = own_constant(graph, id, bias)?;
    let channels = graph.tensor(weight).map_or(0, |t| t.shape().get(axis).copied().unwrap_or(0));
    if bias.and_then(|b| graph.tensor(b)).is_some_and(|b| b.shape() != [channels]) {
        return Err("its bias is not one number per channel".into());
    }
    Ok(Weights { node: id, weight, bias, axis })
}

fn input_side(graph: &Graph, id: NodeId, data_value: ValueId) -> Result<Weights, String> {
    let node = graph.node(id);
    let Some(QuantRole::Weighted { data, weight, axis, .. }) = node.op().map(|op| op.quant()) else {
        return Err(format!("{} behind it does not commute with scaling", node.label()));
    };
    if node.ins.get(data).copied().flatten() != Some(data_value) {
        return Err("the next layer reads it as a weight".into());
    }
    let weight = own_constant(graph, id, weight)?.ok_or("the next layer has no weight")?;
    let shape = graph.tensor(weight).map(|t| t.shape().to_vec()).unwrap_or_default();
    // The other of the first two axes; a depthwise weight (O, 1, …) has its input channels along its output axis.
    let depthwise = shape.len() > 2 && shape[1 - axis.min(1)] == 1;
    let axis = if depthwise { axis } else { 1 - axis.min(1) };
    Ok(Weights { node: id, weight, bias: None, axis })
}

/// Largest magnitude of each channel.
fn ranges(graph: &Graph, w: &Weights) -> Vec<f32> {
    let Some(t) = graph.tensor(w.weight) else { return Vec::new() };
    let Some(rows) = Axis::of(t.shape(), w.axis) else { return Vec::new() };
    let mut out = vec![0.0; rows.channels];
    abs_max_channels(rows, &t.to_f32(), &mut out);
    out
}

/// Rescales one pair once. Returns the largest factor.
fn equalize(graph: &mut Graph, chain: &Chain) -> Result<f32, GraphError> {
    let (r1, r2) = (ranges(graph, &chain.first), ranges(graph, &chain.second));
    let factors: Vec<f32> = r1
        .iter()
        .zip(&r2)
        .map(|(&a, &b)| if a > 0.0 && b > 0.0 { (a / b).sqrt() } else { 1.0 })
        .map(|s| if s.is_normal() { s } else { 1.0 })
        .collect();
    scale(graph, chain.first.weight, chain.first.axis, |c| 1.0 / factors[c])?;
    if let Some(bias) = chain.first.bias {
        scale(graph, bias, 0, |c| 1.0 / factors[c])?;
    }
    scale(graph, chain.second.weight, chain.second.axis, |c| factors[c])?;
    Ok(factors.iter().fold(1.0, |m: f32, &s| m.max(s).max(1.0 / s)))
}

/// Multiplies a constant channel by channel.
fn scale(graph: &mut Graph, v: ValueId, axis: usize, by: impl Fn(usize) -> f32) -> Result<(), GraphError> {
    let Some(t) = graph.tensor(v) else { return Ok(()) };
    let Some(rows) = Axis::of(t.shape(), axis) else { return Ok(()) };
    let mut values = t.to_f32();
    for (i, run) in values.chunks_exact_mut(rows.inner.max(1)).enumerate() {
        run.iter_mut().for_each(|w| *w *= by(i % rows.channels));
    }
    let scaled = Tensor::new(t.shape(), values);
    graph.set_leaf(v.node, Kind::Const(scaled))
}
