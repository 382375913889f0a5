//! `LayerNormalization` (ONNX 17, and ONNX Runtime's of before; Ba, Kiros and Hinton 2016), and its gradient
//! `qat.LayerNormalizationGrad`.

use crate::{Add, Mul, shapes};
use ir::{Attrs, Compose, Dim, Infer, Io, Lower, Op, Operand, Parse, Parsed, Step, Type, ValueId, Vjp};
use kernels::batch_norm::layer_norm;
use std::sync::Arc;
use tensor::{DType, Tensor, element_count};

/// `LayerNormalization(x, scale, bias?)`: `(x - mean) / sqrt(variance + epsilon) * scale + bias`, mean and variance over
/// the axes from `axis` on, whose shape scale and bias have; of other shapes that broadcast to `x`, they are applied behind
/// the norm. f32. Results 1 and 2, where asked for, are the mean and `1 / sqrt(variance + epsilon)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerNormalization {
    /// First normalized axis; negative counts from the end.
    pub axis: i64,
    /// Added to the variance.
    pub epsilon: f32,
}

impl Default for LayerNormalization {
    fn default() -> LayerNormalization {
        LayerNormalization { axis: -1, epsilon: 1e-5 }
    }
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    // Statistics are f32 here whatever `stash_type` says, whose default that is.
    Ok(LayerNormalization::from_attrs(cx.attrs)?.into())
}

impl LayerNormalization {
    fn from_attrs(attrs: &Attrs) -> Result<LayerNormalization, String> {
        let default = LayerNormalization::default();
        Ok(LayerNormalization {
            axis: attrs.int("axis", default.axis)?,
            epsilon: attrs.float("epsilon", default.epsilon)?,
        })
    }

    /// Number of rows, and of elements in each.
    fn rows(&self, x: &Operand) -> Result<(usize, usize), String> {
        let axis = shapes::axis(self.axis, x.shape.len())?;
        let (rows, width) = (x.shape[..axis].iter().product(), x.shape[axis..].iter().product());
        if width == 0 {
            return Err(format!("rows of shape {:?} are empty", &x.shape[axis..]));
        }
        Ok((rows, width))
    }

    /// The type of scale and bias: that of the normalized axes of `x`.
    fn parameter(&self, x: &Type) -> Result<Type, String> {
        let normalized = |shape: &Vec<Dim>| {
            let axis = shapes::axis(self.axis, shape.len())?;
            Ok::<_, String>(shape[axis..].to_vec())
        };
        Ok(Type { dtype: x.dtype, shape: x.shape.as_ref().map(normalized).transpose()? })
    }

    /// Checks that `parameter` has the shape of the normalized axes of `x`.
    fn check(&self, x: &Type, parameter: &Type, what: &str) -> Result<(), String> {
        let expected = self.parameter(x)?;
        if parameter.agrees(&expected) {
            Ok(())
        } else {
            Err(format!("the {what} should be {expected}, as the normalized axes of {x}, but is {parameter}"))
        }
    }

    /// Checks that `parameter` has that shape, or another one that broadcasts to `x`.
    fn check_broadcast(&self, x: &Type, parameter: &Type, what: &str) -> Result<(), String> {
        let to_x = shapes::same_dtype(x, parameter)
            .and_then(|_| shapes::broadcast(x, parameter))
            .is_ok_and(|shape| Type { dtype: x.dtype, shape }.agrees(x));
        if to_x { Ok(()) } else { self.check(x, parameter, what) }
    }
}

impl Op for LayerNormalization {
    fn name(&self) -> &str {
        "LayerNormalization"
    }

    fn attrs(&self) -> Attrs {
        let default = LayerNormalization::default();
        Attrs::new().with_int("axis", self.axis, default.axis).with_float(
            "epsilon",
            self.epsilon,
            default.epsilon,
        )
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let x = cx.float(0)?;
        self.check_broadcast(x, cx.float(1)?, "scale")?;
        if cx.has(2) {
            self.check_broadcast(x, cx.float(2)?, "bias")?;
        }
        let shape = match &x.shape {
            Some(shape) => {
                let axis = shapes::axis(self.axis, shape.len())?;
                let ones = std::iter::repeat_n(Dim::Fixed(1), shape.len() - axis);
                Some(shape[..axis].iter().cloned().chain(ones).collect())
            }
            None => None,
        };
        let statistic = Type { dtype: Some(DType::F32), shape };
        Ok(vec![x.clone(), statistic.clone(), statistic])
    }

