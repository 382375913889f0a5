//! Evaluation of a classifier on a dataset.

use crate::metrics::Accuracy;
use crate::run::{batch_size, feed, machine};
use crate::{Error, Signature, strip_loss};
use data::{Batches, Dataset, Last, Order};
use ir::Graph;

/// Runs the inference graph on all samples and counts right answers. `done` hears of each batch: samples so far, and all.
///
/// # Errors
/// When there are no labels, no class scores, a label is out of range, or the graph cannot run on the data.
pub fn evaluate(
    graph: &Graph,
    data: &Dataset,
    batch: usize,
    done: &mut dyn FnMut(usize, usize),
) -> Result<Accuracy, Error> {
    let labels = data.labels().ok_or(Error::NoLabels)?;
    let mut accuracy = Accuracy::default();
    let mut checked = false;
    predict(graph, data, batch, &mut |samples, scores, classes| {
        if !checked {
            data.check_labels(classes)?;
            checked = true;
        }
        let labels: Vec<i64> = samples.iter().map(|&i| labels[i]).collect();
        accuracy.count(scores, classes, &labels);
        done(accuracy.samples, data.len());
        Ok(())
    })?;
    Ok(accuracy)
}

/// What [`predict`] hands out: sample numbers, their class scores, number of classes.
pub type Scores<'a> = dyn FnMut(&[usize], &[f32], usize) -> Result<(), Error> + 'a;

/// Runs the inference graph on all samples in order and hands out the class scores batch by batch.
///
/// # Errors
/// When there are no class scores or the graph cannot run on the data.
pub fn predict(graph: &Graph, data: &Dataset, batch: usize, each: &mut Scores) -> Result<(), Error> {
    let mut graph = graph.clone();
    strip_loss(&mut graph);
    let name = Signature::of(&graph).scores.ok_or(Error::NoScores)?;
    let only: Vec<_> =
        graph.outputs().iter().filter(|o| o.name == name).map(|o| (o.name.clone(), o.value)).collect();
    graph.set_outputs(only);
    graph.sweep();
    let batch = batch_size(&graph, batch).min(data.len().max(1));
    let batches = Batches::new(data.len(), batch, Order::Stored, Last::Keep)?;
    let mut running: Option<(usize, exec::Machine)> = None;
    for samples in batches.iter() {
        // The last, smaller batch needs a program of its own.
        let m = match running.take() {
            Some((size, m)) if size == samples.len() => m,
            _ => machine(&graph, samples.len(), data)?,
        };
        let (_, m) = running.insert((samples.len(), m));
        feed(m, data, samples)?;
        m.run()?;
        let scores = m.output(&name)?;
        let &[n, classes] = scores.shape() else {
            return Err(Error::ScoreShape { shape: scores.shape().to_vec(), batch: samples.len() });
        };
        if n != samples.len() {
            return Err(Error::ScoreShape { shape: scores.shape().to_vec(), batch: samples.len() });
        }
        each(samples, &scores.to_f32(), classes)?;
    }
    Ok(())
}
