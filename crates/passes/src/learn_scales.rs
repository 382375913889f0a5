//! `learn-scales`: the scales of learned quantizers become parameters that start where calibration left them (LSQ, Esser et al.
//! 2020, arXiv 1902.08153; LSQ+, Bhalgat et al. 2020, arXiv 2004.09576).
//!
//! ```text
//! x_observed = qat.Observe (x, x_range)                 # x_range <- x_observed
//! x_scale, x_zero_point = qat.ActivationScale (x_observed)
//! x_fq = qat.FakeQuant <clipped=1, learned=1> (x, x_scale, x_zero_point)
//! w_abs_max = qat.AbsMax <axis=0> (w)
//! w_scale = qat.WeightScale (w_abs_max)
//! w_fq = qat.FakeQuant <axis=0, clipped=1, learned=1> (w, w_scale)
//! ->
//! x_zero_point = qat.ZeroPoint (x_scale, x_below)       # x_scale, x_below: trained, group "lsq"
//! x_fq = qat.FakeQuant <clipped=1, learned=1> (x, x_scale, x_zero_point, x_below)
//! w_fq = qat.FakeQuant <axis=0, clipped=1, learned=1> (w, w_scale)   # w_scale: trained, group "lsq"
//! ```
//!
//! What has no negative values keeps the zero point 0 and learns its scale alone, and so does what has a symmetric range. Learned
//! ranges have no observer any more.

use crate::fold_constants::evaluate;
use crate::pass::{Pass, Report, operations};
use ir::{Graph, GraphError, NodeId, Role, ValueId};
use ops::{ActivationScale, FakeQuant, Observe, Scheme, ZeroPoint};
use tensor::Tensor;

/// Parameter group of learned scales.
pub const LSQ_GROUP: &str = "lsq";

/// See the module. For a calibrated graph; a second run changes nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct LearnScales;

impl Pass for LearnScales {
    fn name(&self) -> &'static str {
        "learn-scales"
    }

    fn run(&self, graph: &mut Graph, report: &mut Report) -> Result<(), GraphError> {
        for id in operations(graph)? {
            let node = graph.node(id);
            let (Some(quant), Some(Some(scale))) = (node.is::<FakeQuant>(), node.ins.get(1).copied()) else {
                continue;
            };
            if !quant.learned || graph.tensor(scale).is_some() {
                continue;
            }
            let label = node.label();
            match graph.producer::<ActivationScale>(scale).copied() {
                Some(rule) => of_activation(graph, id, scale, rule)?,
                None => match evaluate(graph, scale) {
                    Some(initial) => learn(graph, scale, initial)?,
                    None => {
                        report.skip(self.name(), label, "its scale does not depend on its weight alone");
                        continue;
                    }
                },
            }
            report.done(self.name(), label, "its scale is trained");
        }
        drop_unread_observers(graph);
        graph.infer()
    }
}

/// Puts a parameter in the place of a computed scale.
fn learn(graph: &mut Graph, scale: ValueId, initial: Tensor) -> Result<(), GraphError> {
    let learned = parameter(graph, &graph.value(scale).name.clone(), initial);
    graph.swap_names(scale, learned);
    graph.replace(scale, learned)
}

fn parameter(graph: &mut Graph, name: &str, initial: Tensor) -> ValueId {
    graph.add_variable(name, initial, Role::Param(LSQ_GROUP.into()))
}

/// Learns the range of an activation.
fn of_activation(
    graph: &mut Graph,
    id: NodeId,
    scale: ValueId,
    rule: ActivationScale,
) -> Result<(), GraphError> {
    let observed = graph.node(scale.node).ins[0];
    let state = match observed {
        Some(v) if graph.producer::<Observe>(v).is_some() => graph.node(v.node).ins[1],
        state => state,
    };
    let Some(state) = state.and_then(|v| graph.tensor(v)).map(Tensor::to_f32) else {
        let what = "is learned from a range that is neither observed nor a constant".into();
        return Err(GraphError { place: graph.node(id).label(), what });
    };
    let (initial, zero_point) = rule.of(&state, None);
    let zero = ValueId { out: 1, ..scale };
    let zero_name = graph.value(zero).name.clone();
    learn(graph, scale, Tensor::scalar(initial))?;
    let Some(learned) = graph.node(id).ins[1] else { return Ok(()) };
    let fixed = rule.scheme != Scheme::Asymmetric || zero_point == rule.grid.low;
    let place = if fixed {
        graph.add_const(&zero_name, Tensor::scalar(zero_point))
    } else {
        let below = (zero_point - rule.grid.low) as f32 * initial;
        let name = format!("{}_below", graph.value(learned).name.trim_end_matches("_scale"));
        let below = parameter(graph, &name, Tensor::scalar(below));
        graph.set_input(id, 3, Some(below));
        graph.add(ZeroPoint { grid: rule.grid }, &[learned, below], &zero_name)?
    };
    graph.swap_names(zero, place);
    graph.replace(zero, place)
}

/// Takes away the updates of ranges that nothing depends on any more.
fn drop_unread_observers(graph: &mut Graph) {
    let unread = |graph: &Graph, v: ValueId| {
        graph.producer::<Observe>(v).is_some() && graph.consumers(v).is_empty() && !graph.is_output(v)
    };
    // The scale that was computed reads its observer until it is swept.
    graph.sweep();
    let kept: Vec<_> = graph.updates().iter().filter(|u| !unread(graph, u.next)).copied().collect();
    graph.clear_updates();
    kept.iter().for_each(|u| graph.set_update(u.variable.into(), u.next));
    graph.sweep();
}
