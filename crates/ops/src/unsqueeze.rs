//! `Unsqueeze` (ONNX 1, 11, 13, 21): inserts axes of size 1. Before opset 13 the axes were an attribute.

use crate::reshape::{reshape_as, view};
use crate::shapes::{axes, integers, list, listed};
use ir::{Dim, Infer, Lower, Op, Parse, Parsed, QuantRole, Step, Type, Vjp};

/// `Unsqueeze(x, axes)`: `axes` i64, positions in the result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unsqueeze;

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    let inputs = cx.attrs.ints("axes")?.filter(|_| cx.ins < 2).map(|a| (1, list(&a))).into_iter().collect();
    Ok(Parsed { inputs, ..Unsqueeze.into() })
}

impl Op for Unsqueeze {
    fn name(&self) -> &str {
        "Unsqueeze"
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let x = cx.ty(0)?;
        let shape = match (&x.shape, integers(cx, 1)?) {
            (Some(dims), Some(list)) => {
                let rank = listed(dims.len().saturating_add(list.len()))?.len();
                let axes = axes(&list, rank)?;
                let mut old = dims.iter().cloned();
                let size =
                    |i| if axes.contains(&i) { Dim::Fixed(1) } else { old.next().unwrap_or(Dim::Unknown) };
                Some((0..rank).map(size).collect())
            }
            (Some(dims), None) => {
                let count = cx.ty(1)?.dims().map(|d| d.iter().product::<usize>());
                count.map(|n| listed(dims.len().saturating_add(n))).transpose()?
            }
            _ => None,
        };
        Ok(vec![Type { dtype: x.dtype, shape }])
    }

    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        let d = reshape_as(cx, cx.d_output(0)?, cx.input(0)?)?;
        cx.set(0, d);
        Some(())
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        view(cx)
    }

    fn quant(&self) -> QuantRole {
        QuantRole::SameScale
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{Draw, check_gradient, eval, run};
    use tensor::{DType, Tensor};

    #[test]
    fn shapes() {
        let x = Tensor::zeros(DType::I64, &[3, 2]);
        let shape = |axes: &[i64]| eval(&Unsqueeze, &[&x, &list(axes)]).map(|t| t.shape().to_vec());
        assert_eq!(shape(&[0]).unwrap(), [1, 3, 2]);
        assert_eq!(shape(&[-1, 1]).unwrap(), [3, 1, 2, 1]);
        assert!(shape(&[1, 1]).unwrap_err().contains("twice"));
        assert!(shape(&[3]).is_err());
        assert!(shape(&(0..1_000_000).collect::<Vec<_>>()).unwrap_err().contains("longer than"));
        assert!(run(&Unsqueeze, &[Some(&x)], 1).unwrap_err().contains("input 1 is missing"));
        assert_eq!(eval(&Unsqueeze, &[&Tensor::scalar(5i64), &list(&[0])]).unwrap(), list(&[5]));
    }

    #[test]
    fn gradient() {
        check_gradient(Unsqueeze, &[&Draw::new(1).tensor(&[2, 3], -1.0, 1.0), &list(&[2, 3])], 1, &[0]);
    }
}
