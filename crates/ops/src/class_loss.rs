//! What the losses with class labels share: attributes, shapes, and how labels are read at run time.

use ir::{Attrs, Dim, Infer, Io, Lower, Parse, Parts, Step, Type};
use kernels::reduce::{Reduce, reduce_all};
use kernels::softmax::{LabelError, Labels, LossGrad};
use tensor::DType;

/// How the losses of all samples become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reduction {
    /// They stay apart: the loss has the shape of the labels.
    None,
    /// Their sum over the sum of the weights of the samples that count.
    #[default]
    Mean,
    /// Their sum.
    Sum,
}

const REDUCTIONS: [(&str, Reduction); 3] =
    [("mean", Reduction::Mean), ("none", Reduction::None), ("sum", Reduction::Sum)];

/// Attributes of a loss with class labels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassLoss {
    /// How the losses of all samples become one.
    pub reduction: Reduction,
    /// Samples with this label, which need not be a class, do not count.
    pub ignore_index: Option<i64>,
}

impl ClassLoss {
    pub(crate) fn parse(cx: &Parse) -> Result<ClassLoss, String> {
        let name = cx.attrs.str("reduction", "mean")?;
        let known = REDUCTIONS.iter().find(|(n, _)| *n == name);
        let reduction =
            known.ok_or_else(|| format!("reduction should be none, mean or sum, but is \"{name}\""))?.1;
        let ignore_index =
            cx.attrs.get("ignore_index").map(|_| cx.attrs.int("ignore_index", 0)).transpose()?;
        Ok(ClassLoss { reduction, ignore_index })
    }

    pub(crate) fn attrs(self) -> Attrs {
        let name = REDUCTIONS.iter().find(|(_, r)| *r == self.reduction).map_or("mean", |(n, _)| n);
        let attrs = Attrs::new().with_str("reduction", name, "mean");
        self.ignore_index.into_iter().fold(attrs, |attrs, i| attrs.with("ignore_index", ir::Attr::Int(i)))
    }

    /// Checks `scores (N, C, ...)`, `labels (N, ...)` and optional `weights (C)`, which stand at slots `at`, `at + 1`,
    /// `at + 2`; returns the type of the loss.
    pub(crate) fn infer(self, cx: &Infer, at: usize) -> Result<Type, String> {
        let (scores, labels) = (cx.float(at)?, cx.ty(at + 1)?);
        if labels.dtype.is_some_and(|d| d != DType::I64 && d != DType::I32) {
            return Err(format!("the labels should be int64 or int32, but are {labels}"));
        }
        let without_classes = match scores.shape.as_deref() {
            None => None,
            Some([n, _, rest @ ..]) => Some([std::slice::from_ref(n), rest].concat()),
            Some(_) => return Err(format!("the scores {scores} have no class axis")),
        };
        let expected = Type { dtype: labels.dtype, shape: without_classes };
        if !labels.agrees(&expected) {
            return Err(format!(
                "the labels {labels} do not fit the scores {scores}: {expected} is expected"
            ));
        }
        if cx.has(at + 2) {
            let weights = cx.float(at + 2)?;
            let classes = scores.shape.as_ref().map_or(Dim::Unknown, |s| s[1].clone());
            if !weights.agrees(&Type { dtype: None, shape: Some(vec![classes.clone()]) }) {
                return Err(format!("the weights {weights} should be one for each of the {classes} classes"));
            }
        }
        let shape = match self.reduction {
            Reduction::None => labels.refined(&expected).shape,
            Reduction::Mean | Reduction::Sum => Some(vec![]),
        };
        Ok(Type { dtype: scores.dtype, shape })
    }

    /// Checks that operand 0 is the gradient of the loss of [`ClassLoss::infer`].
    pub(crate) fn infer_grad(self, cx: &Infer) -> Result<Type, String> {
        let (d_loss, loss) = (cx.float(0)?, self.infer(cx, 1)?);
        if !d_loss.agrees(&loss) {
            return Err(format!("the gradient {d_loss} should have the type of the loss, {loss}"));
        }
        Ok(cx.ty(1)?.clone())
    }

    /// The losses of all samples as the operator returns them.
    pub(crate) fn reduce(self, labels: &Labels, losses: &[f32], loss: &mut [f32]) {
        match self.reduction {
            Reduction::None => {}
            Reduction::Mean => loss[0] = labels.mean(losses),
            Reduction::Sum => loss[0] = reduce_all(Reduce::Sum, losses),
        }
    }

    pub(crate) fn grad(self, d_loss: &[f32]) -> LossGrad<'_> {
        match self.reduction {
            Reduction::None => LossGrad::None(d_loss),
            Reduction::Mean => LossGrad::Mean(d_loss[0]),
            Reduction::Sum => LossGrad::Sum(d_loss[0]),
        }
    }
}

