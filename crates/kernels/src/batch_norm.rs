//! Batch normalization (Ioffe and Szegedy 2015) as ONNX `BatchNormalization` (opset 15) defines it: the variance is that
//! of the population, divided by the number of values and not by one less, for the running variance as well.
//!
//! Mean and variance come from one sweep over memory: every piece of the batch, small enough for the cache, gets its own
//! mean first and then the sum of squares about it; pieces are joined by the formula of Chan, Golub and LeVeque (1979) in
//! double precision. Nothing cancels, however far the mean is from 0.

#[path = "layer_norm.rs"]
pub mod layer_norm;

use crate::parallel::{CHUNK, for_each_chunk};
use crate::reduce::{fold_rows, sum_of, sum_of_pairs};
use crate::simd::{Isa, dispatch};

/// The shape of an activation, seen by its channels: `(batch, channels, spatial)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Outer size.
    pub batch: usize,
    /// Number of channels.
    pub channels: usize,
    /// Elements of one channel that lie together; 1 when channels are last.
    pub spatial: usize,
}

impl Shape {
    /// `(rows, channels)`, the channels-last layout; the rows are the batch and all positions.
    pub fn channels_last(rows: usize, channels: usize) -> Shape {
        Shape { batch: rows, channels, spatial: 1 }
    }

    /// Number of elements.
    pub fn len(self) -> usize {
        self.batch * self.channels * self.spatial
    }

    /// There are no elements.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Values per channel.
    pub fn count(self) -> usize {
        self.batch * self.spatial
    }

    /// Workspace of all functions here, in elements.
    pub fn workspace(self) -> usize {
        self.channels * (2 * self.batch.div_ceil(self.piece())).max(3)
    }

    /// Workspace of [`statistics_and_extremes`], in elements.
    pub fn extremes_workspace(self) -> usize {
        4 * self.channels * self.batch.div_ceil(self.piece())
    }

    /// Outer size of a piece of work. At least 32 rows keep the partial sums small against the data.
    pub(crate) fn piece(self) -> usize {
        let row = (self.channels * self.spatial).max(1);
        (CHUNK / row).max(if self.spatial == 1 { 32 } else { 1 })
    }

    /// Elements of a piece of work.
    pub(crate) fn piece_len(self) -> usize {
        (self.piece() * self.channels * self.spatial).max(1)
    }
}

/// Statistics of a batch, one element per channel each.
#[derive(Debug)]
pub struct Statistics<'a> {
    /// Mean.
    pub mean: &'a mut [f32],
    /// Variance of the population.
    pub variance: &'a mut [f32],
    /// `1 / sqrt(variance + epsilon)`.
    pub inv_std: &'a mut [f32],
}

/// Training: `y = (x - mean) inv_std gamma + beta` with the statistics of the batch, which are written to `stats`.
///
/// # Panics
/// When a slice has not the length that `shape` says; `workspace` has [`Shape::workspace`].
#[allow(clippy::too_many_arguments)]
pub fn forward_training(
    shape: Shape,
    x: &[f32],
    gamma: &[f32],
    beta: &[f32],
    epsilon: f32,
    y: &mut [f32],
    stats: Statistics<'_>,
    workspace: &mut [f32],
) {
    assert_eq!([x.len(), y.len()], [shape.len(); 2], "activations of {shape:?}");
    assert_eq!([gamma.len(), beta.len()], [shape.channels; 2], "parameters of {shape:?}");
    statistics(shape, x, epsilon, &mut *stats.mean, stats.variance, &mut *stats.inv_std, workspace);
    let scale = &mut workspace[..shape.channels];
    scale
        .iter_mut()
        .zip(gamma)
        .zip(&*stats.inv_std)
        .for_each(|((scale, gamma), inv_std)| *scale = gamma * inv_std);
    let (mean, scale, isa) = (&*stats.mean, &*scale, Isa::detect());
    for_each_chunk(y, shape.piece_len(), |i, y| {
        let x = &x[i * shape.piece_len()..][..y.len()];
        normalize_piece(isa, shape, x, mean, scale, beta, y);
    });
}

