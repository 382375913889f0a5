//! Selections: every element of the result is one element of the operand, at a position that is a sum of one term per axis
//! of the result, or it lies outside and takes a fill value.
//!
//! Transposes, slices, tiles, pads, nearest neighbours and depth-to-space are all of this form: they differ in the
//! [`Axis`] lists only. A [`Selection`] is planned once; neighbouring axes that advance together are merged, so that what
//! is contiguous is copied as a whole. Running it allocates nothing.

use crate::parallel::{CHUNK, for_each_chunk};

/// Where the elements along one axis of the result come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Axis {
    /// `n` elements, at `start`, `start + step`, …
    Affine {
        /// Number of elements.
        n: usize,
        /// Offset of the first.
        start: usize,
        /// Distance from one to the next.
        step: isize,
    },
    /// Any offsets; `None` is outside of the operand.
    Table(Vec<Option<usize>>),
}

impl Axis {
    /// `n` elements that are `stride` apart.
    pub fn strided(n: usize, stride: usize) -> Axis {
        Axis::Affine { n, start: 0, step: stride as isize }
    }

    /// Elements at `coordinates` of an axis of the operand whose elements are `stride` apart.
    pub fn at(coordinates: impl IntoIterator<Item = Option<usize>>, stride: usize) -> Axis {
        Axis::Table(coordinates.into_iter().map(|c| c.map(|c| c * stride)).collect()).simplified()
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Axis::Affine { n, .. } => *n,
            Axis::Table(t) => t.len(),
        }
    }

    /// No elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[inline(always)]
    fn offset(&self, i: usize) -> Option<usize> {
        match self {
            Axis::Affine { start, step, .. } => Some(start.wrapping_add_signed(step * i as isize)),
            Axis::Table(t) => t[i],
        }
    }

    /// The largest offset.
    fn last(&self) -> usize {
        match self {
            Axis::Affine { n, .. } => self.offset(0).max(self.offset(n - 1)).unwrap_or(0),
            Axis::Table(t) => t.iter().flatten().copied().max().unwrap_or(0),
        }
    }

    /// A table whose offsets are equally far apart is affine.
    fn simplified(self) -> Axis {
        let Axis::Table(table) = &self else { return self };
        let Some(inside) = table.iter().copied().collect::<Option<Vec<usize>>>() else { return self };
        let (Some(&start), n) = (inside.first(), inside.len()) else { return self };
        let step = inside.get(1).map_or(1, |&second| second as isize - start as isize);
        let affine = Axis::Affine { n, start, step };
        if (0..n).all(|i| affine.offset(i) == Some(inside[i])) { affine } else { self }
    }
}

/// Distances between neighbours along each axis of a row-major tensor.
pub fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i];
    }
    strides
}

/// A plan to select elements of an operand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    operand_len: usize,
    len: usize,
    outer: Vec<Axis>,
    inner: Axis,
}

impl Selection {
    /// Plans for an operand of `operand_len` elements and a result with these axes, outermost first.
    ///
    /// # Panics
    /// When a position is not in the operand.
    pub fn new(operand_len: usize, axes: Vec<Axis>) -> Selection {
        let len = axes.iter().map(Axis::len).product();
        let mut outer: Vec<Axis> = Vec::with_capacity(axes.len());
        if len > 0 {
            let last: usize = axes.iter().map(Axis::last).sum();
            let nothing = axes.iter().any(|a| (0..a.len()).all(|i| a.offset(i).is_none()));
            assert!(nothing || last < operand_len, "position {last} of {operand_len} elements");
            for axis in axes.into_iter().filter(|a| a.len() != 1 || a.offset(0) != Some(0)) {
                match (outer.last_mut(), axis) {
                    // One step of the outer axis equals a whole sweep of the inner one; an axis of one element fits all.
                    (Some(Axis::Affine { n, start, step }), Axis::Affine { n: m, start: from, step: by })
                        if m == 1 || *n == 1 || *step == by * m as isize =>
                    {
                        *step = if m == 1 { *step } else { by };
                        *n *= m;
                        *start += from;
                    }
                    (_, axis) => outer.push(axis),
                }
            }
        }
        let inner = outer.pop().unwrap_or(Axis::strided(1, 1));
        Selection { operand_len, len, outer, inner }
    }

