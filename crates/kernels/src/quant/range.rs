//! Smallest, largest and absolutely largest elements.

use super::Axis;
use crate::parallel::{self, CHUNK};
use crate::simd::{Isa, dispatch};

/// What a range statistic needs to know of some elements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Extremes {
    /// The smallest element, NaN left out; `inf` where there is none.
    pub min: f32,
    /// The largest element, NaN left out; `-inf` where there is none.
    pub max: f32,
    /// All elements are finite.
    pub finite: bool,
}

impl Extremes {
    /// The extremes of no element at all.
    pub const EMPTY: Extremes = Extremes { min: f32::INFINITY, max: f32::NEG_INFINITY, finite: true };

    /// The extremes of both sets of elements.
    pub fn merge(self, other: Extremes) -> Extremes {
        Extremes {
            min: self.min.min(other.min),
            max: self.max.max(other.max),
            finite: self.finite && other.finite,
        }
    }

    /// The largest magnitude; 0 where there is no element.
    pub fn abs_max(self) -> f32 {
        if self.min > self.max { 0.0 } else { self.max.max(-self.min) }
    }
}

/// Independent accumulators of a reduction, so that it vectorizes without reordering anything.
const LANES: usize = 32;

/// The extremes of the elements of each lane.
struct Lanes {
    min: [f32; LANES],
    max: [f32; LANES],
    /// 0 as long as all elements are finite, then NaN.
    poison: [f32; LANES],
}

impl Lanes {
    const EMPTY: Lanes =
        Lanes { min: [f32::INFINITY; LANES], max: [f32::NEG_INFINITY; LANES], poison: [0.0; LANES] };

    #[inline(always)]
    fn add(&mut self, x: &[f32; LANES]) {
        for (i, &x) in x.iter().enumerate() {
            self.min[i] = if x < self.min[i] { x } else { self.min[i] };
            self.max[i] = if x > self.max[i] { x } else { self.max[i] };
            self.poison[i] += x * 0.0;
        }
    }

    /// Adds fewer elements than there are lanes, and the first of them to all other lanes.
    #[inline(always)]
    fn add_padded(&mut self, x: &[f32]) {
        if let Some(&first) = x.first() {
            let mut padded = [first; LANES];
            padded[..x.len()].copy_from_slice(x);
            self.add(&padded);
        }
    }

    #[inline(always)]
    fn get(&self, lane: usize) -> Extremes {
        Extremes { min: self.min[lane], max: self.max[lane], finite: self.poison[lane] == 0.0 }
    }
}

dispatch! {
    fn extremes_chunk(x: &[f32]) -> Extremes {
        let mut lanes = Lanes::EMPTY;
        let (blocks, rest) = x.as_chunks::<LANES>();
        blocks.iter().for_each(|block| lanes.add(block));
        lanes.add_padded(rest);
        (0..LANES).map(|lane| lanes.get(lane)).fold(Extremes::EMPTY, Extremes::merge)
    }

    /// The first columns of the rows of `x`, which are `stride` apart: as many as `out` has elements, at most [`LANES`].
    fn extremes_columns(x: &[f32], stride: usize, out: &mut [Extremes]) {
        let mut lanes = Lanes::EMPTY;
        for row in x.chunks(stride) {
            match row.first_chunk() {
                Some(block) if out.len() == LANES => lanes.add(block),
                _ => lanes.add_padded(&row[..out.len()]),
            }
        }
        out.iter_mut().enumerate().for_each(|(lane, out)| *out = lanes.get(lane));
    }
}

/// The extremes of a whole tensor.
pub fn extremes(x: &[f32]) -> Extremes {
    let isa = Isa::detect();
    parallel::reduce(x.len(), CHUNK, |range| extremes_chunk(isa, &x[range]), Extremes::merge)
        .unwrap_or(Extremes::EMPTY)
}

/// The largest magnitude, NaN left out; 0 for an empty tensor.
pub fn abs_max(x: &[f32]) -> f32 {
    extremes(x).abs_max()
}

/// The largest magnitude as Paddle's CPU kernels find it, with `std::max_element`: NaN counts only in first place, where
/// no comparison removes it.
pub fn abs_max_paddle(x: &[f32]) -> f32 {
    if x.first().is_some_and(|x| x.is_nan()) { f32::NAN } else { abs_max(x) }
}

