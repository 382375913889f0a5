//! `Softmax` (ONNX 1, 11, 13), and `qat.SoftmaxGrad`, its gradient.
//!
//! Before opset 13 the operand counted as a matrix, cut in front of `axis`: the function ran over all axes from there on.

use crate::reduce::Form;
use crate::shapes::list;
use crate::{Div, Exp, ReduceMax, ReduceSum, Sub};
use ir::{Attrs, Compose, Infer, Io, Layouts, Lower, OnnxForm, Op, Parse, Parsed, Step, Type, ValueId, Vjp};
use kernels::relayout::{from_channels_last, to_channels_last};
use std::sync::Arc;
use tensor::DType;

/// `Softmax(x)`: `e^x / sum of e^x` along an axis. f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Softmax {
    /// The axis; negative counts from the end.
    pub axis: i64,
    /// Along all axes from `axis` on, as before opset 13.
    pub flatten: bool,
}

impl Default for Softmax {
    fn default() -> Softmax {
        Softmax { axis: -1, flatten: false }
    }
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    let (axis, flatten) = along(cx)?;
    Ok(Softmax { axis, flatten }.into())
}

/// `axis` and `flatten` of the operators of this family. `flatten` is an attribute of ours.
pub(crate) fn along(cx: &Parse) -> Result<(i64, bool), String> {
    let old = cx.opset < 13;
    let axis = cx.attrs.int("axis", if old { 1 } else { -1 })?;
    let flatten = cx.attrs.int("flatten", old.into())? != 0;
    // The last axis alone is the same in both.
    Ok((axis, flatten && axis != -1))
}

pub(crate) fn attrs(axis: i64, flatten: bool) -> Attrs {
    Attrs::new().with_int("axis", axis, -1).with_int("flatten", flatten.into(), 0)
}

/// The one axis of `x` over which a function over all axes from `axis` on runs, where the others have size 1. There is none
/// behind the last axis: of rows of one element.
pub fn only_axis(x: &Type, axis: i64) -> Option<i64> {
    let shape = x.shape.as_ref()?;
    let first = crate::shapes::axis(axis, shape.len()).ok()?;
    let large: Vec<usize> = (first..shape.len()).filter(|&i| shape[i] != ir::Dim::Fixed(1)).collect();
    match large[..] {
        [] => Some(-1),
        [i] => Some(i as i64),
        _ => None,
    }
}

/// [`only_axis`] of operand 0 in the old form.
pub(crate) fn settled(cx: &Infer, axis: i64, flatten: bool) -> Option<i64> {
    only_axis(cx.ty(0).ok()?, axis).filter(|_| flatten)
}

pub(crate) fn to_onnx(op: &dyn Op, flatten: bool) -> Result<OnnxForm, String> {
    if flatten {
        return Err(format!(
            "{} over several axes at once, as before opset 13, has no form any more",
            op.name()
        ));
    }
    Ok(OnnxForm { op_type: op.name().into(), attrs: op.attrs(), ..OnnxForm::default() })
}

pub(crate) fn infer(cx: &Infer, axis: i64, flatten: bool) -> Result<Vec<Type>, String> {
    let x = cx.float(0)?;
    if let Some(rank) = x.rank() {
        at(axis, flatten, rank)?;
    }
    Ok(vec![x.clone()])
}

pub(crate) fn infer_grad(cx: &Infer, axis: i64, flatten: bool) -> Result<Vec<Type>, String> {
    let (dy, y) = (infer(cx, axis, flatten)?, cx.float(1)?);
    if !dy[0].agrees(y) {
        return Err(format!("the gradient {} should have the type of the result, {y}", dy[0]));
    }
    Ok(dy)
}

/// Position of the axis. A matrix may also be cut behind the last axis, and a scalar is a matrix too.
pub(crate) fn at(axis: i64, flatten: bool, rank: usize) -> Result<usize, String> {
    if flatten && axis == rank as i64 {
        return Ok(rank);
    }
    crate::shapes::axis(axis, rank)
}