/// Mean, variance and inverse standard deviation of every channel of `x`.
///
/// # Panics
/// When a slice has not the length that `shape` says; `workspace` has [`Shape::workspace`].
pub fn statistics(
    shape: Shape,
    x: &[f32],
    epsilon: f32,
    mean: &mut [f32],
    variance: &mut [f32],
    inv_std: &mut [f32],
    workspace: &mut [f32],
) {
    assert_eq!(x.len(), shape.len(), "activations of {shape:?}");
    assert_eq!(workspace.len(), shape.workspace(), "workspace of {shape:?}");
    let channels = shape.channels;
    if channels == 0 {
        return;
    }
    let isa = Isa::detect();
    let pieces = &mut workspace[..2 * channels * shape.batch.div_ceil(shape.piece())];
    for_each_chunk(pieces, 2 * channels, |i, part| {
        let (mean, squares) = part.split_at_mut(channels);
        moments_piece(isa, shape, piece(shape, x, i), mean, squares);
    });
    join_moments(shape, pieces, 2, epsilon, Statistics { mean, variance, inv_std });
}

/// [`statistics`], and the smallest and largest value of every channel, in the same sweep. NaN is left out of the extremes, but
/// makes the mean NaN.
///
/// # Panics
/// When a slice has not the length that `shape` says; `workspace` has [`Shape::extremes_workspace`].
pub fn statistics_and_extremes(
    shape: Shape,
    x: &[f32],
    epsilon: f32,
    stats: Statistics<'_>,
    [min, max]: [&mut [f32]; 2],
    workspace: &mut [f32],
) {
    let channels = shape.channels;
    assert_eq!(x.len(), shape.len(), "activations of {shape:?}");
    assert_eq!([min.len(), max.len()], [channels; 2], "extremes of {shape:?}");
    assert_eq!(workspace.len(), shape.extremes_workspace(), "workspace of {shape:?}");
    if channels == 0 {
        return;
    }
    let isa = Isa::detect();
    for_each_chunk(workspace, 4 * channels, |i, part| {
        let (moments, extremes) = part.split_at_mut(2 * channels);
        let (mean, squares) = moments.split_at_mut(channels);
        let (min, max) = extremes.split_at_mut(channels);
        let x = piece(shape, x, i);
        moments_piece(isa, shape, x, mean, squares);
        extremes_piece(isa, shape, x, min, max);
    });
    min.fill(f32::INFINITY);
    max.fill(f32::NEG_INFINITY);
    for part in workspace.chunks_exact(4 * channels) {
        let (lowest, largest) = part[2 * channels..].split_at(channels);
        min.iter_mut().zip(lowest).for_each(|(min, x)| *min = min.min(*x));
        max.iter_mut().zip(largest).for_each(|(max, x)| *max = max.max(*x));
    }
    join_moments(shape, workspace, 4, epsilon, stats);
}

/// Joins mean and sum of squares of the pieces, which are the first two rows of each; a piece has `rows` rows of channels.
fn join_moments(shape: Shape, pieces: &[f32], rows: usize, epsilon: f32, stats: Statistics<'_>) {
    let channels = shape.channels;
    let Statistics { mean, variance, inv_std } = stats;
    assert_eq!([mean.len(), variance.len(), inv_std.len()], [channels; 3], "statistics of {shape:?}");
    for start in (0..channels).step_by(BLOCK) {
        let len = BLOCK.min(channels - start);
        let (mut count, mut means, mut squares) = (0.0, [0.0; BLOCK], [0.0; BLOCK]);
        for (i, part) in pieces.chunks_exact(rows * channels).enumerate() {
            let n = (shape.piece().min(shape.batch - i * shape.piece()) * shape.spatial) as f64;
            let share = n / (count + n);
            for c in 0..len {
                let delta = part[start + c] as f64 - means[c];
                means[c] += delta * share;
                squares[c] += part[channels + start + c] as f64 + delta * delta * count * share;
            }
            count += n;
        }
        for c in 0..len {
            let of_population = squares[c] / f64::max(count, 1.0);
            mean[start + c] = means[c] as f32;
            variance[start + c] = of_population as f32;
            inv_std[start + c] = (1.0 / (of_population + epsilon as f64).sqrt()) as f32;
        }
    }
}