    /// The axes of `shape` in another order: axis `i` of the result is axis `order[i]` of the operand.
    ///
    /// # Panics
    /// When `order` is not a permutation of the axes.
    pub fn transpose(shape: &[usize], order: &[usize]) -> Selection {
        let mut sorted = order.to_vec();
        sorted.sort_unstable();
        assert!(sorted.iter().copied().eq(0..shape.len()), "order {order:?} of {} axes", shape.len());
        let strides = strides(shape);
        Selection::new(
            shape.iter().product(),
            order.iter().map(|&a| Axis::strided(shape[a], strides[a])).collect(),
        )
    }

    /// Number of elements of the result.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The result has no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Number of elements of the operand.
    pub fn operand_len(&self) -> usize {
        self.operand_len
    }

    /// Where row number `row` of the result comes from, apart from its inner axis.
    fn row(&self, mut row: usize) -> Option<usize> {
        let mut at = 0;
        for axis in self.outer.iter().rev() {
            at += axis.offset(row % axis.len())?;
            row /= axis.len();
        }
        Some(at)
    }

    /// `y` = the selected elements of `x`, and `fill` where the position is outside.
    ///
    /// # Panics
    /// When a slice has not the planned length.
    pub fn run<T: Copy + Send + Sync>(&self, x: &[T], fill: T, y: &mut [T]) {
        assert_eq!([x.len(), y.len()], [self.operand_len, self.len], "operand and result of a selection");
        if y.is_empty() {
            return;
        }
        let inner = self.inner.len();
        if self.outer.is_empty() {
            return for_each_chunk(y, CHUNK, |i, y| self.copy(x, 0, i * CHUNK, fill, y));
        }
        let rows = (CHUNK / inner).max(1);
        for_each_chunk(y, rows * inner, |i, y| {
            for (j, y) in y.chunks_exact_mut(inner).enumerate() {
                match self.row(i * rows + j) {
                    Some(at) => self.copy(x, at, 0, fill, y),
                    None => y.fill(fill),
                }
            }
        });
    }

    /// Elements `from..` of the inner axis of the row at `at`.
    #[inline(always)]
    fn copy<T: Copy>(&self, x: &[T], at: usize, from: usize, fill: T, y: &mut [T]) {
        match &self.inner {
            Axis::Affine { start, step: 1, .. } => y.copy_from_slice(&x[at + start + from..][..y.len()]),
            Axis::Affine { start, step: 0, .. } => y.fill(x[at + start]),
            &Axis::Affine { start, step, .. } => {
                let at = at + start;
                y.iter_mut()
                    .enumerate()
                    .for_each(|(i, y)| *y = x[at.wrapping_add_signed(step * (from + i) as isize)]);
            }
            Axis::Table(t) => {
                y.iter_mut().zip(&t[from..]).for_each(|(y, o)| *y = o.map_or(fill, |o| x[at + o]));
            }
        }
    }

    /// The gradient: `dx` = for each element of the operand, the sum of `dy` over the places that it was selected to, in
    /// their order.
    ///
    /// # Panics
    /// When a slice has not the planned length.
    pub fn grad(&self, dy: &[f32], dx: &mut [f32]) {
        assert_eq!([dx.len(), dy.len()], [self.operand_len, self.len], "operand and result of a selection");
        dx.fill(0.0);
        if dy.is_empty() {
            return;
        }
        for (row, dy) in dy.chunks_exact(self.inner.len()).enumerate() {
            let Some(at) = self.row(row) else { continue };
            for (i, &dy) in dy.iter().enumerate() {
                if let Some(o) = self.inner.offset(i) {
                    dx[at + o] += dy;
                }
            }
        }
    }
}

