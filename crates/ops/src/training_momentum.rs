//! `Momentum` (ai.onnx.preview.training 1).
//!
//! ```text
//! G' = norm_coefficient X + G
//! V' = alpha V + beta G', with 1 for beta where T is 0
//! X' = X - R V', or, by Nesterov, X - R (G' + alpha V')
//! ```

use crate::training::{DOMAIN, Slots};
use ir::{Attr, Attrs, Infer, Lower, Op, Parse, Parsed, Step, Type};

/// `Momentum(R, T, X…, G…, V…)` gives `X…, V…`; f32, `T` int64.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainingMomentum {
    /// Decay of the velocity.
    pub alpha: f32,
    /// Factor of the gradient, from the second update on.
    pub beta: f32,
    /// Nesterov's form.
    pub nesterov: bool,
    /// L2 decay in the gradient.
    pub norm_coefficient: f32,
}

impl TrainingMomentum {
    /// States per tensor: `V`.
    pub const STATES: usize = 1;
}

const MODES: [&str; 2] = ["standard", "nesterov"];

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    let required = |name: &str| match cx.attrs.get(name) {
        Some(_) => cx.attrs.float(name, 0.0),
        None => Err(format!("attribute {name} is missing")),
    };
    let mode = cx.attrs.str("mode", MODES[0])?;
    if !MODES.contains(&mode) {
        return Err(format!("attribute mode is \"{mode}\", expected standard or nesterov"));
    }
    Ok(TrainingMomentum {
        alpha: required("alpha")?,
        beta: required("beta")?,
        nesterov: mode == MODES[1],
        norm_coefficient: required("norm_coefficient")?,
    }
    .into())
}

impl Op for TrainingMomentum {
    fn name(&self) -> &str {
        "Momentum"
    }

    fn domain(&self) -> &str {
        DOMAIN
    }

    fn attrs(&self) -> Attrs {
        Attrs::new()
            .with("alpha", Attr::Float(self.alpha))
            .with("beta", Attr::Float(self.beta))
            .with("mode", Attr::Str(MODES[usize::from(self.nesterov)].into()))
            .with("norm_coefficient", Attr::Float(self.norm_coefficient))
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        Slots::new(cx.len(), Self::STATES)?.infer(cx)
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let TrainingMomentum { alpha, beta, nesterov, norm_coefficient } = *self;
        Slots::new(cx.ins.len(), Self::STATES)?.lower(cx, move |rate, count, g, x, [v, _]| {
            let beta = if count > 0 { beta } else { 1.0 };
            for ((x, v), &g) in x.iter_mut().zip(v).zip(g) {
                let g = norm_coefficient * *x + g;
                *v = alpha * *v + beta * g;
                *x -= rate * if nesterov { g + alpha * *v } else { *v };
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
    fn the_first_update_takes_the_whole_gradient() {
        let one = |x: f32| Tensor::new(&[1], vec![x]);
        let run = |count: i64, nesterov| {
            let op = TrainingMomentum { alpha: 0.5, beta: 0.25, nesterov, norm_coefficient: 0.5 };
            let ins = [Tensor::scalar(0.5f32), Tensor::scalar(count), one(2.0), one(3.0), one(4.0)];
            let out = ir::eval(&op, &ins.each_ref().map(Some), 2).unwrap();
            [out[0].to_f32()[0], out[1].to_f32()[0]]
        };
        // G' = 4.
        assert_eq!(run(0, false), [2.0 - 0.5 * 6.0, 6.0]);
        assert_eq!(run(1, false), [2.0 - 0.5 * 3.0, 3.0]);
        assert_eq!(run(1, true), [2.0 - 0.5 * (4.0 + 1.5), 3.0]);
    }
}