    /// Of parameters that are not one number for each normalized one: the norm with a scale of ones, and what they do.
    fn compose(&self, cx: &mut Compose) -> Option<Vec<ValueId>> {
        let (x, scale, bias) = (cx.input(0)?, cx.input(1)?, cx.input(2));
        let own = self.parameter(cx.ty(x)).ok()?;
        let (dtype, dims) = (own.dtype?, own.dims()?);
        let fits = |v: ValueId| cx.dims(v).is_none_or(|d| d == dims);
        if fits(scale) && bias.is_none_or(fits) {
            return None;
        }
        let width = element_count(&dims)?;
        cx.claim(width)?;
        let ones = Tensor::from_f32(dtype, &dims, &vec![1f32; width]).ok()?;
        let ins = [Some(x), Some(cx.constant_value(ones))];
        let mut results = cx.add_multi(Arc::new(*self), &ins, cx.outs())?;
        results[0] = cx.add(Mul, &[results[0], scale])?;
        if let Some(bias) = bias {
            results[0] = cx.add(Add, &[results[0], bias])?;
        }
        Some(results)
    }

    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        if cx.d_output(1).is_some() || cx.d_output(2).is_some() {
            return None;
        }
        let mut ins = vec![Some(cx.d_output(0)?), cx.input(0), cx.input(1)];
        if cx.outs() > 2 {
            ins.extend([Some(cx.output(1)), Some(cx.output(2))]);
        }
        let grads = cx.add_multi(Arc::new(LayerNormalizationGrad(*self)), &ins, 3)?;
        for (i, &gradient) in grads.iter().enumerate() {
            if cx.wants(i) {
                cx.set(i, gradient);
            }
        }
        Some(())
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let given = if cx.optional(2).is_some() { 0..3 } else { 0..2 };
        given.into_iter().try_for_each(|i| cx.typed::<f32>(i).map(|_| ()))?;
        let (rows, width) = self.rows(cx.input(0)?)?;
        if (1..3).any(|i| cx.optional(i).is_some_and(|p| p.len() != width)) {
            return Err(format!("scale and bias should have {width} elements, one for each of a row"));
        }
        let (epsilon, asked) = (self.epsilon, cx.outs.len());
        let step = Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let (own, rest) = parts.workspace::<f32>().split_at_mut(if asked > 1 { 0 } else { rows });
            let mean = if asked > 1 { parts.output(1) } else { own };
            let inv_std = if asked > 2 { parts.output(2) } else { rest };
            let x = parts.input(0);
            layer_norm::statistics(x, width, epsilon, mean, inv_std);
            layer_norm::forward(x, parts.input(1), parts.optional(2), mean, inv_std, parts.output(0));
            Ok(())
        });
        Ok(step.workspace::<f32>(rows * 3usize.saturating_sub(asked)))
    }

    fn params(&self) -> &'static [usize] {
        &[1, 2]
    }
}

/// `LayerNormalizationGrad(dy, x, scale, mean?, inv_std?)` gives the gradients of `x`, `scale` and `bias`; it computes the
/// statistics anew where they are not given.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerNormalizationGrad(pub LayerNormalization);

/// Reads the gradient.
pub fn parse_grad(cx: &Parse) -> Result<Parsed, String> {
    Ok(LayerNormalizationGrad(LayerNormalization::from_attrs(cx.attrs)?).into())
}

impl Op for LayerNormalizationGrad {
    fn name(&self) -> &str {
        "LayerNormalizationGrad"
    }

    fn domain(&self) -> &str {
        "qat"
    }

