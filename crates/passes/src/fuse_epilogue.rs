//! `fuse-epilogue`: what stands behind a product in a training graph becomes one operation.
//!
//! ```text
//! bn1, mean1, var1, m1, s1 = BatchNormalization <training_mode=1> (conv1, gamma, beta, mean, var)
//! relu1 = Relu (bn1)
//! relu1_pact = qat.Pact (relu1, threshold)
//! relu1_processed = qat.Processed (relu1_pact, relu1)
//! relu1_observed = qat.Observe (relu1_processed, range)
//! relu1_scale, relu1_zp = qat.ActivationScale (relu1_observed, threshold)
//! relu1_fq = qat.FakeQuant (relu1_processed, relu1_scale, relu1_zp)
//! ->
//! relu1_fq, mean1, var1, m1, s1, relu1_observed, relu1_scale, relu1_zp =
//!     qat.Epilogue <norm=1, activation="Relu", pact=1, quantized=1> (conv1, _, gamma, beta, mean, var, threshold, range)
//! ```
//!
//! An addition of two tensors of one shape may stand where the batch norm stands, or nothing. What something else reads is where
//! the operation begins. A training step is then bound by the products; the activation and its clipped copy need no memory.
//!
//! For the graph of a training step, before gradients are made: it has no ONNX form.

use crate::pass::{Pass, Report, operations};
use ir::{Graph, GraphError, NodeId, ValueId};
use kernels::elementwise::Unary;
use kernels::quant::{Pact as Form, Rule};
use ops::{
    ActivationScale, Add, BatchNormalization, Clip, Epilogue, EpilogueQuant, FakeQuant, HardSigmoid,
    HardSwish, Norm, Observe, Pact, Processed, Relu,
};
use std::sync::Arc;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct FuseEpilogue;

impl Pass for FuseEpilogue {
    fn name(&self) -> &'static str {
        "fuse-epilogue"
    }

    fn run(&self, graph: &mut Graph, report: &mut Report) -> Result<(), GraphError> {
        // Quantizers first: each takes the activation in front of it along.
        for quantizers in [true, false] {
            for id in operations(graph)? {
                if graph.node(id).is::<FakeQuant>().is_some() != quantizers {
                    continue;
                }
                let Some(chain) = Chain::behind(graph, id) else { continue };
                let label = graph.node(id).label();
                chain.fuse(graph)?;
                report.done(self.name(), label, "with what stands in front of it");
            }
            graph.sweep();
        }
        graph.infer()
    }
}

/// A run of operations, from its last to its first.
struct Chain {
    op: Epilogue,
    /// The last result, and the place of each operand of [`Epilogue`].
    last: ValueId,
    ins: [Option<ValueId>; 8],
    norm: Option<NodeId>,
    /// Observer and scale.
    quantizer: Option<(NodeId, NodeId)>,
}

impl Chain {
    /// The chain that ends with a node, when it is worth an operation.
    fn behind(graph: &Graph, id: NodeId) -> Option<Chain> {
        let op =
            Epilogue { norm: None, activation: Unary::Identity, pact: None, quantizer: None, codes: false };
        let mut chain = Chain { op, last: id.into(), ins: [None; 8], norm: None, quantizer: None };
        // The value up to which the chain goes so far, and who may read it.
        let mut at: ValueId = id.into();
        let mut readers: Vec<NodeId> = Vec::new();
        if let Some(quant) = graph.node(id).is::<FakeQuant>() {
            (at, readers) = chain.quantizer(graph, id, quant)?;
            if graph.producer::<Pact>(at).is_some() && only(graph, at, &readers) {
                (at, readers) = chain.pact(graph, at)?;
            }
        }
        let is_end = readers.is_empty();
        if (is_end || only(graph, at, &readers))
            && let Some((activation, x)) = activation(graph, at.node)
        {
            chain.op.activation = activation;
            (at, readers) = (x, vec![at.node]);
        } else if is_end {
            return None;
        }
        if only(graph, at, &readers) && chain.norm(graph, at) {
            return Some(chain);
        }
        if only(graph, at, &readers) && chain.sum(graph, at) {
            return Some(chain);
        }
        chain.ins[0] = Some(at);
        chain.op.quantizer.is_some().then_some(chain)
    }

    /// Takes in a quantizer with its observer. Returns what it quantizes, and who reads that.
    fn quantizer(&mut self, graph: &Graph, id: NodeId, quant: &FakeQuant) -> Option<(ValueId, Vec<NodeId>)> {
        let [Some(x), Some(scale), Some(zero_point)] = graph.node(id).ins[..] else { return None };
        let of_scale = graph.producer::<ActivationScale>(scale)?;
        let observed = graph.node(scale.node).ins[0]?;
        let observe = graph.producer::<Observe>(observed)?;
        let fits = quant.quantizer.rule == Rule::Onnx
            && quant.axis.is_none()
            && quant.quantizer.grid == of_scale.grid
            && of_scale.statistic == observe.statistic
            && (zero_point.node, zero_point.out) == (scale.node, 1)
            && graph.node(observed.node).ins[0] == Some(x);
        if !fits {
            return None;
        }
        self.op.quantizer = Some(EpilogueQuant { scale: *of_scale, clipped: quant.clipped });
        self.quantizer = Some((observed.node, scale.node));
        self.ins[7] = graph.node(observed.node).ins[1];
        let readers = vec![id, observed.node];
        let Some(processed) = graph.producer::<Processed>(x) else { return Some((x, readers)) };
        let inner = graph.node(x.node).ins[0]?;
        (!processed.bypassed && only(graph, x, &readers)).then(|| (inner, vec![x.node]))
    }

