//! Transcendental functions without branches or table look-ups, so that loops over them vectorize.
//!
//! Polynomials interpolate the function at Chebyshev nodes of the stated interval, computed in double precision. Relative
//! errors are at most 3e-7 against double precision, where the result is a normal number. NaN gives NaN.

/// `c[0] + c[1] x + c[2] x^2 + ...`
#[inline(always)]
fn polynomial<const N: usize>(x: f32, c: [f32; N]) -> f32 {
    c[..N - 1].iter().rev().fold(c[N - 1], |sum, &c| sum * x + c)
}

/// `log(2)` in two parts: multiples of the first by integers below 2^15 are exact.
const LN2: (f32, f32) = (0.693_359_4, -2.121_944_4e-4);

/// Adding and subtracting this rounds a number below 2^22 to the nearest integer, which its low bits then hold.
const ROUNDER: f32 = 12_582_912.0;

/// `x = n log(2) + r` with an integer `n`, `|r| <= log(2) / 2`; returns `n` and `exp(r) - 1`.
#[inline(always)]
fn reduced_exp(x: f32) -> (i32, f32) {
    const C: [f32; 6] = [0.5, 0.16666667, 0.041666456, 0.0083333105, 0.0013934541, 0.0001989198];
    // The clamp keeps `n` within the two factors of `times_power_of_two`; both bounds are beyond the range of f32.
    let x = if x > 89.0 { 89.0 } else { x };
    let x = if x < -104.0 { -104.0 } else { x };
    let rounded = x * std::f32::consts::LOG2_E + ROUNDER;
    let n = rounded - ROUNDER;
    let r = (x - n * LN2.0) - n * LN2.1;
    (rounded.to_bits().wrapping_sub(ROUNDER.to_bits()) as i32, r + r * r * polynomial(r, C))
}

/// `x 2^n` for `n` in `-252..=254`, in two steps so that subnormal results and overflow come out right.
#[inline(always)]
fn times_power_of_two(x: f32, n: i32) -> f32 {
    let power = |n: i32| f32::from_bits((n.wrapping_add(127) as u32) << 23);
    let half = n >> 1;
    x * power(half) * power(n.wrapping_sub(half))
}

/// `e^x`.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let (n, r) = reduced_exp(x);
    times_power_of_two(1.0 + r, n)
}

/// `e^x - 1`, accurate near 0 as well.
#[inline(always)]
pub fn exp_m1(x: f32) -> f32 {
    let (n, r) = reduced_exp(x);
    let far = times_power_of_two(1.0 + r, n) - 1.0;
    if n == 0 { r } else { far }
}

/// The natural logarithm. `log(0)` is minus infinity, that of a negative number NaN.
#[inline(always)]
pub fn log(x: f32) -> f32 {
    const C: [f32; 9] = [
        0.3333333,
        -0.24999997,
        0.20000716,
        -0.16667803,
        0.14249058,
        -0.12425687,
        0.1168542,
        -0.11479734,
        0.06971612,
    ];
    // Subnormal numbers are scaled into the normal range first.
    let subnormal = x < f32::MIN_POSITIVE;
    let bits = (if subnormal { x * 8_388_608.0 } else { x }).to_bits();
    // x = m 2^e with m in sqrt(1/2)..sqrt(2).
    let e = (bits.wrapping_sub(std::f32::consts::FRAC_1_SQRT_2.to_bits()) as i32) >> 23;
    let f = f32::from_bits(bits.wrapping_sub((e as u32) << 23)) - 1.0;
    let e = e as f32 - if subnormal { 23.0 } else { 0.0 };
    let z = f * f;
    let tail = f * z * polynomial(f, C) + e * LN2.1 - 0.5 * z;
    let y = (f + tail) + e * LN2.0;
    let y = if x == f32::INFINITY { x } else { y };
    let y = if x > 0.0 { y } else { f32::NAN };
    if x == 0.0 { f32::NEG_INFINITY } else { y }
}

/// The logistic function `1 / (1 + e^-x)`.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The hyperbolic tangent.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    const C: [f32; 5] = [-0.33333328, 0.1333277, -0.053850908, 0.02099718, -0.006096714];
    let a = x.abs();
    let z = x * x;
    let near = x + x * z * polynomial(z, C);
    let far = (1.0 - 2.0 / (exp(2.0 * a) + 1.0)).copysign(x);
    if a < 0.625 { near } else { far }
}

/// The error function.
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    /// `erf(x) / x` as a function of `x^2` in 0..1.
    const NEAR: [f32; 7] = [
        std::f32::consts::FRAC_2_SQRT_PI,
        -0.37612626,
        0.11283594,
        -0.026854211,
        0.0051890872,
        -0.00080168643,
        7.875875e-5,
    ];
    /// `log(1 - erf(x))` on 1..4; beyond, the result rounds to 1.
    const FAR: [f32; 9] = [
        0.00032013806,
        -1.1302334,
        -0.63182604,
        -0.110080086,
        0.026421135,
        -0.004759596,
        0.00059680565,
        -4.605804e-5,
        1.6371514e-6,
    ];
    let a = x.abs();
    let near = x * polynomial(x * x, NEAR);
    let far = (1.0 - exp(polynomial(if a > 4.0 { 4.0 } else { a }, FAR))).copysign(x);
    if a < 1.0 { near } else { far }
}

