//! Multidirectional broadcasting as in NumPy and ONNX: shapes are aligned at their last dimension, and a dimension of 1,
//! or a missing one, repeats.
//!
//! A [`Broadcast`] is computed once from shapes. It merges dimensions that behave alike, so that the common cases become
//! plain loops: equal shapes are one run; a bias `(C)` against `(N, H, W, C)` is a tile of `N H W` rows; the gates
//! `(N, 1, 1, C)` of a squeeze-and-excitation block are one tile per image. Running it allocates nothing.

use crate::parallel::{CHUNK, for_each_chunk};
use std::fmt;

/// Shapes that do not broadcast together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BroadcastError {
    /// The shapes.
    pub shapes: Vec<Vec<usize>>,
}

impl fmt::Display for BroadcastError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shapes")?;
        for (i, shape) in self.shapes.iter().enumerate() {
            let separator = ["", " and"][usize::from(i > 0 && i + 1 == self.shapes.len())];
            write!(f, "{separator} {shape:?}")?;
        }
        write!(f, " do not broadcast together")
    }
}

impl std::error::Error for BroadcastError {}

/// The shape that `shapes` broadcast to.
///
/// # Errors
/// When two dimensions differ and neither is 1.
pub fn broadcast_shape(shapes: &[&[usize]]) -> Result<Vec<usize>, BroadcastError> {
    let rank = shapes.iter().map(|s| s.len()).max().unwrap_or(0);
    let mut output = vec![1; rank];
    for shape in shapes {
        for (out, &dim) in output[rank - shape.len()..].iter_mut().zip(*shape) {
            if *out != dim && *out != 1 && dim != 1 {
                return Err(BroadcastError { shapes: shapes.iter().map(|s| s.to_vec()).collect() });
            }
            if dim != 1 {
                *out = dim;
            }
        }
    }
    Ok(output)
}

/// A plan for an element-wise operator of `K` operands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broadcast<const K: usize> {
    shape: Vec<usize>,
    lens: [usize; K],
    /// Merged dimensions except the last two, outermost first, and the operands' strides along them.
    outer: Vec<(usize, [usize; K])>,
    rows: usize,
    row_strides: [usize; K],
    inner: usize,
    inner_strides: [usize; K],
}

/// A piece of a broadcast result: `rows * inner` consecutive elements of it, and where their operands are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tile<const K: usize> {
    /// Where the tile starts in the result.
    pub start: usize,
    /// Where it starts in each operand.
    pub at: [usize; K],
    /// Number of rows.
    pub rows: usize,
    /// Distance of consecutive rows in each operand.
    pub row_strides: [usize; K],
    /// Elements of a row.
    pub inner: usize,
    /// Distance of consecutive elements in each operand: 1, or 0 where one element fills the row.
    pub inner_strides: [usize; K],
}

impl<const K: usize> Tile<K> {
    /// The elements of operand `k` that row `row` reads: `inner` of them, or a single one where it repeats.
    ///
    /// # Panics
    /// When `operand` is shorter than its shape says.
    #[inline(always)]
    pub fn row<'a, T>(&self, k: usize, operand: &'a [T], row: usize) -> &'a [T] {
        let len = if self.inner_strides[k] == 0 { 1 } else { self.inner };
        &operand[self.at[k] + row * self.row_strides[k]..][..len]
    }
}

impl<const K: usize> Broadcast<K> {
    /// Plans for operands of `shapes`.
    ///
    /// # Errors
    /// When the shapes do not broadcast together.
    pub fn new(shapes: [&[usize]; K]) -> Result<Broadcast<K>, BroadcastError> {
        Ok(Broadcast::with_shape(shapes, broadcast_shape(&shapes)?))
    }

