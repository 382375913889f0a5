//! `insert-fake-quant`: puts quantizers on weights and data of convolutions and matrix products.
//!
//! ```text
//! conv1 = Conv (x, w, b)
//! ->
//! x_observed = qat.Observe (x, x_range)                 # x_range <- x_observed
//! x_scale, x_scale_zero_point = qat.ActivationScale (x_observed)
//! x_fq = qat.FakeQuant (x, x_scale, x_scale_zero_point)
//! w_abs_max = qat.AbsMax <axis=0> (w)
//! w_scale = qat.WeightScale (w_abs_max)
//! w_fq = qat.FakeQuant <axis=0, high=127, low=-127> (w, w_scale)
//! conv1 = Conv (x_fq, w_fq, b)
//! ```
//!
//! Under [`Numerics::Deploy`] the result of a convolution gets a quantizer too, behind the batch norm and the clamp that
//! runtimes fuse into it, because an integer convolution has to know its output scale. Under [`Numerics::Compat`] it is
//! PaddleSlim's `QuantizationTransformPass` (V1): operands only, and only for the nodes that are quantized.

use crate::config::{Numerics, QuantConfig};
use crate::hooks::Hooks;
use crate::pass::{Pass, Report, operations};
use crate::quantizer::Inserter;
use crate::selection::Selection;
use crate::tensor_override;
use ir::{Graph, GraphError, Kind, NodeId, QuantRole, ValueId};
use tensor::{DType, Tensor};

/// See the module.
#[derive(Clone, Default)]
pub struct InsertFakeQuant {
    /// What to quantize and how.
    pub config: QuantConfig,
    /// The user's own quantizers.
    pub hooks: Hooks,
}

impl Pass for InsertFakeQuant {
    fn name(&self) -> &'static str {
        "insert-fake-quant"
    }

    fn run(&self, graph: &mut Graph, report: &mut Report) -> Result<(), GraphError> {
        tensor_override::check_names(graph, &self.config)?;
        let selection = Selection::of(graph, &self.config)?;
        let mut inserter = Inserter::new(graph, &self.config, &self.hooks);
        for id in operations(graph)? {
            let Some(op) = graph.node(id).op() else { continue };
            let label = graph.node(id).label();
            let (data, weight, axis) = match op.quant() {
                QuantRole::Weighted { data, weight, axis, .. } => (data, weight, axis),
                QuantRole::Float if op.name() == "Gemm" => {
                    report.skip(
                        self.name(),
                        label,
                        "it scales its operands (alpha, beta) or transposes its data",
                    );
                    continue;
                }
                _ => continue,
            };
            match self.fit(graph, &selection, id, data, weight) {
                Err(why) => report.skip(self.name(), label, why),
                Ok((x, w)) => {
                    let (bits, channel) = (self.config.weight_bits, graph.value(w).name.clone());
                    let w_fq = inserter.weight(graph, w, axis)?;
                    graph.set_input(id, weight, Some(w_fq));
                    let x_fq = inserter.activation(graph, x)?;
                    graph.set_input(id, data, Some(x_fq));
                    if self.config.numerics == Numerics::Deploy {
                        output(graph, &mut inserter, id)?;
                    }
                    report.done(
                        self.name(),
                        label,
                        format!("int{bits} weight \"{channel}\", {}-bit data", self.config.activation_bits),
                    );
                }
            }
        }
        inserter.finish(graph);
        Ok(())
    }
}

impl InsertFakeQuant {
    /// Data and weight of a node that can be quantized; why not, otherwise.
    fn fit(
        &self,
        graph: &Graph,
        selection: &Selection,
        id: NodeId,
        data: usize,
        weight: usize,
    ) -> Result<(ValueId, ValueId), String> {
        let node = graph.node(id);
        let op_type = node.op().map_or("", |op| op.name());
        selection.takes(op_type, &node.name)?;
        if self.config.numerics == Numerics::Deploy && op_type == "ConvTranspose" {
            return Err("ONNX Runtime has no integer kernel for ConvTranspose".into());
        }
        let operand = |i: usize| node.ins.get(i).copied().flatten().ok_or("an operand is missing");
        let (x, w) = (operand(data)?, operand(weight)?);
        if !matches!(graph.node(w.node).kind, Kind::Const(_) | Kind::Variable(..)) {
            return Err("its weight is computed".into());
        }
        if matches!(graph.node(x.node).kind, Kind::Const(_)) {
            return Err("its data is constant".into());
        }
        for v in [x, w] {
            let ty = graph.ty(v);
            if ty.dtype.is_some_and(|d| d != DType::F32) {
                return Err(format!("\"{}\" is {ty}, not float", graph.value(v).name));
            }
        }
        if graph.tensor(w).is_some_and(Tensor::is_empty) {
            return Err("its weight has no elements".into());
        }
        if op_type == "MatMul" && graph.ty(w).rank() != Some(2) {
            return Err(format!("its weight is {}, not a matrix", graph.ty(w)));
        }
        Ok((x, w))
    }
}

/// Quantizes the result of a convolution. A matrix product needs no output scale: its readers quantize it if they want.
fn output(graph: &mut Graph, inserter: &mut Inserter, id: NodeId) -> Result<(), GraphError> {
    if graph.node(id).op().is_some_and(|op| op.name() == "Conv") {
        let y = fused_result(graph, id);
        inserter.activation(graph, y)?;
    }
    Ok(())
}

/// The value behind the batch norm and the clamp that fuse into a node.
pub(crate) fn fused_result(graph: &Graph, id: NodeId) -> ValueId {
    let mut y = ValueId::from(id);
    while let Some(next) = graph.only_consumer(y) {
        match graph.node(next).op().map(|op| op.quant()) {
            Some(QuantRole::Clamp | QuantRole::Folded) if graph.node(next).ins.first() == Some(&Some(y)) => {
                y = next.into();
            }
            _ => break,
        }
    }
    y
}
