//! `quantize-activations`: puts quantizers around the operators without weights that runtimes compute on codes.
//!
//! ```text
//! add1 = Add (x_fq, y)
//! relu1 = Relu (add1)
//! ->
//! y_fq = qat.FakeQuant (y, …)
//! add1 = Add (x_fq, y_fq)
//! relu1 = Relu (add1)
//! relu1_fq = qat.FakeQuant (relu1, …)
//! ```
//!
//! Under [`Numerics::Deploy`] an operator takes part when one of its operands is quantized already, or comes from an
//! activation of such a tensor that is written on codes: an island of integers between float operators would only cost.
//! Under [`Numerics::Compat`] it is PaddleSlim's `AddQuantDequantPass` (V1): operators of the configured types whose
//! operands are all computed get a quantizer of their own per operand.

use crate::config::{Numerics, QuantConfig};
use crate::hooks::Hooks;
use crate::insert_fake_quant::fused_result;
use crate::pass::{Pass, Report, operations};
use crate::quantizer::Inserter;
use crate::selection::Selection;
use ir::{Graph, GraphError, Kind, NodeId, QuantRole, ValueId};
use tensor::DType;

/// See the module.
#[derive(Clone, Default)]
pub struct QuantizeActivations {
    /// What to quantize and how.
    pub config: QuantConfig,
    /// The user's own quantizers.
    pub hooks: Hooks,
}

impl Pass for QuantizeActivations {
    fn name(&self) -> &'static str {
        "quantize-activations"
    }

    fn run(&self, graph: &mut Graph, report: &mut Report) -> Result<(), GraphError> {
        // Paddle's pass has no hooks.
        let none = Hooks::default();
        let hooks = if self.config.numerics == Numerics::Deploy { &self.hooks } else { &none };
        let selection = Selection::of(graph, &self.config)?;
        let mut inserter = Inserter::new(graph, &self.config, hooks);
        for id in operations(graph)? {
            let wanted = match self.config.numerics {
                Numerics::Deploy => deploy(graph, &selection, &inserter, id),
                Numerics::Compat => self.compat(graph, &selection, id),
            };
            match wanted {
                None => {}
                Some(Err(why)) => report.skip(self.name(), graph.node(id).label(), why),
                Some(Ok(slots)) => {
                    for slot in slots {
                        if let Some(x) = graph.node(id).ins[slot] {
                            let q = inserter.activation(graph, x)?;
                            graph.set_input(id, slot, Some(q));
                        }
                    }
                    let mut how = "operands quantized";
                    if self.config.numerics == Numerics::Deploy {
                        let y = fused_result(graph, id);
                        inserter.activation(graph, y)?;
                        how = "operands and result quantized";
                    }
                    report.done(self.name(), graph.node(id).label(), how);
                }
            }
        }
        inserter.finish(graph);
        Ok(())
    }
}

/// Operand slots to quantize, or why not; `None` when the node is nothing for this pass.
type Wanted = Option<Result<Vec<usize>, String>>;

fn deploy(graph: &Graph, selection: &Selection, inserter: &Inserter, id: NodeId) -> Wanted {
    let node = graph.node(id);
    let op = node.op()?;
    if op.quant() != QuantRole::Rescaling {
        return None;
    }
    let operands: Vec<(usize, ValueId)> =
        node.ins.iter().enumerate().filter_map(|(slot, v)| v.map(|v| (slot, v))).collect();
    let lowered = |v: ValueId| {
        let producer = graph.node(v.node);
        let is_lowered = producer.op().is_some_and(|op| op.quant() == QuantRole::Lowered);
        is_lowered && producer.ins.first().copied().flatten().is_some_and(|x| inserter.quantized(graph, x))
    };
    if !operands.iter().any(|&(_, v)| inserter.quantized(graph, v) || lowered(v)) {
        return None;
    }
    Some(deploy_slots(graph, selection, id, op.name(), &operands))
}

fn deploy_slots(
    graph: &Graph,
    selection: &Selection,
    id: NodeId,
    op_type: &str,
    operands: &[(usize, ValueId)],
) -> Result<Vec<usize>, String> {
    selection.takes(op_type, &graph.node(id).name)?;
    for &(_, v) in operands {
        if matches!(graph.node(v.node).kind, Kind::Const(_) | Kind::Variable(..)) {
            return Err(format!("it reads the constant \"{}\"", graph.value(v).name));
        }
        if graph.ty(v).dtype.is_some_and(|d| d != DType::F32) {
            return Err(format!("\"{}\" is {}, not float", graph.value(v).name, graph.ty(v)));
        }
    }
    let y = fused_result(graph, id);
    if graph.is_output(y) {
        return Err("its result is an output of the model".into());
    }
    Ok(operands.iter().map(|&(slot, _)| slot).collect())
}

impl QuantizeActivations {
    fn compat(&self, graph: &Graph, selection: &Selection, id: NodeId) -> Wanted {
        let node = graph.node(id);
        let op = node.op()?;
        let types = self.config.op_types()?;
        if !types.contains(&op.name()) || matches!(op.quant(), QuantRole::Weighted { .. }) {
            return None;
        }
        if let Err(why) = selection.takes(op.name(), &node.name) {
            return Some(Err(why));
        }
        let constant = |v: &ValueId| graph.tensor(*v).is_some();
        // The second format leaves out the constant alone, not the operator.
        if !self.config.onnx_format && node.ins.iter().flatten().any(constant) {
            return Some(Err("an operand is constant".into()));
        }
        let quantized = |v: &ValueId| graph.producer::<ops::FakeQuant>(*v).is_some();
        if node.ins.iter().flatten().any(quantized) {
            return Some(Err("an operand is quantized already".into()));
        }
        let float = |v: &ValueId| graph.ty(*v).dtype.is_none_or(|d| d.is_float());
        let wanted = |i: &usize| node.ins[*i].is_some_and(|v| float(&v) && !constant(&v));
        Some(Ok((0..node.ins.len()).filter(wanted).collect()))
    }
}
