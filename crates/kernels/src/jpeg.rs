//! The arithmetic of JPEG behind its entropy coding, on integers, byte for byte as libjpeg and libjpeg-turbo compute it by
//! default: the "islow" inverse transform (`jidctint.c`), "fancy" upsampling (`jdsample.c`), YCbCr to RGB (`jdcolor.c`).

use crate::simd::dispatch;
use std::num::Wrapping;

type Int = Wrapping<i32>;

/// Fraction bits of the constants, and those that the first pass leaves in.
const CONST_BITS: usize = 13;
const PASS1_BITS: usize = 2;

/// One pass over eight transforms at once: `x[k][lane]` is coefficient `k`; `shift` bits are rounded away.
#[inline(always)]
fn pass(x: &[[Int; 8]; 8], shift: usize) -> [[Int; 8]; 8] {
    let mut out = [[Wrapping(0); 8]; 8];
    let w = |v: i32| Wrapping(v);
    for i in 0..8 {
        let (z2, z3) = (x[2][i], x[6][i]);
        let z1 = (z2 + z3) * w(4433);
        let (t2, t3) = (z1 - z3 * w(15137), z1 + z2 * w(6270));
        let (t0, t1) = ((x[0][i] + x[4][i]) << CONST_BITS, (x[0][i] - x[4][i]) << CONST_BITS);
        let even = [t0 + t3, t1 + t2, t1 - t2, t0 - t3];

        let (t0, t1, t2, t3) = (x[7][i], x[5][i], x[3][i], x[1][i]);
        let z5 = (t0 + t2 + t1 + t3) * w(9633);
        let (z1, z2) = ((t0 + t3) * w(-7373), (t1 + t2) * w(-20995));
        let (z3, z4) = ((t0 + t2) * w(-16069) + z5, (t1 + t3) * w(-3196) + z5);
        let odd = [
            t3 * w(12299) + z1 + z4,
            t2 * w(25172) + z2 + z3,
            t1 * w(16819) + z2 + z4,
            t0 * w(2446) + z1 + z3,
        ];

        let half = w(1 << (shift - 1));
        for k in 0..4 {
            out[k][i] = (even[k] + odd[k] + half) >> shift;
            out[7 - k][i] = (even[k] - odd[k] + half) >> shift;
        }
    }
    out
}

#[inline(always)]
fn transposed(x: &[[Int; 8]; 8]) -> [[Int; 8]; 8] {
    let mut out = [[Wrapping(0); 8]; 8];
    for (i, row) in x.iter().enumerate() {
        for (j, &v) in row.iter().enumerate() {
            out[j][i] = v;
        }
    }
    out
}

#[inline(always)]
fn sample(v: i32) -> u8 {
    (v + 128).clamp(0, 255) as u8
}

