//! Run-time choice of the instruction set.
//!
//! A kernel is written once as plain Rust loops inside [`dispatch!`](crate::simd::dispatch), which compiles the body
//! for the baseline CPU, for AVX2 and for AVX-512 and picks one at run time. Rust never contracts `a * b + c` into a
//! fused multiply-add and never reorders floating-point sums, so all forms give the same bits: the scalar form is the
//! reference of the others.
//!
//! For the body to be compiled with the wider instructions, what it calls must be inlined into it: mark helper
//! functions `#[inline(always)]`.
//!
//! ```
//! use onnx_qat_kernels::simd::{Isa, dispatch};
//!
//! dispatch! {
//!     /// `y += a * x`.
//!     pub fn axpy(a: f32, x: &[f32], y: &mut [f32]) {
//!         for (y, &x) in y.iter_mut().zip(x) {
//!             *y += a * x;
//!         }
//!     }
//! }
//!
//! let (mut fast, mut reference) = ([1.0; 9], [1.0; 9]);
//! axpy(Isa::detect(), 0.1, &[3.0; 9], &mut fast);
//! axpy(Isa::Scalar, 0.1, &[3.0; 9], &mut reference);
//! assert_eq!(fast, reference);
//! ```

/// An instruction set that kernels are compiled for, in ascending order of width.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// What the compilation target guarantees (SSE2 on x86-64, NEON on AArch64).
    Scalar,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 F, BW, VL and DQ.
    Avx512,
}

impl Isa {
    /// Every instruction set, for tests that compare them. A kernel lowers one that the CPU lacks to the best it has.
    pub const ALL: [Isa; 3] = [Isa::Scalar, Isa::Avx2, Isa::Avx512];

    /// The widest instruction set of this CPU. The standard library caches the answer: a call costs a load.
    #[inline]
    pub fn detect() -> Isa {
        #[cfg(target_arch = "x86_64")]
        {
            use std::is_x86_feature_detected as has;
            if has!("avx2") && has!("fma") {
                if has!("avx512f") && has!("avx512bw") && has!("avx512vl") && has!("avx512dq") {
                    return Isa::Avx512;
                }
                return Isa::Avx2;
            }
        }
        Isa::Scalar
    }
}

