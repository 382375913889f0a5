//! `fold-bias`: an addition of one constant per channel becomes the bias of the operator in front of it.
//!
//! ```text
//! conv1 = Conv (x, w)
//! y = Add (conv1, b)                                    # b: float[1,8,1,1]
//! ->
//! [conv1] y = Conv (x, w, b)                            # b: float[8]
//! ```
//!
//! ConvTranspose and Gemm likewise. Paddle writes every bias as an addition. A bias that is there already is added to.

use crate::bias::{Weighted, per_channel};
use crate::pass::{Pass, Report, operations, rename_and_replace};
use ir::{Graph, GraphError, NodeId, QuantRole, ValueId};
use ops::Add;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct FoldBias;

impl Pass for FoldBias {
    fn name(&self) -> &'static str {
        "fold-bias"
    }

    fn run(&self, graph: &mut Graph, report: &mut Report) -> Result<(), GraphError> {
        for id in operations(graph)? {
            match find(graph, id) {
                None => {}
                Some(Err(why)) => report.skip(self.name(), graph.node(id).label(), why),
                Some(Ok(Fold { node, added, bias })) => {
                    let how = format!("now the bias of {}", graph.node(node.id).label());
                    report.done(self.name(), graph.node(id).label(), how);
                    let only_reader = graph.only_consumer(added) == Some(id);
                    let new = node.set_bias(graph, bias);
                    if node.bias.is_none() && only_reader {
                        graph.swap_names(added, new);
                    }
                    rename_and_replace(graph, id.into(), node.id.into())?;
                }
            }
        }
        Ok(())
    }
}

struct Fold {
    node: Weighted,
    /// The constant that is added.
    added: ValueId,
    /// What becomes the bias.
    bias: Vec<f32>,
}

/// The node whose bias an addition can be; `None` when nothing constant is added, or no such node stands in front of it.
fn find(graph: &Graph, id: NodeId) -> Option<Result<Fold, String>> {
    let node = graph.node(id);
    node.is::<Add>()?;
    let [Some(a), Some(b)] = node.ins[..] else { return None };
    let (x, added) = if graph.constant(b).is_some() { (a, b) } else { (b, a) };
    let constant = graph.constant(added)?;
    let op = graph.node(x.node).op()?;
    let takes_bias = matches!(op.quant(), QuantRole::Weighted { bias, .. } if op.params().contains(&bias));
    takes_bias.then(|| {
        let node = Weighted::in_front_of(graph, x, id)?;
        let rank = graph.ty(x).rank().unwrap_or(0);
        let values = per_channel(constant, rank, 1, node.channels)
            .ok_or_else(|| format!("it adds {:?} values, not one per channel", constant.shape()))?;
        let bias = match &node.bias {
            None => values,
            Some(old) => old.iter().zip(&values).map(|(a, b)| a + b).collect(),
        };
        Ok(Fold { node, added, bias })
    })
}
