//! Which nodes are quantized: selectors in the words of ONNX Runtime's quantizer (`nodes_to_quantize`, `nodes_to_exclude`,
//! `op_types_to_quantize`) and of NNCF's `IgnoredScope` (names, patterns, types, sub-graphs).

use crate::config::QuantConfig;
use ir::{Graph, GraphError, NodeId};
use regex::Regex;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

/// Names a set of nodes.
///
/// ```
/// # use onnx_qat_passes::Selector;
/// # fn main() -> Result<(), String> {
/// for text in ["/head/Gemm", "/block1/*", "re:/block[0-9]+/.*", "type:Conv", "between /a/Conv /b/Add"] {
///     assert_eq!(text.parse::<Selector>()?.to_string(), text);
/// }
/// assert!("re:(".parse::<Selector>().unwrap_err().contains("re:("));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Selector {
    /// The node of this name.
    Name(String),
    /// Nodes whose whole name matches: `*` any characters, `?` one.
    Glob(String),
    /// Nodes whose whole name matches the regular expression.
    Regex(String),
    /// Nodes of this ONNX operator type.
    Type(String),
    /// Nodes on a way from the first node to the second, both included.
    Between(String, String),
}

impl FromStr for Selector {
    type Err = String;

    fn from_str(text: &str) -> Result<Selector, String> {
        let selector = if let Some(pattern) = text.strip_prefix("re:") {
            Selector::Regex(pattern.into())
        } else if let Some(op_type) = text.strip_prefix("type:") {
            Selector::Type(op_type.into())
        } else if let Some(ends) = text.strip_prefix("between ") {
            match ends.split_whitespace().collect::<Vec<_>>()[..] {
                [from, to] => Selector::Between(from.into(), to.into()),
                _ => return Err(format!("\"{text}\": expected two node names, as in \"between A B\"")),
            }
        } else if text.contains(['*', '?']) {
            Selector::Glob(text.into())
        } else if text.is_empty() {
            return Err("a selector of nodes is empty".into());
        } else {
            Selector::Name(text.into())
        };
        selector.pattern()?;
        Ok(selector)
    }
}

impl TryFrom<String> for Selector {
    type Error = String;

    fn try_from(text: String) -> Result<Selector, String> {
        text.parse()
    }
}

impl From<Selector> for String {
    fn from(selector: Selector) -> String {
        selector.to_string()
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Selector::Name(text) | Selector::Glob(text) => write!(f, "{text}"),
            Selector::Regex(pattern) => write!(f, "re:{pattern}"),
            Selector::Type(op_type) => write!(f, "type:{op_type}"),
            Selector::Between(from, to) => write!(f, "between {from} {to}"),
        }
    }
}

impl Selector {
    /// The regular expression that names have to match.
    fn pattern(&self) -> Result<Option<Regex>, String> {
        let text = match self {
            Selector::Regex(pattern) => format!("^(?:{pattern})$"),
            Selector::Glob(glob) => {
                let escaped = regex::escape(glob).replace("\\*", ".*").replace("\\?", ".");
                format!("^{escaped}$")
            }
            _ => return Ok(None),
        };
        Regex::new(&text).map(Some).map_err(|e| format!("\"{self}\" is no regular expression: {e}"))
    }

    /// The nodes of a graph, by name.
    ///
    /// # Errors
    /// When there are none, operator types apart: a misspelled name would go unnoticed.
    fn nodes(&self, graph: &Graph, operations: &[NodeId]) -> Result<BTreeSet<String>, GraphError> {
        let error = |what: String| GraphError { place: format!("selection \"{self}\""), what };
        let name = |id: &NodeId| graph.node(*id).name.clone();
        let of =
            |fits: &dyn Fn(NodeId) -> bool| operations.iter().filter(|id| fits(**id)).map(name).collect();
        let pattern = self.pattern().map_err(error)?;
        let found: BTreeSet<String> = match (self, pattern) {
            (_, Some(pattern)) => of(&|id| pattern.is_match(&graph.node(id).name)),
            (Selector::Type(op_type), _) => {
                return Ok(of(&|id| graph.node(id).op().is_some_and(|op| op.name() == op_type)));
            }
            (Selector::Between(from, to), _) => {
                let end = |name: &str| {
                    let found = graph.find_node(name);
                    found.ok_or_else(|| {
                        error(format!("no node is named \"{name}\"{}", similar(graph, operations, name)))
                    })
                };
                between(graph, operations, end(from)?, end(to)?).into_iter().map(|id| name(&id)).collect()
            }
            (Selector::Name(own), _) => of(&|id| graph.node(id).name == *own),
            _ => BTreeSet::new(),
        };
        if found.is_empty() {
            let what = match self {
                Selector::Between(from, to) => format!("no way leads from \"{from}\" to \"{to}\""),
                Selector::Name(own) => format!("no node has this name{}", similar(graph, operations, own)),
                _ => "no node has such a name".into(),
            };
            return Err(error(format!("{what}; `quantize --dry-run` lists the nodes")));
        }
        Ok(found)
    }
}

/// Names that contain `name`, for messages.
fn similar(graph: &Graph, operations: &[NodeId], name: &str) -> String {
    let names = operations.iter().map(|&id| graph.node(id).name.as_str()).filter(|n| n.contains(name));
    let some: Vec<String> = names.take(3).map(|n| format!("\"{n}\"")).collect();
    match some.is_empty() {
        true => String::new(),
        false => format!(", but {} contain it (\"*{name}*\" takes all of them)", some.join(", ")),
    }
}

