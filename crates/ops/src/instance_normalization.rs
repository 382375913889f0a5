//! `InstanceNormalization` (ONNX 6, 22; Ulyanov, Vedaldi and Lempitsky 2016), and its gradient
//! `qat.InstanceNormalizationGrad`: batch normalization in which every channel of every image is a channel of its own.

use ir::{Attrs, Infer, Io, Lower, Op, Operand, Parse, Parsed, Step, Type, Vjp};
use kernels::batch_norm::{self, Shape};
use std::sync::Arc;

/// `InstanceNormalization(x, scale, bias)`: `(x - mean) / sqrt(variance + epsilon) * scale + bias`, mean and variance over
/// the spatial axes; `x` `(N, C, spatial...)`, the parameters `(C)`, f32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InstanceNormalization {
    /// Added to the variance.
    pub epsilon: f32,
}

impl Default for InstanceNormalization {
    fn default() -> InstanceNormalization {
        InstanceNormalization { epsilon: 1e-5 }
    }
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    Ok(InstanceNormalization { epsilon: cx.attrs.float("epsilon", 1e-5)? }.into())
}

/// Checks that parameters have one element per channel of `x`.
fn check(x: &Type, parameters: [&Type; 2]) -> Result<(), String> {
    let Some(shape) = &x.shape else { return Ok(()) };
    let [_, channels, _, ..] = &shape[..] else { return Err(format!("{x} has no spatial axis")) };
    let expected = Type { dtype: x.dtype, shape: Some(vec![channels.clone()]) };
    match parameters.into_iter().find(|p| !p.agrees(&expected)) {
        Some(p) => {
            Err(format!("a parameter should be {expected}, one element per channel of {x}, but is {p}"))
        }
        None => Ok(()),
    }
}

/// The images as channels of one image, and the number of channels that share parameters.
fn shape(x: &Operand) -> Result<(Shape, usize), String> {
    match x.shape[..] {
        [n, channels, ref spatial @ ..] if !spatial.is_empty() && channels > 0 && !spatial.contains(&0) => {
            Ok((Shape { batch: 1, channels: n * channels, spatial: spatial.iter().product() }, channels))
        }
        _ => Err(format!("images of shape {:?} are empty", x.shape)),
    }
}

impl Op for InstanceNormalization {
    fn name(&self) -> &str {
        "InstanceNormalization"
    }

    fn attrs(&self) -> Attrs {
        Attrs::new().with_float("epsilon", self.epsilon, 1e-5)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let x = cx.float(0)?;
        check(x, [cx.float(1)?, cx.float(2)?])?;
        Ok(vec![x.clone()])
    }

    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        let ins = [cx.d_output(0), cx.input(0), cx.input(1)];
        let grads = cx.add_multi(Arc::new(InstanceNormalizationGrad(*self)), &ins, 3)?;
        for (i, &gradient) in grads.iter().enumerate() {
            if cx.wants(i) {
                cx.set(i, gradient);
            }
        }
        Some(())
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        (0..3).try_for_each(|i| cx.typed::<f32>(i).map(|_| ()))?;
        let (shape, channels) = shape(cx.input(0)?)?;
        let (epsilon, all) = (self.epsilon, shape.channels);
        let step = Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let (own, workspace) = parts.workspace::<f32>().split_at_mut(3 * all);
            let (mean, rest) = own.split_at_mut(all);
            let (variance, a) = rest.split_at_mut(all);
            let [x, scale, bias] = [0, 1, 2].map(|i| parts.input::<f32>(i));
            batch_norm::statistics(shape, x, epsilon, mean, variance, a, workspace);
            // The mean becomes the offset: `y = a x + b`.
            for (i, (a, b)) in a.iter_mut().zip(&mut *mean).enumerate() {
                *a *= scale[i % channels];
                *b = bias[i % channels] - *b * *a;
            }
            batch_norm::affine(shape, x, a, mean, parts.output(0));
            Ok(())
        });
        Ok(step.workspace::<f32>(3 * all + shape.workspace()))
    }

    fn params(&self) -> &'static [usize] {
        &[1, 2]
    }
}

