//! `QGemm` (com.microsoft 1): a product of uint8 codes with an int8 weight, to uint8 codes or, without a scale of the
//! result, to f32.

use crate::q_linear::{MICROSOFT, affine, bias, check_affine, code_dtype, codes, per_channel, weight};
use crate::shapes::{products, untouched_of};
use ir::{Attrs, Dim, Infer, Io, Lower, Op, Parse, Parsed, Step, Type};
use kernels::integer;
use tensor::DType;

/// `QGemm(a, a_scale, a_zero_point, b, b_scale, b_zero_point, c?, y_scale?, y_zero_point?)`: `a` uint8 `(M, K)`, `b` int8
/// `(K, N)` with one scale or one per column, `c` int32 `(N)` in steps of `alpha * a_scale * b_scale`. All but `a` are
/// constants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QGemm {
    /// Factor of the product.
    pub alpha: f32,
    /// `b` is `(N, K)`.
    pub trans_b: bool,
}

/// Reads the operator. One that transposes `a` is carried through.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    if cx.attrs.int("transA", 0)? != 0 {
        return Ok(untouched_of(MICROSOFT, "QGemm", cx));
    }
    Ok(QGemm { alpha: cx.attrs.float("alpha", 1.0)?, trans_b: cx.attrs.int("transB", 0)? != 0 }.into())
}

/// A weight `(K, N)` as `(N, K)`.
pub(crate) fn transposed(weight: &[i8], inner: usize, columns: usize) -> Vec<i8> {
    (0..columns * inner).map(|i| weight[i % inner * columns + i / inner]).collect()
}

impl Op for QGemm {
    fn name(&self) -> &str {
        "QGemm"
    }

    fn domain(&self) -> &str {
        MICROSOFT
    }

