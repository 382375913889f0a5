//! What quantization would do to each node, and why: a dry run.

use crate::quantize::insert_quantizers;
use crate::{Error, Model, QuantizeOptions};
use ir::{Graph, NodeId, QuantRole, ValueId};
use ops::{DequantizeLinear, FakeQuant};
use passes::{Normalize, Report, Verdict};
use std::collections::BTreeMap;
use std::fmt;

/// What becomes of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Becomes {
    /// It has an int8 weight and computes on codes.
    Integer,
    /// It has an int8 weight, but computes in floating point.
    WeightOnly,
    /// It computes on codes, without a weight.
    Codes,
    /// It is left as it is.
    Float,
}

impl fmt::Display for Becomes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Becomes::Integer => "int8",
            Becomes::WeightOnly => "int8 weight",
            Becomes::Codes => "codes",
            Becomes::Float => "float",
        })
    }
}

/// The decision about one node.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The node, with its operator.
    pub node: String,
    /// What becomes of it.
    pub becomes: Becomes,
    /// Why.
    pub why: String,
}

/// What [`quantize`](crate::quantize) would do to each node of a model, in execution order: the nodes as they are after
/// normalizing, by their names there. With data the ranges of activations are known; without it only weights are quantized.
///
/// # Errors
/// When a selector or an override names what the model does not have, or a node cannot be handled.
pub fn plan(model: &Model, options: &QuantizeOptions, with_data: bool) -> Result<Vec<Decision>, Error> {
    options.config.check()?;
    let mut graph = model.graph.clone();
    train::strip_loss(&mut graph);
    if with_data && options.fit.epochs > 0 {
        passes::unroll(&mut graph)?;
    }
    passes::normalize(&mut graph, Normalize { fold_batch_norm: !with_data || options.fold_batch_norm })?;
    let before: Vec<(String, String)> = operations(&graph)?
        .into_iter()
        .map(|id| (graph.node(id).name.clone(), graph.node(id).label()))
        .collect();
    let mut report = Report::default();
    let mut hear = |stage: &crate::Stage| {
        if let crate::Stage::Inserted(inserted) = stage {
            report.lines.extend(inserted.lines.iter().cloned());
        }
    };
    if with_data {
        insert_quantizers(&mut graph, options, &mut hear)?;
    } else {
        report = passes::quantize_weights(&mut graph, &options.config)?;
    }
    let mut lines: BTreeMap<&str, &Verdict> = BTreeMap::new();
    for line in &report.lines {
        // What one pass does counts for more than what another leaves.
        let known = lines.get(line.node.as_str()).is_some_and(|v| matches!(v, Verdict::Done(_)));
        if !known {
            lines.insert(&line.node, &line.verdict);
        }
    }
    let decide = |(name, label): (String, String)| {
        let id = graph.find_node(&name);
        let (becomes, why) = match (id, lines.get(label.as_str())) {
            (_, Some(Verdict::Skip(why))) => (Becomes::Float, why.clone()),
            // Another operator has taken the name over: it computes on codes.
            (Some(id), Some(Verdict::Done(how))) if graph.node(id).label() != label => {
                (Becomes::Integer, how.clone())
            }
            (Some(id), verdict) => role(&graph, id, verdict.copied()),
            (None, Some(Verdict::Done(how))) => (Becomes::Integer, how.clone()),
            (None, None) => (Becomes::Codes, "takes part in what replaces it".into()),
        };
        Decision { node: label, becomes, why }
    };
    Ok(before.into_iter().map(decide).collect())
}

fn operations(graph: &Graph) -> Result<Vec<NodeId>, Error> {
    Ok(graph.order()?.into_iter().filter(|&id| graph.node(id).op().is_some()).collect())
}

/// What a node of the graph with quantizers is.
fn role(graph: &Graph, id: NodeId, verdict: Option<&Verdict>) -> (Becomes, String) {
    let node = graph.node(id);
    let Some(op) = node.op() else { return (Becomes::Float, "is no operation".into()) };
    let done = match verdict {
        Some(Verdict::Done(how)) => Some(how.clone()),
        _ => None,
    };
    let operand = node.ins.first().copied().flatten();
    let on_codes = operand.is_some_and(|v| on_grid(graph, v));
    match op.quant() {
        QuantRole::Weighted { .. } => match (done, on_codes) {
            (Some(how), true) => (Becomes::Integer, how),
            (Some(how), false) => (Becomes::WeightOnly, how),
            (None, _) => (Becomes::Float, "no operand is quantized".into()),
        },
        QuantRole::Rescaling => match done {
            Some(how) => (Becomes::Codes, how),
            None => (Becomes::Float, "none of its operands is quantized".into()),
        },
        QuantRole::Lowered if on_codes => {
            (Becomes::Codes, "written as additions and products between pairs".into())
        }
        QuantRole::SameScale if on_codes => {
            (Becomes::Codes, "keeps the codes and the scale of its operand".into())
        }
        QuantRole::Clamp if reads_on(graph, id) && from_integers(graph, operand) => {
            (Becomes::Codes, "the quantizer of its result saturates where it clamps".into())
        }
        QuantRole::Folded if from_integers(graph, operand) => {
            (Becomes::Codes, "folded into the weights in front of it".into())
        }
        _ if node.is::<FakeQuant>().is_some() || node.is::<DequantizeLinear>().is_some() => {
            (Becomes::Codes, "is a quantizer".into())
        }
        QuantRole::Float => (Becomes::Float, format!("{} has no form on codes", op.name())),
        _ => (Becomes::Float, "its operand is not quantized".into()),
    }
}

/// Whether a value lies on the grid of a quantizer, directly or through operators that only move values.
fn on_grid(graph: &Graph, mut v: ValueId) -> bool {
    loop {
        let node = graph.node(v.node);
        if node.is::<FakeQuant>().is_some() || node.is::<DequantizeLinear>().is_some() {
            return true;
        }
        match (node.op().map(|op| op.quant()), node.ins.first().copied().flatten()) {
            (Some(QuantRole::SameScale), Some(operand)) => v = operand,
            _ => return false,
        }
    }
}

/// Whether a value comes from an operator that computes on codes, through what is folded into it.
fn from_integers(graph: &Graph, v: Option<ValueId>) -> bool {
    let Some(v) = v else { return false };
    let node = graph.node(v.node);
    let operand = |slot: usize| node.ins.get(slot).copied().flatten();
    match node.op().map(|op| op.quant()) {
        Some(QuantRole::Weighted { weight, .. }) => operand(weight).is_some_and(|w| on_grid(graph, w)),
        Some(QuantRole::Rescaling) => node.ins.iter().flatten().all(|&v| on_grid(graph, v)),
        Some(QuantRole::Folded | QuantRole::Clamp) => from_integers(graph, operand(0)),
        _ => false,
    }
}

/// Whether the result goes to a quantizer, through further clamps where there are any.
fn reads_on(graph: &Graph, id: NodeId) -> bool {
    graph.consumers(id.into()).iter().any(|&(reader, _)| {
        let node = graph.node(reader);
        node.is::<FakeQuant>().is_some()
            || matches!(node.op().map(|op| op.quant()), Some(QuantRole::Clamp)) && reads_on(graph, reader)
    })
}
