//! `MaxPool` (ONNX 1, 8, 10, 11, 12, 22): the largest value of each window; and its gradient `qat.MaxPoolGrad`.
//!
//! Opset 8 added the second result, 10 dilations and `ceil_mode`. The kernels take one and two spatial axes; more are
//! spelled out.

use crate::shapes::{gradient_of, products};
use crate::volume;
use crate::window::{Window, rounding};
use ir::{
    Attrs, Compose, Infer, Io, Layouts, Lower, Op, Operand, Parse, Parsed, QuantRole, Step, Type, ValueId,
    Vjp,
};
use kernels::pool::{self, Axis, Pool};
use std::sync::Arc;
use tensor::DType;

/// `MaxPool(x)`: `x` f32, or uint8 codes, `(N, C, spatial...)`. Result 1, where asked for, is the int64 index of each
/// maximum in `x`. Padding never is a maximum; of equal values the first counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MaxPool {
    /// Kernel size, strides, dilations, padding.
    pub window: Window,
    /// The last window may reach beyond the padded input.
    pub ceil: bool,
    /// Indices count the spatial axes in column-major order.
    pub column_major: bool,
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    Ok(MaxPool::from_attrs(cx.attrs)?.into())
}

impl MaxPool {
    fn from_attrs(attrs: &Attrs) -> Result<MaxPool, String> {
        Ok(MaxPool {
            window: Window::parse(attrs)?.with_kernel()?,
            ceil: attrs.int("ceil_mode", 0)? != 0,
            column_major: attrs.int("storage_order", 0)? != 0,
        })
    }
}

/// Type of the result of pooling `x`.
pub(crate) fn pooled(x: &Type, window: &Window, ceil: bool) -> Result<Type, String> {
    let Some(shape) = &x.shape else { return Ok(x.clone()) };
    let [batch, channels, spatial @ ..] = &shape[..] else { return Err(format!("{x} has no spatial axis")) };
    if spatial.is_empty() || spatial.len() != window.kernel.len() {
        return Err(format!("kernel_shape {:?} does not fit the spatial axes of {x}", window.kernel));
    }
    let kernel: Vec<Option<usize>> = window.kernel.iter().map(|&k| Some(k)).collect();
    let outputs = window.outputs(spatial, &kernel, rounding(ceil))?;
    Ok(Type {
        dtype: x.dtype,
        shape: Some([batch.clone(), channels.clone()].into_iter().chain(outputs).collect()),
    })
}

/// The pooling of an input of shape `x`, for the kernels.
pub(crate) fn plan(x: &[usize], window: &Window, ceil: bool) -> Result<Pool, String> {
    let [batch, channels, ref spatial @ ..] = *x else {
        return Err(format!("shape {x:?} has no spatial axis"));
    };
    Pool::new(batch, channels, window.plane(spatial, &window.kernel, rounding(ceil))?)
}

impl Op for MaxPool {
    fn name(&self) -> &str {
        "MaxPool"
    }

    fn attrs(&self) -> Attrs {
        self.window.attrs(Attrs::new()).with_int("ceil_mode", self.ceil.into(), 0).with_int(
            "storage_order",
            self.column_major.into(),
            0,
        )
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let y = pooled(cx.ty(0)?, &self.window, self.ceil)?;
        let indices = Type { dtype: Some(DType::I64), shape: y.shape.clone() };
        Ok(vec![y, indices])
    }

    fn compose(&self, cx: &mut Compose) -> Option<Vec<ValueId>> {
        volume::pool(cx, &self.window, |window| Arc::new(MaxPool { window, ..self.clone() }))
    }

    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        let op = MaxPoolGrad(MaxPool { column_major: false, ..self.clone() });
        let ins: Vec<_> = [cx.d_output(0)?, cx.input(0)?].into_iter().chain(cx.output_stand_in(0)).collect();
        let dx = cx.add(op, &ins)?;
        cx.set(0, dx);
        Some(())
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        if let Ok(x) = cx.typed::<u8>(0) {
            let plan = plan(&x.shape, &self.window, self.ceil)?;
            if cx.outs.len() > 1 {
                return Err("positions of the largest codes are not found here, only of values".into());
            }
            return Ok(Step::new(move |io: &mut Io| {
                let mut parts = io.split();
                pool::max_codes(&plan, parts.input(0), parts.output(0));
                Ok(())
            }));
        }
        let plan = plan(&cx.typed::<f32>(0)?.shape, &self.window, self.ceil)?;
        if cx.outs.len() == 1 {
            return Ok(Step::new(move |io: &mut Io| {
                let mut parts = io.split();
                pool::max_values(&plan, parts.input(0), parts.output(0));
                Ok(())
            }));
        }
        let column_major = self.column_major;
        let step = Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let argmax = parts.workspace::<i32>();
            pool::max(&plan, parts.input(0), parts.output(0), argmax);
            number(&plan, argmax, column_major, parts.output(1));
            Ok(())
        });
        Ok(step.workspace::<i32>(plan.output_len()))
    }

    fn flops(&self, cx: &Lower) -> Option<u64> {
        products(cx.outs[0].len(), self.window.kernel.iter().product())
    }

    fn quant(&self) -> QuantRole {
        QuantRole::SameScale
    }

    fn layouts(&self) -> Layouts {
        Layouts::ChannelsLast { ins: 1, outs: 0b11 }
    }
}

