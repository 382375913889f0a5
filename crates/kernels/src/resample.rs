//! Resampling of 8-bit pictures, byte for byte as Pillow's `Image.resize` computes it: one pass along the rows, one along
//! the columns, each a weighted sum in fixed point that is rounded to 8 bits (`libImaging/Resample.c`). A filter that
//! shrinks covers all pixels that it passes over, which is what other libraries call antialiasing.

use crate::simd::{Isa, dispatch};
use std::ops::Range;

/// Fraction bits of a weight: a sum of 8-bit values times weights, whose sum is 1, has two bits left for sign and overshoot.
const PRECISION: u32 = 32 - 8 - 2;

/// How a sample of the result follows from samples around it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Filter {
    /// A triangle of two samples.
    #[default]
    Bilinear,
    /// Keys' cubic over four samples with a = -0.5.
    Bicubic,
}

impl Filter {
    /// Samples to either side.
    fn support(self) -> f64 {
        match self {
            Filter::Bilinear => 1.0,
            Filter::Bicubic => 2.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        let x = x.abs();
        match self {
            Filter::Bilinear => (1.0 - x).max(0.0),
            Filter::Bicubic => {
                const A: f64 = -0.5;
                match x {
                    _ if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
                    _ if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
                    _ => 0.0,
                }
            }
        }
    }
}

/// A picture of 8 bits, rows of pixels of interleaved channels, or a rectangle of one.
#[derive(Clone, Copy, Debug)]
pub struct Pixels<'a> {
    /// The first pixel's first channel comes first.
    pub data: &'a [u8],
    /// Bytes from one row to the next.
    pub stride: usize,
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Bytes of a pixel.
    pub channels: usize,
}

/// A rectangle of the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// First row.
    pub top: usize,
    /// First column.
    pub left: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

/// One axis: which samples a window of the result needs, and their weights.
struct Axis {
    needed: Range<usize>,
    /// None where the size stays: samples are taken as they are.
    taps: Option<Taps>,
}

/// Weights for samples of the result.
struct Taps {
    /// First sample, counted from the first that is needed, and number of samples for each sample of the result.
    ranges: Vec<(usize, usize)>,
    /// `most` weights each.
    weights: Vec<i32>,
    most: usize,
}

impl Axis {
    fn new(from: usize, to: usize, window: Range<usize>, filter: Filter) -> Axis {
        if from == to {
            return Axis { needed: window, taps: None };
        }
        let scale = from as f64 / to as f64;
        let stretch = scale.max(1.0);
        let support = filter.support() * stretch;
        let most = support.ceil() as usize * 2 + 1;
        let (mut ranges, mut weights) = (Vec::new(), Vec::new());
        for i in window {
            let center = (i as f64 + 0.5) * scale;
            let first = (center - support + 0.5).max(0.0) as usize;
            let count = ((center + support + 0.5) as usize).min(from) - first;
            let weight = |k: usize| filter.weight(((k + first) as f64 - center + 0.5) * (1.0 / stretch));
            let sum: f64 = (0..count).map(weight).sum();
            let fixed = |w: f64| (w / sum * (1u32 << PRECISION) as f64 + 0.5f64.copysign(w)) as i32;
            weights.extend((0..most).map(|k| if k < count { fixed(weight(k)) } else { 0 }));
            ranges.push((first, count));
        }
        let start = ranges.first().map_or(0, |r| r.0);
        let end = ranges.last().map_or(0, |r| r.0 + r.1);
        ranges.iter_mut().for_each(|r| r.0 -= start);
        Axis { needed: start..end, taps: Some(Taps { ranges, weights, most }) }
    }
}

impl Taps {
    fn of(&self, i: usize) -> (usize, &[i32]) {
        let (first, count) = self.ranges[i];
        (first, &self.weights[i * self.most..][..count])
    }
}