    fn attrs(&self) -> Attrs {
        Attrs::new().with_float("alpha", self.alpha, 1.0).with_int("transB", self.trans_b.into(), 0)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let (a, b) = (codes(cx, 0)?, codes(cx, 3)?);
        check_affine(cx, 1)?;
        let dtype = if cx.has(7) {
            check_affine(cx, 7)?;
            code_dtype(cx, 8)?
        } else {
            Some(DType::F32)
        };
        let matrix = |ty: &Type| match &ty.shape {
            None => Ok([Dim::Unknown, Dim::Unknown]),
            Some(dims) => <[Dim; 2]>::try_from(dims.clone()).map_err(|_| format!("{ty} should be a matrix")),
        };
        let ([rows, k], [mut inner, mut columns]) = (matrix(a)?, matrix(b)?);
        if self.trans_b {
            std::mem::swap(&mut inner, &mut columns);
        }
        if !k.agrees(&inner) {
            return Err(format!("A {a} and B {b} do not multiply: the inner sizes are {k} and {inner}"));
        }
        Ok(vec![Type { dtype, shape: Some(vec![rows, columns]) }])
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let a = affine(cx, 1)?;
        let (&[rows, inner], &[mut depth, mut columns]) =
            (&cx.typed::<u8>(0)?.shape[..], &cx.input(3)?.shape[..])
        else {
            return Err("the operands are no matrices".into());
        };
        if self.trans_b {
            std::mem::swap(&mut depth, &mut columns);
        }
        if depth != inner {
            return Err(format!("rows of {inner} codes and columns of {depth} do not multiply"));
        }
        let weight = weight(cx, 3, 5)?;
        let weight = if self.trans_b { weight } else { transposed(&weight, inner, columns) };
        let bias = bias(cx, 6, columns)?;
        let y = cx.optional(7).map(|_| affine(cx, 7)).transpose()?;
        let product = integer::Conv::product(rows, columns, inner, &weight, a.1, bias.as_deref())?;
        let scale = per_channel(cx, 4, columns, |b| {
            let scale = (self.alpha * a.0) * b;
            y.map_or(scale, |y| scale / y.0)
        })?;
        let workspace = product.workspace();
        let step = Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            match y {
                Some((_, zero)) => {
                    product.codes(parts.input(0), &scale, zero, parts.output(0), parts.workspace())
                }
                None => product.values(parts.input(0), &scale, parts.output(0), parts.workspace()),
            }
            Ok(())
        });
        Ok(step.workspace::<u32>(workspace))
    }

    fn flops(&self, cx: &Lower) -> Option<u64> {
        products(cx.outs[0].len(), *cx.optional(0)?.shape.last()?)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{Draw, run};
    use tensor::Tensor;

    #[test]
    fn sums_are_exact() {
        let mut draw = Draw::new(41);
        let (m, k, n) = (5, 37, 11);
        let a: Vec<u8> = (0..m * k).map(|_| draw.int(0, 256) as u8).collect();
        let b: Vec<i8> = (0..k * n).map(|_| draw.int(0, 256) as u8 as i8).collect();
        let c: Vec<i32> = (0..n).map(|_| draw.int(0, 9000) as i32).collect();
        let b_scale: Vec<f32> = (0..n).map(|_| draw.float(0.001, 0.01)).collect();
        let sum = |i: usize| {
            let products = (0..k).map(|p| (i32::from(a[i / n * k + p]) - 77) * i32::from(b[p * n + i % n]));
            products.sum::<i32>() + c[i % n]
        };
        let (a_scale, a_zero, b_zero) = (Tensor::scalar(0.03f32), Tensor::scalar(77u8), Tensor::scalar(0i8));
        let (y_scale, y_zero) = (Tensor::scalar(0.9f32), Tensor::scalar(128u8));
        for trans_b in [false, true] {
            let b = if trans_b {
                Tensor::new(&[n, k], transposed(&b, k, n))
            } else {
                Tensor::new(&[k, n], b.clone())
            };
            let (a, c) = (Tensor::new(&[m, k], a.clone()), Tensor::new(&[n], c.clone()));
            let b_scales = Tensor::new(&[n], b_scale.clone());
            let op = QGemm { alpha: 1.0, trans_b };
            let mut ins =
                vec![Some(&a), Some(&a_scale), Some(&a_zero), Some(&b), Some(&b_scales), Some(&b_zero)];
            ins.push(Some(&c));
            let values = run(&op, &ins, 1).unwrap().remove(0);
            assert_eq!(values.shape(), [m, n]);
            for (i, value) in values.to_f32().into_iter().enumerate() {
                assert_eq!(value, sum(i) as f32 * (0.03 * b_scale[i % n]));
            }
            ins.extend([Some(&y_scale), Some(&y_zero)]);
            for (i, code) in run(&op, &ins, 1).unwrap()[0].to_f32().into_iter().enumerate() {
                let steps = sum(i) as f32 * (0.03 * b_scale[i % n] / 0.9);
                assert_eq!(code, (steps.round_ties_even() + 128.0).clamp(0.0, 255.0));
            }
        }
    }

    #[test]
    fn misfits_are_told() {
        let (a, b) = (Tensor::zeros(DType::U8, &[2, 3]), Tensor::zeros(DType::I8, &[2, 3]));
        let (unit, a_zero) = (Tensor::scalar(1f32), Tensor::scalar(0u8));
        let ins = [Some(&a), Some(&unit), Some(&a_zero), Some(&b), Some(&unit)];
        let e = run(&QGemm { alpha: 1.0, trans_b: false }, &ins, 1).unwrap_err();
        assert!(e.contains("the inner sizes are 3 and 2"), "{e}");
        assert_eq!(run(&QGemm { alpha: 1.0, trans_b: true }, &ins, 1).unwrap()[0].shape(), [2, 2]);
        let attrs = Attrs::new().with_int("transA", 1, 0);
        let op = parse(&Parse { attrs: &attrs, opset: 1, ins: 5, outs: 1 }).unwrap().op;
        assert_eq!((op.is::<ir::Opaque>().is_some(), op.attrs()), (true, attrs));
    }
}