/// Copies `count` blocks of `block` elements: block `i` from `i * from_step` in `x` to `i * to_step` in `y`. What
/// concatenation and splitting are made of.
///
/// # Panics
/// When a block lies outside of its slice, or blocks of `y` overlap.
pub fn copy_blocks<T: Copy>(
    x: &[T],
    from_step: usize,
    y: &mut [T],
    to_step: usize,
    block: usize,
    count: usize,
) {
    if block == 0 {
        return;
    }
    assert!(count < 2 || to_step >= block, "blocks of {block} elements overlap at a distance of {to_step}");
    for i in 0..count {
        y[i * to_step..][..block].copy_from_slice(&x[i * from_step..][..block]);
    }
}

/// `y[o, i, ..] = x[o, index[i], ..]` for `x` of shape `(outer, n, inner)`, as ONNX `Gather`; a negative index counts from
/// the end.
///
/// # Errors
/// The first index that is not in `-n..n`.
///
/// # Panics
/// When a slice has not the length that the shape says.
pub fn gather<T: Copy + Send + Sync>(
    x: &[T],
    [outer, n, inner]: [usize; 3],
    index: &[i64],
    y: &mut [T],
) -> Result<(), i64> {
    assert_eq!([x.len(), y.len()], [outer * n * inner, outer * index.len() * inner], "gather");
    if let Some(&bad) = index.iter().find(|&&i| resolve(i, n).is_none()) {
        return Err(bad);
    }
    if y.is_empty() {
        return Ok(());
    }
    let rows = (CHUNK / inner).max(1);
    for_each_chunk(y, rows * inner, |chunk, y| {
        for (j, y) in y.chunks_exact_mut(inner).enumerate() {
            let row = chunk * rows + j;
            let (o, i) = (row / index.len(), resolve(index[row % index.len()], n).unwrap_or(0));
            y.copy_from_slice(&x[(o * n + i) * inner..][..inner]);
        }
    });
    Ok(())
}

/// The gradient of [`gather`]: `dx[o, index[i], ..] += dy[o, i, ..]`, in the order of `i`, from 0. An embedding's gradient.
///
/// # Errors
/// As [`gather`].
///
/// # Panics
/// When a slice has not the length that the shape says.
pub fn scatter_add(
    dy: &[f32],
    [outer, n, inner]: [usize; 3],
    index: &[i64],
    dx: &mut [f32],
) -> Result<(), i64> {
    assert_eq!([dx.len(), dy.len()], [outer * n * inner, outer * index.len() * inner], "scatter");
    if let Some(&bad) = index.iter().find(|&&i| resolve(i, n).is_none()) {
        return Err(bad);
    }
    dx.fill(0.0);
    if dy.is_empty() {
        return Ok(());
    }
    for_each_chunk(dx, n * inner, |o, dx| {
        for (i, dy) in index.iter().zip(dy[o * index.len() * inner..].chunks_exact(inner)) {
            let at = resolve(*i, n).unwrap_or(0) * inner;
            dx[at..at + inner].iter_mut().zip(dy).for_each(|(dx, &dy)| *dx += dy);
        }
    });
    Ok(())
}

