//! Element-wise operators on `f32` slices, with their gradients, and comparisons and logic on bytes.
//!
//! [`math`] holds the transcendental functions as straight-line code, because calls into the C library do not
//! vectorize. All of them give the same bits whatever the instruction set and the number of threads.

mod binary;
pub mod math;
mod unary;

pub use binary::{Binary, Compare, DivisionByZero, Integer, Logic, Operand, not, select};
pub use unary::{Saved, Unary};

pub(crate) use binary::{max, min};
pub(crate) use unary::{hard_sigmoid_grad, hard_swish_grad, sign};

#[cfg(test)]
pub(crate) mod testing {
    //! Drawn data and comparisons, shared by the tests of this crate's element-wise and reduction kernels.

    /// `n` numbers uniform in `-scale..scale`, a function of `seed` alone (a 64-bit linear congruential generator).
    pub fn drawn(seed: u64, n: usize, scale: f32) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
        };
        (0..n).map(|_| next() * scale).collect()
    }

    /// Asserts `|got - want| <= tolerance * (1 + |want|)` for every element.
    pub fn close(got: &[f32], want: &[f64], tolerance: f64) {
        assert_eq!(got.len(), want.len());
        for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
            let error = (g as f64 - w).abs();
            assert!(error <= tolerance * (1.0 + w.abs()), "element {i}: got {g}, want {w}");
        }
    }

    /// The derivative of `f` along coordinate `i` of `x`, by central differences.
    pub fn slope(f: impl Fn(&[f64]) -> f64, x: &[f64], i: usize) -> f64 {
        let step = 1e-5;
        let at = |d: f64| {
            let mut x = x.to_vec();
            x[i] += d;
            f(&x)
        };
        (at(step) - at(-step)) / (2.0 * step)
    }

    /// All slopes of `f` at `x`.
    pub fn slopes(f: impl Fn(&[f64]) -> f64, x: &[f64]) -> Vec<f64> {
        (0..x.len()).map(|i| slope(&f, x, i)).collect()
    }

    /// `x` in double precision.
    pub fn wide(x: &[f32]) -> Vec<f64> {
        x.iter().map(|&x| x as f64).collect()
    }

    /// The bit patterns of `x`, all NaNs made one.
    pub fn bits(x: &[f32]) -> Vec<u32> {
        x.iter().map(|x| if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() }).collect()
    }

    /// Runs `f` on pools of 1 and of 3 threads, asserts equal results, and returns the result.
    pub fn on_any_pool<R: PartialEq + std::fmt::Debug + Send>(f: impl Fn() -> R + Sync) -> R {
        let [one, three] = [1, 3].map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
            pool.install(&f)
        });
        assert_eq!(one, three, "the result depends on the number of threads");
        one
    }
}
