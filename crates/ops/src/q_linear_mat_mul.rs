//! `QLinearMatMul` (ONNX 10, 21): a product of 8-bit codes, rounded once to 8-bit codes.

use crate::mat_mul::product_shape;
use crate::mat_mul_integer::Products;
use crate::q_gemm::transposed;
use crate::q_linear::{Rescale, affine, check_affine, code_dtype, codes, per_channel, weight};
use crate::shapes::products;
use ir::{Dim, Infer, Io, Lower, Op, Parse, Parsed, Step, Type};
use kernels::integer;

/// `QLinearMatMul(a, a_scale, a_zero_point, b, b_scale, b_zero_point, y_scale, y_zero_point)`: the product of `a` and `b`, uint8
/// or int8 with NumPy's rules for shapes, rounded to codes. `a` may have a scale per row, `b` one per column. Fast where `a` is
/// uint8, `b` one constant int8 matrix, and the scales are constants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QLinearMatMul;

/// Reads the operator: it has no attributes.
pub fn parse(_: &Parse) -> Result<Parsed, String> {
    Ok(QLinearMatMul.into())
}

/// The shape of a product of `a`, `(..., K)`, with the matrix `b`, `(K, N)`; `None` where unknown. Stacks of matrices `b`
/// would follow NumPy; these operators have none.
pub(crate) fn rows_by_matrix(a: &Type, b: &Type) -> Result<Option<Vec<Dim>>, String> {
    match (a.shape.as_deref(), b.shape.as_deref()) {
        (Some([_, .., k] | [k]), Some([inner, _])) if !k.agrees(inner) => {
            Err(format!("{a} and {b} do not multiply: the inner sizes are {k} and {inner}"))
        }
        (Some([rows @ .., _]), Some([_, columns])) => {
            Ok(Some(rows.iter().chain([columns]).cloned().collect()))
        }
        _ => Ok(None),
    }
}

/// The kernel for such a product, with the constant weight at slot `weight_slot` and its zero point at slot `zero_slot`;
/// and its number of columns.
pub(crate) fn product(
    cx: &Lower,
    weight_slot: usize,
    zero_slot: usize,
    zero_point: u8,
) -> Result<(integer::Conv, usize), String> {
    let (a, b) = (&cx.typed::<u8>(0)?.shape, &cx.input(weight_slot)?.shape);
    let (&[ref rows @ .., inner], &[depth, columns]) = (&a[..], &b[..]) else {
        return Err(format!("the executor multiplies codes with one matrix, not {a:?} with {b:?}"));
    };
    if depth != inner {
        return Err(format!("rows of {inner} codes and columns of {depth} do not multiply"));
    }
    let weight = transposed(&weight(cx, weight_slot, zero_slot)?, inner, columns);
    let rows = rows.iter().product();
    Ok((integer::Conv::product(rows, columns, inner, &weight, zero_point, None)?, columns))
}

/// Rows of uint8 codes with one constant int8 matrix of zero point 0.
fn lower_fast(cx: &Lower) -> Result<Step, String> {
    let (a, y) = (affine(cx, 1)?, affine(cx, 6)?);
    let (product, columns) = product(cx, 3, 5, a.1)?;
    let scale = per_channel(cx, 4, columns, |b| (a.0 * b) / y.0)?;
    let workspace = product.workspace();
    let step = Step::new(move |io: &mut Io| {
        let mut parts = io.split();
        product.codes(parts.input(0), &scale, y.1, parts.output(0), parts.workspace());
        Ok(())
    });
    Ok(step.workspace::<u32>(workspace))
}

/// The definition, for all other forms.
fn lower_any(cx: &Lower) -> Result<Step, String> {
    let products = Products::new(cx, [0, 3], [2, 5])?;
    let (m, n) = (products.plan.m, products.plan.n);
    let rescale = Rescale::new(cx, [1, 4, 6], 7)?;
    rescale.check([m, n])?;
    let len = cx.outs[0].len();
    let step = Step::new(move |io: &mut Io| {
        let mut parts = io.split();
        let sums = &mut parts.workspace::<i32>()[..len];
        products.run(&parts, sums);
        let scales = rescale.scales(&parts);
        for (i, (y, &sum)) in parts.output::<u8>(0).iter_mut().zip(&*sums).enumerate() {
            *y = scales.code(sum, i / n % m, i % n);
        }
        Ok(())
    });
    Ok(step.workspace::<i32>(len))
}

impl Op for QLinearMatMul {
    fn name(&self) -> &str {
        "QLinearMatMul"
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let (a, b) = (codes(cx, 0)?, codes(cx, 3)?);
        check_affine(cx, 6)?;
        Ok(vec![Type { dtype: code_dtype(cx, 7)?, shape: product_shape(a, b)? }])
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        lower_fast(cx).or_else(|_| lower_any(cx))
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
    fn stacks_of_rows() {
        let mut draw = Draw::new(43);
        let (k, n) = (6, 3);
        let a: Vec<u8> = (0..8 * k).map(|_| draw.int(0, 256) as u8).collect();
        let b: Vec<i8> = (0..k * n).map(|_| draw.int(0, 256) as u8 as i8).collect();
        let (unit, zero, b_zero) = (Tensor::scalar(1f32), Tensor::scalar(5u8), Tensor::scalar(0i8));
        let (b_scale, y_zero) = (Tensor::new(&[n], vec![0.01f32, 0.02, 0.03]), Tensor::scalar(128u8));
        let (at, bt) = (Tensor::new(&[2, 4, k], a.clone()), Tensor::new(&[k, n], b.clone()));
        let ins = [&at, &unit, &zero, &bt, &b_scale, &b_zero, &unit, &y_zero].map(Some);
        let y = run(&QLinearMatMul, &ins, 1).unwrap().remove(0);
        assert_eq!(y.shape(), [2, 4, n]);
        for (i, code) in y.to_f32().into_iter().enumerate() {
            let products = (0..k).map(|p| (i32::from(a[i / n * k + p]) - 5) * i32::from(b[p * n + i % n]));
            let steps = products.sum::<i32>() as f32 * b_scale.to_f32()[i % n];
            assert_eq!(code, (steps.round_ties_even() + 128.0).clamp(0.0, 255.0));
        }
        let wrong = Tensor::zeros(tensor::DType::I8, &[k + 1, n]);
        let ins = [&at, &unit, &zero, &wrong, &unit, &b_zero, &unit, &y_zero].map(Some);
        assert!(run(&QLinearMatMul, &ins, 1).unwrap_err().contains("do not multiply"));
    }
}
