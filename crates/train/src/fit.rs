//! The training loop.

use crate::Error;
use crate::calibrate::write_back;
use crate::evaluate::evaluate;
use crate::metrics::Accuracy;
use crate::optimizer::ParamGroup;
use crate::run::{batch_size, feed, sample_shapes};
use crate::step::{StepGraph, training_step};
use data::{Batches, Dataset, Last, Loader, Order, View};
use exec::{Machine, Program};
use ir::Graph;
use std::sync::Arc;

/// How to train.
#[derive(Clone)]
pub struct FitOptions {
    /// Passes over the data.
    pub epochs: usize,
    /// Samples per step.
    pub batch: usize,
    /// Seed of the order of samples.
    pub seed: u64,
    /// Optimizers by parameter group. Groups that the graph does not have are ignored.
    pub groups: Vec<ParamGroup>,
}

/// What happened, for progress bars and logs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event {
    /// A training step is done.
    Step {
        /// Epoch, from 0.
        epoch: usize,
        /// Step in the epoch, from 0.
        step: usize,
        /// Steps in the epoch.
        steps: usize,
        /// Loss of this step.
        loss: f32,
        /// Learning rate of the first group.
        rate: f32,
        /// Accuracy over the epoch so far.
        accuracy: Accuracy,
    },
    /// An epoch is done.
    Epoch {
        /// Epoch, from 0.
        epoch: usize,
        /// Mean loss over the epoch.
        loss: f32,
        /// Accuracy on the training data, as the steps saw it.
        train: Accuracy,
        /// Accuracy on the evaluation data, in quantized form.
        eval: Option<Accuracy>,
    },
}

/// Trains the parameters of `graph` (from [`passes::quant_aware`], or float) and writes them, running statistics, ranges and
/// thresholds back into it. With `eval`, the graph is evaluated after each epoch, in its evaluation form.
///
/// The same graph, data, options and seed give the same bits, for any number of threads.
///
/// # Errors
/// When data has no labels, a label is out of range, the loss is not finite, or the graph cannot be trained.
pub fn fit(
    graph: &mut Graph,
    train: &Dataset,
    eval: Option<&Dataset>,
    options: &FitOptions,
    on: &mut dyn FnMut(&Event),
) -> Result<(), Error> {
    if train.labels().is_none() {
        return Err(Error::NoLabels);
    }
    let batch = batch_size(graph, options.batch);
    let StepGraph { graph: step_graph, signature, .. } =
        training_step(graph, batch, &sample_shapes(train), &options.groups)?;
    let program = Arc::new(Program::compile(&step_graph)?);
    let mut machine = Machine::new(program);
    let label_input = signature.label.as_deref();
    let (loss_name, scores_name) = (signature.loss.unwrap_or_default(), signature.scores);
    if let Some(classes) = scores_name.as_ref().and_then(|name| classes(&step_graph, name)) {
        train.check_labels(classes)?;
    }
    let steps = Batches::new(train.len(), batch, Order::Stored, Last::Drop)?.len();
    for epoch in 0..options.epochs {
        let (seed, number) = (options.seed, epoch as u64);
        let batches = Batches::new(train.len(), batch, Order::Shuffled { seed, epoch: number }, Last::Drop)?;
        let loader = Loader::new(train, batches, View::Augmented { seed, epoch: number });
        let (mut accuracy, mut total) = (Accuracy::default(), 0f64);
        for (step, loaded) in loader.enumerate() {
            let loaded = loaded?;
            feed(&mut machine, train, &loaded)?;
            if let Some(name) = label_input {
                machine.input_mut::<i64>(name)?.copy_from_slice(&loaded.labels);
            }
            let mut first_rate = None;
            for group in &options.groups {
                let name = group.rate_input();
                let rate = group.schedule.at(epoch * steps + step, steps, options.epochs);
                first_rate.get_or_insert(rate);
                if machine.has_input(&name) {
                    machine.input_mut::<f32>(&name)?[0] = rate;
                }
            }
            machine.run()?;
            let loss = machine.output(&loss_name)?.to_f32().first().copied().unwrap_or(f32::NAN);
            let rate = first_rate.unwrap_or_default();
            if !loss.is_finite() {
                return Err(Error::Diverged { loss, epoch, batch: step, rate });
            }
            if let Some(name) = &scores_name {
                let scores = machine.output(name)?;
                let classes = scores.shape().last().copied().unwrap_or(1);
                accuracy.count(&scores.to_f32(), classes, &loaded.labels);
            }
            total += loss as f64;
            on(&Event::Step { epoch, step, steps, loss, rate, accuracy });
        }
        write_back(graph, &machine)?;
        let eval = eval.map(|data| evaluate_quantized(graph, data, batch)).transpose()?;
        on(&Event::Epoch { epoch, loss: (total / steps.max(1) as f64) as f32, train: accuracy, eval });
    }
    Ok(())
}

/// Number of classes of an output.
fn classes(graph: &Graph, output: &str) -> Option<usize> {
    let v = graph.outputs().iter().find(|o| o.name == output)?.value;
    graph.ty(v).dims()?.last().copied()
}

/// Accuracy of a graph in training form, with its ranges as they are.
fn evaluate_quantized(graph: &Graph, data: &Dataset, batch: usize) -> Result<Accuracy, Error> {
    let mut graph = graph.clone();
    passes::Pipeline::new().then(passes::DropUpdates).run(&mut graph)?;
    evaluate(&graph, data, batch, &mut |_, _| {})
}
