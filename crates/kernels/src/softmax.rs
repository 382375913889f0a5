//! Softmax, the losses built on it, and ranks of labels. Matrices have shape `(rows, classes)`, row by row.
//!
//! Losses follow ONNX `NegativeLogLikelihoodLoss` and `SoftmaxCrossEntropyLoss` (opset 13), whose class axis the caller
//! moves to the end.

use crate::elementwise::math::{exp, log};
use crate::elementwise::max;
use crate::parallel::{CHUNK, for_each_chunk};
use crate::reduce::{Reduce, fold_lanes, reduce_all, sum_of};
use crate::simd::{Isa, dispatch};
use std::fmt;

/// Rows of a task.
fn rows_per_chunk(classes: usize) -> usize {
    (CHUNK / classes.max(1)).max(1)
}

/// Calls `f(first element, rows)` for chunks of whole rows of `out`.
fn for_rows(out: &mut [f32], classes: usize, f: impl Fn(usize, &mut [f32]) + Sync + Send) {
    assert!(out.is_empty() || out.len().is_multiple_of(classes.max(1)), "rows of {classes} classes");
    let len = rows_per_chunk(classes) * classes.max(1);
    for_each_chunk(out, len, |i, out| f(i * len, out));
}

/// Softmax of every row: `y = e^(x - max) / sum of e^(x - max)`.
///
/// # Panics
/// When the lengths differ or are no multiple of `classes`.
pub fn softmax(x: &[f32], classes: usize, y: &mut [f32]) {
    assert_eq!(x.len(), y.len());
    let isa = Isa::detect();
    for_rows(y, classes, |at, y| softmax_rows(isa, &x[at..][..y.len()], classes, y));
}

/// The gradient of [`softmax`] from its result `y`: `dx = y (dy - sum of dy y)`.
///
/// # Panics
/// As [`softmax`].
pub fn softmax_grad(y: &[f32], dy: &[f32], classes: usize, dx: &mut [f32]) {
    assert_eq!([y.len(), dy.len()], [dx.len(); 2]);
    let isa = Isa::detect();
    for_rows(dx, classes, |at, dx| {
        let range = at..at + dx.len();
        softmax_grad_rows(isa, &y[range.clone()], &dy[range], classes, dx);
    });
}

/// The logarithm of softmax: `y = (x - max) - log(sum of e^(x - max))`.
///
/// # Panics
/// As [`softmax`].
pub fn log_softmax(x: &[f32], classes: usize, y: &mut [f32]) {
    assert_eq!(x.len(), y.len());
    let isa = Isa::detect();
    for_rows(y, classes, |at, y| log_softmax_rows(isa, &x[at..][..y.len()], classes, y));
}

/// The gradient of [`log_softmax`] from its result `y`: `dx = dy - e^y sum of dy`.
///
/// # Panics
/// As [`softmax`].
pub fn log_softmax_grad(y: &[f32], dy: &[f32], classes: usize, dx: &mut [f32]) {
    assert_eq!([y.len(), dy.len()], [dx.len(); 2]);
    let isa = Isa::detect();
    for_rows(dx, classes, |at, dx| {
        let range = at..at + dx.len();
        log_softmax_grad_rows(isa, &y[range.clone()], &dy[range], classes, dx);
    });
}

/// The largest element of a row, NaN where there is one.
#[inline(always)]
fn largest(x: &[f32]) -> f32 {
    fold_lanes(x, f32::NEG_INFINITY, |x| x, max)
}

