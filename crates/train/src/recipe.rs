//! The optimizer that a file brings along: which parameters its training step updates, by which rule, from which states on.
//!
//! ```text
//! grad_w = ai.onnx.preview.training.Gradient <xs=["w"], y="loss"> (w)
//! w_new, v_new = ai.onnx.preview.training.Momentum (R, T, w, grad_w, v)     # w <- w_new, v <- v_new
//! T_new = Add (T, one)                                                      # T <- T_new
//! ```
//!
//! The gradients are made anew by our own differentiation, of the graph with quantizers; rule, hyper-parameters and states are
//! those of the file, and the states go back into it.

use crate::optimizer::{Gradient, Hook, Optimizer, ParamGroup, Schedule, Update, WEIGHTS};
use ir::{Attr, Graph, GraphError, Kind, NodeId, Op, Opaque, Role, ValueId};
use ops::{Add, Mul, Slots, TrainingAdagrad, TrainingAdam, TrainingMomentum};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use tensor::Tensor;

/// The optimizer of a training step: see the module.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// What to minimize: a tensor of the graph.
    pub loss: String,
    /// Learning rate of the first rule. `None` where the training step takes it as an input.
    pub rate: Option<f32>,
    rules: BTreeMap<String, Rule>,
    /// States and counts of updates, by name.
    states: BTreeMap<String, Tensor>,
}

/// How one parameter is updated.
#[derive(Clone, Debug)]
struct Rule {
    op: Arc<dyn Op>,
    /// Share of [`Recipe::rate`].
    share: f32,
    count: String,
    states: Vec<String>,
}

fn error<T>(place: String, what: impl Into<String>) -> Result<T, GraphError> {
    Err(GraphError { place, what: what.into() })
}

/// States per tensor of the optimizers of ONNX.
fn states(op: &dyn Op) -> Option<usize> {
    let adam = op.is::<TrainingAdam>().map(|_| TrainingAdam::STATES);
    let adagrad = op.is::<TrainingAdagrad>().map(|_| TrainingAdagrad::STATES);
    adam.or(adagrad).or_else(|| op.is::<TrainingMomentum>().map(|_| TrainingMomentum::STATES))
}

/// The node that computes the gradients.
fn gradient(graph: &Graph, id: NodeId) -> Option<&Opaque> {
    graph
        .node(id)
        .is::<Opaque>()
        .filter(|op| op.op_type == "Gradient" && op.domain == "ai.onnx.preview.training")
}

impl Recipe {
    /// Reads a training step (bound initializers are variables, bindings are updates), and gives its forward pass with the
    /// loss as first output as well.
    ///
    /// # Errors
    /// When the step has no optimizer of ONNX, or does something that no such optimizer does: clips gradients, say. Names the
    /// node.
    pub fn of(step: &Graph) -> Result<(Recipe, Graph), GraphError> {
        let mut recipe =
            Recipe { loss: String::new(), rate: None, rules: BTreeMap::new(), states: BTreeMap::new() };
        let updates: BTreeMap<NodeId, ValueId> =
            step.updates().iter().map(|u| (u.variable, u.next)).collect();
        for id in step.order()? {
            let node = step.node(id);
            if let Some(op) = gradient(step, id) {
                match op.attrs.get("y") {
                    Some(Attr::Str(y)) if recipe.loss.is_empty() || recipe.loss == *y => {
                        recipe.loss = y.clone()
                    }
                    Some(Attr::Str(y)) => {
                        let what = format!(
                            "it differentiates \"{y}\", another node \"{}\"; one loss is trained",
                            recipe.loss
                        );
                        return error(node.label(), what);
                    }
                    _ => return error(node.label(), "attribute y, the name of the loss, is missing"),
                }
            }
            let Kind::Op(op) = &node.kind else { continue };
            if let Some(states) = states(&**op) {
                recipe.read(step, id, op.clone(), states, &updates)?;
            }
        }
        if recipe.rules.is_empty() {
            let what = "no Adam, Adagrad or Momentum of ai.onnx.preview.training updates an initializer";
            return error("training step".into(), what);
        }
        let forward = recipe.forward(step)?;
        Ok((recipe, forward))
    }