/// Defines a function whose body is compiled once per [`Isa`](crate::simd::Isa).
///
/// The function gets an `Isa` as its first parameter, before those that are written. The generated code never runs
/// instructions that the CPU lacks: a wider `isa` than [`Isa::detect`](crate::simd::Isa::detect) is lowered to it.
/// Parameters must be plain identifiers (no patterns), and the function cannot be generic, except over lifetimes that
/// are elided.
#[macro_export]
#[doc(hidden)]
macro_rules! __dispatch {
    ($(
        $(#[$meta:meta])*
        $vis:vis fn $name:ident($($arg:ident : $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block
    )*) => {$(
        $(#[$meta])*
        #[allow(unsafe_code, clippy::too_many_arguments)]
        $vis fn $name(isa: $crate::simd::Isa, $($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($arg: $ty),*) $(-> $ret)? {
                body($($arg),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
            fn avx512($($arg: $ty),*) $(-> $ret)? {
                body($($arg),*)
            }

            match isa.min($crate::simd::Isa::detect()) {
                // SAFETY: `isa` is at most what `Isa::detect` found on this CPU.
                #[cfg(target_arch = "x86_64")]
                $crate::simd::Isa::Avx512 => unsafe { avx512($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::simd::Isa::Avx2 => unsafe { avx2($($arg),*) },
                _ => body($($arg),*),
            }
        }
    )*};
}

pub use crate::__dispatch as dispatch;

/// A vector of `f32` in a register, for kernels that must keep many sums in registers, which the compiler does not do
/// reliably for arrays. Lane by lane the same arithmetic in every form.
///
/// The wide forms may be used only inside [`dispatch_vectors!`], which runs them on a CPU that has them.
#[allow(unsafe_code)]
pub(crate) trait Vector: Copy {
    /// Number of lanes.
    const LANES: usize;
    /// A narrower vector, for what does not fill this one; the narrowest is `f32`.
    type Narrower: Vector;
    /// All lanes the same.
    fn splat(value: f32) -> Self;
    /// The values from `from` on.
    ///
    /// # Safety
    /// `from` must be valid for reads of [`LANES`](Self::LANES) values.
    unsafe fn load(from: *const f32) -> Self;
    /// Writes the lanes from `to` on.
    ///
    /// # Safety
    /// `to` must be valid for writes of [`LANES`](Self::LANES) values.
    unsafe fn store(self, to: *mut f32);
    /// `self + other`.
    fn add(self, other: Self) -> Self;
    /// `self * other`, rounded.
    fn mul(self, other: Self) -> Self;
    /// `self * factor + addend`, rounded once where the vector has such an instruction, else twice: for products, whose
    /// last bits may differ from one instruction set to another.
    fn mul_add(self, factor: Self, addend: Self) -> Self;
}

#[allow(unsafe_code)]
impl Vector for f32 {
    const LANES: usize = 1;
    type Narrower = f32;
    #[inline(always)]
    fn splat(value: f32) -> Self {
        value
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: as the caller.
        unsafe { from.read() }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as the caller.
        unsafe { to.write(self) }
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self + other
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self * other
    }
    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        self * factor + addend
    }
}

/// The form of every CPU.
#[allow(unsafe_code)]
impl Vector for [f32; 4] {
    const LANES: usize = 4;
    type Narrower = f32;
    #[inline(always)]
    fn splat(value: f32) -> Self {
        [value; 4]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: as the caller; an array is aligned like its elements.
        unsafe { from.cast::<Self>().read() }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as the caller.
        unsafe { to.cast::<Self>().write(self) }
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        std::array::from_fn(|l| self[l] + other[l])
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        std::array::from_fn(|l| self[l] * other[l])
    }
    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        std::array::from_fn(|l| self[l] * factor[l] + addend[l])
    }
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
pub(crate) mod wide {
    //! Vectors of AVX and AVX-512.
    use super::Vector;
    use std::arch::x86_64::*;

    macro_rules! vector {
        ($type:ty, $lanes:literal, $narrower:ty, $set:ident, $load:ident, $store:ident, $add:ident, $mul:ident, $mul_add:ident) => {
            // All blocks are sound as the trait allows its use only where the CPU has the instructions.
            impl Vector for $type {
                const LANES: usize = $lanes;
                type Narrower = $narrower;
                #[inline(always)]
                fn splat(value: f32) -> Self {
                    // SAFETY: see above.
                    unsafe { $set(value) }
                }
                #[inline(always)]
                unsafe fn load(from: *const f32) -> Self {
                    // SAFETY: see above; the memory is valid by contract, and may be unaligned.
                    unsafe { $load(from) }
                }
                #[inline(always)]
                unsafe fn store(self, to: *mut f32) {
                    // SAFETY: as in `load`.
                    unsafe { $store(to, self) }
                }
                #[inline(always)]
                fn add(self, other: Self) -> Self {
                    // SAFETY: see above.
                    unsafe { $add(self, other) }
                }
                #[inline(always)]
                fn mul(self, other: Self) -> Self {
                    // SAFETY: see above.
                    unsafe { $mul(self, other) }
                }
                #[inline(always)]
                fn mul_add(self, factor: Self, addend: Self) -> Self {
                    // SAFETY: see above.
                    unsafe { $mul_add(self, factor, addend) }
                }
            }
        };
    }

    vector!(
        __m256,
        8,
        [f32; 4],
        _mm256_set1_ps,
        _mm256_loadu_ps,
        _mm256_storeu_ps,
        _mm256_add_ps,
        _mm256_mul_ps,
        _mm256_fmadd_ps
    );
    vector!(
        __m512,
        16,
        __m256,
        _mm512_set1_ps,
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        _mm512_add_ps,
        _mm512_mul_ps,
        _mm512_fmadd_ps
    );
}

/// [`dispatch!`](crate::simd::dispatch) for a body that is generic over a [`Vector`] type, which becomes the widest of
/// the instruction set.
macro_rules! dispatch_vectors {
    ($(
        $(#[$meta:meta])*
        fn $name:ident<$vector:ident>($($arg:ident : $ty:ty),* $(,)?) $body:block
    )*) => {$(
        $(#[$meta])*
        #[allow(unsafe_code, clippy::too_many_arguments)]
        fn $name(isa: $crate::simd::Isa, $($arg: $ty),*) {
            #[inline(always)]
            fn body<$vector: $crate::simd::Vector>($($arg: $ty),*) $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($arg: $ty),*) {
                body::<std::arch::x86_64::__m256>($($arg),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
            fn avx512($($arg: $ty),*) {
                body::<std::arch::x86_64::__m512>($($arg),*)
            }

            match isa.min($crate::simd::Isa::detect()) {
                // SAFETY: `isa` is at most what `Isa::detect` found on this CPU.
                #[cfg(target_arch = "x86_64")]
                $crate::simd::Isa::Avx512 => unsafe { avx512($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::simd::Isa::Avx2 => unsafe { avx2($($arg),*) },
                _ => body::<[f32; 4]>($($arg),*),
            }
        }
    )*};
}
pub(crate) use dispatch_vectors;

/// Runs a block over `channels` channels in groups of 16, then 8, then 1: `lanes!(channels, c, LANES => { .. })` binds
/// the first channel of a group to `c` and its constant length to `LANES`, so that arrays of `LANES` values stay in
/// registers and every loop over them vectorizes.
macro_rules! lanes {
    ($channels:expr, $c:ident, $lanes:ident => $body:block) => {
        let channels: usize = $channels;
        let mut next = 0;
        while next + 16 <= channels {
            const $lanes: usize = 16;
            let $c = next;
            $body
            next += 16;
        }
        while next + 8 <= channels {
            const $lanes: usize = 8;
            let $c = next;
            $body
            next += 8;
        }
        while next < channels {
            const $lanes: usize = 1;
            let $c = next;
            $body
            next += 1;
        }
    };
}
pub(crate) use lanes;

/// The `N` values from `at` on, as an array.
#[inline(always)]
pub(crate) fn load<T: Copy, const N: usize>(slice: &[T], at: usize) -> &[T; N] {
    match slice[at..].first_chunk() {
        Some(values) => values,
        None => panic!("{N} values at {at} exceed a slice of {}", slice.len()),
    }
}

/// The `N` values from `at` on, as a writable array.
#[inline(always)]
pub(crate) fn load_mut<T: Copy, const N: usize>(slice: &mut [T], at: usize) -> &mut [T; N] {
    match slice[at..].first_chunk_mut() {
        Some(values) => values,
        None => panic!("{N} values at {at} exceed the slice"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    dispatch! {
        fn horner(x: &[f32], y: &mut [f32]) -> usize {
            for (y, &x) in y.iter_mut().zip(x) {
                *y = ((x * 0.3 + 0.7) * x - 0.11) * x + 1.0 / (x + 3.0);
            }
            x.len()
        }
    }

    #[test]
    fn all_instruction_sets_give_the_same_bits() {
        let x: Vec<f32> = (0..1003).map(|i| i as f32 * 0.0137).collect();
        let mut reference = vec![0.0; x.len()];
        assert_eq!(horner(Isa::Scalar, &x, &mut reference), x.len());
        for isa in Isa::ALL {
            if isa > Isa::detect() {
                println!("this CPU has no {isa:?}: {:?} is tested in its place", Isa::detect());
            }
            let mut y = vec![0.0; x.len()];
            horner(isa, &x, &mut y);
            assert_eq!(y, reference, "{isa:?}");
        }
    }
}
