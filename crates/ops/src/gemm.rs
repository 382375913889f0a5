//! `Gemm` (ONNX 7, 9, 11, 13): `alpha op(A) op(B) + beta C`, the fully connected layer.
//!
//! Opset 11 made `C` optional; before 7 broadcasting was an attribute.

use crate::shapes::{products, sum_to};
use crate::{ChannelSum, Mul};
use ir::{Attrs, Dim, Infer, Io, Lower, Op, Parse, Parsed, QuantRole, Step, Type, Vjp};
use kernels::broadcast::Broadcast;
use kernels::matmul::{Matrix, MatrixMut, multiply};
use tensor::Tensor;

/// `Gemm(a, b, c?)`: `a` `(M, K)`, `b` `(K, N)` (transposed where said), `c` broadcast to `(M, N)`. f32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gemm {
    /// Factor of the product.
    pub alpha: f32,
    /// Factor of `c`.
    pub beta: f32,
    /// `a` is `(K, M)`.
    pub trans_a: bool,
    /// `b` is `(N, K)`.
    pub trans_b: bool,
}

impl Default for Gemm {
    fn default() -> Gemm {
        Gemm { alpha: 1.0, beta: 1.0, trans_a: false, trans_b: false }
    }
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    if cx.opset < 7 {
        return Err(format!(
            "Gemm of opset {} broadcasts by attribute; opset 7 is the oldest that is read",
            cx.opset
        ));
    }
    Ok(Gemm {
        alpha: cx.attrs.float("alpha", 1.0)?,
        beta: cx.attrs.float("beta", 1.0)?,
        trans_a: cx.attrs.int("transA", 0)? != 0,
        trans_b: cx.attrs.int("transB", 0)? != 0,
    }
    .into())
}

/// The two sizes of a matrix, `None` where its shape is unknown.
fn matrix(ty: &Type, what: &str, transposed: bool) -> Result<Option<(Dim, Dim)>, String> {
    match ty.shape.as_deref() {
        None => Ok(None),
        Some([a, b]) if transposed => Ok(Some((b.clone(), a.clone()))),
        Some([a, b]) => Ok(Some((a.clone(), b.clone()))),
        Some(_) => Err(format!("{what} should be a matrix, but is {ty}")),
    }
}

impl Op for Gemm {
    fn name(&self) -> &str {
        "Gemm"
    }

