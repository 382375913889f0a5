//! The forward pass and the gradient by the input.
#![allow(unsafe_code)]

use super::{CHANNELS, Inner, InnerBlock, MAX_POSITIONS, STRIP, Side, Strips, View, ZEROS};
use crate::conv::{Conv, Finish};
use crate::parallel;
use crate::product::{self, Job, MAX_DEPTH, Rows, Shared, dispatch};
use crate::simd::{Isa, Vector};

/// The forward pass, or the gradient by the input.
pub(crate) struct Gather<'a> {
    pub batch: usize,
    pub groups: usize,
    /// Channels of a group of the source and of the target.
    pub inputs: usize,
    pub outputs: usize,
    pub source: &'a [f32],
    /// The addend has the shape of the whole target.
    pub finish: Finish<'a>,
    /// Rows and columns of the target.
    pub target_size: (usize, usize),
}

/// The weights of a product.
pub(crate) struct Weights<'a> {
    pub data: &'a [f32],
    /// Distances between neighbouring channels of the source, channels of the target, and groups; kernel positions are
    /// neighbours.
    pub input_stride: usize,
    pub output_stride: usize,
    pub group_stride: usize,
    pub kernel_width: usize,
}

/// Values of the panels of a product whose targets have `outputs` channels in each group.
pub(crate) fn panels_len(conv: &Conv, outputs: usize) -> usize {
    // A panel of the right operand is whole vectors.
    conv.weight_len() / outputs * outputs.next_multiple_of(MAX_LANES)
}

/// Lanes of the widest vector.
const MAX_LANES: usize = 16;

/// How the right operand of a group is divided.
struct Division {
    strips: Option<Strips>,
    inner: Inner,
    /// Columns of the panels.
    padded: usize,
}

impl Division {
    #[inline(always)]
    fn new<V: Vector, const VECTORS: usize>(view: &View<'_>, outputs: usize) -> Division {
        let strips = Strips::new(view, BLOCK);
        let (taps, len) = match strips {
            Some(_) => (view.height.taps, view.len * view.width.taps),
            None => (view.taps(), view.len),
        };
        let inner = Inner::new(taps, len, product::depth(VECTORS * V::LANES));
        Division { strips, inner, padded: outputs.next_multiple_of(V::LANES) }
    }

    fn len(&self) -> usize {
        self.inner.taps * self.inner.len * self.padded
    }
}

impl Gather<'_> {
    fn view(&self, height: Side, width: Side, group: usize) -> View<'_> {
        View {
            data: self.source,
            channels: self.groups * self.inputs,
            first: group * self.inputs,
            len: self.inputs,
            height,
            width,
        }
    }

    /// Makes the panels of the right operand. Only shapes are looked at, the source and the finish may be empty.
    ///
    /// # Panics
    /// When a slice is too short.
    pub fn pack(&self, isa: Isa, height: Side, width: Side, weights: &Weights<'_>, panels: &mut [f32]) {
        for (group, panels) in panels.chunks_exact_mut(panels.len() / self.groups).enumerate() {
            let view = self.view(height, width, group);
            dispatch(isa, PackGroup { gather: self, weights, view, group, panels });
        }
    }

    /// Fills those positions of `target` that the sides say, with the panels that [`Gather::pack`] made for them.
    ///
    /// # Panics
    /// When a slice is too short.
    pub fn run(&self, isa: Isa, height: Side, width: Side, panels: &[f32], target: &mut [f32]) {
        let (images, channels) = (self.batch, self.groups * self.outputs);
        assert!(target.len() == images * self.target_size.0 * self.target_size.1 * channels);
        let reach = |side: &Side| (side.targets.max(1) - 1) * side.target_step + side.target_first;
        assert!(reach(&height) < self.target_size.0 && reach(&width) < self.target_size.1);
        assert!(self.finish.bias.is_none_or(|bias| bias.len() == channels));
        assert!(self.finish.addend.is_none_or(|addend| addend.len() == target.len()));
        if images * height.targets * width.targets == 0 {
            return;
        }
        let out = Shared(target.as_mut_ptr());
        for (group, panels) in panels.chunks_exact(panels.len() / self.groups).enumerate() {
            let view = self.view(height, width, group);
            view.check(images);
            dispatch(isa, GatherGroup { gather: self, view, group, isa, out, panels });
        }
    }
}

struct PackGroup<'a> {
    gather: &'a Gather<'a>,
    weights: &'a Weights<'a>,
    view: View<'a>,
    group: usize,
    panels: &'a mut [f32],
}