/// The extremes of each channel; `out` has one element per channel.
///
/// # Panics
/// When the lengths do not fit `axis`.
pub fn extremes_channels(axis: Axis, x: &[f32], out: &mut [Extremes]) {
    assert_eq!((x.len(), out.len()), (axis.len(), axis.channels), "input and output fit {axis:?}");
    let isa = Isa::detect();
    if x.is_empty() {
        out.fill(Extremes::EMPTY);
    } else if axis.inner == 1 {
        let columns = LANES * CHUNK.div_ceil(LANES * axis.outer);
        parallel::for_each_chunk(out, columns, |i, out| {
            for (block, out) in out.chunks_mut(LANES).enumerate() {
                extremes_columns(isa, &x[i * columns + block * LANES..], axis.channels, out);
            }
        });
    } else {
        parallel::for_each_element(out, axis.outer * axis.inner, |channel, out| {
            let runs = x.chunks_exact(axis.inner).skip(channel).step_by(axis.channels);
            *out = runs.map(|run| extremes_chunk(isa, run)).fold(Extremes::EMPTY, Extremes::merge);
        });
    }
}

/// The largest magnitude of each channel; `out` has one element per channel.
///
/// # Panics
/// When the lengths do not fit `axis`.
pub fn abs_max_channels(axis: Axis, x: &[f32], out: &mut [f32]) {
    let mut all = vec![Extremes::EMPTY; out.len()];
    extremes_channels(axis, x, &mut all);
    out.iter_mut().zip(all).for_each(|(out, e)| *out = e.abs_max());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naive(x: impl Iterator<Item = f32>) -> Extremes {
        x.fold(Extremes::EMPTY, |e, x| Extremes {
            min: e.min.min(x),
            max: e.max.max(x),
            finite: e.finite && x.is_finite(),
        })
    }

    #[test]
    fn extremes_of_tensors_and_channels() {
        for axis in [
            Axis { outer: 3, channels: 150, inner: 1 },
            Axis { outer: 2, channels: 3, inner: 77 },
            Axis { outer: 1, channels: 2, inner: 30_000 },
            Axis { outer: 0, channels: 2, inner: 3 },
        ] {
            let mut x: Vec<f32> = (0..axis.len()).map(|i| ((i * 7919) % 1009) as f32 - 300.0).collect();
            for special in [0.0, f32::NAN, f32::INFINITY] {
                if let Some(last) = x.last_mut() {
                    *last = special;
                }
                assert_eq!(extremes(&x), naive(x.iter().copied()));
                let mut out = vec![Extremes::EMPTY; axis.channels];
                extremes_channels(axis, &x, &mut out);
                for (channel, out) in out.iter().enumerate() {
                    let of = (0..x.len()).filter(|i| i / axis.inner % axis.channels == channel);
                    assert_eq!(*out, naive(of.map(|i| x[i])), "{axis:?} {channel}");
                }
            }
        }
    }

    #[test]
    fn instruction_sets_agree() {
        let x: Vec<f32> = (0..1003).map(|i| ((i * 7919) % 1009) as f32 - 300.0).collect();
        for isa in Isa::ALL {
            assert_eq!(extremes_chunk(isa, &x), extremes_chunk(Isa::Scalar, &x));
            for width in [LANES, 17] {
                let columns = |isa| {
                    let mut out = vec![Extremes::EMPTY; width];
                    extremes_columns(isa, &x, 59, &mut out);
                    out
                };
                assert_eq!(columns(isa), columns(Isa::Scalar));
            }
        }
    }

    #[test]
    fn magnitudes() {
        assert_eq!(abs_max(&[]), 0.0);
        assert_eq!(abs_max(&[1.0, -3.0]), 3.0);
        assert_eq!(abs_max(&[-0.0, f32::NAN]), 0.0);
        assert_eq!(abs_max_paddle(&[-2.0, f32::NAN]), 2.0);
        assert!(abs_max_paddle(&[f32::NAN, 2.0]).is_nan());
        let mut out = [0.0; 2];
        abs_max_channels(Axis { outer: 1, channels: 2, inner: 2 }, &[1.0, -2.0, 0.0, 0.5], &mut out);
        assert_eq!(out, [2.0, 0.5]);
    }
}