dispatch! {
    fn softmax_rows(x: &[f32], classes: usize, y: &mut [f32]) {
        for (x, y) in x.chunks_exact(classes).zip(y.chunks_exact_mut(classes)) {
            let shift = largest(x);
            for (y, &x) in y.iter_mut().zip(x) {
                *y = exp(x - shift);
            }
            let scale = 1.0 / sum_of(y, |y| y);
            for y in y.iter_mut() {
                *y *= scale;
            }
        }
    }

    fn softmax_grad_rows(y: &[f32], dy: &[f32], classes: usize, dx: &mut [f32]) {
        let rows = y.chunks_exact(classes).zip(dy.chunks_exact(classes));
        for ((y, dy), dx) in rows.zip(dx.chunks_exact_mut(classes)) {
            for ((dx, &y), &dy) in dx.iter_mut().zip(y).zip(dy) {
                *dx = y * dy;
            }
            let sum = sum_of(dx, |dx| dx);
            for (dx, &y) in dx.iter_mut().zip(y) {
                *dx -= y * sum;
            }
        }
    }

    fn log_softmax_rows(x: &[f32], classes: usize, y: &mut [f32]) {
        for (x, y) in x.chunks_exact(classes).zip(y.chunks_exact_mut(classes)) {
            let shift = largest(x);
            let log_sum = log(sum_of(x, |x| exp(x - shift)));
            for (y, &x) in y.iter_mut().zip(x) {
                *y = (x - shift) - log_sum;
            }
        }
    }

    fn log_softmax_grad_rows(y: &[f32], dy: &[f32], classes: usize, dx: &mut [f32]) {
        let rows = y.chunks_exact(classes).zip(dy.chunks_exact(classes));
        for ((y, dy), dx) in rows.zip(dx.chunks_exact_mut(classes)) {
            let sum = sum_of(dy, |dy| dy);
            for ((dx, &y), &dy) in dx.iter_mut().zip(y).zip(dy) {
                *dx = dy - exp(y) * sum;
            }
        }
    }

    /// `out = e^x scale`.
    fn scaled_exp(x: &[f32], scale: f32, out: &mut [f32]) {
        for (out, &x) in out.iter_mut().zip(x) {
            *out = exp(x) * scale;
        }
    }
}

/// The class that every row belongs to, and how much it counts.
#[derive(Clone, Copy, Debug)]
pub struct Labels<'a> {
    /// Number of classes.
    pub classes: usize,
    /// One class per row.
    pub labels: &'a [i64],
    /// Rows with this label, which need not be a class, have no loss, no gradient and no weight.
    pub ignore: Option<i64>,
    /// Weight of each class; 1 where there are none.
    pub weights: Option<&'a [f32]>,
}

/// A label that is no class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LabelError {
    /// The row.
    pub row: usize,
    /// Its label.
    pub label: i64,
    /// Number of classes.
    pub classes: usize,
}

impl fmt::Display for LabelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LabelError { row, label, classes } = self;
        write!(f, "row {row} has label {label}, which is not one of the {classes} classes 0..{classes}")
    }
}

impl std::error::Error for LabelError {}

/// How the losses of all rows become one (in ONNX `none`, `sum` and `mean`), and the gradient that comes back.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LossGrad<'a> {
    /// The losses stay apart; the gradient of each.
    None(&'a [f32]),
    /// Their sum; its gradient.
    Sum(f32),
    /// Their sum over the sum of the weights; its gradient.
    Mean(f32),
}

impl Labels<'_> {
    /// # Errors
    /// When a label is neither a class nor ignored; the first such row is told.
    ///
    /// # Panics
    /// When there are weights, but not one per class.
    pub fn check(&self) -> Result<(), LabelError> {
        assert!(self.weights.is_none_or(|w| w.len() == self.classes), "one weight per class");
        let bad = |&label: &i64| {
            self.ignore != Some(label) && !usize::try_from(label).is_ok_and(|label| label < self.classes)
        };
        match self.labels.iter().position(bad) {
            Some(row) => Err(LabelError { row, label: self.labels[row], classes: self.classes }),
            None => Ok(()),
        }
    }

    /// Class and weight of a row, unless it is ignored.
    fn get(&self, row: usize) -> Option<(usize, f32)> {
        let label = self.labels[row];
        if self.ignore == Some(label) {
            return None;
        }
        let class = label as usize;
        Some((class, self.weights.map_or(1.0, |weights| weights[class])))
    }

    /// Sum of the weights of all rows that are not ignored, which [`LossGrad::Mean`] divides by.
    pub fn total_weight(&self) -> f32 {
        (0..self.labels.len()).filter_map(|row| self.get(row)).map(|(_, weight)| weight as f64).sum::<f64>()
            as f32
    }

    /// The mean of `losses` by the weights of their rows; NaN when all are ignored.
    pub fn mean(&self, losses: &[f32]) -> f32 {
        reduce_all(Reduce::Sum, losses) / self.total_weight()
    }

    fn check_matrix(&self, x: &[f32]) -> Result<(), LabelError> {
        assert_eq!(x.len(), self.labels.len() * self.classes, "a row per label");
        self.check()
    }
}

