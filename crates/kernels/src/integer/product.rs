//! Products of rows of activations with constant columns of weights, in 4-byte words.
//!
//! A word holds neighbouring codes of a row: two of them widened to 16 bits, or four of 8 bits, as the dot-product
//! instruction of the form wants them. Weights are packed once into panels, word by word for all columns of the panel:
//!
//! ```text
//! panel of 8 columns:  word 0 of columns 0..8 | word 1 of columns 0..8 | …
//! ```
//!
//! A tile of a few rows by one panel keeps all its sums in registers.
#![allow(unsafe_code)]

use super::{Form, Store};
use crate::simd::{lanes, load, load_mut};

impl Form {
    /// Codes in a word.
    pub(super) fn codes(self) -> usize {
        match self {
            Form::Scalar | Form::Avx2 => 2,
            Form::Vnni256 | Form::Vnni512 => 4,
        }
    }

    /// Columns of a vector, which are whole columns of a panel.
    fn lanes(self) -> usize {
        match self {
            Form::Scalar | Form::Avx2 | Form::Vnni256 => 8,
            Form::Vnni512 => 16,
        }
    }

    /// Columns of a full panel.
    fn columns(self) -> usize {
        PANEL_VECTORS * self.lanes()
    }

    /// Words of a row of `len` codes.
    pub(super) fn words(self, len: usize) -> usize {
        len.div_ceil(self.codes())
    }

    /// Writes `codes` into a row of words, from code `at` on.
    #[inline(always)]
    pub(super) fn put(self, row: &mut [u32], at: usize, codes: &[u8]) {
        if self.codes() == 2 {
            let halves: &mut [u16] = bytemuck::cast_slice_mut(row);
            halves[at..][..codes.len()].iter_mut().zip(codes).for_each(|(half, &code)| *half = code.into());
        } else {
            let bytes: &mut [u8] = bytemuck::cast_slice_mut(row);
            bytes[at..][..codes.len()].copy_from_slice(codes);
        }
    }

    /// Fills a row of words with one code.
    #[inline(always)]
    pub(super) fn fill(self, row: &mut [u32], code: u8) {
        row.fill(match self.codes() {
            2 => bytemuck::cast([u16::from(code); 2]),
            _ => bytemuck::cast([code; 4]),
        });
    }
}

/// Vectors of a full panel.
const PANEL_VECTORS: usize = 2;
/// Most rows and columns of a tile.
pub(super) const MAX_ROWS: usize = 12;
const MAX_COLUMNS: usize = 32;

/// Columns of weights, packed for one form.
#[derive(Clone, Copy, Debug)]
pub(super) struct Columns<'a> {
    form: Form,
    /// Number of columns.
    count: usize,
    /// Words of a column.
    words: usize,
    panels: &'a [u32],
}

impl<'a> Columns<'a> {
    /// Words of `count` packed columns of `len` weights each.
    pub fn packed_len(form: Form, count: usize, len: usize) -> usize {
        count.next_multiple_of(form.lanes()) * form.words(len)
    }

    /// Packs `count` columns of `len` weights each into `panels`; `weight(column, i)` is weight `i` of a column.
    ///
    /// # Panics
    /// When `panels` has not [`Columns::packed_len`].
    pub fn pack(
        form: Form,
        count: usize,
        len: usize,
        weight: impl Fn(usize, usize) -> i8,
        panels: &'a mut [u32],
    ) -> Columns<'a> {
        assert_eq!(panels.len(), Self::packed_len(form, count, len), "panels of {count} columns");
        let (words, lanes, codes) = (form.words(len), form.lanes(), form.codes());
        let padded = count.next_multiple_of(lanes);
        let mut rest = &mut *panels;
        for first in (0..padded).step_by(form.columns()) {
            let columns = form.columns().min(padded - first);
            let (panel, tail) = rest.split_at_mut(columns * words);
            for (word, row) in panel.chunks_exact_mut(columns).enumerate() {
                for (column, packed) in row.iter_mut().enumerate() {
                    let (column, at) = (first + column, word * codes);
                    let code = |i: usize| {
                        let inside = column < count && at + i < len;
                        if inside { weight(column, at + i) } else { 0 }
                    };
                    *packed = if codes == 2 {
                        bytemuck::cast([i16::from(code(0)), i16::from(code(1))])
                    } else {
                        bytemuck::cast([code(0), code(1), code(2), code(3)])
                    };
                }
            }
            rest = tail;
        }
        Columns { form, count, words, panels }
    }

    /// Columns that were packed before.
    pub fn packed(form: Form, count: usize, len: usize, panels: &'a [u32]) -> Columns<'a> {
        assert_eq!(panels.len(), Self::packed_len(form, count, len), "panels of {count} columns");
        Columns { form, count, words: form.words(len), panels }
    }

    /// Words of a row that is multiplied with these columns.
    pub fn words(&self) -> usize {
        self.words
    }
}

