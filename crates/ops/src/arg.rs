//! What `ArgMax` and `ArgMin` share: all but the direction.

use crate::shapes::axis;
use ir::{Attrs, Dim, Infer, Io, Lower, Parse, Step, Type};
use kernels::reduce::arg_extreme;
use tensor::{DType, Element};

/// Defines an operator that tells where an extreme element is: its struct, its reader and its [`Op`](ir::Op).
macro_rules! operator {
    ($(#[$doc:meta])* pub struct $name:ident: largest $largest:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name {
            /// The axis that is searched; negative counts from the end.
            pub axis: i64,
            /// The axis stays, with size 1.
            pub keep_dims: bool,
            /// Among equal elements the last one, not the first (opset 12).
            pub last: bool,
        }

        impl Default for $name {
            fn default() -> $name {
                $name { axis: 0, keep_dims: true, last: false }
            }
        }

        /// Reads the operator.
        pub fn parse(cx: &ir::Parse) -> Result<ir::Parsed, String> {
            let (axis, keep_dims, last) = crate::arg::parse(cx)?;
            Ok($name { axis, keep_dims, last }.into())
        }

        impl ir::Op for $name {
            fn name(&self) -> &str {
                stringify!($name)
            }

            fn attrs(&self) -> ir::Attrs {
                crate::arg::attrs(self.axis, self.keep_dims, self.last)
            }

            fn infer(&self, cx: &ir::Infer) -> Result<Vec<ir::Type>, String> {
                crate::arg::infer(cx, self.axis, self.keep_dims)
            }

            fn lower(&self, cx: &ir::Lower) -> Result<ir::Step, String> {
                crate::arg::lower(cx, self.axis, self.last, $largest)
            }
        }
    };
}
pub(crate) use operator;

/// Axis, whether it stays, and whether the last of equal elements counts.
pub(crate) fn parse(cx: &Parse) -> Result<(i64, bool, bool), String> {
    let flag = |name, default| Ok::<_, String>(cx.attrs.int(name, default)? != 0);
    Ok((cx.attrs.int("axis", 0)?, flag("keepdims", 1)?, flag("select_last_index", 0)?))
}

pub(crate) fn attrs(axis: i64, keep_dims: bool, last: bool) -> Attrs {
    let attrs = Attrs::new().with_int("axis", axis, 0).with_int("keepdims", keep_dims.into(), 1);
    attrs.with_int("select_last_index", last.into(), 0)
}

pub(crate) fn infer(cx: &Infer, along: i64, keep_dims: bool) -> Result<Vec<Type>, String> {
    let shape = match &cx.ty(0)?.shape {
        None => None,
        Some(dims) => {
            let (axis, mut dims) = (axis(along, dims.len())?, dims.clone());
            if dims[axis] == Dim::Fixed(0) {
                return Err(format!("axis {axis} has no elements to choose from"));
            }
            if keep_dims {
                dims[axis] = Dim::Fixed(1);
            } else {
                dims.remove(axis);
            }
            Some(dims)
        }
    };
    Ok(vec![Type { dtype: Some(DType::I64), shape }])
}

pub(crate) fn lower(cx: &Lower, along: i64, last: bool, largest: bool) -> Result<Step, String> {
    match cx.input(0)?.dtype {
        DType::F64 => typed::<f64>(cx, along, last, largest),
        DType::I64 => typed::<i64>(cx, along, last, largest),
        _ => typed::<f32>(cx, along, last, largest),
    }
}

fn typed<T: Element + PartialOrd>(cx: &Lower, along: i64, last: bool, largest: bool) -> Result<Step, String> {
    let x = cx.typed::<T>(0)?;
    let axis = axis(along, x.shape.len())?;
    let (outer, inner) = (x.shape[..axis].iter().product(), x.shape[axis + 1..].iter().product());
    let sizes = [outer, x.shape[axis], inner];
    Ok(Step::new(move |io: &mut Io| {
        let mut parts = io.split();
        arg_extreme(largest, last, parts.input::<T>(0), sizes, parts.output(0));
        Ok(())
    }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::eval;
    use crate::{ArgMax, ArgMin};
    use tensor::Tensor;

    #[test]
    fn wide_elements_keep_their_order() {
        let op = ArgMax::default();
        let close = Tensor::new(&[3], vec![1.0, 1.0 + 1e-12, 1.0]);
        assert_eq!(eval(&op, &[&close]).unwrap().to_i64(), [1]);
        let large = Tensor::new(&[3], vec![1i64 << 53, (1 << 53) + 1, 0]);
        assert_eq!(eval(&op, &[&large]).unwrap().to_i64(), [1]);
        let bytes = Tensor::new(&[3], vec![-3i8, 5, 4]);
        assert_eq!(ir::eval(&op, &[Some(&bytes)], 1).unwrap()[0].to_i64(), [1]);
    }

    #[test]
    fn positions() {
        let x = Tensor::new(&[2, 3], vec![1.0f32, 5.0, 5.0, 7.0, 0.0, 2.0]);
        let at = |axis, keep_dims, last| eval(&ArgMax { axis, keep_dims, last }, &[&x]);
        let rows = at(-1, false, false).unwrap();
        assert_eq!((rows.shape(), rows.to_i64()), (&[2][..], vec![1, 0]));
        assert_eq!(at(1, true, true).unwrap().shape(), [2, 1]);
        assert_eq!(at(1, true, true).unwrap().to_i64(), [2, 0]);
        assert_eq!(at(0, false, false).unwrap().to_i64(), [1, 0, 0]);
        let least = eval(&ArgMin { axis: 1, keep_dims: false, last: false }, &[&x]).unwrap();
        assert_eq!(least.to_i64(), [0, 1]);
        assert!(at(2, false, false).unwrap_err().contains("axis 2"));
        assert!(
            eval(&ArgMax::default(), &[&Tensor::zeros(DType::F32, &[0, 2])])
                .unwrap_err()
                .contains("no elements")
        );
    }
}
