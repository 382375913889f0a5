//! Depthwise convolution on channels-last data: every input channel has `out_channels / in_channels` filters of its own.
//!
//! Called by [`crate::conv`], which checks the slices. Weights are repacked to `(kernel positions, out_channels)`, so
//! that all loops run over neighbouring channels. Forward pass and input gradient are the same gathering loop; they
//! differ in which positions meet ([`Axis::taps`] or [`Axis::grad_taps`]).

#![allow(unsafe_code)]

use crate::conv::{Conv, Finish};
use crate::parallel;
use crate::relayout::permute;
use crate::simd::{Isa, Vector, dispatch, dispatch_vectors};
use crate::window::{Axis, RUN, Taps, Window, chunk_positions, runs};
use std::ops::Range;

/// Values of what [`pack`] makes.
pub(crate) fn packed_len(conv: &Conv) -> usize {
    conv.weight_len()
}

/// See [`crate::conv::forward_packed`].
pub(crate) fn forward(isa: Isa, conv: &Conv, x: &[f32], weights: &[f32], finish: Finish<'_>, y: &mut [f32]) {
    let (channels, multiplier) = (conv.in_channels, conv.out_channels / conv.in_channels);
    let (source, target) =
        (extent(&conv.window, |axis| axis.input), extent(&conv.window, |axis| axis.output));
    let kernel = |run: &Run<'_>, y: &mut [f32]| match multiplier {
        1 => correlate(isa, run, channels, finish.bias, y),
        _ => correlate_multiplied(isa, run, channels, multiplier, finish.bias, y),
    };
    let finish = |at: usize, y: &mut [f32]| finish.rest(isa, at, y);
    sweep(&conv.window, x, source, weights, y, target, conv.out_channels, Axis::taps, 1, kernel, finish);
}

/// See [`crate::conv::input_grad`].
pub(crate) fn input_grad(
    isa: Isa,
    conv: &Conv,
    dy: &[f32],
    w: &[f32],
    dx: &mut [f32],
    workspace: &mut [f32],
) {
    let (channels, multiplier) = (conv.in_channels, conv.out_channels / conv.in_channels);
    let (source, target) =
        (extent(&conv.window, |axis| axis.output), extent(&conv.window, |axis| axis.input));
    let weights = &mut workspace[..packed_len(conv)];
    pack(conv, w, weights);
    let period = conv.window.width.stride;
    let kernel = |run: &Run<'_>, dx: &mut [f32]| match multiplier {
        1 => correlate(isa, run, channels, None, dx),
        _ => contract(isa, run, channels, multiplier, dx),
    };
    let taps = Axis::grad_taps;
    sweep(&conv.window, dy, source, weights, dx, target, channels, taps, period, kernel, |_, _| {});
}

/// Rows and columns of one side of a window.
fn extent(window: &Window, length: impl Fn(&Axis) -> usize) -> (usize, usize) {
    (length(&window.height), length(&window.width))
}

/// Repacks weights `(O, 1, kernel positions)` to `(kernel positions, O)`.
pub(crate) fn pack(conv: &Conv, w: &[f32], packed: &mut [f32]) {
    permute(w, &[conv.out_channels, conv.window.kernel_len()], &[1, 0], packed);
}

/// What the positions of one run of the target gather from: an image of the source, the weights, and the pairs of
/// positions that meet, for the row of the run and for each of its columns.
struct Run<'a> {
    image: &'a [f32],
    /// Rows and columns of the image.
    size: (usize, usize),
    weights: &'a [f32],
    window: &'a Window,
    row: Taps,
    columns: &'a [Taps],
    /// Distance between columns that see the same kernel positions, away from the border.
    period: usize,
}

/// Runs a block for every pair that meets at a column, with the position of the source and that of the kernel. A macro,
/// as sums stay in registers only where the loop is in the same function before it is optimized.
macro_rules! for_taps {
    ($run:expr, $column:expr, ($source:ident, $kernel:ident) => $body:block) => {
        for i in 0..$run.row.count {
            let source_row = $run.row.source_at(i) * $run.size.1;
            let kernel_row = $run.row.kernel_at(i) * $run.window.width.kernel;
            for j in 0..$column.count {
                let $source = source_row + $column.source_at(j);
                let $kernel = kernel_row + $column.kernel_at(j);
                $body
            }
        }
    };
}

