//! `LpNormalization` (ONNX 1, 22): everything divided by its norm.

use crate::shapes;
use crate::{Div, Equal, Mul, ReduceL1, ReduceL2, ReduceSum, Sign, Sub, Where};
use ir::{Attrs, Infer, Io, Lower, Op, Parse, Parsed, Step, Type, Vjp};
use tensor::Tensor;

/// `LpNormalization(x)`: `x` divided by its norm along an axis; 0 where that is 0. f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LpNormalization {
    /// The axis; negative counts from the end.
    pub axis: i64,
    /// The sum of absolute values, not the root of the sum of squares.
    pub absolute: bool,
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    let absolute = match cx.attrs.int("p", 2)? {
        1 => true,
        2 => false,
        p => return Err(format!("attribute p should be 1 or 2, but is {p}")),
    };
    Ok(LpNormalization { axis: cx.attrs.int("axis", -1)?, absolute }.into())
}

impl Op for LpNormalization {
    fn name(&self) -> &str {
        "LpNormalization"
    }

    fn attrs(&self) -> Attrs {
        Attrs::new().with_int("axis", self.axis, -1).with_int("p", if self.absolute { 1 } else { 2 }, 2)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let x = cx.float(0)?;
        if let Some(rank) = x.rank() {
            shapes::axis(self.axis, rank)?;
        }
        Ok(vec![x.clone()])
    }

    /// With `n` the norm and `s` its gradient, `y` or the sign of `x`: `dx = (dy - s sum(dy y)) / n`, and 0 where the norm
    /// is 0.
    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        let (dy, x, y) = (cx.d_output(0)?, cx.input(0)?, cx.output(0));
        let axis = cx.constant_value(shapes::list(&[self.axis]));
        let norm = match self.absolute {
            true => cx.add(ReduceL1::default(), &[x, axis])?,
            false => cx.add(ReduceL2::default(), &[x, axis])?,
        };
        let slope = if self.absolute { cx.add(Sign, &[x])? } else { y };
        let [zero, infinite] = [0.0, f32::INFINITY].map(|n| cx.constant_value(Tensor::scalar(n)));
        let none = cx.add(Equal, &[norm, zero])?;
        let norm = cx.add(Where, &[none, infinite, norm])?;
        let along = cx.add(Mul, &[dy, y])?;
        let along = cx.add(ReduceSum::default(), &[along, axis])?;
        let along = cx.add(Mul, &[slope, along])?;
        let d = cx.add(Sub, &[dy, along])?;
        let d = cx.add(Div, &[d, norm])?;
        cx.set(0, d);
        Some(())
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let x = cx.typed::<f32>(0)?;
        let (at, absolute) = (shapes::axis(self.axis, x.shape.len())?, self.absolute);
        let (n, inner) = (x.shape[at], x.shape[at + 1..].iter().product::<usize>());
        Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let (x, y): (&[f32], &mut [f32]) = (parts.input(0), parts.output(0));
            for line in 0..x.len() / n.max(1) {
                let at = |i: usize| (line / inner * n + i) * inner + line % inner;
                let sum: f32 =
                    (0..n).map(|i| if absolute { x[at(i)].abs() } else { x[at(i)] * x[at(i)] }).sum();
                let norm = if absolute { sum } else { sum.sqrt() };
                for i in (0..n).map(at) {
                    y[i] = if norm == 0.0 { 0.0 } else { x[i] / norm };
                }
            }
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
    fn values() {
        let x = Tensor::new(&[2, 2], vec![3f32, -4.0, 0.0, 0.0]);
        let norm = |absolute| eval(&LpNormalization { axis: -1, absolute }, &[&x]).unwrap().to_f32();
        assert_eq!(norm(false), [0.6, -0.8, 0.0, 0.0]);
        assert_eq!(norm(true), [3.0 / 7.0, -4.0 / 7.0, 0.0, 0.0]);
    }
}
