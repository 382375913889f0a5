//! Reductions: over sets of axes, over whole slices, and the position of the largest element.
//!
//! Sums are taken in a fixed order that depends on the shape only: 32 interleaved lanes along contiguous elements, eight
//! rows at a time across rows, then over pieces of bounded length. This is also far more exact than a running sum.

use crate::broadcast::{Broadcast, BroadcastError, Tile, broadcast_shape};
use crate::elementwise::{max, min, sign};
use crate::parallel::{self, CHUNK, for_each_chunk};
use crate::simd::{Isa, dispatch};

/// What a reduction computes. Names in parentheses are ONNX operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduce {
    /// Sum (`ReduceSum`); 0 of nothing.
    Sum,
    /// Mean (`ReduceMean`); NaN of nothing.
    Mean,
    /// Sum of squares (`ReduceSumSquare`).
    SumSquare,
    /// Sum of absolute values (`ReduceL1`).
    L1,
    /// Root of the sum of squares (`ReduceL2`).
    L2,
    /// Largest element (`ReduceMax`), NaN where there is one; minus infinity of nothing.
    Max,
    /// Smallest element (`ReduceMin`), NaN where there is one; infinity of nothing.
    Min,
    /// Largest absolute value, NaN where there is one; 0 of nothing.
    AbsMax,
}

/// How elements are joined: the associative part of a [`Reduce`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fold {
    Sum,
    SumSquare,
    SumAbs,
    Max,
    Min,
    AbsMax,
}

impl Reduce {
    fn fold(self) -> Fold {
        match self {
            Reduce::Sum | Reduce::Mean => Fold::Sum,
            Reduce::SumSquare | Reduce::L2 => Fold::SumSquare,
            Reduce::L1 => Fold::SumAbs,
            Reduce::Max => Fold::Max,
            Reduce::Min => Fold::Min,
            Reduce::AbsMax => Fold::AbsMax,
        }
    }
}

impl Fold {
    /// The result of folding nothing.
    fn start(self) -> f32 {
        match self {
            Fold::Max => f32::NEG_INFINITY,
            Fold::Min => f32::INFINITY,
            Fold::Sum | Fold::SumSquare | Fold::SumAbs | Fold::AbsMax => 0.0,
        }
    }

    /// Joins two partial results.
    #[inline(always)]
    fn join(self, a: f32, b: f32) -> f32 {
        match self {
            Fold::Sum | Fold::SumSquare | Fold::SumAbs => a + b,
            Fold::Max | Fold::AbsMax => max(a, b),
            Fold::Min => min(a, b),
        }
    }
}

/// Lanes along contiguous elements: four registers of AVX2.
const LANES: usize = 32;
/// Elements after which the lanes are joined and start anew.
const LANE_RUN: usize = 64 * LANES;

#[inline(always)]
pub(crate) fn fold_lanes(
    x: &[f32],
    start: f32,
    map: impl Fn(f32) -> f32,
    join: impl Fn(f32, f32) -> f32,
) -> f32 {
    // A plain loop: the methods of iterators are not inlined into code for another instruction set.
    let mut result = start;
    for x in x.chunks(LANE_RUN) {
        result = join(result, fold_run(x, start, &map, &join));
    }
    result
}

#[inline(always)]
fn fold_run(x: &[f32], start: f32, map: impl Fn(f32) -> f32, join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [start; LANES];
    let (blocks, rest) = x.as_chunks::<LANES>();
    for block in blocks {
        for (lane, &x) in lanes.iter_mut().zip(block) {
            *lane = join(*lane, map(x));
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane = join(*lane, map(x));
    }
    join_lanes(lanes, join)
}

#[inline(always)]
fn join_lanes(mut lanes: [f32; LANES], join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        let (low, high) = lanes.split_at_mut(width);
        for (low, &high) in low.iter_mut().zip(&*high) {
            *low = join(*low, high);
        }
        width /= 2;
    }
    lanes[0]
}

/// The sum of `map(x)`, in the order of [`Reduce::Sum`].
#[inline(always)]
pub(crate) fn sum_of(x: &[f32], map: impl Fn(f32) -> f32) -> f32 {
    fold_lanes(x, 0.0, map, |a, b| a + b)
}

