//! What a graph's inputs and outputs mean: data, labels, class scores, loss.

use ir::{Graph, GraphError, Kind, NodeId, Op, Output, Type, ValueId};
use ops::{LogSoftmax, NegativeLogLikelihoodLoss, Softmax, SoftmaxCrossEntropyLoss};
use std::collections::BTreeSet;
use tensor::DType;

/// Name of the label input that [`add_loss`] adds.
pub const LABEL: &str = "label";
/// Name of the loss output that [`add_loss`] adds.
pub const LOSS: &str = "loss";

/// The roles of inputs and outputs.
#[derive(Clone, Debug, PartialEq)]
pub struct Signature {
    /// Inputs that data is fed to, in order.
    pub data: Vec<String>,
    /// Input that labels are fed to, when the graph holds a loss.
    pub label: Option<String>,
    /// Output with the loss, when the graph holds one.
    pub loss: Option<String>,
    /// Output with one score per class, `[N, classes]`, when there is one.
    pub scores: Option<String>,
}

/// The loss node behind a value, and what it compares.
fn loss_node(graph: &Graph, v: ValueId) -> Option<NodeId> {
    let node = graph.node(v.node);
    let is =
        node.is::<SoftmaxCrossEntropyLoss>().is_some() || node.is::<NegativeLogLikelihoodLoss>().is_some();
    is.then_some(v.node)
}

fn is_scalar_float(ty: &Type) -> bool {
    ty.dtype == Some(DType::F32) && ty.dims().is_some_and(|d| d.len() <= 1 && d.iter().all(|&n| n == 1))
}

fn is_integer(ty: &Type) -> bool {
    matches!(ty.dtype, Some(DType::I64 | DType::I32))
}

/// Whether an input is named as what a loss compares with.
fn named_target(name: &str) -> bool {
    ["label", "labels", "target", "targets", "y"].contains(&name.to_lowercase().as_str())
}

/// Follows a value to the graph input that it comes from, through nodes with one operand that matters.
fn source_input(graph: &Graph, mut v: ValueId) -> Option<NodeId> {
    loop {
        if graph.inputs().contains(&v.node) {
            return Some(v.node);
        }
        v = graph.node(v.node).ins.first().copied().flatten()?;
    }
}

impl Signature {
    /// Reads the roles off the graph: a loss is a scalar float output that a loss operator makes, or that is named
    /// `loss`, or the only number that comes out; labels are the integers that it compares with; scores are what else comes out
    /// with two dimensions.
    pub fn of(graph: &Graph) -> Signature {
        let outputs = graph.outputs();
        let loss = outputs.iter().find(|o| {
            is_scalar_float(graph.ty(o.value))
                && (loss_node(graph, o.value).is_some() || o.name.contains("loss"))
        });
        let number = |o: &&Output| graph.ty(o.value).rank() == Some(0) && is_scalar_float(graph.ty(o.value));
        let loss = loss.or_else(|| match outputs.iter().filter(number).collect::<Vec<_>>()[..] {
            [only] => Some(only),
            _ => None,
        });
        let by_node = loss
            .and_then(|o| loss_node(graph, o.value))
            .and_then(|n| source_input(graph, graph.node(n).ins.get(1).copied().flatten()?));
        let by_name = || {
            let is_label = |&i: &NodeId| is_integer(graph.ty(i.into())) && named_target(&graph.node(i).name);
            graph.inputs().iter().copied().find(is_label)
        };
        let label = loss.and_then(|_| by_node.or_else(by_name));
        let scores = graph
            .outputs()
            .iter()
            .filter(|o| Some(&o.name) != loss.map(|l| &l.name))
            .find(|o| graph.ty(o.value).rank().is_none_or(|r| r == 2) && !is_integer(graph.ty(o.value)));
        Signature {
            data: graph
                .inputs()
                .iter()
                .filter(|&&i| Some(i) != label)
                .map(|&i| graph.node(i).name.clone())
                .collect(),
            label: label.map(|i| graph.node(i).name.clone()),
            loss: loss.map(|o| o.name.clone()),
            scores: scores.map(|o| o.name.clone()),
        }
    }
}

