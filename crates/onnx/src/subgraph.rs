//! Names across the border of a sub-graph: what a loop's body or a branch reads from the graph around it.

use crate::proto::{AttributeProto, GraphProto, NodeProto};
use std::collections::{BTreeSet, HashMap, HashSet};

/// Names that the graph defines itself.
pub(crate) fn defined(graph: &GraphProto) -> impl Iterator<Item = &str> {
    let inputs = graph.input.iter().map(|v| v.name());
    let initializers = graph.initializer.iter().map(|t| t.name());
    let sparse = graph.sparse_initializer.iter().filter_map(|s| s.values.as_ref()).map(|t| t.name());
    let results = graph.node.iter().flat_map(|n| &n.output).map(String::as_str);
    inputs.chain(initializers).chain(sparse).chain(results).filter(|name| !name.is_empty())
}

/// The sub-graphs of an attribute.
pub(crate) fn graphs(a: &AttributeProto) -> impl Iterator<Item = &GraphProto> {
    a.g.iter().chain(&a.graphs)
}

/// Names that the graph reads and does not define, in order of appearance.
pub(crate) fn free_names(graph: &GraphProto) -> Vec<&str> {
    let own: HashSet<&str> = defined(graph).collect();
    let inputs = graph
        .node
        .iter()
        .flat_map(|node| node.input.iter().map(String::as_str).chain(captured(&node.attribute)));
    let read = inputs.chain(graph.output.iter().map(|v| v.name()));
    unique(read.filter(|name| !name.is_empty() && !own.contains(name)))
}

/// Names that the sub-graphs among a node's attributes read from around the node, in order of appearance in the
/// attributes by name: a file may have them in another order than [`ir::Attrs`].
pub(crate) fn captured(attributes: &[AttributeProto]) -> Vec<&str> {
    let mut sorted: Vec<&AttributeProto> = attributes.iter().collect();
    sorted.sort_by_key(|a| a.name());
    unique(sorted.into_iter().flat_map(graphs).flat_map(free_names))
}

fn unique<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = HashSet::new();
    names.filter(|name| seen.insert(*name)).collect()
}

/// Every name that the sub-graphs among a node's attributes define, at any depth.
pub(crate) fn inner_names<'a>(
    attributes: impl IntoIterator<Item = &'a AttributeProto>,
    names: &mut BTreeSet<String>,
) {
    for graph in attributes.into_iter().flat_map(graphs) {
        names.extend(defined(graph).map(str::to_string));
        graph.node.iter().for_each(|node| inner_names(&node.attribute, names));
    }
}

/// Makes the sub-graphs read other names from around the node.
pub(crate) fn rename(attribute: &mut AttributeProto, names: &HashMap<String, String>) {
    for graph in attribute.g.iter_mut().chain(&mut attribute.graphs) {
        let own: HashSet<String> = defined(graph).map(str::to_string).collect();
        let names: HashMap<String, String> = names
            .iter()
            .filter(|(old, _)| !own.contains(*old))
            .map(|(a, b)| (a.clone(), b.clone()))
            .collect();
        if names.is_empty() {
            continue;
        }
        let new = |name: &mut String| {
            if let Some(n) = names.get(name) {
                name.clone_from(n);
            }
        };
        for NodeProto { input, attribute, .. } in &mut graph.node {
            input.iter_mut().for_each(new);
            attribute.iter_mut().for_each(|a| rename(a, &names));
        }
        graph.output.iter_mut().filter_map(|v| v.name.as_mut()).for_each(new);
    }
}
