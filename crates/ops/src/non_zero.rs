//! `NonZero` (ONNX 9, 13): where elements are not zero.

use crate::shapes::by_width;
use ir::{Dim, Infer, Io, Lower, Op, Parse, Parsed, Step, Type};
use kernels::select::strides;
use tensor::{DType, Tensor};

/// `NonZero(x)`: the coordinates of the elements that are not zero, an i64 matrix with a row for each axis. How many they
/// are is known only where `x` is a constant; elsewhere no program can be compiled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NonZero;

/// Reads the operator: it has no attributes.
pub fn parse(_: &Parse) -> Result<Parsed, String> {
    Ok(NonZero.into())
}

impl Op for NonZero {
    fn name(&self) -> &str {
        "NonZero"
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let count = |x: &Tensor| x.to_f64().iter().filter(|&&x| x != 0.0).count();
        let columns = cx.value(0).map_or(Dim::Unknown, |x| Dim::Fixed(count(x)));
        let shape = cx.ty(0)?.rank().map(|rank| vec![Dim::Fixed(rank), columns]);
        Ok(vec![Type { dtype: Some(DType::I64), shape }])
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let x = cx.constant(0)?;
        let (steps, shape) = (strides(x.shape()), x.shape().to_vec());
        let columns = cx.outs[0].shape[1];
        let float = x.dtype().is_float();
        by_width!(x.dtype(), T => Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let x: &[T] = parts.input(0);
            // A float is zero with either sign.
            let zero = |x: &T| *x == T::default() || (float && *x << 1 == T::default());
            let y: &mut [i64] = parts.output(0);
            for (column, (i, _)) in x.iter().enumerate().filter(|(_, x)| !zero(x)).enumerate() {
                for (axis, (&n, &step)) in shape.iter().zip(&steps).enumerate() {
                    y[axis * columns + column] = (i / step % n) as i64;
                }
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

    #[test]
    fn places() {
        let x = Tensor::new(&[2, 2], vec![1f32, -0.0, 2.0, 3.0]);
        let y = eval(&NonZero, &[&x]).unwrap();
        assert_eq!((y.shape(), y.to_i64()), (&[2, 3][..], vec![0, 1, 1, 0, 0, 1]));
    }
}