/// Where scores, labels and weights stand among the operands, and how large they are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Samples {
    /// Slot of the scores; labels and weights follow.
    at: usize,
    /// Number of classes.
    pub classes: usize,
    /// Number of labels: samples times positions.
    pub rows: usize,
    /// Positions of a sample.
    positions: usize,
    narrow: bool,
    ignore: Option<i64>,
}

impl Samples {
    /// Scores, labels and weights stand at slots `at`, `at + 1` and `at + 2`. The scores lie channels-last, so that each
    /// label has a row of scores, in the order of the labels.
    pub fn new(loss: ClassLoss, cx: &Lower, at: usize) -> Result<Samples, String> {
        let [n, classes, ref rest @ ..] = cx.typed::<f32>(at)?.shape[..] else {
            return Err("the scores have no class axis".into());
        };
        let labels = cx.input(at + 1)?.dtype;
        if labels != DType::I64 && labels != DType::I32 {
            return Err(format!("the executor reads labels of int64 and int32, not of {labels}"));
        }
        if cx.optional(at + 2).is_some() {
            cx.typed::<f32>(at + 2)?;
        }
        let positions = rest.iter().product::<usize>();
        let (narrow, ignore) = (labels == DType::I32, loss.ignore_index);
        Ok(Samples { at, classes, rows: n * positions, positions, narrow, ignore })
    }

