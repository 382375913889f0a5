//! Bounds on what a small file may become as it is read: names that are repeated, and functions that are called often.

use crate::ModelError;
use crate::proto::{FunctionProto, GraphProto, NodeProto};
use crate::subgraph;
use std::cell::Cell;

/// Bytes of a name. Every result without a name, every call and every pass makes further names of one.
const NAME: usize = 4096;
/// Nodes and results to which all calls together may expand.
const NODES: usize = 1 << 19;
/// Bytes to which all calls together may expand, with the names and notes that are made on the way.
const BYTES: usize = 1 << 26;

/// What the reader has made so far beyond what the file holds once.
#[derive(Default)]
pub(crate) struct Budget {
    nodes: Cell<usize>,
    bytes: Cell<usize>,
}

impl Budget {
    /// Counts a copy of these nodes, and bytes.
    ///
    /// # Errors
    /// When there are so many that the file must be meant to exhaust its reader.
    pub fn spend(&self, nodes: &[NodeProto], bytes: usize) -> Result<(), String> {
        let made: usize = nodes.iter().map(|node| 1 + node.output.len()).sum();
        self.nodes.set(self.nodes.get().saturating_add(made));
        self.bytes.set(self.bytes.get().saturating_add(bytes));
        if self.nodes.get() > NODES {
            return Err(format!(
                "the functions of the model expand to more than {NODES} nodes and results; export it without functions"
            ));
        }
        if self.bytes.get() > BYTES {
            let most = BYTES >> 20;
            return Err(format!(
                "the functions, names and notes of the model expand to more than {most} MiB; export it without functions"
            ));
        }
        Ok(())
    }
}

/// Refuses a very long name.
pub(crate) fn check_name(name: &str) -> Result<(), ModelError> {
    if name.len() <= NAME {
        return Ok(());
    }
    let start: String = name.chars().take(40).collect();
    let what = format!("is longer than {NAME} bytes: {} of them", name.len());
    Err(ModelError::node(format!("name \"{start}…\""), what))
}

/// Refuses very long names of values, nodes and operators, at any depth.
pub(crate) fn check_names(graph: &GraphProto, functions: &[FunctionProto]) -> Result<(), ModelError> {
    check_graph(graph)?;
    functions.iter().try_for_each(|function| check_nodes(&function.node))
}

fn check_graph(graph: &GraphProto) -> Result<(), ModelError> {
    subgraph::defined(graph).try_for_each(check_name)?;
    check_nodes(&graph.node)
}

fn check_nodes(nodes: &[NodeProto]) -> Result<(), ModelError> {
    nodes.iter().try_for_each(|node| {
        check_name(node.name())?;
        check_name(node.op_type())?;
        node.output.iter().try_for_each(|name| check_name(name))?;
        node.attribute.iter().flat_map(subgraph::graphs).try_for_each(check_graph)
    })
}
