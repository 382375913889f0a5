//! What a file says beside its computation.

use crate::proto::{ModelProto, NodeProto, StringStringEntryProto, TensorProto, ValueInfoProto};
use crate::tensors;
use std::collections::{BTreeMap, BTreeSet};
use tensor::Tensor;

/// The opset that is written where nobody asks for another.
pub(crate) const DEFAULT_OPSET: i64 = 17;

/// The newest opset that is read and written.
pub(crate) const NEWEST_OPSET: i64 = 28;

/// What a file says beside its computation: producer, versions, documentation, declared types, local functions. It
/// comes from [`load`](crate::load) and goes back into [`save`](crate::save), which matches it to the graph by name, so
/// that a pass need not care. [`Meta::default`] serves for a graph that comes from no file.
#[derive(Clone, Debug, Default)]
pub struct Meta {
    /// The model without nodes, initializers and declared types.
    pub(crate) model: ModelProto,
    /// Version of the ONNX operator set in the file.
    pub(crate) opset: Option<i64>,
    /// Declared types by value name.
    pub(crate) values: BTreeMap<String, ValueInfoProto>,
    /// Nodes without their operators, by node name: documentation, metadata, devices.
    pub(crate) nodes: BTreeMap<String, NodeProto>,
    /// Initializers without their data, by name: documentation, metadata.
    pub(crate) tensors: BTreeMap<String, TensorProto>,
    /// Results that the file leaves out (an empty name) and that needed a name here.
    pub(crate) omitted: BTreeSet<String>,
    /// Names of declared inner values, in order of the file.
    pub(crate) value_info: Vec<String>,
    pub(crate) notes: Vec<String>,
}

impl Meta {
    /// Version of the ONNX operator set in the file; that which is written by default for a graph from no file.
    pub fn opset(&self) -> i64 {
        self.opset.unwrap_or(DEFAULT_OPSET)
    }

    /// Version of the file format.
    pub fn ir_version(&self) -> i64 {
        self.model.ir_version.unwrap_or(8)
    }

    /// Name and version of the tool that wrote the file.
    pub fn producer(&self) -> (&str, &str) {
        (self.model.producer_name(), self.model.producer_version())
    }

    /// Names the tool that writes the file.
    pub fn set_producer(&mut self, name: &str, version: &str) {
        self.model.producer_name = Some(name.to_string());
        self.model.producer_version = Some(version.to_string());
    }

    /// Named texts of the model, in order.
    pub fn metadata(&self) -> impl Iterator<Item = (&str, &str)> {
        self.model.metadata_props.iter().map(|e| (e.key(), e.value()))
    }

    /// Adds or replaces a named text.
    pub fn set_metadata(&mut self, key: &str, value: &str) {
        let list = &mut self.model.metadata_props;
        let value = Some(value.to_string());
        match list.iter_mut().find(|e| e.key() == key) {
            Some(entry) => entry.value = value,
            None => list.push(StringStringEntryProto { key: Some(key.to_string()), value }),
        }
    }

    /// Whether operators of the file's own (functions) are carried through: those that a sub-graph calls, and those that
    /// nobody calls. Other calls were replaced by what the functions do.
    pub fn has_functions(&self) -> bool {
        !self.model.functions.is_empty()
    }

    /// Whether the file holds training steps beside the graph.
    pub fn has_training_info(&self) -> bool {
        !self.model.training_info.is_empty()
    }

    /// Gives the states of the training steps (moments, the count of updates) other values, by name.
    pub fn set_training_states(&mut self, states: &[(String, Tensor)]) {
        let graphs = self.model.training_info.iter_mut().filter_map(|info| info.algorithm.as_mut());
        for tensor in graphs.flat_map(|g| &mut g.initializer) {
            if let Some((name, value)) = states.iter().find(|(name, _)| name == tensor.name()) {
                *tensor = tensors::from_tensor(name, value);
            }
        }
    }

    /// Forgets the training steps: they describe weights that are being replaced.
    pub fn drop_training_info(&mut self) {
        self.model.training_info.clear();
    }

    /// What the reader found odd but could live with, a sentence each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }
}
