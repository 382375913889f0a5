//! `Det` (ONNX 11, 22): determinants.

use ir::{Infer, Io, Lower, Op, Parse, Parsed, Step, Type};

/// `Det(x)`: the determinant of each matrix of `x`, f32 `(..., n, n)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Det;

/// Reads the operator: it has no attributes.
pub fn parse(_: &Parse) -> Result<Parsed, String> {
    Ok(Det.into())
}

/// The determinant of a matrix of `n` rows, by elimination with the largest pivot of each column.
fn determinant(x: &[f32], n: usize) -> f64 {
    let mut m: Vec<f64> = x.iter().map(|&x| x.into()).collect();
    let mut det = 1.0;
    for column in 0..n {
        let size = |row: &usize| m[row * n + column].abs();
        let pivot = (column..n).max_by(|a, b| size(a).total_cmp(&size(b))).unwrap_or(column);
        if pivot != column {
            (0..n).for_each(|i| m.swap(pivot * n + i, column * n + i));
            det = -det;
        }
        let top = m[column * n + column];
        det *= top;
        if top == 0.0 {
            return det;
        }
        for row in column + 1..n {
            let factor = m[row * n + column] / top;
            for i in column..n {
                m[row * n + i] -= factor * m[column * n + i];
            }
        }
    }
    det
}

impl Op for Det {
    fn name(&self) -> &str {
        "Det"
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let x = cx.float(0)?;
        let shape = match x.shape.as_deref() {
            None => None,
            Some([batch @ .., rows, columns]) if rows.agrees(columns) => Some(batch.to_vec()),
            Some(_) => return Err(format!("the operand should be square matrices, but is {x}")),
        };
        Ok(vec![Type { dtype: x.dtype, shape }])
    }

    fn flops(&self, cx: &Lower) -> Option<u64> {
        let x = cx.optional(0)?;
        crate::shapes::products(x.len(), *x.shape.last()?)
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let n = *cx.typed::<f32>(0)?.shape.last().ok_or("a number is no matrix")?;
        Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let x: &[f32] = parts.input(0);
            for (i, y) in parts.output::<f32>(0).iter_mut().enumerate() {
                *y = determinant(&x[i * n * n..][..n * n], n) as f32;
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
    use tensor::{DType, Tensor};

    #[test]
    fn values() {
        let x = Tensor::new(&[2, 2, 2], vec![0.0f32, 2.0, 3.0, 4.0, 1.0, 2.0, 2.0, 4.0]);
        assert_eq!(eval(&Det, &[&x]).unwrap().to_f32(), [-6.0, 0.0]);
        assert_eq!(eval(&Det, &[&Tensor::zeros(DType::F32, &[0, 0])]).unwrap().to_f32(), [1.0]);
        assert!(eval(&Det, &[&Tensor::zeros(DType::F32, &[2, 3])]).unwrap_err().contains("square"));
    }
}
