//! Gradients of [`fake_quantize`](super::fake_quantize) with respect to its scale: learned step sizes (LSQ, Esser et al. 2020,
//! arXiv 1902.08153) and the end of the range below zero (LSQ+, Bhalgat et al. 2020, arXiv 2004.09576).

use super::arithmetic::Grid;
use super::sweep::{Axis, Scales};
use crate::parallel::{self, CHUNK};
use crate::simd::{Isa, dispatch};

/// Which end of the range stays where it is while the scale changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// The zero point: `y = (q - z) * s` (LSQ).
    ZeroPoint,
    /// The value of the lowest code, an offset `b` that is learned too: `y = (q - low) * s + b` (LSQ+).
    LowestCode,
}

/// Independent accumulators of the sums over elements.
const LANES: usize = 16;

/// One scale: its step, its zero point, and the codes that saturated elements have from the anchor on.
#[derive(Clone, Copy)]
struct Channel {
    scale: f32,
    zero_point: f32,
    codes: [f32; 2],
    saturated: [f32; 2],
}

/// Derivatives of one element's result by scale and offset. Between its neighbours, rounding counts as the identity.
#[inline(always)]
fn element(at: Channel, x: f32) -> [f32; 2] {
    let steps = x / at.scale;
    let rounded = steps.round_ties_even();
    let code = rounded + at.zero_point;
    if code < at.codes[0] {
        [at.saturated[0], 1.0]
    } else if code > at.codes[1] {
        [at.saturated[1], 1.0]
    } else {
        [rounded - steps, 0.0]
    }
}

#[inline(always)]
fn add_lanes(at: Channel, x: &[f32], dy: &[f32], scale: &mut [f64], offset: &mut [f64]) {
    for (((&x, &dy), scale), offset) in x.iter().zip(dy).zip(scale).zip(offset) {
        let [by_scale, by_offset] = element(at, x);
        *scale += (dy * by_scale) as f64;
        *offset += (dy * by_offset) as f64;
    }
}

dispatch! {
    /// The sums over a run of elements with one scale.
    fn sums(at: Channel, x: &[f32], dy: &[f32]) -> [f64; 2] {
        let (mut scale, mut offset) = ([0.0f64; LANES], [0.0f64; LANES]);
        let ((x, x_rest), (dy, dy_rest)) = (x.as_chunks::<LANES>(), dy.as_chunks::<LANES>());
        for (x, dy) in x.iter().zip(dy) {
            add_lanes(at, x, dy, &mut scale, &mut offset);
        }
        add_lanes(at, x_rest, dy_rest, &mut scale, &mut offset);
        [scale.iter().sum(), offset.iter().sum()]
    }
}

