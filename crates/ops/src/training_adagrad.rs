//! `Adagrad` (ai.onnx.preview.training 1; Duchi et al. 2011).
//!
//! ```text
//! G' = norm_coefficient X + G
//! H' = H + G'²
//! X' = X - R / (1 + T decay_factor) G' / (sqrt(H') + epsilon)
//! ```

use crate::training::{DOMAIN, Slots};
use ir::{Attrs, Infer, Lower, Op, Parse, Parsed, Step, Type};

/// `Adagrad(R, T, X…, G…, H…)` gives `X…, H…`; f32, `T` int64.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainingAdagrad {
    /// How fast the rate falls with the count of updates.
    pub decay_factor: f32,
    /// Added to the root.
    pub epsilon: f32,
    /// L2 decay in the gradient.
    pub norm_coefficient: f32,
}

impl Default for TrainingAdagrad {
    fn default() -> Self {
        TrainingAdagrad { decay_factor: 0.0, epsilon: 1e-6, norm_coefficient: 0.0 }
    }
}

impl TrainingAdagrad {
    /// States per tensor: `H`.
    pub const STATES: usize = 1;
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    let default = TrainingAdagrad::default();
    Ok(TrainingAdagrad {
        decay_factor: cx.attrs.float("decay_factor", 0.0)?,
        epsilon: cx.attrs.float("epsilon", default.epsilon)?,
        norm_coefficient: cx.attrs.float("norm_coefficient", 0.0)?,
    }
    .into())
}

impl Op for TrainingAdagrad {
    fn name(&self) -> &str {
        "Adagrad"
    }

    fn domain(&self) -> &str {
        DOMAIN
    }

    fn attrs(&self) -> Attrs {
        Attrs::new()
            .with_float("decay_factor", self.decay_factor, 0.0)
            .with_float("epsilon", self.epsilon, TrainingAdagrad::default().epsilon)
            .with_float("norm_coefficient", self.norm_coefficient, 0.0)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        Slots::new(cx.len(), Self::STATES)?.infer(cx)
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let TrainingAdagrad { decay_factor, epsilon, norm_coefficient } = *self;
        Slots::new(cx.ins.len(), Self::STATES)?.lower(cx, move |rate, count, g, x, [h, _]| {
            let rate = rate / (1.0 + count as f32 * decay_factor);
            for ((x, h), &g) in x.iter_mut().zip(h).zip(g) {
                let g = norm_coefficient * *x + g;
                *h += g * g;
                *x -= rate * g / (h.sqrt() + epsilon);
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
    fn the_rate_falls_with_the_count() {
        let one = |x: f32| Tensor::new(&[1], vec![x]);
        let op = TrainingAdagrad { decay_factor: 0.5, epsilon: 0.0, norm_coefficient: 1.0 };
        let ins = [Tensor::scalar(0.1f32), Tensor::scalar(2i64), one(1.0), one(2.0), one(16.0)];
        let out = ir::eval(&op, &ins.each_ref().map(Some), 2).unwrap();
        // G' = 3, H' = 25, R' = 0.05.
        assert_eq!(out[1].to_f32(), [25.0]);
        assert!((out[0].to_f64()[0] - (1.0 - 0.05 * 3.0 / 5.0)).abs() < 1e-6);
    }
}
