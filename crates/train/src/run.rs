//! Feeds a compiled graph from a dataset.

use crate::Error;
use crate::step::bind_batch;
use data::{Batch, Dataset, Values};
use exec::{Machine, Program};
use ir::Graph;
use std::sync::Arc;

/// Names and shapes (without the batch) of the inputs that a dataset fills.
pub fn sample_shapes(data: &Dataset) -> Vec<(String, Vec<usize>)> {
    (0..data.inputs()).map(|i| (data.name(i).to_string(), data.sample_shape(i).to_vec())).collect()
}

/// Fills the data inputs of a machine with a batch of `data`.
pub(crate) fn feed(machine: &mut Machine, data: &Dataset, batch: &Batch) -> Result<(), Error> {
    for (i, values) in batch.inputs.iter().enumerate() {
        let name = data.name(i);
        if !machine.has_input(name) {
            continue;
        }
        match values {
            Values::F32(values) => machine.set_f32(name, values)?,
            Values::I64(values) => machine.set_i64(name, values)?,
        }
    }
    Ok(())
}

/// A machine for one batch size of an inference graph.
pub(crate) fn machine(graph: &Graph, batch: usize, data: &Dataset) -> Result<Machine, Error> {
    let mut graph = graph.clone();
    bind_batch(&mut graph, batch, &sample_shapes(data))?;
    Ok(Machine::new(Arc::new(Program::compile(&graph)?)))
}

/// The batch size that a graph takes: `wanted`, unless its inputs have another one built in.
pub fn batch_size(graph: &Graph, wanted: usize) -> usize {
    let built_in =
        graph.inputs().iter().filter_map(|&i| graph.ty(i.into()).shape.as_ref()?.first()?.fixed()).next();
    built_in.unwrap_or(wanted).max(1)
}

/// Runs an inference graph on batches of a dataset, of any sizes.
pub struct Runner<'a> {
    graph: &'a Graph,
    data: &'a Dataset,
    machine: Option<(usize, Machine)>,
}

impl<'a> Runner<'a> {
    /// Nothing is compiled before the first batch.
    pub fn new(graph: &'a Graph, data: &'a Dataset) -> Runner<'a> {
        Runner { graph, data, machine: None }
    }

    /// Runs the graph on a batch of the dataset; its outputs are in the machine.
    ///
    /// # Errors
    /// When the graph cannot run on the data.
    pub fn run(&mut self, batch: &Batch) -> Result<&Machine, Error> {
        let samples = batch.samples.len();
        // Another size, such as that of the last batch, needs a program of its own.
        let machine = match self.machine.take() {
            Some((size, machine)) if size == samples => machine,
            _ => machine(self.graph, samples, self.data)?,
        };
        let (_, machine) = self.machine.insert((samples, machine));
        feed(machine, self.data, batch)?;
        machine.run()?;
        Ok(machine)
    }
}
