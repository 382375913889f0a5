//! `CumProd` (ONNX 26): products of all elements up to each along an axis; and its gradient `qat.CumProdGrad`.

use crate::cumulative;
use ir::{Attrs, Infer, Io, Lower, OnnxForm, Op, Parse, Parsed, Step, Type, Vjp};
use tensor::DType;

/// `CumProd(x, axis)`: the product of all elements up to each, along `axis` (a constant scalar).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CumProd {
    /// Without the element itself.
    pub exclusive: bool,
    /// From the end.
    pub reverse: bool,
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    Ok(CumProd::from_attrs(cx.attrs)?.into())
}

/// Reads the gradient.
pub fn parse_grad(cx: &Parse) -> Result<Parsed, String> {
    Ok(CumProdGrad(CumProd::from_attrs(cx.attrs)?).into())
}

impl CumProd {
    fn from_attrs(attrs: &Attrs) -> Result<CumProd, String> {
        let flag = |name| Ok::<_, String>(attrs.int(name, 0)? != 0);
        Ok(CumProd { exclusive: flag("exclusive")?, reverse: flag("reverse")? })
    }
}

impl Op for CumProd {
    fn name(&self) -> &str {
        "CumProd"
    }

    fn attrs(&self) -> Attrs {
        let attrs = Attrs::new().with_int("exclusive", self.exclusive.into(), 0);
        attrs.with_int("reverse", self.reverse.into(), 0)
    }

    fn to_onnx(&self, opset: i64) -> Result<OnnxForm, String> {
        crate::unary::since(self, opset, 26)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        cumulative::infer(cx)
    }

    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        let d = cx.add(CumProdGrad(*self), &[cx.d_output(0)?, cx.input(0)?, cx.input(1)?])?;
        cx.set(0, d);
        Some(())
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let form = (self.exclusive, self.reverse);
        match cx.input(0)?.dtype {
            DType::F32 => cumulative::step::<f32>(cx, form, 1.0, |a, b| a * b),
            DType::I64 => cumulative::step::<i64>(cx, form, 1, i64::wrapping_mul),
            other => Err(format!("the executor does not compute with elements of type {other} here")),
        }
    }
}

/// `CumProdGrad(dy, x, axis)`: the product of all elements before each, times a sum over what comes behind it, which is
/// added up from the end without a division: elements may be 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CumProdGrad(pub CumProd);

impl Op for CumProdGrad {
    fn name(&self) -> &str {
        "CumProdGrad"
    }

    fn domain(&self) -> &str {
        "qat"
    }

    fn attrs(&self) -> Attrs {
        self.0.attrs()
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let (dy, x) = (cx.float(0)?, cx.float(1)?);
        crate::shapes::gradient_of(dy, x)?;
        Ok(vec![x.clone()])
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        cx.typed::<f32>(0)?;
        let lines = cumulative::Lines::new(cx.typed::<f32>(1)?, cx.constant(2)?, self.0.reverse)?;
        let exclusive = self.0.exclusive;
        Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let (dy, x): (&[f32], &[f32]) = (parts.input(0), parts.input(1));
            let dx: &mut [f32] = parts.output(0);
            for line in 0..lines.count(x.len()) {
                let mut before = 1.0;
                for i in lines.places(line) {
                    dx[i] = before;
                    before *= x[i];
                }
                // The sum over all results behind an element of their gradient times the elements between.
                let mut behind = 0.0;
                for i in lines.places(line).rev() {
                    if exclusive {
                        dx[i] *= behind;
                        behind = dy[i] + x[i] * behind;
                    } else {
                        behind += dy[i];
                        dx[i] *= behind;
                        behind *= x[i];
                    }
                }
            }
            Ok(())
        }))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::eval;
    use tensor::Tensor;

    #[test]
    fn values() {
        let (x, axis) = (Tensor::new(&[4], vec![2i64, 3, 4, 5]), Tensor::scalar(0i64));
        let product =
            |exclusive, reverse| eval(&CumProd { exclusive, reverse }, &[&x, &axis]).unwrap().to_i64();
        assert_eq!(product(false, false), [2, 6, 24, 120]);
        assert_eq!(product(true, true), [60, 20, 5, 1]);
    }
}
