//! `EyeLike` (ONNX 9, 22): ones on a diagonal.

use ir::{Attr, Attrs, Infer, Io, Lower, Op, Parse, Parsed, Step, Type};
use tensor::DType;

/// `EyeLike(x)`: a matrix of the shape of `x` with ones on a diagonal and zeros elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EyeLike {
    /// The element type; that of `x` where there is none.
    pub dtype: Option<DType>,
    /// The diagonal: 0 is the main one, and those above it count up.
    pub k: i64,
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    let dtype = match cx.attrs.int("dtype", 0)? {
        0 => None,
        n => {
            let known = i32::try_from(n).ok().and_then(DType::from_onnx);
            Some(known.ok_or_else(|| format!("attribute dtype is {n}, a data type that is not supported"))?)
        }
    };
    Ok(EyeLike { dtype, k: cx.attrs.int("k", 0)? }.into())
}

impl Op for EyeLike {
    fn name(&self) -> &str {
        "EyeLike"
    }

    fn attrs(&self) -> Attrs {
        let attrs = Attrs::new().with_int("k", self.k, 0);
        match self.dtype {
            Some(d) => attrs.with("dtype", Attr::Int(d.onnx().into())),
            None => attrs,
        }
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let x = cx.ty(0)?;
        if x.rank().is_some_and(|rank| rank != 2) {
            return Err(format!("{x} is not a matrix"));
        }
        Ok(vec![Type { dtype: self.dtype.or(x.dtype), shape: x.shape.clone() }])
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        fn step<T: tensor::Element>(one: T, zero: T, columns: usize, k: i64) -> Result<Step, String> {
            Ok(Step::new(move |io: &mut Io| {
                for (i, y) in io.output::<T>(0).iter_mut().enumerate() {
                    *y = if (i % columns) as i64 - (i / columns) as i64 == k { one } else { zero };
                }
                Ok(())
            }))
        }
        let columns = cx.outs[0].shape[1];
        match cx.outs[0].dtype {
            DType::F32 => step(1f32, 0.0, columns, self.k),
            DType::I64 => step(1i64, 0, columns, self.k),
            DType::Bool => step(1u8, 0, columns, self.k),
            other => Err(format!("the executor makes no diagonals of {other}")),
        }
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
        let y = eval(&EyeLike { dtype: Some(DType::I64), k: 1 }, &[&Tensor::zeros(DType::F32, &[2, 3])]);
        assert_eq!(y.unwrap().to_i64(), [0, 1, 0, 0, 0, 1]);
    }
}
