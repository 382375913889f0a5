//! `ScatterND` (ONNX 11, 13, 16, 18): slices replaced, or joined, by the index of their place.

use crate::GatherND;
use crate::scatter::{self, Join, index};
use ir::{Attrs, Infer, Lower, OnnxForm, Op, Parse, Parsed, Step, Type, Vjp};
use kernels::select::strides;

/// `ScatterND(data, indices, updates)`: `data`, with each slice of `updates` at the place where [`GatherND`] would read
/// it. Indices are i64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScatterND {
    /// What becomes of the elements that are there.
    pub reduction: Join,
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    Ok(ScatterND { reduction: Join::parse(cx.attrs)? }.into())
}

impl Op for ScatterND {
    fn name(&self) -> &str {
        "ScatterND"
    }

    fn attrs(&self) -> Attrs {
        Attrs::new().with_str("reduction", self.reduction.name(), "none")
    }

    fn to_onnx(&self, opset: i64) -> Result<OnnxForm, String> {
        self.reduction.to_onnx(self, opset)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let data = cx.ty(0)?;
        let slices = GatherND::default().infer(cx)?;
        if !cx.ty(2)?.agrees(&slices[0]) {
            return Err(format!("updates {} do not fit the slices {} of {data}", cx.ty(2)?, slices[0]));
        }
        Ok(vec![data.clone()])
    }

    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        scatter::vjp(self.reduction, |reduction| ScatterND { reduction }, GatherND::default(), cx)
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let (data, indices) = (cx.input(0)?, cx.input(1)?);
        let k = indices.shape.last().copied().unwrap_or(0);
        let (sizes, steps) = (data.shape[..k].to_vec(), strides(&data.shape)[..k].to_vec());
        let slice = data.shape[k..].iter().product::<usize>().max(1);
        scatter::lower(self.reduction, cx, move |indices, i| {
            let mut at = i % slice;
            for (j, &coordinate) in indices[i / slice * k..][..k].iter().enumerate() {
                at += index(coordinate, sizes[j])? * steps[j];
            }
            Ok(at)
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{Draw, check_gradient, eval};
    use tensor::Tensor;

    #[test]
    fn values() {
        let x = Tensor::new(&[3, 2], (0..6i64).collect());
        let at = Tensor::new(&[2, 1], vec![2i64, -3]);
        let to = Tensor::new(&[2, 2], vec![10i64, 11, 12, 13]);
        assert_eq!(eval(&ScatterND::default(), &[&x, &at, &to]).unwrap().to_i64(), [12, 13, 2, 3, 10, 11]);
        let far = Tensor::new(&[2, 1], vec![3i64, 0]);
        assert!(eval(&ScatterND::default(), &[&x, &far, &to]).unwrap_err().contains("index 3"));
    }

    #[test]
    fn joins_are_those_of_later_opsets() {
        let written = |reduction, opset| ScatterND { reduction }.to_onnx(opset).is_ok();
        assert!(written(Join::None, 13));
        assert_eq!([15, 16].map(|opset| written(Join::Mul, opset)), [false, true]);
        assert_eq!([17, 18].map(|opset| written(Join::Max, opset)), [false, true]);
    }

    #[test]
    fn gradient() {
        let mut draw = Draw::new(1);
        let (x, to) = (draw.tensor(&[3, 4, 2], -1.0, 1.0), draw.tensor(&[2, 2], -1.0, 1.0));
        let at = Tensor::new(&[2, 2], vec![0i64, 1, 2, -1]);
        for reduction in [Join::None, Join::Add] {
            check_gradient(ScatterND { reduction }, &[&x, &at, &to], 1, &[0, 2]);
        }
    }
}
