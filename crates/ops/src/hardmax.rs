//! `Hardmax` (ONNX 1, 11, 13): 1 at the largest element.

use crate::shapes;
use ir::{Attrs, Infer, Io, Lower, OnnxForm, Op, Parse, Parsed, Step, Type};

/// `Hardmax(x)`: along an axis 1 at the first largest element and 0 elsewhere. f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hardmax {
    /// The axis; negative counts from the end.
    pub axis: i64,
    /// Along all axes from `axis` on, as before opset 13.
    pub flatten: bool,
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    let (axis, flatten) = crate::softmax::along(cx)?;
    Ok(Hardmax { axis, flatten }.into())
}

impl Op for Hardmax {
    fn name(&self) -> &str {
        "Hardmax"
    }

    fn attrs(&self) -> Attrs {
        crate::softmax::attrs(self.axis, self.flatten)
    }

    fn to_onnx(&self, _opset: i64) -> Result<OnnxForm, String> {
        crate::softmax::to_onnx(self, self.flatten)
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
        let at = shapes::axis(self.axis, x.shape.len())?;
        let (n, inner) = match self.flatten {
            true => (x.shape[at..].iter().product(), 1),
            false => (x.shape[at], x.shape[at + 1..].iter().product::<usize>()),
        };
        Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let (x, y): (&[f32], &mut [f32]) = (parts.input(0), parts.output(0));
            y.fill(0.0);
            for line in 0..x.len() / n.max(1) {
                let at = |i: usize| (line / inner * n + i) * inner + line % inner;
                let largest = (1..n).fold(0, |best, i| if x[at(i)] > x[at(best)] { i } else { best });
                y[at(largest)] = 1.0;
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
        let x = Tensor::new(&[2, 2], vec![3f32, 3.0, 1.0, 4.0]);
        let max = |axis, flatten| eval(&Hardmax { axis, flatten }, &[&x]).unwrap().to_f32();
        assert_eq!(max(1, false), [1.0, 0.0, 0.0, 1.0]);
        assert_eq!(max(0, false), [1.0, 0.0, 0.0, 1.0]);
        assert_eq!(max(0, true), [0.0, 0.0, 0.0, 1.0]);
    }
}
