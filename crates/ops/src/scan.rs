//! `Scan` (ONNX 8 to 25): a sub-graph for each step of a sequence.

use crate::Gather;
use crate::loop_op::{is_deep, settled, stacked};
use crate::shapes::{axis, untouched};
use ir::{Attr, Attrs, Dim, Evaluate, Infer, Op, Parse, Parsed, Subgraph, Type};
use tensor::Tensor;

/// One sequence: the axis of its steps, and whether they go from the last to the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sequence {
    /// The axis along which the steps lie.
    pub axis: i64,
    /// From the last step to the first.
    pub reverse: bool,
}

/// `Scan(states..., sequences..., captured...)`: runs the body, which takes `(states..., elements...)` and gives
/// `(states..., elements...)`, once for each step. The results are the last states, and the elements of all steps stacked.
#[derive(Clone, Debug, PartialEq)]
pub struct Scan {
    /// What runs in each step.
    pub body: Subgraph,
    /// The sequences that are read.
    pub read: Vec<Sequence>,
    /// The sequences that are made.
    pub made: Vec<Sequence>,
    /// The form of opset 8: operand 0 holds the lengths (they must be left out here), and everything has a batch in front.
    pub batched: bool,
}

/// Reads the operator, where its sub-graph could be read.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    let Some(body) = cx.attrs.subgraph("body").filter(|b| !is_deep(b)).cloned() else {
        return Ok(untouched("Scan", cx));
    };
    let reads = usize::try_from(cx.attrs.int("num_scan_inputs", 0)?).unwrap_or(0);
    let (formals, results) = (body.formals(), body.graph.outputs().len());
    if reads == 0 || reads > formals {
        return Err(format!("num_scan_inputs is {reads}, but the body takes {formals} operands"));
    }
    let (states, batched) = (formals - reads, cx.opset < 9);
    let given = cx.ins.saturating_sub(usize::from(batched));
    if given != formals {
        return Err(format!("the body takes {formals} operands, but {given} are given"));
    }
    if results < states || results < cx.outs {
        let outs = cx.outs;
        return Err(format!(
            "the body should have {states} states and results for {outs} in all, but has {results}"
        ));
    }
    let sequences = |axes: &str, directions: &str, count: usize| {
        let list = |name: &str| -> Result<Vec<i64>, String> {
            let list = cx.attrs.ints(name)?.unwrap_or_else(|| vec![0; count]);
            let found = list.len();
            if found == count {
                Ok(list)
            } else {
                Err(format!("{name} should have {count} entries, but has {found}"))
            }
        };
        let pairs = list(axes)?.into_iter().zip(list(directions)?);
        Ok::<_, String>(pairs.map(|(axis, d)| Sequence { axis, reverse: d != 0 }).collect::<Vec<_>>())
    };
    let directions = if batched { "directions" } else { "scan_input_directions" };
    let read = sequences("scan_input_axes", directions, reads)?;
    let made = sequences("scan_output_axes", "scan_output_directions", results - states)?;
    Ok(Scan { body, read, made, batched }.into())
}

impl Scan {
    fn states(&self) -> usize {
        self.body.formals() - self.read.len()
    }

    /// Steps of one batch.
    fn run(&self, ins: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let (states, rest) = ins.split_at(self.states());
        let (sequences, captured) = rest.split_at(self.read.len());
        let mut steps = None;
        let mut axes = Vec::new();
        for (sequence, x) in self.read.iter().zip(sequences) {
            let at = axis(sequence.axis, x.shape().len())?;
            let n = x.shape()[at];
            if steps.is_some_and(|steps| steps != n) {
                return Err(format!(
                    "the sequences should have as many steps, but one has {n} and another {steps:?}"
                ));
            }
            steps = Some(n);
            axes.push(at);
        }
        let steps = steps.unwrap_or(0);
        let mut states = states.to_vec();
        let mut stacks: Vec<Vec<Tensor>> = vec![Vec::new(); self.made.len()];
        for step in 0..steps {
            let mut elements = Vec::with_capacity(axes.len());
            for ((sequence, x), &at) in self.read.iter().zip(sequences).zip(&axes) {
                let i = if sequence.reverse { steps - 1 - step } else { step };
                elements.push(element(x, at as i64, i as i64)?);
            }
            let mut results =
                self.body.run(states.into_iter().chain(elements).chain(captured.iter().cloned()))?;
            stacks.iter_mut().zip(results.split_off(self.states())).for_each(|(all, one)| all.push(one));
            states = results;
        }
        for (sequence, all) in self.made.iter().zip(&mut stacks) {
            if sequence.reverse {
                all.reverse();
            }
        }
        let types: Vec<Type> =
            self.body.graph.outputs().iter().map(|o| self.body.graph.ty(o.value).clone()).collect();
        for ((sequence, all), ty) in self.made.iter().zip(&stacks).zip(&types[self.states()..]) {
            states.push(stacked(all, sequence.axis, ty)?);
        }
        Ok(states)
    }

    /// The form of opset 8: each sample of the batch by itself.
    fn run_batched(&self, ins: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
        if ins.first().copied().flatten().is_some() {
            return Err("lengths of sequences are not supported; give all sequences the full length".into());
        }
        let operands: Vec<&Tensor> = ins.iter().skip(1).copied().flatten().collect();
        let (own, captured) = operands.split_at(self.body.formals().min(operands.len()));
        let batch =
            own.first().and_then(|t| t.shape().first().copied()).ok_or("an operand has no batch axis")?;
        let mut all: Vec<Vec<Tensor>> = vec![Vec::new(); self.states() + self.made.len()];
        for sample in 0..batch {
            let own = own.iter().map(|t| element(t, 0, sample as i64));
            let operands =
                own.chain(captured.iter().map(|&t| Ok(t.clone()))).collect::<Result<Vec<_>, _>>()?;
            all.iter_mut().zip(self.run(&operands)?).for_each(|(all, one)| all.push(one));
        }
        all.iter().map(|all| stacked(all, 0, &Type::unknown())).collect()
    }
}

