//! `OneHot` (ONNX 9, 11, 28): indices as rows with one place marked.

use crate::shapes::{axis, by_width};
use ir::{Attrs, Dim, Infer, Io, Lower, Op, Parse, Parsed, Step, Type};
use tensor::DType;

/// `OneHot(indices, depth, values)`: a new axis of `depth` (a constant) places, `values[1]` at the index (below 0 from the
/// end) and `values[0]` elsewhere, everywhere for an index that is no place. Indices are i64 or f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OneHot {
    /// Where the new axis is in the result.
    pub axis: i64,
}

impl Default for OneHot {
    fn default() -> OneHot {
        OneHot { axis: -1 }
    }
}

/// Reads the operator. An index below 0 counts from the end at opset 9 too, as in ONNX Runtime.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    Ok(OneHot { axis: cx.attrs.int("axis", -1)? }.into())
}

impl Op for OneHot {
    fn name(&self) -> &str {
        "OneHot"
    }

    fn attrs(&self) -> Attrs {
        Attrs::new().with_int("axis", self.axis, -1)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let depth = match cx.value(1).map(|d| d.to_i64()).as_deref() {
            None => Dim::Unknown,
            Some(&[depth]) if depth > 0 => Dim::Fixed(depth as usize),
            Some(other) => return Err(format!("the depth should be one number above 0, but is {other:?}")),
        };
        if cx.ty(2)?.dims().is_some_and(|d| d != [2]) {
            return Err(format!("there should be two values, but they are {}", cx.ty(2)?));
        }
        let shape = match &cx.ty(0)?.shape {
            None => None,
            Some(dims) => {
                let mut dims = dims.clone();
                dims.insert(axis(self.axis, dims.len() + 1)?, depth);
                Some(dims)
            }
        };
        Ok(vec![Type { dtype: cx.ty(2)?.dtype, shape }])
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let (indices, y) = (cx.input(0)?, &cx.outs[0]);
        let at = axis(self.axis, y.shape.len())?;
        let (depth, inner) = (y.shape[at], y.shape[at + 1..].iter().product::<usize>());
        let float = match indices.dtype {
            DType::F32 => true,
            DType::I64 => false,
            other => return Err(format!("the executor takes no indices of type {other}")),
        };
        by_width!(y.dtype, T => Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let values: &[T] = parts.input(2);
            let y: &mut [T] = parts.output(0);
            y.fill(values[0]);
            let mut mark = |i: usize, index: i64| {
                let place = usize::try_from(if index < 0 { index + depth as i64 } else { index }).ok();
                if let Some(place) = place.filter(|&place| place < depth) {
                    y[(i / inner * depth + place) * inner + i % inner] = values[1];
                }
            };
            match float {
                true => parts.input::<f32>(0).iter().enumerate().for_each(|(i, &x)| mark(i, x as i64)),
                false => parts.input::<i64>(0).iter().enumerate().for_each(|(i, &x)| mark(i, x)),
            }
            Ok(())
        })))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::eval;
    use tensor::Tensor;

    #[test]
    fn values() {
        let at = Tensor::new(&[2], vec![-1i64, 5]);
        let values = Tensor::new(&[2], vec![0f32, 2.0]);
        let hot = |axis| eval(&OneHot { axis }, &[&at, &Tensor::scalar(3i64), &values]).unwrap();
        assert_eq!((hot(-1).shape(), hot(-1).to_f32()), (&[2, 3][..], vec![0.0, 0.0, 2.0, 0.0, 0.0, 0.0]));
        assert_eq!((hot(0).shape(), hot(0).to_f32()), (&[3, 2][..], vec![0.0, 0.0, 0.0, 0.0, 2.0, 0.0]));
        assert!(
            eval(&OneHot { axis: 3 }, &[&at, &Tensor::scalar(3i64), &values]).unwrap_err().contains("axis 3")
        );
    }
}