/// Calls `kernel(x, dy, classes, result)` on rows along the axis; `count` operands are read.
pub(crate) fn lower(
    cx: &Lower,
    axis: i64,
    flatten: bool,
    count: usize,
    kernel: impl Fn([&[f32]; 2], usize, &mut [f32]) + Send + Sync + 'static,
) -> Result<Step, String> {
    (0..count).try_for_each(|i| cx.typed::<f32>(i).map(|_| ()))?;
    let x = cx.input(0)?;
    let (at, shape) = (at(axis, flatten, x.shape.len())?, x.memory_shape());
    let len = x.len();
    let (outer, classes, inner) = if flatten {
        (shape[..at].iter().product::<usize>(), shape[at..].iter().product(), 1)
    } else {
        let at = x.memory_axis(at);
        (shape[..at].iter().product(), shape[at], shape[at + 1..].iter().product::<usize>())
    };
    if inner == 1 || len == 0 {
        return Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let second = if count > 1 { parts.input(1) } else { &[] };
            kernel([parts.input(0), second], classes, parts.output(0));
            Ok(())
        }));
    }
    // The axis moves to the end and back.
    let step = Step::new(move |io: &mut Io| {
        let mut parts = io.split();
        let (result, rows) = parts.workspace::<f32>().split_at_mut(len);
        let (first, second) = rows.split_at_mut(len);
        for (i, rows) in [&mut *first, &mut *second].into_iter().take(count).enumerate() {
            to_channels_last(parts.input(i), outer, classes, inner, rows);
        }
        kernel([first, second], classes, result);
        from_channels_last(result, outer, classes, inner, parts.output(0));
        Ok(())
    });
    Ok(step.workspace::<f32>((1 + count) * len))
}

/// Any order of the axes will do for one of them; several must lie together.
pub(crate) fn layouts(flatten: bool, count: u32) -> Layouts {
    if flatten { Layouts::Plain } else { Layouts::Same { ins: (1 << count) - 1, outs: 1 } }
}

impl Op for Softmax {
    fn name(&self) -> &str {
        "Softmax"
    }

    fn attrs(&self) -> Attrs {
        attrs(self.axis, self.flatten)
    }

    fn to_onnx(&self, _opset: i64) -> Result<OnnxForm, String> {
        to_onnx(self, self.flatten)
    }

    fn settled(&self, cx: &Infer) -> Option<Arc<dyn Op>> {
        Some(Arc::new(Softmax { axis: settled(cx, self.axis, self.flatten)?, flatten: false }))
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        infer(cx, self.axis, self.flatten)
    }

    /// In f16 each step is rounded, as ONNX defines it; bf16 is computed in f32.
    fn compose(&self, cx: &mut Compose) -> Option<Vec<ValueId>> {
        let x = cx.input(0)?;
        if cx.ty(x).dtype? != DType::F16 || self.flatten {
            return None;
        }
        let axis = cx.constant_value(list(&[self.axis]));
        let form = Form::default();
        let largest = cx.add(ReduceMax { form }, &[x, axis])?;
        let x = cx.add(Sub, &[x, largest])?;
        let powers = cx.add(Exp, &[x])?;
        let sum = cx.add(ReduceSum { form }, &[powers, axis])?;
        Some(vec![cx.add(Div, &[powers, sum])?])
    }

    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        let grad = SoftmaxGrad { axis: self.axis, flatten: self.flatten };
        let dx = cx.add(grad, &[cx.d_output(0)?, cx.output(0)])?;
        cx.set(0, dx);
        Some(())
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        lower(cx, self.axis, self.flatten, 1, |[x, _], classes, y| kernels::softmax::softmax(x, classes, y))
    }

    fn layouts(&self) -> Layouts {
        layouts(self.flatten, 1)
    }
}

/// `SoftmaxGrad(dy, y)`: the gradient of [`Softmax`] from its result, `dx = y (dy - sum of dy y)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SoftmaxGrad {
    /// As of [`Softmax`].
    pub axis: i64,
    /// As of [`Softmax`].
    pub flatten: bool,
}

/// Reads the gradient.
pub fn parse_grad(cx: &Parse) -> Result<Parsed, String> {
    let (axis, flatten) = along(&Parse { opset: 13, ..*cx })?;
    Ok(SoftmaxGrad { axis, flatten }.into())
}

