//! Windows over three and more spatial axes, as windows over fewer, for convolutions and pools. The first spatial
//! axis, the depth, is taken out; the rest is again a window, and the executor runs it once two axes are left.

use crate::parts::{gather, pad, reshape, resized, transpose};
use crate::reduce::Form;
use crate::shapes::list;
use crate::window::Window;
use crate::{Add, ReduceSum};
use ir::{Compose, Op, ValueId};
use kernels::window::{Axis, Rounding};
use std::sync::Arc;

/// Whether a window over this many spatial axes is spelled out.
pub(crate) fn is_deep(axes: usize) -> bool {
    axes > 2
}

/// The window over the axes `from..to` of `axes`.
fn part(window: &Window, axes: usize, from: usize, to: usize) -> Window {
    let of = |list: &[usize]| list.get(from..to).unwrap_or_default().to_vec();
    let pads = match window.pads.len() {
        n if n == 2 * axes => [&window.pads[from..to], &window.pads[axes + from..axes + to]].concat(),
        _ => Vec::new(),
    };
    Window {
        kernel: of(&window.kernel),
        strides: of(&window.strides),
        dilations: of(&window.dilations),
        pads,
        auto_pad: window.auto_pad,
    }
}

/// A convolution: the places of the depth that a window sees become channels.
///
/// ```text
/// (N, C, D, ...) -> (N, C, D', K, ...) -> (N D', C K, ...) -> (N D', O, ...) -> (N, O, D', ...)
/// ```
pub(crate) fn convolution(
    cx: &mut Compose,
    window: &Window,
    conv: impl FnOnce(Window) -> Arc<dyn Op>,
) -> Option<Vec<ValueId>> {
    let (mut x, w) = (cx.input(0)?, cx.input(1)?);
    let (dims, weight) = (cx.dims(x)?, cx.dims(w)?);
    let axes = dims.len().checked_sub(2).filter(|&n| is_deep(n) && weight.len() == n + 2)?;
    let (&[batch, channels, depth, ..], &[outputs, inputs, kernel, ref kernels @ ..]) =
        (&dims[..], &weight[..])
    else {
        return None;
    };
    let axis = window.axis(0, axes, depth, kernel, Rounding::Floor).ok()?;
    let corners = [(0, 0), (axis.output.saturating_sub(1), kernel.saturating_sub(1))];
    if corners.into_iter().any(|(o, k)| seen(&axis, o, k).is_none()) {
        let mut behind = vec![0; dims.len()];
        behind[2] = 1;
        x = pad(cx, x, &vec![0; dims.len()], &behind)?;
    }
    // What lies outside is the zero behind the last place.
    let places = |i: usize| seen(&axis, i / kernel, i % kernel).unwrap_or(depth);
    x = gather(cx, x, 2, &[axis.output, kernel], places)?;
    let order: Vec<usize> = [0, 2, 1, 3].into_iter().chain(4..dims.len() + 1).collect();
    x = transpose(cx, x, &order)?;
    x = resized(cx, x, &[&[batch * axis.output, channels * kernel], &dims[3..]].concat())?;
    let w = resized(cx, w, &[&[outputs, inputs * kernel], kernels].concat())?;
    let conv = conv(part(window, axes, 1, axes));
    let ins: Vec<_> = [Some(x), Some(w)].into_iter().chain(cx.input(2).map(Some)).collect();
    let y = cx.add_multi(conv, &ins, 1)?[0];
    let spatial = cx.dims(y)?[2..].to_vec();
    let y = resized(cx, y, &[&[batch, axis.output, outputs], &spatial[..]].concat())?;
    let order: Vec<usize> = [0, 2, 1].into_iter().chain(3..dims.len()).collect();
    Some(vec![transpose(cx, y, &order)?])
}

/// The place of the input that output `o` sees at kernel position `k`.
fn seen(axis: &Axis, o: usize, k: usize) -> Option<usize> {
    (o * axis.stride + k * axis.dilation).checked_sub(axis.pad_begin).filter(|&at| at < axis.input)
}

