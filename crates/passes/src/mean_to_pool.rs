//! `mean-to-pool`: a mean over all spatial axes becomes a global pool, for which runtimes have an integer kernel.
//!
//! ```text
//! y = ReduceMean (x, axes)                              # x: float[N,8,7,7], axes: {2, 3}
//! ->
//! y = GlobalAveragePool (x)
//! ```
//!
//! Without `keepdims` the pool is followed by a Flatten.

use crate::pass::{Pass, Report, operations, rename_and_replace, supersede};
use ir::{Graph, GraphError, NodeId, ValueId};
use ops::{Flatten, GlobalAveragePool, ReduceMean};

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct MeanToPool;

impl Pass for MeanToPool {
    fn name(&self) -> &'static str {
        "mean-to-pool"
    }

    fn run(&self, graph: &mut Graph, report: &mut Report) -> Result<(), GraphError> {
        for id in operations(graph)? {
            let Some(op) = graph.node(id).is::<ReduceMean>().copied() else { continue };
            let label = graph.node(id).label();
            let x = match spatial_mean(graph, id) {
                Ok(x) => x,
                Err(why) => {
                    report.skip(self.name(), label, why);
                    continue;
                }
            };
            let name = graph.value(id.into()).name.clone();
            let pool = graph.add(GlobalAveragePool, &[x], &format!("{name}_pooled"))?;
            if op.form.keep_dims {
                supersede(graph, id, pool.node)?;
                report.done(self.name(), label, "now GlobalAveragePool");
            } else {
                let flat = graph.add(Flatten::default(), &[pool], &format!("{name}_flat"))?;
                graph.swap_labels(id, pool.node);
                graph.set_origin(pool.node, &graph.node(id).origin.clone());
                rename_and_replace(graph, id.into(), flat)?;
                report.done(self.name(), label, "now GlobalAveragePool and Flatten");
            }
        }
        Ok(())
    }
}

/// The operand of a mean over exactly the spatial axes.
fn spatial_mean(graph: &Graph, id: NodeId) -> Result<ValueId, String> {
    let operand = |i: usize| graph.node(id).ins.get(i).copied().flatten();
    let x = operand(0).ok_or("it has no operand")?;
    if graph.ty(x).dtype.is_some_and(|d| !d.is_float()) {
        return Err(format!("its operand is {}, not floating point", graph.ty(x)));
    }
    let Some(rank) = graph.ty(x).rank() else { return Err("the rank of its operand is unknown".into()) };
    let Some(axes) = operand(1) else { return Err("it takes the mean over everything".into()) };
    let Some(axes) = graph.constant(axes) else { return Err("its axes are computed".into()) };
    let mut axes: Vec<i64> = axes.to_i64().iter().map(|&a| if a < 0 { a + rank as i64 } else { a }).collect();
    axes.sort_unstable();
    if rank < 3 || axes != (2..rank as i64).collect::<Vec<_>>() {
        return Err(format!("axes {axes:?} of {} are not the spatial ones", graph.ty(x)));
    }
    Ok(x)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn integers_have_no_pool() {
        let text = "net (int32[N,2,3,4] x) => (int32[N,2,1,1] y) <int64[2] axes = {2, 3}>
            { y = ReduceMean (x, axes) }";
        let mut graph = ir::text::parse(text, &ops::Ops).unwrap();
        let mut report = Report::default();
        MeanToPool.run(&mut graph, &mut report).unwrap();
        assert!(report.lines[0].to_string().ends_with("not floating point"), "{report:?}");
    }
}
