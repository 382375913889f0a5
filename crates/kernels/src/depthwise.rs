//! Depthwise convolution on channels-last data: every input channel has `out_channels / in_channels` filters of its own.
//!
//! Called by [`crate::conv`], which checks the slices. Weights are repacked to `(kernel positions, out_channels)`, so
//! that all loops run over neighbouring channels. Forward pass and input gradient are the same gathering loop; they
//! differ in which positions meet ([`Axis::taps`] or [`Axis::grad_taps`]).

use crate::conv::Conv;
use crate::parallel;
use crate::relayout::permute;
use crate::simd::{Isa, dispatch, lanes, load, load_mut};
use crate::window::{Axis, RUN, Taps, Window, runs};
use std::ops::Range;

/// Workspace of [`forward`] and [`input_grad`], in `f32`.
pub(crate) fn gather_workspace(conv: &Conv) -> usize {
    conv.weight_len()
}

/// See [`crate::conv::forward`].
pub(crate) fn forward(
    conv: &Conv,
    x: &[f32],
    w: &[f32],
    bias: Option<&[f32]>,
    y: &mut [f32],
    workspace: &mut [f32],
) {
    let (isa, channels, multiplier) = (Isa::detect(), conv.in_channels, conv.out_channels / conv.in_channels);
    let (source, target) = (conv.window.input_len() * channels, extent(&conv.window, |axis| axis.output));
    let weights = pack(conv, w, workspace);
    sweep(&conv.window, x, source, weights, y, target, conv.out_channels, Axis::taps, |run, y| {
        match multiplier {
            1 => correlate(isa, run, conv.window.width.input, channels, bias, y),
            _ => correlate_multiplied(isa, run, conv.window.width.input, channels, multiplier, bias, y),
        }
    });
}

/// See [`crate::conv::input_grad`].
pub(crate) fn input_grad(conv: &Conv, dy: &[f32], w: &[f32], dx: &mut [f32], workspace: &mut [f32]) {
    let (isa, channels, multiplier) = (Isa::detect(), conv.in_channels, conv.out_channels / conv.in_channels);
    let (source, target) =
        (conv.window.output_len() * conv.out_channels, extent(&conv.window, |axis| axis.input));
    let weights = pack(conv, w, workspace);
    sweep(
        &conv.window,
        dy,
        source,
        weights,
        dx,
        target,
        channels,
        Axis::grad_taps,
        |run, dx| match multiplier {
            1 => correlate(isa, run, conv.window.width.output, channels, None, dx),
            _ => contract(isa, run, conv.window.width.output, channels, multiplier, dx),
        },
    );
}

fn extent(window: &Window, length: impl Fn(&Axis) -> usize) -> (usize, usize) {
    (length(&window.height), length(&window.width))
}

/// Repacks weights `(O, 1, kernel positions)` to `(kernel positions, O)`.
fn pack<'a>(conv: &Conv, w: &[f32], workspace: &'a mut [f32]) -> &'a [f32] {
    let packed = &mut workspace[..w.len()];
    permute(w, &[conv.out_channels, conv.window.kernel_len()], &[1, 0], packed);
    packed
}

/// What the positions of one run of the target gather from: an image of the source, the weights, and the pairs of
/// positions that meet, for the row of the run and for each of its columns.
struct Run<'a> {
    image: &'a [f32],
    weights: &'a [f32],
    kernel_width: usize,
    row: Taps,
    columns: &'a [Taps],
}

impl Run<'_> {
    /// Calls `f(source position, kernel position)` for every pair that meets at a column.
    #[inline(always)]
    fn for_each_tap(&self, column: &Taps, source_width: usize, mut f: impl FnMut(usize, usize)) {
        for i in 0..self.row.count {
            let source = self.row.source_at(i) * source_width;
            let kernel = self.row.kernel_at(i) * self.kernel_width;
            for j in 0..column.count {
                f(source + column.source_at(j), kernel + column.kernel_at(j));
            }
        }
    }
}

