//! `Trilu` (ONNX 14): the upper or the lower triangle of matrices.

use crate::shapes::{by_width, integers};
use ir::{Attrs, Infer, Io, Lower, OnnxForm, Op, Parse, Parsed, Step, Type, Vjp};

/// `Trilu(x, k?)`: the matrices in the last two axes, 0 outside of a triangle: at and above diagonal `k`, or at and below
/// it. Diagonal 0, where `k` (i64) is omitted, is the main one, and those above it count up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trilu {
    /// The upper triangle stays.
    pub upper: bool,
}

impl Default for Trilu {
    fn default() -> Trilu {
        Trilu { upper: true }
    }
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    Ok(Trilu { upper: cx.attrs.int("upper", 1)? != 0 }.into())
}

impl Op for Trilu {
    fn name(&self) -> &str {
        "Trilu"
    }

    fn attrs(&self) -> Attrs {
        Attrs::new().with_int("upper", self.upper.into(), 1)
    }

    fn to_onnx(&self, opset: i64) -> Result<OnnxForm, String> {
        crate::unary::since(self, opset, 14)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let x = cx.ty(0)?;
        if x.rank().is_some_and(|rank| rank < 2) {
            return Err(format!("{x} holds no matrices"));
        }
        integers(cx, 1)?;
        Ok(vec![x.clone()])
    }

    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        let ins = [cx.d_output(0), cx.input(1)];
        let ins = &ins[..1 + usize::from(ins[1].is_some())];
        let d = cx.add_multi(std::sync::Arc::new(*self), ins, 1)?[0];
        cx.set(0, d);
        Some(())
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let (x, upper) = (cx.input(0)?, self.upper);
        cx.optional_typed::<i64>(1)?;
        let [.., rows, columns] = x.shape[..] else { return Err("no matrix".into()) };
        by_width!(x.dtype, T => Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let k = parts.input::<i64>(1).first().copied().unwrap_or(0);
            let x: &[T] = parts.input(0);
            for (i, (y, &x)) in parts.output::<T>(0).iter_mut().zip(x).enumerate() {
                let (row, column) = ((i / columns % rows) as i64, (i % columns) as i64);
                let diagonal = column - row;
                *y = if (diagonal >= k && upper) || (diagonal <= k && !upper) { x } else { T::default() };
            }
            Ok(())
        })))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{Draw, check_gradient, eval};
    use tensor::Tensor;

    #[test]
    fn triangles() {
        let x = Tensor::new(&[2, 3], (1..7i64).collect());
        assert_eq!(eval(&Trilu::default(), &[&x]).unwrap().to_i64(), [1, 2, 3, 0, 5, 6]);
        let k = Tensor::scalar(-1i64);
        assert_eq!(eval(&Trilu { upper: false }, &[&x, &k]).unwrap().to_i64(), [0, 0, 0, 4, 0, 0]);
        assert!(
            eval(&Trilu::default(), &[&Tensor::new(&[1], vec![1f32])]).unwrap_err().contains("no matrices")
        );
    }

    #[test]
    fn gradient() {
        let x = Draw::new(1).tensor(&[2, 3, 4], -1.0, 1.0);
        check_gradient(Trilu::default(), &[&x], 1, &[0]);
        check_gradient(Trilu { upper: false }, &[&x, &Tensor::scalar(1i64)], 1, &[0]);
    }
}