/// Adds softmax cross-entropy with hard labels to a graph without a loss: an input [`LABEL`] of int64 `[N]` and an
/// output [`LOSS`]. A softmax at the end of the graph is left out of the loss, which has its own.
///
/// # Errors
/// When no output holds class scores.
pub fn add_loss(graph: &mut Graph) -> Result<(), GraphError> {
    let signature = Signature::of(graph);
    let scores =
        signature.scores.and_then(|name| graph.outputs().iter().find(|o| o.name == name).map(|o| o.value));
    let Some(mut scores) = scores else {
        let what = "no output has the shape [N, classes] that a cross-entropy needs".to_string();
        return Err(GraphError { place: "outputs".into(), what });
    };
    let softmax = |op: Option<&dyn Op>| {
        op.is_some_and(|op| op.is::<Softmax>().is_some() || op.is::<LogSoftmax>().is_some())
    };
    if softmax(graph.node(scores.node).op()) {
        scores = graph.node(scores.node).ins[0].unwrap_or(scores);
    }
    let batch = graph.ty(scores).shape.as_ref().and_then(|s| s.first().cloned()).unwrap_or(ir::Dim::sym("N"));
    let label = graph.add_input(LABEL, Type::new(DType::I64, [batch]));
    let loss = graph.add(SoftmaxCrossEntropyLoss::default(), &[scores, label], LOSS)?;
    let name = graph.value(loss).name.clone();
    graph.add_output(&name, loss);
    Ok(())
}

/// Makes outputs of what a loss compares with its labels or targets, where the loss is all that comes out of the graph:
/// without it nothing would be left for inference.
///
/// # Errors
/// When the graph has a cycle.
pub fn expose_scores(graph: &mut Graph) -> Result<(), GraphError> {
    let (Signature { loss: Some(_), label, .. }, [loss]) = (Signature::of(graph), graph.outputs()) else {
        return Ok(());
    };
    let compared = match loss_node(graph, loss.value).and_then(|n| graph.node(n).ins[0]) {
        Some(scores) => vec![scores],
        None => {
            let is_target = |&&i: &&NodeId| {
                let name = &graph.node(i).name;
                label.as_ref() == Some(name) || named_target(name)
            };
            compared(graph, &graph.inputs().iter().filter(is_target).copied().collect::<Vec<_>>())?
        }
    };
    for v in compared {
        let name = graph.value(v).name.clone();
        graph.add_output(&name, v);
    }
    Ok(())
}

/// The float results that depend on data but not on `targets`, and are read by something that depends on both.
fn compared(graph: &Graph, targets: &[NodeId]) -> Result<Vec<ValueId>, GraphError> {
    let (mut of_targets, mut of_data) = (BTreeSet::new(), BTreeSet::new());
    let mut found = Vec::new();
    for id in graph.order()? {
        let node = graph.node(id);
        let reads = |set: &BTreeSet<NodeId>| node.ins.iter().flatten().any(|v| set.contains(&v.node));
        if targets.contains(&id) || reads(&of_targets) {
            for v in node.ins.iter().flatten() {
                let is_result = graph.node(v.node).op().is_some() && graph.ty(*v).dtype == Some(DType::F32);
                if is_result
                    && of_data.contains(&v.node)
                    && !of_targets.contains(&v.node)
                    && !found.contains(v)
                {
                    found.push(*v);
                }
            }
            of_targets.insert(id);
        }
        if (matches!(node.kind, Kind::Input) && !targets.contains(&id)) || reads(&of_data) {
            of_data.insert(id);
        }
    }
    Ok(found)
}

/// Removes loss and labels from a graph: what stays is for inference.
pub fn strip_loss(graph: &mut Graph) {
    let signature = Signature::of(graph);
    let Some(loss) = signature.loss else { return };
    let kept: Vec<_> =
        graph.outputs().iter().filter(|o| o.name != loss).map(|o| (o.name.clone(), o.value)).collect();
    if kept.is_empty() {
        return;
    }
    graph.set_outputs(kept);
    graph.sweep();
    if let Some(label) = signature.label.and_then(|name| graph.find(&name)) {
        graph.remove_input(label.node);
        graph.sweep();
    }
}