    /// Takes in the clipping whose result is `at`; its scale must be limited by the same threshold.
    fn pact(&mut self, graph: &Graph, at: ValueId) -> Option<(ValueId, Vec<NodeId>)> {
        let form = graph.producer::<Pact>(at)?.form;
        let [Some(x), Some(threshold)] = graph.node(at.node).ins[..] else { return None };
        let limit = graph.node(self.quantizer?.1).ins.get(1).copied().flatten();
        if !matches!(form, Form::Symmetric | Form::Relu) || limit != Some(threshold) {
            return None;
        }
        self.op.pact = Some(form);
        self.ins[6] = Some(threshold);
        // The original of a processed tensor is no reader: the mark goes.
        let mut readers = vec![at.node];
        readers.extend(
            graph
                .consumers(x)
                .into_iter()
                .filter(|&(n, slot)| slot == 1 && is_mark(graph, n))
                .map(|(n, _)| n),
        );
        Some((x, readers))
    }

    /// Takes in the batch norm whose first result is `at`.
    fn norm(&mut self, graph: &Graph, at: ValueId) -> bool {
        let node = graph.node(at.node);
        let (Some(op), [x, gamma, beta, mean, variance]) = (node.is::<BatchNormalization>(), &node.ins[..])
        else {
            return false;
        };
        if !op.training || node.outs.len() != 5 || at.out != 0 {
            return false;
        }
        self.op.norm = Some(Norm { epsilon: op.epsilon, momentum: op.momentum });
        self.norm = Some(at.node);
        self.ins[0] = *x;
        self.ins[2..6].copy_from_slice(&[*gamma, *beta, *mean, *variance]);
        true
    }

    /// Takes in the addition whose result is `at`.
    fn sum(&mut self, graph: &Graph, at: ValueId) -> bool {
        let node = graph.node(at.node);
        let (Some(_), [Some(a), Some(b)]) = (node.is::<Add>(), &node.ins[..]) else { return false };
        let same = graph.ty(*a).dims().is_some_and(|dims| graph.ty(*b).dims() == Some(dims));
        if same {
            (self.ins[0], self.ins[1]) = (Some(*a), Some(*b));
        }
        same
    }

    fn fuse(self, graph: &mut Graph) -> Result<(), GraphError> {
        let name = graph.value(self.last).name.clone();
        let outs: Vec<String> = (0..self.op.results()).map(|i| format!("{name}_epilogue_{i}")).collect();
        let outs: Vec<&str> = outs.iter().map(String::as_str).collect();
        let new = graph.add_node(Arc::new(self.op), &self.ins, &name, &outs)?;
        graph.set_origin(new, &graph.node(self.last.node).origin.clone());
        let result = |out: usize| ValueId { node: new, out: out as u16 };
        let mut moves = vec![(self.last, 0)];
        if let Some(norm) = self.norm {
            moves.extend((1..5).map(|out| (ValueId { node: norm, out: out as u16 }, out)));
        }
        if let Some((observe, scale)) = self.quantizer {
            let first = self.op.state_result();
            moves.push((observe.into(), first));
            moves.extend((0..2).map(|out| (ValueId { node: scale, out: out as u16 }, first + 1 + out)));
        }
        for (old, out) in moves {
            graph.swap_names(old, result(out));
            graph.replace(old, result(out))?;
        }
        Ok(())
    }
}

/// Whether nobody but `readers` reads a value.
fn only(graph: &Graph, v: ValueId, readers: &[NodeId]) -> bool {
    !graph.is_output(v) && graph.consumers(v).iter().all(|(n, _)| readers.contains(n))
}

/// A mark that keeps the tensor in front of a pre-process for freezing.
fn is_mark(graph: &Graph, id: NodeId) -> bool {
    graph.node(id).is::<Processed>().is_some()
}

/// The activation that a node computes, and its operand.
fn activation(graph: &Graph, id: NodeId) -> Option<(Unary, ValueId)> {
    let node = graph.node(id);
    let operand = |i: usize| node.ins.get(i).copied().flatten();
    let activation = if node.is::<Relu>().is_some() {
        Unary::Relu
    } else if node.is::<HardSwish>().is_some() {
        Unary::HardSwish
    } else if let Some(&HardSigmoid { alpha, beta }) = node.is() {
        Unary::HardSigmoid { alpha, beta }
    } else if node.is::<Clip>().is_some() {
        clip_bounds(graph, id)?
    } else {
        return None;
    };
    let is_float = graph.ty(id.into()).dtype == Some(tensor::DType::F32);
    Some((activation, operand(0).filter(|_| is_float)?))
}

/// The clamp of a Clip, when its bounds are constant.
pub(crate) fn clip_bounds(graph: &Graph, id: NodeId) -> Option<Unary> {
    let bound = |i: usize, none: f32| match graph.node(id).ins.get(i).copied().flatten() {
        None => Some(none),
        Some(v) => graph.constant(v).and_then(|t| t.to_f32().first().copied()),
    };
    Some(Unary::Clip { lo: bound(1, f32::NEG_INFINITY)?, hi: bound(2, f32::INFINITY)? })
}
