//! Arithmetic on 8-bit codes: uint8 activations, int8 weights, exact int32 sums.
//!
//! A code `q` with scale `s` and zero point `z` stands for `s (q - z)`. A convolution of codes sums in int32 without any
//! rounding and rounds once at the end, as the integer kernels of runtimes do; the dequantized values, multiplied in f32,
//! would round at every addition and give another code now and then. The f32 arithmetic around the integers is that of
//! ONNX Runtime's CPU kernels, operation for operation, so that the codes are the same ones:
//!
//! | result | codes |
//! |---|---|
//! | convolution, matrix product ([`Conv`]) | `round(f32(sum) ((s_x s_w) / s_y)) + z_y`, the bias inside of `sum` |
//! | [`Add`] | `round(fma(a, s_a / s_y, fma(b, s_b / s_y, z_y - fma(s_a / s_y, z_a, (s_b / s_y) z_b))))` |
//! | [`Mul`] | `round(f32((a - z_a) (b - z_b)) ((s_a s_b) / s_y) + z_y)` |
//! | [`average`] | `round((sum of s_x (x - z_x)) / count / s_y + z_y)`, summed in f32 in the order of memory |
//! | [`global_average`] | `round(f32(sum) (s_x / (s_y count))) + z_y` |
//!
//! `round` takes halves to the even integer; the result is then saturated to the type.
//!
//! All forms of a kernel give the same bits: int32 sums have no rounding, and the rest is element by element.

mod conv;
mod depthwise;
mod elementwise;
mod matrix;
mod pool;
mod product;

pub use conv::{Conv, TrainedConv};
pub use elementwise::{Add, Affine, Mul, lookup};
pub use matrix::{Codes, multiply};
pub use pool::{average, global_average};

/// The instructions that a product of codes is computed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Plain loops.
    Scalar,
    /// `vpmaddwd` on codes widened to 16 bits. (`vpmaddubsw`, twice as fast, saturates.)
    Avx2,
    /// `vpdpbusd` on 256 bits: AVX-VNNI.
    Vnni256,
    /// `vpdpbusd` on 512 bits: AVX-512 VNNI.
    Vnni512,
}

impl Form {
    /// Every form, for tests that compare them.
    pub const ALL: [Form; 4] = [Form::Scalar, Form::Avx2, Form::Vnni256, Form::Vnni512];

    /// Whether this CPU has the instructions.
    pub fn available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            use std::is_x86_feature_detected as has;
            let avx2 = has!("avx2") && has!("fma");
            match self {
                Form::Scalar => true,
                Form::Avx2 => avx2,
                Form::Vnni256 => avx2 && has!("avxvnni"),
                Form::Vnni512 => avx2 && has!("avx512f") && has!("avx512vnni"),
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            self == Form::Scalar
        }
    }

    /// The fastest form that this CPU has.
    pub fn detect() -> Form {
        Form::ALL.into_iter().rev().find(|form| form.available()).unwrap_or(Form::Scalar)
    }
}

/// What becomes of an exact sum.
pub(crate) trait Store: Copy + Send {
    /// The result for a sum whose unit is `scale` times that of the result.
    fn store(sum: i32, scale: f32, zero_point: f32) -> Self;
}

impl Store for u8 {
    #[inline(always)]
    fn store(sum: i32, scale: f32, zero_point: f32) -> u8 {
        // Within the bounds, which are integers, rounding commutes with the clip and with the zero point.
        let steps = clip(sum as f32 * scale, -zero_point, 255.0 - zero_point);
        (nearest(steps) + zero_point as i32) as u8
    }
}

impl Store for f32 {
    #[inline(always)]
    fn store(sum: i32, scale: f32, _: f32) -> f32 {
        sum as f32 * scale
    }
}

#[cfg(test)]
impl Store for i32 {
    #[inline(always)]
    fn store(sum: i32, _: f32, _: f32) -> i32 {
        sum
    }
}

#[inline(always)]
fn clip(x: f32, low: f32, high: f32) -> f32 {
    let x = if x > low { x } else { low };
    if x < high { x } else { high }
}

/// The nearest integer, halves to even, for magnitudes below 2^22. Adding 1.5 * 2^23 leaves no bits for the fraction.
#[inline(always)]
fn nearest(x: f32) -> i32 {
    const SHIFT: f32 = 12_582_912.0;
    (x + SHIFT).to_bits() as i32 - SHIFT.to_bits() as i32
}

/// The code of a value in steps, zero point included.
#[inline(always)]
fn code(steps: f32) -> u8 {
    nearest(clip(steps, 0.0, 255.0)) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_half_to_even() {
        for i in -1020..=1020 {
            let x = i as f32 / 4.0;
            assert_eq!(nearest(x), x.round_ties_even() as i32, "{x}");
        }
    }

    #[test]
    fn codes_saturate() {
        let codes = [-1000, -3, -1, 1, 3, 1000].map(|sum| u8::store(sum, 0.5, 10.0));
        assert_eq!(codes, [0, 8, 10, 10, 12, 255]);
        assert_eq!(u8::store(i32::MAX, 1e30, 255.0), 255);
        assert_eq!(u8::store(i32::MIN, 1e30, 255.0), 0);
        assert_eq!([code(f32::INFINITY), code(-0.6), code(2.5), code(255.4)], [255, 0, 2, 255]);
    }
}