    fn attrs(&self) -> Attrs {
        self.0.attrs()
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let (dy, x, scale) = (cx.float(0)?, cx.float(1)?, cx.float(2)?);
        self.0.check(x, scale, "scale")?;
        crate::shapes::gradient_of(dy, x)?;
        Ok(vec![x.clone(), scale.clone(), scale.clone()])
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        (0..3).try_for_each(|i| cx.typed::<f32>(i).map(|_| ()))?;
        let (rows, width) = self.0.rows(cx.input(1)?)?;
        let (epsilon, saved) = (self.0.epsilon, cx.optional(4).is_some());
        let own = if saved { 0 } else { 2 * rows };
        let step = Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let (own, workspace) = parts.workspace::<f32>().split_at_mut(own);
            let [dy, x, gamma] = [0, 1, 2].map(|i| parts.input(i));
            let (mean, inv_std) = if saved {
                (parts.input(3), parts.input(4))
            } else {
                let (mean, inv_std) = own.split_at_mut(rows);
                layer_norm::statistics(x, width, epsilon, mean, inv_std);
                (&*mean, &*inv_std)
            };
            layer_norm::grad_input(x, dy, gamma, mean, inv_std, parts.output(0));
            layer_norm::grad_parameters(x, dy, mean, inv_std, parts.output(1), parts.output(2), workspace);
            Ok(())
        });
        Ok(step.workspace::<f32>(own + layer_norm::workspace(rows, width)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{Draw, Tolerance, check_gradient_within, run};

    #[test]
    fn normalizes_each_row() {
        let x = Tensor::new(&[2, 2], vec![1.0f32, 3.0, 5.0, 11.0]);
        let (scale, bias) = (Tensor::new(&[2], vec![1.0f32, 2.0]), Tensor::new(&[2], vec![0.5f32, 0.0]));
        let op = LayerNormalization { epsilon: 0.0, ..LayerNormalization::default() };
        for outs in 1..=3 {
            let y = run(&op, &[Some(&x), Some(&scale), Some(&bias)], outs).unwrap();
            let want = [vec![-0.5, 2.0, -0.5, 2.0], vec![2.0, 8.0], vec![1.0, 1.0 / 3.0]];
            for (y, want) in y.iter().zip(&want) {
                assert!(y.to_f64().iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6), "{y:?} {want:?}");
            }
        }
        assert_eq!(run(&op, &[Some(&x), Some(&scale)], 3).unwrap()[1].shape(), [2, 1]);
    }

    #[test]
    fn gradients_against_differences() {
        let mut draw = Draw::new(1);
        for (shape, axis) in [(vec![4, 6], -1), (vec![2, 3, 5], -1), (vec![2, 3, 4], 1)] {
            let normalized = if axis < 0 { &shape[shape.len() - 1..] } else { &shape[1..] };
            let x = draw.tensor(&shape, -2.0, 2.0);
            let (scale, bias) = (draw.tensor(normalized, 0.5, 1.5), draw.tensor(normalized, -1.0, 1.0));
            let op = Arc::new(LayerNormalization { axis, ..LayerNormalization::default() });
            let tolerance = Tolerance { relative: 1e-2, ..Tolerance::default() };
            check_gradient_within(
                op.clone(),
                &[Some(&x), Some(&scale), Some(&bias)],
                1,
                &[0, 1, 2],
                tolerance,
            );
            check_gradient_within(op, &[Some(&x), Some(&scale)], 1, &[0, 1], tolerance);
        }
    }

    #[test]
    fn parameters_broadcast() {
        let mut draw = Draw::new(2);
        let x = draw.tensor(&[2, 3, 4], -2.0, 2.0);
        let op = LayerNormalization { axis: -1, ..LayerNormalization::default() };
        let ones = Tensor::new(&[4], vec![1f32; 4]);
        let norm = run(&op, &[Some(&x), Some(&ones)], 3).unwrap();
        for (scale, bias) in [(&[1][..], &[4][..]), (&[1, 1, 4], &[1]), (&[3, 4], &[2, 1, 1]), (&[4], &[])] {
            let (scale, bias) = (draw.tensor(scale, 0.5, 1.5), draw.tensor(bias, -1.0, 1.0));
            let y = run(&op, &[Some(&x), Some(&scale), Some(&bias)], 3).unwrap();
            let want = crate::testing::eval(&Mul, &[&norm[0], &scale]).unwrap();
            let want = crate::testing::eval(&Add, &[&want, &bias]).unwrap();
            assert_eq!((&y[0], &y[1..]), (&want, &norm[1..]));
            let tolerance = Tolerance { relative: 1e-2, ..Tolerance::default() };
            let ins = [Some(&x), Some(&scale), Some(&bias)];
            check_gradient_within(Arc::new(op), &ins, 1, &[0, 1, 2], tolerance);
        }
    }

    #[test]
    fn statistics_are_single_precision() {
        let x = Tensor::from_f32(DType::F16, &[1, 2], &[1.0, 3.0]).unwrap();
        let scale = Tensor::from_f32(DType::F16, &[2], &[1.0, 1.0]).unwrap();
        let y = ir::eval(&LayerNormalization::default(), &[Some(&x), Some(&scale)], 2).unwrap();
        assert_eq!((y[0].dtype(), &y[1]), (DType::F16, &Tensor::new(&[1, 1], vec![2f32])));
    }

    #[test]
    fn misfits_are_told() {
        let (x, scale) = (Tensor::new(&[2, 3], vec![0f32; 6]), Tensor::new(&[2], vec![0f32; 2]));
        let e = run(&LayerNormalization::default(), &[Some(&x), Some(&scale)], 1).unwrap_err();
        assert_eq!(e, "the scale should be float[3], as the normalized axes of float[2,3], but is float[2]");
        let op = LayerNormalization { axis: 2, ..LayerNormalization::default() };
        assert!(run(&op, &[Some(&x), Some(&scale)], 1).unwrap_err().contains("axis 2"));
    }
}
