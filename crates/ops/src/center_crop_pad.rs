//! `CenterCropPad` (ONNX 18): axes cut or filled up with zeros on both sides to given sizes.

use crate::parts::{pad, slice};
use crate::shapes::{axis, integers};
use crate::unary;
use ir::{Attr, Attrs, Compose, Dim, Infer, OnnxForm, Op, Parse, Parsed, Type, ValueId};

/// `CenterCropPad(x, shape)`: `shape` integers, a size for each of `axes`. An odd element is cut off, or added, at the end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CenterCropPad {
    /// The axes, all where `None`; negative ones count from the end.
    pub axes: Option<Vec<i64>>,
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    Ok(CenterCropPad { axes: cx.attrs.ints("axes")? }.into())
}

impl CenterCropPad {
    /// Each axis with its new size.
    fn targets(&self, rank: usize, sizes: &[i64]) -> Result<Vec<(usize, i64)>, String> {
        let axes = match &self.axes {
            None => (0..rank).collect(),
            Some(list) => list.iter().map(|&a| axis(a, rank)).collect::<Result<Vec<_>, _>>()?,
        };
        if axes.len() != sizes.len() || sizes.iter().any(|s| !(0..1 << 40).contains(s)) {
            return Err(format!("{sizes:?} should be a size for each of {} axes", axes.len()));
        }
        Ok(axes.into_iter().zip(sizes.iter().copied()).collect())
    }
}

impl Op for CenterCropPad {
    fn name(&self) -> &str {
        "CenterCropPad"
    }

    fn attrs(&self) -> Attrs {
        match &self.axes {
            Some(axes) => Attrs::new().with("axes", Attr::Ints(axes.clone())),
            None => Attrs::new(),
        }
    }

    fn to_onnx(&self, opset: i64) -> Result<OnnxForm, String> {
        unary::since(self, opset, 18)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let x = cx.ty(0)?;
        let Some(dims) = &x.shape else { return Ok(vec![x.clone()]) };
        let mut shape = dims.clone();
        match integers(cx, 1)? {
            Some(sizes) => {
                for (axis, size) in self.targets(dims.len(), &sizes)? {
                    shape[axis] = Dim::Fixed(size as usize);
                }
            }
            None => shape = crate::shapes::unknown(dims.len()),
        }
        Ok(vec![Type { dtype: x.dtype, shape: Some(shape) }])
    }

    fn compose(&self, cx: &mut Compose) -> Option<Vec<ValueId>> {
        let mut x = cx.input(0)?;
        let sizes = cx.constant(cx.input(1)?)?.to_i64();
        let dims = cx.dims(x)?;
        let (mut before, mut behind) = (vec![0; dims.len()], vec![0; dims.len()]);
        for (axis, size) in self.targets(dims.len(), &sizes).ok()? {
            let n = dims[axis] as i64;
            if size < n {
                let start = (n - size) / 2;
                x = slice(cx, x, axis as i64, start, start + size, 1)?;
            } else {
                before[axis] = (size - n) / 2;
                behind[axis] = size - n - before[axis];
            }
        }
        Some(vec![pad(cx, x, &before, &behind)?])
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::shapes::list;
    use crate::testing::{Draw, check_gradient, eval};
    use tensor::Tensor;

    #[test]
    fn cuts_and_fills() {
        let x = Tensor::new(&[2, 4], (1..9).map(|x| x as f32).collect());
        let y = eval(&CenterCropPad::default(), &[&x, &list(&[3, 1])]).unwrap();
        assert_eq!((y.shape(), y.to_f32()), (&[3, 1][..], vec![2.0, 6.0, 0.0]));
        let op = CenterCropPad { axes: Some(vec![-1]) };
        assert_eq!(eval(&op, &[&x, &list(&[5])]).unwrap().shape(), [2, 5]);
        assert!(eval(&op, &[&x, &list(&[-5])]).unwrap_err().contains("should be a size"));
        check_gradient(op, &[&Draw::new(1).tensor(&[2, 3], -1.0, 1.0), &list(&[5])], 1, &[0]);
    }
}
