//! `train-on-codes`: in a training step, quantized activations that convolutions read are kept as 8-bit codes.
//!
//! ```text
//! relu1_fq, … , relu1_scale, relu1_zp = qat.Epilogue <quantized=1> (conv1, …)      # float
//! w2_fq = qat.FakeQuant <axis=0, low=-127, high=127> (w2, w2_scale)
//! conv2 = Conv (relu1_fq, w2_fq)
//! dw2 = qat.ConvWeightGrad (d_conv2, relu1_fq)
//! ->
//! relu1_fq, … , relu1_scale, relu1_zp = qat.Epilogue <codes=1, quantized=1> (conv1, …)   # uint8
//! conv2 = qat.CodesConv (relu1_fq, relu1_scale, relu1_zp, w2, w2_scale)
//! dw2 = qat.CodesConvWeightGrad (d_conv2, relu1_fq, relu1_scale, relu1_zp)
//! ```
//!
//! The forward product runs on integers: it is the one that will be deployed, exact before its one rounding. What is kept for the
//! backward pass takes a quarter of the memory. Sums read codes too; any other reader gets the values from `qat.Decode`.
//! Depthwise convolutions gain nothing from codes, so what they read stays in floating point.
//!
//! For a step with its gradients, which codes have none of.

use crate::pass::{Pass, Report, operations};
use ir::{Graph, GraphError, NodeId, ValueId};
use kernels::quant::{Grid, Rule};
use ops::{CodesConv, CodesConvWeightGrad, Conv, ConvWeightGrad, Decode, Epilogue, EpilogueGrad, FakeQuant};
use std::sync::Arc;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct TrainOnCodes;

impl Pass for TrainOnCodes {
    fn name(&self) -> &'static str {
        "train-on-codes"
    }

    fn run(&self, graph: &mut Graph, report: &mut Report) -> Result<(), GraphError> {
        for id in operations(graph)? {
            let Some(op) = graph.node(id).is::<Epilogue>().copied() else { continue };
            if op.codes || op.quantizer.is_none_or(|q| q.scale.grid != Grid::U8) || graph.is_output(id.into())
            {
                continue;
            }
            let readers: Vec<(NodeId, usize, Reader)> = graph
                .consumers(id.into())
                .into_iter()
                .map(|(n, slot)| (n, slot, Reader::of(graph, n, slot)))
                .collect();
            let is = |reader: Reader| readers.iter().any(|r| r.2 == reader);
            if !is(Reader::Product) || is(Reader::Depthwise) {
                continue;
            }
            rewrite(graph, id, op, &readers)?;
            report.done(self.name(), graph.node(id).label(), "kept as uint8 codes");
        }
        graph.infer()
    }
}

/// What reads a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    /// A convolution with an int8 weight.
    Product,
    /// Its gradient with respect to the weight.
    WeightGrad,
    /// A sum, or a single operand, of an epilogue or of its gradient.
    Sum,
    /// A convolution that is faster on values.
    Depthwise,
    Other,
}

impl Reader {
    fn of(graph: &Graph, id: NodeId, slot: usize) -> Reader {
        let node = graph.node(id);
        if let (Some(conv), 0) = (node.is::<Conv>(), slot) {
            return match (is_depthwise(graph, conv.group, node.ins[0]), weight(graph, id)) {
                (true, _) => Reader::Depthwise,
                (false, Some(_)) => Reader::Product,
                (false, None) => Reader::Other,
            };
        }
        if let (Some(grad), 1) = (node.is::<ConvWeightGrad>(), slot) {
            let depthwise = is_depthwise(graph, grad.group, node.ins[1]);
            return if depthwise { Reader::Depthwise } else { Reader::WeightGrad };
        }
        let sum = match (node.is::<Epilogue>(), node.is::<EpilogueGrad>()) {
            (Some(op), _) => op.norm.is_none() && slot <= 1,
            (_, Some(EpilogueGrad(op))) => op.norm.is_none() && (1..=2).contains(&slot),
            _ => false,
        };
        if sum { Reader::Sum } else { Reader::Other }
    }
}

/// One channel per group.
fn is_depthwise(graph: &Graph, group: usize, x: Option<ValueId>) -> bool {
    group > 1 && x.and_then(|x| graph.ty(x).dims()).is_some_and(|dims| dims.get(1) == Some(&group))
}

/// The quantizer of a convolution's weight, when it gives int8 codes with one scale per output channel.
fn weight(graph: &Graph, id: NodeId) -> Option<(FakeQuant, ValueId, ValueId)> {
    let w = graph.node(id).ins.get(1).copied().flatten()?;
    let quant = *graph.producer::<FakeQuant>(w)?;
    let [Some(w), Some(scale), ref rest @ ..] = graph.node(w.node).ins[..] else { return None };
    let grid = quant.quantizer.grid;
    let fits = quant.quantizer.rule == Rule::Onnx
        && quant.axis == Some(0)
        && rest.iter().all(Option::is_none)
        && grid.low >= i8::MIN.into()
        && grid.high <= i8::MAX.into();
    fits.then_some((quant, w, scale))
}

fn rewrite(
    graph: &mut Graph,
    id: NodeId,
    op: Epilogue,
    readers: &[(NodeId, usize, Reader)],
) -> Result<(), GraphError> {
    let ins = graph.node(id).ins.to_vec();
    graph.set_op(id, Arc::new(Epilogue { codes: true, ..op }), &ins)?;
    let result = |at: usize| ValueId { node: id, out: (op.state_result() + at) as u16 };
    let (scale, zero_point) = (result(1), result(2));
    let mut values = None;
    for &(reader, slot, kind) in readers {
        let node = graph.node(reader);
        let ins = node.ins.to_vec();
        match kind {
            Reader::Product => {
                let (Some(conv), Some((quant, w, w_scale))) =
                    (node.is::<Conv>().cloned(), weight(graph, reader))
                else {
                    continue;
                };
                let bias = ins.get(2).copied().flatten();
                let new = CodesConv { window: conv.window, group: conv.group, quantizer: quant.quantizer };
                let ins = [Some(id.into()), Some(scale), Some(zero_point), Some(w), Some(w_scale), bias];
                graph.set_op(reader, Arc::new(new), &ins)?;
            }
            Reader::WeightGrad => {
                let Some(grad) = node.is::<ConvWeightGrad>().cloned() else { continue };
                let ins = [ins[0], Some(id.into()), Some(scale), Some(zero_point)];
                graph.set_op(reader, Arc::new(CodesConvWeightGrad(grad)), &ins)?;
            }
            Reader::Sum => {
                // Scale and zero point of the first operand and of the second one, behind all other operands.
                let first =
                    if node.is::<EpilogueGrad>().is_some() { 10 + 2 * (slot - 1) } else { 8 + 2 * slot };
                graph.set_input(reader, first, Some(scale));
                graph.set_input(reader, first + 1, Some(zero_point));
            }
            Reader::Depthwise | Reader::Other => {
                let decoded = match values {
                    Some(decoded) => decoded,
                    None => {
                        let name = format!("{}_values", graph.value(id.into()).name);
                        graph.add(Decode, &[id.into(), scale, zero_point], &name)?
                    }
                };
                values = Some(decoded);
                graph.set_input(reader, slot, Some(decoded));
            }
        }
    }
    Ok(())
}
