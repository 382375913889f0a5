//! `MatMulIntegerToFloat` (com.microsoft 1): a product of uint8 codes with a constant int8 matrix, to f32.

use crate::q_linear::{MICROSOFT, affine_at, codes, per_channel};
use crate::q_linear_mat_mul::{product, rows_by_matrix};
use crate::shapes::{products, untouched_of};
use ir::{Infer, Io, Lower, Op, Parse, Parsed, Step, Type};
use tensor::DType;

/// `MatMulIntegerToFloat(a, b, a_scale, b_scale, a_zero_point?, b_zero_point?)`: `a` uint8 `(..., K)`, `b` int8 `(K, N)`
/// with one scale or one per column. All but `a` are constants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MatMulIntegerToFloat;

/// Reads the operator. One with a bias is carried through.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    if cx.ins > 6 {
        return Ok(untouched_of(MICROSOFT, "MatMulIntegerToFloat", cx));
    }
    Ok(MatMulIntegerToFloat.into())
}

impl Op for MatMulIntegerToFloat {
    fn name(&self) -> &str {
        "MatMulIntegerToFloat"
    }

    fn domain(&self) -> &str {
        MICROSOFT
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let shape = rows_by_matrix(codes(cx, 0)?, codes(cx, 1)?)?;
        [2, 3].into_iter().try_for_each(|i| cx.float(i).map(|_| ()))?;
        Ok(vec![Type { dtype: Some(DType::F32), shape }])
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let a = affine_at(cx, 2, 4)?;
        let (product, columns) = product(cx, 1, 5, a.1)?;
        let scale = per_channel(cx, 3, columns, |b| a.0 * b)?;
        let workspace = product.workspace();
        let step = Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            product.values(parts.input(0), &scale, parts.output(0), parts.workspace());
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
    use crate::testing::run;
    use tensor::Tensor;

    #[test]
    fn a_bias_is_carried_through() {
        let op = parse(&Parse { attrs: &ir::Attrs::new(), opset: 1, ins: 7, outs: 1 }).unwrap().op;
        assert!(op.is::<ir::Opaque>().is_some());
        assert_eq!((op.domain(), op.name()), (MICROSOFT, "MatMulIntegerToFloat"));
    }

    #[test]
    fn sums_are_exact() {
        let a = Tensor::new(&[1, 2, 2], vec![0u8, 255, 7, 9]);
        let b = Tensor::new(&[2, 3], vec![127i8, -128, 1, 127, -128, 2]);
        let (a_scale, b_scale) = (Tensor::scalar(0.5f32), Tensor::new(&[3], vec![1f32, 2.0, 4.0]));
        let (a_zero, b_zero) = (Tensor::scalar(7u8), Tensor::scalar(0i8));
        let ins = [&a, &b, &a_scale, &b_scale, &a_zero, &b_zero].map(Some);
        let y = run(&MatMulIntegerToFloat, &ins, 1).unwrap().remove(0);
        let want = vec![30607.0 / 2.0, -30848.0, 978.0, 127.0, -256.0, 8.0];
        assert_eq!(y, Tensor::new(&[1, 2, 3], want.into_iter().map(|x: f64| x as f32).collect::<Vec<f32>>()));
        let b = Tensor::zeros(DType::I8, &[3, 3]);
        let ins = [&a, &b, &a_scale, &b_scale].map(Some);
        assert!(run(&MatMulIntegerToFloat, &ins, 1).unwrap_err().contains("do not multiply"));
    }
}
