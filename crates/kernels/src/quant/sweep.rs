//! Sweeps over whole tensors, per tensor or per channel, parallel in chunks of fixed size.

use super::arithmetic::{Quantizer, clip, with_arithmetic};
use crate::parallel::{self, CHUNK};
use crate::simd::{Isa, dispatch};

/// A tensor seen from one of its axes: `outer` blocks of `channels` runs of `inner` elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Axis {
    /// Product of the dimensions before the axis.
    pub outer: usize,
    /// The dimension of the axis.
    pub channels: usize,
    /// Product of the dimensions after the axis.
    pub inner: usize,
}

impl Axis {
    /// The tensor of `shape` seen from `axis`; `None` when it has no such axis.
    pub fn of(shape: &[usize], axis: usize) -> Option<Axis> {
        let channels = *shape.get(axis)?;
        Some(Axis {
            outer: shape[..axis].iter().product(),
            channels,
            inner: shape[axis + 1..].iter().product(),
        })
    }

    /// `len` elements that share one channel.
    pub fn whole(len: usize) -> Axis {
        Axis { outer: 1, channels: 1, inner: len }
    }

    /// Number of elements.
    pub fn len(self) -> usize {
        self.outer * self.channels * self.inner
    }

    /// No elements at all.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// Scales and zero points, one per channel or one for all channels.
#[derive(Clone, Copy, Debug)]
pub struct Scales<'a> {
    scale: &'a [f32],
    zero_point: &'a [i32],
}

impl<'a> Scales<'a> {
    /// Scales without zero points: symmetric quantization.
    pub fn symmetric(scale: &'a [f32]) -> Scales<'a> {
        Scales { scale, zero_point: &[] }
    }

    /// Scales with as many zero points.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn affine(scale: &'a [f32], zero_point: &'a [i32]) -> Scales<'a> {
        assert_eq!(scale.len(), zero_point.len(), "one zero point per scale");
        Scales { scale, zero_point }
    }

    /// One scale for the whole tensor.
    pub fn per_tensor(self) -> bool {
        self.scale.len() == 1
    }

    /// How many there are.
    pub(super) fn len(self) -> usize {
        self.scale.len()
    }

    #[inline(always)]
    pub(super) fn scale(self, channel: usize) -> f32 {
        self.scale[channel]
    }

    #[inline(always)]
    pub(super) fn zero_point(self, channel: usize) -> f32 {
        if self.zero_point.is_empty() { 0.0 } else { self.zero_point[channel] as f32 }
    }
}

/// A chunk of a tensor: the axis it is seen from, the scales along that axis, and the index of its first element.
#[derive(Clone, Copy)]
struct Place<'a> {
    axis: Axis,
    scales: Scales<'a>,
    first: usize,
}

/// `out[i] = f(scale, zero point, i)` with the scale and zero point of element `i` of the chunk.
#[inline(always)]
fn fill<T>(place: Place<'_>, out: &mut [T], f: impl Fn(f32, f32, usize) -> T) {
    let Place { axis: Axis { channels, inner, .. }, scales, first } = place;
    let mut at = 0;
    while at < out.len() {
        let (channel, offset) = ((first + at) / inner % channels, (first + at) % inner);
        let end = if scales.per_tensor() {
            out.len()
        } else if inner == 1 {
            out.len().min(at + channels - channel)
        } else {
            out.len().min(at + inner - offset)
        };
        let run = &mut out[at..end];
        if !scales.per_tensor() && inner == 1 {
            // Neighbours belong to different channels: the scales are read along with the elements.
            let scale = &scales.scale[channel..][..run.len()];
            if scales.zero_point.is_empty() {
                run.iter_mut().zip(scale).enumerate().for_each(|(i, (out, &s))| *out = f(s, 0.0, at + i));
            } else {
                let zero = &scales.zero_point[channel..][..run.len()];
                let pairs = scale.iter().zip(zero);
                run.iter_mut()
                    .zip(pairs)
                    .enumerate()
                    .for_each(|(i, (out, (&s, &z)))| *out = f(s, z as f32, at + i));
            }
        } else {
            let channel = if scales.per_tensor() { 0 } else { channel };
            let (s, z) = (scales.scale[channel], scales.zero_point(channel));
            run.iter_mut().enumerate().for_each(|(i, out)| *out = f(s, z, at + i));
        }
        at = end;
    }
}