    /// A step that calls `run` with the labels and `floats` elements of scratch memory.
    pub fn step(
        self,
        floats: usize,
        run: impl Fn(&Labels, &mut Parts, &mut [f32]) -> Result<(), LabelError> + Send + Sync + 'static,
    ) -> Step {
        let widened = if self.narrow { self.rows } else { 0 };
        let step = Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let (wide, workspace) = parts.workspaces::<i64, f32>(widened);
            let labels = if self.narrow {
                wide.iter_mut().zip(parts.input::<i32>(self.at + 1)).for_each(|(w, &l)| *w = l.into());
                &*wide
            } else {
                parts.input(self.at + 1)
            };
            let weights = parts.optional(self.at + 2);
            let labels = Labels { classes: self.classes, labels, ignore: self.ignore, weights };
            run(&labels, &mut parts, workspace).map_err(|e| self.sentence(e))
        });
        step.workspace::<u8>(widened * size_of::<i64>() + floats * size_of::<f32>())
    }

    fn sentence(&self, LabelError { row, label, classes }: LabelError) -> String {
        let place = match self.positions {
            0 | 1 => format!("sample {row}"),
            n => format!("sample {}, position {}", row / n, row % n),
        };
        format!("{place} has label {label}, which is not one of the {classes} classes 0..{classes}")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod testing {
    use super::*;
    use crate::testing::{Draw, Tolerance, check_gradient_within, run};
    use ir::Op;
    use std::sync::Arc;
    use tensor::Tensor;

    /// Labels below `classes`, in the narrow type or the wide one.
    pub fn labels(draw: &mut Draw, shape: &[usize], classes: usize, narrow: bool) -> Tensor {
        let all = (0..shape.iter().product()).map(|_| draw.int(0, classes));
        if narrow {
            Tensor::new(shape, all.map(|l| l as i32).collect::<Vec<_>>())
        } else {
            Tensor::new(shape, all.map(|l| l as i64).collect::<Vec<_>>())
        }
    }

    /// The loss by its definition in double precision, from log-probabilities in the order of `shape`, `(N, C, ...)`.
    pub fn naive(
        loss: ClassLoss,
        log_prob: &[f64],
        shape: &[usize],
        labels: &[i64],
        weights: Option<&[f64]>,
    ) -> Vec<f64> {
        let (classes, positions) = (shape[1], shape[2..].iter().product::<usize>());
        let weight = |label: i64| match Some(label) == loss.ignore_index {
            true => 0.0,
            false => weights.map_or(1.0, |w| w[label as usize]),
        };
        let of = |(row, &label): (usize, &i64)| {
            let at = (row / positions * classes + label.clamp(0, classes as i64 - 1) as usize) * positions;
            -weight(label) * log_prob[at + row % positions]
        };
        let all: Vec<f64> = labels.iter().enumerate().map(of).collect();
        let total: f64 = labels.iter().map(|&l| weight(l)).sum();
        match loss.reduction {
            Reduction::None => all,
            Reduction::Mean => vec![all.iter().sum::<f64>() / total],
            Reduction::Sum => vec![all.iter().sum()],
        }
    }

    /// All reductions, shapes, label types, ignored labels and weights: values against [`naive`], where `log_prob` gives
    /// what the loss makes of its scores, and gradients against differences.
    pub fn check<O: Op>(op: impl Fn(ClassLoss) -> O, log_prob: impl Fn(&Tensor) -> Vec<f64>, outs: usize) {
        let mut draw = Draw::new(11);
        for shape in [vec![4, 3], vec![2, 5, 3], vec![2, 3, 2, 2], vec![3, 1]] {
            for reduction in [Reduction::None, Reduction::Mean, Reduction::Sum] {
                for (ignore_index, weighted, narrow) in
                    [(None, false, false), (Some(0), true, true), (Some(-100), false, true)]
                {
                    let loss = ClassLoss { reduction, ignore_index };
                    let scores = draw.tensor(&shape, -2.0, 2.0);
                    let label_shape = [&shape[..1], &shape[2..]].concat();
                    let mut ids = labels(&mut draw, &label_shape, shape[1], narrow).to_i64();
                    ids[0] = shape[1] as i64 - 1;
                    if let Some(ignored) = ignore_index {
                        ids[1] = ignored;
                    }
                    let ids = match narrow {
                        true => Tensor::new(&label_shape, ids.iter().map(|&l| l as i32).collect()),
                        false => Tensor::new(&label_shape, ids),
                    };
                    let weights = weighted.then(|| draw.tensor(&[shape[1]], 0.5, 2.0));
                    let ins = [Some(&scores), Some(&ids), weights.as_ref()];
                    if shape[1] == 1 && ignore_index == Some(0) {
                        continue; // Every sample would be ignored.
                    }
                    for outs in 1..=outs {
                        let got = run(&op(loss), &ins, outs).unwrap();
                        let logs = log_prob(&scores);
                        let w = weights.as_ref().map(Tensor::to_f64);
                        let want = naive(loss, &logs, &shape, &ids.to_i64(), w.as_deref());
                        let scalar = reduction != Reduction::None;
                        assert_eq!(got[0].shape(), if scalar { &[] } else { &label_shape[..] });
                        let near = |(a, b): (&f64, &f64)| (a - b).abs() < 1e-5;
                        assert!(got[0].to_f64().iter().zip(&want).all(near), "{:?} against {want:?}", got[0]);
                        if outs == 2 {
                            assert!(
                                got[1].to_f64().iter().zip(&logs).all(near),
                                "{:?} against {logs:?}",
                                got[1]
                            );
                        }
                        check_gradient_within(Arc::new(op(loss)), &ins, outs, &[0], Tolerance::default());
                    }
                }
            }
        }
    }

    /// Labels that are no class are told when the loss runs; operands that do not fit, before.
    pub fn check_errors<O: Op>(op: impl Fn(ClassLoss) -> O) {
        let scores = Tensor::new(&[2, 3], vec![0f32; 6]);
        let plain = op(ClassLoss::default());
        let at = |ids: Vec<i64>| run(&plain, &[Some(&scores), Some(&Tensor::new(&[2], ids))], 1).unwrap_err();
        assert_eq!(at(vec![0, 3]), "sample 1 has label 3, which is not one of the 3 classes 0..3");
        assert_eq!(at(vec![-1, 0]), "sample 0 has label -1, which is not one of the 3 classes 0..3");
        let image = Tensor::new(&[2, 3, 2, 2], vec![0f32; 24]);
        let ids = Tensor::new(&[2, 2, 2], vec![0i32, 0, 0, 0, 0, 0, 9, 0]);
        let e = run(&plain, &[Some(&image), Some(&ids)], 1).unwrap_err();
        assert_eq!(e, "sample 1, position 2 has label 9, which is not one of the 3 classes 0..3");

        let ids = Tensor::new(&[2], vec![0i64, 0]);
        let e = run(&plain, &[Some(&image), Some(&ids)], 1).unwrap_err();
        assert!(e.contains("do not fit the scores"), "{e}");
        let e = run(&plain, &[Some(&scores), Some(&scores)], 1).unwrap_err();
        assert!(e.contains("int64 or int32"), "{e}");
        let vector = Tensor::new(&[2], vec![0f32; 2]);
        assert!(run(&plain, &[Some(&vector), Some(&ids)], 1).unwrap_err().contains("no class axis"));
        let e = run(&plain, &[Some(&scores), Some(&ids), Some(&vector)], 1).unwrap_err();
        assert_eq!(e, "the weights float[2] should be one for each of the 3 classes");
        assert!(run(&plain, &[Some(&scores)], 1).unwrap_err().contains("input 1 is missing"));

        let bad = Attrs::new().with_str("reduction", "max", "");
        let e = ClassLoss::parse(&Parse { attrs: &bad, opset: 13, ins: 2, outs: 1 }).unwrap_err();
        assert!(e.contains("none, mean or sum"), "{e}");
        for loss in [ClassLoss::default(), ClassLoss { reduction: Reduction::Sum, ignore_index: Some(0) }] {
            let attrs = op(loss).attrs();
            assert_eq!(ClassLoss::parse(&Parse { attrs: &attrs, opset: 13, ins: 2, outs: 1 }), Ok(loss));
        }
    }
}
