//! `NegativeLogLikelihoodLoss` (ONNX 12, 13; 22 brings element types), and `qat.NegativeLogLikelihoodGrad`, its gradient.

use crate::class_loss::{ClassLoss, Reduction, Samples};
use ir::{Attrs, Infer, Layouts, Lower, Op, Parse, Parsed, Step, Type, Vjp};
use kernels::softmax::{nll, nll_grad};
use std::sync::Arc;

/// `NegativeLogLikelihoodLoss(log_prob, labels, weights?)`: `-weights[label] log_prob[label]` for every label, reduced to
/// one number or not.
///
/// `log_prob` f32 `(N, C)` or `(N, C, d1, ...)`, `labels` i64 or i32 `(N)` or `(N, d1, ...)`, `weights` f32 `(C)`. A label
/// that is neither a class nor ignored is an error when the loss runs, which tells the sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NegativeLogLikelihoodLoss {
    /// Reduction, and which label does not count.
    pub loss: ClassLoss,
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    Ok(NegativeLogLikelihoodLoss { loss: ClassLoss::parse(cx)? }.into())
}

impl Op for NegativeLogLikelihoodLoss {
    fn name(&self) -> &str {
        "NegativeLogLikelihoodLoss"
    }

    fn attrs(&self) -> Attrs {
        self.loss.attrs()
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        Ok(vec![self.loss.infer(cx, 0)?])
    }

    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        if cx.wants(2) {
            return None;
        }
        let ins = [Some(cx.d_output(0)?), Some(cx.input(0)?), Some(cx.input(1)?), cx.input(2)];
        let d_log_prob = cx.add_multi(Arc::new(NegativeLogLikelihoodGrad { loss: self.loss }), &ins, 1)?[0];
        cx.set(0, d_log_prob);
        Some(())
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let (loss, samples) = (self.loss, Samples::new(self.loss, cx, 0)?);
        let apart = if loss.reduction == Reduction::None { 0 } else { samples.rows };
        Ok(samples.step(apart, move |labels, parts, losses| {
            let (log_prob, out) = (parts.input(0), parts.output(0));
            if loss.reduction == Reduction::None {
                return nll(log_prob, labels, out);
            }
            nll(log_prob, labels, losses)?;
            loss.reduce(labels, losses, out);
            Ok(())
        }))
    }

    /// The classes of a position lie together: a row for each label.
    fn layouts(&self) -> Layouts {
        Layouts::ChannelsLast { ins: 0b1, outs: 0 }
    }
}

/// `NegativeLogLikelihoodGrad(d_loss, log_prob, labels, weights?)`: the gradient of `log_prob`, of which only the shape is
/// read: `-weights[label] d_loss` at the label and 0 elsewhere, divided by the sum of all weights for a mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NegativeLogLikelihoodGrad {
    /// As of the loss.
    pub loss: ClassLoss,
}

/// Reads the gradient.
pub fn parse_grad(cx: &Parse) -> Result<Parsed, String> {
    Ok(NegativeLogLikelihoodGrad { loss: ClassLoss::parse(cx)? }.into())
}

impl Op for NegativeLogLikelihoodGrad {
    fn name(&self) -> &str {
        "NegativeLogLikelihoodGrad"
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
        Ok(Samples::new(loss, cx, 1)?
            .step(0, move |labels, parts, _| nll_grad(labels, loss.grad(parts.input(0)), parts.output(0))))
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

    #[test]
    fn values_and_gradients() {
        check(|loss| NegativeLogLikelihoodLoss { loss }, Tensor::to_f64, 1);
    }

    #[test]
    fn mistakes_are_told() {
        check_errors(|loss| NegativeLogLikelihoodLoss { loss });
    }
}
