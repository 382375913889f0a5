//! Ranges from data before training: static calibration.

use crate::Error;
use crate::run::{batch_size, feed, machine};
use crate::teacher::without_quantizers;
use data::{Batches, Dataset, Last, Loader, Order, View};
use ir::{Graph, Kind};
use tensor::Tensor;

/// Sets the ranges of a graph from [`passes::quant_aware`] by running it in floating point on `batches` batches (all
/// for `None`) and updating only its observers. `done` hears of each batch: how many, and of how many.
///
/// # Errors
/// When the graph cannot run on the data, or a tensor is not finite: names the node that observes it.
pub fn calibrate(
    graph: &mut Graph,
    data: &Dataset,
    batch: usize,
    batches: Option<usize>,
    done: &mut dyn FnMut(usize, usize),
) -> Result<(), Error> {
    let mut float = float_form(graph)?;
    // Only the observers are wanted.
    float.set_outputs([]);
    float.sweep();
    let batch = batch_size(&float, batch).min(data.len().max(1));
    // Lists of images are often sorted by class: the first of them would be one class.
    let order = Order::Shuffled { seed: 0, epoch: 0 };
    let list = Batches::new(data.len(), batch, order, Last::Drop)?;
    let total = list.len().min(batches.unwrap_or(usize::MAX));
    let mut machine = machine(&float, batch, data)?;
    for (i, loaded) in Loader::new(data, list, View::Plain).take(total).enumerate() {
        feed(&mut machine, data, &loaded?)?;
        machine.run()?;
        done(i + 1, total);
    }
    write_back(graph, &machine)
}

/// A graph from [`passes::quant_aware`] in floating point and without its loss: quantizers and clipping are left out, observers
/// stay.
pub(crate) fn float_form(graph: &Graph) -> Result<Graph, Error> {
    let mut float = graph.clone();
    crate::strip_loss(&mut float);
    without_quantizers(&mut float)?;
    Ok(float)
}

/// Copies the values of a machine's variables to the constants and variables of the same name: after training steps, to the
/// graph of which [`training_step`](crate::training_step) made them.
///
/// # Errors
/// When a constant or variable of the same name has another type.
pub fn write_back(graph: &mut Graph, machine: &exec::Machine) -> Result<(), Error> {
    write_values(graph, machine.variables())
}

/// Gives the constants and variables of these names these values; names that the graph does not have are left out.
pub(crate) fn write_values(
    graph: &mut Graph,
    values: impl IntoIterator<Item = (String, Tensor)>,
) -> Result<(), Error> {
    for (name, value) in values {
        let Some(v) = graph.find(&name) else { continue };
        let kind = match &graph.node(v.node).kind {
            Kind::Const(_) => Kind::Const(value),
            Kind::Variable(_, role) => Kind::Variable(value, role.clone()),
            _ => continue,
        };
        graph.set_leaf(v.node, kind)?;
    }
    Ok(())
}
