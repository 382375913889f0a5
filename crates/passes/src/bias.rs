//! Constants that are added per channel: what may become the bias of a weighted operator.

use ir::{Graph, NodeId, QuantRole, ValueId};
use tensor::{DType, Tensor};

/// A node with a constant weight and a slot for a bias: Conv, ConvTranspose, Gemm.
pub(crate) struct Weighted {
    pub id: NodeId,
    pub weight: ValueId,
    pub weight_slot: usize,
    /// Output-channel axis of the weight.
    pub axis: usize,
    pub bias_slot: usize,
    /// The bias per channel of the result; `None` where the node has none.
    pub bias: Option<Vec<f32>>,
    pub channels: usize,
}

/// `x` as a vector over axis `axis` of a result of rank `rank` onto which it broadcasts; `None` where it varies along
/// another axis too.
pub(crate) fn per_channel(x: &Tensor, rank: usize, axis: usize, channels: usize) -> Option<Vec<f32>> {
    let shape = x.shape();
    // Axis of the result to which axis `i` of the constant is aligned.
    let at = |i: usize| (i + rank).checked_sub(shape.len());
    let fits = shape.iter().enumerate().all(|(i, &n)| n == 1 || (at(i) == Some(axis) && n == channels));
    if x.dtype() != DType::F32 || shape.len() > rank || !fits {
        return None;
    }
    let values = x.to_f32();
    Some(if values.len() == 1 { vec![values[0]; channels] } else { values })
}

impl Weighted {
    /// The node that makes `y`, when only `reader` reads `y`; a sentence on what is in the way otherwise.
    pub(crate) fn in_front_of(graph: &Graph, y: ValueId, reader: NodeId) -> Result<Weighted, String> {
        let node = graph.node(y.node);
        let label = node.label();
        let Some(op) = node.op() else { return Err(format!("{label} stands in front of it")) };
        let (axis, weight_slot, bias_slot) = match op.quant() {
            QuantRole::Weighted { axis, weight, bias, .. } if op.params().contains(&bias) => {
                (axis, weight, bias)
            }
            QuantRole::Weighted { .. } => return Err(format!("{label} has no slot for a bias")),
            _ => return Err(format!("{label} in front of it takes no bias")),
        };
        if graph.only_consumer(y) != Some(reader) {
            return Err(format!("the result of {label} is read elsewhere too"));
        }
        let operand = |slot: usize| node.ins.get(slot).copied().flatten();
        let constant = operand(weight_slot).and_then(|w| Some((w, graph.constant(w)?)));
        let Some((weight, tensor)) = constant else {
            return Err(format!("the weight of {label} is computed"));
        };
        if tensor.dtype() != DType::F32 {
            return Err(format!("the weight of {label} is {}", tensor.dtype()));
        }
        let channels = graph.ty(y).shape.as_ref().and_then(|s| s.get(1)?.fixed());
        let Some(channels) = channels else {
            return Err(format!("the result of {label} is {}", graph.ty(y)));
        };
        let bias = match operand(bias_slot) {
            None => None,
            // A vector, for a product also one row of a matrix.
            Some(b) => match graph.constant(b).and_then(|b| per_channel(b, 2, 1, channels)) {
                Some(b) => Some(b),
                None => return Err(format!("the bias of {label} is computed, or no vector")),
            },
        };
        Ok(Weighted { id: y.node, weight, weight_slot, axis, bias_slot, bias, channels })
    }

    /// Gives the node this bias. A bias that nobody else reads hands its name over.
    pub(crate) fn set_bias(&self, graph: &mut Graph, bias: Vec<f32>) -> ValueId {
        let name = format!("{}_bias", graph.node(self.id).name);
        set_operand(graph, self.id, self.bias_slot, &name, Tensor::new(&[self.channels], bias))
    }
}

/// Points a slot to a new constant, which takes over the name of the old one where nobody else reads that.
pub(crate) fn set_operand(graph: &mut Graph, id: NodeId, slot: usize, name: &str, value: Tensor) -> ValueId {
    let old = graph.node(id).ins.get(slot).copied().flatten();
    let name = old.map_or(name.to_string(), |v| graph.value(v).name.clone());
    let new = graph.add_const(&name, value);
    graph.set_input(id, slot, Some(new));
    if let Some(old) = old
        && graph.consumers(old).is_empty()
        && !graph.is_output(old)
    {
        graph.swap_names(old, new);
    }
    new
}
