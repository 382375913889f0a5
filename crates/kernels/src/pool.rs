//! Maximum and average pooling on channels-last data, and their gradients.
//!
//! Inputs are `(N, H, W, C)`, outputs `(N, H', W', C)`; one-dimensional pooling has height 1
//! ([`Window::flat`](crate::window::Window::flat)). The maths is that of ONNX `MaxPool`, `AveragePool` and
//! `GlobalAveragePool`; `ceil_mode` is part of the geometry ([`Rounding::Ceil`](crate::window::Rounding::Ceil)). All
//! functions overwrite their output. Gradients gather over the windows that see an input, in a fixed order, so they need
//! neither cleared memory nor atomic sums.

use crate::parallel;
use crate::simd::{Isa, dispatch, lanes, load, load_mut};
pub use crate::window::{Axis, Rounding, Window};
use crate::window::{RUN, Taps, chunk_positions, runs};

/// A pooling of fixed shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pool {
    /// Number of images.
    pub batch: usize,
    /// Number of channels.
    pub channels: usize,
    /// The spatial axes.
    pub window: Window,
}

impl Pool {
    /// A pooling of the given shape.
    ///
    /// # Errors
    /// When there are no channels, a tensor has too many elements, or an image too many positions for an `i32`.
    pub fn new(batch: usize, channels: usize, window: Window) -> Result<Pool, String> {
        let (h, w) = (window.height, window.width);
        if channels == 0 {
            return Err("pooling without channels".into());
        }
        for size in [[h.input, w.input], [h.output, w.output]] {
            size[0]
                .checked_mul(size[1])
                .filter(|&len| i32::try_from(len).is_ok())
                .and_then(|len| len.checked_mul(batch.max(1))?.checked_mul(channels)?.checked_mul(4))
                .filter(|&bytes| isize::try_from(bytes).is_ok())
                .ok_or_else(|| {
                    format!("{batch} images of {size:?} with {channels} channels are too large")
                })?;
        }
        Ok(Pool { batch, channels, window })
    }

    /// Number of elements of the input.
    pub fn input_len(&self) -> usize {
        self.batch * self.window.input_len() * self.channels
    }

    /// Number of elements of the output.
    pub fn output_len(&self) -> usize {
        self.batch * self.window.output_len() * self.channels
    }

    /// # Panics
    /// When a length is not that of its shape.
    fn check(&self, x: usize, y: usize) {
        let fits = x == self.input_len() && y == self.output_len();
        assert!(fits, "slices of {x} and {y} elements do not fit {self:?}");
    }
}

/// One run of positions in a row of the image that is being filled, with what it sees of the other image.
struct Run<'a> {
    /// Positions that meet, for the row and for each column of the run.
    row: Taps,
    columns: &'a [Taps],
    /// Width of the image that is read.
    width: usize,
    channels: usize,
}

/// Runs a block for every row, column and position of the image that is read which meets the given column of a run.
macro_rules! for_taps {
    ($run:expr, $column:expr, ($source_row:ident, $source_column:ident, $position:ident) => $body:block) => {
        for i in 0..$run.row.count {
            let $source_row = $run.row.source_at(i);
            for j in 0..$column.count {
                let $source_column = $column.source_at(j);
                let $position = $source_row * $run.width + $source_column;
                $body
            }
        }
    };
}

