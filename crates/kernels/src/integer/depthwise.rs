//! Depthwise convolution of codes: one filter per channel.
//!
//! Every kernel position of an output position has a pointer to the channels that it meets; in the padding that is a row
//! of zero points. So all output positions are alike, and taps go two by two into the multiplication of
//! 16-bit pairs, as in [`super::product`].
#![allow(unsafe_code)]

use super::product::store_row;
use super::{Form, Store};
use crate::conv::Conv as Geometry;
use crate::parallel;
use crate::window::{Taps, runs};

/// Most kernel positions.
const MAX_TAPS: usize = 64;
/// Channels that are computed at once.
const LANES: usize = 16;

/// The filters of a depthwise convolution.
#[derive(Clone, Debug)]
pub(super) struct Filters {
    form: Form,
    geometry: Geometry,
    /// Words of two weights of 16 bits, `(pairs of kernel positions, C)`.
    words: Vec<u32>,
    /// What the padding looks like.
    padding: Vec<u8>,
}

/// How sums become results.
pub(super) struct Results<'a> {
    pub bias: &'a [i32],
    pub scale: &'a [f32],
    pub zero_point: f32,
}

impl Filters {
    /// Whether a convolution is depthwise, and small enough for this kernel.
    pub fn fit(geometry: &Geometry) -> bool {
        let Geometry { in_channels, out_channels, groups, window, .. } = *geometry;
        groups > 1 && groups == in_channels && groups == out_channels && window.kernel_len() <= MAX_TAPS
    }

    /// Packs weights `(C, 1, kh, kw)`.
    pub fn new(form: Form, geometry: Geometry, weights: &[i8], zero_point: u8) -> Filters {
        let (channels, taps) = (geometry.in_channels, geometry.window.kernel_len());
        let weight = |channel: usize, tap: usize| match tap < taps {
            true => i16::from(weights[channel * taps + tap]),
            false => 0,
        };
        let word = |i: usize| {
            let (channel, tap) = (i % channels, i / channels * 2);
            bytemuck::cast([weight(channel, tap), weight(channel, tap + 1)])
        };
        let words = (0..taps.div_ceil(2) * channels).map(word).collect();
        Filters { form, geometry, words, padding: vec![zero_point; channels] }
    }

    /// Convolves `x`, which has the length of the geometry's input, into `y`. `columns` says what each output column meets.
    pub fn run<T: Store>(&self, x: &[u8], columns: &[Taps], results: &Results<'_>, y: &mut [T]) {
        let Geometry { in_channels: channels, .. } = self.geometry;
        assert_eq!((x.len(), y.len()), (self.geometry.input_len(), self.geometry.output_len()));
        assert_eq!(columns.len(), self.geometry.window.width.output);
        assert_eq!((results.bias.len(), results.scale.len()), (channels, channels));
        assert!(self.form.available(), "{:?} on a CPU without it", self.form);
        let rows = (parallel::CHUNK / channels).max(1);
        parallel::for_each_chunk(y, rows * channels, |i, y| match self.form {
            // SAFETY: these functions need no instructions beyond those of the target.
            Form::Scalar => unsafe { self.positions::<Portable<LANES>, T>(x, columns, results, i * rows, y) },
            // SAFETY: the CPU has these instructions: every other form implies them.
            #[cfg(target_arch = "x86_64")]
            _ => unsafe { x86::positions(self, x, columns, results, i * rows, y) },
            #[cfg(not(target_arch = "x86_64"))]
            _ => unsafe { self.positions::<Portable<LANES>, T>(x, columns, results, i * rows, y) },
        });
    }

    /// Fills the output positions from `first` on that `y` has room for.
    ///
    /// # Safety
    /// The CPU has the instructions of `V`.
    #[inline(always)]
    unsafe fn positions<V: Pairs, T: Store>(
        &self,
        x: &[u8],
        columns: &[Taps],
        results: &Results<'_>,
        first: usize,
        y: &mut [T],
    ) {
        let Geometry { in_channels: channels, window, .. } = self.geometry;
        let (h, w) = (&window.height, &window.width);
        let pairs = window.kernel_len().div_ceil(2);
        let mut taps = [self.padding.as_ptr(); MAX_TAPS];
        let mut rows = y.chunks_exact_mut(channels);
        for (image, row, column, length) in runs(first, rows.len(), h.output, w.output) {
            let image = &x[image * window.input_len() * channels..][..window.input_len() * channels];
            let row = h.taps(row);
            for (column, y) in columns[column..][..length].iter().zip(&mut rows) {
                if row.count * column.count < window.kernel_len() {
                    taps[..2 * pairs].fill(self.padding.as_ptr());
                }
                for i in 0..row.count {
                    let (source, tap) = (row.source_at(i) * w.input, row.kernel_at(i) * w.kernel);
                    for j in 0..column.count {
                        let pixel = &image[(source + column.source_at(j)) * channels..][..channels];
                        taps[tap + column.kernel_at(j)] = pixel.as_ptr();
                    }
                }
                // SAFETY: each of `taps` points to the `channels` codes of a pixel of `x` or of the padding. The
                // second half of an odd pair is never written, and stays at the padding.
                unsafe {
                    if channels < V::LANES {
                        for c in 0..channels {
                            self.channels::<Portable<1>, T>(&taps, pairs, c, results, y);
                        }
                    } else {
                        // The last channels that do not fill a vector are computed with some before them, again.
                        for c in (0..channels).step_by(V::LANES) {
                            self.channels::<V, T>(&taps, pairs, c.min(channels - V::LANES), results, y);
                        }
                    }
                }
            }
        }
    }

