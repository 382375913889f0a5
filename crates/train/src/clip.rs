//! Gradient clipping, as nodes of the training step.

use ir::{Graph, GraphError, ValueId};
use ops::{Clip, Div, Max, Mul, ReduceForm, ReduceSumSquare, Sqrt, Sum};
use serde::{Deserialize, Serialize};
use tensor::Tensor;

/// A limit of the gradients of one parameter group.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GradientClip {
    /// All gradients together are scaled so that their norm is at most this (`ClipGradByGlobalNorm`, Pascanu et al. 2013,
    /// arXiv 1211.5063).
    GlobalNorm(f32),
    /// Each element is kept within plus and minus this (`ClipGradByValue`).
    Value(f32),
}

impl GradientClip {
    /// Adds the nodes; returns the clipped gradients in order. `group` is the base of the names.
    ///
    /// # Errors
    /// When the nodes cannot be built.
    pub fn apply(
        self,
        graph: &mut Graph,
        group: &str,
        gradients: &[ValueId],
    ) -> Result<Vec<ValueId>, GraphError> {
        match self {
            GradientClip::Value(limit) => {
                let [low, high] = [("low", -limit), ("high", limit)]
                    .map(|(end, x)| graph.add_const(&format!("{group}_clip_{end}"), Tensor::scalar(x)));
                let clip = |&g: &ValueId| graph.add(Clip, &[g, low, high], &format!("{group}_clipped"));
                gradients.iter().map(clip).collect()
            }
            GradientClip::GlobalNorm(limit) => {
                let form = ReduceForm { keep_dims: false, noop: false };
                let mut squares = Vec::new();
                for &g in gradients {
                    squares.push(graph.add(ReduceSumSquare { form }, &[g], &format!("{group}_square"))?);
                }
                let total = match squares[..] {
                    [] => return Ok(Vec::new()),
                    [one] => one,
                    _ => graph.add(Sum, &squares, &format!("{group}_squares"))?,
                };
                let norm = graph.add(Sqrt, &[total], &format!("{group}_norm"))?;
                let limit = graph.add_const(&format!("{group}_norm_limit"), Tensor::scalar(limit));
                let above = graph.add(Max, &[norm, limit], &format!("{group}_norm_above"))?;
                let factor = graph.add(Div, &[limit, above], &format!("{group}_norm_factor"))?;
                let scale = |&g: &ValueId| graph.add(Mul, &[g, factor], &format!("{group}_clipped"));
                gradients.iter().map(scale).collect()
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use exec::{Machine, Program};
    use std::sync::Arc;

    fn clipped(clip: GradientClip) -> Vec<Vec<f32>> {
        let mut graph = Graph::new("g");
        let gradients: Vec<ValueId> = [vec![3.0f32, 0.0], vec![-4.0]]
            .into_iter()
            .map(|g| graph.add_variable("g", Tensor::new(&[g.len()], g), ir::Role::State))
            .collect();
        let out = clip.apply(&mut graph, "w", &gradients).unwrap();
        graph.set_outputs(out.iter().enumerate().map(|(i, &v)| (format!("y{i}"), v)));
        let mut machine = Machine::new(Arc::new(Program::compile(&graph).unwrap()));
        machine.run().unwrap();
        (0..2).map(|i| machine.output(&format!("y{i}")).unwrap().to_f32()).collect()
    }

    #[test]
    fn the_norm_of_all_gradients_together_is_limited() {
        assert_eq!(clipped(GradientClip::GlobalNorm(2.5)), [vec![1.5, 0.0], vec![-2.0]]);
        assert_eq!(clipped(GradientClip::GlobalNorm(6.0)), [vec![3.0, 0.0], vec![-4.0]]);
    }

    #[test]
    fn elements_are_limited() {
        assert_eq!(clipped(GradientClip::Value(3.5)), [vec![3.0, 0.0], vec![-3.5]]);
    }
}