/// Checks the lengths and runs `f(place, the chunk's part of x, chunk of out)` over all chunks.
fn chunks<T: Sync, U: Send>(
    axis: Axis,
    scales: Scales<'_>,
    x: &[T],
    out: &mut [U],
    f: impl Fn(Place<'_>, &[T], &mut [U]) + Sync + Send,
) {
    assert_eq!(
        (x.len(), out.len()),
        (axis.len(), axis.len()),
        "input and output have the length of {axis:?}"
    );
    let count = scales.scale.len();
    assert!(count == 1 || count == axis.channels, "{count} scales for {axis:?}");
    parallel::for_each_chunk(out, CHUNK, |i, out| {
        let first = i * CHUNK;
        f(Place { axis, scales, first }, &x[first..][..out.len()], out);
    });
}

/// The lowest byte of an integer held in floating point, at most 2^22 in magnitude; 0 for NaN. `as i8` does not vectorize.
#[inline(always)]
pub(super) fn low_byte(q: f32) -> u8 {
    // At 1.5 * 2^23 one unit in the last place is 1, so the low bits of the sum are the two's complement of `q`.
    let q = if q.is_nan() { 0.0 } else { q };
    (q + 12_582_912.0).to_bits() as u8
}

macro_rules! sweeps {
    ($(
        $(#[$meta:meta])*
        $name:ident, $chunk:ident: $from:ty => $to:ty, |$a:ident, $s:ident, $z:ident, $x:ident| $body:expr;
    )*) => {$(
        dispatch! {
            fn $chunk(quantizer: Quantizer, place: Place<'_>, x: &[$from], out: &mut [$to]) {
                // Equal lengths, said so that the loop needs no bounds checks.
                let x = &x[..out.len()];
                with_arithmetic!(quantizer, $a => fill(place, out, |$s, $z, i| {
                    let $x = x[i];
                    $body
                }))
            }
        }

        $(#[$meta])*
        ///
        /// # Panics
        /// When the slices have not the length of `axis`, or there is neither one scale nor one per channel.
        pub fn $name(quantizer: Quantizer, axis: Axis, scales: Scales<'_>, x: &[$from], out: &mut [$to]) {
            chunks(axis, scales, x, out, |place, x, out| $chunk(Isa::detect(), quantizer, place, x, out));
        }
    )*};
}

sweeps! {
    /// `x` in steps of the grid, before rounding and before the zero point: what [`quantize_f32`] rounds.
    unrounded, unrounded_chunk: f32 => f32, |a, s, _z, x| a.steps(s, x);

    /// Codes of `x`, kept in floating point as Paddle's operators do. NaN stays NaN.
    quantize_f32, quantize_f32_chunk: f32 => f32, |a, s, z, x| a.code(s, z, x);

    /// Codes of `x` as `int8`. NaN becomes 0, codes outside `int8` saturate.
    quantize_i8, quantize_i8_chunk: f32 => i8, |a, s, z, x| low_byte(clip(a.code(s, z, x), -128.0, 127.0)) as i8;

    /// Codes of `x` as `uint8`. NaN becomes 0, codes outside `uint8` saturate.
    quantize_u8, quantize_u8_chunk: f32 => u8, |a, s, z, x| low_byte(clip(a.code(s, z, x), 0.0, 255.0));

    /// The values of codes in floating point.
    dequantize_f32, dequantize_f32_chunk: f32 => f32, |a, s, z, q| a.value(s, z, q);

    /// The values of `int8` codes.
    dequantize_i8, dequantize_i8_chunk: i8 => f32, |a, s, z, q| a.value(s, z, q as f32);

    /// The values of `uint8` codes.
    dequantize_u8, dequantize_u8_chunk: u8 => f32, |a, s, z, q| a.value(s, z, q as f32);

    /// The values of `int32` codes, as biases have them; rounded to `f32` first, as ONNX Runtime does.
    dequantize_i32, dequantize_i32_chunk: i32 => f32, |a, s, z, q| a.value(s, z, q as f32);

    /// Quantizes and dequantizes: the real number that remains of `x` after a trip through its code.
    ///
    /// The usual gradient is the straight-through estimator: that of the output, unchanged (Bengio et al. 2013; all
    /// of Paddle's operators), or [`straight_through_clipped`].
    fake_quantize, fake_quantize_chunk: f32 => f32, |a, s, z, x| a.value(s, z, a.code(s, z, x));
}

dispatch! {
    fn straight_through_chunk(quantizer: Quantizer, place: Place<'_>, x: &[f32], dy: &[f32], dx: &mut [f32]) {
        let (x, dy) = (&x[..dx.len()], &dy[..dx.len()]);
        with_arithmetic!(quantizer, a => fill(place, dx, |s, z, i| if a.inside(s, z, x[i]) { dy[i] } else { 0.0 }))
    }
}

/// Gradient of [`fake_quantize`] that stops where the output no longer follows the input: `dx = dy` where `x` has a code
/// without saturating, else 0.
///
/// # Panics
/// When the slices have not the length of `axis`, or there is neither one scale nor one per channel.
pub fn straight_through_clipped(
    quantizer: Quantizer,
    axis: Axis,
    scales: Scales<'_>,
    x: &[f32],
    dy: &[f32],
    dx: &mut [f32],
) {
    assert_eq!(dy.len(), dx.len(), "both gradients have the length of {axis:?}");
    chunks(axis, scales, x, dx, |place, x, dx| {
        let dy = &dy[place.first..][..dx.len()];
        straight_through_chunk(Isa::detect(), quantizer, place, x, dy, dx);
    });
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::quant::{Grid, Round};

    fn quantizers() -> Vec<Quantizer> {
        vec![
            Quantizer::onnx(Grid::U8),
            Quantizer::onnx(Grid::I8_NARROW),
            Quantizer::paddle(8, Round::HalfAway).unwrap(),
            Quantizer::paddle(4, Round::HalfEven).unwrap(),
            Quantizer::paddle_freeze(8, true).unwrap(),
            Quantizer::paddle_freeze(8, false).unwrap(),
        ]
    }

    /// Values on, beside and far from ties of the scales below, with the specials at the end.
    fn input(len: usize) -> Vec<f32> {
        let mut x: Vec<f32> =
            (0..len).map(|i| (i as f32 - len as f32 / 2.0) * 0.125 + (i % 3) as f32 * 1e-6).collect();
        if let [.., a, b, c] = x.as_mut_slice() {
            (*a, *b, *c) = (f32::NAN, f32::INFINITY, -0.0);
        }
        x
    }

    fn same(a: &[f32], b: &[f32]) -> bool {
        a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()))
    }

    #[test]
    fn sweeps_do_to_each_element_what_the_quantizer_does() {
        let scale = [0.5, 0.25, 3.0, 1e-7, 0.0];
        let zero = [3, 0, 128, 1, 7];
        for axis in [
            Axis { outer: 7, channels: 5, inner: 1 },
            Axis { outer: 3, channels: 5, inner: 9 },
            Axis { outer: 1, channels: 5, inner: 5000 },
            Axis { outer: 4000, channels: 5, inner: 1 },
            Axis::whole(40_001),
        ] {
            let count = if axis.channels == 5 { 5 } else { 1 };
            let x = input(axis.len());
            for q in quantizers() {
                for (scales, zero) in [
                    (Scales::affine(&scale[..count], &zero[..count]), zero),
                    (Scales::symmetric(&scale[..count]), [0; 5]),
                ] {
                    let of = |i: usize| {
                        (scale[i / axis.inner % axis.channels], zero[i / axis.inner % axis.channels])
                    };
                    let codes: Vec<f32> =
                        x.iter().enumerate().map(|(i, &x)| q.code(of(i).0, of(i).1, x)).collect();
                    let values: Vec<f32> =
                        codes.iter().enumerate().map(|(i, &c)| q.value(of(i).0, of(i).1, c)).collect();
                    let mut out = vec![0.0; x.len()];
                    quantize_f32(q, axis, scales, &x, &mut out);
                    assert!(same(&out, &codes), "{q:?} {axis:?}");
                    fake_quantize(q, axis, scales, &x, &mut out);
                    assert!(same(&out, &values), "{q:?} {axis:?}");
                    dequantize_f32(q, axis, scales, &codes, &mut out);
                    assert!(same(&out, &values), "{q:?} {axis:?}");

                    let (mut i8s, mut u8s) = (vec![0; x.len()], vec![0; x.len()]);
                    quantize_i8(q, axis, scales, &x, &mut i8s);
                    assert!(i8s.iter().zip(&codes).all(|(&a, &b)| a == b as i8), "{q:?} {axis:?}");
                    quantize_u8(q, axis, scales, &x, &mut u8s);
                    assert!(u8s.iter().zip(&codes).all(|(&a, &b)| a == b as u8), "{q:?} {axis:?}");
                }
            }
        }
    }

    #[test]
    fn unrounded_steps() {
        let mut out = [0.0; 3];
        let scales = Scales::affine(&[0.5], &[7]);
        unrounded(Quantizer::onnx(Grid::I8), Axis::whole(3), scales, &[1.0, -0.125, 900.0], &mut out);
        assert_eq!(out, [2.0, -0.25, 1800.0]);
        unrounded(
            Quantizer::paddle_freeze(8, true).unwrap(),
            Axis::whole(3),
            scales,
            &[0.25, -0.125, 900.0],
            &mut out,
        );
        assert_eq!(out, [63.5, -31.75, 127.0]);
    }

    #[test]
    fn integer_codes_come_back() {
        let q = Quantizer::onnx(Grid::U8);
        let (axis, scales) = (Axis { outer: 1, channels: 2, inner: 2 }, Scales::affine(&[0.5, 2.0], &[1, 0]));
        let mut out = [0.0; 4];
        dequantize_u8(q, axis, scales, &[0, 1, 2, 255], &mut out);
        assert_eq!(out, [-0.5, 0.0, 4.0, 510.0]);
        dequantize_i8(q, axis, scales, &[-3, 1, 2, 127], &mut out);
        assert_eq!(out, [-2.0, 0.0, 4.0, 254.0]);
        dequantize_i32(q, axis, scales, &[1 << 20, 1, -2, 1000], &mut out);
        assert_eq!(out, [524287.5, 0.0, -4.0, 2000.0]);
    }

    #[test]
    fn instruction_sets_agree() {
        let axis = Axis { outer: 3, channels: 37, inner: 1 };
        let (scale, zero): (Vec<f32>, Vec<i32>) = (0..37).map(|i| (0.01 + i as f32 * 0.1, i)).unzip();
        let (x, dy) = (input(axis.len()), vec![1.5; axis.len()]);
        for q in quantizers() {
            for inner in [1, 5] {
                let axis = Axis { inner, ..axis };
                let place = Place { axis, scales: Scales::affine(&scale, &zero), first: 11 };
                let run = |isa| {
                    let (mut y, mut dx, mut i8s) = (vec![0.0; x.len()], vec![0.0; x.len()], vec![0; x.len()]);
                    fake_quantize_chunk(isa, q, place, &x, &mut y);
                    straight_through_chunk(isa, q, place, &x, &dy, &mut dx);
                    quantize_i8_chunk(isa, q, place, &x, &mut i8s);
                    (y, dx, i8s)
                };
                let reference = run(Isa::Scalar);
                for isa in Isa::ALL {
                    let (y, dx, i8s) = run(isa);
                    assert!(
                        same(&y, &reference.0) && same(&dx, &reference.1) && i8s == reference.2,
                        "{isa:?} {q:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn clipped_gradient_stops_outside_the_grid() {
        let (axis, scales) = (Axis::whole(5), Scales::affine(&[1.0], &[128]));
        let mut dx = [0.0; 5];
        let x = [-128.5, -128.6, 0.0, 127.4, 127.5];
        straight_through_clipped(Quantizer::onnx(Grid::U8), axis, scales, &x, &[2.0; 5], &mut dx);
        assert_eq!(dx, [2.0, 0.0, 2.0, 2.0, 0.0]);
    }

    #[test]
    fn empty_tensors_are_fine() {
        let axis = Axis::of(&[3, 0, 4], 0).unwrap();
        fake_quantize(Quantizer::onnx(Grid::U8), axis, Scales::symmetric(&[1.0; 3]), &[], &mut []);
        assert_eq!(Axis::of(&[3, 0, 4], 3), None);
    }
}
