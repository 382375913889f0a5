//! `qat.Sgd`: one step of stochastic gradient descent with L2 decay, `w' = w - rate (g + decay w)`.

use ir::{Attrs, Infer, Io, Lower, Op, Parse, Parsed, Step, Type};
use kernels::optimizer;

/// `Sgd(param, grad, rate)` gives the new parameter. f32; `rate` is a scalar.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sgd {
    /// L2 decay, added to the gradient.
    pub decay: f32,
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    Ok(Sgd { decay: cx.attrs.float("decay", 0.0)? }.into())
}

/// Checks that gradient and state (the operands `same`) have the type of the parameter, operand 0, and that the
/// operands `scalars` have one element; gives the type.
pub(crate) fn update_type(cx: &Infer, same: &[usize], scalars: &[usize]) -> Result<Type, String> {
    let param = cx.float(0)?;
    for &i in same {
        let ty = cx.float(i)?;
        if !ty.agrees(param) {
            return Err(format!("input {i} should be {param} as the parameter, but is {ty}"));
        }
    }
    for &i in scalars {
        let ty = cx.float(i)?;
        if ty.dims().is_some_and(|d| d.iter().product::<usize>() != 1) {
            return Err(format!("input {i} should be one number, but is {ty}"));
        }
    }
    Ok(param.clone())
}

/// The first element of an operand, which has one.
pub(crate) fn scalar(values: &[f32]) -> f32 {
    values.first().copied().unwrap_or_default()
}

impl Op for Sgd {
    fn name(&self) -> &str {
        "Sgd"
    }

    fn domain(&self) -> &str {
        "qat"
    }

    fn attrs(&self) -> Attrs {
        Attrs::new().with_float("decay", self.decay, 0.0)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        Ok(vec![update_type(cx, &[1], &[2])?])
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        (0..3).try_for_each(|i| cx.typed::<f32>(i).map(|_| ()))?;
        let decay = self.decay;
        let step = Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let step = optimizer::Step { rate: scalar(parts.input(2)), decay };
            optimizer::sgd(step, parts.input(1), parts.updated(0, 0));
            Ok(())
        });
        Ok(step.in_place(0, 0))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use tensor::Tensor;

    #[test]
    fn steps_against_the_gradient() {
        let (w, g) = (Tensor::new(&[2], vec![1.0f32, -2.0]), Tensor::new(&[2], vec![0.5f32, 0.25]));
        let out =
            ir::eval(&Sgd { decay: 0.5 }, &[Some(&w), Some(&g), Some(&Tensor::scalar(0.5f32))], 1).unwrap();
        assert_eq!(out[0].to_f32(), [0.5, -1.625]);
        let e = ir::eval(&Sgd::default(), &[Some(&w), Some(&Tensor::scalar(1f32)), Some(&w)], 1).unwrap_err();
        assert_eq!(e.to_string(), "input 1 should be float[2] as the parameter, but is float[]");
    }
}