/// ONNX's indices of positions in channels-last images: they count through `(N, C, H, W)`.
fn number(plan: &Pool, argmax: &[i32], column_major: bool, indices: &mut [i64]) {
    let (height, width) = (plan.window.height.input as i64, plan.window.width.input as i64);
    let per_image = plan.window.output_len() * plan.channels;
    for (i, (index, &at)) in indices.iter_mut().zip(argmax).enumerate() {
        let image = (i / per_image * plan.channels + i % plan.channels) as i64;
        let (row, column) = (i64::from(at) / width, i64::from(at) % width);
        let at = if column_major { column * height + row } else { i64::from(at) };
        *index = image * height * width + at;
    }
}

/// `MaxPoolGrad(dy, x, y?)`: the gradient of [`MaxPool`], to the first maximum of each window. It looks for the maxima
/// anew, so that the forward node is the one of the model.
///
/// With `y`, the gradient goes to the first element of each window that equals `y`, and is lost where none does, as in
/// Paddle's `pool2d_grad`. For the result of the pooling that is the same. PaddleSlim, however, makes `pool2d_grad`
/// compare with the quantized result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaxPoolGrad(pub MaxPool);

/// Reads the gradient.
pub fn parse_grad(cx: &Parse) -> Result<Parsed, String> {
    Ok(MaxPoolGrad(MaxPool::from_attrs(cx.attrs)?).into())
}

/// Sends gradients to maxima: `dy` is operand 0, `x` operand 1.
pub(crate) fn max_grad_step(plan: Pool, dy: &Operand) -> Step {
    let len = dy.len();
    let step = Step::new(move |io: &mut Io| {
        let mut parts = io.split();
        let (argmax, y) = parts.workspaces::<i32, f32>(len);
        pool::max(&plan, parts.input(1), y, argmax);
        pool::max_grad(&plan, argmax, parts.input(0), parts.output(0));
        Ok(())
    });
    step.workspace::<f32>(2 * len)
}

/// For each window, the position `row * W + column` of the first element that equals `y`; -1 where none does.
fn first_equal(plan: &Pool, x: &[f32], y: &[f32], positions: &mut [i32]) {
    let (height, width, channels) = (plan.window.height, plan.window.width, plan.channels);
    let place = |axis: Axis, output: usize, tap: usize| {
        (output * axis.stride + tap * axis.dilation).checked_sub(axis.pad_begin).filter(|&at| at < axis.input)
    };
    for (i, (y, position)) in y.iter().zip(positions).enumerate() {
        let (channel, at) = (i % channels, i / channels);
        let (column, at) = (at % width.output, at / width.output);
        let (row, image) = (at % height.output, at / height.output);
        let x = &x[image * plan.window.input_len() * channels..];
        let taps = (0..height.kernel).flat_map(|r| (0..width.kernel).map(move |s| (r, s)));
        let mut seen =
            taps.filter_map(|(r, s)| Some(place(height, row, r)? * width.input + place(width, column, s)?));
        *position = seen.find(|at| x[at * channels + channel] == *y).map_or(-1, |at| at as i32);
    }
}

impl Op for MaxPoolGrad {
    fn name(&self) -> &str {
        "MaxPoolGrad"
    }

    fn domain(&self) -> &str {
        "qat"
    }

