//! `qat.Adam`: one step of Adam (Kingma and Ba 2015, algorithm 1) with L2 decay.

use crate::sgd::{scalar, update_type};
use ir::{Attrs, Infer, Io, Lower, Op, Parse, Parsed, Step, Type};
use kernels::optimizer;
use tensor::DType;

/// `Adam(param, grad, mean, square, step, rate)` gives the new parameter, the new means and the new step. f32;
/// `step` (int64) counts the steps done, `rate` is a scalar, and the state starts at 0. L2 decay is added to the
/// gradient, so this is not AdamW.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    /// Decay of the mean of the gradient.
    pub beta1: f32,
    /// Decay of the mean of its square.
    pub beta2: f32,
    /// Added to the root of the second mean.
    pub epsilon: f32,
    /// L2 decay.
    pub decay: f32,
}

impl Default for Adam {
    fn default() -> Adam {
        Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, decay: 0.0 }
    }
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    let default = Adam::default();
    Ok(Adam {
        beta1: cx.attrs.float("beta1", default.beta1)?,
        beta2: cx.attrs.float("beta2", default.beta2)?,
        epsilon: cx.attrs.float("epsilon", default.epsilon)?,
        decay: cx.attrs.float("decay", default.decay)?,
    }
    .into())
}

impl Op for Adam {
    fn name(&self) -> &str {
        "Adam"
    }

    fn domain(&self) -> &str {
        "qat"
    }

    fn attrs(&self) -> Attrs {
        let default = Adam::default();
        Attrs::new()
            .with_float("beta1", self.beta1, default.beta1)
            .with_float("beta2", self.beta2, default.beta2)
            .with_float("epsilon", self.epsilon, default.epsilon)
            .with_float("decay", self.decay, default.decay)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let param = update_type(cx, &[1, 2, 3], &[5])?;
        let step = cx.ty(4)?;
        let one = step.dims().is_none_or(|d| d.iter().product::<usize>() == 1);
        if !one || step.dtype.is_some_and(|d| d != DType::I64) {
            return Err(format!("the step should be one int64, but is {step}"));
        }
        Ok(vec![param.clone(), param.clone(), param, step.clone()])
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        [0, 1, 2, 3, 5].iter().try_for_each(|&i| cx.typed::<f32>(i).map(|_| ()))?;
        cx.typed::<i64>(4)?;
        let Adam { beta1, beta2, epsilon, decay } = *self;
        let adam = optimizer::Adam { beta1, beta2, epsilon };
        let step = Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let rate = optimizer::Step { rate: scalar(parts.input(5)), decay };
            let steps = parts.updated::<i64>(4, 3);
            let next = steps.first().map_or(1, |&t| t.saturating_add(1));
            steps.fill(next);
            let t =
                u64::try_from(next).ok().filter(|&t| t > 0).ok_or_else(|| format!("step {next} of Adam"))?;
            let (w, m, s) = (parts.updated(0, 0), parts.updated(2, 1), parts.updated(3, 2));
            optimizer::adam(rate, adam, t, parts.input(1), w, m, s);
            Ok(())
        });
        Ok(step.in_place(0, 0).in_place(2, 1).in_place(3, 2).in_place(4, 3))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use tensor::Tensor;

    #[test]
    fn two_steps_against_double_precision() {
        let one = |x: f32| Tensor::new(&[1], vec![x]);
        let (mut w, mut m, mut s, mut t) = (one(1.0), one(0.0), one(0.0), Tensor::scalar(0i64));
        let op = Adam { decay: 0.1, ..Adam::default() };
        let (mut want, mut mean, mut square) = (1.0f64, 0.0, 0.0);
        for (step, g) in [(1, 0.5f32), (2, -0.25)] {
            let ins = [w, one(g), m, s, t, Tensor::scalar(0.01f32)];
            let out = ir::eval(&op, &ins.each_ref().map(Some), 4).unwrap();
            [w, m, s, t] = out.try_into().unwrap();
            let g = g as f64 + 0.1 * want;
            mean = 0.9 * mean + 0.1 * g;
            square = 0.999 * square + 0.001 * g * g;
            let (first, second) = (mean / (1.0 - 0.9f64.powi(step)), square / (1.0 - 0.999f64.powi(step)));
            want -= 0.01 * first / (second.sqrt() + 1e-8);
            assert!((w.to_f64()[0] - want).abs() < 1e-6, "{w:?} {want}");
            assert_eq!(t, Tensor::scalar(step as i64));
        }
    }
}