/// A transposed convolution along `axis`, the depth of the convolution that it reverses: each place of the depth gives its
/// contributions to all kernel positions as channels, which are then gathered and added up.
///
/// ```text
/// (N, C, D, ...) -> (N D, C, ...) -> (N D, M K, ...) -> (N, M, D K, ...) -> (N, M, D', K, ...) -> (N, M, D', ...)
/// ```
pub(crate) fn transposed_convolution(
    cx: &mut Compose,
    window: &Window,
    group: usize,
    axis: &Axis,
    conv: impl FnOnce(Window) -> Arc<dyn Op>,
) -> Option<Vec<ValueId>> {
    let (x, w) = (cx.input(0)?, cx.input(1)?);
    let (dims, weight) = (cx.dims(x)?, cx.dims(w)?);
    let (&[batch, channels, depth, ..], &[_, outputs, kernel, ref kernels @ ..]) = (&dims[..], &weight[..])
    else {
        return None;
    };
    let axes = dims.len() - 2;
    let order: Vec<usize> = [0, 2, 1].into_iter().chain(3..dims.len()).collect();
    let x = transpose(cx, x, &order)?;
    let x = resized(cx, x, &[&[batch * depth, channels], &dims[3..]].concat())?;
    let w = resized(cx, w, &[&[channels, outputs * kernel], kernels].concat())?;
    let y = cx.add_multi(conv(part(window, axes, 1, axes)), &[Some(x), Some(w)], 1)?[0];
    let (outputs, spatial) = (outputs * group, cx.dims(y)?[2..].to_vec());
    let y = resized(cx, y, &[&[batch, depth, outputs, kernel], &spatial[..]].concat())?;
    let order: Vec<usize> = [0, 2, 1, 3].into_iter().chain(4..dims.len() + 1).collect();
    let y = transpose(cx, y, &order)?;
    let y = resized(cx, y, &[&[batch, outputs, depth * kernel], &spatial[..]].concat())?;
    let mut behind = vec![0; dims.len()];
    behind[2] = 1;
    let y = pad(cx, y, &vec![0; dims.len()], &behind)?;
    // Which place gives to `at` through position `k`; the zero behind the last place where none does.
    let giver = |at: usize, k: usize| {
        let from = (at + axis.pad_begin).checked_sub(k * axis.dilation).filter(|t| t % axis.stride == 0)?;
        Some(from / axis.stride).filter(|&d| d < depth).map(|d| d * kernel + k)
    };
    let givers = |i: usize| giver(i / kernel, i % kernel).unwrap_or(depth * kernel);
    let y = gather(cx, y, 2, &[axis.input, kernel], givers)?;
    let taps = cx.constant_value(list(&[3]));
    let mut y = cx.add(ReduceSum { form: Form { keep_dims: false, noop: false } }, &[y, taps])?;
    if let Some(bias) = cx.input(2) {
        let mut shape = vec![1; axes + 1];
        shape[0] = -1;
        let bias = reshape(cx, bias, &shape)?;
        y = cx.add(Add, &[y, bias])?;
    }
    Some(vec![y])
}

