//! What a pass is, what it tells, and lists of passes.

use ir::{Graph, GraphError, NodeId, ValueId};
use std::fmt;

/// What a pass did and what it left, for the user.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// One line per decision, in graph order.
    pub lines: Vec<Line>,
}

/// One decision of a pass.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Line {
    /// The pass.
    pub pass: String,
    /// The node that it is about, with its operator.
    pub node: String,
    /// What happened.
    pub verdict: Verdict,
}

/// What happened to a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The node was rewritten; a sentence on how.
    Done(String),
    /// The node looked fit, but was left; a sentence on why.
    Skip(String),
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.verdict {
            Verdict::Done(how) => write!(f, "{}: {}: {how}", self.pass, self.node),
            Verdict::Skip(why) => write!(f, "{}: left {}: {why}", self.pass, self.node),
        }
    }
}

impl Report {
    /// Notes a rewrite.
    pub fn done(&mut self, pass: &str, node: impl Into<String>, how: impl Into<String>) {
        self.lines.push(Line { pass: pass.into(), node: node.into(), verdict: Verdict::Done(how.into()) });
    }

    /// Notes why something was left.
    pub fn skip(&mut self, pass: &str, node: impl Into<String>, why: impl Into<String>) {
        self.lines.push(Line { pass: pass.into(), node: node.into(), verdict: Verdict::Skip(why.into()) });
    }

    /// The lines of one pass.
    pub fn of<'a>(&'a self, pass: &'a str) -> impl Iterator<Item = &'a Line> {
        self.lines.iter().filter(move |l| l.pass == pass)
    }
}

/// A rewrite of a graph. Reads no files, clocks or random sources.
pub trait Pass {
    /// Name in pipelines, messages and snapshots.
    fn name(&self) -> &'static str;

    /// Rewrites the graph.
    ///
    /// # Errors
    /// When the graph is not what the pass can work on: names the node. The graph may then be half rewritten.
    fn run(&self, graph: &mut Graph, report: &mut Report) -> Result<(), GraphError>;
}

/// A list of passes, run in order; each leaves the graph swept.
#[derive(Default)]
pub struct Pipeline(Vec<Box<dyn Pass>>);

impl Pipeline {
    /// No passes.
    pub fn new() -> Pipeline {
        Pipeline::default()
    }

    /// Appends a pass.
    pub fn then(mut self, pass: impl Pass + 'static) -> Pipeline {
        self.0.push(Box::new(pass));
        self
    }

    /// Runs all passes.
    ///
    /// # Errors
    /// The first pass's error; with debug assertions also the verifier's, after each pass.
    pub fn run(&self, graph: &mut Graph) -> Result<Report, GraphError> {
        self.run_with(graph, |_, _| {})
    }

    /// Runs all passes and shows the graph after each (`--print-after-all`).
    ///
    /// # Errors
    /// As [`Pipeline::run`].
    pub fn run_with(
        &self,
        graph: &mut Graph,
        mut after: impl FnMut(&dyn Pass, &Graph),
    ) -> Result<Report, GraphError> {
        let mut report = Report::default();
        for pass in &self.0 {
            pass.run(graph, &mut report)?;
            graph.sweep();
            if cfg!(debug_assertions) {
                graph
                    .check()
                    .map_err(|e| GraphError { what: format!("after {}: {}", pass.name(), e.what), ..e })?;
            }
            after(&**pass, graph);
        }
        Ok(report)
    }
}

impl fmt::Display for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.0.iter().map(|p| p.name()).collect();
        f.write_str(&names.join(","))
    }
}

/// The operations of a graph in execution order.
pub(crate) fn operations(graph: &Graph) -> Result<Vec<NodeId>, GraphError> {
    Ok(graph.order()?.into_iter().filter(|&id| graph.node(id).op().is_some()).collect())
}

/// Redirects the uses of `old` to `new`, which takes over the name: to the rest of the graph it is the same tensor.
pub(crate) fn rename_and_replace(graph: &mut Graph, old: ValueId, new: ValueId) -> Result<(), GraphError> {
    graph.swap_names(old, new);
    graph.replace(old, new)
}

/// Puts the operation `new` in the place of `old`: node name, origin, and the first result with its name and readers.
pub(crate) fn supersede(graph: &mut Graph, old: NodeId, new: NodeId) -> Result<(), GraphError> {
    graph.swap_labels(old, new);
    graph.set_origin(new, &graph.node(old).origin.clone());
    rename_and_replace(graph, old.into(), new.into())
}