/// Channels that are joined at a time.
const BLOCK: usize = 16;

/// Piece number `i` of `x`.
fn piece(shape: Shape, x: &[f32], i: usize) -> &[f32] {
    let start = i * shape.piece_len();
    &x[start..x.len().min(start + shape.piece_len())]
}

/// The running statistic after a batch: `new = momentum old + (1 - momentum) batch`.
///
/// # Panics
/// When the lengths differ.
pub fn update_running(momentum: f32, old: &[f32], batch: &[f32], new: &mut [f32]) {
    assert_eq!([old.len(), batch.len()], [new.len(); 2]);
    for ((new, &old), &batch) in new.iter_mut().zip(old).zip(batch) {
        *new = momentum * old + (1.0 - momentum) * batch;
    }
}

/// `1 / sqrt(variance + epsilon)`.
///
/// # Panics
/// When the lengths differ.
pub fn inverse_std(variance: &[f32], epsilon: f32, inv_std: &mut [f32]) {
    assert_eq!(variance.len(), inv_std.len());
    for (inv_std, &variance) in inv_std.iter_mut().zip(variance) {
        *inv_std = (1.0 / (variance as f64 + epsilon as f64).sqrt()) as f32;
    }
}

/// Inference as one product and one sum per channel: `y = a x + b` with `a = gamma inv_std` and `b = beta - mean a`, for
/// [`affine`] and for folding into a convolution.
///
/// # Panics
/// When the lengths differ.
#[allow(clippy::too_many_arguments)]
pub fn inference_affine(
    gamma: &[f32],
    beta: &[f32],
    mean: &[f32],
    variance: &[f32],
    epsilon: f32,
    a: &mut [f32],
    b: &mut [f32],
) {
    assert_eq!([gamma.len(), beta.len(), mean.len(), variance.len(), b.len()], [a.len(); 5]);
    for c in 0..a.len() {
        let scale = gamma[c] as f64 / (variance[c] as f64 + epsilon as f64).sqrt();
        a[c] = scale as f32;
        b[c] = (beta[c] as f64 - mean[c] as f64 * scale) as f32;
    }
}

/// `y = a x + b` with one `a` and one `b` per channel.
///
/// # Panics
/// When a slice has not the length that `shape` says.
pub fn affine(shape: Shape, x: &[f32], a: &[f32], b: &[f32], y: &mut [f32]) {
    assert_eq!([x.len(), y.len()], [shape.len(); 2], "activations of {shape:?}");
    assert_eq!([a.len(), b.len()], [shape.channels; 2], "parameters of {shape:?}");
    let isa = Isa::detect();
    for_each_chunk(y, shape.piece_len(), |i, y| {
        affine_piece(isa, shape, &piece(shape, x, i)[..y.len()], a, b, y)
    });
}

/// Gradients of `gamma` and `beta`, in training and with frozen statistics alike: `dbeta = sum dy`, `dgamma = sum dy (x -
/// mean) inv_std`.
///
/// # Panics
/// When a slice has not the length that `shape` says; `workspace` has [`Shape::workspace`].
#[allow(clippy::too_many_arguments)]
pub fn grad_parameters(
    shape: Shape,
    x: &[f32],
    dy: &[f32],
    mean: &[f32],
    inv_std: &[f32],
    dgamma: &mut [f32],
    dbeta: &mut [f32],
    workspace: &mut [f32],
) {
    let channels = shape.channels;
    assert_eq!([x.len(), dy.len()], [shape.len(); 2], "activations of {shape:?}");
    assert_eq!(
        [mean.len(), inv_std.len(), dgamma.len(), dbeta.len()],
        [channels; 4],
        "parameters of {shape:?}"
    );
    assert_eq!(workspace.len(), shape.workspace(), "workspace of {shape:?}");
    if channels == 0 {
        return;
    }
    let isa = Isa::detect();
    let pieces = &mut workspace[..2 * channels * shape.batch.div_ceil(shape.piece())];
    for_each_chunk(pieces, 2 * channels, |i, part| {
        let (sums, products) = part.split_at_mut(channels);
        sums_piece(isa, shape, piece(shape, x, i), piece(shape, dy, i), mean, sums, products);
    });
    for start in (0..channels).step_by(BLOCK) {
        let len = BLOCK.min(channels - start);
        let (mut sums, mut products) = ([0.0; BLOCK], [0.0; BLOCK]);
        for part in pieces.chunks_exact(2 * channels) {
            for c in 0..len {
                sums[c] += part[start + c] as f64;
                products[c] += part[channels + start + c] as f64;
            }
        }
        for c in 0..len {
            dbeta[start + c] = sums[c] as f32;
            dgamma[start + c] = (products[c] * inv_std[start + c] as f64) as f32;
        }
    }
}

