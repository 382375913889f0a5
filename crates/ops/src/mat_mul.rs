//! `MatMul` (ONNX 1, 9, 13): matrix product with NumPy's rules for more or fewer than two axes; and its gradient
//! `qat.MatMulGrad`. The history of the operator brings element types only.

use crate::shapes::{broadcast, check_table, products, same_dtype};
use ir::{Attrs, Dim, Infer, Io, Lower, Op, Parse, Parsed, QuantRole, Step, Type, Vjp};
use kernels::broadcast::broadcast_shape;
use kernels::matmul::{Matrix, MatrixMut, multiply, multiply_batched};
use tensor::element_count;

/// `MatMul(a, b)`: `a` `(batch..., M, K)`, `b` `(batch..., K, N)`, batches broadcast; an operand of one axis is a row
/// on the left and a column on the right, and that axis is dropped from the result. f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MatMul;

/// Reads the operator.
pub fn parse(_cx: &Parse) -> Result<Parsed, String> {
    Ok(MatMul.into())
}

/// Shape of the product of two stacks of matrices, by NumPy's rules.
pub(crate) fn product_shape(a: &Type, b: &Type) -> Result<Option<Vec<Dim>>, String> {
    let (Some(p), Some(q)) = (&a.shape, &b.shape) else { return Ok(None) };
    if p.is_empty() || q.is_empty() {
        return Err(format!("{a} and {b} do not multiply: one is a scalar"));
    }
    // A vector counts as a matrix of one row (left) or one column (right).
    let split = |s: &[Dim], left: bool| match (s, left) {
        ([k], true) => (vec![], None, k.clone()),
        ([k], false) => (vec![], None, k.clone()),
        ([batch @ .., m, k], true) => (batch.to_vec(), Some(m.clone()), k.clone()),
        ([batch @ .., k, n], false) => (batch.to_vec(), Some(n.clone()), k.clone()),
        ([], _) => (vec![], None, Dim::Unknown),
    };
    let ((batch_a, rows, k), (batch_b, cols, l)) = (split(p, true), split(q, false));
    if !k.agrees(&l) {
        return Err(format!("{a} and {b} do not multiply: the inner sizes are {k} and {l}"));
    }
    let batch = |dims| Type { dtype: a.dtype, shape: Some(dims) };
    let shape = broadcast(&batch(batch_a), &batch(batch_b))?;
    Ok(shape.map(|s| s.into_iter().chain(rows).chain(cols).collect()))
}

impl Op for MatMul {
    fn name(&self) -> &str {
        "MatMul"
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let (a, b) = (cx.ty(0)?, cx.ty(1)?);
        Ok(vec![Type { dtype: same_dtype(a, b)?, shape: product_shape(a, b)? }])
    }

    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        let (a, b, dy) = (cx.input(0)?, cx.input(1)?, cx.d_output(0)?);
        for (i, of, like, other) in [(0, Side::Left, a, b), (1, Side::Right, b, a)] {
            if cx.wants(i) {
                let shape = cx.dims(like)?;
                let gradient = cx.add(MatMulGrad { of, shape }, &[dy, other])?;
                cx.set(i, gradient);
            }
        }
        Some(())
    }

    /// Of a constant matrix on the right, columns are output channels. There is no slot for a bias: slot 2 stays empty.
    fn quant(&self) -> QuantRole {
        QuantRole::Weighted { data: 0, weight: 1, axis: 1, bias: 2 }
    }

    fn params(&self) -> &'static [usize] {
        &[1]
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let plan = Plan::new(&cx.typed::<f32>(0)?.shape, &cx.typed::<f32>(1)?.shape)?;
        let Plan { m, k, n, ref pairs, .. } = plan;
        if let Some(rows) = plan.as_one_product() {
            return Ok(Step::new(move |io: &mut Io| {
                let mut parts = io.split();
                let (a, b) = (Matrix::new(parts.input(0), rows, k), Matrix::new(parts.input(1), k, n));
                multiply(1.0, a, b, 0.0, MatrixMut::new(parts.output(0), rows, n));
                Ok(())
            }));
        }
        let pairs = pairs.clone();
        Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let (a, b) = (parts.input::<f32>(0), parts.input::<f32>(1));
            let operands = |i: usize| {
                let (p, q) = pairs[i];
                (Matrix::new(&a[p * m * k..], m, k), Matrix::new(&b[q * k * n..], k, n))
            };
            multiply_batched(1.0, operands, 0.0, parts.output(0), m, n);
            Ok(())
        }))
    }

    fn flops(&self, cx: &Lower) -> Option<u64> {
        products(cx.outs[0].len(), *cx.optional(0)?.shape.last()?)
    }
}

