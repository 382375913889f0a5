//! `qat.Momentum`: one step of gradient descent with momentum and L2 decay, as Paddle's `momentum` operator and
//! PyTorch's `SGD` have it: the rate is not part of the velocity.

use crate::sgd::{scalar, update_type};
use ir::{Attrs, Infer, Io, Lower, Op, Parse, Parsed, Step, Type};
use kernels::optimizer;

/// `Momentum(param, grad, velocity, rate)` gives the new parameter and the new velocity. f32; `rate` is a scalar, and
/// the velocity starts at 0. With `g' = g + decay w`: `v' = mu v + g'`, `w' = w - rate v'`, or, by Nesterov,
/// `w' = w - rate (g' + mu v')`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Momentum {
    /// The factor `mu`.
    pub momentum: f32,
    /// L2 decay, added to the gradient.
    pub decay: f32,
    /// Looks ahead by one step.
    pub nesterov: bool,
}

impl Default for Momentum {
    fn default() -> Momentum {
        Momentum { momentum: 0.9, decay: 0.0, nesterov: false }
    }
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    let default = Momentum::default();
    Ok(Momentum {
        momentum: cx.attrs.float("momentum", default.momentum)?,
        decay: cx.attrs.float("decay", 0.0)?,
        nesterov: cx.attrs.int("nesterov", 0)? != 0,
    }
    .into())
}

impl Op for Momentum {
    fn name(&self) -> &str {
        "Momentum"
    }

    fn domain(&self) -> &str {
        "qat"
    }

    fn attrs(&self) -> Attrs {
        Attrs::new()
            .with_float("momentum", self.momentum, Momentum::default().momentum)
            .with_float("decay", self.decay, 0.0)
            .with_int("nesterov", self.nesterov.into(), 0)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        Ok(vec![update_type(cx, &[1, 2], &[3])?; 2])
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        (0..4).try_for_each(|i| cx.typed::<f32>(i).map(|_| ()))?;
        let Momentum { momentum, decay, nesterov } = *self;
        let step = Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let step = optimizer::Step { rate: scalar(parts.input(3)), decay };
            let (w, v) = (parts.updated(0, 0), parts.updated(2, 1));
            optimizer::momentum(step, momentum, nesterov, parts.input(1), w, v);
            Ok(())
        });
        Ok(step.in_place(0, 0).in_place(2, 1))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use tensor::Tensor;

    #[test]
    fn the_velocity_carries_on() {
        let one = |x: f32| Tensor::new(&[1], vec![x]);
        let run = |nesterov| {
            let op = Momentum { momentum: 0.5, decay: 0.25, nesterov };
            let ins = [one(2.0), one(0.5), one(4.0), Tensor::scalar(0.5f32)];
            let out = ir::eval(&op, &ins.each_ref().map(Some), 2).unwrap();
            [out[0].to_f32()[0], out[1].to_f32()[0]]
        };
        // g' = 0.5 + 0.25 * 2 = 1; v' = 0.5 * 4 + 1 = 3.
        assert_eq!(run(false), [0.5, 3.0]);
        assert_eq!(run(true), [0.75, 3.0]);
    }
}
