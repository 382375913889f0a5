//! The inner part of blocked `f32` products: tiles of the output whose sums stay in registers.
//!
//! The structure is that of Goto and van de Geijn, *Anatomy of high-performance matrix multiplication* (ACM TOMS 34,
//! 2008): a panel of the right operand, [`depth`] rows of one tile's width, stays in the first-level cache while the
//! tiles below each other pass over it. The left operand comes in one of two forms. [`gathered`] reads it where it is,
//! through one pointer per row and run of values, as in Dukhan, *The indirect convolution algorithm* (2019), so that
//! neither patches nor packed copies of them exist. [`packed`] reads it packed, one row of a tile's height after
//! another.
#![allow(unsafe_code)]

use crate::simd::{Isa, Vector};

/// Code that is generic over the vector and the tile: `ROWS` rows of `VECTORS` vectors.
pub(crate) trait Job {
    /// Does the work. Must be `#[inline(always)]`, so that it is compiled for the instruction set.
    fn run<V: Vector, const ROWS: usize, const VECTORS: usize>(self);
}

/// Runs a job with the tile of an instruction set: as many sums as its registers hold beside the operands, and no more
/// rows than there are registers for their addresses.
pub(crate) fn dispatch<J: Job>(isa: Isa, job: J) {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn avx2<J: Job>(job: J) {
        job.run::<std::arch::x86_64::__m256, 6, 2>();
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    fn avx512<J: Job>(job: J) {
        job.run::<std::arch::x86_64::__m512, 8, 3>();
    }

    match isa.min(Isa::detect()) {
        // SAFETY: `isa` is at most what `Isa::detect` found on this CPU.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { avx512(job) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { avx2(job) },
        _ => job.run::<[f32; 4], 6, 2>(),
    }
}

/// Most columns of a tile of any instruction set.
pub(crate) const MAX_COLS: usize = 48;

/// Most values of [`depth`].
pub(crate) const MAX_DEPTH: usize = 256;

/// Rows of a panel of the right operand of `cols` columns that fit half of a first-level cache.
pub(crate) const fn depth(cols: usize) -> usize {
    if cols > 16 { 128 } else { MAX_DEPTH }
}

/// Pointer to memory that tasks write disjoint parts of.
#[derive(Clone, Copy)]
pub(crate) struct Shared(pub *mut f32);
// SAFETY: whoever makes one sees to it that tasks write disjoint parts.
unsafe impl Sync for Shared {}
// SAFETY: as above.
unsafe impl Send for Shared {}

impl Shared {
    pub fn at(self, offset: usize) -> *mut f32 {
        self.0.wrapping_add(offset)
    }
}

/// Where the rows of a tile of the output are, and what becomes of what they hold.
#[derive(Clone, Copy)]
pub(crate) struct Rows {
    /// The start of each of `count` rows.
    pub at: *const *mut f32,
    /// The first column of the tile.
    pub col: usize,
    /// How many rows the tile has.
    pub count: usize,
    /// How many columns the tile has.
    pub cols: usize,
    /// Whether the sums are added to what the rows hold, which is not read otherwise.
    pub accumulate: bool,
    /// What is added to the sums, one value per column; none where null.
    pub bias: *const f32,
}

/// A tile with the left operand in place: for `i` in `0..runs`, row `r` has `len` values at `a[i * ROWS + r]`. `b` is a
/// panel of `runs * len` rows of `vectors` vectors.
///
/// # Safety
/// All that is described must be valid: `runs * ROWS` pointers to `len` values, the panel, `rows.count` rows of
/// `rows.cols` columns, which overlap nothing else, and the bias. `vectors` is in `1..=VECTORS` and at least as wide as
/// `rows.cols`.
#[inline(always)]
pub(crate) unsafe fn gathered<V: Vector, const ROWS: usize, const VECTORS: usize>(
    vectors: usize,
    (runs, len): (usize, usize),
    a: *const *const f32,
    b: *const f32,
    rows: &Rows,
) {
    // SAFETY: as the caller.
    unsafe {
        match vectors {
            1 => finish::<V, ROWS, 1>(gathered_sums(runs, len, a, b), rows),
            2 if VECTORS > 2 => finish::<V, ROWS, 2>(gathered_sums(runs, len, a, b), rows),
            _ => finish::<V, ROWS, VECTORS>(gathered_sums(runs, len, a, b), rows),
        }
    }
}

#[inline(always)]
unsafe fn gathered_sums<V: Vector, const ROWS: usize, const VECTORS: usize>(
    runs: usize,
    len: usize,
    a: *const *const f32,
    b: *const f32,
) -> [[V; VECTORS]; ROWS] {
    let mut sums = [[V::splat(0.0); VECTORS]; ROWS];
    let (mut a, mut b) = (a, b);
    for _ in 0..runs {
        // SAFETY: as the caller of `gathered`.
        let rows: [*const f32; ROWS] = unsafe { a.cast::<[*const f32; ROWS]>().read() };
        for k in 0..len {
            // SAFETY: as the caller of `gathered`.
            unsafe { add_outer(&mut sums, |r| V::splat(*rows[r].add(k)), b) };
            b = b.wrapping_add(VECTORS * V::LANES);
        }
        a = a.wrapping_add(ROWS);
    }
    sums
}

/// A tile with the left operand in `depth` rows of `ROWS` values each, the second number of `a` apart, which in a packed panel
/// is `ROWS`; the rest is as in [`gathered`].
///
/// # Safety
/// As for [`gathered`].
#[inline(always)]
pub(crate) unsafe fn packed<V: Vector, const ROWS: usize, const VECTORS: usize>(
    vectors: usize,
    depth: usize,
    a: (*const f32, usize),
    b: *const f32,
    rows: &Rows,
) {
    // SAFETY: as the caller.
    unsafe {
        match vectors {
            1 => finish::<V, ROWS, 1>(packed_sums(depth, a, b), rows),
            2 if VECTORS > 2 => finish::<V, ROWS, 2>(packed_sums(depth, a, b), rows),
            _ => finish::<V, ROWS, VECTORS>(packed_sums(depth, a, b), rows),
        }
    }
}

#[inline(always)]
unsafe fn packed_sums<V: Vector, const ROWS: usize, const VECTORS: usize>(
    depth: usize,
    (a, step): (*const f32, usize),
    b: *const f32,
) -> [[V; VECTORS]; ROWS] {
    let mut sums = [[V::splat(0.0); VECTORS]; ROWS];
    let (mut a, mut b) = (a, b);
    for _ in 0..depth {
        // SAFETY: as the caller of `packed`.
        unsafe { add_outer(&mut sums, |r| V::splat(*a.add(r)), b) };
        a = a.wrapping_add(step);
        b = b.wrapping_add(VECTORS * V::LANES);
    }
    sums
}

/// Adds the products of a column of the left operand with the row of the right operand at `b`.
///
/// # Safety
/// `b` must be valid for reads of `VECTORS` vectors.
#[inline(always)]
unsafe fn add_outer<V: Vector, const ROWS: usize, const VECTORS: usize>(
    sums: &mut [[V; VECTORS]; ROWS],
    a: impl Fn(usize) -> V,
    b: *const f32,
) {
    // SAFETY: as the caller.
    let b: [V; VECTORS] = std::array::from_fn(|v| unsafe { V::load(b.wrapping_add(v * V::LANES)) });
    for (r, sums) in sums.iter_mut().enumerate() {
        let a = a(r);
        for (sum, &b) in sums.iter_mut().zip(&b) {
            *sum = a.mul_add(b, *sum);
        }
    }
}

/// Writes the sums of a tile.
///
/// # Safety
/// As for [`gathered`].
#[inline(always)]
unsafe fn finish<V: Vector, const ROWS: usize, const VECTORS: usize>(
    sums: [[V; VECTORS]; ROWS],
    rows: &Rows,
) {
    // The sums are only ever indexed by constants, as they would else be in memory all the time.
    if rows.count == ROWS && rows.cols == VECTORS * V::LANES {
        // SAFETY: as the caller; there are `ROWS` rows.
        let at = unsafe { rows.at.cast::<[*mut f32; ROWS]>().read() };
        for (sums, row) in sums.iter().zip(at) {
            for (v, &sum) in sums.iter().enumerate() {
                let to = row.wrapping_add(rows.col + v * V::LANES);
                // SAFETY: as the caller; the tile is a whole one.
                unsafe {
                    let mut sum = sum;
                    if rows.accumulate {
                        sum = sum.add(V::load(to));
                    }
                    if !rows.bias.is_null() {
                        sum = sum.add(V::load(rows.bias.add(v * V::LANES)));
                    }
                    sum.store(to);
                }
            }
        }
        return;
    }
    let mut tile = [[0.0; MAX_COLS]; ROWS];
    for (sums, tile) in sums.iter().zip(&mut tile) {
        for (v, &sum) in sums.iter().enumerate() {
            // SAFETY: a row of a tile has at most `MAX_COLS` columns.
            unsafe { sum.store(tile.as_mut_ptr().add(v * V::LANES)) };
        }
    }
    for (r, sums) in tile[..rows.count].iter().enumerate() {
        // SAFETY: as the caller; there are `count` rows.
        let row = unsafe { *rows.at.add(r) }.wrapping_add(rows.col);
        for (c, &sum) in sums[..rows.cols].iter().enumerate() {
            // SAFETY: as the caller: the row has `cols` columns, and the bias too.
            unsafe {
                let to = row.add(c);
                let sum = if rows.accumulate { sum + *to } else { sum };
                *to = if rows.bias.is_null() { sum } else { sum + *rows.bias.add(c) };
            }
        }
    }
}