/// Negative log-likelihood: `loss = -weight log_prob[label]` for every row, 0 for ignored ones. [`reduce_all`] sums
/// them, and [`Labels::mean`] averages.
///
/// # Errors
/// When a label is no class.
///
/// # Panics
/// When the lengths do not fit the labels.
pub fn nll(log_prob: &[f32], labels: &Labels, losses: &mut [f32]) -> Result<(), LabelError> {
    labels.check_matrix(log_prob)?;
    assert_eq!(losses.len(), labels.labels.len());
    for (row, loss) in losses.iter_mut().enumerate() {
        let of = |(class, weight): (usize, f32)| -weight * log_prob[row * labels.classes + class];
        *loss = labels.get(row).map_or(0.0, of);
    }
    Ok(())
}

/// The gradient of [`nll`].
///
/// # Errors
/// When a label is no class.
///
/// # Panics
/// When the lengths do not fit the labels.
pub fn nll_grad(labels: &Labels, grad: LossGrad, d_log_prob: &mut [f32]) -> Result<(), LabelError> {
    labels.check_matrix(d_log_prob)?;
    let scale = row_scale(labels, grad);
    for_rows(d_log_prob, labels.classes, |at, out| {
        out.fill(0.0);
        for (row, out) in out.chunks_exact_mut(labels.classes).enumerate() {
            if let Some((class, scale)) = scale(at / labels.classes + row) {
                out[class] = -scale;
            }
        }
    });
    Ok(())
}

/// Softmax and [`nll`] in one: keeps `log_prob`, the logarithms of the probabilities, for the gradient.
///
/// # Errors
/// When a label is no class.
///
/// # Panics
/// When the lengths do not fit the labels.
pub fn cross_entropy(
    logits: &[f32],
    labels: &Labels,
    log_prob: &mut [f32],
    losses: &mut [f32],
) -> Result<(), LabelError> {
    labels.check_matrix(logits)?;
    log_softmax(logits, labels.classes, log_prob);
    nll(log_prob, labels, losses)
}

/// The gradient of [`cross_entropy`] for its logits: `(softmax - one_hot) weight` times that of the loss.
///
/// # Errors
/// When a label is no class.
///
/// # Panics
/// When the lengths do not fit the labels.
pub fn cross_entropy_grad(
    log_prob: &[f32],
    labels: &Labels,
    grad: LossGrad,
    d_logits: &mut [f32],
) -> Result<(), LabelError> {
    labels.check_matrix(log_prob)?;
    assert_eq!(log_prob.len(), d_logits.len());
    let (isa, scale) = (Isa::detect(), row_scale(labels, grad));
    for_rows(d_logits, labels.classes, |at, out| {
        let rows = log_prob[at..].chunks_exact(labels.classes);
        for (row, (out, log_prob)) in out.chunks_exact_mut(labels.classes).zip(rows).enumerate() {
            match scale(at / labels.classes + row) {
                Some((class, scale)) => {
                    scaled_exp(isa, log_prob, scale, out);
                    out[class] -= scale;
                }
                None => out.fill(0.0),
            }
        }
    });
    Ok(())
}

/// Class of a row, and the gradient of the total by that row's unweighted loss; nothing for ignored rows.
fn row_scale<'a>(
    labels: &'a Labels,
    grad: LossGrad<'a>,
) -> impl Fn(usize) -> Option<(usize, f32)> + Sync + 'a {
    let all = match grad {
        LossGrad::None(_) => 1.0,
        LossGrad::Sum(d) => d,
        LossGrad::Mean(d) => d / labels.total_weight(),
    };
    if let LossGrad::None(d) = grad {
        assert_eq!(d.len(), labels.labels.len());
    }
    move |row| {
        let (class, weight) = labels.get(row)?;
        let of_row = if let LossGrad::None(d) = grad { d[row] } else { all };
        Some((class, of_row * weight))
    }
}

