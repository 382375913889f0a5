//! Evaluation of a classifier on a dataset.

use crate::metrics::Accuracy;
use crate::run::{Runner, batch_size};
use crate::{Error, Signature, strip_loss};
use data::{Batch, Batches, Dataset, Last, Loader, Order, View};
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
    if data.labels().is_none() {
        return Err(Error::NoLabels);
    }
    let mut accuracy = Accuracy::default();
    let mut checked = false;
    predict(graph, data, batch, &mut |batch, scores, classes| {
        if !checked {
            data.check_labels(classes)?;
            checked = true;
        }
        accuracy.count(scores, classes, &batch.labels);
        done(accuracy.samples, data.len());
        Ok(())
    })?;
    Ok(accuracy)
}

/// What [`predict`] hands out: a batch, the class scores of its samples, number of classes.
pub type Scores<'a> = dyn FnMut(&Batch, &[f32], usize) -> Result<(), Error> + 'a;

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
    let mut runner = Runner::new(&graph, data);
    for loaded in Loader::new(data, batches, View::Plain) {
        let loaded = loaded?;
        let size = loaded.samples.len();
        let scores = runner.run(&loaded)?.output(&name)?;
        let &[n, classes] = scores.shape() else {
            return Err(Error::ScoreShape { shape: scores.shape().to_vec(), batch: size });
        };
        if n != size {
            return Err(Error::ScoreShape { shape: scores.shape().to_vec(), batch: size });
        }
        each(&loaded, &scores.to_f32(), classes)?;
    }
    Ok(())
}
