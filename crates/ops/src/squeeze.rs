//! `Squeeze` (ONNX 1, 11, 13, 21): drops axes of size 1. Before opset 13 the axes were an attribute.

use crate::reshape::{reshape_as, view};
use crate::shapes::{axes, integers, list};
use ir::{Dim, Infer, Lower, Op, Parse, Parsed, QuantRole, Step, Type, Vjp};

/// `Squeeze(x, axes?)`: `axes` i64; all axes of size 1 where it is omitted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Squeeze;

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    let inputs = cx.attrs.ints("axes")?.filter(|_| cx.ins < 2).map(|a| (1, list(&a))).into_iter().collect();
    Ok(Parsed { inputs, ..Squeeze.into() })
}

impl Op for Squeeze {
    fn name(&self) -> &str {
        "Squeeze"
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let x = cx.ty(0)?;
        let shape = match (&x.shape, integers(cx, 1)?) {
            (Some(dims), Some(list)) => {
                let axes = axes(&list, dims.len())?;
                if let Some(a) = axes.iter().find(|a| dims[**a].fixed().is_some_and(|n| n != 1)) {
                    return Err(format!("axis {a} of {x} has not the size 1"));
                }
                Some((0..dims.len()).filter(|i| !axes.contains(i)).map(|i| dims[i].clone()).collect())
            }
            (Some(dims), None) if !cx.has(1) && dims.iter().all(|d| d.fixed().is_some()) => {
                Some(dims.iter().filter(|d| **d != Dim::Fixed(1)).cloned().collect())
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
    use ir::{Attr, Attrs};
    use tensor::{DType, Tensor};

    #[test]
    fn shapes() {
        let x = Tensor::zeros(DType::I64, &[1, 3, 1, 2]);
        let shape = |axes: &[i64]| eval(&Squeeze, &[&x, &list(axes)]).map(|t| t.shape().to_vec());
        assert_eq!(shape(&[-2]).unwrap(), [1, 3, 2]);
        assert_eq!(shape(&[2, 0]).unwrap(), [3, 2]);
        assert!(shape(&[1]).unwrap_err().contains("size 1"));
        assert!(shape(&[0, -4]).unwrap_err().contains("twice"));
        assert!(shape(&[4]).is_err());
        assert_eq!(run(&Squeeze, &[Some(&x)], 1).unwrap()[0].shape(), [3, 2]);
    }

    #[test]
    fn the_attribute_becomes_an_input() {
        let attrs = Attrs::new().with("axes", Attr::Ints(vec![2, 3]));
        let parsed = parse(&Parse { attrs: &attrs, opset: 11, ins: 1, outs: 1 }).unwrap();
        assert_eq!(parsed.inputs, [(1, list(&[2, 3]))]);
    }

    #[test]
    fn gradient() {
        check_gradient(Squeeze, &[&Draw::new(1).tensor(&[2, 3, 1, 1], -1.0, 1.0), &list(&[2, 3])], 1, &[0]);
    }
}
