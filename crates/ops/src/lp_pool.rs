//! `LpPool` (ONNX 1, 2, 11, 18, 22): the p-norm of each window.
//!
//! Opset 18 added dilations and `ceil_mode`.

use crate::max_pool::pooled;
use crate::parts::number;
use crate::window::{Window, rounding};
use crate::{Abs, AveragePool, Mul, Pow, unary};
use ir::{Attrs, Compose, Infer, OnnxForm, Op, Parse, Parsed, Type, ValueId};
use tensor::element_count;

/// `LpPool(x)`: `(sum |x|^p)^(1 / p)` over each window; `x` float `(N, C, spatial...)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LpPool {
    /// Kernel size, strides, dilations, padding with zeros.
    pub window: Window,
    /// The last window may reach beyond the padded input.
    pub ceil: bool,
    /// Which norm.
    pub p: i64,
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    let window = Window::parse(cx.attrs)?.with_kernel()?;
    Ok(LpPool { window, ceil: cx.attrs.int("ceil_mode", 0)? != 0, p: exponent(cx.attrs)? }.into())
}

/// The attribute `p`.
pub(crate) fn exponent(attrs: &Attrs) -> Result<i64, String> {
    match attrs.int("p", 2)? {
        p if p > 0 => Ok(p),
        p => Err(format!("attribute p should be positive, but is {p}")),
    }
}

/// `|x|^p`.
pub(crate) fn power(cx: &mut Compose, x: ValueId, p: i64) -> Option<ValueId> {
    let p = number(cx, x, p as f64)?;
    let x = cx.add(Abs, &[x])?;
    cx.add(Pow, &[x, p])
}

/// `x^(1 / p)`.
pub(crate) fn root(cx: &mut Compose, x: ValueId, p: i64) -> Option<ValueId> {
    let p = number(cx, x, 1.0 / p as f64)?;
    cx.add(Pow, &[x, p])
}

impl Op for LpPool {
    fn name(&self) -> &str {
        "LpPool"
    }

    fn attrs(&self) -> Attrs {
        self.window.attrs(Attrs::new()).with_int("ceil_mode", self.ceil.into(), 0).with_int("p", self.p, 2)
    }

    fn to_onnx(&self, opset: i64) -> Result<OnnxForm, String> {
        let young = self.ceil || self.window.dilations.iter().any(|&d| d != 1);
        unary::since(self, opset, if young { 18 } else { 1 })
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        Ok(vec![pooled(cx.float(0)?, &self.window, self.ceil)?])
    }

    /// The mean of the powers, times the number of elements that it is over.
    fn compose(&self, cx: &mut Compose) -> Option<Vec<ValueId>> {
        let x = cx.input(0)?;
        let spatial = cx.dims(x)?[2..].to_vec();
        let powers = power(cx, x, self.p)?;
        let pool = AveragePool { window: self.window.clone(), ceil: self.ceil, include_pad: true };
        let mean = cx.add(pool, &[powers])?;
        // A window that reaches beyond the padding is smaller.
        let shape: Vec<usize> = cx.dims(mean)?[2..].to_vec();
        cx.claim(element_count(&shape)?)?;
        let mut counts = vec![1.0];
        for (i, (&n, &k)) in spatial.iter().zip(&self.window.kernel).enumerate() {
            let axis = self.window.axis(i, spatial.len(), n, k, rounding(self.ceil)).ok()?;
            let padded = axis.pad_begin + n + axis.pad_end;
            let inside = |o: usize| k.min(padded.saturating_sub(o * axis.stride).div_ceil(axis.dilation));
            counts =
                counts.iter().flat_map(|c| (0..axis.output).map(move |o| c * inside(o) as f64)).collect();
        }
        let counts = crate::parts::floats(cx.ty(x).dtype?, &shape, &counts)?;
        let counts = cx.constant_value(counts);
        let sum = cx.add(Mul, &[mean, counts])?;
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
        let x = Tensor::new(&[1, 1, 5], vec![3.0f32, -4.0, 0.0, 5.0, 12.0]);
        let pool = |ceil, pad| LpPool { window: Window::new(&[2], 2, pad), ceil, p: 2 };
        assert_eq!(eval(&pool(false, 0), &[&x]).unwrap().to_f32(), [5.0, 5.0]);
        assert_eq!(eval(&pool(true, 0), &[&x]).unwrap().to_f32(), [5.0, 5.0, 12.0]);
        assert_eq!(eval(&pool(false, 1), &[&x]).unwrap().to_f32(), [3.0, 4.0, 13.0]);
        let op = LpPool { window: Window::new(&[2, 2], 1, 1), ceil: false, p: 3 };
        check_gradient(op, &[&Draw::new(1).tensor(&[1, 2, 3, 3], 0.5, 1.5)], 1, &[0]);
    }
}
