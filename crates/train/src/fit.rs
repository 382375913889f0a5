//! The training loop.

use crate::calibrate::write_values;
use crate::checkpoint::{Checkpoints, Identity};
use crate::evaluate::{evaluate, fidelity};
use crate::event::{Event, Quality};
use crate::metrics::Accuracy;
use crate::options::{FitOptions, Keep};
use crate::run::{batch_size, feed, sample_shapes};
use crate::signature::strip_loss;
use crate::state::{Best, Progress, State, Variables};
use crate::step::{StepConfig, StepGraph, training_step};
use crate::{Error, Signature, WEIGHTS, teacher};
use data::{Batch, Batches, Dataset, Last, Loader, Order, View};
use exec::{Machine, Program};
use ir::{Graph, Kind, Role};
use ops::{Epilogue, Observe};
use passes::{LearnScales, Pass, Report};
use std::sync::Arc;
use std::time::Instant;

/// Trains the parameters of `graph` (from [`passes::quant_aware`], or float) and writes them, running statistics, ranges,
/// thresholds and scales back into it. Learned scales start at the ranges that the graph has ([`LearnScales`]). With
/// `eval`, the graph is frozen into its int8 form and evaluated before the first epoch and after each: by its labels, or
/// without labels by its distance from the float model.
///
/// The same graph, data, options and seed give the same bits, for any number of threads, and whether or not the run was
/// interrupted and resumed.
///
/// # Errors
/// When an option makes no sense, a label is out of range, the graph cannot be trained, training diverges again and again, or a
/// checkpoint cannot be read or written.
pub fn fit(
    graph: &mut Graph,
    train: &Dataset,
    eval: Option<&Dataset>,
    options: &FitOptions,
    on: &mut dyn FnMut(&Event),
) -> Result<(), Error> {
    options.check().map_err(Error::Options)?;
    LearnScales.run(graph, &mut Report::default())?;
    let (checkpoints, resumed) = match &options.checkpoint {
        None => (None, None),
        Some(own) => {
            let (checkpoints, state) = Checkpoints::open(own, Identity::of(graph, train, options)?)?;
            (Some(checkpoints), state)
        }
    };
    let at = resumed.as_ref().map(|state| (state.progress.epoch, state.progress.step));
    let mut run = Run::new(graph, train, eval, options, checkpoints, resumed)?;
    on(&Event::Begin { loss: run.compiled.step.loss.clone(), resumed: at });
    if at.is_none() {
        run.evaluate_start(on)?;
        run.good = run.state();
    }
    while run.progress.epoch < options.epochs && !run.progress.stopped {
        match run.epoch(on) {
            Err(Error::Diverged(found)) if run.progress.retries < options.divergence.retries => {
                run.step_back(found, on)?
            }
            done => done?,
        }
    }
    let values = run.result(on);
    write_values(graph, values)
}

/// Where and how training diverged.
#[derive(Clone, Debug, PartialEq)]
pub struct Divergence {
    /// What was seen, and where.
    pub what: String,
    /// Epoch, from 0.
    pub epoch: usize,
    /// Step in the epoch, from 0.
    pub step: usize,
    /// Learning rate of the first group then.
    pub rate: f32,
}

/// A step with its memory.
struct Compiled {
    config: StepConfig,
    step: StepGraph,
    machine: Machine,
}

impl Compiled {
    fn new(graph: &Graph, batch: usize, train: &Dataset, config: StepConfig) -> Result<Compiled, Error> {
        let step = training_step(graph, batch, &sample_shapes(train), &config)?;
        let machine = Machine::new(Arc::new(Program::compile(&step.graph)?));
        Ok(Compiled { config, step, machine })
    }

    fn set(&mut self, variables: &Variables) -> Result<(), Error> {
        Ok(variables.iter().try_for_each(|(name, value)| self.machine.set_variable(name, value))?)
    }

    /// What the model is to be made of: the variables, parameters in their averaged form where there is one.
    fn trained(&self) -> Variables {
        let mut variables = self.machine.variables();
        for (name, average) in &self.step.averages {
            let average = variables.iter().find(|(n, _)| n == average).map(|(_, value)| value.clone());
            if let (Some(average), Some(own)) = (average, variables.iter_mut().find(|(n, _)| n == name)) {
                own.1 = average;
            }
        }
        variables
    }