/// Gradient of `x` in training, given those of the parameters:
/// `dx = gamma inv_std (dy - dbeta / n - (x - mean) inv_std dgamma / n)`, `n` values per channel.
///
/// # Panics
/// When a slice has not the length that `shape` says; `workspace` has [`Shape::workspace`].
#[allow(clippy::too_many_arguments)]
pub fn grad_input(
    shape: Shape,
    x: &[f32],
    dy: &[f32],
    gamma: &[f32],
    mean: &[f32],
    inv_std: &[f32],
    dgamma: &[f32],
    dbeta: &[f32],
    dx: &mut [f32],
    workspace: &mut [f32],
) {
    let channels = shape.channels;
    assert_eq!([x.len(), dy.len(), dx.len()], [shape.len(); 3], "activations of {shape:?}");
    let lens = [gamma.len(), mean.len(), inv_std.len(), dgamma.len(), dbeta.len()];
    assert_eq!(lens, [channels; 5], "parameters of {shape:?}");
    assert_eq!(workspace.len(), shape.workspace(), "workspace of {shape:?}");
    // dx = a dy + b (x - mean) + c
    let (a, rest) = workspace.split_at_mut(channels);
    let (b, rest) = rest.split_at_mut(channels);
    let c = &mut rest[..channels];
    let n = shape.count().max(1) as f32;
    for i in 0..channels {
        a[i] = gamma[i] * inv_std[i];
        b[i] = -a[i] * inv_std[i] * dgamma[i] / n;
        c[i] = -a[i] * dbeta[i] / n;
    }
    let (a, b, c, isa) = (&*a, &*b, &*c, Isa::detect());
    for_each_chunk(dx, shape.piece_len(), |i, dx| {
        grad_piece(isa, shape, piece(shape, x, i), piece(shape, dy, i), mean, [a, b, c], dx);
    });
}

/// Gradient of `x` with frozen statistics: `dx = gamma inv_std dy`.
///
/// # Panics
/// When a slice has not the length that `shape` says; `workspace` has [`Shape::workspace`].
pub fn grad_input_frozen(
    shape: Shape,
    dy: &[f32],
    gamma: &[f32],
    inv_std: &[f32],
    dx: &mut [f32],
    workspace: &mut [f32],
) {
    assert_eq!([gamma.len(), inv_std.len()], [shape.channels; 2], "parameters of {shape:?}");
    assert_eq!(workspace.len(), shape.workspace(), "workspace of {shape:?}");
    let (a, rest) = workspace.split_at_mut(shape.channels);
    let b = &mut rest[..shape.channels];
    a.iter_mut().zip(gamma).zip(inv_std).for_each(|((a, gamma), inv_std)| *a = gamma * inv_std);
    b.fill(0.0);
    affine(shape, dy, a, b, dx);
}

/// The smaller number; the first one when the second one is NaN, and infinity for two NaNs.
#[inline(always)]
fn least(a: f32, b: f32) -> f32 {
    let a = if a.is_nan() { f32::INFINITY } else { a };
    if b < a { b } else { a }
}