    /// Reads the optimizer at `id`.
    fn read(
        &mut self,
        step: &Graph,
        id: NodeId,
        op: Arc<dyn Op>,
        states: usize,
        updates: &BTreeMap<NodeId, ValueId>,
    ) -> Result<(), GraphError> {
        let node = step.node(id);
        let slots = Slots::new(node.ins.len(), states).or_else(|what| error(node.label(), what))?;
        let operand = |slot: usize| match node.ins[slot] {
            Some(v) => Ok(v),
            None => error(node.label(), format!("input {slot} is missing")),
        };
        let becomes = |slot: usize, out: usize| {
            let (v, next) = (operand(slot)?, ValueId { node: id, out: out as u16 });
            match (&step.node(v.node).kind, updates.get(&v.node)) {
                (Kind::Variable(value, _), Some(&found)) if found == next => {
                    Ok((step.value(v).name.clone(), value.clone()))
                }
                _ => {
                    let name = &step.value(v).name;
                    let next = node.outs.get(out).map_or(out.to_string(), |v| format!("\"{}\"", v.name));
                    error(
                        node.label(),
                        format!("an update binding of \"{name}\" to its result {next} is expected"),
                    )
                }
            }
        };
        let rate = step.constant(operand(0)?).and_then(|t| t.to_f32().first().copied());
        let first = *self.rate.get_or_insert(rate.unwrap_or(1.0));
        if rate.is_none() && !matches!(step.node(operand(0)?.node).kind, Kind::Input) {
            return error(
                node.label(),
                "its learning rate is computed; an initializer or an input is expected",
            );
        }
        let share = rate.map_or(1.0, |rate| if first == 0.0 { 1.0 } else { rate / first });
        let count = self.count(step, id, operand(1)?, updates)?;
        for i in 0..slots.tensors() {
            let g = operand(slots.gradient(i))?;
            if gradient(step, g.node).is_none() {
                let what = format!(
                    "its gradient \"{}\" is computed further; only plain gradients can be followed",
                    step.value(g).name
                );
                return error(node.label(), what);
            }
            let (name, _) = becomes(slots.tensor(i), i)?;
            let mut names = Vec::new();
            for k in 0..states {
                let (state, value) = becomes(slots.state(i, k), slots.new_state(i, k))?;
                self.states.insert(state.clone(), value);
                names.push(state);
            }
            self.rules.insert(name, Rule { op: op.clone(), share, count: count.clone(), states: names });
        }
        Ok(())
    }

    /// Reads the count of updates, which has to grow by one.
    fn count(
        &mut self,
        step: &Graph,
        id: NodeId,
        count: ValueId,
        updates: &BTreeMap<NodeId, ValueId>,
    ) -> Result<String, GraphError> {
        let name = step.value(count).name.clone();
        let counts = |next: &ValueId| {
            let node = step.node(next.node);
            let other = |a: usize, b: usize| (node.ins[a] == Some(count)).then(|| node.ins[b]).flatten();
            node.is::<Add>().is_some()
                && other(0, 1)
                    .or_else(|| other(1, 0))
                    .and_then(|one| step.constant(one))
                    .is_some_and(|t| t.to_i64() == [1])
        };
        let next = updates.get(&count.node);
        let (Kind::Variable(value, _), true) = (&step.node(count.node).kind, next.is_some_and(counts)) else {
            let what = format!(
                "the count of updates \"{name}\" is expected to be an initializer that a binding increases by 1"
            );
            return error(step.node(id).label(), what);
        };
        self.states.insert(name.clone(), value.clone());
        Ok(name)
    }

    /// The graph of which the step is the training, with its loss first among the outputs.
    fn forward(&self, step: &Graph) -> Result<Graph, GraphError> {
        let mut forward = step.clone();
        let Some(loss) = forward.find(&self.loss) else {
            return error(
                "training step".into(),
                format!("the loss \"{}\" is not a tensor of the graph", self.loss),
            );
        };
        forward.clear_updates();
        for id in forward.nodes() {
            if let Kind::Variable(value, _) = &forward.node(id).kind {
                let value = value.clone();
                forward.set_leaf(id, Kind::Const(value))?;
            }
        }
        let others: Vec<_> = step
            .outputs()
            .iter()
            .filter(|o| o.value != loss && gradient(step, o.value.node).is_none())
            .map(|o| (o.name.clone(), o.value))
            .collect();
        forward.set_outputs([(self.loss.clone(), loss)].into_iter().chain(others));
        forward.sweep();
        for id in forward.inputs().to_vec() {
            forward.remove_input(id);
        }
        forward.sweep();
        Ok(forward)
    }

    /// The parameter group in which the rules of the recipe update the weights, at its own rate unless another one is given.
    ///
    /// # Errors
    /// When the recipe has no rate of its own and none is given.
    pub fn group(&self, rate: Option<f32>) -> Result<ParamGroup, String> {
        let rate = rate
            .or(self.rate)
            .ok_or("the training step of the model takes its learning rate as an input; give one")?;
        let optimizer = Optimizer::Custom(Hook(Arc::new(self.clone())));
        Ok(ParamGroup::new(WEIGHTS, optimizer, Schedule::constant(rate)))
    }

    /// Names of the parameters that are trained.
    pub fn parameters(&self) -> impl Iterator<Item = &str> {
        self.rules.keys().map(String::as_str)
    }

    /// Adds the states to a graph, as variables that training changes, so that they are found there afterwards.
    pub fn attach(&self, graph: &mut Graph) {
        for (name, value) in &self.states {
            let state = graph.add_variable(name, value.clone(), Role::State);
            graph.set_update(state, state);
        }
    }