dispatch! {
    /// The inverse transform of a block: 64 coefficients times their steps, row by row in natural order, to 8 rows of `out`
    /// that begin `stride` bytes apart.
    ///
    /// # Panics
    /// When `out` is too short.
    pub fn inverse_dct(coefficients: &[i16; 64], steps: &[u16; 64], out: &mut [u8], stride: usize) {
        let mut x = [[Wrapping(0); 8]; 8];
        for (k, row) in x.iter_mut().enumerate() {
            for (i, v) in row.iter_mut().enumerate() {
                *v = Wrapping(coefficients[8 * k + i] as i32 * steps[8 * k + i] as i32);
            }
        }
        // Columns, then rows; the last transposition brings rows back.
        let columns = pass(&x, CONST_BITS - PASS1_BITS);
        let rows = transposed(&pass(&transposed(&columns), CONST_BITS + PASS1_BITS + 3));
        for (y, row) in rows.iter().enumerate() {
            let out = &mut out[y * stride..][..8];
            for (o, v) in out.iter_mut().zip(row) {
                *o = sample(v.0.clamp(-1024, 1024));
            }
        }
    }

    /// Twice as many rows: a row of sums between `near` and the next row, `far`, which weighs a third of it. Four times the
    /// values, for [`double_columns`].
    pub fn between_rows(near: &[u8], far: &[u8], out: &mut [u16]) {
        for ((o, &n), &f) in out.iter_mut().zip(near).zip(far) {
            *o = 3 * n as u16 + f as u16;
        }
    }

    /// Twice as many columns of a row that has a neighbour in front and one behind: `out` has two values for each of `row` but
    /// those. The values of `row` count `1 << shift` times; `round` is added for the left and the right one of the two.
    pub fn double_columns(row: &[u16], shift: u32, round: [u16; 2], out: &mut [u8]) {
        let pairs = out.as_chunks_mut::<2>().0.iter_mut();
        for (pair, w) in pairs.zip(row.windows(3)) {
            let this = 3 * w[1];
            *pair = [((this + w[0] + round[0]) >> shift) as u8, ((this + w[2] + round[1]) >> shift) as u8];
        }
    }

    /// A row of pixels from its three components.
    pub fn ycc_to_rgb(y: &[u8], cb: &[u8], cr: &[u8], out: &mut [u8]) {
        const HALF: i32 = 1 << 15;
        let pixels = out.as_chunks_mut::<3>().0.iter_mut();
        for (((pixel, &y), &cb), &cr) in pixels.zip(y).zip(cb).zip(cr) {
            let (y, cb, cr) = (y as i32, cb as i32 - 128, cr as i32 - 128);
            let r = y + ((91881 * cr + HALF) >> 16);
            let g = y + ((-22554 * cb - 46802 * cr + HALF) >> 16);
            let b = y + ((116130 * cb + HALF) >> 16);
            *pixel = [r.clamp(0, 255) as u8, g.clamp(0, 255) as u8, b.clamp(0, 255) as u8];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Isa;

    fn noise(seed: u32) -> impl FnMut() -> u32 {
        let mut s = seed;
        move || {
            s = s.wrapping_mul(1664525).wrapping_add(1013904223);
            s >> 8
        }
    }

    /// The transform of the standard (ITU-T T.81, A.3.3) in f64.
    fn exact(coefficients: &[i16; 64], steps: &[u16; 64]) -> Vec<f64> {
        let c = |k: usize| if k == 0 { 0.5f64.sqrt() } else { 1.0 };
        let cos = |x: usize, u: usize| ((2 * x + 1) as f64 * u as f64 * std::f64::consts::PI / 16.0).cos();
        (0..64)
            .map(|p| {
                let (y, x) = (p / 8, p % 8);
                let term = |k: usize| {
                    let (v, u) = (k / 8, k % 8);
                    c(u) * c(v) * (coefficients[k] as f64 * steps[k] as f64) * cos(x, u) * cos(y, v) / 4.0
                };
                (128.0 + (0..64).map(term).sum::<f64>()).clamp(0.0, 255.0)
            })
            .collect()
    }

    #[test]
    fn the_transform_is_that_of_the_standard_on_every_instruction_set() {
        let mut next = noise(1);
        for round in 0..50 {
            let steps: [u16; 64] = std::array::from_fn(|_| 1 + next() as u16 % 20);
            let coefficients: [i16; 64] = std::array::from_fn(|k| match k < 1 + round {
                true => next() as i16 % (1 + 60 / (1 + k as i16)),
                false => 0,
            });
            let mut rows = [[0u8; 80]; 3];
            for (isa, out) in Isa::ALL.into_iter().zip(&mut rows) {
                inverse_dct(isa, &coefficients, &steps, out, 10);
            }
            assert!(rows[0] == rows[1] && rows[0] == rows[2]);
            for (p, e) in exact(&coefficients, &steps).into_iter().enumerate() {
                let found = rows[0][p / 8 * 10 + p % 8] as f64;
                assert!((found - e).abs() <= 1.0, "{found} for {e}");
            }
        }
    }

    #[test]
    fn extreme_coefficients_do_not_panic() {
        for c in [i16::MIN, i16::MAX] {
            inverse_dct(Isa::Scalar, &[c; 64], &[u16::MAX; 64], &mut [0; 64], 8);
        }
    }

    #[test]
    fn colours_and_upsampling_on_every_instruction_set() {
        let mut next = noise(2);
        let mut bytes = |n: usize| (0..n).map(|_| next() as u8).collect::<Vec<u8>>();
        let (y, cb, cr) = (bytes(77), bytes(77), bytes(77));
        let of = |isa| {
            let (mut rgb, mut sums, mut double) = (vec![0; 231], vec![0u16; 77], vec![0; 150]);
            ycc_to_rgb(isa, &y, &cb, &cr, &mut rgb);
            between_rows(isa, &cb, &cr, &mut sums);
            double_columns(isa, &sums, 4, [8, 7], &mut double);
            (rgb, sums, double)
        };
        assert!(of(Isa::Avx2) == of(Isa::Scalar) && of(Isa::Avx512) == of(Isa::Scalar));
        let mut rgb = [0; 12];
        ycc_to_rgb(Isa::Scalar, &[76, 150, 29, 90], &[85, 44, 255, 128], &[255, 21, 107, 128], &mut rgb);
        assert_eq!(rgb, [254, 0, 0, 0, 255, 1, 0, 0, 254, 90, 90, 90]);
    }
}
