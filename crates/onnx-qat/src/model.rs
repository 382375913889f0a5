//! A model: a graph and the file that it came from.

use crate::Error;
use crate::forms::{Form, Recovered, recover};
use data::{Dataset, InputSpec, Preprocess, Source};
use ir::Graph;
use onnx::{Meta, SaveOptions, Saved};
use passes::{Pipeline, Report};
use std::path::Path;
use tensor::DType;
use train::{Accuracy, Recipe, Signature};

/// A model in memory.
#[derive(Clone, Debug)]
pub struct Model {
    /// The computation.
    pub graph: Graph,
    /// What the file says beside it: producer, opset, metadata.
    pub meta: Meta,
    /// The forms in which the file held it.
    pub forms: Vec<Form>,
    /// The optimizer that the file brings along.
    pub recipe: Option<Recipe>,
}

impl Model {
    /// A graph that comes from no file.
    pub fn new(graph: Graph) -> Model {
        Model { graph, meta: Meta::default(), forms: Vec::new(), recipe: None }
    }

    /// Reads an ONNX file. Whatever form of training the file holds, the graph is its forward pass with its parameters as
    /// constants, and its loss as an output where it has one: gradients of ONNX Runtime's training artifacts are left
    /// out and parameters taken from the file `checkpoint` beside it; of a training step beside the graph
    /// (`TrainingInfoProto`) the optimizer is in [`Model::recipe`].
    ///
    /// # Errors
    /// When the file cannot be read or is not a valid model: names file, node and tensor.
    pub fn load(path: impl AsRef<Path>) -> Result<Model, Error> {
        let path = path.as_ref();
        let file = onnx::read_model(path)?;
        let step = onnx::import_training(&file, &ops::Ops);
        let of_file = |source| onnx::Error::Model { path: path.to_path_buf(), source };
        let (graph, meta) = onnx::import(file, &ops::Ops).map_err(of_file)?;
        let Recovered { graph, forms, recipe } = recover(graph, step, path)?;
        Ok(Model { graph, meta, forms, recipe })
    }

    /// Writes an ONNX file, whole or not at all.
    ///
    /// # Errors
    /// When the file cannot be written, or an operator has no ONNX form: [`convert`](crate::convert) a quantized model
    /// first.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<Saved, Error> {
        self.save_as(path, &SaveOptions::default())
    }

    /// As [`Model::save`], with the opset and the place of the weights chosen.
    ///
    /// # Errors
    /// As [`Model::save`].
    pub fn save_as(&self, path: impl AsRef<Path>, options: &SaveOptions) -> Result<Saved, Error> {
        Ok(onnx::save(&self.graph, &self.meta, path, options)?)
    }

    /// The graph as text.
    pub fn text(&self) -> String {
        ir::text::print(&self.graph)
    }

    /// What inputs and outputs mean.
    pub fn signature(&self) -> Signature {
        Signature::of(&self.graph)
    }

    /// The inputs that data is fed to.
    pub fn inputs(&self) -> Vec<InputSpec> {
        let signature = self.signature();
        let specs = signature.data.iter().filter_map(|name| {
            let ty = self.graph.ty(self.graph.find(name)?);
            let shape = ty.shape.as_ref().map(|s| s.iter().map(|d| d.fixed()).collect());
            Some(InputSpec { name: name.clone(), dtype: ty.dtype.unwrap_or(DType::F32), shape })
        });
        specs.collect()
    }

    /// Opens a data source for this model's inputs.
    ///
    /// # Errors
    /// When the data cannot be read or does not fit the inputs.
    pub fn open_data(&self, source: &Source, preprocess: &Preprocess) -> Result<Dataset, Error> {
        Ok(source.open(&self.inputs(), preprocess)?)
    }

    /// Top-1 and top-5 on a dataset, computed by our executor: a frozen model on integers, as ONNX Runtime does.
    ///
    /// # Errors
    /// When the data has no labels or does not fit, or an operator cannot run.
    pub fn evaluate(&self, data: &Dataset, batch: usize) -> Result<Accuracy, Error> {
        self.evaluate_with(data, batch, &mut |_, _| {})
    }

    /// As [`Model::evaluate`]; `done` hears of each batch: samples so far, and all.
    ///
    /// # Errors
    /// As [`Model::evaluate`].
    pub fn evaluate_with(
        &self,
        data: &Dataset,
        batch: usize,
        done: &mut dyn FnMut(usize, usize),
    ) -> Result<Accuracy, Error> {
        Ok(train::evaluate(&self.runnable()?, data, batch, done)?)
    }

    /// Class scores of every sample in order, `[samples, classes]` row by row.
    ///
    /// # Errors
    /// As [`Model::evaluate`], labels apart.
    pub fn predict(&self, data: &Dataset, batch: usize) -> Result<tensor::Tensor, Error> {
        let (mut all, mut width) = (Vec::new(), 0);
        train::predict(&self.runnable()?, data, batch, &mut |_, scores, classes| {
            all.extend_from_slice(scores);
            width = classes;
            Ok(())
        })?;
        Ok(tensor::Tensor::new(&[all.len() / width.max(1), width], all))
    }

    /// Class scores of these samples, `[samples, classes]`.
    ///
    /// # Errors
    /// As [`Model::predict`].
    pub fn predict_samples(&self, data: &Dataset, samples: &[usize]) -> Result<tensor::Tensor, Error> {
        let mut graph = self.graph.clone();
        train::strip_loss(&mut graph);
        let scores = Signature::of(&graph).scores.ok_or(train::Error::NoScores)?;
        passes::evaluation().run(&mut graph)?;
        Ok(train::Runner::new(&graph, data).run(&data.batch(samples)?)?.output(&scores)?)
    }

    /// The graph in the form in which our executor evaluates it.
    fn runnable(&self) -> Result<Graph, Error> {
        let mut graph = self.graph.clone();
        passes::evaluation().run(&mut graph)?;
        Ok(graph)
    }

    /// Runs a pass pipeline on the graph.
    ///
    /// # Errors
    /// As the passes.
    pub fn run_passes(&mut self, pipeline: &Pipeline) -> Result<Report, Error> {
        Ok(pipeline.run(&mut self.graph)?)
    }

    /// Counts of operator types among those with weights or matrix products, for reports: type and count, sorted.
    pub fn operator_counts(&self) -> Vec<(String, usize)> {
        let mut counts = std::collections::BTreeMap::new();
        for id in self.graph.nodes() {
            if let Some(op) = self.graph.node(id).op() {
                *counts.entry(op.name().to_string()).or_insert(0) += 1;
            }
        }
        counts.into_iter().collect()
    }
}