/// One element along an axis, without the axis.
fn element(x: &Tensor, axis: i64, i: i64) -> Result<Tensor, String> {
    let taken = ir::eval(&Gather { axis }, &[Some(x), Some(&Tensor::scalar(i))], 1).map_err(|e| e.0)?;
    taken.into_iter().next().ok_or_else(|| "a sequence has no elements".to_string())
}

impl Op for Scan {
    fn name(&self) -> &str {
        "Scan"
    }

    fn attrs(&self) -> Attrs {
        let ints = |list: Vec<i64>| list.iter().any(|&x| x != 0).then_some(Attr::Ints(list));
        let axes = |list: &[Sequence]| ints(list.iter().map(|s| s.axis).collect());
        let directions = |list: &[Sequence]| ints(list.iter().map(|s| i64::from(s.reverse)).collect());
        let optional = [
            ("scan_input_axes", axes(&self.read)),
            (if self.batched { "directions" } else { "scan_input_directions" }, directions(&self.read)),
            ("scan_output_axes", axes(&self.made)),
            ("scan_output_directions", directions(&self.made)),
        ];
        let given = optional.into_iter().filter_map(|(name, list)| Some((name.to_string(), list?)));
        let attrs: Attrs = given.collect();
        attrs
            .with("body", Attr::Graph(self.body.clone()))
            .with("num_scan_inputs", Attr::Int(self.read.len() as i64))
    }

    fn captured(&self) -> usize {
        self.body.captured
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        if self.batched {
            let results = self.body.graph.outputs().iter();
            return Ok(results.map(|o| Type { shape: None, ..*self.body.graph.ty(o.value) }).collect());
        }
        let operands = (0..cx.len()).map(|i| cx.ty(i).cloned()).collect::<Result<Vec<_>, _>>()?;
        let wanted = self.body.formals() + self.body.captured;
        if operands.len() != wanted {
            return Err(format!("the body takes {wanted} operands, but {} are given", operands.len()));
        }
        let (states, rest) = operands.split_at(self.states());
        let (sequences, captured) = rest.split_at(self.read.len());
        let mut steps = Dim::Unknown;
        let mut elements = Vec::new();
        for (sequence, ty) in self.read.iter().zip(sequences) {
            let mut element = ty.clone();
            if let Some(shape) = &mut element.shape {
                let at = axis(sequence.axis, shape.len())?;
                let n = shape.remove(at);
                if n.fixed().is_some() || steps == Dim::Unknown {
                    steps = n;
                }
            }
            elements.push(element);
        }
        // A state keeps the size that it has in the end only where no step changes it.
        let results =
            settled(states.to_vec(), 0, |states| self.body.infer(&[states, &elements, captured].concat()))?;
        let (last, made) = results.split_at(self.states());
        let mut states: Vec<Type> = states.iter().zip(last).map(|(a, b)| a.common(b)).collect();
        for (sequence, ty) in self.made.iter().zip(made) {
            let mut ty = ty.clone();
            if let Some(shape) = &mut ty.shape {
                let at = axis(sequence.axis, shape.len() + 1)?;
                shape.insert(at, steps.clone());
            }
            states.push(ty);
        }
        Ok(states)
    }

    fn evaluator(&self) -> Option<&dyn Evaluate> {
        Some(self)
    }
}

impl Evaluate for Scan {
    fn evaluate(&self, ins: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
        if self.batched {
            return self.run_batched(ins);
        }
        let operands: Vec<Tensor> = ins.iter().flatten().map(|&t| t.clone()).collect();
        if operands.len() != self.body.formals() + self.body.captured {
            return Err("an operand is missing".into());
        }
        self.run(&operands)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use ir::{Arg, Graph};
    use std::sync::Arc;
    use tensor::DType;

    /// Gives every element of the sequences back.
    fn scan(sequences: usize) -> Scan {
        let mut body = Graph::new("body");
        for i in 0..sequences {
            let x = body.add_input(&format!("x{i}"), Type::of(DType::F32));
            body.add_output(&format!("y{i}"), x);
        }
        let body = Subgraph { graph: Arc::new(body), captured: 0, encoded: Default::default() };
        let all = vec![Sequence::default(); sequences];
        Scan { body, read: all.clone(), made: all, batched: false }
    }

    fn infer(sequences: usize, types: &[Type]) -> Result<Vec<String>, String> {
        let args: Vec<_> = types.iter().map(|ty| Some(Arg { ty, value: None })).collect();
        let results = scan(sequences).infer(&Infer::new(&args, sequences))?;
        Ok(results.iter().map(Type::to_string).collect())
    }

    #[test]
    fn steps_may_have_a_name() {
        let open = Type::new(DType::F32, [Dim::sym("N"), 3.into()]);
        assert_eq!(infer(1, std::slice::from_ref(&open)).unwrap(), ["float[N,3]"]);
        let known = Type::new(DType::F32, [5usize]);
        for types in [[open.clone(), known.clone()], [known, open]] {
            assert!(infer(2, &types).unwrap().iter().all(|ty| ty.starts_with("float[5")));
        }
    }

    #[test]
    fn missing_operands_are_counted() {
        let e = infer(2, &[Type::of(DType::F32)]).unwrap_err();
        assert_eq!(e, "the body takes 2 operands, but 1 are given");
    }
}
