//! `softmax-axis`: softmax over all axes from one on, as before opset 13, becomes softmax along one axis.
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
use ir::{Dim, Graph, GraphError, Op, Type, ValueId};
use ops::{Flatten, LogSoftmax, Reshape, Shape, Softmax};
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
            let how = match target(graph.ty(x), axis) {
                None => {
                    report.skip(
                        self.name(),
                        label,
                        format!("its operand is {}, of unknown rank", graph.ty(x)),
                    );
                    continue;
                }
                Some(Target::Axis(axis)) => {
                    let new = graph.add_node(of(axis), &[Some(x)], &name, &[&name])?;
                    supersede(graph, id, new)?;
                    format!("along axis {axis}")
                }
                Some(Target::From(axis)) => {
                    let named = |what: &str| format!("{name}_{what}");
                    let matrix = graph.add(Flatten { axis: axis as i64 }, &[x], &named("matrix"))?;
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
    let &LogSoftmax { axis, flatten } = op.is()?;
    flatten.then_some((axis, |axis| Arc::new(LogSoftmax { axis, flatten: false })))
}

enum Target {
    /// The only axis that may have more than one element.
    Axis(i64),
    /// All axes from this one on.
    From(usize),
}

/// What an axis of the old form means for a type; `None` where its rank is unknown.
fn target(x: &Type, axis: i64) -> Option<Target> {
    let shape = x.shape.as_ref()?;
    let from = if axis < 0 { axis + shape.len() as i64 } else { axis };
    let from = usize::try_from(from).ok().filter(|&from| from <= shape.len())?;
    let counts: Vec<usize> = (from..shape.len()).filter(|&at| shape[at] != Dim::Fixed(1)).collect();
    Some(match counts[..] {
        [] if from < shape.len() => Target::Axis(from as i64),
        [at] => Target::Axis(at as i64),
        _ => Target::From(from),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::fold_constants::evaluate;
    use tensor::Tensor;

    fn rewritten(shape: &[usize], axis: i64, logs: bool) -> Vec<String> {
        let x = Tensor::new(shape, (0..shape.iter().product()).map(|i: usize| (i * 7 % 5) as f32).collect());
        let mut graph = Graph::new("old");
        let x = graph.add_const("x", x);
        let y = match logs {
            false => graph.add(Softmax { axis, flatten: true }, &[x], "y").unwrap(),
            true => graph.add(LogSoftmax { axis, flatten: true }, &[x], "y").unwrap(),
        };
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
        assert_eq!(rewritten(&[2, 5], 1, false), rewritten(&[2, 5], -1, false));
        assert!(rewritten(&[2, 5, 1, 1], 1, true)[0].contains("LogSoftmax"));
        for (shape, axis) in [(&[2, 5, 1, 1][..], 1), (&[2, 1, 5], 1), (&[2, 1, 1], 1), (&[4], 0)] {
            assert_eq!(rewritten(shape, axis, false).len(), 1);
        }
    }

    #[test]
    fn several_axes() {
        for logs in [false, true] {
            for (axis, cut) in [(1, 1), (0, 0), (-2, 1)] {
                let nodes = rewritten(&[2, 3, 4], axis, logs);
                assert_eq!(nodes.len(), 4, "cut at {cut}: {nodes:?}");
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
