//! `MatMulInteger` (ONNX 10): a product of matrices of 8-bit codes in int32.

use crate::mat_mul::{Plan, product_shape};
use crate::q_linear::codes;
use crate::shapes::products;
use ir::{Dim, Infer, Io, Lower, Op, Parse, Parsed, Step, Type};
use kernels::integer::{Codes, multiply};
use tensor::DType;

/// `MatMulInteger(a, b, a_zero_point?, b_zero_point?)`: `(a - a_zero_point) (b - b_zero_point)`, uint8 or int8 each, with
/// NumPy's rules for shapes. A zero point is one number, or one per row of `a` (`(M)` or `(batch..., M, 1)`) and per column
/// of `b` (`(N)` or `(batch..., 1, N)`). A sum beyond int32 wraps around.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MatMulInteger;

/// Reads the operator: it has no attributes.
pub fn parse(_: &Parse) -> Result<Parsed, String> {
    Ok(MatMulInteger.into())
}

/// Checks the zero points of operand `i`, of which there may be one for each entry of an axis, counted from the end.
fn check_zero_points(cx: &Infer, i: usize, axis_from_end: usize) -> Result<(), String> {
    if !cx.has(2 + i) {
        return Ok(());
    }
    let (matrix, zero_point) = (cx.ty(i)?, codes(cx, 2 + i)?);
    let (Some(shape), Some(zero)) = (&matrix.shape, &zero_point.shape) else { return Ok(()) };
    let one = |d: &Dim| d.agrees(&Dim::Fixed(1));
    let along = shape.len().checked_sub(axis_from_end).map_or(Dim::Fixed(1), |at| shape[at].clone());
    let fits = match &zero[..] {
        zero if zero.iter().all(one) => true,
        [d] => d.agrees(&along),
        zero if zero.len() == shape.len() => zero.iter().zip(shape).enumerate().all(|(at, (d, size))| {
            if at + 3 - axis_from_end == shape.len() { one(d) } else { d.agrees(size) }
        }),
        _ => false,
    };
    let same = zero_point.dtype.is_none() || matrix.dtype.is_none() || zero_point.dtype == matrix.dtype;
    if fits && same { Ok(()) } else { Err(format!("the zero point {zero_point} does not fit {matrix}")) }
}

/// Products of two stacks of matrices of codes.
pub(crate) struct Products {
    pub plan: Plan,
    operands: [usize; 2],
    zeros: [usize; 2],
    signed: [bool; 2],
    /// How many zero points each operand has, and whether each matrix of the batch has its own.
    counts: [(usize, bool); 2],
}

impl Products {
    /// Of the operands at two slots, with their zero points at two others.
    pub(crate) fn new(cx: &Lower, operands: [usize; 2], zeros: [usize; 2]) -> Result<Products, String> {
        let (a, b) = (cx.input(operands[0])?, cx.input(operands[1])?);
        let plan = Plan::new(&a.shape, &b.shape)?;
        if [a, b].iter().any(|o| o.dtype != DType::I8 && o.dtype != DType::U8) {
            return Err(format!("the executor multiplies uint8 and int8, not {} and {}", a.dtype, b.dtype));
        }
        let count = |slot: usize, size: usize, batch: usize| match cx.optional(slot).map(|z| z.len()) {
            None | Some(1) => Ok((1, false)),
            Some(len) if len == size => Ok((size, false)),
            Some(len) if Some(len) == size.checked_mul(batch) => Ok((size, true)),
            Some(len) => Err(format!("{len} zero points do not fit {size} rows or columns")),
        };
        let counts = [count(zeros[0], plan.m, plan.batches.0)?, count(zeros[1], plan.n, plan.batches.1)?];
        Ok(Products { signed: [a, b].map(|o| o.dtype == DType::I8), plan, operands, zeros, counts })
    }

    /// The sums, matrix by matrix.
    pub(crate) fn run(&self, parts: &ir::Parts, y: &mut [i32]) {
        let Plan { m, k, n, ref pairs, .. } = self.plan;
        let operand = |i: usize, at: usize, size: usize| {
            let (count, batched) = self.counts[i];
            let zero_points = match parts.input(self.zeros[i]) {
                [] => &[0],
                all => &all[if batched { at * count } else { 0 }..][..count],
            };
            let codes = &parts.input(self.operands[i])[at * size..][..size];
            Codes { codes, signed: self.signed[i], zero_points }
        };
        for (&(p, q), y) in pairs.iter().zip(y.chunks_exact_mut((m * n).max(1))) {
            multiply([m, k, n], operand(0, p, m * k), operand(1, q, k * n), y);
        }
    }
}

