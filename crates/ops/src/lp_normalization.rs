//! `LpNormalization` (ONNX 1, 22): everything divided by its norm.

use crate::shapes;
use ir::{Attrs, Infer, Io, Lower, Op, Parse, Parsed, Step, Type};

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
