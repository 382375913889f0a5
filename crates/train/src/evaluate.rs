//! Evaluation of a model on a dataset: by its labels, or beside another model.

use crate::metrics::{Accuracy, Fidelity};
use crate::run::{Runner, batch_size};
use crate::{Error, Signature, strip_loss};
use data::{Batch, Batches, Dataset, Last, Loader, Order, View};
use ir::Graph;
use tensor::DType;

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

/// Compares the float outputs of an inference graph on all samples with those of a reference that has outputs of the same names.
///
/// # Errors
/// When no float output of the two has the same name, or a graph cannot run on the data.
pub fn fidelity(graph: &Graph, reference: &Graph, data: &Dataset, batch: usize) -> Result<Fidelity, Error> {
    let float = |graph: &Graph, name: &str| {
        let output = graph.outputs().iter().find(|o| o.name == name)?;
        (graph.ty(output.value).dtype == Some(DType::F32)).then_some(())
    };
    let mut graphs = [graph.clone(), reference.clone()];
    graphs.iter_mut().for_each(strip_loss);
    let [graph, reference] = graphs;
    let names: Vec<String> = graph
        .outputs()
        .iter()
        .map(|o| o.name.clone())
        .filter(|name| float(&graph, name).is_some() && float(&reference, name).is_some())
        .collect();
    if names.is_empty() {
        return Err(Error::NoCommonOutput);
    }
    let batch = batch_size(&graph, batch).min(data.len().max(1));
    let (mut graph, mut reference) = (Runner::new(&graph, data), Runner::new(&reference, data));
    let batches = Batches::new(data.len(), batch, Order::Stored, Last::Keep)?;
    let mut sums = vec![(0f64, 0f64); names.len()];
    let mut samples = 0;
    for loaded in Loader::new(data, batches, View::Plain) {
        let loaded = loaded?;
        let (graph, reference) = (graph.run(&loaded)?, reference.run(&loaded)?);
        for (name, (noise, signal)) in names.iter().zip(&mut sums) {
            let (y, expected) = (graph.output(name)?.to_f32(), reference.output(name)?.to_f32());
            for (y, expected) in y.iter().zip(&expected) {
                *noise += (*y as f64 - *expected as f64).powi(2);
                *signal += (*expected as f64).powi(2);
            }
        }
        samples += loaded.samples.len();
    }
    let errors = sums.iter().map(|(noise, signal)| noise / signal.max(f64::MIN_POSITIVE));
    Ok(Fidelity { relative_error: errors.sum::<f64>() / names.len() as f64, samples })
}