/// Position of an index that may count from the end.
fn resolve(index: i64, n: usize) -> Option<usize> {
    let from_start = if index < 0 { index.checked_add(i64::try_from(n).ok()?)? } else { index };
    usize::try_from(from_start).ok().filter(|&i| i < n)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::elementwise::testing::{drawn, on_any_pool};

    #[test]
    fn transposes() {
        let shape = [2, 3, 4, 5];
        let x: Vec<u32> = (0..120).collect();
        for order in [[0, 1, 2, 3], [0, 2, 3, 1], [3, 2, 1, 0], [1, 0, 2, 3]] {
            let plan = Selection::transpose(&shape, &order);
            let mut y = vec![0; 120];
            plan.run(&x, 0, &mut y);
            let to = order.map(|a| shape[a]);
            for (i, &y) in y.iter().enumerate() {
                let (mut rest, mut at) = (i, [0; 4]);
                for d in (0..4).rev() {
                    at[order[d]] = rest % to[d];
                    rest /= to[d];
                }
                assert_eq!(
                    y,
                    at.iter().zip(shape).fold(0, |n, (&c, d)| n * d as u32 + c as u32),
                    "{order:?}"
                );
            }
        }
        assert!(Selection::transpose(&shape, &[0, 1, 2, 3]).outer.is_empty(), "one copy");
        assert_eq!(Selection::transpose(&shape, &[1, 0, 2, 3]).inner, Axis::strided(20, 1));
    }

    #[test]
    fn steps_and_fills() {
        let x: Vec<i64> = (0..12).collect();
        let run = |axes| {
            let plan = Selection::new(12, axes);
            let mut y = vec![7; plan.len()];
            plan.run(&x, -1, &mut y);
            y
        };
        let back = Axis::Affine { n: 2, start: 3, step: -2 };
        assert_eq!(run(vec![Axis::strided(3, 4), back]), [3, 1, 7, 5, 11, 9]);
        let padded = Axis::at([None, Some(0), Some(3), None], 1);
        assert_eq!(run(vec![Axis::at([Some(2), None], 4), padded]), [-1, 8, 11, -1, -1, -1, -1, -1]);
        assert_eq!(
            run(vec![Axis::strided(2, 0), Axis::Affine { n: 3, start: 4, step: 1 }]),
            [4, 5, 6, 4, 5, 6]
        );
        assert!(run(vec![Axis::strided(0, 4), Axis::strided(4, 1)]).is_empty());
        assert_eq!(run(vec![]), [0]);
    }

    #[test]
    fn the_gradient_is_the_transposed_map() {
        let axes = vec![Axis::at([Some(1), None, Some(0), Some(1)], 5), Axis::at([4, 3, 3, 0].map(Some), 1)];
        let plan = Selection::new(10, axes);
        let (x, dy) = (drawn(1, 10, 1.0), drawn(2, 16, 1.0));
        let (mut y, mut dx) = (vec![0.0; 16], vec![9.0; 10]);
        plan.run(&x, 0.0, &mut y);
        plan.grad(&dy, &mut dx);
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a * b) as f64).sum::<f64>();
        assert!((dot(&y, &dy) - dot(&x, &dx)).abs() < 1e-6);
    }

    #[test]
    fn large_selections_on_any_number_of_threads() {
        let x: Vec<u8> = (0..200 * 301).map(|i| (i % 251) as u8).collect();
        let plan = Selection::transpose(&[200, 301], &[1, 0]);
        let y = on_any_pool(|| {
            let mut y = vec![0; x.len()];
            plan.run(&x, 0, &mut y);
            y
        });
        assert!((0..301).all(|c| (0..200).all(|r| y[c * 200 + r] == x[r * 301 + c])));
    }

    #[test]
    #[should_panic(expected = "position 12")]
    fn positions_are_checked() {
        Selection::new(12, vec![Axis::Affine { n: 3, start: 4, step: 4 }]);
    }

    #[test]
    fn rows_by_index() {
        let x: Vec<u32> = (0..12).collect();
        let mut y = vec![0; 8];
        gather(&x, [2, 3, 2], &[-1, 0], &mut y).unwrap();
        assert_eq!(y, [4, 5, 0, 1, 10, 11, 6, 7]);
        assert_eq!(gather(&x, [2, 3, 2], &[0, 3], &mut y), Err(3));
        let mut dx = [9.0; 6];
        scatter_add(&[1.0, 2.0, 3.0], [1, 6, 1], &[1, -5, 5], &mut dx).unwrap();
        assert_eq!(dx, [0.0, 3.0, 0.0, 0.0, 0.0, 3.0]);
        assert_eq!(scatter_add(&[1.0], [1, 6, 1], &[-7], &mut dx), Err(-7));
    }
}
