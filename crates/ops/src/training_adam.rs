//! `Adam` (ai.onnx.preview.training 1).
//!
//! ```text
//! G' = norm_coefficient X + G
//! V' = alpha V + (1 - alpha) G'
//! H' = beta H + (1 - beta) G'²
//! R' = R sqrt(1 - beta^T) / (1 - alpha^T), or R where T is 0
//! X' = (1 - norm_coefficient_post) (X - R' V' / (sqrt(H') + epsilon))
//! ```
//!
//! `T` counts the updates before this one, so that the first is made without a correction of the bias; and epsilon is
//! added to the uncorrected root. [`Adam`](crate::Adam) of our own has both as the paper does.

use crate::training::{DOMAIN, Slots};
use ir::{Attrs, Infer, Lower, Op, Parse, Parsed, Step, Type};

/// `Adam(R, T, X…, G…, V…, H…)` gives `X…, V…, H…`; f32, `T` int64.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainingAdam {
    /// Decay of the mean of the gradient.
    pub alpha: f32,
    /// Decay of the mean of its square.
    pub beta: f32,
    /// Added to the root of the second mean.
    pub epsilon: f32,
    /// L2 decay in the gradient.
    pub norm_coefficient: f32,
    /// Share by which the updated tensor shrinks.
    pub norm_coefficient_post: f32,
}

impl Default for TrainingAdam {
    fn default() -> Self {
        TrainingAdam {
            alpha: 0.9,
            beta: 0.999,
            epsilon: 1e-6,
            norm_coefficient: 0.0,
            norm_coefficient_post: 0.0,
        }
    }
}

impl TrainingAdam {
    /// States per tensor: `V` and `H`.
    pub const STATES: usize = 2;
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    let default = TrainingAdam::default();
    Ok(TrainingAdam {
        alpha: cx.attrs.float("alpha", default.alpha)?,
        beta: cx.attrs.float("beta", default.beta)?,
        epsilon: cx.attrs.float("epsilon", default.epsilon)?,
        norm_coefficient: cx.attrs.float("norm_coefficient", 0.0)?,
        norm_coefficient_post: cx.attrs.float("norm_coefficient_post", 0.0)?,
    }
    .into())
}

impl Op for TrainingAdam {
    fn name(&self) -> &str {
        "Adam"
    }

    fn domain(&self) -> &str {
        DOMAIN
    }

    fn attrs(&self) -> Attrs {
        let default = TrainingAdam::default();
        Attrs::new()
            .with_float("alpha", self.alpha, default.alpha)
            .with_float("beta", self.beta, default.beta)
            .with_float("epsilon", self.epsilon, default.epsilon)
            .with_float("norm_coefficient", self.norm_coefficient, 0.0)
            .with_float("norm_coefficient_post", self.norm_coefficient_post, 0.0)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        Slots::new(cx.len(), Self::STATES)?.infer(cx)
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let TrainingAdam { alpha, beta, epsilon, norm_coefficient, norm_coefficient_post } = *self;
        Slots::new(cx.ins.len(), Self::STATES)?.lower(cx, move |rate, count, g, x, [v, h]| {
            // The powers of numbers close to 1 are taken in double precision.
            let left = |decay: f32| 1.0 - f64::from(decay).powf(count as f64);
            let correction = if count > 0 { left(beta).sqrt() / left(alpha) } else { 1.0 };
            let rate = (f64::from(rate) * correction) as f32;
            for (((x, v), h), &g) in x.iter_mut().zip(v).zip(h).zip(g) {
                let g = norm_coefficient * *x + g;
                *v = alpha * *v + (1.0 - alpha) * g;
                *h = beta * *h + (1.0 - beta) * g * g;
                *x = (1.0 - norm_coefficient_post) * (*x - rate * *v / (h.sqrt() + epsilon));
            }
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use tensor::Tensor;

    #[test]
    fn two_tensors_against_double_precision() {
        let op = TrainingAdam { norm_coefficient: 0.1, norm_coefficient_post: 0.01, ..Default::default() };
        for count in [0i64, 3] {
            let one = |x: f32| Tensor::new(&[1], vec![x]);
            let values = [1.0f32, 2.0, -1.0, 0.5, 0.1, 0.2, 0.3, 0.4];
            let mut ins = vec![Tensor::scalar(0.1f32), Tensor::scalar(count)];
            ins.extend(values.map(one));
            let ins: Vec<Option<&Tensor>> = ins.iter().map(Some).collect();
            let out = ir::eval(&op, &ins, 6).unwrap();
            for i in 0..2 {
                let at = |k: usize| f64::from(values[2 * k + i]);
                let g = at(1) + 0.1 * at(0);
                let (v, h) = (0.9 * at(2) + 0.1 * g, 0.999 * at(3) + 0.001 * g * g);
                let t = count as i32;
                let correction = (1.0 - 0.999f64.powi(t)).sqrt() / (1.0 - 0.9f64.powi(t));
                let rate = if t > 0 { 0.1 * correction } else { 0.1 };
                let x = 0.99 * (at(0) - rate * v / (h.sqrt() + 1e-6));
                for (found, expected) in [(&out[i], x), (&out[2 + i], v), (&out[4 + i], h)] {
                    assert!((found.to_f64()[0] - expected).abs() < 1e-6, "{found:?} {expected}");
                }
            }
        }
    }

    #[test]
    fn operands_come_in_groups() {
        let (rate, count) = (Tensor::scalar(0.1f32), Tensor::scalar(0i64));
        let e = ir::eval(&TrainingAdam::default(), &[Some(&rate), Some(&count), Some(&rate)], 3).unwrap_err();
        assert!(e.to_string().contains("2 inputs and 4 for each tensor"), "{e}");
    }
}