impl Job for PackGroup<'_> {
    #[inline(always)]
    fn run<V: Vector, const ROWS: usize, const VECTORS: usize>(self) {
        let PackGroup { gather, weights, view, group, panels } = self;
        let division = Division::new::<V, VECTORS>(&view, gather.outputs);
        let panels = &mut panels[..division.len()];
        let pack = Pack { weights, view, joined: division.strips.is_some(), group };
        pack.all(division.inner, gather.outputs, V::LANES, VECTORS * V::LANES, panels);
    }
}

struct GatherGroup<'a> {
    gather: &'a Gather<'a>,
    view: View<'a>,
    group: usize,
    isa: Isa,
    out: Shared,
    panels: &'a [f32],
}

/// Multiplications of a task, about, where there are enough.
const TASK_WORK: usize = 2 << 20;
/// Tasks that a product is divided into if it is large enough.
const TASKS: usize = 32;
/// Positions of a block.
const BLOCK: usize = 192;

impl Job for GatherGroup<'_> {
    #[inline(always)]
    fn run<V: Vector, const ROWS: usize, const VECTORS: usize>(self) {
        let GatherGroup { gather, view, group, isa, out, panels } = self;
        let self_view = view;
        let (n, tile_cols) = (gather.outputs, VECTORS * V::LANES);
        let division = Division::new::<V, VECTORS>(&view, n);
        let packed = &panels[..division.len()];
        let Division { strips, inner, padded } = division;

        let positions = gather.batch * view.height.targets * view.width.targets;
        let work = positions * n * (inner.taps * inner.len).max(1);
        let tasks = (work / TASK_WORK).clamp(1, TASKS);
        let (blocks, rows) = match strips {
            Some(strips) => (gather.batch * strips.per_image(&view), 0),
            None => {
                // A few rows more or less make the blocks equal.
                let blocks = positions.div_ceil(BLOCK).max(tasks.min(positions / (BLOCK / 2)));
                let rows = positions.div_ceil(blocks).next_multiple_of(ROWS);
                (positions.div_ceil(rows), rows)
            }
        };
        let col_parts = tasks.div_ceil(blocks).max(n.div_ceil(512)).min(n.div_ceil(2 * tile_cols));
        let cols = n.div_ceil(col_parts).next_multiple_of(tile_cols);
        let col_parts = n.div_ceil(cols);
        parallel::for_each(blocks * col_parts, |task| {
            let (block, first_col) = (task / col_parts, task % col_parts * cols);
            let end_col = n.min(first_col + cols);
            let mut memory;
            let (view, count, at) = match strips {
                Some(strips) => {
                    memory = [0.0; STRIP];
                    let (view, at) = strips.copy(&view, block, &mut memory);
                    (view, view.height.targets * view.width.targets, at)
                }
                None => (view, rows.min(positions - block * rows), block * rows),
            };
            let first = if strips.is_some() { 0 } else { at };
            let target = Target { gather, group, out, view: &self_view, at };
            let right = Right { inner, packed, padded, first_col, end_col };
            dispatch(isa, GatherBlock { isa, view, first, count, target, right });
        });
    }
}

/// The rows of the target that a block writes: `at` is the position of the first in the order of the view's targets.
struct Target<'a> {
    gather: &'a Gather<'a>,
    group: usize,
    out: Shared,
    view: &'a View<'a>,
    at: usize,
}

impl Target<'_> {
    /// Where the rows of the block are.
    fn fill(&self, rows: &mut [*mut f32]) {
        let gather = self.gather;
        let (height, width) = (&self.view.height, &self.view.width);
        let whole = |side: &Side, size: usize| side.target_step == 1 && side.targets == size;
        if whole(height, gather.target_size.0) && whole(width, gather.target_size.1) {
            for (position, slot) in (self.at..).zip(rows) {
                *slot = self.out.at((position * gather.groups + self.group) * gather.outputs);
            }
            return;
        }
        let mut place = self.view.place(self.at);
        for slot in rows {
            let row = place.row * height.target_step + height.target_first;
            let column = place.column * width.target_step + width.target_first;
            let row = place.image * gather.target_size.0 + row;
            let position = row * gather.target_size.1 + column;
            *slot = self.out.at((position * gather.groups + self.group) * gather.outputs);
            self.view.advance(&mut place, 1);
        }
    }

    /// Finishes some columns of the rows of the block.
    fn finish(&self, isa: Isa, rows: &[*mut f32], first_col: usize, end_col: usize) {
        let Target { gather, out, .. } = self;
        // Whole rows that follow each other are one.
        let joined = rows.windows(2).all(|pair| pair[1] == pair[0].wrapping_add(end_col - first_col));
        let (rows, len) = if joined { (&rows[..1], rows.len()) } else { (rows, 1) };
        for row in rows {
            let row = row.wrapping_add(first_col);
            // Addresses of one slice, `out` being its first.
            let at = (row as usize - out.0 as usize) / size_of::<f32>();
            // SAFETY: `Gather::run` checked that all rows of the target lie inside it; rows and columns of one task belong
            // to no other.
            let values = unsafe { std::slice::from_raw_parts_mut(row, len * (end_col - first_col)) };
            gather.finish.rest(isa, at, values);
        }
    }
}