/// The `window` of `from` resized to `height` rows and `width` columns; only what the window needs is computed. Rows of
/// the result follow each other without gaps.
///
/// # Panics
/// When a size is 0, the window is not inside the result, or `from` has less data than it says.
pub fn resample(from: Pixels, height: usize, width: usize, window: Window, filter: Filter) -> Vec<u8> {
    resample_with(Isa::detect(), from, height, width, window, filter)
}

fn resample_with(
    isa: Isa,
    from: Pixels,
    height: usize,
    width: usize,
    window: Window,
    filter: Filter,
) -> Vec<u8> {
    let Pixels { stride, channels, .. } = from;
    assert!(from.width > 0 && from.height > 0 && channels > 0, "a picture without pixels");
    assert!(window.top + window.height <= height && window.left + window.width <= width, "a window outside");
    assert!(window.height > 0 && window.width > 0, "an empty window");
    let rows = Axis::new(from.height, height, window.top..window.top + window.height, filter);
    let columns = Axis::new(from.width, width, window.left..window.left + window.width, filter);
    let needed = Pixels {
        data: &from.data[rows.needed.start * stride + columns.needed.start * channels..],
        width: columns.needed.len(),
        height: rows.needed.len(),
        ..from
    };
    let packed = |data, height, width| Pixels { data, stride: width * channels, width, height, channels };
    // Rounding in between makes the order visible. This is that of Pillow 13; earlier versions always began along the rows.
    let fewer_rows = from.height.saturating_sub(height) as isize;
    if fewer_rows > 0 && fewer_rows > 2 * (from.width as isize - width as isize) {
        let between = along_columns(isa, needed, &rows, window.height);
        along_rows(isa, packed(&between, window.height, needed.width), &columns, window.width)
    } else {
        let between = along_rows(isa, needed, &columns, window.width);
        along_columns(isa, packed(&between, needed.height, window.width), &rows, window.height)
    }
}

fn along_rows(isa: Isa, from: Pixels, columns: &Axis, width: usize) -> Vec<u8> {
    let channels = from.channels;
    let mut result = vec![0; from.height * width * channels];
    for (y, out) in result.chunks_exact_mut(width * channels).enumerate() {
        let row = &from.data[y * from.stride..][..from.width * channels];
        match &columns.taps {
            None => out.copy_from_slice(row),
            Some(taps) if channels == 3 => across_rgb(isa, row, taps, out),
            Some(taps) => across_any(row, channels, taps, out),
        }
    }
    result
}

fn along_columns(isa: Isa, from: Pixels, rows: &Axis, height: usize) -> Vec<u8> {
    let line = from.width * from.channels;
    let mut result = vec![0; height * line];
    for (y, out) in result.chunks_exact_mut(line).enumerate() {
        match &rows.taps {
            None => out.copy_from_slice(&from.data[y * from.stride..][..line]),
            Some(taps) => {
                let (first, weights) = taps.of(y);
                down(isa, &from.data[first * from.stride..], from.stride, weights, out);
            }
        }
    }
    result
}

