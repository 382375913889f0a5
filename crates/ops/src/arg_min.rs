//! `ArgMin` (ONNX 1, 11, 12, 13): the position of the smallest element along an axis.

use crate::shapes::axis;
use ir::{Attrs, Dim, Infer, Io, Lower, Op, Parse, Parsed, Step, Type};
use kernels::reduce::arg_extreme;
use tensor::DType;

/// `ArgMin(x)`: `x` f32; positions as i64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArgMin {
    /// The axis that is searched.
    pub axis: i64,
    /// The axis stays, with size 1.
    pub keep_dims: bool,
    /// Among equal elements the last one, not the first (opset 12).
    pub last: bool,
}

impl Default for ArgMin {
    fn default() -> ArgMin {
        ArgMin { axis: 0, keep_dims: true, last: false }
    }
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    let flag = |name, default| Ok::<_, String>(cx.attrs.int(name, default)? != 0);
    let (keep_dims, last) = (flag("keepdims", 1)?, flag("select_last_index", 0)?);
    Ok(ArgMin { axis: cx.attrs.int("axis", 0)?, keep_dims, last }.into())
}

impl Op for ArgMin {
    fn name(&self) -> &str {
        "ArgMin"
    }

    fn attrs(&self) -> Attrs {
        Attrs::new().with_int("axis", self.axis, 0).with_int("keepdims", self.keep_dims.into(), 1).with_int(
            "select_last_index",
            self.last.into(),
            0,
        )
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let shape = match &cx.ty(0)?.shape {
            None => None,
            Some(dims) => {
                let (axis, mut dims) = (axis(self.axis, dims.len())?, dims.clone());
                if dims[axis] == Dim::Fixed(0) {
                    return Err(format!("axis {axis} has no elements to choose from"));
                }
                if self.keep_dims {
                    dims[axis] = Dim::Fixed(1);
                } else {
                    dims.remove(axis);
                }
                Some(dims)
            }
        };
        Ok(vec![Type { dtype: Some(DType::I64), shape }])
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let (x, last) = (cx.typed::<f32>(0)?, self.last);
        let axis = axis(self.axis, x.shape.len())?;
        let (outer, inner) = (x.shape[..axis].iter().product(), x.shape[axis + 1..].iter().product());
        let sizes = [outer, x.shape[axis], inner];
        Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            arg_extreme(false, last, parts.input(0), sizes, parts.output(0));
            Ok(())
        }))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::eval;
    use tensor::Tensor;

    #[test]
    fn positions() {
        let x = Tensor::new(&[2, 3], vec![5.0f32, 1.0, 1.0, 0.0, 7.0, 2.0]);
        let at = |axis, keep_dims, last| eval(&ArgMin { axis, keep_dims, last }, &[&x]);
        let rows = at(-1, false, false).unwrap();
        assert_eq!((rows.shape(), rows.to_i64()), (&[2][..], vec![1, 0]));
        assert_eq!(at(1, true, true).unwrap().shape(), [2, 1]);
        assert_eq!(at(1, true, true).unwrap().to_i64(), [2, 0]);
        assert_eq!(at(0, false, false).unwrap().to_i64(), [1, 0, 0]);
        assert!(at(2, false, false).unwrap_err().contains("axis 2"));
        assert!(
            eval(&ArgMin::default(), &[&Tensor::zeros(DType::F32, &[0, 2])])
                .unwrap_err()
                .contains("no elements")
        );
    }
}