    /// Plans for a result of `shape`, which `shapes` are known to broadcast to.
    fn with_shape(shapes: [&[usize]; K], shape: Vec<usize>) -> Broadcast<K> {
        let rank = shape.len();
        let mut strides = vec![[0; K]; rank];
        for (k, operand) in shapes.iter().enumerate() {
            let mut stride = 1;
            for (i, &dim) in operand.iter().enumerate().rev() {
                strides[rank - operand.len() + i][k] = if dim == 1 { 0 } else { stride };
                stride *= dim;
            }
        }
        let mut dims: Vec<(usize, [usize; K])> = Vec::with_capacity(rank);
        for (&dim, &stride) in shape.iter().zip(&strides).filter(|(dim, _)| **dim != 1) {
            match dims.last_mut() {
                // One step of the dimension outside equals `dim` steps of this one, for every operand.
                Some((n, outer)) if (0..K).all(|k| outer[k] == stride[k] * dim) => {
                    *n *= dim;
                    *outer = stride;
                }
                _ => dims.push((dim, stride)),
            }
        }
        let (inner, inner_strides) = dims.pop().unwrap_or((1, [1; K]));
        let (rows, row_strides) = dims.pop().unwrap_or((1, [0; K]));
        let lens = shapes.map(|s| s.iter().product());
        Broadcast { shape, lens, outer: dims, rows, row_strides, inner, inner_strides }
    }

    /// The shape of the result.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of elements of the result.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// The result has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of elements of operand `k`.
    pub fn operand_len(&self, k: usize) -> usize {
        self.lens[k]
    }

    /// Whether operand `k` has the shape of the result, up to dimensions of 1.
    pub fn is_full(&self, k: usize) -> bool {
        self.lens[k] == self.len()
    }

    /// Calls `f(tile, part)` for tiles that cover `out`; `part` is the tile's piece of it.
    ///
    /// # Panics
    /// When `out` is not as long as the result.
    pub fn run<T: Send>(&self, out: &mut [T], f: impl Fn(&Tile<K>, &mut [T]) + Sync + Send) {
        assert_eq!(out.len(), self.len(), "output of a broadcast to {:?}", self.shape);
        if out.is_empty() {
            return;
        }
        if self.rows == 1 && self.outer.is_empty() {
            return for_each_chunk(out, CHUNK, |i, part| {
                let at = self.inner_strides.map(|s| i * CHUNK * s);
                f(&Tile { start: i * CHUNK, at, rows: 1, inner: part.len(), ..self.tile() }, part);
            });
        }
        let rows_per_chunk = (CHUNK / self.inner).max(1);
        for_each_chunk(out, rows_per_chunk * self.inner, |i, mut part| {
            let mut row = i * rows_per_chunk;
            while !part.is_empty() {
                let rows = (self.rows - row % self.rows).min(part.len() / self.inner);
                let (head, tail) = part.split_at_mut(rows * self.inner);
                f(&Tile { start: row * self.inner, at: self.row_offsets(row), rows, ..self.tile() }, head);
                part = tail;
                row += rows;
            }
        });
    }

    fn tile(&self) -> Tile<K> {
        let Broadcast { rows, row_strides, inner, inner_strides, .. } = *self;
        Tile { start: 0, at: [0; K], rows, row_strides, inner, inner_strides }
    }

    /// Where row number `row` of the whole result starts in each operand.
    fn row_offsets(&self, row: usize) -> [usize; K] {
        let mut at = self.row_strides.map(|s| row % self.rows * s);
        let mut rest = row / self.rows;
        for (dim, strides) in self.outer.iter().rev() {
            for k in 0..K {
                at[k] += rest % dim * strides[k];
            }
            rest /= dim;
        }
        at
    }
}

impl Broadcast<1> {
    /// Plans to repeat an operand of shape `from` to the shape that it and `to` broadcast to, as `Expand` does.
    ///
    /// # Errors
    /// When the shapes do not broadcast together.
    pub fn to(from: &[usize], to: &[usize]) -> Result<Broadcast<1>, BroadcastError> {
        Ok(Broadcast::with_shape([from], broadcast_shape(&[from, to])?))
    }

    /// Plans to repeat a reduced shape of equal rank over the dimensions where it is 1.
    pub(crate) fn spread(reduced: &[usize], to: &[usize]) -> Broadcast<1> {
        debug_assert!(reduced.iter().zip(to).all(|(&r, &d)| r == 1 || r == d));
        Broadcast::with_shape([reduced], to.to_vec())
    }