/// A product of two batches of matrices.
pub(crate) struct Plan {
    pub m: usize,
    pub k: usize,
    pub n: usize,
    /// For each matrix of the result, which matrices of the operands make it.
    pub pairs: Vec<(usize, usize)>,
    /// Number of matrices of each operand.
    pub batches: (usize, usize),
}

impl Plan {
    pub fn new(a: &[usize], b: &[usize]) -> Result<Plan, String> {
        let misfit = || format!("shapes {a:?} and {b:?} do not multiply");
        let (batch_a, m, k) = match a {
            [] => return Err(misfit()),
            [k] => (&a[..0], 1, *k),
            [batch @ .., m, k] => (batch, *m, *k),
        };
        let (batch_b, l, n) = match b {
            [] => return Err(misfit()),
            [k] => (&b[..0], *k, 1),
            [batch @ .., k, n] => (batch, *k, *n),
        };
        if k != l {
            return Err(misfit());
        }
        let batch = broadcast_shape(&[batch_a, batch_b]).map_err(|e| e.to_string())?;
        let count = element_count(&batch).ok_or_else(misfit)?;
        check_table(count)?;
        // The matrix of an operand that result `i` reads: its index without the axes along which it repeats.
        let source = |dims: &[usize], mut i: usize| {
            let (mut at, mut stride) = (0, 1);
            for (axis, &size) in batch.iter().enumerate().rev() {
                let own = (axis + dims.len()).checked_sub(batch.len()).map_or(1, |j| dims[j]);
                at += if own == 1 { 0 } else { i % size * stride };
                stride *= own;
                i /= size;
            }
            at
        };
        let pairs = (0..count).map(|i| (source(batch_a, i), source(batch_b, i))).collect();
        Ok(Plan { m, k, n, pairs, batches: (batch_a.iter().product(), batch_b.iter().product()) })
    }

    /// The rows of the one product that this is when the same matrix stands on the right everywhere, and each on the
    /// left is used once.
    fn as_one_product(&self) -> Option<usize> {
        let one = self.batches.1 == 1 && self.batches.0 == self.pairs.len();
        one.then_some(self.m * self.pairs.len())
    }
}

/// An operand of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Side {
    Left,
    Right,
}

/// `MatMulGrad(dy, other)`: the gradient of [`MatMul`] with respect to one operand, given the other one. Sums over the
/// batch axes along which the operand was repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MatMulGrad {
    /// Which operand.
    pub of: Side,
    /// Its shape.
    pub shape: Vec<usize>,
}

/// Reads the gradient.
pub fn parse_grad(cx: &Parse) -> Result<Parsed, String> {
    let of = match cx.attrs.str("of", "")? {
        "A" => Side::Left,
        "B" => Side::Right,
        of => return Err(format!("attribute of should be A or B, but is \"{of}\"")),
    };
    Ok(MatMulGrad { of, shape: cx.attrs.sizes("shape")?.ok_or("attribute shape is missing")? }.into())
}

impl Op for MatMulGrad {
    fn name(&self) -> &str {
        "MatMulGrad"
    }

    fn domain(&self) -> &str {
        "qat"
    }