impl Op for MatMulInteger {
    fn name(&self) -> &str {
        "MatMulInteger"
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let shape = product_shape(codes(cx, 0)?, codes(cx, 1)?)?;
        check_zero_points(cx, 0, 2)?;
        check_zero_points(cx, 1, 1)?;
        Ok(vec![Type { dtype: Some(DType::I32), shape }])
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let products = Products::new(cx, [0, 1], [2, 3])?;
        Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let y = parts.output(0);
            products.run(&parts, y);
            Ok(())
        }))
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

    fn drawn(draw: &mut Draw, shape: &[usize], signed: bool) -> Tensor {
        let all: Vec<u8> = (0..shape.iter().product()).map(|_| draw.int(0, 256) as u8).collect();
        let dtype = if signed { DType::I8 } else { DType::U8 };
        Tensor::from_bytes(dtype, shape, all.into()).unwrap()
    }

    /// The product of one pair of matrices by definition.
    fn product(
        a: &[i64],
        b: &[i64],
        za: impl Fn(usize) -> i64,
        zb: impl Fn(usize) -> i64,
        mkn: [usize; 3],
    ) -> Vec<i64> {
        let [m, k, n] = mkn;
        let one = |i: usize| -> i64 {
            let (row, col) = (i / n, i % n);
            (0..k).map(|p| (a[row * k + p] - za(row)) * (b[p * n + col] - zb(col))).sum()
        };
        (0..m * n).map(one).collect()
    }

    #[test]
    fn types_and_zero_points() {
        let mut draw = Draw::new(31);
        let mkn @ [m, k, n] = [5, 6, 3];
        for (signed_a, signed_b) in [(false, true), (false, false), (true, true), (true, false)] {
            let (a, b) = (drawn(&mut draw, &[m, k], signed_a), drawn(&mut draw, &[k, n], signed_b));
            for (za, zb) in
                [(vec![], vec![]), (vec![m], vec![n]), (vec![1], vec![1, n]), (vec![m, 1], vec![])]
            {
                let (za, zb) = (drawn(&mut draw, &za, signed_a), drawn(&mut draw, &zb, signed_b));
                let y = run(&MatMulInteger, &[&a, &b, &za, &zb].map(Some), 1).unwrap().remove(0);
                assert_eq!((y.shape(), y.dtype()), (&[m, n][..], DType::I32));
                let at = |z: &Tensor, i: usize| z.to_i64()[if z.len() == 1 { 0 } else { i }];
                assert_eq!(
                    y.to_i64(),
                    product(&a.to_i64(), &b.to_i64(), |i| at(&za, i), |i| at(&zb, i), mkn)
                );
            }
            let y = run(&MatMulInteger, &[Some(&a), Some(&b)], 1).unwrap().remove(0);
            assert_eq!(y.to_i64(), product(&a.to_i64(), &b.to_i64(), |_| 0, |_| 0, mkn));
        }
    }

    #[test]
    fn batches() {
        let mut draw = Draw::new(32);
        let mkn @ [m, k, n] = [2, 4, 3];
        let (a, b) = (drawn(&mut draw, &[2, 1, m, k], false), drawn(&mut draw, &[3, k, n], true));
        let (za, zb) = (drawn(&mut draw, &[2, 1, m, 1], false), drawn(&mut draw, &[3, 1, n], true));
        let y = run(&MatMulInteger, &[&a, &b, &za, &zb].map(Some), 1).unwrap().remove(0);
        assert_eq!(y.shape(), [2, 3, m, n]);
        let (a, b, za, zb) = (a.to_i64(), b.to_i64(), za.to_i64(), zb.to_i64());
        for (i, y) in y.to_i64().chunks(m * n).enumerate() {
            let (p, q) = (i / 3, i % 3);
            let want = product(&a[p * m * k..], &b[q * k * n..], |r| za[p * m + r], |c| zb[q * n + c], mkn);
            assert_eq!(y, want);
        }
    }

    #[test]
    fn misfits_are_told() {
        let (a, b) = (Tensor::zeros(DType::U8, &[2, 3]), Tensor::zeros(DType::I8, &[3, 4]));
        let at = |za: &Tensor, zb: &Tensor| run(&MatMulInteger, &[&a, &b, za, zb].map(Some), 1).unwrap_err();
        let (u8_zero, i8_zero) = (Tensor::scalar(0u8), Tensor::scalar(0i8));
        assert_eq!(at(&i8_zero, &i8_zero), "the zero point int8[] does not fit uint8[2,3]");
        assert_eq!(
            at(&u8_zero, &Tensor::zeros(DType::I8, &[3])),
            "the zero point int8[3] does not fit int8[3,4]"
        );
        assert!(at(&Tensor::zeros(DType::U8, &[1, 3]), &i8_zero).contains("zero point"));
        let e = run(&MatMulInteger, &[Some(&a), Some(&a)], 1).unwrap_err();
        assert!(e.contains("inner sizes are 3 and 2"), "{e}");
        let e = run(&MatMulInteger, &[Some(&Tensor::scalar(1f32)), Some(&b)], 1).unwrap_err();
        assert!(e.contains("8-bit codes"), "{e}");
    }
}
