//! `fuse-matmul-add`: a matrix product and the addition of a vector become one Gemm.
//!
//! ```text
//! product = MatMul (x, w)                               # x: float[N,64], w: float[64,10]
//! y = Add (product, b)                                  # b: float[10]
//! ->
//! [product] y = Gemm (x, w, b)
//! ```
//!
//! Runtimes do the same on their own, but then take the bias in floating point and the whole product with it; a Gemm has a
//! slot for an integer bias.

use crate::bias::per_channel;
use crate::pass::{Pass, Report, operations, supersede};
use ir::{Graph, GraphError, NodeId, ValueId};
use ops::{Add, Gemm, MatMul};
use std::sync::Arc;
use tensor::Tensor;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct FuseMatMulAdd;

impl Pass for FuseMatMulAdd {
    fn name(&self) -> &'static str {
        "fuse-matmul-add"
    }

    fn run(&self, graph: &mut Graph, report: &mut Report) -> Result<(), GraphError> {
        for id in operations(graph)? {
            match find(graph, id) {
                None => {}
                Some(Err(why)) => report.skip(self.name(), graph.node(id).label(), why),
                Some(Ok(Fuse { product, x, w, b, bias })) => {
                    let how = format!("one Gemm with {}", graph.node(product).label());
                    report.done(self.name(), graph.node(id).label(), how);
                    // The vector itself where it has the shape already.
                    let b = match graph.constant(b) {
                        Some(t) if t.shape() == bias.shape() => b,
                        _ => {
                            let vector = graph.add_const(&graph.value(b).name.clone(), bias);
                            if graph.only_consumer(b) == Some(id) {
                                graph.swap_names(b, vector);
                            }
                            vector
                        }
                    };
                    let name = graph.value(id.into()).name.clone();
                    let ins = [Some(x), Some(w), Some(b)];
                    let gemm = graph.add_node(Arc::new(Gemm::default()), &ins, &name, &[&name])?;
                    supersede(graph, id, gemm)?;
                    // The node is the user's product, its result what the addition gave.
                    graph.swap_labels(product, gemm);
                    graph.set_origin(gemm, &graph.node(product).origin.clone());
                }
            }
        }
        Ok(())
    }
}

struct Fuse {
    product: NodeId,
    x: ValueId,
    w: ValueId,
    b: ValueId,
    bias: Tensor,
}

/// The product behind an addition; `None` when there is none, or nothing constant is added.
fn find(graph: &Graph, id: NodeId) -> Option<Result<Fuse, String>> {
    graph.node(id).is::<Add>()?;
    let [Some(a), Some(b)] = graph.node(id).ins[..] else { return None };
    let (y, b) = if graph.producer::<MatMul>(a).is_some() { (a, b) } else { (b, a) };
    graph.producer::<MatMul>(y)?;
    let added = graph.constant(b)?;
    let [Some(x), Some(w)] = graph.node(y.node).ins[..] else { return None };
    let fit = || {
        let Some([k, channels]) = graph.constant(w).map(Tensor::shape) else {
            return Err("the second operand of the product is no constant matrix".to_string());
        };
        if graph.ty(x).rank() != Some(2) {
            return Err(format!("the data of the product is {}, no matrix of {k} columns", graph.ty(x)));
        }
        if graph.only_consumer(y) != Some(id) {
            return Err(format!("the result of {} is read elsewhere too", graph.node(y.node).label()));
        }
        let bias = per_channel(added, 2, 1, *channels)
            .ok_or_else(|| format!("it adds {:?} values, no row of {channels}", added.shape()))?;
        Ok(Fuse { product: y.node, x, w, b, bias: Tensor::new(&[*channels], bias) })
    };
    Some(fit())
}