/// The sum of `map(a, b)` over pairs, in the same order.
#[inline(always)]
pub(crate) fn sum_of_pairs(a: &[f32], b: &[f32], map: impl Fn(f32, f32) -> f32) -> f32 {
    let mut sum = 0.0;
    for (a, b) in a.chunks(LANE_RUN).zip(b.chunks(LANE_RUN)) {
        let mut lanes = [0.0; LANES];
        let ((a_blocks, a_rest), (b_blocks, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
        for (a, b) in a_blocks.iter().zip(b_blocks) {
            for (lane, (&a, &b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
                *lane += map(a, b);
            }
        }
        for (lane, (&a, &b)) in lanes.iter_mut().zip(a_rest.iter().zip(b_rest)) {
            *lane += map(a, b);
        }
        sum += join_lanes(lanes, |a, b| a + b);
    }
    sum
}

/// `out[c] = join of out[c] and map(r, c, x[r, c] of every operand)` over the rows `r`, eight rows at a time. All
/// operands have rows as long as `out`.
#[inline(always)]
pub(crate) fn fold_rows<const K: usize>(
    x: [&[f32]; K],
    out: &mut [f32],
    map: impl Fn(usize, usize, [f32; K]) -> f32,
    join: impl Fn(f32, f32) -> f32,
) {
    let width = out.len();
    if width == 0 {
        return;
    }
    let rows = x[0].len() / width;
    let row = |r: usize| x.map(|x| &x[r * width..][..width]);
    for r in (0..rows / 8 * 8).step_by(8) {
        let (x0, x1, x2, x3) = (row(r), row(r + 1), row(r + 2), row(r + 3));
        let (x4, x5, x6, x7) = (row(r + 4), row(r + 5), row(r + 6), row(r + 7));
        for c in 0..width {
            let at = |i: usize, x: &[&[f32]; K]| map(r + i, c, x.map(|x| x[c]));
            let low = join(join(at(0, &x0), at(1, &x1)), join(at(2, &x2), at(3, &x3)));
            let high = join(join(at(4, &x4), at(5, &x5)), join(at(6, &x6), at(7, &x7)));
            out[c] = join(out[c], join(low, high));
        }
    }
    for r in rows / 8 * 8..rows {
        let x = row(r);
        for c in 0..width {
            out[c] = join(out[c], map(r, c, x.map(|x| x[c])));
        }
    }
}

dispatch! {
    fn fold_contiguous(fold: Fold, x: &[f32]) -> f32 {
        let start = fold.start();
        match fold {
            Fold::Sum => fold_lanes(x, start, |x| x, |a, b| a + b),
            Fold::SumSquare => fold_lanes(x, start, |x| x * x, |a, b| a + b),
            Fold::SumAbs => fold_lanes(x, start, f32::abs, |a, b| a + b),
            Fold::Max => fold_lanes(x, start, |x| x, max),
            Fold::Min => fold_lanes(x, start, |x| x, min),
            Fold::AbsMax => fold_lanes(x, start, f32::abs, max),
        }
    }

    /// Folds the rows of `x`, each as long as `out`, into `out`.
    fn fold_columns(fold: Fold, x: &[f32], out: &mut [f32]) {
        match fold {
            Fold::Sum => fold_rows([x], out, |_, _, [x]| x, |a, b| a + b),
            Fold::SumSquare => fold_rows([x], out, |_, _, [x]| x * x, |a, b| a + b),
            Fold::SumAbs => fold_rows([x], out, |_, _, [x]| x.abs(), |a, b| a + b),
            Fold::Max => fold_rows([x], out, |_, _, [x]| x, max),
            Fold::Min => fold_rows([x], out, |_, _, [x]| x, min),
            Fold::AbsMax => fold_rows([x], out, |_, _, [x]| x.abs(), max),
        }
    }
}

/// Rows narrower than half of this are folded several side by side, so that a short row still fills registers.
const WIDE: usize = 64;

/// [`fold_columns`] for any width.
fn fold_any_columns(isa: Isa, fold: Fold, x: &[f32], out: &mut [f32]) {
    let side_by_side = WIDE / out.len();
    if side_by_side < 2 || x.len() < 2 * WIDE {
        return fold_columns(isa, fold, x, out);
    }
    let mut wide = [fold.start(); WIDE];
    let wide = &mut wide[..side_by_side * out.len()];
    let (even, rest) = x.split_at(x.len() / wide.len() * wide.len());
    fold_columns(isa, fold, even, wide);
    fold_columns(isa, fold, rest, out);
    for part in wide.chunks_exact(out.len()) {
        out.iter_mut().zip(part).for_each(|(out, &x)| *out = fold.join(*out, x));
    }
}

/// At most this many pieces of work are summed on their own and joined at the end. There are not more than terms of a sum, which
/// holds the workspace to the size of the operand.
const MAX_PIECES: usize = 64;

/// A plan to reduce some axes of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reduction {
    shape: Vec<usize>,
    keep_dims: Vec<usize>,
    /// Merged dimensions, except the innermost one, that are kept or reduced, outermost first, with their strides.
    kept: Vec<(usize, usize)>,
    reduced: Vec<(usize, usize)>,
    inner: usize,
    inner_is_kept: bool,
    pieces: usize,
}

impl Reduction {
    /// Plans to reduce `axes` of a tensor of `shape`. No axes reduce nothing.
    ///
    /// # Panics
    /// When an axis is not below the rank.
    pub fn new(shape: &[usize], axes: &[usize]) -> Reduction {
        assert!(axes.iter().all(|&a| a < shape.len()), "axes {axes:?} of a tensor of rank {}", shape.len());
        let keep_dims = (0..shape.len()).map(|i| if axes.contains(&i) { 1 } else { shape[i] }).collect();
        // Neighbours that are both kept, or both reduced, merge.
        let mut merged: Vec<(usize, bool)> = Vec::new();
        for (i, &dim) in shape.iter().enumerate().filter(|(_, dim)| **dim != 1) {
            let is_kept = !axes.contains(&i);
            match merged.last_mut() {
                Some((n, kept)) if *kept == is_kept => *n *= dim,
                _ => merged.push((dim, is_kept)),
            }
        }
        let (inner, inner_is_kept) = merged.pop().unwrap_or((1, true));
        let (mut kept, mut reduced, mut stride) = (Vec::new(), Vec::new(), inner);
        for &(dim, is_kept) in merged.iter().rev() {
            if is_kept {
                kept.insert(0, (dim, stride))
            } else {
                reduced.insert(0, (dim, stride))
            }
            stride *= dim;
        }
        let mut plan =
            Reduction { shape: shape.to_vec(), keep_dims, kept, reduced, inner, inner_is_kept, pieces: 1 };
        plan.pieces = (plan.len_reduced() * plan.out_inner())
            .div_ceil(CHUNK)
            .min(MAX_PIECES / plan.kept_outer().max(1))
            .min(plan.len_reduced())
            .max(1);
        plan
    }

    /// Plans to reduce a tensor of shape `from` to shape `to`, which broadcasts to `from`: the gradient of broadcasting.
    ///
    /// # Errors
    /// When `to` does not broadcast to `from`.
    pub fn to_shape(from: &[usize], to: &[usize]) -> Result<Reduction, BroadcastError> {
        if broadcast_shape(&[from, to])? != from {
            return Err(BroadcastError { shapes: vec![from.to_vec(), to.to_vec()] });
        }
        let missing = from.len() - to.len();
        let axes: Vec<usize> =
            (0..from.len()).filter(|&i| i < missing || to[i - missing] != from[i]).collect();
        Ok(Reduction::new(from, &axes))
    }

    /// The shape of the result with every reduced axis kept as 1.
    pub fn keep_dims(&self) -> &[usize] {
        &self.keep_dims
    }

    /// Number of elements of the result.
    pub fn out_len(&self) -> usize {
        self.keep_dims.iter().product()
    }

    /// Number of elements of the operand.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// The operand has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of elements that make up one element of the result.
    pub fn count(&self) -> usize {
        self.len_reduced()
    }

    /// Workspace of [`Reduction::run`], in elements.
    pub fn workspace(&self) -> usize {
        if self.pieces == 1 { 0 } else { self.pieces * self.out_len() }
    }

    /// Consecutive elements of the result that come from one row of the operand.
    fn out_inner(&self) -> usize {
        if self.inner_is_kept { self.inner } else { 1 }
    }

    fn kept_outer(&self) -> usize {
        self.kept.iter().map(|d| d.0).product()
    }

    fn reduced_outer(&self) -> usize {
        self.reduced.iter().map(|d| d.0).product()
    }

    fn len_reduced(&self) -> usize {
        self.reduced_outer() * if self.inner_is_kept { 1 } else { self.inner }
    }

    /// `out = op of x` over the planned axes.
    ///
    /// # Panics
    /// When a slice has not the planned length.
    pub fn run(&self, op: Reduce, x: &[f32], out: &mut [f32], workspace: &mut [f32]) {
        assert_eq!([x.len(), out.len()], [self.len(), self.out_len()], "reduction of {:?}", self.shape);
        assert_eq!(workspace.len(), self.workspace(), "workspace of a reduction of {:?}", self.shape);
        let (isa, fold) = (Isa::detect(), op.fold());
        let width = self.out_inner();
        if out.is_empty() {
            return;
        }
        if self.len_reduced() == 0 {
            // There may be many results of no elements.
            out.fill(fold.start());
        } else if self.pieces == 1 {
            // Several short reductions make one task.
            let group = (CHUNK / (self.len_reduced() * width).max(1)).max(1);
            for_each_chunk(out, group * width, |i, out| {
                for (j, out) in out.chunks_exact_mut(width).enumerate() {
                    self.piece(isa, fold, x, i * group + j, 0, out);
                }
            });
        } else {
            for_each_chunk(workspace, width, |i, part| {
                self.piece(isa, fold, x, i / self.pieces, i % self.pieces, part);
            });
            for (out, parts) in out.chunks_exact_mut(width).zip(workspace.chunks_exact(self.pieces * width)) {
                let (first, rest) = parts.split_at(width);
                out.copy_from_slice(first);
                for part in rest.chunks_exact(width) {
                    out.iter_mut().zip(part).for_each(|(out, &x)| *out = fold.join(*out, x));
                }
            }
        }
        let n = self.len_reduced() as f32;
        match op {
            Reduce::Mean => out.iter_mut().for_each(|out| *out /= n),
            Reduce::L2 => out.iter_mut().for_each(|out| *out = out.sqrt()),
            _ => {}
        }
    }

    /// Folds piece number `piece` of what element (or row of elements) `kept` of the result is made from.
    fn piece(&self, isa: Isa, fold: Fold, x: &[f32], kept: usize, piece: usize, out: &mut [f32]) {
        out.fill(fold.start());
        let base = offset(&self.kept, kept);
        let len = self.len_reduced();
        let (start, end) = (len * piece / self.pieces, len * (piece + 1) / self.pieces);
        // Positions in the reduced space run along rows: `run` of them lie at equal distances in memory.
        let run = match self.reduced.last() {
            _ if !self.inner_is_kept => self.inner,
            Some(&(dim, _)) => dim,
            None => 1,
        };
        let mut at = start;
        while at < end {
            // The cap keeps the sums of one lane short.
            let n = (run - at % run).min(end - at).min(CHUNK.div_ceil(self.out_inner()));
            if self.inner_is_kept {
                let from = base + offset(&self.reduced, at);
                fold_any_columns(isa, fold, &x[from..][..n * self.inner], out);
            } else {
                let from = base + offset(&self.reduced, at / run) + at % run;
                out[0] = fold.join(out[0], fold_contiguous(isa, fold, &x[from..][..n]));
            }
            at += n;
        }
    }

    /// Workspace of [`Reduction::grad`], in elements.
    pub fn grad_workspace(&self, op: Reduce) -> usize {
        match op {
            Reduce::Max | Reduce::Min | Reduce::AbsMax => self.out_len() + self.workspace(),
            _ => 0,
        }
    }

    /// The gradient: `dx` from the operand `x`, the result `y` and its gradient `dy`.
    ///
    /// `Max`, `Min` and `AbsMax` divide `dy` evenly among the elements that attain the extreme, as PyTorch's `amax` does.
    /// The gradients of `L1` and `L2` at 0 are 0. `Sum` and `Mean` read neither `x` nor `y`, which may then be empty;
    /// nor does `SumSquare` or `L1` read `y`.
    ///
    /// # Panics
    /// When a slice that is read has not the planned length, or the workspace that of [`Reduction::grad_workspace`].
    pub fn grad(&self, op: Reduce, x: &[f32], y: &[f32], dy: &[f32], dx: &mut [f32], workspace: &mut [f32]) {
        assert_eq!([dy.len(), dx.len()], [self.out_len(), self.len()], "reduction of {:?}", self.shape);
        assert_eq!(workspace.len(), self.grad_workspace(op), "workspace of a reduction of {:?}", self.shape);
        let n = self.len_reduced() as f32;
        let spread = Broadcast::spread(&self.keep_dims, &self.shape);
        spread.run(dx, |tile, dx| match op {
            Reduce::Sum => rows(tile, dx, [dy, dy], |_, [dy, _], _| dy),
            Reduce::Mean => rows(tile, dx, [dy, dy], |_, [dy, _], _| dy / n),
            Reduce::SumSquare => rows(tile, dx, [dy, dy], |at, [dy, _], _| 2.0 * x[at] * dy),
            Reduce::L1 => rows(tile, dx, [dy, dy], |at, [dy, _], _| sign(x[at]) * dy),
            Reduce::L2 => {
                rows(tile, dx, [dy, y], |at, [dy, y], _| if y == 0.0 { 0.0 } else { x[at] / y * dy })
            }
            // First mark the elements that attain the extreme.
            Reduce::Max | Reduce::Min => {
                rows(tile, dx, [y, y], |at, [y, _], _| f32::from(u8::from(x[at] == y)))
            }
            Reduce::AbsMax => rows(tile, dx, [y, y], |at, [y, _], _| f32::from(u8::from(x[at].abs() == y))),
        });
        if matches!(op, Reduce::Max | Reduce::Min | Reduce::AbsMax) {
            let (ties, workspace) = workspace.split_at_mut(self.out_len());
            self.run(Reduce::Sum, dx, ties, workspace);
            let sign = |at: usize| if op == Reduce::AbsMax { sign(x[at]) } else { 1.0 };
            spread.run(dx, |tile, dx| {
                rows(
                    tile,
                    dx,
                    [dy, ties],
                    |at, [dy, ties], mark| {
                        if mark == 0.0 { 0.0 } else { sign(at) * dy / ties }
                    },
                );
            });
        }
    }
}

/// `out = f(position, values, out)` over a tile, where `values` are taken from two operands of the reduced shape.
#[inline(always)]
fn rows(tile: &Tile<1>, out: &mut [f32], from: [&[f32]; 2], f: impl Fn(usize, [f32; 2], f32) -> f32) {
    let step = tile.inner_strides[0];
    for (row, out) in out.chunks_exact_mut(tile.inner).enumerate() {
        let [a, b] = from.map(|from| tile.row(0, from, row));
        let start = tile.start + row * tile.inner;
        for (i, out) in out.iter_mut().enumerate() {
            *out = f(start + i, [a[i * step], b[i * step]], *out);
        }
    }
}

/// Adds up the rows of `x`, of shape `(rows, channels)`, as bias gradients and batch norm do.
///
/// # Panics
/// When `out` has not `channels` elements, or `workspace` not [`column_sums_workspace`].
pub fn column_sums(x: &[f32], channels: usize, out: &mut [f32], workspace: &mut [f32]) {
    Reduction::new(&[x.len() / channels.max(1), channels], &[0]).run(Reduce::Sum, x, out, workspace);
}

/// Workspace of [`column_sums`], in elements.
pub fn column_sums_workspace(rows: usize, channels: usize) -> usize {
    Reduction::new(&[rows, channels], &[0]).workspace()
}

/// `op` over all of `x`, without a workspace.
pub fn reduce_all(op: Reduce, x: &[f32]) -> f32 {
    let (isa, fold) = (Isa::detect(), op.fold());
    let map = |range| fold_contiguous(isa, fold, &x[range]);
    let all = parallel::reduce(x.len(), CHUNK, map, |a, b| fold.join(a, b)).unwrap_or(fold.start());
    match op {
        Reduce::Mean => all / x.len() as f32,
        Reduce::L2 => all.sqrt(),
        _ => all,
    }
}

/// The smallest and the largest element; both are NaN where any element is. `None` for an empty slice.
pub fn min_max(x: &[f32]) -> Option<(f32, f32)> {
    let isa = Isa::detect();
    let map = |range: std::ops::Range<usize>| {
        let x = &x[range];
        (fold_contiguous(isa, Fold::Min, x), fold_contiguous(isa, Fold::Max, x))
    };
    parallel::reduce(x.len(), CHUNK, map, |a, b| (min(a.0, b.0), max(a.1, b.1)))
}

/// Positions of the extreme elements along the middle axis of `x`, of shape `(outer, n, inner)`; `out` has shape
/// `(outer, inner)`.
///
/// `largest` asks for `ArgMax`, else it is `ArgMin`; `last` is `select_last_index`, the choice among equals. What
/// has no order, NaN, counts as more extreme than any number, as in NumPy. Where `n` is 0, the position is 0.
///
/// # Panics
/// When a slice has not the length that its shape says.
pub fn arg_extreme<T: Copy + PartialOrd + Sync>(
    largest: bool,
    last: bool,
    x: &[T],
    [outer, n, inner]: [usize; 3],
    out: &mut [i64],
) {
    assert_eq!([x.len(), out.len()], [outer * n * inner, outer * inner]);
    let is_nan = |x: T| x.partial_cmp(&x).is_none();
    let beats = |new: T, old: T| match (is_nan(new), is_nan(old)) {
        (true, true) => last,
        (true, false) => true,
        (false, true) => false,
        _ if new == old => last,
        _ => (new > old) == largest,
    };
    for_each_chunk(out, (CHUNK / n.max(1)).max(1), |chunk, out| {
        let first = chunk * (CHUNK / n.max(1)).max(1);
        for (i, out) in out.iter_mut().enumerate() {
            let (o, column) = ((first + i) / inner, (first + i) % inner);
            let at = |j: usize| x[(o * n + j) * inner + column];
            *out = (1..n).fold(0, |best, j| if beats(at(j), at(best)) { j } else { best }) as i64;
        }
    });
}

/// Where position `index` of the space with dimensions and strides `dims` is.
fn offset(dims: &[(usize, usize)], mut index: usize) -> usize {
    let mut at = 0;
    for &(dim, stride) in dims.iter().rev() {
        at += index % dim * stride;
        index /= dim;
    }
    at
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::elementwise::testing::{bits, close, drawn, on_any_pool, slope, wide};

    const ALL: [Reduce; 8] = [
        Reduce::Sum,
        Reduce::Mean,
        Reduce::SumSquare,
        Reduce::L1,
        Reduce::L2,
        Reduce::Max,
        Reduce::Min,
        Reduce::AbsMax,
    ];

    /// Every element of `x` goes to the element of the result that its kept coordinates name.
    fn reference(op: Reduce, x: &[f64], shape: &[usize], axes: &[usize]) -> Vec<f64> {
        let keep: Vec<usize> =
            (0..shape.len()).map(|i| if axes.contains(&i) { 1 } else { shape[i] }).collect();
        let mut groups = vec![Vec::new(); keep.iter().product()];
        for (i, &x) in x.iter().enumerate() {
            let (mut rest, mut to, mut stride) = (i, 0, 1);
            for d in (0..shape.len()).rev() {
                to += if keep[d] == 1 { 0 } else { rest % shape[d] * stride };
                stride *= keep[d];
                rest /= shape[d];
            }
            groups[to].push(x);
        }
        let one = |g: &Vec<f64>| match op {
            Reduce::Sum => g.iter().sum(),
            Reduce::Mean => g.iter().sum::<f64>() / g.len() as f64,
            Reduce::SumSquare => g.iter().map(|x| x * x).sum(),
            Reduce::L1 => g.iter().map(|x| x.abs()).sum(),
            Reduce::L2 => g.iter().map(|x| x * x).sum::<f64>().sqrt(),
            Reduce::Max => g.iter().fold(f64::NEG_INFINITY, |a, &b| a.max(b)),
            Reduce::Min => g.iter().fold(f64::INFINITY, |a, &b| a.min(b)),
            Reduce::AbsMax => g.iter().fold(0f64, |a, b| a.max(b.abs())),
        };
        groups.iter().map(one).collect()
    }

    fn run(plan: &Reduction, op: Reduce, x: &[f32]) -> Vec<f32> {
        let mut out = vec![f32::NAN; plan.out_len()];
        plan.run(op, x, &mut out, &mut vec![f32::NAN; plan.workspace()]);
        out
    }

    const CASES: [(&[usize], &[usize]); 14] = [
        (&[], &[]),
        (&[7], &[0]),
        (&[1000], &[]),
        (&[100_000], &[0]),
        (&[3, 4, 5], &[0, 2]),
        (&[3, 4, 5], &[1]),
        (&[2, 3, 2, 3, 2], &[0, 2, 4]),
        (&[2, 3, 2, 3, 2], &[1, 3]),
        (&[3000, 3], &[0]),
        (&[700, 48], &[0]),
        (&[40_000, 5], &[0]),
        (&[4, 31, 31, 16], &[1, 2]),
        (&[4, 16, 31, 31], &[0, 2, 3]),
        (&[200, 9, 8], &[2]),
    ];

    #[test]
    fn every_reduction_over_any_axes_and_threads() {
        for ((shape, axes), op) in CASES.into_iter().flat_map(|case| ALL.map(|op| (case, op))) {
            let x = drawn(11, shape.iter().product(), 1.0);
            let plan = Reduction::new(shape, axes);
            let want = reference(op, &wide(&x), shape, axes);
            let out = on_any_pool(|| run(&plan, op, &x));
            // Rounding errors of a sum are in proportion to the sum of the absolute values.
            let weight = match op {
                Reduce::Sum => reference(Reduce::L1, &wide(&x), shape, axes),
                _ => want.clone(),
            };
            for ((out, want), weight) in out.iter().zip(want).zip(weight) {
                let error = (*out as f64 - want).abs();
                assert!(error <= 1e-6 * (1.0 + weight.abs()), "{op:?} of {shape:?}: got {out}, want {want}");
            }
        }
    }

    #[test]
    fn gradients_by_differences() {
        for ((shape, axes), op) in CASES.into_iter().flat_map(|case| ALL.map(|op| (case, op))) {
            let n: usize = shape.iter().product();
            if n > 100 {
                continue;
            }
            let x = drawn(12, n, 2.0);
            let plan = Reduction::new(shape, axes);
            let (y, dy) = (run(&plan, op, &x), drawn(13, plan.out_len(), 1.0));
            let mut dx = vec![f32::NAN; n];
            plan.grad(op, &x, &y, &dy, &mut dx, &mut vec![f32::NAN; plan.grad_workspace(op)]);
            let loss = |x: &[f64]| -> f64 {
                reference(op, x, shape, axes).iter().zip(&dy).map(|(y, &dy)| y * dy as f64).sum()
            };
            let want: Vec<f64> = (0..n).map(|i| slope(loss, &wide(&x), i)).collect();
            close(&dx, &want, 2e-6);
        }
    }

    #[test]
    fn the_workspace_is_not_larger_than_the_operand() {
        for (shape, axes) in [(&[1 << 20][..], &[][..]), (&[2, 1 << 20], &[0]), (&[1 << 20, 1, 4], &[1])] {
            let plan = Reduction::new(shape, axes);
            assert!(plan.workspace() <= plan.len(), "{shape:?} along {axes:?}: {}", plan.workspace());
        }
    }

    #[test]
    fn ties_share_the_gradient() {
        let plan = Reduction::new(&[4], &[0]);
        let mut dx = [9.0; 4];
        let mut workspace = vec![0.0; plan.grad_workspace(Reduce::Max)];
        plan.grad(Reduce::Max, &[1.0, 3.0, 3.0, 2.0], &[3.0], &[1.0], &mut dx, &mut workspace);
        assert_eq!(dx, [0.0, 0.5, 0.5, 0.0]);
        plan.grad(Reduce::AbsMax, &[1.0, 3.0, -3.0, 2.0], &[3.0], &[1.0], &mut dx, &mut workspace);
        assert_eq!(dx, [0.0, 0.5, -0.5, 0.0]);
    }

    #[test]
    fn all_instruction_sets_give_the_same_bits() {
        let x = drawn(14, 5000 + 13, 1.0);
        for fold in [Fold::Sum, Fold::SumSquare, Fold::SumAbs, Fold::Max, Fold::Min, Fold::AbsMax] {
            let run = |isa| {
                let mut columns = [fold.start(); 37];
                fold_columns(isa, fold, &x[..37 * 130], &mut columns);
                let mut narrow = [fold.start(); 3];
                fold_any_columns(isa, fold, &x[..3 * 1501], &mut narrow);
                (bits(&[fold_contiguous(isa, fold, &x)]), bits(&columns), bits(&narrow))
            };
            Isa::ALL.iter().for_each(|&isa| assert_eq!(run(isa), run(Isa::Scalar), "{fold:?} on {isa:?}"));
        }
    }

    #[test]
    fn whole_slices() {
        let x = drawn(15, 3 * CHUNK + 5, 2.0);
        for op in ALL {
            let want = reference(op, &wide(&x), &[x.len()], &[0]);
            close(&[on_any_pool(|| reduce_all(op, &x))], &want, 1e-6);
        }
        assert_eq!(min_max(&x), Some((reduce_all(Reduce::Min, &x), reduce_all(Reduce::Max, &x))));
        assert_eq!(min_max(&[]), None);
        let mut x = x;
        x[CHUNK + 3] = f32::NAN;
        assert!(min_max(&x).is_some_and(|(a, b)| a.is_nan() && b.is_nan()));
        assert!(reduce_all(Reduce::AbsMax, &x).is_nan());
    }

    #[test]
    fn sums_stay_exact_over_many_elements() {
        let x = vec![0.1f32; 1 << 22];
        let want = 0.1f32 as f64 * x.len() as f64;
        assert!((reduce_all(Reduce::Sum, &x) as f64 / want - 1.0).abs() < 2e-6);
        for channels in [1, 4, 1024] {
            let rows = x.len() / channels;
            let (mut out, mut workspace) =
                (vec![0.0; channels], vec![0.0; column_sums_workspace(rows, channels)]);
            column_sums(&x, channels, &mut out, &mut workspace);
            assert!(out.iter().all(|&s| (s as f64 / (want / channels as f64) - 1.0).abs() < 1e-5));
        }
    }

    #[test]
    fn extremes_have_positions() {
        let x = [1.0, 5.0, 2.0, 5.0, 5.0, f32::NAN, 0.0, 0.0];
        let find = |largest, last, shape: [usize; 3]| {
            let mut out = vec![-1; shape[0] * shape[2]];
            arg_extreme(largest, last, &x, shape, &mut out);
            out
        };
        assert_eq!(find(true, false, [2, 4, 1]), [1, 1]);
        assert_eq!(find(true, true, [2, 4, 1]), [3, 1]);
        assert_eq!(find(false, false, [1, 4, 2]), [3, 2]);
        assert_eq!(find(false, true, [4, 2, 1]), [0, 0, 1, 1]);
    }

    #[test]
    fn nothing_reduces_to_the_neutral_element() {
        let plan = Reduction::new(&[0, 2], &[0]);
        assert_eq!(run(&plan, Reduce::Sum, &[]), [0.0, 0.0]);
        assert_eq!(run(&plan, Reduce::Max, &[]), [f32::NEG_INFINITY; 2]);
        assert!(run(&Reduction::new(&[2, 0], &[0]), Reduce::Sum, &[]).is_empty());
        assert!(Reduction::to_shape(&[2, 3], &[2]).is_err());
    }

    #[test]
    fn many_results_of_no_elements() {
        let plan = Reduction::new(&[1 << 20, 0], &[1]);
        let mut out = vec![f32::NAN; plan.out_len()];
        let mut workspace = vec![f32::NAN; plan.workspace()];
        for (op, value) in [(Reduce::Sum, 0.0), (Reduce::Max, f32::NEG_INFINITY)] {
            plan.run(op, &[], &mut out, &mut workspace);
            assert!(out.len() == 1 << 20 && out.iter().all(|&x| x == value), "{op:?}");
        }
        let mut shortest = |run: &dyn Fn(&mut [f32], &mut [f32])| {
            let time = |_| {
                let start = std::time::Instant::now();
                run(&mut out, &mut workspace);
                start.elapsed()
            };
            (0..10).map(time).min().unwrap()
        };
        let filled = shortest(&|out, _| std::hint::black_box(out).fill(0.0));
        let reduced = shortest(&|out, workspace| plan.run(Reduce::Sum, &[], out, workspace));
        assert!(reduced < 8 * filled, "{reduced:?}, where filling takes {filled:?}");
    }
}