/// Fills `target`, images of `(rows, columns, channels)`, run by run: `kernel` gets the run and the part of the target.
#[allow(clippy::too_many_arguments)]
fn sweep(
    window: &Window,
    source: &[f32],
    source_image: usize,
    weights: &[f32],
    target: &mut [f32],
    (height, width): (usize, usize),
    channels: usize,
    taps: impl Fn(&Axis, usize) -> Taps + Sync + Send,
    kernel: impl Fn(&Run<'_>, &mut [f32]) + Sync + Send,
) {
    let positions = (parallel::CHUNK / channels).max(1);
    parallel::for_each_chunk(target, positions * channels, |chunk, target| {
        let mut rest = target;
        for (image, row, column, length) in runs(chunk * positions, rest.len() / channels, height, width) {
            let (part, tail) = std::mem::take(&mut rest).split_at_mut(length * channels);
            rest = tail;
            let mut columns = [Taps::NONE; RUN];
            for (i, slot) in columns[..length].iter_mut().enumerate() {
                *slot = taps(&window.width, column + i);
            }
            let run = Run {
                image: &source[image * source_image..][..source_image],
                weights,
                kernel_width: window.width.kernel,
                row: taps(&window.height, row),
                columns: &columns[..length],
            };
            kernel(&run, part);
        }
    });
}

dispatch! {
    /// `target[p, c] = bias[c] + sum over taps of source[tap, c] * weights[tap, c]`, summed in that order.
    fn correlate(
        run: &Run<'_>,
        source_width: usize,
        channels: usize,
        bias: Option<&[f32]>,
        target: &mut [f32],
    ) {
        lanes!(channels, c, LANES => {
            let start: [f32; LANES] = bias.map_or([0.0; LANES], |bias| *load(bias, c));
            for (p, column) in run.columns.iter().enumerate() {
                let mut sum = start;
                run.for_each_tap(column, source_width, |source, kernel| {
                    let x: &[f32; LANES] = load(run.image, source * channels + c);
                    let w: &[f32; LANES] = load(run.weights, kernel * channels + c);
                    for l in 0..LANES {
                        sum[l] += x[l] * w[l];
                    }
                });
                *load_mut(target, p * channels + c) = sum;
            }
        });
    }

    /// [`correlate`] with `multiplier` filters for each channel of the source.
    fn correlate_multiplied(
        run: &Run<'_>,
        source_width: usize,
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
            run.for_each_tap(column, source_width, |source, kernel| {
                let x = &run.image[source * channels..][..channels];
                let w = &run.weights[kernel * outputs..][..outputs];
                let groups = target.chunks_exact_mut(multiplier).zip(w.chunks_exact(multiplier));
                for (&x, (y, w)) in x.iter().zip(groups) {
                    y.iter_mut().zip(w).for_each(|(y, &w)| *y += x * w);
                }
            });
        }
    }

    /// The gathering of the input gradient with `multiplier` filters for each channel of the target.
    fn contract(
        run: &Run<'_>,
        source_width: usize,
        channels: usize,
        multiplier: usize,
        target: &mut [f32],
    ) {
        let outputs = channels * multiplier;
        for (column, target) in run.columns.iter().zip(target.chunks_exact_mut(channels)) {
            target.fill(0.0);
            run.for_each_tap(column, source_width, |source, kernel| {
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
pub(crate) fn weight_grad(conv: &Conv, x: &[f32], dy: &[f32], dw: &mut [f32], workspace: &mut [f32]) {
    let isa = Isa::detect();
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

dispatch! {
    /// `sums[tap, c] += sum over the given output rows of x[.., c] * dy[.., c]`.
    fn add_weight_grad(
        window: &Window,
        channels: usize,
        x: &[f32],
        dy: &[f32],
        rows: Range<usize>,
        sums: &mut [f32],
    ) {
        let (height, width) = (&window.height, &window.width);
        lanes!(channels, c, LANES => {
            for ky in 0..height.kernel {
                let (rows, y_offset) = meeting(height, ky, rows.clone());
                for kx in 0..width.kernel {
                    let (columns, x_offset) = meeting(width, kx, 0..width.output);
                    let mut sum = [0.0; LANES];
                    for row in rows.clone() {
                        let source_row = (row * height.stride).wrapping_add(y_offset) * width.input;
                        for column in columns.clone() {
                            let source = source_row + (column * width.stride).wrapping_add(x_offset);
                            let x: &[f32; LANES] = load(x, source * channels + c);
                            let dy: &[f32; LANES] = load(dy, (row * width.output + column) * channels + c);
                            for l in 0..LANES {
                                sum[l] += x[l] * dy[l];
                            }
                        }
                    }
                    let total: &mut [f32; LANES] = load_mut(sums, (ky * width.kernel + kx) * channels + c);
                    for l in 0..LANES {
                        total[l] += sum[l];
                    }
                }
            }
        });
    }

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
                            sums.iter_mut().zip(dy).for_each(|(sum, &dy)| *sum += x * dy);
                        }
                    }
                }
            }
        }
    }
}