/// The larger number, as [`least`].
#[inline(always)]
fn largest(a: f32, b: f32) -> f32 {
    let a = if a.is_nan() { f32::NEG_INFINITY } else { a };
    if b > a { b } else { a }
}

/// `y = f(c, x...)` for every element, whose channel is `c`.
#[inline(always)]
fn map_channels<const K: usize>(
    shape: Shape,
    x: [&[f32]; K],
    y: &mut [f32],
    f: impl Fn(usize, [f32; K]) -> f32,
) {
    let Shape { channels, spatial, .. } = shape;
    if spatial == 1 {
        for (r, y) in y.chunks_exact_mut(channels).enumerate() {
            let x = x.map(|x| &x[r * channels..][..channels]);
            for c in 0..channels {
                y[c] = f(c, x.map(|x| x[c]));
            }
        }
    } else {
        for (i, y) in y.chunks_exact_mut(spatial).enumerate() {
            let (c, x) = (i % channels, x.map(|x| &x[i * spatial..][..spatial]));
            for s in 0..spatial {
                y[s] = f(c, x.map(|x| x[s]));
            }
        }
    }
}

dispatch! {
    /// Mean of each channel of a piece, and sum of squares about it.
    fn moments_piece(shape: Shape, x: &[f32], mean: &mut [f32], squares: &mut [f32]) {
        let Shape { channels, spatial, .. } = shape;
        let (mean, squares) = (&mut mean[..channels], &mut squares[..channels]);
        mean.fill(0.0);
        squares.fill(0.0);
        let scale = 1.0 / (x.len() / channels) as f32;
        if spatial == 1 {
            // Sums of differences to the first value: what is summed is small even when the mean is not.
            let first = &x[..mean.len()];
            fold_rows([x], mean, |_, c, [x]| x - first[c], |a, b| a + b);
            for (mean, first) in mean.iter_mut().zip(first) {
                *mean = *mean * scale + first;
            }
            let mean = &mean[..squares.len()];
            fold_rows([x], squares, |_, c, [x]| (x - mean[c]) * (x - mean[c]), |a, b| a + b);
        } else {
            let first = |c: usize| x[c * spatial];
            for (i, x) in x.chunks_exact(spatial).enumerate() {
                let first = first(i % channels);
                mean[i % channels] += sum_of(x, |x| x - first);
            }
            for (c, mean) in mean.iter_mut().enumerate() {
                *mean = *mean * scale + first(c);
            }
            for (i, x) in x.chunks_exact(spatial).enumerate() {
                let mean = mean[i % channels];
                squares[i % channels] += sum_of(x, |x| (x - mean) * (x - mean));
            }
        }
    }

    /// Smallest and largest value of each channel of a piece.
    fn extremes_piece(shape: Shape, x: &[f32], min: &mut [f32], max: &mut [f32]) {
        let Shape { channels, spatial, .. } = shape;
        min.fill(f32::INFINITY);
        max.fill(f32::NEG_INFINITY);
        if spatial == 1 {
            let rows = x.chunks_exact(4 * channels);
            let rest = rows.remainder();
            let (min, max) = (&mut min[..channels], &mut max[..channels]);
            for x in rows {
                let row = |r: usize| &x[r * channels..][..channels];
                let (a, b, c, d) = (row(0), row(1), row(2), row(3));
                for i in 0..channels {
                    min[i] = least(least(min[i], least(a[i], b[i])), least(c[i], d[i]));
                    max[i] = largest(largest(max[i], largest(a[i], b[i])), largest(c[i], d[i]));
                }
            }
            for x in rest.chunks_exact(channels) {
                for i in 0..channels {
                    min[i] = least(min[i], x[i]);
                    max[i] = largest(max[i], x[i]);
                }
            }
        } else {
            for (run, x) in x.chunks_exact(spatial).enumerate() {
                for &x in x {
                    min[run % channels] = least(min[run % channels], x);
                    max[run % channels] = largest(max[run % channels], x);
                }
            }
        }
    }

    /// Sums of `dy` and of `dy (x - mean)` for each channel of a piece.
    fn sums_piece(
        shape: Shape,
        x: &[f32],
        dy: &[f32],
        mean: &[f32],
        sums: &mut [f32],
        products: &mut [f32],
    ) {
        let Shape { channels, spatial, .. } = shape;
        sums.fill(0.0);
        products.fill(0.0);
        if spatial == 1 {
            let mean = &mean[..products.len()];
            fold_rows([dy], sums, |_, _, [dy]| dy, |a, b| a + b);
            fold_rows([x, dy], products, |_, c, [x, dy]| dy * (x - mean[c]), |a, b| a + b);
        } else {
            for (i, (x, dy)) in x.chunks_exact(spatial).zip(dy.chunks_exact(spatial)).enumerate() {
                let c = i % channels;
                let mean = mean[c];
                sums[c] += sum_of(dy, |dy| dy);
                products[c] += sum_of_pairs(x, dy, |x, dy| dy * (x - mean));
            }
        }
    }

    fn normalize_piece(shape: Shape, x: &[f32], mean: &[f32], scale: &[f32], beta: &[f32], y: &mut [f32]) {
        let n = shape.channels;
        let (mean, scale, beta) = (&mean[..n], &scale[..n], &beta[..n]);
        map_channels(shape, [x], y, |c, [x]| (x - mean[c]) * scale[c] + beta[c]);
    }

    fn affine_piece(shape: Shape, x: &[f32], a: &[f32], b: &[f32], y: &mut [f32]) {
        let n = shape.channels;
        let (a, b) = (&a[..n], &b[..n]);
        map_channels(shape, [x], y, |c, [x]| x * a[c] + b[c]);
    }

    fn grad_piece(shape: Shape, x: &[f32], dy: &[f32], mean: &[f32], abc: [&[f32]; 3], dx: &mut [f32]) {
        let n = shape.channels;
        let (mean, [a, b, c]) = (&mean[..n], abc.map(|x| &x[..n]));
        map_channels(shape, [x, dy], dx, |i, [x, dy]| a[i] * dy + (x - mean[i]) * b[i] + c[i]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elementwise::testing::{bits, close, drawn, on_any_pool, slopes, wide};

    const EPSILON: f32 = 1e-3;

    /// Mean, variance and inverse standard deviation of all channels, then the values normalized by them.
    fn reference(shape: Shape, x: &[f64]) -> ([Vec<f64>; 3], Vec<f64>) {
        let Shape { channels, spatial, .. } = shape;
        let (mut mean, mut variance, n) = (vec![0.0; channels], vec![0.0; channels], shape.count() as f64);
        let channel = |i: usize| i / spatial % channels;
        x.iter().enumerate().for_each(|(i, x)| mean[channel(i)] += x / n);
        x.iter().enumerate().for_each(|(i, x)| variance[channel(i)] += (x - mean[channel(i)]).powi(2) / n);
        let inv_std: Vec<f64> = variance.iter().map(|v| 1.0 / (v + EPSILON as f64).sqrt()).collect();
        let y = x.iter().enumerate().map(|(i, x)| (x - mean[channel(i)]) * inv_std[channel(i)]).collect();
        ([mean, variance, inv_std], y)
    }

    fn scaled(shape: Shape, y: &[f64], gamma: &[f64], beta: &[f64]) -> Vec<f64> {
        let channel = |i: usize| i / shape.spatial % shape.channels;
        y.iter().enumerate().map(|(i, y)| y * gamma[channel(i)] + beta[channel(i)]).collect()
    }

    struct Out {
        y: Vec<f32>,
        mean: Vec<f32>,
        variance: Vec<f32>,
        inv_std: Vec<f32>,
    }

    fn forward(shape: Shape, x: &[f32], gamma: &[f32], beta: &[f32]) -> Out {
        let channel = || vec![f32::NAN; shape.channels];
        let mut out = Out { y: vec![0.0; x.len()], mean: channel(), variance: channel(), inv_std: channel() };
        let Out { y, mean, variance, inv_std } = &mut out;
        let mut workspace = vec![f32::NAN; shape.workspace()];
        forward_training(
            shape,
            x,
            gamma,
            beta,
            EPSILON,
            y,
            Statistics { mean, variance, inv_std },
            &mut workspace,
        );
        out
    }

    /// Gradients of `x`, `gamma` and `beta`.
    fn backward(
        shape: Shape,
        x: &[f32],
        dy: &[f32],
        gamma: &[f32],
        mean: &[f32],
        inv_std: &[f32],
    ) -> [Vec<f32>; 3] {
        let channel = || vec![f32::NAN; shape.channels];
        let (mut dx, mut dgamma, mut dbeta) = (vec![0.0; x.len()], channel(), channel());
        let mut workspace = vec![f32::NAN; shape.workspace()];
        grad_parameters(shape, x, dy, mean, inv_std, &mut dgamma, &mut dbeta, &mut workspace);
        workspace.fill(f32::NAN);
        grad_input(shape, x, dy, gamma, mean, inv_std, &dgamma, &dbeta, &mut dx, &mut workspace);
        [dx, dgamma, dbeta]
    }

    const SHAPES: [Shape; 6] = [
        Shape { batch: 21, channels: 3, spatial: 1 },
        Shape { batch: 5, channels: 19, spatial: 1 },
        Shape { batch: 1, channels: 2, spatial: 1 },
        Shape { batch: 3, channels: 4, spatial: 6 },
        Shape { batch: 1, channels: 2, spatial: 40 },
        Shape { batch: 45, channels: 1, spatial: 1 },
    ];

    #[test]
    fn training_against_double_precision() {
        for shape in SHAPES {
            let (x, dy) = (drawn(1, shape.len(), 2.0), drawn(2, shape.len(), 1.0));
            let (gamma, beta) = (drawn(3, shape.channels, 2.0), drawn(4, shape.channels, 2.0));
            let out = forward(shape, &x, &gamma, &beta);
            let ([mean, variance, inv_std], y) = reference(shape, &wide(&x));
            close(&out.mean, &mean, 1e-6);
            close(&out.variance, &variance, 1e-6);
            close(&out.inv_std, &inv_std, 1e-6);
            close(&out.y, &scaled(shape, &y, &wide(&gamma), &wide(&beta)), 2e-6);

            let [dx, dgamma, dbeta] = backward(shape, &x, &dy, &gamma, &out.mean, &out.inv_std);
            let loss = |x: &[f64], gamma: &[f64], beta: &[f64]| -> f64 {
                let y = scaled(shape, &reference(shape, x).1, gamma, beta);
                y.iter().zip(&dy).map(|(y, &dy)| y * dy as f64).sum()
            };
            let (x, gamma, beta) = (wide(&x), wide(&gamma), wide(&beta));
            close(&dx, &slopes(|x| loss(x, &gamma, &beta), &x), 1e-5);
            close(&dgamma, &slopes(|gamma| loss(&x, gamma, &beta), &gamma), 1e-5);
            close(&dbeta, &slopes(|beta| loss(&x, &gamma, beta), &beta), 1e-5);
        }
    }

    #[test]
    fn inference_and_frozen_gradients_against_double_precision() {
        for shape in SHAPES {
            let n = shape.channels;
            let (x, dy) = (drawn(1, shape.len(), 2.0), drawn(2, shape.len(), 1.0));
            let (gamma, beta, mean) = (drawn(3, n, 2.0), drawn(4, n, 2.0), drawn(5, n, 2.0));
            let variance: Vec<f32> = drawn(6, n, 2.0).iter().map(|v| v.abs()).collect();
            let normalized = |x: &[f64]| -> Vec<f64> {
                let value = |(i, x): (usize, &f64)| {
                    let c = i / shape.spatial % n;
                    (x - mean[c] as f64) / (variance[c] as f64 + EPSILON as f64).sqrt()
                };
                x.iter().enumerate().map(value).collect()
            };
            let (mut a, mut b, mut y) = (vec![0.0; n], vec![0.0; n], vec![0.0; x.len()]);
            inference_affine(&gamma, &beta, &mean, &variance, EPSILON, &mut a, &mut b);
            affine(shape, &x, &a, &b, &mut y);
            close(&y, &scaled(shape, &normalized(&wide(&x)), &wide(&gamma), &wide(&beta)), 1e-5);

            let mut inv_std = vec![0.0; n];
            inverse_std(&variance, EPSILON, &mut inv_std);
            let [_, dgamma, dbeta] = backward(shape, &x, &dy, &gamma, &mean, &inv_std);
            let mut dx = vec![0.0; x.len()];
            grad_input_frozen(shape, &dy, &gamma, &inv_std, &mut dx, &mut vec![f32::NAN; shape.workspace()]);
            let loss = |x: &[f64], gamma: &[f64], beta: &[f64]| -> f64 {
                let y = scaled(shape, &normalized(x), gamma, beta);
                y.iter().zip(&dy).map(|(y, &dy)| y * dy as f64).sum()
            };
            let (x, gamma, beta) = (wide(&x), wide(&gamma), wide(&beta));
            close(&dx, &slopes(|x| loss(x, &gamma, &beta), &x), 1e-5);
            close(&dgamma, &slopes(|gamma| loss(&x, gamma, &beta), &gamma), 1e-5);
            close(&dbeta, &slopes(|beta| loss(&x, &gamma, beta), &beta), 1e-5);
        }
    }

    #[test]
    fn a_far_mean_does_not_drown_the_variance() {
        for shape in [Shape::channels_last(5000, 7), Shape { batch: 5, channels: 7, spatial: 1000 }] {
            let x: Vec<f32> = drawn(8, shape.len(), 1.0).iter().map(|x| 4096.0 + x).collect();
            let out = forward(shape, &x, &[1.0; 7], &[0.0; 7]);
            let ([mean, variance, _], y) = reference(shape, &wide(&x));
            // A mean near 4096 has steps of 2^-11, and so has what is normalized by it.
            close(&out.mean, &mean, 1e-7);
            close(&out.variance, &variance, 1e-5);
            close(&out.y, &y, 5e-4);
        }
    }

    #[test]
    fn running_statistics() {
        let mut new = [0.0; 2];
        update_running(0.9, &[1.0, 2.0], &[11.0, -8.0], &mut new);
        close(&new, &[2.0, 1.0], 1e-6);
    }

    #[test]
    fn instruction_sets_and_threads_change_nothing() {
        for shape in [
            Shape::channels_last(3001, 24),
            Shape::channels_last(300, 130),
            Shape { batch: 3, channels: 5, spatial: 4001 },
        ] {
            let (x, dy) = (drawn(1, shape.len(), 2.0), drawn(2, shape.len(), 1.0));
            let (gamma, beta) = (drawn(3, shape.channels, 2.0), drawn(4, shape.channels, 2.0));
            on_any_pool(|| {
                let out = forward(shape, &x, &gamma, &beta);
                (backward(shape, &x, &dy, &gamma, &out.mean, &out.inv_std), out.y, out.mean, out.variance)
            });
            let run = |isa| {
                let mut all = vec![vec![0.0; shape.channels]; 4];
                let [a, b, c, d] = &mut all[..] else { unreachable!() };
                let (x, dy) = (piece(shape, &x, 0), piece(shape, &dy, 0));
                moments_piece(isa, shape, x, a, b);
                sums_piece(isa, shape, x, dy, &beta, c, d);
                let mut sweeps = vec![vec![0.0; x.len()]; 3];
                normalize_piece(isa, shape, x, &beta, &gamma, &beta, &mut sweeps[0]);
                affine_piece(isa, shape, x, &gamma, &beta, &mut sweeps[1]);
                grad_piece(isa, shape, x, dy, &beta, [&gamma, &beta, &gamma], &mut sweeps[2]);
                all.iter().chain(&sweeps).map(|x| bits(x)).collect::<Vec<_>>()
            };
            assert!(Isa::ALL.iter().all(|&isa| run(isa) == run(Isa::Scalar)), "{shape:?}");
        }
    }
}
