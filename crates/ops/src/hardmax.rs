//! `Hardmax` (ONNX 1, 11, 13): 1 at the largest element.

use crate::softmax;
use ir::{Attrs, Infer, Io, Lower, OnnxForm, Op, Parse, Parsed, Step, Type};
use std::sync::Arc;

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
    let (axis, flatten) = softmax::along(cx)?;
    Ok(Hardmax { axis, flatten }.into())
}

impl Op for Hardmax {
    fn name(&self) -> &str {
        "Hardmax"
    }

    fn attrs(&self) -> Attrs {
        softmax::attrs(self.axis, self.flatten)
    }

    fn to_onnx(&self, _opset: i64) -> Result<OnnxForm, String> {
        softmax::to_onnx(self, self.flatten)
    }

    fn settled(&self, cx: &Infer) -> Option<Arc<dyn Op>> {
        Some(Arc::new(Hardmax { axis: softmax::settled(cx, self.axis, self.flatten)?, flatten: false }))
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        softmax::infer(cx, self.axis, self.flatten)
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let x = cx.typed::<f32>(0)?;
        let at = softmax::at(self.axis, self.flatten, x.shape.len())?;
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
    use tensor::{DType, Tensor};

    #[test]
    fn values() {
        let x = Tensor::new(&[2, 2], vec![3f32, 3.0, 1.0, 4.0]);
        let max = |axis, flatten| eval(&Hardmax { axis, flatten }, &[&x]).unwrap().to_f32();
        assert_eq!(max(1, false), [1.0, 0.0, 0.0, 1.0]);
        assert_eq!(max(0, false), [1.0, 0.0, 0.0, 1.0]);
        assert_eq!(max(0, true), [0.0, 0.0, 0.0, 1.0]);
        assert_eq!(max(2, true), [1.0; 4]);
    }

    #[test]
    fn the_old_form_over_one_axis_is_the_new_one() {
        let x = Type::new(DType::F32, [2, 5, 1]);
        let args = [Some(ir::Arg { ty: &x, value: None })];
        let axis = |axis, flatten| {
            let op = Hardmax { axis, flatten }.settled(&Infer::new(&args, 1))?;
            op.is::<Hardmax>().copied()
        };
        assert_eq!(axis(1, true), Some(Hardmax { axis: 1, flatten: false }));
        assert_eq!(axis(2, true), Some(Hardmax { axis: -1, flatten: false }));
        for (first, flatten) in [(0, true), (3, true), (1, false)] {
            assert_eq!(axis(first, flatten), None);
        }
    }
}
