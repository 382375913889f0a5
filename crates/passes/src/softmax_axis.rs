//! `softmax-axis`: softmax (and its logarithm, and hardmax) over all axes from one on, as before opset 13, becomes softmax
//! along one axis.
//!
//! ```text
//! y = Softmax <axis=1, flatten=1> (x)                   # x: float[N,1000,1,1]
//! ->
//! y = Softmax <axis=1> (x)
//! ```
//!
//! Where more than one of the axes counts, the operand becomes a matrix for the time:
//!
//! ```text
//! y = Softmax <axis=1, flatten=1> (x)                   # x: float[N,8,4]
//! ->
//! y_matrix = Flatten (x)
//! y_rows = Softmax (y_matrix)
//! y_shape = Shape (x)
//! y = Reshape (y_rows, y_shape)
//! ```
//!
//! Only the new form can be written at the opsets that have quantizers per channel.

use crate::pass::{Pass, Report, operations, supersede};
use ir::{Graph, GraphError, Op, ValueId};
use ops::{Flatten, Hardmax, LogSoftmax, Reshape, Shape, Softmax, only_axis};
use std::sync::Arc;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct SoftmaxAxis;

impl Pass for SoftmaxAxis {
    fn name(&self) -> &'static str {
        "softmax-axis"
    }

    fn run(&self, graph: &mut Graph, report: &mut Report) -> Result<(), GraphError> {
        for id in operations(graph)? {
            let node = graph.node(id);
            let Some((axis, of)) = old_form(node.op()) else { continue };
            let (Some(x), label) = (node.ins.first().copied().flatten(), node.label()) else { continue };
            let name = graph.value(id.into()).name.clone();
            let how = match only_axis(graph.ty(x), axis) {
                None if graph.ty(x).shape.is_none() => {
                    let why = format!("its operand is {}, of unknown rank", graph.ty(x));
                    report.skip(self.name(), label, why);
                    continue;
                }
                Some(axis) => {
                    let new = graph.add_node(of(axis), &[Some(x)], &name, &[&name])?;
                    supersede(graph, id, new)?;
                    format!("along axis {axis}")
                }
                None => {
                    let named = |what: &str| format!("{name}_{what}");
                    let matrix = graph.add(Flatten { axis }, &[x], &named("matrix"))?;
                    let rows = graph.add_node(of(-1), &[Some(matrix)], &named("rows"), &[&named("rows")])?;
                    let shape = graph.add(Shape::default(), &[x], &named("shape"))?;
                    let y = graph.add(Reshape::default(), &[rows.into(), shape], &named("reshaped"))?;
                    for inner in [matrix, rows.into(), shape] as [ValueId; 3] {
                        graph.set_origin(inner.node, &graph.node(id).origin.clone());
                    }
                    supersede(graph, id, y.node)?;
                    format!("along the rows of a matrix, cut in front of axis {axis}")
                }
            };
            report.done(self.name(), label, how);
        }
        Ok(())
    }
}

/// An operator along an axis.
type Along = fn(i64) -> Arc<dyn Op>;

/// First axis of an operation in the old form, and the operator in the new one.
fn old_form(op: Option<&dyn Op>) -> Option<(i64, Along)> {
    let op = op?;
    if let Some(&Softmax { axis, flatten: true }) = op.is() {
        return Some((axis, |axis| Arc::new(Softmax { axis, flatten: false })));
    }
    if let Some(&LogSoftmax { axis, flatten: true }) = op.is() {
        return Some((axis, |axis| Arc::new(LogSoftmax { axis, flatten: false })));
    }
    let &Hardmax { axis, flatten } = op.is()?;
    flatten.then_some((axis, |axis| Arc::new(Hardmax { axis, flatten: false })))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::fold_constants::evaluate;
    use ir::Type;
    use tensor::Tensor;

    const ALL: [Along; 3] = [
        |axis| Arc::new(Softmax { axis, flatten: true }),
        |axis| Arc::new(LogSoftmax { axis, flatten: true }),
        |axis| Arc::new(Hardmax { axis, flatten: true }),
    ];

    fn rewritten(shape: &[usize], axis: i64, old: Along) -> Vec<String> {
        let x = Tensor::new(shape, (0..shape.iter().product()).map(|i: usize| (i * 7 % 5) as f32).collect());
        let mut graph = Graph::new("old");
        let x = graph.add_const("x", x);
        let y: ValueId = graph.add_node(old(axis), &[Some(x)], "y", &["y"]).unwrap().into();
        graph.add_output("y", y);
        let before = evaluate(&graph, y).unwrap();
        SoftmaxAxis.run(&mut graph, &mut Report::default()).unwrap();
        graph.sweep();
        graph.check().unwrap();
        let y = graph.outputs()[0].value;
        assert_eq!((&graph.value(y).name[..], &graph.node(y.node).name[..]), ("y", "y"));
        let after = evaluate(&graph, y).unwrap();
        assert_eq!(before.shape(), after.shape());
        for (a, b) in before.to_f64().iter().zip(after.to_f64()) {
            assert!((a - b).abs() < 1e-6, "{a} against {b}");
        }
        let op = |id| graph.node(id).op().unwrap();
        operations(&graph)
            .unwrap()
            .into_iter()
            .map(|id| format!("{} {:?}", op(id).name(), op(id).attrs()))
            .collect()
    }

    #[test]
    fn one_axis_that_counts() {
        let [soft, logs, hard] = ALL;
        assert_eq!(rewritten(&[2, 5], 1, soft), rewritten(&[2, 5], -1, soft));
        assert!(rewritten(&[2, 5, 1, 1], 1, logs)[0].contains("LogSoftmax"));
        assert!(rewritten(&[2, 5, 1, 1], 1, hard)[0].contains("Hardmax"));
        for (shape, axis) in [(&[2, 5, 1, 1][..], 1), (&[2, 1, 5], 1), (&[2, 1, 1], 1), (&[4], 0)] {
            assert_eq!(rewritten(shape, axis, soft).len(), 1);
        }
    }

    #[test]
    fn several_axes() {
        for old in ALL {
            // Behind the last axis, rows have one element.
            for axis in [1, 0, -2, 3] {
                let nodes = rewritten(&[2, 3, 4], axis, old);
                assert_eq!(nodes.len(), 4, "cut at {axis}: {nodes:?}");
            }
        }
    }

    #[test]
    fn new_forms_and_unknown_ranks_stay() {
        let mut graph = Graph::new("new");
        let x = graph.add_input("x", Type::of(tensor::DType::F32));
        let new = graph.add(Softmax::default(), &[x], "new").unwrap();
        let old = graph.add(Softmax { axis: 1, flatten: true }, &[x], "old").unwrap();
        graph.add_output("a", new);
        graph.add_output("b", old);
        let mut report = Report::default();
        SoftmaxAxis.run(&mut graph, &mut report).unwrap();
        assert_eq!(report.lines.len(), 1);
        assert!(report.lines[0].to_string().contains("unknown rank"));
    }
}
