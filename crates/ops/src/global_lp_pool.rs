//! `GlobalLpPool` (ONNX 1, 2, 22): the p-norm over all spatial axes.

use crate::ReduceSum;
use crate::lp_pool::{exponent, power, root};
use crate::reduce::Form;
use crate::shapes::list;
use ir::{Attrs, Compose, Dim, Infer, Op, Parse, Parsed, Type, ValueId};

/// `GlobalLpPool(x)`: `(sum |x|^p)^(1 / p)` over each channel of `x`, float `(N, C, spatial...)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GlobalLpPool {
    /// Which norm.
    pub p: i64,
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    Ok(GlobalLpPool { p: exponent(cx.attrs)? }.into())
}

impl Op for GlobalLpPool {
    fn name(&self) -> &str {
        "GlobalLpPool"
    }

    fn attrs(&self) -> Attrs {
        Attrs::new().with_int("p", self.p, 2)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let x = cx.float(0)?;
        let pooled = |shape: &Vec<Dim>| {
            shape.iter().enumerate().map(|(i, d)| if i < 2 { d.clone() } else { Dim::Fixed(1) }).collect()
        };
        Ok(vec![Type { dtype: x.dtype, shape: x.shape.as_ref().map(pooled) }])
    }

    fn compose(&self, cx: &mut Compose) -> Option<Vec<ValueId>> {
        let x = cx.input(0)?;
        let axes: Vec<i64> = (2..cx.ty(x).rank()? as i64).collect();
        let powers = power(cx, x, self.p)?;
        let axes = cx.constant_value(list(&axes));
        let sum = cx.add(ReduceSum { form: Form { keep_dims: true, noop: true } }, &[powers, axes])?;
        Some(vec![root(cx, sum, self.p)?])
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{Draw, check_gradient, eval};
    use tensor::Tensor;

    #[test]
    fn norms() {
        let x = Tensor::new(&[1, 2, 2], vec![3.0f32, -4.0, 5.0, 12.0]);
        let y = eval(&GlobalLpPool { p: 2 }, &[&x]).unwrap();
        assert_eq!((y.shape(), y.to_f32()), (&[1, 2, 1][..], vec![5.0, 13.0]));
        let x = Draw::new(1).tensor(&[2, 2, 3, 2], 0.5, 1.5);
        check_gradient(GlobalLpPool { p: 3 }, &[&x], 1, &[0]);
    }
}
