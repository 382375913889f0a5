//! Products of two matrices of codes that are both known at run time only, zero points included: ONNX `MatMulInteger`.

use crate::parallel::for_each_chunk;
use crate::simd::{Isa, dispatch};

/// A row-major matrix of 8-bit codes, and its zero points: one, or one for each row on the left of a product and for each
/// column on the right.
#[derive(Clone, Copy, Debug)]
pub struct Codes<'a> {
    /// The codes; int8 as bytes.
    pub codes: &'a [u8],
    /// Codes and zero points are int8.
    pub signed: bool,
    /// The zero points; int8 as bytes.
    pub zero_points: &'a [u8],
}

impl Codes<'_> {
    /// What turns a code into an uint8 that is larger by a constant.
    fn flip(&self) -> u8 {
        if self.signed { 0x80 } else { 0 }
    }

    /// Zero point `i` of the uint8 codes.
    #[inline(always)]
    fn zero_point(&self, i: usize) -> i32 {
        let one = self.zero_points.len() == 1;
        i32::from(self.zero_points[if one { 0 } else { i }] ^ self.flip())
    }
}

/// Multiplications of a task, about.
const TASK_WORK: usize = 1 << 20;
/// Rows that share a pass over the right matrix.
const ROWS: usize = 4;

/// `y = (a - a_zero_point) (b - b_zero_point)` in int32, which wraps around on overflow; `a` `(rows, inner)`, `b`
/// `(inner, columns)`.
///
/// # Panics
/// When the lengths do not fit.
pub fn multiply([rows, inner, columns]: [usize; 3], a: Codes, b: Codes, y: &mut [i32]) {
    assert_eq!((a.codes.len(), b.codes.len(), y.len()), (rows * inner, inner * columns, rows * columns));
    assert!(a.zero_points.len() == 1 || a.zero_points.len() == rows, "zero points of {rows} rows");
    assert!(b.zero_points.len() == 1 || b.zero_points.len() == columns, "zero points of {columns} columns");
    if y.is_empty() {
        return;
    }
    let isa = Isa::detect();
    let task = (TASK_WORK / (inner * columns).max(1)).max(1).next_multiple_of(ROWS);
    for_each_chunk(y, task * columns, |i, y| {
        for (block, y) in y.chunks_mut(ROWS * columns).enumerate() {
            multiply_rows(isa, i * task + block * ROWS, inner, columns, a, b, y);
        }
    });
}

dispatch! {
    /// Rows of the product from `first` on, at most [`ROWS`].
    fn multiply_rows(first: usize, inner: usize, columns: usize, a: Codes<'_>, b: Codes<'_>, y: &mut [i32]) {
        let (flip_a, flip_b) = (a.flip(), b.flip());
        y.fill(0);
        let mut sums = [0i32; ROWS];
        let mut zeros = [0i32; ROWS];
        let rows = y.len() / columns;
        for (row, zero) in zeros.iter_mut().enumerate().take(rows) {
            *zero = a.zero_point(first + row);
        }
        for (k, b) in b.codes.chunks_exact(columns).enumerate() {
            for (row, y) in y.chunks_exact_mut(columns).enumerate() {
                let factor = i32::from(a.codes[(first + row) * inner + k] ^ flip_a) - zeros[row];
                sums[row] = sums[row].wrapping_add(factor);
                // Both factors have at most 9 bits: the compiler multiplies in 16.
                for (y, &b) in y.iter_mut().zip(b) {
                    *y = y.wrapping_add(factor * i32::from(b ^ flip_b));
                }
            }
        }
        for (y, &sum) in y.chunks_exact_mut(columns).zip(&sums) {
            for (column, y) in y.iter_mut().enumerate() {
                *y = y.wrapping_sub(b.zero_point(column).wrapping_mul(sum));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elementwise::testing::{drawn, on_any_pool};

    fn codes(seed: u64, n: usize) -> Vec<u8> {
        drawn(seed, n, 128.0).into_iter().map(|x| (x + 128.0) as u8).collect()
    }

    fn value(code: u8, signed: bool) -> i32 {
        if signed { (code as i8).into() } else { code.into() }
    }

    #[test]
    fn all_types_and_zero_points_against_the_definition() {
        for [rows, inner, columns] in [[1, 1, 1], [5, 7, 3], [9, 33, 20], [4, 0, 2], [0, 3, 2], [2, 3, 0]] {
            let (a, b) = (codes(1, rows * inner), codes(2, inner * columns));
            for (signed_a, signed_b, many) in
                [(false, false, false), (false, true, true), (true, false, false), (true, true, true)]
            {
                let zero = |seed, n| codes(seed, if many { n } else { 1 });
                let (za, zb) = (zero(3, rows), zero(4, columns));
                let mut y = vec![-1; rows * columns];
                let left = Codes { codes: &a, signed: signed_a, zero_points: &za };
                let right = Codes { codes: &b, signed: signed_b, zero_points: &zb };
                multiply([rows, inner, columns], left, right, &mut y);
                for (i, &y) in y.iter().enumerate() {
                    let (row, column) = (i / columns, i % columns);
                    let (za, zb) = (za[if many { row } else { 0 }], zb[if many { column } else { 0 }]);
                    let product = |k: usize| {
                        (value(a[row * inner + k], signed_a) - value(za, signed_a))
                            * (value(b[k * columns + column], signed_b) - value(zb, signed_b))
                    };
                    assert_eq!(y, (0..inner).map(product).sum::<i32>());
                }
            }
        }
    }

    #[test]
    fn instruction_sets_and_threads_change_nothing() {
        let [rows, inner, columns] = [70, 301, 130];
        let (a, b) = (codes(5, rows * inner), codes(6, inner * columns));
        let left = Codes { codes: &a, signed: false, zero_points: &[3] };
        let right = Codes { codes: &b, signed: true, zero_points: &[0] };
        on_any_pool(|| {
            let mut y = vec![0; rows * columns];
            multiply([rows, inner, columns], left, right, &mut y);
            y
        });
        let on = |isa| {
            let mut y = vec![0; ROWS * columns];
            multiply_rows(isa, 8, inner, columns, left, right, &mut y);
            y
        };
        assert!(Isa::ALL.iter().all(|&isa| on(isa) == on(Isa::Scalar)));
    }
}