    fn attrs(&self) -> Attrs {
        self.0.attrs()
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let (dy, x) = (cx.float(0)?, cx.float(1)?);
        let y = pooled(x, &self.0.window, self.0.ceil)?;
        if cx.has(2) && !cx.float(2)?.agrees(&y) {
            return Err(format!("the result should be {y}, but is {}", cx.float(2)?));
        }
        gradient_of(dy, &y)?;
        Ok(vec![x.clone()])
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let plan = plan(&cx.typed::<f32>(1)?.shape, &self.0.window, self.0.ceil)?;
        let dy = cx.typed::<f32>(0)?;
        if cx.ins.len() < 3 {
            return Ok(max_grad_step(plan, dy));
        }
        cx.typed::<f32>(2)?;
        let step = Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let positions = parts.workspace::<i32>();
            first_equal(&plan, parts.input(1), parts.input(2), positions);
            pool::max_grad(&plan, positions, parts.input(0), parts.output(0));
            Ok(())
        });
        Ok(step.workspace::<i32>(dy.len()))
    }

    fn layouts(&self) -> Layouts {
        Layouts::ChannelsLast { ins: 0b111, outs: 1 }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{Draw, check_gradient, run};
    use tensor::Tensor;

    #[test]
    fn maxima_and_their_indices() {
        let x = Tensor::new(
            &[1, 2, 2, 3],
            vec![1.0f32, 5.0, 2.0, 3.0, 4.0, 6.0, -1.0, -5.0, -2.0, -3.0, -4.0, -6.0],
        );
        let op = MaxPool { window: Window { kernel: vec![2, 2], ..Window::default() }, ..MaxPool::default() };
        let out = run(&op, &[Some(&x)], 2).unwrap();
        assert_eq!(out[0], Tensor::new(&[1, 2, 1, 2], vec![5.0f32, 6.0, -1.0, -2.0]));
        assert_eq!(out[1].to_i64(), [1, 5, 6, 8]);
        let out = run(&MaxPool { column_major: true, ..op }, &[Some(&x)], 2).unwrap();
        assert_eq!(out[1].to_i64(), [2, 5, 6, 10]);
    }

    #[test]
    fn padding_and_ceiling() {
        let x = Tensor::new(&[1, 1, 4], vec![-1.0f32, -2.0, -3.0, -4.0]);
        let pooled = |ceil, pad| {
            let op = MaxPool { window: Window::new(&[3], 2, pad), ceil, ..MaxPool::default() };
            run(&op, &[Some(&x)], 1).unwrap()[0].to_f32()
        };
        assert_eq!(pooled(false, 0), [-1.0]);
        assert_eq!(pooled(true, 0), [-1.0, -3.0]);
        assert_eq!(pooled(false, 1), [-1.0, -2.0]);
    }

    #[test]
    fn gradients_against_differences() {
        let mut draw = Draw::new(4);
        for (shape, kernel, stride, pad, ceil) in [
            (vec![2, 3, 5, 6], vec![3, 3], 2, 1, false),
            (vec![1, 2, 5, 5], vec![2, 2], 2, 0, true),
            (vec![2, 2, 7], vec![3], 1, 1, false),
        ] {
            let op = MaxPool { window: Window::new(&kernel, stride, pad), ceil, ..MaxPool::default() };
            check_gradient(op, &[&draw.distinct(&shape)], 1, &[0]);
        }
    }

    #[test]
    fn gradient_by_comparison_with_the_result() {
        let draw = &mut Draw::new(7);
        for (shape, kernel, stride, pad, ceil) in [
            (vec![2, 3, 5, 6], vec![3, 3], 2, 1, false),
            (vec![1, 2, 5, 5], vec![2, 2], 2, 0, true),
            (vec![2, 2, 7], vec![3], 1, 1, false),
        ] {
            let op = MaxPool { window: Window::new(&kernel, stride, pad), ceil, ..MaxPool::default() };
            let x = draw.distinct(&shape);
            let y = run(&op, &[Some(&x)], 1).unwrap().remove(0);
            let dy = draw.tensor(y.shape(), -1.0, 1.0);
            let grad = MaxPoolGrad(op);
            let [by_maximum, by_result] = [&[Some(&dy), Some(&x)][..], &[Some(&dy), Some(&x), Some(&y)]]
                .map(|ins| run(&grad, ins, 1).unwrap());
            assert_eq!(by_maximum, by_result);
        }
        // A result that was changed afterwards: equal to the first, to none, to a later element that is not the largest.
        let t = |shape: &[usize], v: &[f32]| Tensor::new(shape, v.to_vec());
        let op = MaxPoolGrad(MaxPool { window: Window::new(&[2], 2, 0), ..MaxPool::default() });
        let (dy, x) = (t(&[1, 1, 3], &[1.0, 2.0, 4.0]), t(&[1, 1, 6], &[3.0, 3.0, 5.0, 6.0, 8.0, 7.0]));
        let y = t(&[1, 1, 3], &[3.0, 6.5, 7.0]);
        let dx = run(&op, &[Some(&dy), Some(&x), Some(&y)], 1).unwrap().remove(0);
        assert_eq!(dx.to_f32(), [1.0, 0.0, 0.0, 0.0, 0.0, 4.0]);
    }

    #[test]
    fn misfits_are_told() {
        let x = Tensor::new(&[1, 1, 4], vec![0f32; 4]);
        let fail =
            |window, x: &Tensor| run(&MaxPool { window, ..MaxPool::default() }, &[Some(x)], 1).unwrap_err();
        assert!(fail(Window::new(&[2, 2], 1, 0), &x).contains("kernel_shape [2, 2]"));
        assert!(fail(Window::new(&[5], 1, 0), &x).contains("exceeds"));
        assert!(fail(Window::new(&[], 1, 0), &Tensor::scalar(0f32)).contains("no spatial axis"));
        assert!(MaxPool::from_attrs(&Attrs::new()).unwrap_err().contains("kernel_shape is missing"));
    }

    #[test]
    fn attributes_survive_their_text() {
        let op = MaxPool { window: Window::new(&[3, 2], 2, 1), ceil: true, column_major: true };
        assert_eq!(MaxPool::from_attrs(&op.attrs()).unwrap(), op);
    }
}