/// The right operand of a block: the columns `first_col..end_col` of the packed weights, which have `padded` columns.
struct Right<'a> {
    inner: Inner,
    packed: &'a [f32],
    padded: usize,
    first_col: usize,
    end_col: usize,
}

/// The product of `count` positions from `first` on.
struct GatherBlock<'a> {
    isa: Isa,
    view: View<'a>,
    first: usize,
    count: usize,
    target: Target<'a>,
    right: Right<'a>,
}

/// Pointers to runs of a block, at most.
const TABLE: usize = 4352;

impl GatherBlock<'_> {
    /// Fills `table`, `(tile, run, row)`, with where the runs of a block start.
    #[inline(always)]
    fn fill<const ROWS: usize>(&self, block: &InnerBlock, table: &mut [*const f32]) {
        let view = &self.view;
        if view.is_pointwise() {
            let from = view.data[self.first * view.channels + view.first + block.first..].as_ptr();
            let rows = self.count.next_multiple_of(ROWS);
            for (at, slot) in table[..rows].iter_mut().enumerate() {
                // Rows behind the last are read but not written.
                *slot = from.wrapping_add(at.min(self.count - 1) * view.channels);
            }
            return;
        }
        let mut place = view.place(self.first);
        let taps = block.taps;
        let (top, left) = (block.tap / view.width.taps.max(1), block.tap % view.width.taps.max(1));
        let mut left_over = self.count;
        for tile in table.chunks_exact_mut(taps.max(1) * ROWS).take(self.count.div_ceil(ROWS)) {
            for r in 0..ROWS {
                let (mut row_tap, mut column_tap) = (top, left);
                for tap in 0..taps {
                    let at = if left_over > 0 { view.at(&place, row_tap, column_tap) } else { None };
                    tile[tap * ROWS + r] = match at {
                        Some(at) => view.data.as_ptr().wrapping_add(at + block.first),
                        None => ZEROS.as_ptr(),
                    };
                    column_tap += 1;
                    if column_tap == view.width.taps {
                        (row_tap, column_tap) = (row_tap + 1, 0);
                    }
                }
                if left_over > 0 {
                    left_over -= 1;
                    view.advance(&mut place, 1);
                }
            }
        }
    }
}

impl Job for GatherBlock<'_> {
    #[inline(always)]
    fn run<V: Vector, const ROWS: usize, const VECTORS: usize>(self) {
        let tile_cols = VECTORS * V::LANES;
        let Right { inner, packed, padded, first_col, end_col } = self.right;
        let mut targets = [std::ptr::null_mut(); MAX_POSITIONS];
        let targets = &mut targets[..self.count];
        self.target.fill(targets);
        let gather = self.target.gather;
        let bias =
            gather.finish.bias.map(|bias| &bias[self.target.group * gather.outputs..][..gather.outputs]);
        let mut table = [std::ptr::null(); TABLE];
        for index in 0..inner.count() {
            let block = inner.block(index);
            let depth = block.taps * block.len;
            assert!(block.len <= MAX_DEPTH && self.count.next_multiple_of(ROWS) * block.taps <= TABLE);
            self.fill::<ROWS>(&block, &mut table);
            let panels = &packed[inner.offset(&block) * padded..][..depth * padded];
            let (tiles, panel_count) =
                (targets.len().div_ceil(ROWS), (end_col - first_col).div_ceil(tile_cols));
            // Where the panels stay in the cache, rows of the target are written as a whole.
            let by_row = depth * (end_col - first_col) <= IN_CACHE;
            let (outer, inner) = if by_row { (tiles, panel_count) } else { (panel_count, tiles) };
            for (i, j) in (0..outer).flat_map(|i| (0..inner).map(move |j| (i, j))) {
                let (tile, panel) = if by_row { (i, j) } else { (j, i) };
                let (row, col) = (tile * ROWS, first_col + panel * tile_cols);
                let (count, cols) = (ROWS.min(targets.len() - row), tile_cols.min(end_col - col));
                let at = targets[row..row + count].as_ptr();
                let bias = bias.filter(|_| index == 0).map_or(std::ptr::null(), |bias| bias[col..].as_ptr());
                let rows = Rows { at, col, count, cols, accumulate: index > 0, bias };
                let a = table[tile * block.taps * ROWS..].as_ptr();
                let b = panels[col * depth..].as_ptr();
                // SAFETY: `fill` wrote the pointers of all runs of the tile, each to `len` values of the view, which
                // `View::check` or the way a strip is made vouches for, or to as many zeros. The panel of column `col`
                // has `depth` rows, as `Pack` made it. `Gather::run` checked that all rows of the target lie inside
                // it; rows and columns of one task belong to no other.
                unsafe {
                    product::gathered::<V, ROWS, VECTORS>(
                        cols.div_ceil(V::LANES),
                        (block.taps, block.len),
                        a,
                        b,
                        &rows,
                    );
                }
            }
        }
        if gather.finish.is_more() {
            self.target.finish(self.isa, targets, first_col, end_col);
        }
    }
}