    /// The channels from `c` on of one output position, as many as `V` has lanes.
    ///
    /// # Safety
    /// The CPU has the instructions of `V`, and each of `taps` points to codes of all channels.
    #[inline(always)]
    unsafe fn channels<V: Pairs, T: Store>(
        &self,
        taps: &[*const u8; MAX_TAPS],
        pairs: usize,
        c: usize,
        results: &Results<'_>,
        y: &mut [T],
    ) {
        let channels = self.padding.len();
        assert!(c + V::LANES <= channels && pairs * channels <= self.words.len());
        let mut out = [0i32; LANES];
        // SAFETY: `c + LANES` is at most the number of channels, which every tap and every row of words has.
        unsafe {
            let mut sums = V::zero();
            for pair in 0..pairs {
                let words = self.words.as_ptr().add(pair * channels + c);
                sums.add(taps[2 * pair].add(c), taps[2 * pair + 1].add(c), words);
            }
            sums.store(&mut out);
        }
        let Results { bias, scale, zero_point } = results;
        let lanes = c..c + V::LANES;
        store_row(&out[..V::LANES], &bias[lanes.clone()], &scale[lanes.clone()], *zero_point, &mut y[lanes]);
    }
}

/// Sums of neighbouring channels.
trait Pairs: Copy {
    /// Number of channels.
    const LANES: usize;

    /// No sums yet.
    ///
    /// # Safety
    /// The CPU has the instructions of the form.
    unsafe fn zero() -> Self;

    /// Adds the products of two taps with a word of weights for each channel.
    ///
    /// # Safety
    /// The CPU has the instructions of the form, and each pointer has `LANES` elements.
    unsafe fn add(&mut self, first: *const u8, second: *const u8, words: *const u32);

    /// Writes the sums.
    ///
    /// # Safety
    /// The CPU has the instructions of the form.
    unsafe fn store(self, to: &mut [i32; LANES]);
}

/// The reference of the other forms.
#[derive(Clone, Copy)]
struct Portable<const N: usize>([i32; N]);

impl<const N: usize> Pairs for Portable<N> {
    const LANES: usize = N;

    #[inline(always)]
    unsafe fn zero() -> Self {
        Portable([0; N])
    }

    #[inline(always)]
    unsafe fn add(&mut self, first: *const u8, second: *const u8, words: *const u32) {
        for (l, sum) in self.0.iter_mut().enumerate() {
            // SAFETY: the caller gives `LANES` elements.
            let (x, word) = unsafe { ([*first.add(l), *second.add(l)], *words.add(l)) };
            let w: [i16; 2] = bytemuck::cast(word);
            let dot = i32::from(x[0]) * i32::from(w[0]) + i32::from(x[1]) * i32::from(w[1]);
            *sum = sum.wrapping_add(dot);
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: &mut [i32; LANES]) {
        to[..N].copy_from_slice(&self.0);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Filters, LANES, Pairs, Results, Store, Taps};
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx2,fma")]
    pub fn positions<T: Store>(
        filters: &Filters,
        x: &[u8],
        columns: &[Taps],
        results: &Results<'_>,
        first: usize,
        y: &mut [T],
    ) {
        // SAFETY: this function has the features.
        unsafe { filters.positions::<Avx2, T>(x, columns, results, first, y) }
    }

    /// 16 channels.
    #[derive(Clone, Copy)]
    struct Avx2([__m256i; 2]);

    impl Pairs for Avx2 {
        const LANES: usize = LANES;

        #[inline(always)]
        unsafe fn zero() -> Self {
            // SAFETY: the caller vouches for AVX2.
            Avx2([unsafe { _mm256_setzero_si256() }; 2])
        }

        #[inline(always)]
        unsafe fn add(&mut self, first: *const u8, second: *const u8, words: *const u32) {
            // SAFETY: the caller vouches for AVX2, for 16 codes at `first` and `second` and 16 words. `vpmaddwd` is
            // exact: a product of codes is below 2^15.
            unsafe {
                let (first, second) = (_mm_loadu_si128(first.cast()), _mm_loadu_si128(second.cast()));
                let low = _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(first, second));
                let high = _mm256_cvtepu8_epi16(_mm_unpackhi_epi8(first, second));
                let low = _mm256_madd_epi16(low, _mm256_loadu_si256(words.cast()));
                let high = _mm256_madd_epi16(high, _mm256_loadu_si256(words.add(8).cast()));
                self.0 = [_mm256_add_epi32(self.0[0], low), _mm256_add_epi32(self.0[1], high)];
            }
        }

        #[inline(always)]
        unsafe fn store(self, to: &mut [i32; LANES]) {
            // SAFETY: the caller vouches for AVX2; `to` has 16 elements.
            unsafe {
                _mm256_storeu_si256(to.as_mut_ptr().cast(), self.0[0]);
                _mm256_storeu_si256(to.as_mut_ptr().add(8).cast(), self.0[1]);
            }
        }
    }
}