/// `log(1 + e^x)`.
#[inline(always)]
pub fn softplus(x: f32) -> f32 {
    /// `log(1 + u) = 2 atanh(s)`, `s = u / (2 + u)`, by its Taylor series in `s^2`, which is at most 1/9.
    const C: [f32; 8] = [2.0, 2.0 / 3.0, 2.0 / 5.0, 2.0 / 7.0, 2.0 / 9.0, 2.0 / 11.0, 2.0 / 13.0, 2.0 / 15.0];
    let u = exp(-x.abs());
    let s = u / (2.0 + u);
    let positive = if x < 0.0 { 0.0 } else { x };
    positive + s * polynomial(s * s, C)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The largest relative error of `f` against `want` on `points`; where the wanted value is tiny, the absolute
    /// error in units of the smallest normal number.
    fn error(f: fn(f32) -> f32, want: impl Fn(f64) -> f64, points: impl Iterator<Item = f32>) -> f64 {
        let error = |x: f32| {
            let want = want(x as f64);
            (f(x) as f64 - want).abs() / want.abs().max(f32::MIN_POSITIVE as f64)
        };
        points.map(error).fold(0.0, f64::max)
    }

    fn points(from: f32, to: f32) -> impl Iterator<Item = f32> {
        (0..=200_000).map(move |i| from + (to - from) * (i as f32 / 200_000.0))
    }

    /// Numbers of all magnitudes and of one sign, subnormal ones included.
    fn magnitudes(sign: f32) -> impl Iterator<Item = f32> {
        (1..255 * 128).map(move |i| sign * f32::from_bits(i * 65_536 + 12_345))
    }

    /// The error function by its Taylor series, or by the continued fraction of its complement.
    pub(crate) fn erf_f64(x: f64) -> f64 {
        let a = x.abs();
        let series = || {
            let (mut term, mut sum) = (a, 0.0);
            for k in 0..80 {
                sum += term / (2 * k + 1) as f64;
                term *= -a * a / (k + 1) as f64;
            }
            sum * std::f64::consts::FRAC_2_SQRT_PI
        };
        let fraction = || {
            let tail = (1..=200).rev().fold(0.0, |tail, k| 0.5 * k as f64 / (a + tail));
            1.0 - (-a * a).exp() / (a + tail) * 0.5 * std::f64::consts::FRAC_2_SQRT_PI
        };
        (if a < 2.0 { series() } else { fraction() }).copysign(x)
    }

    #[test]
    fn errors_against_double_precision() {
        assert!(error(exp, f64::exp, points(-87.3, 88.7)) < 2e-7);
        assert!(error(exp, f64::exp, points(-1.0, 1.0)) < 2e-7);
        assert!(error(exp_m1, f64::exp_m1, points(-20.0, 88.0)) < 3e-7);
        assert!(error(exp_m1, f64::exp_m1, points(-1.0, 1.0)) < 3e-7);
        assert!(error(log, f64::ln, magnitudes(1.0)) < 2e-7);
        assert!(error(log, f64::ln, points(0.5, 2.0)) < 2e-7);
        assert!(error(sigmoid, |x| 1.0 / (1.0 + (-x).exp()), points(-87.0, 87.0)) < 3e-7);
        assert!(error(tanh, f64::tanh, points(-20.0, 20.0)) < 2e-7);
        assert!(error(tanh, f64::tanh, points(-1.0, 1.0)) < 2e-7);
        assert!(error(erf, erf_f64, points(-5.0, 5.0)) < 3e-7);
        assert!(error(softplus, |x| x.max(0.0) + (-x.abs()).exp().ln_1p(), points(-87.0, 100.0)) < 3e-7);
        for sign in [1.0, -1.0] {
            assert!(error(tanh, f64::tanh, magnitudes(sign)) < 2e-7);
            assert!(error(erf, erf_f64, magnitudes(sign).filter(|x| x.abs() < 30.0)) < 3e-7);
            assert!(error(exp_m1, f64::exp_m1, magnitudes(sign).filter(|&x| x < 88.0)) < 3e-7);
        }
    }

    #[test]
    fn ends_of_the_range() {
        const INF: f32 = f32::INFINITY;
        for f in [exp, exp_m1, log, sigmoid, tanh, erf, softplus] {
            assert!(f(f32::NAN).is_nan());
        }
        assert_eq!([exp(0.0), exp(-INF), exp(INF), exp(89.0), exp(-104.0)], [1.0, 0.0, INF, INF, 0.0]);
        assert!((exp(-100.0) / 3.7835e-44 - 1.0).abs() < 0.02, "subnormal results are kept");
        assert_eq!([exp_m1(0.0), exp_m1(-INF), exp_m1(INF)], [0.0, -1.0, INF]);
        assert_eq!([log(1.0), log(0.0), log(-0.0), log(INF)], [0.0, -INF, -INF, INF]);
        assert!(log(-1.0).is_nan() && log(-INF).is_nan());
        assert_eq!([sigmoid(0.0), sigmoid(-INF), sigmoid(INF)], [0.5, 0.0, 1.0]);
        assert_eq!(
            [tanh(0.0), tanh(-INF), tanh(INF), erf(0.0), erf(-INF), erf(INF)],
            [0.0, -1.0, 1.0, 0.0, -1.0, 1.0]
        );
        assert_eq!([softplus(-INF), softplus(INF)], [0.0, INF]);
    }
}
