//! `ScatterElements` (ONNX 11, 13, 16, 18; `Scatter` before): single elements replaced, or joined, by index.

use crate::GatherElements;
use crate::gather_elements::check_elements;
use crate::scatter::{self, Join, index, position};
use crate::shapes::axis;
use ir::{Attrs, Infer, Lower, OnnxForm, Op, Parse, Parsed, Step, Type, Vjp};
use kernels::select::strides;

/// `ScatterElements(data, indices, updates)`: `data`, with each element of `updates` at the place where
/// [`GatherElements`] would read it. Indices are i64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScatterElements {
    /// The axis that is indexed.
    pub axis: i64,
    /// What becomes of the element that is there.
    pub reduction: Join,
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    Ok(ScatterElements { axis: cx.attrs.int("axis", 0)?, reduction: Join::parse(cx.attrs)? }.into())
}

impl Op for ScatterElements {
    fn name(&self) -> &str {
        "ScatterElements"
    }

    fn attrs(&self) -> Attrs {
        Attrs::new().with_int("axis", self.axis, 0).with_str("reduction", self.reduction.name(), "none")
    }

    fn to_onnx(&self, opset: i64) -> Result<OnnxForm, String> {
        self.reduction.to_onnx(self, opset)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let (data, indices, updates) = (cx.ty(0)?, cx.ty(1)?, cx.ty(2)?);
        check_elements(data, indices, self.axis)?;
        if !updates.agrees(&Type { dtype: data.dtype, shape: indices.shape.clone() }) {
            return Err(format!("updates {updates} do not fit indices {indices} into {data}"));
        }
        Ok(vec![data.clone()])
    }

    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        let op = |reduction| ScatterElements { reduction, ..*self };
        scatter::vjp(self.reduction, op, GatherElements { axis: self.axis }, cx)
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let (data, indices) = (cx.input(0)?, cx.input(1)?);
        let at = axis(self.axis, data.shape.len())?;
        let (n, shape, mut steps) = (data.shape[at], indices.shape.clone(), strides(&data.shape));
        let along = std::mem::take(&mut steps[at]);
        scatter::lower(self.reduction, cx, move |indices, i| {
            Ok(position(i, &shape, &steps) + index(indices[i], n)? * along)
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
        let x = Tensor::new(&[1, 4], vec![1i64, 2, 3, 4]);
        let at = Tensor::new(&[1, 2], vec![1i64, -1]);
        let to = Tensor::new(&[1, 2], vec![10i64, 20]);
        let value =
            |reduction| eval(&ScatterElements { axis: 1, reduction }, &[&x, &at, &to]).unwrap().to_i64();
        assert_eq!(value(Join::None), [1, 10, 3, 20]);
        assert_eq!(value(Join::Add), [1, 12, 3, 24]);
        assert_eq!(value(Join::Mul), [1, 20, 3, 80]);
        assert_eq!([value(Join::Max), value(Join::Min)], [[1, 10, 3, 20], [1, 2, 3, 4]]);
    }

    #[test]
    fn joins_are_those_of_later_opsets() {
        let written = |reduction, opset| ScatterElements { axis: 0, reduction }.to_onnx(opset).is_ok();
        assert!(written(Join::None, 13));
        assert_eq!([15, 16].map(|opset| written(Join::Mul, opset)), [false, true]);
        assert_eq!([17, 18].map(|opset| written(Join::Max, opset)), [false, true]);
    }

    #[test]
    fn gradient() {
        let mut draw = Draw::new(1);
        let (x, to) = (draw.tensor(&[3, 4], -1.0, 1.0), draw.tensor(&[2, 4], -1.0, 1.0));
        let at = Tensor::new(&[2, 4], vec![0i64, 2, 2, -1, 1, 1, 0, 0]);
        for reduction in [Join::None, Join::Add] {
            check_gradient(ScatterElements { axis: 0, reduction }, &[&x, &at, &to], 1, &[0, 2]);
        }
    }
}