/// Where the results of a product go: `rows` rows of a matrix, from column `first` on.
pub(super) struct Target<'a, T> {
    pub y: &'a mut [T],
    pub rows: usize,
    /// Distance of the rows.
    pub stride: usize,
    /// First column.
    pub first: usize,
    /// Added to the sums, and scale of the result, for each column of the product.
    pub bias: &'a [i32],
    pub scale: &'a [f32],
    pub zero_point: f32,
}

/// `y = store(rows * columns + bias)`; `rows` are packed rows of [`Columns::words`] words.
///
/// # Panics
/// When a slice is too short, or the CPU lacks the form that the columns are packed for.
pub(super) fn multiply<T: Store>(rows: &[u32], columns: Columns<'_>, target: Target<'_, T>) {
    assert!(rows.len() >= target.rows * columns.words, "rows of a product");
    assert!(columns.form.available(), "{:?} on a CPU without it", columns.form);
    match columns.form {
        Form::Scalar => portable::<T>(rows, columns, target),
        // SAFETY: the CPU has these instructions.
        #[cfg(target_arch = "x86_64")]
        Form::Avx2 => unsafe { x86::avx2(rows, columns, target) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Form::Vnni256 => unsafe { x86::vnni256(rows, columns, target) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Form::Vnni512 => unsafe { x86::vnni512(rows, columns, target) },
        #[cfg(not(target_arch = "x86_64"))]
        _ => portable::<T>(rows, columns, target),
    }
}

fn portable<T: Store>(rows: &[u32], columns: Columns<'_>, target: Target<'_, T>) {
    // SAFETY: needs no instructions beyond those of the target.
    unsafe { blocks::<Portable<2, 8>, T, 2>(rows, columns, target) }
}

/// A vector of sums, one per column.
trait Vector: Copy {
    /// Number of sums.
    const LANES: usize;

    /// No sums yet.
    ///
    /// # Safety
    /// The CPU has the instructions of the form.
    unsafe fn zero() -> Self;

    /// Adds the dot products of a word of a row with a word of each column.
    ///
    /// # Safety
    /// The CPU has the instructions of the form, and `LANES` words can be read at `columns`.
    unsafe fn add_dot(&mut self, row: u32, columns: *const u32);

    /// Writes the sums.
    ///
    /// # Safety
    /// The CPU has the instructions of the form.
    unsafe fn store(self, to: &mut [i32]);
}

/// `CODES` codes in a word, `LANES` columns: the reference of the others.
#[derive(Clone, Copy)]
struct Portable<const CODES: usize, const LANES: usize>([i32; LANES]);

/// The codes of a word: of a row, and of a column.
#[inline(always)]
fn unpack<const CODES: usize>(row: u32, column: u32) -> ([i32; CODES], [i32; CODES]) {
    let (mut x, mut w) = ([0; CODES], [0; CODES]);
    for i in 0..CODES {
        (x[i], w[i]) = if CODES == 2 {
            let (row, column): ([i16; 2], [i16; 2]) = (bytemuck::cast(row), bytemuck::cast(column));
            (row[i].into(), column[i].into())
        } else {
            let (row, column): ([u8; 4], [i8; 4]) = (bytemuck::cast(row), bytemuck::cast(column));
            (row[i].into(), column[i].into())
        };
    }
    (x, w)
}

impl<const CODES: usize, const LANES: usize> Vector for Portable<CODES, LANES> {
    const LANES: usize = LANES;

    #[inline(always)]
    unsafe fn zero() -> Self {
        Portable([0; LANES])
    }

    #[inline(always)]
    unsafe fn add_dot(&mut self, row: u32, columns: *const u32) {
        for lane in 0..LANES {
            // SAFETY: the caller gives `LANES` words.
            let (x, w) = unpack::<CODES>(row, unsafe { *columns.add(lane) });
            for i in 0..CODES {
                self.0[lane] = self.0[lane].wrapping_add(x[i] * w[i]);
            }
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: &mut [i32]) {
        to[..LANES].copy_from_slice(&self.0);
    }
}

/// All tiles of a product, `ROWS` rows high, and single rows where fewer are left.
///
/// # Safety
/// The CPU has the instructions of `V`.
#[inline(always)]
unsafe fn blocks<V: Vector, T: Store, const ROWS: usize>(
    rows: &[u32],
    columns: Columns<'_>,
    target: Target<'_, T>,
) {
    let Target { y, rows: count, stride, first, bias, scale, zero_point } = target;
    let words = columns.words;
    let mut sums = [0i32; MAX_ROWS * MAX_COLUMNS];
    let mut rest = columns.panels;
    for panel_first in (0..columns.count).step_by(PANEL_VECTORS * V::LANES) {
        let used = (columns.count - panel_first).min(PANEL_VECTORS * V::LANES);
        let vectors = used.div_ceil(V::LANES);
        let (panel, tail) = rest.split_at(vectors * V::LANES * words);
        rest = tail;
        let (bias, scale) = (&bias[panel_first..][..used], &scale[panel_first..][..used]);
        let mut row = 0;
        while row < count {
            let height = if row + ROWS <= count { ROWS } else { 1 };
            let x = &rows[row * words..][..height * words];
            // SAFETY: the caller vouches for the instructions; `x` holds `height` rows and `panel` `vectors` vectors of
            // `words` words.
            unsafe {
                match (height == 1, vectors == 1) {
                    (true, true) => tile::<V, 1, 1>(x, panel, words, &mut sums),
                    (true, false) => tile::<V, 1, PANEL_VECTORS>(x, panel, words, &mut sums),
                    (false, true) => tile::<V, ROWS, 1>(x, panel, words, &mut sums),
                    (false, false) => tile::<V, ROWS, PANEL_VECTORS>(x, panel, words, &mut sums),
                }
            }
            for sums in sums.chunks_exact(vectors * V::LANES).take(height) {
                let y = &mut y[row * stride + first + panel_first..][..used];
                store_row(&sums[..used], bias, scale, zero_point, y);
                row += 1;
            }
        }
    }
}

/// `y = store(sums + bias)`. Works on copies of the operands, which the compiler knows not to overlap the result.
#[inline(always)]
pub(super) fn store_row<T: Store>(sums: &[i32], bias: &[i32], scale: &[f32], zero_point: f32, y: &mut [T]) {
    lanes!(y.len(), c, LANES => {
        let (sums, bias, scale): ([i32; LANES], [i32; LANES], [f32; LANES]) =
            (*load(sums, c), *load(bias, c), *load(scale, c));
        let y: &mut [T; LANES] = load_mut(y, c);
        for l in 0..LANES {
            y[l] = T::store(sums[l].wrapping_add(bias[l]), scale[l], zero_point);
        }
    });
}

/// The sums of `ROWS` rows with a panel of `VECTORS` vectors, row by row into `out`.
///
/// # Safety
/// The CPU has the instructions of `V`.
#[inline(always)]
// Rows and vectors index two arrays at once.
#[allow(clippy::needless_range_loop)]
unsafe fn tile<V: Vector, const ROWS: usize, const VECTORS: usize>(
    rows: &[u32],
    panel: &[u32],
    words: usize,
    out: &mut [i32; MAX_ROWS * MAX_COLUMNS],
) {
    assert!(rows.len() >= ROWS * words && panel.len() >= VECTORS * V::LANES * words);
    // SAFETY: the caller vouches for the instructions.
    let mut sums = [[unsafe { V::zero() }; VECTORS]; ROWS];
    let (rows, panel) = (rows.as_ptr(), panel.as_ptr());
    for word in 0..words {
        for row in 0..ROWS {
            for vector in 0..VECTORS {
                // SAFETY: the slices hold `ROWS` rows and `VECTORS` vectors of `words` words, see above.
                unsafe {
                    let x = *rows.add(row * words + word);
                    sums[row][vector].add_dot(x, panel.add((word * VECTORS + vector) * V::LANES));
                }
            }
        }
    }
    for (i, sums) in sums.iter().flatten().enumerate() {
        // SAFETY: the caller vouches for the instructions.
        unsafe { sums.store(&mut out[i * V::LANES..][..V::LANES]) };
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Columns, Store, Target, Vector, blocks};
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx2,fma")]
    pub fn avx2<T: Store>(rows: &[u32], columns: Columns<'_>, target: Target<'_, T>) {
        // SAFETY: this function has the features.
        unsafe { blocks::<Pairs, T, 6>(rows, columns, target) }
    }

    #[target_feature(enable = "avx2,fma,avxvnni")]
    pub fn vnni256<T: Store>(rows: &[u32], columns: Columns<'_>, target: Target<'_, T>) {
        // SAFETY: this function has the features.
        unsafe { blocks::<Quads, T, 6>(rows, columns, target) }
    }

    #[target_feature(enable = "avx2,fma,avx512f,avx512vnni")]
    pub fn vnni512<T: Store>(rows: &[u32], columns: Columns<'_>, target: Target<'_, T>) {
        // SAFETY: this function has the features.
        unsafe { blocks::<WideQuads, T, 12>(rows, columns, target) }
    }

    /// 8 columns, two 16-bit codes in a word.
    #[derive(Clone, Copy)]
    struct Pairs(__m256i);

    impl Vector for Pairs {
        const LANES: usize = 8;

        #[inline(always)]
        unsafe fn zero() -> Self {
            // SAFETY: the caller vouches for the instructions.
            Pairs(unsafe { _mm256_setzero_si256() })
        }

        #[inline(always)]
        unsafe fn add_dot(&mut self, row: u32, columns: *const u32) {
            // SAFETY: the caller vouches for AVX2 and for 8 words at `columns`. A product of codes is below 2^15 and a
            // sum of two below 2^16: `vpmaddwd` is exact.
            unsafe {
                let columns = _mm256_loadu_si256(columns.cast());
                let dot = _mm256_madd_epi16(_mm256_set1_epi32(row as i32), columns);
                self.0 = _mm256_add_epi32(self.0, dot);
            }
        }

        #[inline(always)]
        unsafe fn store(self, to: &mut [i32]) {
            let to = &mut to[..8];
            // SAFETY: the caller vouches for AVX2; `to` has 8 elements.
            unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), self.0) }
        }
    }

    /// 8 columns, four 8-bit codes in a word.
    #[derive(Clone, Copy)]
    struct Quads(__m256i);

    impl Vector for Quads {
        const LANES: usize = 8;

        #[inline(always)]
        unsafe fn zero() -> Self {
            // SAFETY: the caller vouches for the instructions.
            Quads(unsafe { _mm256_setzero_si256() })
        }

        #[inline(always)]
        unsafe fn add_dot(&mut self, row: u32, columns: *const u32) {
            // SAFETY: the caller vouches for AVX-VNNI and for 8 words at `columns`. The first factor is taken as
            // unsigned, the second as signed; `vpdpbusd` (unlike `vpdpbusds`) does not saturate.
            unsafe {
                let columns = _mm256_loadu_si256(columns.cast());
                self.0 = _mm256_dpbusd_avx_epi32(self.0, _mm256_set1_epi32(row as i32), columns);
            }
        }

        #[inline(always)]
        unsafe fn store(self, to: &mut [i32]) {
            let to = &mut to[..8];
            // SAFETY: the caller vouches for AVX2; `to` has 8 elements.
            unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), self.0) }
        }
    }

    /// 16 columns, four 8-bit codes in a word.
    #[derive(Clone, Copy)]
    struct WideQuads(__m512i);

    impl Vector for WideQuads {
        const LANES: usize = 16;

        #[inline(always)]
        unsafe fn zero() -> Self {
            // SAFETY: the caller vouches for the instructions.
            WideQuads(unsafe { _mm512_setzero_si512() })
        }

        #[inline(always)]
        unsafe fn add_dot(&mut self, row: u32, columns: *const u32) {
            // SAFETY: the caller vouches for AVX-512 VNNI and for 16 words at `columns`; see `Quads`.
            unsafe {
                let columns = _mm512_loadu_si512(columns.cast());
                self.0 = _mm512_dpbusd_epi32(self.0, _mm512_set1_epi32(row as i32), columns);
            }
        }

        #[inline(always)]
        unsafe fn store(self, to: &mut [i32]) {
            let to = &mut to[..16];
            // SAFETY: the caller vouches for AVX-512; `to` has 16 elements.
            unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), self.0) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::Draw;

    /// Sums of a product by its definition, and by `multiply` or, where the CPU lacks the form, by plain loops over
    /// words packed for it.
    fn check(form: Form, draw: &mut Draw, count: usize, columns: usize, len: usize) {
        // The extreme codes are drawn often: they are where instructions saturate.
        let x: Vec<u8> =
            (0..count * len).map(|_| [0, 255, 255, draw.below(256) as u8][draw.below(4)]).collect();
        let w: Vec<i8> = (0..columns * len)
            .map(|_| [-128, 127, 127, draw.below(256) as u8 as i8][draw.below(4)])
            .collect();
        let bias: Vec<i32> = (0..columns).map(|_| draw.below(2000) as i32 - 1000).collect();
        let scale = vec![1.0; columns];
        let mut panels = vec![u32::MAX; Columns::packed_len(form, columns, len)];
        let packed = Columns::pack(form, columns, len, |c, i| w[c * len + i], &mut panels);
        let words = packed.words();
        let mut rows = vec![u32::MAX; count * words];
        for (row, x) in rows.chunks_exact_mut(words).zip(x.chunks_exact(len)) {
            // What follows the last code does not matter: it meets zeros.
            form.put(row, 0, x);
        }
        let stride = columns + 3;
        let mut y = vec![-7; count * stride];
        let target =
            Target { y: &mut y, rows: count, stride, first: 2, bias: &bias, scale: &scale, zero_point: 0.0 };
        if form.available() {
            multiply(&rows, packed, target);
        } else {
            // SAFETY: needs no special instructions.
            unsafe {
                match form {
                    Form::Vnni512 => blocks::<Portable<4, 16>, i32, 12>(&rows, packed, target),
                    Form::Vnni256 => blocks::<Portable<4, 8>, i32, 6>(&rows, packed, target),
                    _ => blocks::<Portable<2, 8>, i32, 6>(&rows, packed, target),
                }
            }
        }
        for (r, y) in y.chunks_exact(stride).enumerate() {
            for (c, &y) in y.iter().enumerate() {
                let expected = if (2..columns + 2).contains(&c) {
                    let (x, w) = (&x[r * len..][..len], &w[(c - 2) * len..][..len]);
                    let products = x.iter().zip(w).map(|(&x, &w)| i32::from(x) * i32::from(w));
                    products.sum::<i32>() + bias[c - 2]
                } else {
                    -7
                };
                assert_eq!(y, expected, "{form:?} {count}x{columns}x{len} at {r}, {c}");
            }
        }
    }

    #[test]
    fn every_form_is_exact() {
        for form in Form::ALL {
            if !form.available() {
                println!(
                    "this CPU has no {form:?}: its packing is tested with plain loops, its instructions are not"
                );
            }
            let mut draw = Draw::new(3);
            for (rows, columns, len) in
                [(1, 1, 1), (6, 16, 2), (12, 32, 4), (13, 33, 5), (7, 8, 27), (25, 40, 64)]
            {
                check(form, &mut draw, rows, columns, len);
            }
            for _ in 0..60 {
                let (rows, columns, len) = (1 + draw.below(30), 1 + draw.below(50), 1 + draw.below(40));
                check(form, &mut draw, rows, columns, len);
            }
        }
    }
}
