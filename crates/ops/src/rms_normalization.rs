//! `RMSNormalization` (ONNX 23; Zhang and Sennrich 2019, arXiv 1910.07467).

use crate::shapes::{self, list, sum_to};
use crate::{Add, Mul, Reciprocal, ReduceMean, Sqrt, Sub};
use ir::{Attrs, Infer, Io, Lower, OnnxForm, Op, Parse, Parsed, Step, Type, Vjp};
use kernels::broadcast::Broadcast;
use tensor::Tensor;

/// `RMSNormalization(x, scale)`: `x / sqrt(mean of x^2 + epsilon) * scale`, the mean over the axes from `axis` on, to
/// whose shape the scale broadcasts. The result has the element type of the scale. f32.
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
            let normalized = Type { dtype: scale.dtype, shape: Some(dims[axis..].to_vec()) };
            let spread = Type { dtype: scale.dtype, shape: shapes::broadcast(scale, &normalized)? };
            if !spread.agrees(&normalized) {
                return Err(format!("the scale {scale} does not broadcast to the normalized axes of {x}"));
            }
        }
        Ok(vec![Type { dtype: scale.dtype, shape: x.shape.clone() }])
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
        let (x, scale) = (cx.typed::<f32>(0)?, cx.typed::<f32>(1)?);
        let axis = shapes::axis(self.axis, x.shape.len())?;
        let (width, epsilon) = (x.shape[axis..].iter().product::<usize>(), self.epsilon);
        let spread = Broadcast::to(&scale.shape, &x.shape[axis..]).map_err(|e| e.to_string())?;
        let step = Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let (x, scale): (&[f32], &mut [f32]) = (parts.input(0), &mut parts.workspace()[..width]);
            spread.expand(parts.input(1), scale);
            let rows =
                parts.output::<f32>(0).chunks_exact_mut(width.max(1)).zip(x.chunks_exact(width.max(1)));
            for (y, x) in rows {
                let sum: f32 = x.iter().map(|x| x * x).sum();
                let r = 1.0 / (sum / width as f32 + epsilon).sqrt();
                y.iter_mut().zip(x.iter().zip(&*scale)).for_each(|(y, (x, scale))| *y = x * r * scale);
            }
            Ok(())
        });
        Ok(step.workspace::<f32>(width))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{Draw, check_gradient, eval};
    use tensor::DType;

    #[test]
    fn values() {
        let (x, scale) = (Tensor::new(&[1, 2], vec![3f32, 4.0]), Tensor::new(&[2], vec![1f32, 2.0]));
        let y = eval(&RMSNormalization { axis: -1, epsilon: 0.0 }, &[&x, &scale]).unwrap().to_f32();
        let root = 12.5f32.sqrt();
        assert!((y[0] - 3.0 / root).abs() < 1e-6 && (y[1] - 8.0 / root).abs() < 1e-6);
        let wrong = eval(&RMSNormalization::default(), &[&x, &Tensor::new(&[3], vec![1f32; 3])]);
        assert!(wrong.unwrap_err().contains("do not broadcast: 3 against 2"));
    }

    #[test]
    fn a_scale_for_some_axes() {
        let x = Tensor::new(&[1, 2, 2], vec![1f32, 2.0, 3.0, 4.0]);
        let op = RMSNormalization { axis: 1, epsilon: 0.0 };
        let value = |shape: &[usize], scale: &[f32]| {
            eval(&op, &[&x, &Tensor::new(shape, scale.to_vec())]).map(|y| y.to_f32())
        };
        for (shape, scale, whole) in [
            (&[2][..], &[1f32, 2.0][..], [1f32, 2.0, 1.0, 2.0]),
            (&[2, 1], &[1.0, 2.0], [1.0, 1.0, 2.0, 2.0]),
            (&[], &[3.0], [3.0; 4]),
        ] {
            assert_eq!(value(shape, scale), value(&[2, 2], &whole));
        }
        assert!(value(&[1, 1, 2], &[1.0, 2.0]).unwrap_err().contains("does not broadcast"));
    }

    #[test]
    fn the_result_has_the_type_of_the_scale() {
        let (x, scale) = (Type::new(DType::F16, [2usize, 4]), Type::new(DType::F32, [4usize]));
        let args = [&x, &scale].map(|ty| Some(ir::Arg { ty, value: None }));
        let y = RMSNormalization::default().infer(&Infer::new(&args, 1)).unwrap();
        assert_eq!(y, [Type::new(DType::F32, [2usize, 4])]);
    }

    #[test]
    fn gradient() {
        let mut draw = Draw::new(1);
        for axis in [1, 2, -1] {
            let x = draw.tensor(&[2, 3, 4], -1.0, 1.0);
            let scale = draw.tensor(if axis == 1 { &[3, 4] } else { &[4] }, 0.5, 1.5);
            check_gradient(RMSNormalization { axis, epsilon: 1e-3 }, &[&x, &scale], 1, &[0, 1]);
            let scale = draw.tensor(&[1], 0.5, 1.5);
            check_gradient(RMSNormalization { axis, epsilon: 1e-3 }, &[&x, &scale], 1, &[0, 1]);
        }
    }
}
