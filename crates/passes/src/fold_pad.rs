//! `fold-pad`: zeros around the spatial axes become padding of the operator that reads them.
//!
//! ```text
//! padded = Pad (x, pads)                                # pads: {0, 0, 0, 0, 0, 0, 1, 1}
//! conv1 = Conv <strides=[2, 2]> (padded, w)
//! ->
//! conv1 = Conv <pads=[0, 0, 1, 1], strides=[2, 2]> (x, w)
//! ```
//!
//! An AveragePool must count the padding, as it counted the zeros. A MaxPool pads with the lowest value instead: it is left.

use crate::pass::{Pass, Report, operations, supersede};
use ir::{Graph, GraphError, NodeId, Op, ValueId};
use ops::{AutoPad, AveragePool, Conv, Pad, PadMode, Window};
use std::sync::Arc;
use tensor::Tensor;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct FoldPad;

impl Pass for FoldPad {
    fn name(&self) -> &'static str {
        "fold-pad"
    }

    fn run(&self, graph: &mut Graph, report: &mut Report) -> Result<(), GraphError> {
        for id in operations(graph)? {
            let Some(x) = graph.node(id).ins.first().copied().flatten() else { continue };
            if graph.producer::<Pad>(x).is_none() {
                continue;
            }
            let pad = graph.node(x.node).label();
            match fold(graph, x.node, id) {
                Err(why) => report.skip(self.name(), pad, why),
                Ok((op, source)) => {
                    let (label, name) = (graph.node(id).label(), graph.value(id.into()).name.clone());
                    let mut ins = graph.node(id).ins.clone();
                    ins[0] = Some(source);
                    let new = graph.add_node(op, &ins, &name, &[&name])?;
                    supersede(graph, id, new)?;
                    report.done(self.name(), pad, format!("now padding of {label}"));
                }
            }
        }
        Ok(())
    }
}

/// The operator that reads the unpadded tensor, and that tensor.
fn fold(graph: &Graph, pad: NodeId, reader: NodeId) -> Result<(Arc<dyn Op>, ValueId), String> {
    let node = graph.node(reader);
    let label = node.label();
    let (conv, pool) = (node.is::<Conv>(), node.is::<AveragePool>());
    let (window, counted) = match (conv, pool) {
        (Some(conv), _) => (&conv.window, true),
        (_, Some(pool)) => (&pool.window, pool.include_pad || pool.window.pads.iter().all(|&p| p == 0)),
        _ => return Err(format!("{label} behind it has no padding with zeros")),
    };
    if pool.is_some_and(|p| p.ceil) {
        return Err(format!(
            "{label} rounds its size up, and windows that begin in the padding would be dropped"
        ));
    }
    if !counted {
        return Err(format!("{label} does not count its own padding, but counts these zeros"));
    }
    if !matches!(window.auto_pad, AutoPad::NotSet | AutoPad::Valid) {
        return Err(format!("{label} chooses its padding by the size of its operand"));
    }
    let (source, pads) = spatial_zeros(graph, pad)?;
    let own = if window.auto_pad == AutoPad::NotSet { &window.pads[..] } else { &[] };
    let pads = pads.iter().enumerate().map(|(i, p)| p + own.get(i).copied().unwrap_or(0)).collect();
    let window = Window { pads, auto_pad: AutoPad::NotSet, ..window.clone() };
    let op: Arc<dyn Op> = match (conv, pool) {
        (Some(conv), _) => Arc::new(Conv { window, ..conv.clone() }),
        (_, Some(pool)) => Arc::new(AveragePool { window, include_pad: true, ..pool.clone() }),
        _ => return Err(format!("{label} behind it has no padding with zeros")),
    };
    Ok((op, source))
}

/// What a Pad reads, and how many zeros it puts before and behind each spatial axis, in ONNX order.
fn spatial_zeros(graph: &Graph, pad: NodeId) -> Result<(ValueId, Vec<usize>), String> {
    let node = graph.node(pad);
    let operand = |i: usize| node.ins.get(i).copied().flatten();
    let constant =
        |i: usize| operand(i).map(|v| graph.constant(v).ok_or("its padding is computed")).transpose();
    let op = node.is::<Pad>().ok_or("it is no Pad")?;
    let x = operand(0).ok_or("it has no operand")?;
    if op.mode != PadMode::Constant {
        return Err("it repeats or mirrors values instead of adding zeros".into());
    }
    if constant(2)?.is_some_and(|value| value.to_f64().iter().any(|&v| v != 0.0)) {
        return Err("it pads with another value than 0".into());
    }
    let rank = graph.ty(x).rank().ok_or("the rank of its operand is unknown")?;
    let given = constant(1)?.ok_or("its padding is computed")?.to_i64();
    let axes = match constant(3)?.map(Tensor::to_i64) {
        None => (0..rank as i64).collect(),
        Some(axes) => axes,
    };
    let mut pads = vec![0i64; 2 * rank];
    for (i, &axis) in axes.iter().enumerate() {
        let at = usize::try_from(if axis < 0 { axis + rank as i64 } else { axis }).ok().filter(|&a| a < rank);
        let (Some(at), Some(&before), Some(&behind)) = (at, given.get(i), given.get(i + axes.len())) else {
            return Err(format!("axes {axes:?} and padding {given:?} do not fit rank {rank}"));
        };
        (pads[at], pads[at + rank]) = (before, behind);
    }
    let spatial: Vec<usize> = pads.iter().filter_map(|&p| usize::try_from(p).ok()).collect();
    if spatial.len() != pads.len() {
        return Err(format!("it cuts: its padding is {given:?}"));
    }
    if rank < 3 || [0, 1, rank, rank + 1].iter().any(|&i| spatial[i] != 0) {
        return Err("it pads the batch or the channels".into());
    }
    Ok((x, [&spatial[2..rank], &spatial[rank + 2..]].concat()))
}