impl Op for SoftmaxGrad {
    fn name(&self) -> &str {
        "SoftmaxGrad"
    }

    fn domain(&self) -> &str {
        "qat"
    }

    fn attrs(&self) -> Attrs {
        attrs(self.axis, self.flatten)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        infer_grad(cx, self.axis, self.flatten)
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let grad = |[dy, y]: [&[f32]; 2], classes, dx: &mut [f32]| {
            kernels::softmax::softmax_grad(y, dy, classes, dx);
        };
        lower(cx, self.axis, self.flatten, 2, grad)
    }

    fn layouts(&self) -> Layouts {
        layouts(self.flatten, 2)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod testing {
    use super::*;
    use crate::testing::{Draw, check_gradient, eval};

    /// Values by definition, `of(x, sum of e^x)`, and gradients, along every axis, alone and with all that follow.
    pub fn check<O: Op>(op: impl Fn(i64, bool) -> O, of: impl Fn(f64, f64) -> f64) {
        let mut draw = Draw::new(3);
        for shape in [vec![4], vec![3, 5], vec![2, 3, 4], vec![2, 3, 2, 3], vec![3, 1, 2]] {
            let rank = shape.len();
            for (axis, flatten) in (0..rank).flat_map(|a| [(a, false), (a, true)]) {
                let x = draw.tensor(&shape, -2.0, 2.0);
                let inner: usize = if flatten { 1 } else { shape[axis + 1..].iter().product() };
                let size: usize = if flatten { shape[axis..].iter().product() } else { shape[axis] };
                let values = x.to_f64();
                let sum = |i: usize| -> f64 {
                    let first = i / (size * inner) * size * inner + i % inner;
                    (0..size).map(|c| values[first + c * inner].exp()).sum()
                };
                for axis in [axis as i64, axis as i64 - rank as i64] {
                    let y = eval(&op(axis, flatten), &[&x]).unwrap().to_f64();
                    for (i, y) in y.iter().enumerate() {
                        let want = of(values[i], sum(i));
                        assert!((y - want).abs() < 1e-6 * (1.0 + want.abs()), "{y} against {want}");
                    }
                }
                check_gradient(op(axis as i64, flatten), &[&x], 1, &[0]);
            }
        }
        let x = draw.tensor(&[2, 3], -1.0, 1.0);
        assert!(eval(&op(2, false), &[&x]).unwrap_err().contains("axis 2"));
        assert!(eval(&op(-3, true), &[&x]).unwrap_err().contains("axis -3"));
        assert_eq!(eval(&op(2, true), &[&x]).unwrap().to_f64()[0], of(0.0, 1.0), "rows of one element");
        assert_eq!(
            eval(&op(1, false), &[&tensor::Tensor::zeros(tensor::DType::F32, &[2, 0])]).unwrap().len(),
            0
        );
        assert!(eval(&op(0, false), &[&tensor::Tensor::scalar(1f32)]).is_err());
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn values_and_gradients() {
        testing::check(|axis, flatten| Softmax { axis, flatten }, |x, sum| x.exp() / sum);
    }

    #[test]
    fn old_opsets_take_all_axes_from_one_on() {
        let read = |opset, attrs: Attrs| {
            let parsed = parse(&Parse { attrs: &attrs, opset, ins: 1, outs: 1 }).unwrap();
            *parsed.op.is::<Softmax>().unwrap()
        };
        assert_eq!(read(11, Attrs::new()), Softmax { axis: 1, flatten: true });
        assert_eq!(read(12, Attrs::new().with_int("axis", -1, 1)), Softmax::default());
        assert_eq!(read(13, Attrs::new()), Softmax::default());
        assert_eq!(read(13, Attrs::new().with_int("axis", 1, -1)), Softmax { axis: 1, flatten: false });
        let old = Softmax { axis: 1, flatten: true };
        assert_eq!(read(20, old.attrs()), old);
        assert!(old.to_onnx(13).is_err() && Softmax::default().to_onnx(13).is_ok());
    }
}
