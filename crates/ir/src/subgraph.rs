//! Sub-graphs: the branches of an `If`, the body of a `Loop`.

use crate::{Graph, Kind, Type, ValueId, eval};
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::Arc;
use tensor::Tensor;

/// A graph inside of an attribute. Where it reads a value of the graph around it by name (*captures* it), it has an input
/// for that behind its own ones, and the node that holds it an operand behind those that are written.
#[derive(Clone, Debug)]
pub struct Subgraph {
    /// The graph: its own inputs, then those for what it captures.
    pub graph: Arc<Graph>,
    /// How many of the inputs stand for captured values.
    pub captured: usize,
    /// The attribute as the file has it: what is written back.
    pub encoded: Bytes,
}

impl PartialEq for Subgraph {
    fn eq(&self, other: &Subgraph) -> bool {
        self.encoded == other.encoded
    }
}

impl Subgraph {
    /// Number of inputs of its own.
    pub fn formals(&self) -> usize {
        self.graph.inputs().len() - self.captured
    }

    /// Types of the results for operands of these types. Where a declared shape is another, it is not believed.
    ///
    /// # Errors
    /// When they do not fit: names the node inside.
    pub fn infer(&self, operands: &[Type]) -> Result<Vec<Type>, String> {
        let mut graph = (*self.graph).clone();
        for (&id, ty) in self.graph.inputs().iter().zip(operands) {
            let declared = graph.ty(id.into());
            let refined = if ty.agrees(declared) { ty.refined(declared) } else { ty.clone() };
            graph.set_input_type(id, refined);
        }
        graph.infer().map_err(|e| e.to_string())?;
        Ok(graph.outputs().iter().map(|o| graph.ty(o.value).clone()).collect())
    }

    /// The results on these operands, node by node.
    ///
    /// # Errors
    /// When a node inside refuses its operands: names it.
    pub fn run(&self, operands: impl IntoIterator<Item = Tensor>) -> Result<Vec<Tensor>, String> {
        let graph = &*self.graph;
        let mut known: HashMap<ValueId, Tensor> =
            graph.inputs().iter().map(|&id| id.into()).zip(operands).collect();
        for id in graph.order().map_err(|e| e.to_string())? {
            let node = graph.node(id);
            let Kind::Op(op) = &node.kind else {
                if let Some(value) = graph.tensor(id.into()) {
                    known.insert(id.into(), value.clone());
                }
                continue;
            };
            let operand = |v: &Option<ValueId>| match v {
                None => Ok(None),
                Some(v) => {
                    let missing =
                        || format!("{}: there is no value \"{}\"", node.label(), graph.value(*v).name);
                    known.get(v).map(Some).ok_or_else(missing)
                }
            };
            let ins = node.ins.iter().map(operand).collect::<Result<Vec<_>, _>>()?;
            let results = eval(&**op, &ins, node.outs.len()).map_err(|e| format!("{}: {e}", node.label()))?;
            for (out, value) in results.into_iter().enumerate() {
                known.insert(ValueId { node: id, out: out as u16 }, value);
            }
        }
        let missing = |name: &str| format!("the sub-graph has no result \"{name}\"");
        graph.outputs().iter().map(|o| known.get(&o.value).cloned().ok_or_else(|| missing(&o.name))).collect()
    }
}
