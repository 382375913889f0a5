//! `If` (ONNX 1 to 25): one of two sub-graphs.

use crate::shapes::untouched;
use ir::{Attr, Attrs, Evaluate, Infer, Op, Parse, Parsed, Subgraph, Type};
use tensor::Tensor;

/// `If(cond, captured...)`: the results of one sub-graph where `cond`, a bool of one element, is true, of the other where it is
/// not. Only that one runs. `inline-branches` puts it in the place of the node where `cond` is constant.
#[derive(Clone, Debug, PartialEq)]
pub struct If {
    /// Runs where the condition is true.
    pub then_branch: Subgraph,
    /// Runs where it is false.
    pub else_branch: Subgraph,
}

/// Reads the operator, where its sub-graphs could be read.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    let branch = |name| cx.attrs.subgraph(name).filter(|b: &&Subgraph| b.formals() == 0).cloned();
    match (branch("then_branch"), branch("else_branch")) {
        (Some(then_branch), Some(else_branch)) => {
            let results = |b: &Subgraph| b.graph.outputs().len();
            if let Some(b) = [&then_branch, &else_branch].into_iter().find(|b| results(b) < cx.outs) {
                return Err(format!("a branch should have {} results, but has {}", cx.outs, results(b)));
            }
            Ok(If { then_branch, else_branch }.into())
        }
        _ => Ok(untouched("If", cx)),
    }
}

impl If {
    /// The branch that is taken.
    pub fn branch(&self, cond: &Tensor) -> Result<&Subgraph, String> {
        match cond.to_i64()[..] {
            [cond] => Ok(if cond != 0 { &self.then_branch } else { &self.else_branch }),
            _ => Err(format!("the condition should be one bool, but has the shape {:?}", cond.shape())),
        }
    }
}

impl Op for If {
    fn name(&self) -> &str {
        "If"
    }

    fn attrs(&self) -> Attrs {
        Attrs::new()
            .with("then_branch", Attr::Graph(self.then_branch.clone()))
            .with("else_branch", Attr::Graph(self.else_branch.clone()))
    }

    fn captured(&self) -> usize {
        self.then_branch.captured
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let captured = (1..cx.len()).map(|i| cx.ty(i).cloned()).collect::<Result<Vec<_>, _>>()?;
        if let Some(cond) = cx.value(0) {
            return self.branch(cond)?.infer(&captured);
        }
        let (a, b) = (self.then_branch.infer(&captured)?, self.else_branch.infer(&captured)?);
        Ok(a.iter().zip(&b).map(|(a, b)| a.common(b)).collect())
    }

    fn evaluator(&self) -> Option<&dyn Evaluate> {
        Some(self)
    }
}

impl Evaluate for If {
    fn evaluate(&self, ins: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
        let captured = ins.iter().skip(1).flatten().map(|&t| t.clone());
        let cond = ins.first().copied().flatten().ok_or("the condition is missing")?;
        self.branch(cond)?.run(captured)
    }
}
