//! Dense `f32` matrix products, on the `gemm` crate.
//!
//! A product is cut into a grid of blocks of the output that depends on the shape alone; the blocks run on the current
//! rayon pool and each is computed by one thread. The result therefore does not depend on the number of threads. It may
//! differ in the last bits between CPU models, whose vector width and caches set the order of summation.
#![allow(unsafe_code)]

use crate::parallel;

/// A read-only matrix of `f32` over a slice, with any non-negative strides: element `(i, j)` is at
/// `i * row_stride + j * col_stride`.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Matrix<'a> {
    /// A row-major matrix `(rows, cols)` without gaps.
    ///
    /// # Panics
    /// When `data` is too short.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols, 1)
    }

    /// A matrix with the given strides, in elements. A stride may be 0, which repeats a row or a column.
    ///
    /// # Panics
    /// When an element would lie outside `data`.
    pub fn strided(data: &'a [f32], rows: usize, cols: usize, row_stride: usize, col_stride: usize) -> Self {
        let needed = extent(rows, cols, row_stride, col_stride);
        assert!(needed.is_some_and(|n| n <= data.len()), "matrix {rows} x {cols} exceeds its slice");
        Matrix { data, rows, cols, row_stride, col_stride }
    }

    /// The transposed matrix, over the same memory.
    pub fn transposed(self) -> Self {
        Matrix {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }
}

/// A writable row-major matrix of `f32` over a slice, with a row stride.
#[derive(Debug)]
pub struct MatrixMut<'a> {
    data: &'a mut [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
}

