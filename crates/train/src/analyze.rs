//! The distributions of activations over data.

use crate::Error;
use crate::calibrate::float_form;
use crate::run::{Runner, batch_size};
use data::{Batches, Dataset, Last, Loader, Order, View};
use ir::Graph;
use observe::{Distribution, DistributionObserver, Histogram};
use ops::Observe;

/// What was observed of one tensor.
#[derive(Clone, Debug)]
pub struct Observed {
    /// Name of the tensor.
    pub name: String,
    /// Summary.
    pub distribution: Distribution,
    /// Counts.
    pub histogram: Histogram,
}

/// Observes every tensor that a graph from [`passes::quant_aware`] quantizes, in floating point, on `samples` samples,
/// rounded up to whole batches (all for `None`), drawn as for [`calibrate`](crate::calibrate). In graph order. `done`
/// hears of each batch: samples so far, and all.
///
/// All observed tensors of a batch are in memory at once, of the data no more than that.
///
/// # Errors
/// When the graph cannot run on the data, or a tensor is not finite: names it.
pub fn analyze(
    graph: &Graph,
    data: &Dataset,
    batch: usize,
    samples: Option<usize>,
    done: &mut dyn FnMut(usize, usize),
) -> Result<Vec<Observed>, Error> {
    let mut float = float_form(graph)?;
    let mut tensors = Vec::new();
    for id in float.order()? {
        let node = float.node(id);
        if node.is::<Observe>().is_some()
            && let Some(x) = node.ins[0]
            && !tensors.contains(&x)
        {
            tensors.push(x);
        }
    }
    let names: Vec<String> = tensors.iter().map(|&x| float.value(x).name.clone()).collect();
    float.clear_updates();
    float.set_outputs(names.iter().cloned().zip(tensors));
    float.sweep();

    let total = data.len().min(samples.unwrap_or(usize::MAX));
    let batch = batch_size(&float, batch).min(total.max(1));
    // Lists of images are often sorted by class: the first of them would be one class.
    let order = Order::Shuffled { seed: 0, epoch: 0 };
    let batches = Batches::new(data.len(), batch, order, Last::Keep)?;
    let mut observers = vec![DistributionObserver::default(); names.len()];
    let mut runner = Runner::new(&float, data);
    for (i, loaded) in Loader::new(data, batches, View::Plain).take(total.div_ceil(batch)).enumerate() {
        let machine = runner.run(&loaded?)?;
        for (name, observer) in names.iter().zip(&mut observers) {
            let x = machine.output(name)?;
            observer
                .update(x.shape(), &x.to_f32())
                .map_err(|what| Error::NonFinite { tensor: name.clone(), what })?;
        }
        done((batch * (i + 1)).min(total), total);
    }
    let observed = names.into_iter().zip(observers).filter_map(|(name, observer)| {
        let (distribution, histogram) = (observer.distribution()?, observer.histogram().clone());
        Some(Observed { name, distribution, histogram })
    });
    Ok(observed.collect())
}