/// Calls `f(run, image, first position in the image, offset in the chunk, length)` for the runs of `count` output
/// positions from `first` on; with `grad`, of input positions.
fn for_each_run(
    pool: &Pool,
    first: usize,
    count: usize,
    grad: bool,
    mut f: impl FnMut(&Run<'_>, usize, usize, usize, usize),
) {
    let (h, w) = (&pool.window.height, &pool.window.width);
    let taps = if grad { Axis::grad_taps } else { Axis::taps };
    let (height, width, source_width) =
        if grad { (h.input, w.input, w.output) } else { (h.output, w.output, w.input) };
    let mut done = 0;
    let (mut columns, mut known) = ([Taps::NONE; RUN], None);
    for (image, row, column, length) in runs(first, count, height, width) {
        // Row after row has the same columns.
        if known != Some((column, length)) {
            known = Some((column, length));
            for (i, slot) in columns[..length].iter_mut().enumerate() {
                *slot = taps(w, column + i);
            }
        }
        let run = Run {
            row: taps(h, row),
            columns: &columns[..length],
            width: source_width,
            channels: pool.channels,
        };
        f(&run, image, row * width + column, done * pool.channels, length * pool.channels);
        done += length;
    }
}

/// Maximum pooling, ONNX `MaxPool`: `y` becomes the largest input of each window, `argmax` its position in the image,
/// `row * W + column`, for [`max_grad`].
///
/// Of equal inputs the first in memory order wins; NaN wins over numbers. Padding never wins: a window that sees nothing
/// else has the value `-inf` and the position -1.
///
/// # Panics
/// When a slice does not have the length of its shape.
pub fn max(pool: &Pool, x: &[f32], y: &mut [f32], argmax: &mut [i32]) {
    pool.check(x.len(), y.len());
    assert!(argmax.len() == y.len(), "{} positions for {} outputs", argmax.len(), y.len());
    let isa = Isa::detect();
    let positions = chunk_positions(pool.channels, pool.window.width.output);
    let image_len = pool.window.input_len() * pool.channels;
    let chunk_len = positions * pool.channels;
    parallel::for_each_chunk2(y, chunk_len, argmax, chunk_len, |chunk, y, argmax| {
        let count = y.len() / pool.channels;
        for_each_run(pool, chunk * positions, count, false, |run, image, _, at, len| {
            let x = &x[image * image_len..][..image_len];
            max_run(isa, run, x, &mut y[at..][..len], &mut argmax[at..][..len]);
        });
    });
}

/// What a window can find the largest of.
trait Sample: Copy + Send + Sync {
    /// The largest of no values.
    const LOWEST: Self;

    /// The larger one; of equal ones the first. NaN is larger than numbers.
    fn larger(self, other: Self) -> Self;
}

impl Sample for f32 {
    const LOWEST: f32 = f32::NEG_INFINITY;

    #[inline(always)]
    fn larger(self, other: f32) -> f32 {
        if (other > self) | (other.is_nan() & !self.is_nan()) { other } else { self }
    }
}

impl Sample for u8 {
    const LOWEST: u8 = 0;

    #[inline(always)]
    fn larger(self, other: u8) -> u8 {
        self.max(other)
    }
}

/// The largest value of each window, as in [`max`], without its position.
///
/// # Panics
/// When a slice does not have the length of its shape.
pub fn max_values(pool: &Pool, x: &[f32], y: &mut [f32]) {
    max_with(pool, x, y, max_values_run);
}

/// The largest code of each window; 0 where it sees nothing but padding.
///
/// # Panics
/// When a slice does not have the length of its shape.
pub fn max_codes(pool: &Pool, x: &[u8], y: &mut [u8]) {
    max_with(pool, x, y, max_codes_run);
}

fn max_with<T: Sample>(pool: &Pool, x: &[T], y: &mut [T], largest: fn(Isa, &Run<'_>, &[T], &mut [T])) {
    pool.check(x.len(), y.len());
    let isa = Isa::detect();
    let positions = chunk_positions(pool.channels, pool.window.width.output);
    let image_len = pool.window.input_len() * pool.channels;
    parallel::for_each_chunk(y, positions * pool.channels, |chunk, y| {
        let count = y.len() / pool.channels;
        for_each_run(pool, chunk * positions, count, false, |run, image, _, at, len| {
            largest(isa, run, &x[image * image_len..][..image_len], &mut y[at..][..len]);
        });
    });
}

/// The largest values of the windows of a run.
#[inline(always)]
fn largest<T: Sample>(run: &Run<'_>, x: &[T], y: &mut [T]) {
    for (column, y) in run.columns.iter().zip(y.chunks_exact_mut(run.channels)) {
        let mut is_first = true;
        for_taps!(run, column, (_row, _column, position) => {
            let x = &x[position * run.channels..][..run.channels];
            if is_first {
                y.copy_from_slice(x);
                is_first = false;
            } else {
                for (best, &x) in y.iter_mut().zip(x) {
                    *best = best.larger(x);
                }
            }
        });
        if is_first {
            y.fill(T::LOWEST);
        }
    }
}

/// Gradient of [`max`]: `dx` becomes the sum of `dy` over the windows whose largest input it was.
///
/// # Panics
/// When a slice does not have the length of its shape.
pub fn max_grad(pool: &Pool, argmax: &[i32], dy: &[f32], dx: &mut [f32]) {
    pool.check(dx.len(), dy.len());
    assert!(argmax.len() == dy.len(), "{} positions for {} outputs", argmax.len(), dy.len());
    let isa = Isa::detect();
    let positions = chunk_positions(pool.channels, pool.window.width.input);
    let image_len = pool.window.output_len() * pool.channels;
    parallel::for_each_chunk(dx, positions * pool.channels, |chunk, dx| {
        let count = dx.len() / pool.channels;
        for_each_run(pool, chunk * positions, count, true, |run, image, position, at, len| {
            let (dy, argmax) =
                (&dy[image * image_len..][..image_len], &argmax[image * image_len..][..image_len]);
            max_grad_run(isa, run, argmax, dy, position as i32, &mut dx[at..][..len]);
        });
    });
}

/// Average pooling, ONNX `AveragePool`: `y` becomes the mean of each window. With `include_pad`
/// (`count_include_pad`), padding counts as zeros, but not what lies beyond it in rounded-up windows; without, it does
/// not count. A window that sees no input has the value 0.
///
/// # Panics
/// When a slice does not have the length of its shape.
pub fn average(pool: &Pool, include_pad: bool, x: &[f32], y: &mut [f32]) {
    pool.check(x.len(), y.len());
    let isa = Isa::detect();
    let positions = chunk_positions(pool.channels, pool.window.width.output);
    let image_len = pool.window.input_len() * pool.channels;
    let width = pool.window.width.output;
    parallel::for_each_chunk(y, positions * pool.channels, |chunk, y| {
        let count = y.len() / pool.channels;
        for_each_run(pool, chunk * positions, count, false, |run, image, position, at, len| {
            let x = &x[image * image_len..][..image_len];
            let (row, column) = (position / width, position % width);
            average_run(isa, run, &pool.window, include_pad, row, column, x, &mut y[at..][..len]);
        });
    });
}

/// Gradient of [`average`]: `dx` becomes the sum of `dy / count` over the windows that see it.
///
/// # Panics
/// When a slice does not have the length of its shape.
pub fn average_grad(pool: &Pool, include_pad: bool, dy: &[f32], dx: &mut [f32]) {
    pool.check(dx.len(), dy.len());
    let isa = Isa::detect();
    let positions = chunk_positions(pool.channels, pool.window.width.input);
    let image_len = pool.window.output_len() * pool.channels;
    parallel::for_each_chunk(dx, positions * pool.channels, |chunk, dx| {
        let count = dx.len() / pool.channels;
        for_each_run(pool, chunk * positions, count, true, |run, image, _, at, len| {
            let dy = &dy[image * image_len..][..image_len];
            average_grad_run(isa, run, &pool.window, include_pad, dy, &mut dx[at..][..len]);
        });
    });
}

/// Number of positions that the mean of a window divides by, at least 1.
#[inline(always)]
fn divisor(window: &Window, include_pad: bool, row: usize, column: usize) -> f32 {
    let count = if include_pad {
        window.height.padded_count(row) * window.width.padded_count(column)
    } else {
        window.height.taps(row).count * window.width.taps(column).count
    };
    count.max(1) as f32
}

/// Global average pooling, ONNX `GlobalAveragePool`: `x` is `(N, positions, C)`, `y` becomes `(N, C)`.
///
/// # Panics
/// When a length is zero or the slices do not fit.
pub fn global_average(x: &[f32], positions: usize, channels: usize, y: &mut [f32]) {
    check_global(x.len(), positions, channels, y.len());
    let isa = Isa::detect();
    parallel::for_each_chunk(y, channels, |image, y| {
        mean_rows(isa, &x[image * positions * channels..][..positions * channels], positions, y);
    });
}

/// Gradient of [`global_average`]: `dx[n, p, c] = dy[n, c] / positions`.
///
/// # Panics
/// When a length is zero or the slices do not fit.
pub fn global_average_grad(dy: &[f32], positions: usize, channels: usize, dx: &mut [f32]) {
    check_global(dx.len(), positions, channels, dy.len());
    let isa = Isa::detect();
    parallel::for_each_chunk(dx, positions * channels, |image, dx| {
        let (first, rest) = dx.split_at_mut(channels);
        divide(isa, &dy[image * channels..][..channels], positions as f32, first);
        rest.chunks_exact_mut(channels).for_each(|row| row.copy_from_slice(first));
    });
}

fn check_global(x: usize, positions: usize, channels: usize, y: usize) {
    assert!(positions > 0 && channels > 0, "{positions} positions of {channels} channels");
    let fits = y.is_multiple_of(channels) && (y / channels).checked_mul(positions * channels) == Some(x);
    assert!(fits, "slices of {x} and {y} elements for {positions} positions of {channels} channels");
}

dispatch! {
    fn max_values_run(run: &Run<'_>, x: &[f32], y: &mut [f32]) {
        largest(run, x, y);
    }

    fn max_codes_run(run: &Run<'_>, x: &[u8], y: &mut [u8]) {
        largest(run, x, y);
    }

    fn max_run(run: &Run<'_>, x: &[f32], y: &mut [f32], argmax: &mut [i32]) {
        let outputs = y.chunks_exact_mut(run.channels).zip(argmax.chunks_exact_mut(run.channels));
        for (column, (y, argmax)) in run.columns.iter().zip(outputs) {
            let mut is_first = true;
            for_taps!(run, column, (_row, _column, position) => {
                let x = &x[position * run.channels..][..run.channels];
                if is_first {
                    y.copy_from_slice(x);
                    argmax.fill(position as i32);
                    is_first = false;
                } else {
                    for ((best, at), &x) in y.iter_mut().zip(argmax.iter_mut()).zip(x) {
                        // Larger, or the first NaN. Positions are chosen by mask, which vectorizes.
                        let wins = (x > *best) | (x.is_nan() & !best.is_nan());
                        let mask = -i32::from(wins);
                        *at = (position as i32 & mask) | (*at & !mask);
                        *best = if wins { x } else { *best };
                    }
                }
            });
            if is_first {
                y.fill(f32::NEG_INFINITY);
                argmax.fill(-1);
            }
        }
    }

    fn max_grad_run(run: &Run<'_>, argmax: &[i32], dy: &[f32], position: i32, dx: &mut [f32]) {
        dx.fill(0.0);
        for ((column, dx), own) in run.columns.iter().zip(dx.chunks_exact_mut(run.channels)).zip(position..) {
            for_taps!(run, column, (_row, _column, output) => {
                let dy = &dy[output * run.channels..][..run.channels];
                let argmax = &argmax[output * run.channels..][..run.channels];
                for ((dx, &dy), &at) in dx.iter_mut().zip(dy).zip(argmax) {
                    *dx += if at == own { dy } else { 0.0 };
                }
            });
        }
    }

    fn average_run(
        run: &Run<'_>,
        window: &Window,
        include_pad: bool,
        row: usize,
        column: usize,
        x: &[f32],
        y: &mut [f32],
    ) {
        y.fill(0.0);
        for ((taps, y), column) in run.columns.iter().zip(y.chunks_exact_mut(run.channels)).zip(column..) {
            for_taps!(run, taps, (_row, _column, position) => {
                let x = &x[position * run.channels..][..run.channels];
                for (y, &x) in y.iter_mut().zip(x) {
                    *y += x;
                }
            });
            let divisor = divisor(window, include_pad, row, column);
            for y in y.iter_mut() {
                *y /= divisor;
            }
        }
    }

    fn average_grad_run(run: &Run<'_>, window: &Window, include_pad: bool, dy: &[f32], dx: &mut [f32]) {
        dx.fill(0.0);
        for (taps, dx) in run.columns.iter().zip(dx.chunks_exact_mut(run.channels)) {
            for_taps!(run, taps, (row, column, output) => {
                let dy = &dy[output * run.channels..][..run.channels];
                let divisor = divisor(window, include_pad, row, column);
                for (dx, &dy) in dx.iter_mut().zip(dy) {
                    *dx += dy / divisor;
                }
            });
        }
    }

    /// `y = mean of the rows of x`, summed in blocks of rows to keep rounding errors small.
    fn mean_rows(x: &[f32], rows: usize, y: &mut [f32]) {
        const BLOCK: usize = 64;
        let channels = y.len();
        lanes!(channels, c, LANES => {
            let mut total = [0.0; LANES];
            for block in x.chunks(BLOCK * channels) {
                let mut sum = [0.0; LANES];
                for row in block.chunks_exact(channels) {
                    let row: &[f32; LANES] = load(row, c);
                    for l in 0..LANES {
                        sum[l] += row[l];
                    }
                }
                for l in 0..LANES {
                    total[l] += sum[l];
                }
            }
            *load_mut(y, c) = total.map(|total| total / rows as f32);
        });
    }

    fn divide(x: &[f32], divisor: f32, y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = x / divisor;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::reference::{Draw, assert_all_close, on_threads, pool_pairs};
    use crate::window::tests::draw_axis;

    fn draw_pool(draw: &mut Draw) -> Pool {
        let rounding = [Rounding::Floor, Rounding::Ceil][draw.below(2)];
        let mut window = Window::flat(draw_axis(draw, rounding));
        if draw.below(3) > 0 {
            window.height = draw_axis(draw, rounding);
        }
        Pool::new(1 + draw.below(3), [1, 7, 8, 41][draw.below(4)], window).unwrap()
    }

    #[test]
    fn max_pooling_matches_its_definition() {
        let mut draw = Draw::new(21);
        for _ in 0..200 {
            let pool = draw_pool(&mut draw);
            // Few values make many ties.
            let x: Vec<f32> =
                (0..pool.input_len()).map(|_| [f32::NEG_INFINITY, -1.0, 0.0, 2.0][draw.below(4)]).collect();
            let dy = draw.values(pool.output_len());
            let mut best = vec![(f32::NEG_INFINITY, None); pool.output_len()];
            for (xi, yi) in pool_pairs(pool.batch, pool.channels, &pool.window) {
                if best[yi].1.is_none() || x[xi] > best[yi].0 {
                    best[yi] = (x[xi], Some(xi));
                }
            }
            let mut expected = vec![0.0; x.len()];
            best.iter().zip(&dy).for_each(|(best, &dy)| {
                if let Some(xi) = best.1 {
                    expected[xi] += f64::from(dy);
                }
            });
            let run = || {
                let (mut y, mut argmax) = (vec![f32::NAN; dy.len()], vec![9; dy.len()]);
                let mut dx = vec![f32::NAN; x.len()];
                max(&pool, &x, &mut y, &mut argmax);
                max_grad(&pool, &argmax, &dy, &mut dx);
                (y, argmax, dx)
            };
            let (y, argmax, dx) = on_threads(1, run);
            for (yi, &(value, xi)) in best.iter().enumerate() {
                assert_eq!(y[yi], value);
                let at = xi.map_or(-1, |xi| (xi / pool.channels % pool.window.input_len()) as i32);
                assert_eq!(argmax[yi], at, "{pool:?}");
            }
            let mut values = vec![f32::NAN; y.len()];
            max_values(&pool, &x, &mut values);
            assert_eq!(values, y);
            let codes: Vec<u8> = x.iter().map(|&x| if x < -1.0 { 0 } else { (x + 2.0) as u8 }).collect();
            let mut largest = vec![9; y.len()];
            max_codes(&pool, &codes, &mut largest);
            assert!(
                largest.iter().zip(&y).all(|(&code, &y)| code == if y < -1.0 { 0 } else { (y + 2.0) as u8 })
            );
            assert_all_close(&dx, &expected, 16);
            assert_eq!((y, argmax, dx), on_threads(3, run));
        }
    }

    #[test]
    fn nan_wins() {
        let axis = Axis::new(4, 4, 1, 1, 0, 0, Rounding::Floor).unwrap();
        let pool = Pool::new(1, 1, Window::flat(axis)).unwrap();
        let (mut y, mut argmax) = ([0.0], [0]);
        max(&pool, &[1.0, f32::NAN, 3.0, f32::NAN], &mut y, &mut argmax);
        assert!(y[0].is_nan());
        assert_eq!(argmax, [1]);
        max_values(&pool, &[1.0, f32::NAN, 3.0, f32::NAN], &mut y);
        assert!(y[0].is_nan());
    }

    #[test]
    fn average_pooling_matches_its_definition() {
        let mut draw = Draw::new(22);
        for round in 0..200 {
            let (pool, include_pad) = (draw_pool(&mut draw), round % 2 == 0);
            let (x, dy) = (draw.values(pool.input_len()), draw.values(pool.output_len()));
            let pairs = pool_pairs(pool.batch, pool.channels, &pool.window);
            let mut seen = vec![0.0; dy.len()];
            pairs.iter().for_each(|&(_, yi)| seen[yi] += 1.0);
            // Kernel positions between the ends of the padding.
            let padded = |axis: &Axis, o: usize| {
                let end = axis.pad_begin + axis.input + axis.pad_end;
                (0..axis.kernel).filter(|k| o * axis.stride + k * axis.dilation < end).count() as f64
            };
            let count = |yi: usize| -> f64 {
                let (h, w) = (&pool.window.height, &pool.window.width);
                let o = yi / pool.channels % pool.window.output_len();
                if include_pad { padded(h, o / w.output) * padded(w, o % w.output) } else { seen[yi] }
            };
            let (mut mean, mut grad) = (vec![0.0; dy.len()], vec![0.0; x.len()]);
            for &(xi, yi) in &pairs {
                mean[yi] += f64::from(x[xi]) / count(yi);
                grad[xi] += f64::from(dy[yi]) / count(yi);
            }
            let run = || {
                let (mut y, mut dx) = (vec![f32::NAN; dy.len()], vec![f32::NAN; x.len()]);
                average(&pool, include_pad, &x, &mut y);
                average_grad(&pool, include_pad, &dy, &mut dx);
                (y, dx)
            };
            let (y, dx) = on_threads(1, run);
            assert_all_close(&y, &mean, 16);
            assert_all_close(&dx, &grad, 16);
            assert_eq!((y, dx), on_threads(3, run));
        }
    }

    #[test]
    fn the_end_of_a_rounded_up_window_does_not_count() {
        // Windows 0..2 and 2..4 of 3 inputs; position 3 is neither input nor padding.
        let axis = Axis::new(3, 2, 2, 1, 0, 0, Rounding::Ceil).unwrap();
        let pool = Pool::new(1, 1, Window::flat(axis)).unwrap();
        let mut y = [0.0; 2];
        average(&pool, true, &[1.0, 3.0, 5.0], &mut y);
        assert_eq!(y, [2.0, 5.0]);
    }

    #[test]
    fn global_average_pooling() {
        let mut draw = Draw::new(23);
        for (batch, positions, channels) in [(2, 49, 40), (3, 1, 5), (1, 1000, 3)] {
            let x = draw.values(batch * positions * channels);
            let mut y = vec![f32::NAN; batch * channels];
            global_average(&x, positions, channels, &mut y);
            let mut expected = vec![0.0; y.len()];
            for (at, &x) in x.iter().enumerate() {
                expected[at / (positions * channels) * channels + at % channels] +=
                    f64::from(x) / positions as f64;
            }
            assert_all_close(&y, &expected, 16);
            let mut dx = vec![f32::NAN; x.len()];
            global_average_grad(&y, positions, channels, &mut dx);
            for (at, &dx) in dx.iter().enumerate() {
                assert_eq!(dx, y[at / (positions * channels) * channels + at % channels] / positions as f32);
            }
        }
    }

    #[test]
    fn all_instruction_sets_give_the_same_bits() {
        let mut draw = Draw::new(24);
        let (height, width) =
            (Axis::new(6, 3, 2, 1, 1, 1, Rounding::Floor), Axis::new(9, 2, 1, 2, 0, 1, Rounding::Floor));
        let pool = Pool::new(1, 45, Window { height: height.unwrap(), width: width.unwrap() }).unwrap();
        let x = draw.values(pool.input_len());
        let all = |isa| {
            let (mut y, mut argmax) = (vec![0.0; pool.output_len()], vec![0; pool.output_len()]);
            let (mut mean, mut mean_all) = (y.clone(), vec![0.0; pool.channels]);
            let (mut dx, mut mean_dx) = (x.clone(), x.clone());
            let (outputs, inputs) = (pool.window.output_len(), pool.window.input_len());
            for_each_run(&pool, 0, outputs, false, |run, _, position, at, len| {
                let (row, column) =
                    (position / pool.window.width.output, position % pool.window.width.output);
                max_run(isa, run, &x, &mut y[at..][..len], &mut argmax[at..][..len]);
                average_run(isa, run, &pool.window, true, row, column, &x, &mut mean[at..][..len]);
            });
            for_each_run(&pool, 0, inputs, true, |run, _, position, at, len| {
                max_grad_run(isa, run, &argmax, &y, position as i32, &mut dx[at..][..len]);
                average_grad_run(isa, run, &pool.window, true, &y, &mut mean_dx[at..][..len]);
            });
            mean_rows(isa, &x, inputs, &mut mean_all);
            (y, argmax, mean, dx, mean_dx, mean_all)
        };
        for isa in Isa::ALL {
            assert_eq!(all(isa), all(Isa::Scalar), "{isa:?}");
        }
    }
}