    /// The states as a graph holds them, by name: those of the file where [`Recipe::attach`] was not called.
    pub fn states(&self, graph: &Graph) -> Vec<(String, Tensor)> {
        let held = |name: &str| graph.find(name).and_then(|v| graph.tensor(v)).cloned();
        self.states
            .iter()
            .map(|(name, value)| (name.clone(), held(name).unwrap_or_else(|| value.clone())))
            .collect()
    }
}

impl fmt::Display for Recipe {
    /// `Adam (alpha 0.9, beta 0.999, epsilon 1e-8), learning rate 0.001, 10 parameters`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(rule) = self.rules.values().next() {
            let attrs = rule.op.attrs();
            let number = |(name, attr): (&str, &Attr)| match attr {
                Attr::Float(x) => format!("{name} {x:?}"),
                Attr::Str(s) => format!("{name} {s}"),
                other => format!("{name} {other:?}"),
            };
            let attrs: Vec<String> = attrs.iter().map(number).collect();
            write!(f, "{}", rule.op.name())?;
            if !attrs.is_empty() {
                write!(f, " ({})", attrs.join(", "))?;
            }
        }
        if let Some(rate) = self.rate {
            write!(f, ", learning rate {rate}")?;
        }
        write!(f, ", {} parameters", self.rules.len())
    }
}

impl Update for Recipe {
    /// Parameters that the training step of the file does not update stay as they are.
    fn update(&self, graph: &mut Graph, step: &Gradient) -> Result<ValueId, GraphError> {
        let Some(rule) = self.rules.get(step.name) else { return Ok(step.parameter) };
        let variable = |graph: &Graph, name: &str| match graph.find(name) {
            Some(v) if matches!(graph.node(v.node).kind, Kind::Variable(..)) => Ok(v),
            _ => error(
                format!("parameter \"{}\"", step.name),
                format!("the graph has no state \"{name}\" of its optimizer"),
            ),
        };
        let count = variable(graph, &rule.count)?;
        let counted = graph.updates().iter().any(|u| u.variable == count.node && u.next != count);
        if !counted {
            let one = graph
                .add_const(&format!("{}_one", rule.count), Tensor::new(&shape(graph, count), vec![1i64]));
            let next = graph.add(Add, &[count, one], &format!("{}_updated", rule.count))?;
            graph.set_update(count, next);
        }
        let rate = match rule.share {
            1.0 => step.rate,
            share => {
                let share = graph.add_const(&format!("{}_rate_share", step.name), Tensor::scalar(share));
                graph.add(Mul, &[step.rate, share], &format!("{}_rate", step.name))?
            }
        };
        let mut ins = vec![Some(rate), Some(count), Some(step.parameter), Some(step.gradient)];
        for name in &rule.states {
            ins.push(Some(variable(graph, name)?));
        }
        let updated = format!("{}_updated", step.name);
        let outs: Vec<String> = rule.states.iter().map(|s| format!("{s}_updated")).collect();
        let outs: Vec<&str> = [updated.as_str()].into_iter().chain(outs.iter().map(String::as_str)).collect();
        let node = graph.add_node(rule.op.clone(), &ins, &updated, &outs)?;
        for (k, state) in ins[4..].iter().flatten().enumerate() {
            graph.set_update(*state, ValueId { node, out: 1 + k as u16 });
        }
        Ok(node.into())
    }
}

fn shape(graph: &Graph, v: ValueId) -> Vec<usize> {
    graph.tensor(v).map(|t| t.shape().to_vec()).unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn step(extra: &str) -> Graph {
        let text = format!(
            r#"
            step (float[2,3] x) => (float[2,3] y)
            <
              float[3] w = {{1, 2, 3}},  # state
              float[3] v = {{0, 0, 0}},
              float[] R = {{0.5}},
              int64[] T = {{0}},  # state
              int64[] one = {{1}}
            >
            {{
              y = Mul (x, w)
              loss = ReduceMean <keepdims=0> (y)
              {extra}
            }}"#
        );
        ir::text::parse(&text, &ops::Ops).unwrap()
    }

    #[test]
    fn an_optimizer_without_its_state_among_the_results_is_refused() {
        let message = Recipe::of(&step(
            r#"
              grad = ai.onnx.preview.training.Gradient <xs=["w"], y="loss"> (w)
              w_new = ai.onnx.preview.training.Momentum
                <alpha=0.9, beta=1.0, mode="standard", norm_coefficient=0.0> (R, T, w, grad, v)
              T_new = Add (T, one)
              # update w <- w_new
              # update T <- T_new
              "#,
        ))
        .unwrap_err()
        .to_string();
        assert!(message.contains("an update binding of \"v\" to its result 1 is expected"), "{message}");
    }

    #[test]
    fn a_step_without_an_optimizer_is_no_recipe() {
        let message = Recipe::of(&step("")).unwrap_err().to_string();
        assert!(message.contains("no Adam, Adagrad or Momentum"), "{message}");
    }
}