/// Values of all panels of a block that stay in the first-level cache.
const IN_CACHE: usize = 4096;

/// Makes the panels of the right operand: for each block of the inner dimension, one panel after another, each of as
/// many columns as a tile, the last of whole vectors.
struct Pack<'a> {
    weights: &'a Weights<'a>,
    view: View<'a>,
    /// Whether the runs of a row of the kernel are one.
    joined: bool,
    group: usize,
}

impl Pack<'_> {
    fn all(&self, inner: Inner, n: usize, lanes: usize, tile_cols: usize, packed: &mut [f32]) {
        let padded = n.next_multiple_of(lanes);
        assert!(packed.len() == inner.taps * inner.len * padded);
        let out = Shared(packed.as_mut_ptr());
        let panel = |panel: usize| {
            let col = panel * tile_cols;
            let (cols, width) = (tile_cols.min(n - col), tile_cols.min(padded - col));
            // Few channels at a time, so that what they have for other kernel positions is still in the cache.
            for first in (0..inner.len).step_by(CHANNELS) {
                for tap in 0..inner.taps {
                    let block = inner.block_of(tap, first);
                    let depth = block.taps * block.len;
                    let row = (tap - block.tap) * block.len + first - block.first;
                    let at = inner.offset(&block) * padded + col * depth + row * width;
                    let count = CHANNELS.min(inner.len - first);
                    // SAFETY: blocks are disjoint parts of `packed`, and so are panels of a block and rows of a panel.
                    let rows = unsafe { std::slice::from_raw_parts_mut(out.at(at), count * width) };
                    self.rows(tap, first, col, cols, width, rows);
                }
            }
        };
        if packed.len() < parallel::CHUNK {
            (0..n.div_ceil(tile_cols)).for_each(panel);
        } else {
            parallel::for_each(n.div_ceil(tile_cols), panel);
        }
    }

    /// The columns `col..col + cols` of some values of a tap, with zeros up to `width` columns.
    fn rows(&self, tap: usize, first: usize, col: usize, cols: usize, width: usize, rows: &mut [f32]) {
        let Weights { data, input_stride, output_stride: stride, group_stride, kernel_width } = *self.weights;
        let (height, side) = (&self.view.height, &self.view.width);
        let weights = &data[self.group * group_stride + col * stride..];
        for (i, row) in rows.chunks_exact_mut(width).enumerate() {
            let (row_tap, column_tap, input) = match self.joined {
                true => (tap, (first + i) / self.view.len, (first + i) % self.view.len),
                false => (tap / side.taps, tap % side.taps, first + i),
            };
            let kernel = height.kernel_at(row_tap) * kernel_width + side.kernel_at(column_tap);
            let from = &weights[input * input_stride + kernel..];
            if width == 16 && cols == 16 {
                // The length is known: one check is enough.
                let (row, from) = (&mut row[..16], &from[..15 * stride + 1]);
                for c in 0..16 {
                    row[c] = from[c * stride];
                }
                continue;
            }
            for (c, slot) in row.iter_mut().enumerate() {
                *slot = if c < cols { from[c * stride] } else { 0.0 };
            }
        }
    }
}