    /// Copies `x`, repeated to the shape of the result: `Expand`, and the gradient of a sum.
    ///
    /// # Panics
    /// When a slice has not the planned length.
    pub fn expand<T: Copy + Send + Sync>(&self, x: &[T], y: &mut [T]) {
        assert_eq!(x.len(), self.operand_len(0));
        self.run(y, |tile, y| {
            for (row, y) in y.chunks_exact_mut(tile.inner).enumerate() {
                match tile.row(0, x, row) {
                    [x] => y.fill(*x),
                    x => y.copy_from_slice(x),
                }
            }
        });
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::elementwise::testing::on_any_pool;

    /// Position in an operand of `shape` for position `at` of a result of shape `full`.
    pub(crate) fn source(mut at: usize, full: &[usize], shape: &[usize]) -> usize {
        let mut coordinates = vec![0; full.len()];
        for (c, &d) in coordinates.iter_mut().zip(full).rev() {
            *c = at % d;
            at /= d;
        }
        let aligned = &coordinates[full.len() - shape.len()..];
        shape.iter().zip(aligned).fold(0, |at, (&d, &c)| at * d + if d == 1 { 0 } else { c })
    }

    #[test]
    fn every_element_comes_from_its_place() {
        let cases: [[&[usize]; 2]; 11] = [
            [&[2, 3, 4], &[2, 3, 4]],
            [&[], &[]],
            [&[5, 2], &[]],
            [&[2, 3, 5, 7], &[7]],
            [&[2, 3, 5, 7], &[2, 1, 1, 7]],
            [&[2, 3, 5, 7], &[3, 1, 1]],
            [&[4, 1], &[1, 6]],
            [&[3, 1, 4, 1, 2], &[1, 5, 1, 3, 1]],
            [&[2, 1, 3, 1, 2, 1], &[2, 1, 3, 4, 2, 2]],
            [&[0, 3], &[3]],
            [&[1, 1], &[1]],
        ];
        for [a, b] in cases {
            let plan = Broadcast::new([a, b]).unwrap();
            let full = broadcast_shape(&[a, b]).unwrap();
            assert_eq!(plan.shape(), full);
            let want: Vec<_> = (0..plan.len()).map(|i| [source(i, &full, a), source(i, &full, b)]).collect();
            let mut got = vec![[usize::MAX; 2]; plan.len()];
            plan.run(&mut got, |tile, out| {
                assert_eq!(out.len(), tile.rows * tile.inner);
                for (i, out) in out.iter_mut().enumerate() {
                    let (row, column) = (i / tile.inner, i % tile.inner);
                    *out = [0, 1]
                        .map(|k| tile.at[k] + row * tile.row_strides[k] + column * tile.inner_strides[k]);
                }
            });
            assert_eq!(got, want, "{a:?} {b:?}");
        }
    }

    #[test]
    fn like_dimensions_merge() {
        let plan = Broadcast::new([&[8, 7, 7, 16], &[16]]).unwrap();
        assert_eq!((plan.outer.len(), plan.rows, plan.inner), (0, 8 * 7 * 7, 16));
        let plan = Broadcast::new([&[8, 7, 7, 16], &[8, 1, 1, 16]]).unwrap();
        assert_eq!((plan.outer.as_slice(), plan.rows, plan.inner), ([(8, [784, 16])].as_slice(), 49, 16));
        let plan = Broadcast::new([&[8, 7, 7, 16], &[]]).unwrap();
        assert_eq!((plan.rows, plan.inner, plan.inner_strides), (1, 6272, [1, 0]));
        assert!(plan.is_full(0) && !plan.is_full(1));
    }

    #[test]
    fn shapes_that_do_not_fit_are_told() {
        let e = Broadcast::new([&[2, 3], &[4]]).unwrap_err();
        assert_eq!(e.to_string(), "shapes [2, 3] and [4] do not broadcast together");
        assert!(broadcast_shape(&[&[2], &[0]]).is_err());
    }

    #[test]
    fn large_expansions_on_any_number_of_threads() {
        let shape = [3, 70, 90, 8];
        for from in [[3, 1, 1, 8], [1, 1, 1, 1], [3, 70, 1, 1], [3, 70, 90, 8]] {
            let plan = Broadcast::to(&from, &shape).unwrap();
            let x: Vec<i64> = (0..plan.operand_len(0) as i64).collect();
            let y = on_any_pool(|| {
                let mut y = vec![0; 3 * 70 * 90 * 8];
                plan.expand(&x, &mut y);
                y
            });
            assert!(y.iter().enumerate().all(|(i, &y)| y == source(i, &shape, &from) as i64), "{from:?}");
        }
    }
}