    /// Trained numbers that are no weights: thresholds, step sizes.
    fn thresholds(&self) -> Vec<(String, f32)> {
        let graph = &self.step.graph;
        let threshold = |id| match &graph.node(id).kind {
            Kind::Variable(value, Role::Param(group)) if **group != *WEIGHTS && value.len() == 1 => {
                let name = graph.node(id).name.clone();
                let value = self.machine.variable(&name).ok()?.to_f32();
                Some((name, value[0]))
            }
            _ => None,
        };
        graph.nodes().into_iter().filter_map(threshold).collect()
    }

    /// Whether an error of the executor is a tensor that is not finite behind a layer: what training does when it diverges.
    fn not_finite(&self, error: &exec::Error) -> bool {
        let exec::Error::Node { node: label, .. } = error else { return false };
        let graph = &self.step.graph;
        graph.nodes().into_iter().any(|id| {
            let node = graph.node(id);
            let observes = node.is::<Observe>().is_some() || node.is::<Epilogue>().is_some();
            // What is wrong with the data itself does not get better with another rate.
            let of_data =
                node.ins.first().copied().flatten().is_some_and(|x| graph.inputs().contains(&x.node));
            observes && !of_data && node.label() == *label
        })
    }

    /// The parameter that has moved furthest since `good`, measured in its own norm.
    fn furthest(&self, good: &Variables) -> Option<String> {
        let moved = |name: &String| {
            let then = good.iter().find(|(n, _)| n == name)?.1.to_f32();
            let now = self.machine.variable(name).ok()?.to_f32();
            let square = |x: f32| x as f64 * x as f64;
            let distance: f64 = now.iter().zip(&then).map(|(a, b)| square(a - b)).sum();
            let norm: f64 = then.iter().copied().map(square).sum();
            Some((name.clone(), (distance / norm.max(f64::MIN_POSITIVE)).sqrt()))
        };
        let mut worst: Option<(String, f64)> = None;
        for (name, ratio) in self.step.parameters.iter().filter_map(moved) {
            if ratio.is_nan() {
                return Some(format!("\"{name}\" is the first parameter that is not finite"));
            }
            if worst.as_ref().is_none_or(|(_, most)| ratio > *most) {
                worst = Some((name, ratio));
            }
        }
        worst.map(|(name, ratio)| {
            format!("\"{name}\" moved furthest, by {ratio:.2e} of its norm since the last good state")
        })
    }
}

/// A run of training.
struct Run<'a> {
    train: &'a Dataset,
    eval: Option<&'a Dataset>,
    options: &'a FitOptions,
    /// As it was before training: the steps are made of it.
    initial: Graph,
    /// The float model, to evaluate without labels.
    reference: Option<Graph>,
    batch: usize,
    compiled: Compiled,
    checkpoints: Option<Checkpoints>,
    progress: Progress,
    best: Variables,
    /// Where to step back to.
    good: State,
}

