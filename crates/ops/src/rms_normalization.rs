//! `RMSNormalization` (ONNX 23; Zhang and Sennrich 2019, arXiv 1910.07467).

use crate::shapes::{self, list, sum_to};
use crate::{Add, Mul, Reciprocal, ReduceMean, Sqrt, Sub};
use ir::{Attrs, Infer, Io, Lower, OnnxForm, Op, Parse, Parsed, Step, Type, Vjp};
use tensor::Tensor;

/// `RMSNormalization(x, scale)`: `x / sqrt(mean of x^2 + epsilon) * scale`, the mean over the axes from `axis` on, whose
/// shape the scale has. f32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RMSNormalization {
    /// First normalized axis; negative counts from the end.
    pub axis: i64,
    /// Added to the mean square.
    pub epsilon: f32,
}

impl Default for RMSNormalization {
    fn default() -> RMSNormalization {
        RMSNormalization { axis: -1, epsilon: 1e-5 }
    }
}

/// Reads the operator. Sums are f32 here whatever `stash_type` says, whose default that is.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    Ok(RMSNormalization { axis: cx.attrs.int("axis", -1)?, epsilon: cx.attrs.float("epsilon", 1e-5)? }.into())
}

impl Op for RMSNormalization {
    fn name(&self) -> &str {
        "RMSNormalization"
    }

    fn attrs(&self) -> Attrs {
        Attrs::new().with_int("axis", self.axis, -1).with_float("epsilon", self.epsilon, 1e-5)
    }

    fn to_onnx(&self, opset: i64) -> Result<OnnxForm, String> {
        crate::unary::since(self, opset, 23)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let (x, scale) = (cx.float(0)?, cx.float(1)?);
        if let Some(dims) = &x.shape {
            let axis = shapes::axis(self.axis, dims.len())?;
            let expected = Type { dtype: scale.dtype, shape: Some(dims[axis..].to_vec()) };
            if !scale.agrees(&expected) {
                return Err(format!(
                    "the scale should be {expected}, as the normalized axes of {x}, but is {scale}"
                ));
            }
        }
        Ok(vec![x.clone()])
    }

    /// With `u = x r`, `r = 1 / sqrt(mean x^2 + epsilon)` and `g = dy scale`: `dx = r (g - u mean(g u))`.
    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        let (dy, x, scale) = (cx.d_output(0)?, cx.input(0)?, cx.input(1)?);
        let rank = cx.dims(x)?.len();
        let axes: Vec<i64> = (shapes::axis(self.axis, rank).ok()? as i64..rank as i64).collect();
        let axes = cx.constant_value(list(&axes));
        let epsilon = cx.constant_value(Tensor::scalar(self.epsilon));
        let square = cx.add(Mul, &[x, x])?;
        let mean = cx.add(ReduceMean::default(), &[square, axes])?;
        let mean = cx.add(Add, &[mean, epsilon])?;
        let root = cx.add(Sqrt, &[mean])?;
        let r = cx.add(Reciprocal, &[root])?;
        let u = cx.add(Mul, &[x, r])?;
        if cx.wants(1) {
            let d = cx.add(Mul, &[dy, u])?;
            let d = sum_to(cx, d, scale)?;
            cx.set(1, d);
        }
        if cx.wants(0) {
            let g = cx.add(Mul, &[dy, scale])?;
            let along = cx.add(Mul, &[g, u])?;
            let along = cx.add(ReduceMean::default(), &[along, axes])?;
            let along = cx.add(Mul, &[u, along])?;
            let d = cx.add(Sub, &[g, along])?;
            let d = cx.add(Mul, &[d, r])?;
            cx.set(0, d);
        }
        Some(())
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let x = cx.typed::<f32>(0)?;
        cx.typed::<f32>(1)?;
        let axis = shapes::axis(self.axis, x.shape.len())?;
        let (width, epsilon) = (x.shape[axis..].iter().product::<usize>(), self.epsilon);
        Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let (x, scale): (&[f32], &[f32]) = (parts.input(0), parts.input(1));
            let rows =
                parts.output::<f32>(0).chunks_exact_mut(width.max(1)).zip(x.chunks_exact(width.max(1)));
            for (y, x) in rows {
                let sum: f32 = x.iter().map(|x| x * x).sum();
                let r = 1.0 / (sum / width as f32 + epsilon).sqrt();
                y.iter_mut().zip(x.iter().zip(scale)).for_each(|(y, (x, scale))| *y = x * r * scale);
            }
            Ok(())
        }))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{Draw, check_gradient, eval};

    #[test]
    fn values() {
        let (x, scale) = (Tensor::new(&[1, 2], vec![3f32, 4.0]), Tensor::new(&[2], vec![1f32, 2.0]));
        let y = eval(&RMSNormalization { axis: -1, epsilon: 0.0 }, &[&x, &scale]).unwrap().to_f32();
        let root = 12.5f32.sqrt();
        assert!((y[0] - 3.0 / root).abs() < 1e-6 && (y[1] - 8.0 / root).abs() < 1e-6);
        let wrong = eval(&RMSNormalization::default(), &[&x, &Tensor::new(&[1], vec![1f32])]);
        assert!(wrong.unwrap_err().contains("the scale should be"));
    }

    #[test]
    fn gradient() {
        let mut draw = Draw::new(1);
        for axis in [1, 2, -1] {
            let x = draw.tensor(&[2, 3, 4], -1.0, 1.0);
            let scale = draw.tensor(if axis == 1 { &[3, 4] } else { &[4] }, 0.5, 1.5);
            check_gradient(RMSNormalization { axis, epsilon: 1e-3 }, &[&x, &scale], 1, &[0, 1]);
        }
    }
}
