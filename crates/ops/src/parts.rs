//! What operators that are composed of others have in common: common operations with constant operands.

use crate::shapes::list;
use crate::{Cast, Gather, Pad, Reshape, Slice, Transpose, Unsqueeze};
use half::{bf16, f16};
use ir::{Compose, ValueId};
use tensor::{DType, Tensor, element_count};

/// The numbers in the floating-point type `dtype`; `None` for another type.
pub(crate) fn floats(dtype: DType, shape: &[usize], values: &[f64]) -> Option<Tensor> {
    Some(match dtype {
        DType::F32 => Tensor::new(shape, values.iter().map(|&x| x as f32).collect()),
        DType::F64 => Tensor::new(shape, values.to_vec()),
        DType::F16 => Tensor::new(shape, values.iter().map(|&x| f16::from_f64(x)).collect()),
        DType::BF16 => Tensor::new(shape, values.iter().map(|&x| bf16::from_f64(x)).collect()),
        _ => return None,
    })
}

/// A number in the floating-point type of `like`.
pub(crate) fn number(cx: &mut Compose, like: ValueId, value: f64) -> Option<ValueId> {
    let number = floats(cx.ty(like).dtype?, &[], &[value])?;
    Some(cx.constant_value(number))
}

/// `x` under another shape, in the words of `Reshape`: 0 keeps a size, -1 takes what is left.
pub(crate) fn reshape(cx: &mut Compose, x: ValueId, shape: &[i64]) -> Option<ValueId> {
    let shape = cx.constant_value(list(shape));
    cx.add(Reshape::default(), &[x, shape])
}

/// [`reshape`] to known sizes.
pub(crate) fn resized(cx: &mut Compose, x: ValueId, shape: &[usize]) -> Option<ValueId> {
    let shape: Option<Vec<i64>> = shape.iter().map(|&n| i64::try_from(n).ok()).collect();
    let shape = cx.constant_value(list(&shape?));
    cx.add(Reshape { allow_zero: true }, &[x, shape])
}

/// The axes of `x` in another order.
pub(crate) fn transpose(cx: &mut Compose, x: ValueId, order: &[usize]) -> Option<ValueId> {
    cx.add(Transpose { order: Some(order.to_vec()) }, &[x])
}

/// A new axis of size 1.
pub(crate) fn unsqueeze(cx: &mut Compose, x: ValueId, axis: i64) -> Option<ValueId> {
    let axis = cx.constant_value(list(&[axis]));
    cx.add(Unsqueeze, &[x, axis])
}

/// The places `start..end` of an axis, in steps.
pub(crate) fn slice(
    cx: &mut Compose,
    x: ValueId,
    axis: i64,
    start: i64,
    end: i64,
    step: i64,
) -> Option<ValueId> {
    let bounds = [start, end, axis, step].map(|n| cx.constant_value(list(&[n])));
    cx.add(Slice, &[x, bounds[0], bounds[1], bounds[2], bounds[3]])
}

/// `x` with zeros before and behind each axis.
pub(crate) fn pad(cx: &mut Compose, x: ValueId, before: &[i64], behind: &[i64]) -> Option<ValueId> {
    let pads = cx.constant_value(list(&[before, behind].concat()));
    cx.add(Pad::default(), &[x, pads])
}

/// The places of an axis that `index` names for each element of `shape`, which takes the place of the axis.
pub(crate) fn gather(
    cx: &mut Compose,
    x: ValueId,
    axis: usize,
    shape: &[usize],
    index: impl Fn(usize) -> usize,
) -> Option<ValueId> {
    let count = element_count(shape)?;
    cx.claim(count)?;
    let indices = cx.constant_value(Tensor::new(shape, (0..count).map(|i| index(i) as i64).collect()));
    cx.add(Gather { axis: axis as i64 }, &[x, indices])
}

/// `x` in another element type, if it is not of it.
pub(crate) fn cast(cx: &mut Compose, x: ValueId, to: DType) -> Option<ValueId> {
    if cx.ty(x).dtype? == to { Some(x) } else { cx.add(Cast { to }, &[x]) }
}