    fn attrs(&self) -> Attrs {
        let of = if self.of == Side::Left { "A" } else { "B" };
        Attrs::new()
            .with_str("of", of, "")
            .with("shape", ir::Attr::Ints(self.shape.iter().map(|&d| d as i64).collect()))
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let (dy, other) = (cx.float(0)?, cx.float(1)?);
        let own = Type { dtype: dy.dtype, shape: Some(self.shape.iter().map(|&d| Dim::Fixed(d)).collect()) };
        let operands = if self.of == Side::Left { [&own, other] } else { [other, &own] };
        let args = operands.map(|ty| Some(ir::Arg { ty, value: None }));
        let product = MatMul.infer(&Infer::new(&args, 1))?;
        if !product.iter().all(|ty| ty.agrees(dy)) {
            return Err(format!(
                "{dy} is not the gradient of a product of {} and {}",
                operands[0], operands[1]
            ));
        }
        Ok(vec![own])
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        cx.typed::<f32>(0)?;
        let other = &cx.typed::<f32>(1)?.shape;
        let left = self.of == Side::Left;
        let plan = if left { Plan::new(&self.shape, other)? } else { Plan::new(other, &self.shape)? };
        let Plan { m, k, n, ref pairs, .. } = plan;
        if let Some(rows) = plan.as_one_product() {
            return Ok(Step::new(move |io: &mut Io| {
                let mut parts = io.split();
                let (dy, other) = (Matrix::new(parts.input(0), rows, n), parts.input(1));
                let out = parts.output(0);
                match left {
                    true => multiply(
                        1.0,
                        dy,
                        Matrix::new(other, k, n).transposed(),
                        0.0,
                        MatrixMut::new(out, rows, k),
                    ),
                    false => multiply(
                        1.0,
                        Matrix::new(other, rows, k).transposed(),
                        dy,
                        0.0,
                        MatrixMut::new(out, k, n),
                    ),
                }
                Ok(())
            }));
        }
        // (result of the forward product, own matrix, other matrix, whether it is the first for the own matrix)
        let mut terms: Vec<(usize, usize, usize, bool)> = pairs
            .iter()
            .enumerate()
            .map(|(i, &(a, b))| if left { (i, a, b, false) } else { (i, b, a, false) })
            .collect();
        terms.sort_by_key(|t| (t.1, t.0));
        let firsts: Vec<bool> = (0..terms.len()).map(|i| i == 0 || terms[i - 1].1 != terms[i].1).collect();
        terms.iter_mut().zip(firsts).for_each(|(t, first)| t.3 = first);
        let (rows, cols) = if left { (m, k) } else { (k, n) };
        Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let (dy, other) = (parts.input::<f32>(0), parts.input::<f32>(1));
            let out = parts.output::<f32>(0);
            for &(i, own, from, first) in &terms {
                let dy = Matrix::new(&dy[i * m * n..], m, n);
                let (a, b) = match left {
                    true => (dy, Matrix::new(&other[from * k * n..], k, n).transposed()),
                    false => (Matrix::new(&other[from * m * k..], m, k).transposed(), dy),
                };
                let beta = if first { 0.0 } else { 1.0 };
                multiply(1.0, a, b, beta, MatrixMut::new(&mut out[own * rows * cols..], rows, cols));
            }
            Ok(())
        }))
    }

    fn flops(&self, cx: &Lower) -> Option<u64> {
        let inner = match (&self.of, &self.shape[..]) {
            (Side::Left, [.., inner]) | (Side::Right, [.., inner, _] | [inner]) => *inner,
            _ => return None,
        };
        products(cx.optional(0)?.len(), inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use ir::Arg;
    use tensor::DType;

    #[test]
    fn integers_have_a_shape_too() {
        let types = [Type::unknown(), Type::new(DType::I32, [3usize, 2])];
        let infer = |a: &Type, b: &Type| {
            MatMul
                .infer(&Infer::new(&[a, b].map(|ty| Some(Arg { ty, value: None })), 1))
                .map(|y| y[0].clone())
        };
        assert_eq!(
            infer(&types[1], &Type::new(DType::I32, [2usize, 4])).unwrap(),
            Type::new(DType::I32, [3usize, 4])
        );
        assert_eq!(infer(&types[0], &types[1]).unwrap(), Type::of(DType::I32));
        assert!(infer(&types[1], &Type::of(DType::F32)).unwrap_err().contains("one element type"));
    }
    use ir::eval;
    use tensor::Tensor;

    fn counted(shape: &[usize]) -> Tensor {
        Tensor::new(shape, (0..shape.iter().product()).map(|i| i as f32 * 0.5 - 1.0).collect())
    }

    /// Element by element, in double precision.
    fn naive(a: &Tensor, b: &Tensor, shape: &[usize]) -> Vec<f64> {
        let (m, k, n) = match (a.shape(), b.shape()) {
            ([.., m, k], [.., n]) if b.shape().len() > 1 => (*m, *k, *n),
            ([.., m, k], _) => (*m, *k, 1),
            ([k], [.., n]) if b.shape().len() > 1 => (1, *k, *n),
            ([k], _) => (1, *k, 1),
            _ => unreachable!("no scalars here"),
        };
        let (x, y) = (a.to_f64(), b.to_f64());
        let count = shape.iter().product::<usize>() / (m * n);
        let batch = |t: &Tensor| t.shape()[..t.shape().len().saturating_sub(2)].iter().product::<usize>();
        let mut out = Vec::new();
        for i in 0..count {
            // The cases below repeat an operand as a whole or along the outermost axis only.
            let (p, q) = (i % batch(a), i % batch(b));
            for (r, c) in (0..m).flat_map(|r| (0..n).map(move |c| (r, c))) {
                out.push((0..k).map(|l| x[(p * m + r) * k + l] * y[(q * k + l) * n + c]).sum());
            }
        }
        out
    }

    const CASES: &[(&[usize], &[usize], &[usize])] = &[
        (&[2, 3], &[3, 4], &[2, 4]),
        (&[5, 2, 3], &[3, 4], &[5, 2, 4]),
        (&[2, 3], &[5, 3, 4], &[5, 2, 4]),
        (&[2, 3, 2, 3], &[3, 3, 4], &[2, 3, 2, 4]),
        (&[2, 1, 2, 3], &[2, 1, 3, 4], &[2, 1, 2, 4]),
        (&[3], &[3, 4], &[4]),
        (&[2, 3], &[3], &[2]),
        (&[3], &[3], &[]),
        (&[5, 2, 3], &[3], &[5, 2]),
        (&[3], &[5, 3, 4], &[5, 4]),
    ];

    #[test]
    fn follows_numpy() {
        for &(a, b, shape) in CASES {
            let (x, y) = (counted(a), counted(b));
            let out = eval(&MatMul, &[Some(&x), Some(&y)], 1).unwrap();
            assert_eq!(out[0].shape(), shape);
            assert_eq!(out[0].to_f64(), naive(&x, &y, shape), "{a:?} {b:?}");
        }
    }

    /// The product is bilinear: the gradient of `sum(dy a b)` with respect to one operand, contracted with that operand,
    /// is the sum itself; and it is linear in it.
    #[test]
    fn gradients_are_the_adjoint() {
        for &(a, b, shape) in CASES {
            let (x, y, dy) = (counted(a), counted(b), counted(shape));
            let dot =
                |p: &Tensor, q: &Tensor| p.to_f64().iter().zip(q.to_f64()).map(|(p, q)| p * q).sum::<f64>();
            let out = eval(&MatMul, &[Some(&x), Some(&y)], 1).unwrap().remove(0);
            for (of, own, other) in [(Side::Left, &x, &y), (Side::Right, &y, &x)] {
                let grad = MatMulGrad { of, shape: own.shape().to_vec() };
                let d = eval(&grad, &[Some(&dy), Some(other)], 1).unwrap().remove(0);
                assert_eq!(d.shape(), own.shape());
                assert_eq!(dot(&d, own), dot(&dy, &out), "{of:?} of {a:?} {b:?}");
                // One element moved: the change of the sum is the gradient there.
                for i in 0..own.len() {
                    let mut moved = own.to_f32();
                    moved[i] += 1.0;
                    let moved = Tensor::new(own.shape(), moved);
                    let ins = if of == Side::Left { [&moved, &y] } else { [&x, &moved] };
                    let after = eval(&MatMul, &ins.map(Some), 1).unwrap().remove(0);
                    assert_eq!(dot(&dy, &after) - dot(&dy, &out), d.to_f64()[i]);
                }
            }
        }
    }

    #[test]
    fn the_rule_emits_both() {
        for (a, b, _) in &CASES[..4] {
            crate::testing::check_gradient(MatMul, &[&counted(a), &counted(b)], 1, &[0, 1]);
        }
    }

    #[test]
    fn misfits_are_told() {
        let fail = |a: &[usize], b: &[usize]| {
            eval(&MatMul, &[Some(&counted(a)), Some(&counted(b))], 1).unwrap_err().to_string()
        };
        assert_eq!(
            fail(&[2, 3], &[2, 3]),
            "float[2,3] and float[2,3] do not multiply: the inner sizes are 3 and 2"
        );
        assert!(fail(&[], &[2, 3]).contains("scalar"));
        assert!(fail(&[2, 2, 3], &[4, 3, 2]).contains("broadcast"));
    }
}