/// The operations on a way from one to another, both included.
fn between(graph: &Graph, operations: &[NodeId], from: NodeId, to: NodeId) -> BTreeSet<NodeId> {
    let reads = |id: NodeId, set: &BTreeSet<NodeId>| {
        graph.node(id).ins.iter().flatten().any(|v| set.contains(&v.node))
    };
    let mut behind = BTreeSet::from([from]);
    for &id in operations {
        if reads(id, &behind) {
            behind.insert(id);
        }
    }
    let mut todo: Vec<NodeId> = behind.contains(&to).then_some(to).into_iter().collect();
    let mut found = BTreeSet::new();
    while let Some(id) = todo.pop() {
        if found.insert(id) {
            todo.extend(graph.node(id).ins.iter().flatten().map(|v| v.node).filter(|id| behind.contains(id)));
        }
    }
    found
}

/// The selectors of a configuration, found in a graph.
#[derive(Clone, Debug)]
pub struct Selection<'a> {
    config: &'a QuantConfig,
    /// Included nodes; `None` for all.
    included: Option<BTreeSet<String>>,
    /// Excluded nodes, with what excludes them.
    excluded: BTreeMap<String, String>,
}

impl<'a> Selection<'a> {
    /// Finds the nodes.
    ///
    /// # Errors
    /// When a selector names no node.
    pub fn of(graph: &Graph, config: &'a QuantConfig) -> Result<Selection<'a>, GraphError> {
        if config.include.is_empty() && config.exclude.is_empty() {
            return Ok(Selection { config, included: None, excluded: BTreeMap::new() });
        }
        let operations = crate::pass::operations(graph)?;
        let mut included = BTreeSet::new();
        for selector in &config.include {
            included.extend(selector.nodes(graph, &operations)?);
        }
        let mut excluded = BTreeMap::new();
        for selector in &config.exclude {
            for name in selector.nodes(graph, &operations)? {
                excluded.entry(name).or_insert_with(|| selector.to_string());
            }
        }
        Ok(Selection { config, included: (!config.include.is_empty()).then_some(included), excluded })
    }

    /// Whether a node of this operator type and name is to be quantized; the reason if not.
    ///
    /// # Errors
    /// The reason.
    pub fn takes(&self, op_type: &str, name: &str) -> Result<(), String> {
        if let Some(selector) = self.excluded.get(name) {
            return Err(format!("\"{selector}\" excludes it"));
        }
        if self.included.as_ref().is_some_and(|names| !names.contains(name)) {
            return Err("nothing includes it".into());
        }
        self.config.selects(op_type, name)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn graph() -> Graph {
        let text = "net (float[N,4] x) => (float[N,4] y)
            {
              [a/Relu] a = Relu (x)
              [b/Tanh] b = Tanh (a)
              [c/Relu] c = Relu (a)
              [d/Add] d = Add (b, c)
              [e/Relu] y = Relu (d)
            }";
        ir::text::parse(text, &ops::Ops).unwrap()
    }

    fn selected(selector: &str) -> Result<Vec<String>, String> {
        let config = QuantConfig { include: vec![selector.parse()?], ..QuantConfig::default() };
        let graph = graph();
        let selection = Selection::of(&graph, &config).map_err(|e| e.to_string())?;
        Ok(selection.included.unwrap().into_iter().collect())
    }

    #[test]
    fn selectors_find_their_nodes() {
        assert_eq!(selected("b/Tanh").unwrap(), ["b/Tanh"]);
        assert_eq!(selected("*/Relu").unwrap(), ["a/Relu", "c/Relu", "e/Relu"]);
        assert_eq!(selected("?/Add").unwrap(), ["d/Add"]);
        assert_eq!(selected("re:[ab]/.*").unwrap(), ["a/Relu", "b/Tanh"]);
        assert_eq!(
            selected("re:a").unwrap_err(),
            "selection \"re:a\": no node has such a name; `quantize --dry-run` lists the nodes"
        );
        assert_eq!(selected("type:Relu").unwrap(), ["a/Relu", "c/Relu", "e/Relu"]);
        assert_eq!(selected("type:Conv").unwrap(), [""; 0]);
        assert_eq!(selected("between a/Relu d/Add").unwrap(), ["a/Relu", "b/Tanh", "c/Relu", "d/Add"]);
        assert_eq!(selected("between b/Tanh e/Relu").unwrap(), ["b/Tanh", "d/Add", "e/Relu"]);
    }

    #[test]
    fn mistakes_are_told() {
        let message = selected("Tanh").unwrap_err();
        assert!(message.contains("\"b/Tanh\" contain it (\"*Tanh*\" takes all"), "{message}");
        assert!(selected("between d/Add a/Relu").unwrap_err().contains("no way leads from \"d/Add\""));
        assert!(selected("between a/Relu q").unwrap_err().contains("no node is named \"q\""));
        assert!(selected("between a/Relu").unwrap_err().contains("expected two node names"));
        assert!(selected("re:*").unwrap_err().contains("no regular expression"));
        assert!(selected("").unwrap_err().contains("empty"));
    }

    #[test]
    fn exclusion_is_stronger() {
        let parse = |s: &str| s.parse::<Selector>().unwrap();
        let config = QuantConfig {
            include: vec![parse("*/Relu")],
            exclude: vec![parse("between a/Relu c/Relu")],
            ..QuantConfig::default()
        };
        let graph = graph();
        let selection = Selection::of(&graph, &config).unwrap();
        assert_eq!(selection.takes("Relu", "e/Relu"), Ok(()));
        assert_eq!(selection.takes("Relu", "c/Relu").unwrap_err(), "\"between a/Relu c/Relu\" excludes it");
        assert_eq!(selection.takes("Add", "d/Add").unwrap_err(), "nothing includes it");
    }
}