    fn attrs(&self) -> Attrs {
        Attrs::new()
            .with_float("alpha", self.alpha, 1.0)
            .with_float("beta", self.beta, 1.0)
            .with_int("transA", self.trans_a.into(), 0)
            .with_int("transB", self.trans_b.into(), 0)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let (a, b) = (cx.ty(0)?, cx.ty(1)?);
        let (ma, mb) = (matrix(a, "A", self.trans_a)?, matrix(b, "B", self.trans_b)?);
        if let (Some((_, k)), Some((l, _))) = (&ma, &mb)
            && !k.agrees(l)
        {
            return Err(format!("A {a} and B {b} do not multiply: the inner sizes are {k} and {l}"));
        }
        let rows = ma.map_or(Dim::Unknown, |m| m.0);
        let cols = mb.map_or(Dim::Unknown, |m| m.1);
        if cx.has(2) {
            let c = cx.ty(2)?;
            let one = |d: &Dim| *d == Dim::Fixed(1);
            let fits = c.shape.as_ref().is_none_or(|c| {
                let onto = [&cols, &rows];
                c.len() <= 2 && c.iter().rev().zip(onto).all(|(d, to)| one(d) || d.agrees(to))
            });
            if !fits {
                return Err(format!("C {c} does not broadcast to the product [{rows},{cols}]"));
            }
        }
        Ok(vec![Type { dtype: a.dtype, shape: Some(vec![rows, cols]) }])
    }

    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        let (a, b, dy) = (cx.input(0)?, cx.input(1)?, cx.d_output(0)?);
        let Gemm { alpha, trans_a, trans_b, .. } = *self;
        let product = |trans_a, trans_b| Gemm { alpha, beta: 1.0, trans_a, trans_b };
        if cx.wants(0) {
            let da = match trans_a {
                false => cx.add(product(false, !trans_b), &[dy, b])?,
                true => cx.add(product(trans_b, true), &[b, dy])?,
            };
            cx.set(0, da);
        }
        if cx.wants(1) {
            let db = match trans_b {
                false => cx.add(product(!trans_a, false), &[a, dy])?,
                true => cx.add(product(true, trans_a), &[dy, a])?,
            };
            cx.set(1, db);
        }
        if cx.wants(2) {
            let c = cx.input(2)?;
            let mut dc = match cx.dims(c)? == cx.dims(dy)?[1..] {
                true => cx.add(ChannelSum, &[dy])?,
                false => sum_to(cx, dy, c)?,
            };
            if self.beta != 1.0 {
                let beta = cx.constant_value(Tensor::scalar(self.beta));
                dc = cx.add(Mul, &[dc, beta])?;
            }
            cx.set(2, dc);
        }
        Some(())
    }

    fn quant(&self) -> QuantRole {
        if self.alpha == 1.0 && self.beta == 1.0 && !self.trans_a {
            QuantRole::Weighted { data: 0, weight: 1, axis: usize::from(!self.trans_b), bias: 2 }
        } else {
            QuantRole::Float
        }
    }

    fn params(&self) -> &'static [usize] {
        &[1, 2]
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let (a, b) = (&cx.typed::<f32>(0)?.shape, &cx.typed::<f32>(1)?.shape);
        let [m, n] = cx.outs[0].shape[..] else { return Err("the product is no matrix".into()) };
        let k = a[usize::from(!self.trans_a)];
        if [a[usize::from(self.trans_a)], b[usize::from(self.trans_b)], b[usize::from(!self.trans_b)]]
            != [m, k, n]
        {
            return Err(format!("A {a:?} and B {b:?} do not multiply to {:?}", [m, n]));
        }
        let bias = match cx.optional(2) {
            Some(_) => Some(Broadcast::to(&cx.typed::<f32>(2)?.shape, &[m, n]).map_err(|e| e.to_string())?),
            None => None,
        };
        let Gemm { alpha, beta, trans_a, trans_b } = *self;
        Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let matrix = |i, rows, cols, transposed| match transposed {
                false => Matrix::new(parts.input(i), rows, cols),
                true => Matrix::new(parts.input(i), cols, rows).transposed(),
            };
            let (a, b) = (matrix(0, m, k, trans_a), matrix(1, k, n, trans_b));
            let y = parts.output(0);
            if let Some(bias) = &bias {
                bias.expand(parts.input::<f32>(2), y);
            }
            multiply(alpha, a, b, if bias.is_some() { beta } else { 0.0 }, MatrixMut::new(y, m, n));
            Ok(())
        }))
    }

    fn flops(&self, cx: &Lower) -> Option<u64> {
        products(cx.outs[0].len(), cx.optional(0)?.shape[usize::from(!self.trans_a)])
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{Draw, check_gradient};
    use ir::eval;

    fn matrix(rows: usize, cols: usize, first: i32) -> Tensor {
        Tensor::new(&[rows, cols], (0..rows * cols).map(|i| (first + i as i32) as f32).collect())
    }

    #[test]
    fn all_transpositions_and_factors() {
        let (a, b) = (matrix(2, 3, 1), matrix(3, 2, -2));
        let (at, bt) = (
            Tensor::new(&[3, 2], vec![1.0f32, 4.0, 2.0, 5.0, 3.0, 6.0]),
            Tensor::new(&[2, 3], vec![-2.0f32, 0.0, 2.0, -1.0, 1.0, 3.0]),
        );
        for (trans_a, trans_b) in [(false, false), (true, false), (false, true), (true, true)] {
            let (a, b) = (if trans_a { &at } else { &a }, if trans_b { &bt } else { &b });
            let op = Gemm { trans_a, trans_b, ..Gemm::default() };
            assert_eq!(eval(&op, &[Some(a), Some(b)], 1).unwrap()[0].to_f32(), [4.0, 10.0, 4.0, 19.0]);
        }
        let op = Gemm { alpha: 0.5, beta: 2.0, ..Gemm::default() };
        for (c, want) in [
            (Tensor::scalar(1f32), [4.0, 7.0, 4.0, 11.5]),
            (Tensor::new(&[2], vec![1f32, 2.0]), [4.0, 9.0, 4.0, 13.5]),
            (Tensor::new(&[2, 1], vec![1f32, 2.0]), [4.0, 7.0, 6.0, 13.5]),
            (Tensor::new(&[2, 2], vec![1f32, 2.0, 3.0, 4.0]), [4.0, 9.0, 8.0, 17.5]),
        ] {
            assert_eq!(eval(&op, &[Some(&a), Some(&b), Some(&c)], 1).unwrap()[0].to_f32(), want);
        }
    }

    #[test]
    fn gradients_against_differences() {
        let mut draw = Draw::new(5);
        let (m, k, n) = (3, 4, 2);
        for (trans_a, trans_b) in [(false, false), (true, false), (false, true), (true, true)] {
            for (c, alpha, beta) in
                [(vec![n], 1.0, 1.0), (vec![1, n], 0.5, 2.0), (vec![m, 1], 1.0, 0.5), (vec![], 1.0, 1.0)]
            {
                let a = draw.tensor(&if trans_a { [k, m] } else { [m, k] }, -1.0, 1.0);
                let b = draw.tensor(&if trans_b { [n, k] } else { [k, n] }, -1.0, 1.0);
                let c = draw.tensor(&c, -1.0, 1.0);
                check_gradient(Gemm { alpha, beta, trans_a, trans_b }, &[&a, &b, &c], 1, &[0, 1, 2]);
            }
        }
    }

    #[test]
    fn integers_have_a_type_but_no_kernel() {
        let x = Tensor::new(&[1, 1], vec![2i32]);
        let ty = Type::new(x.dtype(), [1, 1]);
        let args = [Some(ir::Arg { ty: &ty, value: None }); 2];
        assert_eq!(Gemm::default().infer(&Infer::new(&args, 1)), Ok(vec![ty.clone()]));
        let e = eval(&Gemm::default(), &[Some(&x), Some(&x)], 1).unwrap_err();
        assert!(e.to_string().contains("int32"), "{e}");
    }

    #[test]
    fn misfits_are_told() {
        let e = eval(&Gemm::default(), &[Some(&matrix(2, 3, 0)), Some(&matrix(2, 3, 0))], 1).unwrap_err();
        assert_eq!(
            e.to_string(),
            "A float[2,3] and B float[2,3] do not multiply: the inner sizes are 3 and 2"
        );
        let c = Tensor::new(&[3], vec![0f32; 3]);
        let e = eval(&Gemm::default(), &[Some(&matrix(2, 3, 0)), Some(&matrix(3, 2, 0)), Some(&c)], 1)
            .unwrap_err();
        assert!(e.to_string().contains("does not broadcast"), "{e}");
        assert!(
            eval(&Gemm::default(), &[Some(&c), Some(&c)], 1).unwrap_err().to_string().contains("a matrix")
        );
    }

    #[test]
    fn only_the_plain_layer_is_weighted() {
        let weighted = |op: Gemm| matches!(op.quant(), QuantRole::Weighted { .. });
        assert!(weighted(Gemm { trans_b: true, ..Gemm::default() }));
        assert!(
            !weighted(Gemm { alpha: 2.0, ..Gemm::default() })
                && !weighted(Gemm { trans_a: true, ..Gemm::default() })
        );
    }
}