/// Gradients of ONNX's quantization and dequantization with respect to scale and offset, one pair per scale, for the gradient
/// `dy` of its result. With `v = x / s`, elements of codes inside the grid contribute `dy * (round(v) - v)` to that of the scale;
/// saturated ones contribute their code, counted from the [`Anchor`], and `dy` to that of the offset.
///
/// Sums are taken in `f64` over runs of fixed size: any number of threads gives the same bits.
///
/// # Panics
/// When the slices have not the length of `axis`, or there is neither one scale nor one per channel.
pub fn scale_gradients(
    grid: Grid,
    anchor: Anchor,
    axis: Axis,
    scales: Scales<'_>,
    x: &[f32],
    dy: &[f32],
) -> Vec<[f32; 2]> {
    assert_eq!(
        (x.len(), dy.len()),
        (axis.len(), axis.len()),
        "input and gradient have the length of {axis:?}"
    );
    let (isa, codes) = (Isa::detect(), [grid.low as f32, grid.high as f32]);
    let channel = |i: usize| {
        let zero_point = scales.zero_point(i);
        let origin = match anchor {
            Anchor::ZeroPoint => zero_point,
            Anchor::LowestCode => codes[0],
        };
        Channel { scale: scales.scale(i), zero_point, codes, saturated: codes.map(|code| code - origin) }
    };
    let add = |[a, b]: [f64; 2], [c, d]: [f64; 2]| [a + c, b + d];
    if scales.per_tensor() {
        let run = |range: std::ops::Range<usize>| sums(isa, channel(0), &x[range.clone()], &dy[range]);
        let total = parallel::reduce(x.len(), CHUNK, run, add).unwrap_or_default();
        return vec![total.map(|sum| sum as f32)];
    }
    assert_eq!(scales.len(), axis.channels, "one scale per channel of {axis:?}");
    let mut gradients = vec![[0.0; 2]; axis.channels];
    parallel::for_each_element(&mut gradients, axis.outer * axis.inner, |i, gradient| {
        let run = |block: usize| {
            let first = (block * axis.channels + i) * axis.inner;
            sums(isa, channel(i), &x[first..][..axis.inner], &dy[first..][..axis.inner])
        };
        *gradient = (0..axis.outer).map(run).fold([0.0; 2], add).map(|sum| sum as f32);
    });
    gradients
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::quant::{Quantizer, fake_quantize};

    /// Elements on both sides of both ends of the range.
    fn drawn(len: usize) -> (Vec<f32>, Vec<f32>) {
        let x = (0..len).map(|i| ((i * 37) % 1009) as f32 * 0.0101 - 5.0).collect();
        let dy = (0..len).map(|i| ((i * 17) % 101) as f32 * 0.013 - 0.6).collect();
        (x, dy)
    }

    /// Where all elements saturate, the result is linear in scale and offset: the gradient is its slope.
    #[test]
    fn saturated_elements_have_the_slope_of_the_range() {
        let (grid, x, dy) = (Grid::U8, [-90.0, 70.0, -60.0], [1.0f32, 10.0, 100.0]);
        let sum = |s: f32, z: i32| {
            let mut y = [0.0; 3];
            let scales = (&[s], &[z]);
            fake_quantize(
                Quantizer::onnx(grid),
                Axis::whole(3),
                Scales::affine(scales.0, scales.1),
                &x,
                &mut y,
            );
            y.iter().zip(dy).map(|(y, dy)| (y * dy) as f64).sum::<f64>()
        };
        let gradients = |anchor| {
            scale_gradients(grid, anchor, Axis::whole(3), Scales::affine(&[0.125], &[100]), &x, &dy)[0]
        };
        let h = 0.0078125; // 2^-7
        let slope = (sum(0.125 + h, 100) - sum(0.125 - h, 100)) / (2.0 * h as f64);
        assert_eq!(gradients(Anchor::ZeroPoint)[0] as f64, slope);
        // The lowest code stands for b = (low - z) * s. With b fixed, z = low - b / s: 100 steps of 1/8 are 50 of 1/4.
        let slope = (sum(0.25, 50) - sum(0.125, 100)) / 0.125;
        assert_eq!(gradients(Anchor::LowestCode)[0] as f64, slope);
        let slope = (sum(0.125, 99) - sum(0.125, 100)) / 0.125;
        assert_eq!(gradients(Anchor::LowestCode)[1] as f64, slope);
    }

    #[test]
    fn elements_inside_contribute_their_rounding() {
        let (x, dy) = ([0.3, -0.3, 0.5], [1.0, 10.0, 100.0]);
        let scales = Scales::symmetric(&[1.0]);
        let found = scale_gradients(Grid::I8, Anchor::ZeroPoint, Axis::whole(3), scales, &x, &dy)[0];
        assert!((found[0] - (-0.3 + 3.0 - 50.0)).abs() < 1e-5, "{found:?}");
        assert_eq!(found[1], 0.0);
    }

    #[test]
    fn channels_are_on_their_own() {
        let axis = Axis { outer: 3, channels: 4, inner: 5 };
        let (x, dy) = drawn(axis.len());
        let scale = [0.01, 0.05, 0.5, 2.0];
        let grid = Grid::I8_NARROW;
        let found = scale_gradients(grid, Anchor::ZeroPoint, axis, Scales::symmetric(&scale), &x, &dy);
        for (c, found) in found.iter().enumerate() {
            let of = |all: &[f32]| -> Vec<f32> {
                all.iter().enumerate().filter(|(i, _)| i / 5 % 4 == c).map(|(_, &v)| v).collect()
            };
            let scales = Scales::symmetric(&scale[c..=c]);
            let alone =
                scale_gradients(grid, Anchor::ZeroPoint, Axis::whole(15), scales, &of(&x), &of(&dy))[0];
            assert!((found[0] - alone[0]).abs() <= 1e-5 * alone[0].abs(), "{c}: {found:?} {alone:?}");
        }
    }

    #[test]
    fn instruction_sets_and_thread_counts_agree() {
        let (x, dy) = drawn(40_003);
        let at = Channel { scale: 0.02, zero_point: 90.0, codes: [0.0, 255.0], saturated: [-90.0, 165.0] };
        assert!(Isa::ALL.iter().all(|&isa| sums(isa, at, &x, &dy) == sums(Isa::Scalar, at, &x, &dy)));
        let threads = |n| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
            let scales = Scales::affine(&[0.02], &[90]);
            pool.install(|| {
                scale_gradients(Grid::U8, Anchor::LowestCode, Axis::whole(x.len()), scales, &x, &dy)
            })
        };
        assert_eq!(threads(1), threads(3));
    }
}