impl<'a> Run<'a> {
    fn new(
        graph: &Graph,
        train: &'a Dataset,
        eval: Option<&'a Dataset>,
        options: &'a FitOptions,
        checkpoints: Option<Checkpoints>,
        resumed: Option<State>,
    ) -> Result<Run<'a>, Error> {
        let batch = batch_size(graph, options.batch);
        let progress = resumed.as_ref().map(|state| state.progress.clone()).unwrap_or_default();
        let config = options.step(progress.epoch, train.labels().is_some());
        let mut compiled = Compiled::new(graph, batch, train, config)?;
        if let Some(state) = &resumed {
            compiled.set(&state.variables)?;
        }
        if compiled.step.signature.label.is_some()
            && let Some(classes) = classes(&compiled.step)
        {
            train.check_labels(classes)?;
        }
        let reference = eval.filter(|d| d.labels().is_none()).map(|_| reference(graph)).transpose()?;
        let best = resumed.as_ref().map(|state| state.best.clone()).unwrap_or_default();
        let good =
            State { progress: progress.clone(), variables: compiled.machine.variables(), best: best.clone() };
        let initial = graph.clone();
        Ok(Run {
            train,
            eval,
            options,
            initial,
            reference,
            batch,
            compiled,
            checkpoints,
            progress,
            best,
            good,
        })
    }

    fn state(&self) -> State {
        let variables = self.compiled.machine.variables();
        State { progress: self.progress.clone(), variables, best: self.best.clone() }
    }

    /// Takes the state as a good one, and writes it down where checkpoints are wanted.
    fn keep_state(&mut self, on: &mut dyn FnMut(&Event)) -> Result<(), Error> {
        self.good = self.state();
        if let Some(checkpoints) = &mut self.checkpoints {
            let path = checkpoints.write(&self.good)?;
            on(&Event::Checkpoint { path });
        }
        Ok(())
    }

    /// Trains to the end of the epoch.
    fn epoch(&mut self, on: &mut dyn FnMut(&Event)) -> Result<(), Error> {
        let start = Instant::now();
        let epoch = self.progress.epoch;
        let config = self.options.step(epoch, self.train.labels().is_some());
        if config != self.compiled.config {
            let variables = self.compiled.machine.variables();
            self.compiled = Compiled::new(&self.initial, self.batch, self.train, config)?;
            self.compiled.set(&variables)?;
        }
        let (seed, number) = (self.options.seed, epoch as u64);
        let order = Order::Shuffled { seed, epoch: number };
        let batches = Batches::new(self.train.len(), self.batch, order, Last::Drop)?;
        let steps = batches.len();
        let rest = batches.starting_at(self.progress.step);
        let mut loader = Loader::new(self.train, rest, View::Augmented { seed, epoch: number });
        let every = self.options.checkpoint.as_ref().and_then(|c| c.every);
        loop {
            let begin = Instant::now();
            let Some(loaded) = loader.next() else { break };
            let (loss, rates) = self.step(&loaded?, steps)?;
            let step = self.progress.step;
            self.progress.step += 1;
            self.progress.loss += loss as f64;
            let (accuracy, seconds) = (self.progress.accuracy, begin.elapsed().as_secs_f64());
            on(&Event::Step { epoch, step, steps, loss, rates, accuracy, seconds });
            let at = epoch * steps + self.progress.step;
            if self.progress.step < steps && every.is_some_and(|n| at.is_multiple_of(n)) {
                self.keep_state(on)?;
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        let (loss, train) = ((self.progress.loss / steps.max(1) as f64) as f32, self.progress.accuracy);
        self.progress.epoch += 1;
        (self.progress.step, self.progress.loss, self.progress.accuracy) = (0, 0.0, Accuracy::default());
        let eval = self.evaluate(on)?;
        let thresholds = self.compiled.thresholds();
        on(&Event::Epoch { epoch, loss, train, eval, thresholds, seconds });
        if self.options.patience.is_some_and(|patience| eval.is_some() && self.progress.stale >= patience) {
            self.progress.stopped = true;
            on(&Event::Stopped { epochs: epoch + 1 });
        }
        self.keep_state(on)
    }

    /// Makes one step; returns its loss and the learning rates.
    fn step(&mut self, batch: &Batch, steps: usize) -> Result<(f32, Vec<(String, f32)>), Error> {
        let Compiled { step, machine, .. } = &mut self.compiled;
        feed(machine, self.train, batch)?;
        if let Some(name) = step.signature.label.as_ref().filter(|name| machine.has_input(name)) {
            machine.set_i64(name, &batch.labels)?;
        }
        let at = self.progress.epoch * steps + self.progress.step;
        let mut rates = Vec::new();
        for group in &self.options.groups {
            let rate = group.schedule.at(at, steps, self.options.epochs) * self.progress.rate_factor;
            let name = group.rate_input();
            if machine.has_input(&name) {
                machine.input_mut::<f32>(&name)?[0] = rate;
                rates.push((group.name.clone(), rate));
            }
        }
        let diverged = |what: String| {
            let rate = rates.first().map_or(0.0, |r| r.1);
            Error::Diverged(Divergence { what, epoch: self.progress.epoch, step: self.progress.step, rate })
        };
        if let Err(e) = machine.run() {
            return Err(if self.compiled.not_finite(&e) { diverged(e.to_string()) } else { e.into() });
        }
        let name = step.signature.loss.as_deref().unwrap_or_default();
        let loss = machine.output(name)?.to_f32().first().copied().unwrap_or(f32::NAN);
        let average = match self.progress.first_loss {
            Some(_) => 0.9 * self.progress.average_loss + 0.1 * loss,
            None => loss,
        };
        let first = self.progress.first_loss.unwrap_or(loss);
        let limit = self.options.divergence.factor * first.max(1.0);
        if !loss.is_finite() || average > limit {
            let mut what = format!("the loss is {loss}");
            if loss.is_finite() {
                what += &format!(", its moving average {average} is above {limit}");
            }
            if let Some(furthest) = self.compiled.furthest(&self.good.variables) {
                what += &format!("; {furthest}");
            }
            return Err(diverged(what));
        }
        (self.progress.first_loss, self.progress.average_loss) = (Some(first), average);
        if let Some(scores) = step.signature.scores.as_ref().filter(|_| !batch.labels.is_empty()) {
            let scores = machine.output(scores)?;
            let classes = scores.shape().last().copied().unwrap_or(1);
            self.progress.accuracy.count(&scores.to_f32(), classes, &batch.labels);
        }
        Ok((loss, rates))
    }

    /// Goes back to the last good state, with lower rates.
    fn step_back(&mut self, found: Divergence, on: &mut dyn FnMut(&Event)) -> Result<(), Error> {
        let rate_factor = self.progress.rate_factor * self.options.divergence.backoff;
        let retries = self.progress.retries + 1;
        self.good.progress.rate_factor = rate_factor;
        self.good.progress.retries = retries;
        self.progress = self.good.progress.clone();
        self.best = self.good.best.clone();
        self.compiled.set(&self.good.variables)?;
        let Divergence { what, epoch, step, .. } = found;
        let back_to = (self.progress.epoch, self.progress.step);
        on(&Event::Diverged { epoch, step, what, back_to, rate_factor });
        Ok(())
    }

    /// Evaluates the state before training, which may turn out to be the best.
    fn evaluate_start(&mut self, on: &mut dyn FnMut(&Event)) -> Result<(), Error> {
        if self.options.epochs > 0 {
            self.evaluate(on)?;
        }
        Ok(())
    }

    /// Evaluates the int8 form, where there is something to evaluate it on, and remembers the best.
    fn evaluate(&mut self, on: &mut dyn FnMut(&Event)) -> Result<Option<Quality>, Error> {
        let Some(data) = self.eval else { return Ok(None) };
        let values = self.compiled.trained();
        let mut graph = self.initial.clone();
        write_values(&mut graph, values.iter().cloned())?;
        strip_loss(&mut graph);
        passes::convert(&mut graph)?;
        passes::evaluation().run(&mut graph)?;
        let quality = match &self.reference {
            Some(reference) => Quality::Fidelity(fidelity(&graph, reference, data, self.batch)?),
            None => Quality::Accuracy(evaluate(&graph, data, self.batch, &mut |_, _| {})?),
        };
        let (score, epochs) = (quality.score(), self.progress.epoch);
        let best = !score.is_nan() && self.progress.best.is_none_or(|b| score > b.score);
        self.progress.stale += 1;
        if best {
            self.progress.best = Some(Best { epochs, score });
            self.progress.stale = 0;
            if self.options.keep == Keep::Best {
                self.best = values;
            }
        }
        on(&Event::Evaluated { epochs, quality, best });
        Ok(Some(quality))
    }

    /// What the model ends with.
    fn result(self, on: &mut dyn FnMut(&Event)) -> Variables {
        match self.progress.best {
            Some(best) if self.options.keep == Keep::Best => {
                if best.epochs != self.progress.epoch {
                    on(&Event::Restored { epochs: best.epochs });
                }
                self.best
            }
            _ => self.compiled.trained(),
        }
    }
}

/// The float form of a graph, with its outputs but the loss.
fn reference(graph: &Graph) -> Result<Graph, Error> {
    let mut inference = graph.clone();
    strip_loss(&mut inference);
    let outputs: Vec<_> = inference.outputs().iter().map(|o| (o.name.clone(), o.value)).collect();
    Ok(teacher::teacher(&inference, &outputs)?)
}

/// Number of classes of the scores.
fn classes(step: &StepGraph) -> Option<usize> {
    let Signature { scores, .. } = &step.signature;
    let output = step.graph.outputs().iter().find(|o| Some(&o.name) == scores.as_ref())?;
    step.graph.ty(output.value).dims()?.last().copied()
}
