//! What PaddleSlim's passes make gradient operators read: its quirks in training, for [`Numerics::Compat`](crate::Numerics).
//!
//! PaddleSlim inserts quantizers into a program that has its gradient operators already, and renames those operators'
//! operands to the quantized tensors by name. Two of the names are the wrong ones:
//!
//! - Behind a pre-process, the gradient operator of a convolution or matrix product was pointed to the pre-processed tensor
//!   before, so that the renaming misses it: it reads the tensor **before** quantization.
//! - Of an operator that `quantize-activations` quantized, the gradient operator's forward **result** is renamed too. Where
//!   that result is the operand of another such operator, max pooling looks for its maxima with the quantized result and
//!   loses the gradient of all windows where nothing equals it; functions whose gradient is computed from their result
//!   (Relu, Tanh, …) see the quantized one.
//!
//! The forward pass shows nothing of this, so it is not written into the graph but told to the gradient rules.

use ir::{Graph, GraphError, QuantRole, StandIns, ValueId};
use kernels::quant::Rule;
use ops::{FakeQuant, Processed};

use crate::pass::operations;

/// The stand-ins of a graph that [`quant_aware`](crate::quant_aware) made, for [`ir::gradients_with`]. Empty for
/// quantizers with the arithmetic of ONNX.
///
/// # Errors
/// When the graph has a cycle.
pub fn stand_ins(graph: &Graph) -> Result<StandIns, GraphError> {
    let paddle = |v: ValueId| {
        graph.producer::<FakeQuant>(v).is_some_and(|q| matches!(q.quantizer.rule, Rule::Paddle(_)))
    };
    let weighted = |id| matches!(graph.node(id).op().map(|op| op.quant()), Some(QuantRole::Weighted { .. }));
    let mut stand_ins = StandIns::new();
    for id in operations(graph)? {
        for &v in graph.node(id).ins.iter().flatten().filter(|v| paddle(**v)) {
            if weighted(id) {
                let processed =
                    graph.node(v.node).ins[0].filter(|&x| graph.producer::<Processed>(x).is_some());
                stand_ins.extend(processed.map(|x| ((id, v), x)));
            } else {
                let y = ValueId::from(id);
                let readers =
                    |q: ValueId| graph.consumers(q).into_iter().any(|(reader, _)| !weighted(reader));
                let quantized = graph.consumers(y).into_iter().map(|(reader, _)| ValueId::from(reader));
                stand_ins.extend(quantized.filter(|&q| paddle(q) && readers(q)).map(|q| ((id, y), q)));
            }
        }
    }
    Ok(stand_ins)
}
