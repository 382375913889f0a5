//! `fold-bias`: an addition of one constant per channel becomes the bias of the operator in front of it.
//!
//! ```text
//! conv1 = Conv (x, w)
//! y = Add (conv1, b)                                    # b: float[1,8,1,1]
//! ->
//! [conv1] y = Conv (x, w, conv1_bias)                   # conv1_bias: float[8]
//! ```
//!
//! ConvTranspose and Gemm likewise. Paddle writes every bias as an addition. A bias that is there already is added to.

use crate::bias::{Weighted, per_channel};
use crate::pass::{Pass, Report, operations, rename_and_replace};
use ir::{Graph, GraphError, NodeId};
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
                Some(Ok((node, bias))) => {
                    let how = format!("now the bias of {}", graph.node(node.id).label());
                    report.done(self.name(), graph.node(id).label(), how);
                    node.set_bias(graph, bias);
                    rename_and_replace(graph, id.into(), node.id.into())?;
                }
            }
        }
        Ok(())
    }
}

/// The node whose bias an addition can be, and its new bias; `None` when nothing constant is added.
fn find(graph: &Graph, id: NodeId) -> Option<Result<(Weighted, Vec<f32>), String>> {
    let node = graph.node(id);
    node.is::<Add>()?;
    let [Some(a), Some(b)] = node.ins[..] else { return None };
    let (x, added) = match (graph.constant(a), graph.constant(b)) {
        (None, Some(b)) => (a, b),
        (Some(a), None) => (b, a),
        _ => return None,
    };
    Some(Weighted::in_front_of(graph, x, id).and_then(|node| {
        let rank = graph.ty(x).rank().unwrap_or(0);
        let added = per_channel(added, rank, 1, node.channels)
            .ok_or_else(|| format!("it adds {:?} values, not one per channel", added.shape()))?;
        let bias = match &node.bias {
            None => added,
            Some(old) => old.iter().zip(&added).map(|(a, b)| a + b).collect(),
        };
        Ok((node, bias))
    }))
}
