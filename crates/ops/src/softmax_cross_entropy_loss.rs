//! `SoftmaxCrossEntropyLoss` (ONNX 12, 13): softmax and negative log-likelihood of class labels in one, and
//! `qat.SoftmaxCrossEntropyGrad`, its gradient.

use crate::class_loss::{ClassLoss, Reduction, Samples};
use crate::{Add, LogSoftmax, LogSoftmaxGrad};
use ir::{Attrs, Infer, Layouts, Lower, Op, Parse, Parsed, Step, Type, Vjp};
use kernels::softmax::{cross_entropy, cross_entropy_grad};
use std::sync::Arc;

/// `SoftmaxCrossEntropyLoss(scores, labels, weights?)`: `-weights[label] log softmax(scores)[label]` for every label,
/// reduced to one number or not; and optionally `log softmax(scores)` as a second result.
///
/// `scores` f32 `(N, C)` or `(N, C, d1, ...)`, `labels` i64 or i32 `(N)` or `(N, d1, ...)`, `weights` f32 `(C)`. A label
/// that is neither a class nor ignored is an error when the loss runs, which tells the sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SoftmaxCrossEntropyLoss {
    /// Reduction, and which label does not count.
    pub loss: ClassLoss,
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    Ok(SoftmaxCrossEntropyLoss { loss: ClassLoss::parse(cx)? }.into())
}

impl Op for SoftmaxCrossEntropyLoss {
    fn name(&self) -> &str {
        "SoftmaxCrossEntropyLoss"
    }

    fn attrs(&self) -> Attrs {
        self.loss.attrs()
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        Ok(vec![self.loss.infer(cx, 0)?, cx.ty(0)?.clone()])
    }

    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        let (scores, labels) = (cx.input(0)?, cx.input(1)?);
        if cx.wants(2) {
            return None;
        }
        let log_prob = match cx.outs() {
            0 | 1 => cx.add(LogSoftmax { axis: 1, flatten: false }, &[scores])?,
            _ => cx.output(1),
        };
        let mut total = None;
        if let Some(d_loss) = cx.d_output(0) {
            let ins = [Some(d_loss), Some(log_prob), Some(labels), cx.input(2)];
            let op = SoftmaxCrossEntropyGrad { loss: self.loss };
            total = Some(cx.add_multi(Arc::new(op), &ins, 1)?[0]);
        }
        if let Some(d_log_prob) = cx.d_output(1) {
            let direct = cx.add(LogSoftmaxGrad { axis: 1, flatten: false }, &[d_log_prob, log_prob])?;
            total = match total {
                None => Some(direct),
                Some(by_loss) => Some(cx.add(Add, &[by_loss, direct])?),
            };
        }
        cx.set(0, total?);
        Some(())
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let (loss, samples) = (self.loss, Samples::new(self.loss, cx, 0)?);
        let keeps = cx.outs.len() > 1;
        let apart = if loss.reduction == Reduction::None { 0 } else { samples.rows };
        let floats = apart + if keeps { 0 } else { samples.rows * samples.classes };
        Ok(samples.step(floats, move |labels, parts, workspace| {
            let (losses, own_log_prob) = workspace.split_at_mut(apart);
            let (scores, out) = (parts.input(0), parts.output(0));
            let log_prob = if keeps { parts.output(1) } else { own_log_prob };
            if loss.reduction == Reduction::None {
                return cross_entropy(scores, labels, log_prob, out);
            }
            cross_entropy(scores, labels, log_prob, losses)?;
            loss.reduce(labels, losses, out);
            Ok(())
        }))
    }

    /// The classes of a position lie together: a row for each label.
    fn layouts(&self) -> Layouts {
        Layouts::ChannelsLast { ins: 0b1, outs: 0b10 }
    }
}

/// `SoftmaxCrossEntropyGrad(d_loss, log_prob, labels, weights?)`: the gradient of the scores,
/// `weights[label] (softmax - one_hot(label)) d_loss`, divided by the sum of all weights for a mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SoftmaxCrossEntropyGrad {
    /// As of the loss.
    pub loss: ClassLoss,
}

/// Reads the gradient.
pub fn parse_grad(cx: &Parse) -> Result<Parsed, String> {
    Ok(SoftmaxCrossEntropyGrad { loss: ClassLoss::parse(cx)? }.into())
}

impl Op for SoftmaxCrossEntropyGrad {
    fn name(&self) -> &str {
        "SoftmaxCrossEntropyGrad"
    }

    fn domain(&self) -> &str {
        "qat"
    }

    fn attrs(&self) -> Attrs {
        self.loss.attrs()
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        Ok(vec![self.loss.infer_grad(cx)?])
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        cx.typed::<f32>(0)?;
        let loss = self.loss;
        Ok(Samples::new(loss, cx, 1)?.step(0, move |labels, parts, _| {
            cross_entropy_grad(parts.input(1), labels, loss.grad(parts.input(0)), parts.output(0))
        }))
    }

    fn layouts(&self) -> Layouts {
        Layouts::ChannelsLast { ins: 0b10, outs: 0b1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::class_loss::testing::{check, check_errors};
    use tensor::Tensor;

    /// `log softmax` along axis 1, by its definition.
    fn log_softmax(scores: &Tensor) -> Vec<f64> {
        let (classes, inner) = (scores.shape()[1], scores.shape()[2..].iter().product::<usize>());
        let x = scores.to_f64();
        let at = |i: usize| {
            let (outer, position) = (i / (classes * inner), i % inner);
            let sum: f64 = (0..classes).map(|c| x[(outer * classes + c) * inner + position].exp()).sum();
            x[i] - sum.ln()
        };
        (0..x.len()).map(at).collect()
    }

    #[test]
    fn values_and_gradients() {
        check(|loss| SoftmaxCrossEntropyLoss { loss }, log_softmax, 2);
    }

    #[test]
    fn mistakes_are_told() {
        check_errors(|loss| SoftmaxCrossEntropyLoss { loss });
    }
}