/// A pool whose result along one axis does not depend on how it is done along the others: first over the axes behind the
/// depth, then along the depth.
pub(crate) fn pool(
    cx: &mut Compose,
    window: &Window,
    pool: impl Fn(Window) -> Arc<dyn Op>,
) -> Option<Vec<ValueId>> {
    let x = cx.input(0)?;
    let dims = cx.dims(x)?;
    let axes = dims.len().checked_sub(2).filter(|&n| is_deep(n) && cx.outs() == 1)?;
    let (batch, channels, depth) = (dims[0], dims[1], dims[2]);
    let x = resized(cx, x, &[&[batch, channels * depth], &dims[3..]].concat())?;
    let y = cx.add_multi(pool(part(window, axes, 1, axes)), &[Some(x)], 1)?[0];
    let spatial = cx.dims(y)?[2..].to_vec();
    let y = resized(cx, y, &[batch, channels, depth, spatial.iter().product()])?;
    let one = |list: Vec<usize>, default: usize| {
        if list.is_empty() { list } else { vec![list[0], default] }
    };
    let depth = part(window, axes, 0, 1);
    let pads = if depth.pads.is_empty() { Vec::new() } else { vec![depth.pads[0], 0, depth.pads[1], 0] };
    let along = Window {
        kernel: one(depth.kernel, 1),
        strides: one(depth.strides, 1),
        dilations: one(depth.dilations, 1),
        pads,
        auto_pad: depth.auto_pad,
    };
    let y = cx.add_multi(pool(along), &[Some(y)], 1)?[0];
    let depth = cx.dims(y)?[2];
    Some(vec![resized(cx, y, &[&[batch, channels, depth], &spatial[..]].concat())?])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{Draw, check_gradient, run};
    use crate::{AveragePool, Conv, ConvTranspose, MaxPool};
    use tensor::Tensor;

    fn deep(stride: usize) -> Window {
        Window {
            kernel: vec![2, 3, 2],
            strides: vec![stride, 2, 1],
            dilations: vec![2, 1, 1],
            pads: vec![1, 0, 1, 0, 1, 0],
            ..Window::default()
        }
    }

    /// The convolution by its definition, with the window of each axis.
    fn by_definition(x: &Tensor, w: &Tensor, group: usize, axes: &[Axis]) -> Vec<f64> {
        let (dims, weight, x, w) = (x.shape(), w.shape(), x.to_f64(), w.to_f64());
        let mut y = Vec::new();
        let index = |i: usize, sizes: &[usize]| {
            let mut left = i;
            let mut at: Vec<usize> = sizes.iter().rev().map(|n| (left % n, left /= n).0).collect();
            at.reverse();
            at
        };
        let (outs, kernels): (Vec<usize>, Vec<usize>) =
            (axes.iter().map(|a| a.output).collect(), axes.iter().map(|a| a.kernel).collect());
        for (n, o) in (0..dims[0]).flat_map(|n| (0..weight[0]).map(move |o| (n, o))) {
            for place in (0..outs.iter().product()).map(|i| index(i, &outs)) {
                let mut sum = 0.0;
                for (c, tap) in (0..weight[1])
                    .flat_map(|c| (0..kernels.iter().product()).map(move |k| (c, k)))
                    .map(|(c, k)| (c, index(k, &kernels)))
                {
                    let at: Option<Vec<usize>> =
                        axes.iter().enumerate().map(|(i, a)| seen(a, place[i], tap[i])).collect();
                    let Some(at) = at else { continue };
                    let channel = o / (weight[0] / group) * weight[1] + c;
                    let flat = |first: usize, sizes: &[usize], at: &[usize]| {
                        at.iter().zip(sizes).fold(first, |sum, (i, n)| sum * n + i)
                    };
                    sum += x[flat(n * dims[1] + channel, &dims[2..], &at)]
                        * w[flat(o * weight[1] + c, &weight[2..], &tap)];
                }
                y.push(sum);
            }
        }
        y
    }

    #[test]
    fn convolutions_by_definition() {
        let mut draw = Draw::new(1);
        for (group, stride) in [(1, 1), (2, 2)] {
            let (x, w) =
                (draw.tensor(&[2, 4, 5, 6, 3], -1.0, 1.0), draw.tensor(&[6, 4 / group, 2, 3, 2], -1.0, 1.0));
            let window = deep(stride);
            let axes: Vec<Axis> = (0..3)
                .map(|i| window.axis(i, 3, x.shape()[i + 2], window.kernel[i], Rounding::Floor).unwrap())
                .collect();
            let y = run(&Conv { window, group }, &[Some(&x), Some(&w)], 1).unwrap().remove(0);
            let want = by_definition(&x, &w, group, &axes);
            assert!(y.to_f64().iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-5));
        }
    }

    #[test]
    fn gradients_against_differences() {
        let mut draw = Draw::new(2);
        let x = draw.tensor(&[2, 2, 4, 4, 3], -1.0, 1.0);
        let (w, b) = (draw.tensor(&[4, 1, 2, 3, 2], -1.0, 1.0), draw.tensor(&[4], -1.0, 1.0));
        check_gradient(Conv { window: deep(1), group: 2 }, &[&x, &w, &b], 1, &[0, 1, 2]);
        let (w, b) = (draw.tensor(&[2, 2, 2, 3, 2], -1.0, 1.0), draw.tensor(&[4], -1.0, 1.0));
        let op = ConvTranspose { window: deep(2), group: 2, ..ConvTranspose::default() };
        check_gradient(op, &[&x, &w, &b], 1, &[0, 1, 2]);
        let op = AveragePool { window: deep(2), ceil: true, include_pad: false };
        check_gradient(op, &[&x], 1, &[0]);
        let op = MaxPool { window: deep(1), ..MaxPool::default() };
        check_gradient(op, &[&draw.distinct(&[1, 2, 4, 4, 3])], 1, &[0]);
    }

    #[test]
    fn a_transposed_convolution_is_the_gradient_of_one() {
        let mut draw = Draw::new(3);
        let (w, window) = (draw.tensor(&[3, 2, 2, 3, 2], -1.0, 1.0), deep(1));
        let (x, y) = (draw.tensor(&[1, 2, 5, 6, 4], -1.0, 1.0), draw.tensor(&[1, 3, 4, 3, 4], -1.0, 1.0));
        let forward =
            run(&Conv { window: window.clone(), group: 1 }, &[Some(&x), Some(&w)], 1).unwrap().remove(0);
        assert_eq!(forward.shape(), y.shape());
        let op = ConvTranspose { window, ..ConvTranspose::default() };
        let back = run(&op, &[Some(&y), Some(&w)], 1).unwrap().remove(0);
        assert_eq!(back.shape(), x.shape());
        let dot = |a: &Tensor, b: &Tensor| a.to_f64().iter().zip(b.to_f64()).map(|(a, b)| a * b).sum::<f64>();
        assert!((dot(&forward, &y) - dot(&x, &back)).abs() < 1e-4);
    }
}