/// Fills `target`, images of `(rows, columns, channels)`, run by run: `kernel` gets the run and the part of the target,
/// `finish` the first element and the values of several runs that are done.
/// `source` is images of the given size.
#[allow(clippy::too_many_arguments)]
fn sweep(
    window: &Window,
    source: &[f32],
    size: (usize, usize),
    weights: &[f32],
    target: &mut [f32],
    (height, width): (usize, usize),
    channels: usize,
    taps: impl Fn(&Axis, usize) -> Taps + Sync + Send,
    period: usize,
    kernel: impl Fn(&Run<'_>, &mut [f32]) + Sync + Send,
    finish: impl Fn(usize, &mut [f32]) + Sync + Send,
) {
    let images = (target.len() / (height * width * channels)).max(1);
    let image_len = source.len() / images;
    let positions = chunk_positions(channels, width);
    parallel::for_each_chunk(target, positions * channels, |chunk, target| {
        let mut rest = &mut *target;
        let (mut columns, mut known) = ([Taps::NONE; RUN], None);
        for (image, row, column, length) in runs(chunk * positions, rest.len() / channels, height, width) {
            let (part, tail) = std::mem::take(&mut rest).split_at_mut(length * channels);
            rest = tail;
            // Row after row has the same columns.
            if known != Some((column, length)) {
                known = Some((column, length));
                for (i, slot) in columns[..length].iter_mut().enumerate() {
                    *slot = taps(&window.width, column + i);
                }
            }
            let run = Run {
                image: &source[image * image_len..][..image_len],
                size,
                weights,
                window,
                row: taps(&window.height, row),
                columns: &columns[..length],
                period,
            };
            kernel(&run, part);
        }
        finish(chunk * positions * channels, target);
    });
}

/// `target[p, c] = bias[c] + sum over taps of source[tap, c] * weights[tap, c]`, summed in that order.
fn correlate(isa: Isa, run: &Run<'_>, channels: usize, bias: Option<&[f32]>, target: &mut [f32]) {
    let (rows, columns) = run.size;
    let (height, width) = (run.window.height.kernel, run.window.width.kernel);
    // All that the loops below, which do not check bounds, rely on.
    let positions_fit =
        run.row.fits(rows, height) && run.columns.iter().all(|column| column.fits(columns, width));
    assert!(
        positions_fit
            && run.image.len() == rows * columns * channels
            && run.weights.len() == height * width * channels
            && target.len() == run.columns.len() * channels
            && bias.is_none_or(|bias| bias.len() == channels)
    );
    correlate_all(isa, run, channels, bias, target);
}

dispatch_vectors! {
    fn correlate_all<V>(run: &Run<'_>, channels: usize, bias: Option<&[f32]>, target: &mut [f32]) {
        for phase in 0..run.period {
            let mut p = phase;
            while let Some(column) = run.columns.get(p) {
                // Columns that see the same kernel positions share the loads of weights.
                let others = [1, 2, 3].map(|q| run.columns.get(p + q * run.period));
                p += if let [Some(b), Some(c), Some(d)] = others
                    && [b, c, d].iter().all(|other| other.has_kernel_of(column))
                {
                    correlate_columns::<V, 4>(run, channels, bias, [column, b, c, d], p, 0, target)
                } else {
                    correlate_columns::<V, 1>(run, channels, bias, [column], p, 0, target)
                };
            }
        }
    }
}

/// [`correlate`] for the columns `p`, `p + period`, ..., which see the same kernel positions, and the channels from `first`
/// on: all channels of a few columns, so that memory is read in order. Returns how many columns on the next one is.
#[inline(always)]
fn correlate_columns<V: Vector, const COUNT: usize>(
    run: &Run<'_>,
    channels: usize,
    bias: Option<&[f32]>,
    columns: [&Taps; COUNT],
    p: usize,
    first: usize,
    target: &mut [f32],
) -> usize {
    let mut c = first;
    while c + 2 * V::LANES <= channels {
        correlate_at::<V, 2, COUNT>(run, channels, bias, columns, p, c, target);
        c += 2 * V::LANES;
    }
    while c + V::LANES <= channels {
        correlate_at::<V, 1, COUNT>(run, channels, bias, columns, p, c, target);
        c += V::LANES;
    }
    if V::LANES > 1 && c < channels {
        correlate_columns::<V::Narrower, COUNT>(run, channels, bias, columns, p, c, target);
    }
    COUNT * run.period
}

/// [`correlate_columns`] for `VECTORS` vectors of channels from `c` on.
#[inline(always)]
fn correlate_at<V: Vector, const VECTORS: usize, const COUNT: usize>(
    run: &Run<'_>,
    channels: usize,
    bias: Option<&[f32]>,
    columns: [&Taps; COUNT],
    p: usize,
    c: usize,
    target: &mut [f32],
) {
    let start: [V; VECTORS] = std::array::from_fn(|v| match bias {
        // SAFETY: `correlate` checked that there is a bias for every channel.
        Some(bias) => unsafe { V::load(bias.as_ptr().add(c + v * V::LANES)) },
        None => V::splat(0.0),
    });
    let column = columns[0];
    let shifts = columns.map(|other| (other.source as isize - column.source as isize) * channels as isize);
    let x_step = column.source_step * channels as isize;
    let w_step = column.kernel_step * channels;
    let mut sums = [start; COUNT];
    for i in 0..run.row.count {
        let source = run.row.source_at(i) * run.size.1 + column.source;
        let kernel = run.row.kernel_at(i) * run.window.width.kernel + column.kernel;
        let mut x = run.image.as_ptr().wrapping_add(source * channels + c);
        let mut w = run.weights.as_ptr().wrapping_add(kernel * channels + c);
        for _ in 0..column.count {
            // SAFETY: `correlate` checked that the positions of all taps lie in the image and the kernel, which have
            // `channels` values each; the columns see the same kernel positions; and the caller handles channels below
            // `channels` only.
            unsafe {
                let w: [V; VECTORS] = std::array::from_fn(|v| V::load(w.wrapping_add(v * V::LANES)));
                for (sums, &shift) in sums.iter_mut().zip(&shifts) {
                    let x = x.wrapping_offset(shift);
                    for v in 0..VECTORS {
                        sums[v] = sums[v].add(V::load(x.wrapping_add(v * V::LANES)).mul(w[v]));
                    }
                }
            }
            x = x.wrapping_offset(x_step);
            w = w.wrapping_add(w_step);
        }
    }
    for (q, sums) in sums.iter().enumerate() {
        for (v, sum) in sums.iter().enumerate() {
            let at = (p + q * run.period) * channels + c + v * V::LANES;
            // SAFETY: `correlate` checked that the target has `channels` values for each column.
            unsafe { sum.store(target.as_mut_ptr().add(at)) };
        }
    }
}

dispatch! {
    /// [`correlate`] with `multiplier` filters for each channel of the source.
    fn correlate_multiplied(
        run: &Run<'_>,
        channels: usize,
        multiplier: usize,
        bias: Option<&[f32]>,
        target: &mut [f32],
    ) {
        let outputs = channels * multiplier;
        for (column, target) in run.columns.iter().zip(target.chunks_exact_mut(outputs)) {
            match bias {
                Some(bias) => target.copy_from_slice(bias),
                None => target.fill(0.0),
            }
            for_taps!(run, column, (source, kernel) => {
                let x = &run.image[source * channels..][..channels];
                let w = &run.weights[kernel * outputs..][..outputs];
                let groups = target.chunks_exact_mut(multiplier).zip(w.chunks_exact(multiplier));
                for (&x, (y, w)) in x.iter().zip(groups) {
                    for (y, &w) in y.iter_mut().zip(w) {
                        *y += x * w;
                    }
                }
            });
        }
    }

    /// The gathering of the input gradient with `multiplier` filters for each channel of the target.
    fn contract(
        run: &Run<'_>,
        channels: usize,
        multiplier: usize,
        target: &mut [f32],
    ) {
        let outputs = channels * multiplier;
        for (column, target) in run.columns.iter().zip(target.chunks_exact_mut(channels)) {
            target.fill(0.0);
            for_taps!(run, column, (source, kernel) => {
                let dy = &run.image[source * outputs..][..outputs];
                let w = &run.weights[kernel * outputs..][..outputs];
                let groups = dy.chunks_exact(multiplier).zip(w.chunks_exact(multiplier));
                for (dx, (dy, w)) in target.iter_mut().zip(groups) {
                    *dx += dy.iter().zip(w).map(|(&dy, &w)| dy * w).sum::<f32>();
                }
            });
        }
    }
}

/// Output rows that [`weight_grad`] sums up at a time: few enough to stay in cache for all kernel positions.
const BAND: usize = 4;

/// Most partial sums of [`weight_grad`].
const PARTS: usize = 16;

/// Number of bands per image, and of parts that they are divided into.
fn bands(conv: &Conv) -> (usize, usize) {
    let per_image = conv.window.height.output.div_ceil(BAND);
    (per_image, (conv.batch * per_image).clamp(1, PARTS))
}

/// Workspace of [`weight_grad`], in `f32`.
pub(crate) fn weight_grad_workspace(conv: &Conv) -> usize {
    bands(conv).1 * conv.weight_len()
}

/// See [`crate::conv::weight_grad`].
pub(crate) fn weight_grad(
    isa: Isa,
    conv: &Conv,
    x: &[f32],
    dy: &[f32],
    dw: &mut [f32],
    workspace: &mut [f32],
) {
    let multiplier = conv.out_channels / conv.in_channels;
    let (per_image, parts) = bands(conv);
    let per_part = (conv.batch * per_image).div_ceil(parts);
    let (x_image, y_image) =
        (conv.window.input_len() * conv.in_channels, conv.window.output_len() * conv.out_channels);
    let partials = &mut workspace[..parts * dw.len()];
    parallel::for_each_chunk(partials, dw.len(), |part, sums| {
        sums.fill(0.0);
        for band in part * per_part..((part + 1) * per_part).min(conv.batch * per_image) {
            let (image, first) = (band / per_image, band % per_image * BAND);
            let rows = first..(first + BAND).min(conv.window.height.output);
            let (x, dy) = (&x[image * x_image..][..x_image], &dy[image * y_image..][..y_image]);
            match multiplier {
                1 => add_weight_grad(isa, &conv.window, conv.in_channels, x, dy, rows, sums),
                _ => add_weight_grad_multiplied(
                    isa,
                    &conv.window,
                    conv.in_channels,
                    multiplier,
                    x,
                    dy,
                    rows,
                    sums,
                ),
            }
        }
    });
    let (sum, partials) = partials.split_at_mut(dw.len());
    parallel::add_partials(partials, sum);
    permute(sum, &[conv.window.kernel_len(), conv.out_channels], &[1, 0], dw);
}

/// The rows of `0..rows.end` and the columns of the output that meet the input at a kernel position, and the input
/// position that output row and column 0 would meet, which wraps below 0.
#[inline(always)]
fn meeting(axis: &Axis, kernel: usize, outputs: Range<usize>) -> (Range<usize>, usize) {
    let all = axis.outputs(kernel);
    let start = all.start.max(outputs.start);
    (start..all.end.min(outputs.end).max(start), (kernel * axis.dilation).wrapping_sub(axis.pad_begin))
}

/// `sums[tap, c] += sum over the given output rows of x[.., c] * dy[.., c]`.
fn add_weight_grad(
    isa: Isa,
    window: &Window,
    channels: usize,
    x: &[f32],
    dy: &[f32],
    rows: Range<usize>,
    sums: &mut [f32],
) {
    // With what `Axis::outputs` promises for a sound axis, all that the loops below, which do not check bounds, rely on.
    assert!(
        window.height.is_sound()
            && window.width.is_sound()
            && x.len() == window.input_len() * channels
            && dy.len() == window.output_len() * channels
            && sums.len() == window.kernel_len() * channels
    );
    add_weight_grad_all(isa, window, channels, x, dy, rows, sums);
}

dispatch_vectors! {
    fn add_weight_grad_all<V>(
        window: &Window,
        channels: usize,
        x: &[f32],
        dy: &[f32],
        rows: Range<usize>,
        sums: &mut [f32],
    ) {
        add_weight_grad_from::<V>(window, channels, x, dy, rows, 0, sums);
    }
}

/// [`add_weight_grad`] for the channels from `first` on.
#[inline(always)]
fn add_weight_grad_from<V: Vector>(
    window: &Window,
    channels: usize,
    x: &[f32],
    dy: &[f32],
    rows: Range<usize>,
    first: usize,
    sums: &mut [f32],
) {
    let mut c = first;
    while c + 2 * V::LANES <= channels {
        add_weight_grad_at::<V, 2>(window, channels, x, dy, rows.clone(), c, sums);
        c += 2 * V::LANES;
    }
    while c + V::LANES <= channels {
        add_weight_grad_at::<V, 1>(window, channels, x, dy, rows.clone(), c, sums);
        c += V::LANES;
    }
    if V::LANES > 1 && c < channels {
        add_weight_grad_from::<V::Narrower>(window, channels, x, dy, rows, c, sums);
    }
}

/// [`add_weight_grad`] for `VECTORS` vectors of channels from `c` on.
#[inline(always)]
fn add_weight_grad_at<V: Vector, const VECTORS: usize>(
    window: &Window,
    channels: usize,
    x: &[f32],
    dy: &[f32],
    rows: Range<usize>,
    c: usize,
    sums: &mut [f32],
) {
    let (height, width) = (&window.height, &window.width);
    let x_step = width.stride * channels;
    for ky in 0..height.kernel {
        let (rows, y_offset) = meeting(height, ky, rows.clone());
        for kx in 0..width.kernel {
            let (columns, x_offset) = meeting(width, kx, 0..width.output);
            if columns.is_empty() {
                continue;
            }
            let mut sum = [V::splat(0.0); VECTORS];
            for row in rows.clone() {
                let source_row = (row * height.stride).wrapping_add(y_offset) * width.input;
                let source = source_row + (columns.start * width.stride).wrapping_add(x_offset);
                let mut x = x.as_ptr().wrapping_add(source * channels + c);
                let mut dy = dy.as_ptr().wrapping_add((row * width.output + columns.start) * channels + c);
                for _ in columns.clone() {
                    for (v, sum) in sum.iter_mut().enumerate() {
                        let lane = v * V::LANES;
                        // SAFETY: `meeting` gives output positions inside the output that meet positions inside the
                        // input, `add_weight_grad` checked that both have `channels` values for each position, and the
                        // caller handles channels below `channels` only.
                        let (x, dy) =
                            unsafe { (V::load(x.wrapping_add(lane)), V::load(dy.wrapping_add(lane))) };
                        *sum = sum.add(x.mul(dy));
                    }
                    x = x.wrapping_add(x_step);
                    dy = dy.wrapping_add(channels);
                }
            }
            for (v, sum) in sum.iter().enumerate() {
                let at = (ky * width.kernel + kx) * channels + c + v * V::LANES;
                // SAFETY: `add_weight_grad` checked that there are `channels` sums for each kernel position.
                unsafe {
                    let to = sums.as_mut_ptr().add(at);
                    V::load(to).add(*sum).store(to);
                }
            }
        }
    }
}

dispatch! {
    /// [`add_weight_grad`] with `multiplier` filters for each channel of the input.
    fn add_weight_grad_multiplied(
        window: &Window,
        channels: usize,
        multiplier: usize,
        x: &[f32],
        dy: &[f32],
        rows: Range<usize>,
        sums: &mut [f32],
    ) {
        let (height, width) = (&window.height, &window.width);
        let outputs = channels * multiplier;
        for ky in 0..height.kernel {
            let (rows, y_offset) = meeting(height, ky, rows.clone());
            for kx in 0..width.kernel {
                let (columns, x_offset) = meeting(width, kx, 0..width.output);
                let sums = &mut sums[(ky * width.kernel + kx) * outputs..][..outputs];
                for row in rows.clone() {
                    let source_row = (row * height.stride).wrapping_add(y_offset) * width.input;
                    for column in columns.clone() {
                        let source = source_row + (column * width.stride).wrapping_add(x_offset);
                        let x = &x[source * channels..][..channels];
                        let dy = &dy[(row * width.output + column) * outputs..][..outputs];
                        let groups = sums.chunks_exact_mut(multiplier).zip(dy.chunks_exact(multiplier));
                        for (&x, (sums, dy)) in x.iter().zip(groups) {
                            for (sum, &dy) in sums.iter_mut().zip(dy) {
                                *sum += x * dy;
                            }
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::reference::Draw;
    use crate::window::Rounding;

    /// The values are tested in [`crate::conv`].
    #[test]
    fn all_instruction_sets_give_the_same_bits() {
        let mut draw = Draw::new(31);
        for (channels, multiplier, stride) in [(45, 1, 1), (63, 1, 2), (7, 3, 2)] {
            let axis = Axis::new(13, 3, stride, 1, 1, 1, Rounding::Floor).unwrap();
            let window = Window { height: axis, width: axis };
            let conv = Conv::new(2, channels, channels * multiplier, channels, window).unwrap();
            let (x, w) = (draw.values(conv.input_len()), draw.values(conv.weight_len()));
            let (dy, bias) = (draw.values(conv.output_len()), draw.values(conv.out_channels));
            let all = |isa| {
                let (mut y, mut dx, mut dw) = (dy.clone(), x.clone(), w.clone());
                let mut workspace = vec![0.0; weight_grad_workspace(&conv).max(packed_len(&conv))];
                pack(&conv, &w, &mut workspace[..packed_len(&conv)]);
                let packed = &workspace[..packed_len(&conv)];
                forward(isa, &conv, &x, packed, Finish::bias(Some(&bias)), &mut y);
                input_grad(isa, &conv, &dy, &w, &mut dx, &mut workspace);
                weight_grad(isa, &conv, &x, &dy, &mut dw, &mut workspace);
                (y, dx, dw)
            };
            let reference = all(Isa::Scalar);
            for isa in Isa::ALL {
                assert_eq!(all(isa), reference, "{isa:?}");
            }
        }
    }
}