/// Number of rows whose label is among the `k` largest scores; ignored rows never are. Among equal scores the lower
/// class ranks first; NaN ranks before every number, and a label whose score is NaN is not found.
///
/// # Errors
/// When a label is no class.
///
/// # Panics
/// When the lengths do not fit the labels.
pub fn top_k_correct(scores: &[f32], labels: &Labels, k: usize) -> Result<usize, LabelError> {
    labels.check_matrix(scores)?;
    let is_found = |row: usize| {
        labels.get(row).is_some_and(|(class, _)| {
            let scores = &scores[row * labels.classes..][..labels.classes];
            let own = scores[class];
            let before = scores[..class].iter().filter(|&&x| x >= own || x.is_nan()).count();
            let after = scores[class + 1..].iter().filter(|&&x| x > own || x.is_nan()).count();
            !own.is_nan() && before + after < k
        })
    };
    Ok((0..labels.labels.len()).filter(|&row| is_found(row)).count())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::elementwise::testing::{bits, close, drawn, on_any_pool, slopes, wide};

    fn log_softmax_f64(x: &[f64], classes: usize) -> Vec<f64> {
        let row = |row: &[f64]| -> Vec<f64> {
            let sum: f64 = row.iter().map(|x| x.exp()).sum();
            row.iter().map(|x| x - sum.ln()).collect()
        };
        x.chunks(classes).flat_map(row).collect()
    }

    fn dot(a: &[f64], b: &[f32]) -> f64 {
        a.iter().zip(b).map(|(a, &b)| a * b as f64).sum()
    }

    #[test]
    fn forward_and_gradients_against_double_precision() {
        for (rows, classes) in [(3, 5), (4, 1), (2, 37), (1, 100)] {
            let (x, dy) = (drawn(1, rows * classes, 5.0), drawn(2, rows * classes, 1.0));
            let (mut y, mut dx) = (vec![0.0; x.len()], vec![0.0; x.len()]);
            let logs = |x: &[f64]| log_softmax_f64(x, classes);
            let probabilities = |x: &[f64]| logs(x).iter().map(|y| y.exp()).collect::<Vec<_>>();
            log_softmax(&x, classes, &mut y);
            close(&y, &logs(&wide(&x)), 1e-6);
            log_softmax_grad(&y, &dy, classes, &mut dx);
            close(&dx, &slopes(|x| dot(&logs(x), &dy), &wide(&x)), 3e-6);
            softmax(&x, classes, &mut y);
            close(&y, &probabilities(&wide(&x)), 1e-6);
            softmax_grad(&y, &dy, classes, &mut dx);
            close(&dx, &slopes(|x| dot(&probabilities(x), &dy), &wide(&x)), 1e-6);
        }
    }

    #[test]
    fn large_scores_do_not_overflow() {
        let mut y = [0.0; 3];
        softmax(&[1e4, -1e4, 1e4], 3, &mut y);
        assert_eq!(y, [0.5, 0.0, 0.5]);
        log_softmax(&[1e4, -1e4, 1e4], 3, &mut y);
        close(&y, &[-(2f64.ln()), -2e4 - 2f64.ln(), -(2f64.ln())], 1e-6);
    }

    #[test]
    fn losses_of_every_kind() {
        let (rows, classes) = (6, 4);
        let x = drawn(3, rows * classes, 3.0);
        let weights = [0.5, 1.0, 2.0, 0.25];
        for (ignore, weights) in [(None, None), (Some(3), None), (Some(-1), Some(&weights[..]))] {
            let mut ids = [0, 1, 2, 3, 1, 0];
            if let Some(ignore) = ignore {
                ids[4] = ignore;
            }
            let labels = Labels { classes, labels: &ids, ignore, weights };
            let weight = |row: usize| match ids[row] {
                label if Some(label) == ignore => 0.0,
                label => weights.map_or(1.0, |w| w[label as usize] as f64),
            };
            let total: f64 = (0..rows).map(weight).sum();
            let losses_f64 = |x: &[f64]| -> Vec<f64> {
                let logs = log_softmax_f64(x, classes);
                let of = |row: usize| -weight(row) * logs[row * classes + ids[row].max(0) as usize];
                (0..rows).map(of).collect()
            };
            let (mut log_prob, mut losses) = (vec![0.0; x.len()], vec![0.0; rows]);
            cross_entropy(&x, &labels, &mut log_prob, &mut losses).unwrap();
            let want = losses_f64(&wide(&x));
            close(&losses, &want, 1e-6);
            close(&[labels.mean(&losses)], &[want.iter().sum::<f64>() / total], 1e-6);

            let each = drawn(4, rows, 1.0);
            for grad in [LossGrad::None(&each), LossGrad::Sum(0.7), LossGrad::Mean(0.7)] {
                let loss = |x: &[f64]| match grad {
                    LossGrad::None(d) => dot(&losses_f64(x), d),
                    LossGrad::Sum(d) => losses_f64(x).iter().sum::<f64>() * d as f64,
                    LossGrad::Mean(d) => losses_f64(x).iter().sum::<f64>() * d as f64 / total,
                };
                let want = slopes(loss, &wide(&x));
                let mut dx = vec![0.0; x.len()];
                cross_entropy_grad(&log_prob, &labels, grad, &mut dx).unwrap();
                close(&dx, &want, 2e-6);
                // The same in two steps.
                let mut d_log_prob = vec![0.0; x.len()];
                nll_grad(&labels, grad, &mut d_log_prob).unwrap();
                log_softmax_grad(&log_prob, &d_log_prob, classes, &mut dx);
                close(&dx, &want, 2e-6);
            }
        }
    }

    #[test]
    fn labels_that_are_no_class_are_told() {
        for (ids, row, label) in [([0, 3], 1, 3), ([-1, 0], 0, -1), ([i64::MIN, 5], 0, i64::MIN)] {
            let labels = Labels { classes: 3, labels: &ids, ignore: Some(-2), weights: None };
            let want = Err(LabelError { row, label, classes: 3 });
            let (mut a, mut losses) = ([0.0; 6], [0.0; 2]);
            assert_eq!(cross_entropy(&[0.0; 6], &labels, &mut a, &mut losses), want);
            assert_eq!(cross_entropy_grad(&[0.0; 6], &labels, LossGrad::Sum(1.0), &mut a), want);
            assert_eq!(nll(&[0.0; 6], &labels, &mut losses), want);
            assert_eq!(nll_grad(&labels, LossGrad::Sum(1.0), &mut a), want);
            assert_eq!(top_k_correct(&[0.0; 6], &labels, 1).map(|_| ()), want);
        }
        let text = LabelError { row: 1, label: 3, classes: 3 }.to_string();
        assert_eq!(text, "row 1 has label 3, which is not one of the 3 classes 0..3");
    }

    #[test]
    fn all_rows_ignored() {
        let labels = Labels { classes: 2, labels: &[7, 7], ignore: Some(7), weights: None };
        let (mut log_prob, mut losses, mut dx) = ([0.0; 4], [9.0; 2], [9.0; 4]);
        cross_entropy(&[1.0; 4], &labels, &mut log_prob, &mut losses).unwrap();
        assert_eq!(losses, [0.0; 2]);
        assert!(labels.mean(&losses).is_nan());
        cross_entropy_grad(&log_prob, &labels, LossGrad::Mean(1.0), &mut dx).unwrap();
        assert_eq!(dx, [0.0; 4]);
    }

    #[test]
    fn ranks() {
        let scores =
            [0.1, 0.7, 0.2, /**/ 0.3, 0.3, 0.3, /**/ 0.0, f32::NAN, 1.0, /**/ 1.0, 0.0, 0.0];
        let at = |ids: &[i64; 4], k| {
            let labels = Labels { classes: 3, labels: ids, ignore: Some(-1), weights: None };
            top_k_correct(&scores, &labels, k).unwrap()
        };
        assert_eq!(at(&[1, 0, 2, 0], 1), 3, "among equals the first wins; NaN is before 1");
        assert_eq!(at(&[2, 1, 2, 1], 2), 4);
        assert_eq!(at(&[2, 1, 1, 2], 2), 2, "a score of NaN is never right");
        assert_eq!(at(&[0, 2, 1, -1], 3), 2);
    }

    #[test]
    fn instruction_sets_and_threads_change_nothing() {
        let (rows, classes) = (70, 517);
        let (x, dy) = (drawn(5, rows * classes, 9.0), drawn(6, rows * classes, 1.0));
        let run = |isa| {
            let mut all = vec![vec![0.0; x.len()]; 5];
            let [a, b, c, d, e] = &mut all[..] else { unreachable!() };
            softmax_rows(isa, &x, classes, a);
            softmax_grad_rows(isa, a, &dy, classes, b);
            log_softmax_rows(isa, &x, classes, c);
            log_softmax_grad_rows(isa, c, &dy, classes, d);
            scaled_exp(isa, c, 0.3, e);
            all.iter().map(|x| bits(x)).collect::<Vec<_>>()
        };
        assert!(Isa::ALL.iter().all(|&isa| run(isa) == run(Isa::Scalar)));
        let ids: Vec<i64> = (0..rows as i64).map(|i| i * 7 % classes as i64).collect();
        on_any_pool(|| {
            let labels = Labels { classes, labels: &ids, ignore: None, weights: None };
            let (mut log_prob, mut losses, mut dx) =
                (vec![0.0; x.len()], vec![0.0; rows], vec![0.0; x.len()]);
            cross_entropy(&x, &labels, &mut log_prob, &mut losses).unwrap();
            cross_entropy_grad(&log_prob, &labels, LossGrad::Mean(1.0), &mut dx).unwrap();
            (log_prob, losses, dx)
        });
    }
}
