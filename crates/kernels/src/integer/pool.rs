//! Means of codes.

use super::elementwise::Affine;
use super::{clip, code, nearest};
use crate::parallel;
use crate::pool::Pool;
use crate::simd::{Isa, dispatch, lanes, load, load_mut};
use crate::window::{RUN, Taps, runs};

/// Average pooling on codes, `(N, H, W, C)`. ONNX Runtime's `QLinearAveragePool`. With `include_pad` the mean divides
/// by the positions of the window that meet the input or its padding, else by those that meet the input.
///
/// # Panics
/// When a slice has not the length of its shape.
pub fn average(pool: &Pool, include_pad: bool, x: Affine, y: Affine, codes: &[u8], out: &mut [u8]) {
    let fits = codes.len() == pool.input_len() && out.len() == pool.output_len();
    assert!(fits, "slices of {} and {} codes do not fit {pool:?}", codes.len(), out.len());
    let isa = Isa::detect();
    let rows = (parallel::CHUNK / pool.channels).max(1);
    parallel::for_each_chunk(out, rows * pool.channels, |i, out| {
        average_rows(isa, pool, include_pad, x, y, codes, i * rows, out);
    });
}

/// Global average pooling on codes: `codes` is `(N, positions, C)`, `out` is `(N, C)`. ONNX Runtime's
/// `QLinearGlobalAveragePool`.
///
/// # Panics
/// When a length is zero or the slices do not fit.
pub fn global_average(positions: usize, channels: usize, x: Affine, y: Affine, codes: &[u8], out: &mut [u8]) {
    assert!(positions > 0 && channels > 0, "{positions} positions of {channels} channels");
    let fits = out.len().is_multiple_of(channels) && codes.len() == out.len() * positions;
    assert!(fits, "slices of {} and {} codes do not fit", codes.len(), out.len());
    let isa = Isa::detect();
    let scale = x.0 / (y.0 * positions as f32);
    let start = (positions as i32).wrapping_mul(-i32::from(x.1));
    parallel::for_each_chunk(out, channels, |image, out| {
        mean_rows(
            isa,
            &codes[image * positions * channels..][..positions * channels],
            start,
            scale,
            y.1,
            out,
        );
    });
}

dispatch! {
    fn average_rows(
        pool: &Pool,
        include_pad: bool,
        x: Affine,
        y: Affine,
        codes: &[u8],
        first: usize,
        out: &mut [u8],
    ) {
        let (h, w, channels) = (&pool.window.height, &pool.window.width, pool.channels);
        let image_len = pool.window.input_len() * channels;
        let (x_zero, y_zero) = (i32::from(x.1), f32::from(y.1));
        let mut done = 0;
        for (image, row, column, length) in runs(first, out.len() / channels, h.output, w.output) {
            let codes = &codes[image * image_len..][..image_len];
            let (row_taps, mut columns) = (h.taps(row), [Taps::NONE; RUN]);
            for (i, slot) in columns[..length].iter_mut().enumerate() {
                *slot = w.taps(column + i);
            }
            let out = &mut out[done * channels..][..length * channels];
            done += length;
            lanes!(channels, c, LANES => {
                for (p, taps) in columns[..length].iter().enumerate() {
                    let mut sums = [0.0; LANES];
                    for i in 0..row_taps.count {
                        for j in 0..taps.count {
                            let position = row_taps.source_at(i) * w.input + taps.source_at(j);
                            let codes: &[u8; LANES] = load(codes, position * channels + c);
                            for l in 0..LANES {
                                sums[l] += (i32::from(codes[l]) - x_zero) as f32 * x.0;
                            }
                        }
                    }
                    let count = if include_pad {
                        h.padded_count(row) * w.padded_count(column + p)
                    } else {
                        row_taps.count * taps.count
                    };
                    let count = count.max(1) as f32;
                    *load_mut(out, p * channels + c) = sums.map(|sum| code(sum / count / y.0 + y_zero));
                }
            });
        }
    }

    fn mean_rows(codes: &[u8], start: i32, scale: f32, zero_point: u8, out: &mut [u8]) {
        let channels = out.len();
        let zero = f32::from(zero_point);
        lanes!(channels, c, LANES => {
            let mut sums = [start; LANES];
            for row in codes.chunks_exact(channels) {
                let row: &[u8; LANES] = load(row, c);
                for l in 0..LANES {
                    sums[l] = sums[l].wrapping_add(i32::from(row[l]));
                }
            }
            *load_mut(out, c) =
                sums.map(|sum| (nearest(clip(sum as f32 * scale, -zero, 255.0 - zero)) + zero as i32) as u8);
        });
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::reference::{Draw, on_threads, pool_pairs};
    use crate::window::tests::draw_axis;
    use crate::window::{Rounding, Window};

    #[test]
    fn means_are_those_of_the_values() {
        let mut draw = Draw::new(5);
        for round in 0..100 {
            let rounding = [Rounding::Floor, Rounding::Ceil][draw.below(2)];
            let window =
                Window { height: draw_axis(&mut draw, rounding), width: draw_axis(&mut draw, rounding) };
            let pool = Pool::new(2, [1, 8, 41][round % 3], window).unwrap();
            let x: Vec<u8> = (0..pool.input_len()).map(|_| draw.below(256) as u8).collect();
            let (a, b) = ((0.031, draw.below(256) as u8), (0.017, draw.below(256) as u8));
            let (mut sums, mut counts) = (vec![0.0f64; pool.output_len()], vec![0usize; pool.output_len()]);
            for (xi, yi) in pool_pairs(2, pool.channels, &window) {
                sums[yi] += 0.031 * (f64::from(x[xi]) - f64::from(a.1));
                counts[yi] += 1;
            }
            for include_pad in [false, true] {
                let run = || {
                    let mut y = vec![0; pool.output_len()];
                    average(&pool, include_pad, a, b, &x, &mut y);
                    y
                };
                let y = on_threads(1, run);
                for (i, &code) in y.iter().enumerate() {
                    let at = i / pool.channels % window.output_len();
                    let count = if include_pad {
                        let (row, column) = (at / window.width.output, at % window.width.output);
                        window.height.padded_count(row) * window.width.padded_count(column)
                    } else {
                        counts[i]
                    };
                    let exact = sums[i] / count.max(1) as f64 / 0.017 + f64::from(b.1);
                    assert!((f64::from(code) - exact.clamp(0.0, 255.0)).abs() < 0.5001, "{code} for {exact}");
                }
                assert_eq!(y, on_threads(3, run));
            }
        }
    }

    #[test]
    fn the_mean_of_all_positions() {
        let mut draw = Draw::new(6);
        for channels in [1, 8, 43] {
            let (images, positions, zero) = (3, 49, 30);
            let x: Vec<u8> = (0..images * positions * channels).map(|_| draw.below(256) as u8).collect();
            let mut y = vec![0; images * channels];
            global_average(positions, channels, (0.02, zero), (0.01, 5), &x, &mut y);
            for (i, &code) in y.iter().enumerate() {
                let (image, c) = (i / channels, i % channels);
                let value = |p: usize| f64::from(x[(image * positions + p) * channels + c]) - f64::from(zero);
                let exact = (0..positions).map(value).sum::<f64>() / 49.0 * 2.0 + 5.0;
                assert!((f64::from(code) - exact.clamp(0.0, 255.0)).abs() < 0.5001, "{code} for {exact}");
            }
        }
    }
}