#[inline(always)]
fn round(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

const HALF: i32 = 1 << (PRECISION - 1);

fn across_any(row: &[u8], channels: usize, taps: &Taps, out: &mut [u8]) {
    for (x, pixel) in out.chunks_exact_mut(channels).enumerate() {
        let (first, weights) = taps.of(x);
        for (c, o) in pixel.iter_mut().enumerate() {
            let values = row[first * channels + c..].iter().step_by(channels);
            *o = round(weights.iter().zip(values).fold(HALF, |sum, (&w, &v)| sum + w * v as i32));
        }
    }
}

dispatch! {
    /// Pixels of three bytes, four lanes at a time.
    fn across_rgb(row: &[u8], taps: &Taps, out: &mut [u8]) {
        for (x, pixel) in out.as_chunks_mut::<3>().0.iter_mut().enumerate() {
            let (first, weights) = taps.of(x);
            let mut sum = [HALF; 4];
            let values = &row[first * 3..(first + weights.len()) * 3];
            // All pixels but the last have a byte behind them, which the fourth lane reads for nothing.
            let (&last, rest) = weights.split_last().unwrap_or((&0, &[]));
            for (k, &w) in rest.iter().enumerate() {
                if let Some(v) = values.get(3 * k..3 * k + 4) {
                    (0..4).for_each(|c| sum[c] += w * v[c] as i32);
                }
            }
            if let Some(v) = values.last_chunk::<3>() {
                (0..3).for_each(|c| sum[c] += last * v[c] as i32);
            }
            *pixel = [round(sum[0]), round(sum[1]), round(sum[2])];
        }
    }

    /// One row of the result from rows that begin `stride` bytes apart.
    fn down(rows: &[u8], stride: usize, weights: &[i32], out: &mut [u8]) {
        const LANES: usize = 32;
        let (blocks, rest) = out.as_chunks_mut::<LANES>();
        let done = blocks.len() * LANES;
        for (b, block) in blocks.iter_mut().enumerate() {
            let mut sum = [HALF; LANES];
            for (k, &w) in weights.iter().enumerate() {
                if let Some(v) = rows[k * stride + b * LANES..].first_chunk::<LANES>() {
                    (0..LANES).for_each(|i| sum[i] += w * v[i] as i32);
                }
            }
            (0..LANES).for_each(|i| block[i] = round(sum[i]));
        }
        for (i, o) in rest.iter_mut().enumerate() {
            let value = |(k, &w): (usize, &i32)| w * rows[k * stride + done + i] as i32;
            *o = round(weights.iter().enumerate().map(value).fold(HALF, |sum, v| sum + v));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(width: usize, height: usize, channels: usize) -> Vec<u8> {
        (0..width * height * channels).map(|i| (i * i * 31 + i * 7 + 13) as u8).collect()
    }

    fn whole(height: usize, width: usize) -> Window {
        Window { top: 0, left: 0, height, width }
    }

    #[test]
    fn every_instruction_set_and_every_window_gives_the_same_bytes() {
        for channels in [1, 3, 4] {
            let data = picture(37, 23, channels);
            let from = Pixels { data: &data, stride: 37 * channels, width: 37, height: 23, channels };
            for (height, width) in [(11, 50), (23, 10), (40, 37), (23, 37), (5, 4)] {
                for filter in [Filter::Bilinear, Filter::Bicubic] {
                    let of = |isa, window| resample_with(isa, from, height, width, window, filter);
                    let all = of(Isa::Scalar, whole(height, width));
                    for isa in Isa::ALL {
                        assert!(of(isa, whole(height, width)) == all, "{isa:?} {height}x{width}");
                    }
                    let window = Window { top: 2, left: 1, height: 3, width: 3 };
                    let part: Vec<u8> = (2..5)
                        .flat_map(|y| all[(y * width + 1) * channels..][..3 * channels].to_vec())
                        .collect();
                    assert_eq!(of(Isa::detect(), window), part);
                }
            }
        }
    }

    #[test]
    fn the_same_size_changes_nothing_and_one_colour_stays() {
        let data = picture(9, 7, 3);
        let from = Pixels { data: &data, stride: 27, width: 9, height: 7, channels: 3 };
        assert_eq!(resample(from, 7, 9, whole(7, 9), Filter::Bicubic), data);
        let flat = Pixels { data: &[200; 189], ..from };
        for filter in [Filter::Bilinear, Filter::Bicubic] {
            assert!(resample(flat, 3, 20, whole(3, 20), filter).iter().all(|&v| v == 200));
        }
    }

    /// Halving is the mean of neighbours weighted 1, 3, 3, 1; at the border 3, 3, 1.
    #[test]
    fn bilinear_halving_is_worked_out() {
        let data = [0u8, 80, 160, 240];
        let from = Pixels { data: &data, stride: 4, width: 4, height: 1, channels: 1 };
        assert_eq!(resample(from, 1, 2, whole(1, 2), Filter::Bilinear), [57, 183]);
    }
}