impl<'a> MatrixMut<'a> {
    /// A row-major matrix `(rows, cols)` without gaps.
    ///
    /// # Panics
    /// When `data` is too short.
    pub fn new(data: &'a mut [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// A matrix whose rows start every `row_stride` elements.
    ///
    /// # Panics
    /// When an element would lie outside `data`, or rows would overlap.
    pub fn strided(data: &'a mut [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        let needed = extent(rows, cols, row_stride, 1);
        assert!(needed.is_some_and(|n| n <= data.len()), "matrix {rows} x {cols} exceeds its slice");
        assert!(rows <= 1 || cols <= row_stride, "rows of {cols} overlap at stride {row_stride}");
        MatrixMut { data, rows, cols, row_stride }
    }
}

/// How many elements a strided matrix spans; `None` on overflow.
fn extent(rows: usize, cols: usize, row_stride: usize, col_stride: usize) -> Option<usize> {
    if rows == 0 || cols == 0 {
        return Some(0);
    }
    let last = (rows - 1).checked_mul(row_stride)?.checked_add((cols - 1).checked_mul(col_stride)?)?;
    // The backend takes signed offsets.
    last.checked_add(1).filter(|&n| isize::try_from(n).is_ok())
}

/// Multiplications in a block of a product, about: enough to hide the cost of a task and of packing the operands.
const BLOCK_WORK: usize = 4 << 20;
/// Fewest rows and most columns of a block, where the matrix allows.
const MIN_ROWS: usize = 192;
const MAX_COLS: usize = 512;

/// Rows and columns of a block of the output of a product `(m, k) x (k, n)`. Long outputs are cut by rows first, as each
/// block then packs the (smaller) right operand only. Blocks are nearly equal, and whole numbers of the 6 rows or 16
/// columns that the inner kernel computes at once.
fn block_shape(m: usize, n: usize, k: usize) -> (usize, usize) {
    let split = |len: usize, parts: usize, unit: usize| len.div_ceil(parts).next_multiple_of(unit).min(len);
    let cols = split(n, n.div_ceil(MAX_COLS), 64);
    let rows = (BLOCK_WORK / (cols * k).max(1)).max(MIN_ROWS);
    (split(m, (m / rows).max(1), 6), cols)
}

/// The output of a product, shared by the tasks that write its blocks.
struct Output(*mut f32);
// SAFETY: the tasks write disjoint blocks, see `multiply`.
unsafe impl Sync for Output {}
// SAFETY: as above.
unsafe impl Send for Output {}

impl Output {
    fn at(&self, offset: usize) -> *mut f32 {
        self.0.wrapping_add(offset)
    }
}

/// `C = alpha * A * B + beta * C`. When `beta` is 0, `C` is not read.
///
/// # Panics
/// When the shapes do not fit: `A` is `(m, k)`, `B` is `(k, n)`, `C` is `(m, n)`.
pub fn multiply(alpha: f32, a: Matrix<'_>, b: Matrix<'_>, beta: f32, c: MatrixMut<'_>) {
    let (m, k, n) = (a.rows, a.cols, b.cols);
    assert!(b.rows == k && c.rows == m && c.cols == n, "product of {m} x {k} and {} x {n}", b.rows);
    if m == 0 || n == 0 {
        return;
    }
    let (row_block, col_block) = block_shape(m, n, k);
    let col_blocks = n.div_ceil(col_block);
    let out = Output(c.data.as_mut_ptr());
    parallel::for_each(m.div_ceil(row_block) * col_blocks, |block| {
        let (i, j) = (block / col_blocks * row_block, block % col_blocks * col_block);
        let (rows, cols) = (row_block.min(m - i), col_block.min(n - j));
        let c_at = out.at(i * c.row_stride + j);
        let a_at = a.data.as_ptr().wrapping_add(i * a.row_stride);
        let b_at = b.data.as_ptr().wrapping_add(j * b.col_stride);
        // SAFETY: the constructors checked that every element of the three matrices lies in its slice, and the block
        // `i..i + rows, j..j + cols` lies inside the matrices, whose inner lengths agree. `C` is borrowed mutably, so
        // it overlaps neither `A` nor `B`; its rows do not overlap each other, so blocks of it are disjoint. Strides
        // fit `isize` because extents do; a stride that no element uses (one row or column) is only multiplied by 0.
        unsafe {
            gemm::gemm(
                rows,
                cols,
                k,
                c_at,
                1,
                c.row_stride as isize,
                beta != 0.0,
                a_at,
                a.col_stride as isize,
                a.row_stride as isize,
                b_at,
                b.col_stride as isize,
                b.row_stride as isize,
                beta,
                alpha,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
    });
}

/// `C[i] = alpha * A[i] * B[i] + beta * C[i]` for every matrix `C[i]` of `c`, which has the shape `(batch, m, n)`.
///
/// `operands(i)` gives `A[i]` and `B[i]`; it may give the same matrix more than once, which is how batch dimensions
/// broadcast. When `beta` is 0, `c` is not read.
///
/// # Panics
/// When `c` is not a whole number of `(m, n)` matrices, or operands do not fit.
pub fn multiply_batched<'a>(
    alpha: f32,
    operands: impl Fn(usize) -> (Matrix<'a>, Matrix<'a>) + Sync + Send,
    beta: f32,
    c: &mut [f32],
    m: usize,
    n: usize,
) {
    if c.is_empty() {
        return;
    }
    assert!(m * n > 0 && c.len().is_multiple_of(m * n), "output is not a batch of {m} x {n} matrices");
    parallel::for_each_chunk(c, m * n, |i, c| {
        let (a, b) = operands(i);
        multiply(alpha, a, b, beta, MatrixMut::new(c, m, n));
    });
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::reference::{Draw, assert_close, on_threads};

    fn naive(a: Matrix<'_>, b: Matrix<'_>, i: usize, j: usize) -> f64 {
        (0..a.cols)
            .map(|k| {
                let a = a.data[i * a.row_stride + k * a.col_stride];
                f64::from(a) * f64::from(b.data[k * b.row_stride + j * b.col_stride])
            })
            .sum()
    }

    #[test]
    fn products_of_all_layouts() {
        let mut draw = Draw::new(1);
        let sizes = [1, 2, 3, 5, 8, 17, 33, 70];
        let mut shapes: Vec<_> = (0..40).map(|_| [(); 3].map(|()| sizes[draw.below(sizes.len())])).collect();
        // Several blocks each way, long inner lengths, vectors, and an empty inner length.
        shapes.extend([[900, 70, 130], [20, 700, 1100], [3, 5, 3000], [1, 900, 40], [700, 1, 40], [4, 5, 0]]);
        for [m, n, k] in shapes {
            for (a_t, b_t) in [(false, false), (true, false), (false, true), (true, true)] {
                let (a_data, b_data) = (draw.values(m * k), draw.values(k * n));
                let a =
                    if a_t { Matrix::new(&a_data, k, m).transposed() } else { Matrix::new(&a_data, m, k) };
                let b =
                    if b_t { Matrix::new(&b_data, n, k).transposed() } else { Matrix::new(&b_data, k, n) };
                let (alpha, beta) = (1.5, 0.5);
                // A gap after each row must stay untouched, and what `beta` 0 overwrites may be anything.
                let ld = n + 3;
                let old = draw.values(m * ld);
                let mut accumulated = old.clone();
                multiply(alpha, a, b, beta, MatrixMut::strided(&mut accumulated, m, n, ld));
                let mut fresh = vec![f32::NAN; m * n];
                multiply(1.0, a, b, 0.0, MatrixMut::new(&mut fresh, m, n));
                for i in 0..m {
                    for j in 0..n {
                        let product = naive(a, b, i, j);
                        assert_close(fresh[i * n + j], product, k);
                        let with_old = f64::from(alpha) * product + f64::from(beta * old[i * ld + j]);
                        assert_close(accumulated[i * ld + j], with_old, k);
                    }
                    assert_eq!(accumulated[i * ld + n..(i + 1) * ld], old[i * ld + n..(i + 1) * ld]);
                }
            }
        }
    }

    #[test]
    fn batches_broadcast() {
        let mut draw = Draw::new(2);
        let (batch, m, n, k) = (5, 7, 9, 4);
        let (a, b) = (draw.values(batch * m * k), draw.values(k * n));
        let mut c = vec![f32::NAN; batch * m * n];
        let operands = |i: usize| (Matrix::new(&a[i * m * k..], m, k), Matrix::new(&b, k, n));
        multiply_batched(1.0, operands, 0.0, &mut c, m, n);
        for i in 0..batch {
            let (a, b) = operands(i);
            for (at, &c) in c[i * m * n..(i + 1) * m * n].iter().enumerate() {
                assert_close(c, naive(a, b, at / n, at % n), k);
            }
        }
    }

    #[test]
    fn the_number_of_threads_does_not_change_the_result() {
        let mut draw = Draw::new(3);
        let (m, n, k) = (1000, 600, 150);
        let (a, b) = (draw.values(m * k), draw.values(k * n));
        let product = || {
            let mut c = vec![0.0; m * n];
            multiply(1.0, Matrix::new(&a, m, k), Matrix::new(&b, k, n), 0.0, MatrixMut::new(&mut c, m, n));
            c
        };
        assert!(block_shape(m, n, k) != (m, n), "the test is about several blocks");
        assert_eq!(on_threads(1, product), on_threads(3, product));
    }

    #[test]
    #[should_panic(expected = "exceeds its slice")]
    fn short_slices_are_refused() {
        Matrix::strided(&[0.0; 10], 3, 2, 5, 1);
    }
}