/// `InstanceNormalizationGrad(dy, x, scale)` gives the gradients of `x`, `scale` and `bias`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InstanceNormalizationGrad(pub InstanceNormalization);

/// Reads the gradient.
pub fn parse_grad(cx: &Parse) -> Result<Parsed, String> {
    Ok(InstanceNormalizationGrad(InstanceNormalization { epsilon: cx.attrs.float("epsilon", 1e-5)? }).into())
}

impl Op for InstanceNormalizationGrad {
    fn name(&self) -> &str {
        "InstanceNormalizationGrad"
    }

    fn domain(&self) -> &str {
        "qat"
    }

    fn attrs(&self) -> Attrs {
        self.0.attrs()
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let (dy, x, scale) = (cx.float(0)?, cx.float(1)?, cx.float(2)?);
        check(x, [scale, scale])?;
        crate::shapes::gradient_of(dy, x)?;
        Ok(vec![x.clone(), scale.clone(), scale.clone()])
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        (0..3).try_for_each(|i| cx.typed::<f32>(i).map(|_| ()))?;
        let (shape, channels) = shape(cx.input(1)?)?;
        let (epsilon, all) = (self.0.epsilon, shape.channels);
        let step = Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let (own, workspace) = parts.workspace::<f32>().split_at_mut(6 * all);
            let mut own = own.chunks_exact_mut(all.max(1));
            let mut next = || own.next().unwrap_or_default();
            let [mean, variance, inv_std, gamma, d_gamma, d_beta] = [(); 6].map(|()| next());
            let [dy, x, scale] = [0, 1, 2].map(|i| parts.input::<f32>(i));
            gamma.chunks_exact_mut(channels).for_each(|gamma| gamma.copy_from_slice(scale));
            batch_norm::statistics(shape, x, epsilon, mean, variance, inv_std, workspace);
            batch_norm::grad_parameters(shape, x, dy, mean, inv_std, d_gamma, d_beta, workspace);
            let dx = parts.output(0);
            batch_norm::grad_input(shape, x, dy, gamma, mean, inv_std, d_gamma, d_beta, dx, workspace);
            for (out, of_images) in [(parts.output::<f32>(1), d_gamma), (parts.output(2), d_beta)] {
                out.fill(0.0);
                for of_image in of_images.chunks_exact(channels) {
                    out.iter_mut().zip(of_image).for_each(|(out, d)| *out += d);
                }
            }
            Ok(())
        });
        Ok(step.workspace::<f32>(6 * all + shape.workspace()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{Draw, Tolerance, check_gradient_within, run};
    use tensor::Tensor;

    #[test]
    fn normalizes_each_channel_of_each_image() {
        let x = Tensor::new(&[2, 1, 2], vec![1.0f32, 3.0, 5.0, 11.0]);
        let (scale, bias) = (Tensor::new(&[1], vec![2.0f32]), Tensor::new(&[1], vec![0.5f32]));
        let op = InstanceNormalization { epsilon: 0.0 };
        let y = run(&op, &[Some(&x), Some(&scale), Some(&bias)], 1).unwrap();
        assert_eq!(y[0].to_f32(), [-1.5, 2.5, -1.5, 2.5]);
        let e = run(&op, &[Some(&x), Some(&scale), Some(&x)], 1).unwrap_err();
        assert!(e.contains("one element per channel"), "{e}");
    }

    #[test]
    fn gradients_against_differences() {
        let mut draw = Draw::new(1);
        for shape in [vec![2, 3, 4, 3], vec![3, 2, 5]] {
            let x = draw.tensor(&shape, -2.0, 2.0);
            let (scale, bias) = (draw.tensor(&shape[1..2], 0.5, 1.5), draw.tensor(&shape[1..2], -1.0, 1.0));
            let tolerance = Tolerance { relative: 1e-2, ..Tolerance::default() };
            let op = Arc::new(InstanceNormalization::default());
            check_gradient_within(op, &[Some(&x), Some(&scale), Some(&bias)], 1, &[0, 1, 2], tolerance);
        }
    }
}
