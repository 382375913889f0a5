//! Functions that a model brings itself: whom a node calls, and the nodes of a call with its attributes put in.

use crate::import::domain;
use crate::limits::Budget;
use crate::proto::{AttributeProto, FunctionProto, GraphProto, NodeProto};
use prost::Message;
use std::cell::Cell;
use std::collections::HashMap;

/// Calls deeper than this, in calls and sub-graphs, are taken for a function that calls itself, which ONNX forbids.
const DEPTH: usize = 64;

/// Domain, name and overload.
type Key<'a> = (&'a str, &'a str, &'a str);

/// The functions of a file.
pub(crate) struct Functions<'a> {
    list: &'a [FunctionProto],
    of: HashMap<Key<'a>, usize>,
    called: Vec<Cell<bool>>,
}

impl<'a> Functions<'a> {
    pub fn new(list: &'a [FunctionProto]) -> Functions<'a> {
        let key = |f: &'a FunctionProto| (domain(f.domain()), f.name(), f.overload());
        let of = list.iter().enumerate().map(|(i, f)| (key(f), i)).collect();
        Functions { list, of, called: list.iter().map(|_| Cell::new(false)).collect() }
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

/// Refuses a call inside of `depth` others and sub-graphs.
pub(crate) fn check_depth(function: &FunctionProto, depth: usize) -> Result<(), String> {
    if depth >= DEPTH {
        let name = function.name();
        return Err(format!("calls of functions are nested more than {DEPTH} deep: \"{name}\" calls itself"));
    }
    Ok(())
}

/// A node of a function in a call with these attributes. A reference to an attribute that is not given vanishes.
///
/// # Errors
/// When the attributes that it refers to exceed the budget.
pub(crate) fn bound(
    node: &NodeProto,
    attributes: &HashMap<&str, &AttributeProto>,
    budget: &Budget,
) -> Result<NodeProto, String> {
    let mut node = node.clone();
    bind(&mut node, attributes, budget)?;
    Ok(node)
}

fn bind(
    node: &mut NodeProto,
    attributes: &HashMap<&str, &AttributeProto>,
    budget: &Budget,
) -> Result<(), String> {
    node.attribute.retain(|a| match a.ref_attr_name() {
        "" => true,
        reference => attributes.contains_key(reference),
    });
    for a in &mut node.attribute {
        if a.ref_attr_name().is_empty() {
            let graphs = a.g.iter_mut().chain(&mut a.graphs);
            graphs.flat_map(|g| &mut g.node).try_for_each(|node| bind(node, attributes, budget))?;
        } else if let Some(&given) = attributes.get(a.ref_attr_name()) {
            budget.spend(&[], given.encoded_len())?;
            *a = AttributeProto { name: a.name.take(), ..given.clone() };
        }
    }
    Ok(())
}
