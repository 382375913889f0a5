//! Functions that a model brings itself: whom a node calls, and the nodes of a call with its attributes put in.

use crate::import::domain;
use crate::proto::{AttributeProto, FunctionProto, GraphProto, NodeProto};
use std::cell::Cell;
use std::collections::HashMap;

/// Calls in calls deeper than this are taken for a function that calls itself, which ONNX forbids.
const DEPTH: usize = 64;
/// Nodes to which all calls together may expand.
const NODES: usize = 1 << 18;

/// Domain, name and overload.
type Key<'a> = (&'a str, &'a str, &'a str);

/// The functions of a file.
pub(crate) struct Functions<'a> {
    list: &'a [FunctionProto],
    of: HashMap<Key<'a>, usize>,
    /// Nodes that stand for calls so far.
    expanded: Cell<usize>,
    called: Vec<Cell<bool>>,
}

impl<'a> Functions<'a> {
    pub fn new(list: &'a [FunctionProto]) -> Functions<'a> {
        let key = |f: &'a FunctionProto| (domain(f.domain()), f.name(), f.overload());
        let of = list.iter().enumerate().map(|(i, f)| (key(f), i)).collect();
        Functions {
            list,
            of,
            expanded: Cell::new(0),
            called: list.iter().map(|_| Cell::new(false)).collect(),
        }
    }

    fn position(&self, node: &NodeProto) -> Option<usize> {
        self.of.get(&(domain(node.domain()), node.op_type(), node.overload())).copied()
    }

    /// The function that a node calls.
    pub fn find(&self, node: &NodeProto) -> Option<&'a FunctionProto> {
        let i = self.position(node)?;
        self.called[i].set(true);
        Some(&self.list[i])
    }

    /// Notes a call inside of `depth` others.
    ///
    /// # Errors
    /// When there are so many that the file must be meant to exhaust its reader.
    pub fn count(&self, function: &FunctionProto, depth: usize) -> Result<(), String> {
        let name = function.name();
        if depth >= DEPTH {
            return Err(format!(
                "calls of functions are nested more than {DEPTH} deep: \"{name}\" calls itself"
            ));
        }
        self.expanded.set(self.expanded.get() + function.node.len() + 1);
        if self.expanded.get() > NODES {
            return Err(format!(
                "the functions of the model expand to more than {NODES} nodes; export it without functions"
            ));
        }
        Ok(())
    }

    /// For each function whether the file still needs it once the calls are replaced: because nobody called it, or because
    /// a sub-graph, which is written as it was, does.
    pub fn still_called(&self, file: &GraphProto) -> Vec<bool> {
        let mut needed: Vec<bool> = self.called.iter().map(|called| !called.get()).collect();
        // A sub-graph inside of a function comes into the graph with a call.
        let functions = self.list.iter().flat_map(|f| &f.node);
        let mut todo: Vec<&NodeProto> = file.node.iter().chain(functions).flat_map(inner).collect();
        let nodes = |i: usize| self.list[i].node.iter();
        todo.extend((0..needed.len()).filter(|&i| needed[i]).flat_map(nodes));
        while let Some(node) = todo.pop() {
            todo.extend(inner(node));
            if let Some(i) = self.position(node).filter(|&i| !needed[i]) {
                needed[i] = true;
                todo.extend(nodes(i));
            }
        }
        needed
    }
}

/// The nodes of the sub-graphs of a node.
fn inner(node: &NodeProto) -> impl Iterator<Item = &NodeProto> {
    node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs)).flat_map(|g| &g.node)
}

/// The attributes of a call: given, or by the function's default.
pub(crate) fn bindings<'a>(
    function: &'a FunctionProto,
    call: &'a NodeProto,
) -> HashMap<&'a str, &'a AttributeProto> {
    function.attribute_proto.iter().chain(&call.attribute).map(|a| (a.name(), a)).collect()
}

/// A node of a function in a call with these attributes. A reference to an attribute that is not given vanishes.
pub(crate) fn bound(node: &NodeProto, attributes: &HashMap<&str, &AttributeProto>) -> NodeProto {
    let value = |a: &AttributeProto| match a.ref_attr_name() {
        "" => {
            let mut a = a.clone();
            for graph in a.g.iter_mut().chain(&mut a.graphs) {
                graph.node.iter_mut().for_each(|node| *node = bound(node, attributes));
            }
            Some(a)
        }
        reference => {
            let given = (*attributes.get(reference)?).clone();
            Some(AttributeProto { name: a.name.clone(), ..given })
        }
    };
    NodeProto { attribute: node.attribute.iter().filter_map(value).collect(), ..node.clone() }
}
