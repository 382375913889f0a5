//! `qat.Pact`: clips at a learned threshold (Choi et al. 2018, arXiv 1805.06085; PaddleSlim's `pact`).

use crate::shapes::single;
use ir::{Attrs, Infer, Io, Layouts, Lower, Op, Parse, Parsed, Step, Type, Vjp};
use kernels::quant::{self, Pact as Form};
use std::sync::Arc;

/// `Pact(x, threshold)`: `x` f32 of any shape, `threshold` f32 with one element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pact {
    /// Which formulation.
    pub form: Form,
}

const FORMS: [(&str, Form); 4] =
    [("symmetric", Form::Symmetric), ("relu", Form::Relu), ("demo", Form::Demo), ("slim", Form::Slim)];

pub(crate) fn form(attrs: &Attrs) -> Result<Form, String> {
    let name = attrs.str("form", "symmetric")?;
    let known = FORMS.iter().find(|(n, _)| *n == name);
    known
        .map(|(_, f)| *f)
        .ok_or_else(|| format!("attribute form is \"{name}\"; known are symmetric, relu, demo, slim"))
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    Ok(Pact { form: form(cx.attrs)? }.into())
}

/// Reads the gradient.
pub fn parse_grad(cx: &Parse) -> Result<Parsed, String> {
    Ok(PactGrad { form: form(cx.attrs)? }.into())
}

pub(crate) fn attrs(form: Form) -> Attrs {
    let name = FORMS.iter().find(|(_, f)| *f == form).map_or("symmetric", |(n, _)| n);
    Attrs::new().with_str("form", name, "symmetric")
}

fn check(cx: &Infer, threshold: usize) -> Result<(), String> {
    cx.float(threshold)?;
    single(cx, threshold, "threshold")
}

impl Op for Pact {
    fn name(&self) -> &str {
        "Pact"
    }

    fn domain(&self) -> &str {
        "qat"
    }

    fn attrs(&self) -> Attrs {
        attrs(self.form)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        check(cx, 1)?;
        Ok(vec![cx.float(0)?.clone()])
    }

    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        let ins = [cx.d_output(0), cx.input(0), cx.input(1)];
        let grads = cx.add_multi(Arc::new(PactGrad { form: self.form }), &ins, 2)?;
        cx.set(0, grads[0]);
        cx.set(1, grads[1]);
        Some(())
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        (0..2).try_for_each(|i| cx.typed::<f32>(i).map(|_| ()))?;
        let form = self.form;
        Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            quant::pact(form, parts.input::<f32>(1)[0], parts.input(0), parts.output(0));
            Ok(())
        }))
    }

    fn layouts(&self) -> Layouts {
        Layouts::Same { ins: 1, outs: 1 }
    }
}

/// `PactGrad(dy, x, threshold)`: gradients of `x` and of the threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PactGrad {
    /// Which formulation.
    pub form: Form,
}

impl Op for PactGrad {
    fn name(&self) -> &str {
        "PactGrad"
    }

    fn domain(&self) -> &str {
        "qat"
    }

    fn attrs(&self) -> Attrs {
        attrs(self.form)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        check(cx, 2)?;
        crate::shapes::gradient_of(cx.float(0)?, cx.float(1)?)?;
        Ok(vec![cx.float(0)?.clone(), cx.float(2)?.clone()])
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        (0..3).try_for_each(|i| cx.typed::<f32>(i).map(|_| ()))?;
        let form = self.form;
        Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let threshold = parts.input::<f32>(2)[0];
            let d_threshold =
                quant::pact_grad(form, threshold, parts.input(1), parts.input(0), parts.output(0));
            parts.output::<f32>(1)[0] = d_threshold;
            Ok(())
        }))
    }

    fn layouts(&self) -> Layouts {
        Layouts::Same { ins: 0b11, outs: 1 }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use tensor::Tensor;

    #[test]
    fn clipped_elements_train_the_threshold() {
        let x = Tensor::new(&[4], vec![-3.0f32, -1.0, 2.0, 5.0]);
        let (u, dy) = (Tensor::new(&[1], vec![2.0f32]), Tensor::new(&[4], vec![1.0f32, 10.0, 100.0, 1000.0]));
        let op = Pact { form: Form::Symmetric };
        assert_eq!(ir::eval(&op, &[Some(&x), Some(&u)], 1).unwrap()[0].to_f32(), [-2.0, -1.0, 2.0, 2.0]);
        let grads =
            ir::eval(&PactGrad { form: Form::Symmetric }, &[Some(&dy), Some(&x), Some(&u)], 2).unwrap();
        assert_eq!(grads[0].to_f32(), [0.0, 10.0, 100.0, 0.0]);
        assert_eq!(grads[1].to_f32(), [999.0]);
    }
}
