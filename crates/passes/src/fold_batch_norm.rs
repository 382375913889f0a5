//! `fold-batch-norm`: a batch norm of inference disappears in the weight and the bias of the operator in front of it.
//!
//! ```text
//! conv1 = Conv (x, w, b)
//! bn1 = BatchNormalization (conv1, gamma, beta, mean, var)
//! ->
//! [conv1] bn1 = Conv (x, w, b)                          # w <- w * a, b <- (b - mean) * a + beta, per channel
//! ```
//!
//! with `a = gamma / sqrt(var + epsilon)`. ConvTranspose and Gemm likewise; the output channels of a grouped ConvTranspose lie
//! along two axes of its weight. For static quantization only: training wants a batch norm that is one (Krishnamoorthi
//! 2018, arXiv 1806.08342, section 3.2.2, says what goes wrong otherwise), and `freeze-quant` folds it.

use crate::bias::{Weighted, set_operand};
use crate::pass::{Pass, Report, operations, rename_and_replace};
use ir::{Graph, GraphError, NodeId};
use kernels::quant::batch_norm_affine;
use ops::BatchNormalization;
use tensor::Tensor;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct FoldBatchNorm;

impl Pass for FoldBatchNorm {
    fn name(&self) -> &'static str {
        "fold-batch-norm"
    }

    fn run(&self, graph: &mut Graph, report: &mut Report) -> Result<(), GraphError> {
        for id in operations(graph)? {
            let Some(op) = graph.node(id).is::<BatchNormalization>().copied() else { continue };
            match find(graph, id, op) {
                Err(why) => report.skip(self.name(), graph.node(id).label(), why),
                Ok(fold) => {
                    let how = format!("folded into {}", graph.node(fold.node.id).label());
                    report.done(self.name(), graph.node(id).label(), how);
                    set_operand(graph, fold.node.id, fold.node.weight_slot, "weight", fold.weight);
                    fold.node.set_bias(graph, fold.bias);
                    rename_and_replace(graph, id.into(), fold.node.id.into())?;
                }
            }
        }
        Ok(())
    }
}

/// A weighted node with the weight and the bias that do the work of the batch norm behind it.
struct Fold {
    node: Weighted,
    weight: Tensor,
    bias: Vec<f32>,
}

fn find(graph: &Graph, id: NodeId, op: BatchNormalization) -> Result<Fold, String> {
    if op.training {
        return Err("it takes the statistics of the batch (training form)".into());
    }
    let operand = |i: usize| graph.node(id).ins.get(i).copied().flatten();
    let x = operand(0).ok_or("it has no operand")?;
    let node = Weighted::in_front_of(graph, x, id)?;
    let parameter = |i: usize| {
        let t = operand(i).and_then(|v| graph.constant(v)).map(Tensor::to_f32);
        t.filter(|t| t.len() == node.channels).ok_or("its parameters are computed")
    };
    let (gamma, beta, mean, variance) = (parameter(1)?, parameter(2)?, parameter(3)?, parameter(4)?);
    let (factor, shift) = batch_norm_affine(&gamma, &beta, &mean, &variance, op.epsilon);
    if factor.iter().chain(&shift).any(|a| !a.is_finite()) {
        return Err("its parameters give factors that are not finite".into());
    }
    let weight = graph.constant(node.weight).ok_or("the weight in front of it is computed")?;
    let weight = scale_channels(weight, node.axis, &factor).ok_or_else(|| {
        format!("{} factors do not fit a weight of shape {:?}", factor.len(), weight.shape())
    })?;
    let old = node.bias.clone().unwrap_or_else(|| vec![0.0; node.channels]);
    let bias = old.iter().zip(&factor).zip(&shift).map(|((b, a), s)| b * a + s).collect();
    Ok(Fold { node, weight, bias })
}

/// `w[c] *= factor[c]`. There may be a multiple of the channels that `axis` has: then the axes before it fall into that many
/// groups, each with output channels of its own (grouped ConvTranspose: weight `(C, M / groups, ...)`).
fn scale_channels(w: &Tensor, axis: usize, factor: &[f32]) -> Option<Tensor> {
    let shape = w.shape();
    let channels = *shape.get(axis)?;
    let (outer, inner) =
        (shape[..axis].iter().product::<usize>(), shape[axis + 1..].iter().product::<usize>());
    let groups = factor.len().checked_div(channels)?;
    if groups * channels != factor.len() || outer.checked_rem(groups) != Some(0) || inner == 0 {
        return None;
    }
    let mut values = w.to_f32();
    for (run, x) in values.chunks_exact_mut(inner).enumerate() {
        let group = run / channels / (outer / groups);
        let a = factor[group * channels + run % channels];
        x.iter_mut().for_each(|x| *x *= a);
    }
    Some(Tensor::new(shape, values))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn each_group_has_its_own_channels() {
        let w = Tensor::new(&[2, 2, 2], vec![1f32; 8]);
        let of = |axis, factor: &[f32]| scale_channels(&w, axis, factor).map(|t| t.to_f32());
        assert_eq!(of(0, &[2.0, 3.0]).unwrap(), [2.0, 2.0, 2.0, 2.0, 3.0, 3.0, 3.0, 3.0]);
        assert_eq!(of(1, &[2.0, 3.0]).unwrap(), [2.0, 2.0, 3.0, 3.0, 2.0, 2.0, 3.0, 3.0]);
        assert_eq!(of(1, &[2.0, 3.0, 4.0, 5.0]).unwrap(), [2.0, 2.0, 3.0, 3.0, 4.0, 4.0, 5.0, 5.0]);
        assert_eq!(of(1, &[2.0, 3.0, 4.0]), None);
    }
}
