//! Convolutions as products whose left or right operand, the matrix of patches, never exists.
//!
//! [`Gather`] is the forward pass and the gradient by the input. Each output position is a row of the product. Its
//! patch is a run of input channels per kernel position, which the tiles read where it is; a run of zeros stands for
//! the padding. The gradient by the input at stride `s` splits into `s` times `s` such products, one for each remainder
//! of the input position by the stride: it meets every `s`-th kernel position only, always the same ones, at
//! neighbouring outputs.
//!
//! [`weight_grad`] sums over positions. Blocks of them are packed from where they are: the output gradients to panels
//! of a tile's rows, the inputs of a few kernel positions and channels to a panel of a tile's columns.
//!
//! Where a run of channels is very short, as that of an image of three, the part of the input that a block reads is
//! copied with its padding to a strip first. In it the runs of neighbouring kernel columns join to one.
#![allow(unsafe_code)]

use crate::conv::{Conv, Finish};
use crate::parallel;
use crate::product::{self, Job, MAX_COLS, MAX_DEPTH, Rows, Shared, dispatch};
use crate::relayout::permute;
use crate::simd::{Isa, Vector};
use crate::window::{Axis, gcd};

/// One spatial axis of a product: which positions of the source each position of the target meets. Target `i` is at
/// `target_first + i * target_step` of its axis. It meets, at tap `t`, the source position
/// `i * source_step + offset + t * offset_step` if that is in `0..sources`, with kernel position
/// `kernel_first + t * kernel_step`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Side {
    targets: usize,
    target_first: usize,
    target_step: usize,
    sources: usize,
    source_step: usize,
    taps: usize,
    kernel_first: usize,
    kernel_step: usize,
    offset: isize,
    offset_step: isize,
}

impl Side {
    /// Outputs are the targets, inputs the sources.
    pub fn forward(axis: &Axis) -> Side {
        Side {
            targets: axis.output,
            target_first: 0,
            target_step: 1,
            sources: axis.input,
            source_step: axis.stride,
            taps: axis.kernel,
            kernel_first: 0,
            kernel_step: 1,
            offset: -(axis.pad_begin as isize),
            offset_step: axis.dilation as isize,
        }
    }

    /// Inputs that leave the remainder `phase` by the stride are the targets, outputs the sources.
    pub fn backward(axis: &Axis, phase: usize) -> Side {
        let common = gcd(axis.stride, axis.dilation);
        let kernel_step = axis.stride / common;
        let distance = |kernel: usize| (phase + axis.pad_begin) as isize - (kernel * axis.dilation) as isize;
        let stride = axis.stride as isize;
        let first = (0..kernel_step.min(axis.kernel)).find(|&kernel| distance(kernel) % stride == 0);
        Side {
            targets: axis.input.saturating_sub(phase).div_ceil(axis.stride),
            target_first: phase,
            target_step: axis.stride,
            sources: axis.output,
            source_step: 1,
            taps: first.map_or(0, |first| (axis.kernel - first).div_ceil(kernel_step)),
            kernel_first: first.unwrap_or(0),
            kernel_step,
            offset: first.map_or(0, |first| distance(first) / stride),
            offset_step: -((axis.dilation / common) as isize),
        }
    }

    fn kernel_at(&self, tap: usize) -> usize {
        self.kernel_first + tap * self.kernel_step
    }

    /// The source position of a target at a tap, which may lie outside.
    #[inline(always)]
    fn source_at(&self, target: usize, tap: usize) -> isize {
        (target * self.source_step) as isize + self.offset + tap as isize * self.offset_step
    }

    /// The first targets and the number of those of `first..first + count` whose source at a tap is inside.
    #[inline(always)]
    fn inside(&self, first: usize, count: usize, tap: usize) -> (usize, usize) {
        let shift = self.offset + tap as isize * self.offset_step;
        let start = (-shift).max(0) as usize;
        let end = (self.sources as isize - shift).max(0) as usize;
        let start = start.div_ceil(self.source_step).clamp(first, first + count);
        let end = end.div_ceil(self.source_step).clamp(start, first + count);
        (start, end - start)
    }
}

/// Images of `(height, width, channels)` as the source of a product, of which every tap takes the `len` values from
/// `first` on of a position. Within a strip these may reach into the next positions.
#[derive(Clone, Copy)]
struct View<'a> {
    data: &'a [f32],
    channels: usize,
    first: usize,
    len: usize,
    height: Side,
    width: Side,
}

/// A position of the target in the order of memory, as `(image, row, column)`.
#[derive(Clone, Copy)]
struct Place {
    image: usize,
    row: usize,
    column: usize,
}

impl View<'_> {
    fn taps(&self) -> usize {
        self.height.taps * self.width.taps
    }

    /// Whether every target meets the source at its own position, and no other.
    fn is_pointwise(&self) -> bool {
        let same = |s: &Side| s.taps == 1 && s.offset == 0 && s.source_step == 1 && s.targets == s.sources;
        same(&self.height) && same(&self.width)
    }

    fn place(&self, at: usize) -> Place {
        let (height, width) = (self.height.targets, self.width.targets);
        Place { image: at / (height * width), row: at / width % height, column: at % width }
    }

    #[inline(always)]
    fn advance(&self, place: &mut Place, count: usize) {
        place.column += count;
        if place.column == self.width.targets {
            place.column = 0;
            place.row += 1;
            if place.row == self.height.targets {
                place.row = 0;
                place.image += 1;
            }
        }
    }

    /// Checks what the unsafe code below relies on: every source position that a place of the first `images` images
    /// meets, and that is inside its axes, has `len` values in `data`.
    fn check(&self, images: usize) {
        let positions = images * self.height.sources * self.width.sources;
        assert!(
            positions == 0 || (positions - 1) * self.channels + self.first + self.len <= self.data.len(),
            "a view exceeds its slice"
        );
    }

    /// Where the values of a place start at a tap, if they are not padding.
    #[inline(always)]
    fn at(&self, place: &Place, row_tap: usize, column_tap: usize) -> Option<usize> {
        let row = self.height.source_at(place.row, row_tap);
        let column = self.width.source_at(place.column, column_tap);
        // A negative position is a very large one.
        let inside = (row as usize) < self.height.sources && (column as usize) < self.width.sources;
        let row = place.image.wrapping_mul(self.height.sources).wrapping_add(row as usize);
        let position = row.wrapping_mul(self.width.sources).wrapping_add(column as usize);
        inside.then(|| position * self.channels + self.first)
    }
}

/// Positions of a block of a product, at most.
const MAX_POSITIONS: usize = 256;

/// Values of a strip, at most.
const STRIP: usize = 16 * 1024;

/// How the blocks of a product over strips are made: whole rows of the target.
#[derive(Clone, Copy)]
struct Strips {
    /// Rows of the target of a block.
    rows: usize,
    /// Columns of the source and its padding.
    columns: usize,
}

impl Strips {
    /// Strips of blocks of up to `positions` positions, where they are worth it.
    fn new(view: &View<'_>, positions: usize) -> Option<Strips> {
        let (height, width) = (&view.height, &view.width);
        let joins = width.taps > 1 && width.offset_step == 1 && view.len == view.channels;
        let short = view.len < 16 && view.len * width.taps <= MAX_DEPTH / 2;
        if !joins || !short || width.targets == 0 || width.targets > MAX_POSITIONS || height.taps == 0 {
            return None;
        }
        let columns = (width.targets - 1) * width.source_step + width.taps;
        let fit = (STRIP / columns.saturating_mul(view.channels).max(1))
            .checked_sub(((height.taps - 1) as isize * height.offset_step).unsigned_abs() + 1)?;
        let rows = (positions / width.targets).max(1).min(fit / height.source_step + 1);
        let parts = height.targets.div_ceil(rows);
        Some(Strips { rows: height.targets.div_ceil(parts), columns })
    }

    /// Blocks of an image.
    fn per_image(&self, view: &View<'_>) -> usize {
        view.height.targets.div_ceil(self.rows)
    }

    /// Copies what block `block` of all images reads. Returns the view of the copy, in which the block is an image of
    /// its own, and the position of the block in the target.
    fn copy<'a>(&self, view: &View<'_>, block: usize, strip: &'a mut [f32]) -> (View<'a>, usize) {
        let per_image = self.per_image(view);
        let (image, first) = (block / per_image, block % per_image * self.rows);
        let (height, width) = (&view.height, &view.width);
        let targets = self.rows.min(height.targets - first);
        let reach = (height.taps - 1) as isize * height.offset_step;
        let top = (first * height.source_step) as isize + height.offset + reach.min(0);
        let rows = (targets - 1) * height.source_step + reach.unsigned_abs() + 1;
        let row_len = self.columns * view.channels;
        let strip = &mut strip[..rows * row_len];
        // The source columns that are inside, as columns of the strip.
        let left = (-width.offset).clamp(0, self.columns as isize) as usize;
        let right =
            (width.sources as isize - width.offset).clamp(left as isize, self.columns as isize) as usize;
        for (i, strip) in strip.chunks_exact_mut(row_len).enumerate() {
            let row = top + i as isize;
            if row < 0 || row as usize >= height.sources || left == right {
                strip.fill(0.0);
                continue;
            }
            let row = image * height.sources + row as usize;
            let from = row * width.sources + (left as isize + width.offset) as usize;
            strip[..left * view.channels].fill(0.0);
            strip[right * view.channels..].fill(0.0);
            strip[left * view.channels..right * view.channels]
                .copy_from_slice(&view.data[from * view.channels..][..(right - left) * view.channels]);
        }
        let height = Side { targets, sources: rows, offset: (-reach).max(0), ..*height };
        // The last target starts `width.taps` columns before the end, which is where its run ends.
        let joined = Side { sources: self.columns, taps: 1, offset: 0, ..*width };
        let len = view.len * width.taps;
        let at = (image * view.height.targets + first) * width.targets;
        (View { data: strip, channels: view.channels, first: 0, len, height, width: joined }, at)
    }
}

/// The order of the inner dimension of a product: run after run of equal length, in blocks that a panel holds.
#[derive(Clone, Copy)]
struct Inner {
    /// Number of runs.
    taps: usize,
    /// Values of a run.
    len: usize,
    /// Runs of a block, if blocks are whole runs; else 1.
    block_taps: usize,
    /// Values of a run in a block.
    block_len: usize,
}

/// Part of the inner dimension of a product: of runs `tap..tap + taps`, the values `first..first + len`.
#[derive(Clone, Copy)]
struct InnerBlock {
    tap: usize,
    taps: usize,
    first: usize,
    len: usize,
}

impl Inner {
    /// Blocks of at most `depth` values.
    fn new(taps: usize, len: usize, depth: usize) -> Inner {
        let pieces = len.div_ceil(depth);
        if pieces > 1 {
            return Inner {
                taps,
                len,
                block_taps: 1,
                block_len: len.div_ceil(pieces).next_multiple_of(CHANNELS),
            };
        }
        let blocks = taps.div_ceil((depth / len).clamp(1, MAX_TAPS)).max(1);
        Inner { taps, len, block_taps: taps.div_ceil(blocks).max(1), block_len: len }
    }

    /// Number of blocks, at least 1: an empty sum has one of no runs.
    fn count(self) -> usize {
        (self.taps.div_ceil(self.block_taps) * self.len.div_ceil(self.block_len)).max(1)
    }

    fn block(self, index: usize) -> InnerBlock {
        let pieces = self.len.div_ceil(self.block_len);
        let (tap, first) = (index / pieces * self.block_taps, index % pieces * self.block_len);
        let taps = self.block_taps.min(self.taps - tap);
        InnerBlock { tap, taps, first, len: self.block_len.min(self.len - first) }
    }

    /// The block that holds a value of a run.
    fn block_of(self, tap: usize, value: usize) -> InnerBlock {
        let pieces = self.len.div_ceil(self.block_len);
        self.block(tap / self.block_taps * pieces + value / self.block_len)
    }

    /// Where a block starts in the inner dimension.
    fn offset(self, block: &InnerBlock) -> usize {
        block.tap * self.len + block.first
    }
}

/// Runs of a block, at most.
const MAX_TAPS: usize = 16;

/// Where a run of padding is read.
static ZEROS: [f32; MAX_DEPTH] = [0.0; MAX_DEPTH];

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

/// Values of a run that are packed at a time, and that blocks are multiples of.
const CHANNELS: usize = 8;

/// How the gradient by the weights is divided into tasks, by shape alone.
#[derive(Clone, Copy)]
struct WeightDivision {
    /// Whether the rows of the product are the input channels, the columns the output channels.
    swapped: bool,
    /// Rows and columns of the product of a group.
    rows: usize,
    cols: usize,
    /// Partial sums over positions.
    parts: usize,
    /// Rows and columns of a task.
    task_rows: usize,
    task_cols: usize,
}

/// Values of all partial sums, about.
const PARTIAL_SUMS: usize = 1 << 20;
/// Partial sums, at most.
const MAX_PARTS: usize = 8;
/// Tasks, where there is enough to do.
const WEIGHT_TASKS: usize = 16;
/// Rows of a task, at most, and at least if it has others beside it; all tiles' rows divide the unit.
const MAX_TASK_ROWS: usize = 192;
const MIN_TASK_ROWS: usize = 96;
const ROW_UNIT: usize = 24;
/// Columns of a task, at least if it has others beside it.
const MIN_TASK_COLS: usize = 384;

impl WeightDivision {
    fn new(conv: &Conv) -> WeightDivision {
        let (inputs, outputs) = (conv.in_channels / conv.groups, conv.out_channels / conv.groups);
        let kernel = conv.window.kernel_len();
        // Packing a row costs more than packing a column.
        let swapped = conv.is_pointwise() && inputs < outputs;
        let (rows, cols) = if swapped { (inputs, outputs) } else { (outputs, inputs * kernel) };
        let positions = conv.batch * conv.window.output_len();
        let parts = (PARTIAL_SUMS / conv.weight_len()).min(positions / MAX_DEPTH).clamp(1, MAX_PARTS);
        let parts = 1 << parts.ilog2();
        let row_parts = rows.div_ceil(MAX_TASK_ROWS);
        let wanted = WEIGHT_TASKS.div_ceil(parts * conv.groups).min(rows / MIN_TASK_ROWS);
        let row_parts = row_parts.max(wanted);
        let col_parts =
            WEIGHT_TASKS.div_ceil(parts * conv.groups * row_parts).min(cols / MIN_TASK_COLS).max(1);
        let task_rows = rows.div_ceil(row_parts).next_multiple_of(ROW_UNIT);
        let task_cols = cols.div_ceil(col_parts).next_multiple_of(MAX_COLS);
        WeightDivision { swapped, rows, cols, parts, task_rows, task_cols }
    }

    fn row_parts(&self) -> usize {
        self.rows.div_ceil(self.task_rows)
    }

    fn col_parts(&self) -> usize {
        self.cols.div_ceil(self.task_cols)
    }

    /// Number of tasks.
    fn tasks(&self, groups: usize) -> usize {
        groups * self.parts * self.row_parts() * self.col_parts()
    }
}

/// Workspace of [`weight_grad`], in `f32`.
pub(crate) fn weight_grad_workspace(conv: &Conv) -> usize {
    let division = WeightDivision::new(conv);
    division.parts * conv.weight_len() + division.tasks(conv.groups) * MAX_DEPTH * division.task_rows
}

/// See [`crate::conv::weight_grad`], which checks the lengths.
pub(crate) fn weight_grad(
    isa: Isa,
    conv: &Conv,
    x: &[f32],
    dy: &[f32],
    dw: &mut [f32],
    workspace: &mut [f32],
) {
    let division = WeightDivision::new(conv);
    let kernel = conv.window.kernel_len();
    let (sums, panels) = workspace[..weight_grad_workspace(conv)].split_at_mut(division.parts * dw.len());
    if division.parts == 1 && kernel == 1 && !division.swapped {
        return add_positions(isa, conv, &division, x, dy, dw, panels);
    }
    add_positions(isa, conv, &division, x, dy, sums, panels);
    let (sum, partials) = sums.split_at_mut(dw.len());
    parallel::add_partials(partials, sum);
    if division.swapped {
        permute(sum, &[conv.groups, division.rows, division.cols], &[0, 2, 1], dw);
    } else {
        permute(sum, &[conv.out_channels, kernel, conv.in_channels / conv.groups], &[0, 2, 1], dw);
    }
}

/// Fills `sums`, `(parts, groups, rows, cols)`.
fn add_positions(
    isa: Isa,
    conv: &Conv,
    division: &WeightDivision,
    x: &[f32],
    dy: &[f32],
    sums: &mut [f32],
    panels: &mut [f32],
) {
    assert!(sums.len() == division.parts * conv.weight_len());
    let out = Shared(sums.as_mut_ptr());
    parallel::for_each_chunk(panels, MAX_DEPTH * division.task_rows, |task, panels| {
        let (col, rest) = (task % division.col_parts(), task / division.col_parts());
        let (row, rest) = (rest % division.row_parts(), rest / division.row_parts());
        let (part, group) = (rest % division.parts, rest / division.parts);
        let (row, col) = (row * division.task_rows, col * division.task_cols);
        let (inputs, outputs) = (conv.in_channels / conv.groups, conv.out_channels / conv.groups);
        let sides = (Side::forward(&conv.window.height), Side::forward(&conv.window.width));
        let (left, left_channels, right, channels, len) = match division.swapped {
            true => (x, conv.in_channels, dy, conv.out_channels, outputs),
            false => (dy, conv.out_channels, x, conv.in_channels, inputs),
        };
        let view = View { data: right, channels, first: group * len, len, height: sides.0, width: sides.1 };
        view.check(conv.batch);
        let task = WeightTask {
            left,
            left_channels,
            left_first: group * division.rows + row,
            view,
            batch: conv.batch,
            part: (part, division.parts),
            rows: division.task_rows.min(division.rows - row),
            cols: (col, division.cols.min(col + division.task_cols)),
            out: out.at((part * conv.groups + group) * division.rows * division.cols + row * division.cols),
            out_stride: division.cols,
            panels,
        };
        dispatch(isa, task);
    });
}

/// The sums of some positions, rows and columns.
struct WeightTask<'a> {
    /// The left operand: values of `rows` channels from `left_first` on for each position of the target.
    left: &'a [f32],
    left_channels: usize,
    left_first: usize,
    view: View<'a>,
    batch: usize,
    /// Which of how many parts of the positions.
    part: (usize, usize),
    rows: usize,
    cols: (usize, usize),
    /// The sums of the first row and column 0, and the distance of rows.
    out: *mut f32,
    out_stride: usize,
    panels: &'a mut [f32],
}

impl Job for WeightTask<'_> {
    #[inline(always)]
    fn run<V: Vector, const ROWS: usize, const VECTORS: usize>(self) {
        let WeightTask { view, rows, cols, panels, .. } = self;
        let tile_cols = VECTORS * V::LANES;
        let positions = self.batch * view.height.targets * view.width.targets;
        let strips = Strips::new(&view, MAX_DEPTH);
        let depth = product::depth(tile_cols);
        let blocks = match strips {
            Some(strips) => self.batch * strips.per_image(&view),
            None => positions.div_ceil(depth),
        };
        let depth = positions.div_ceil(blocks.max(1));
        let per_part = blocks.div_ceil(self.part.1);
        let mine = self.part.0 * per_part..((self.part.0 + 1) * per_part).min(blocks);
        if mine.is_empty() {
            for row in 0..rows {
                for col in cols.0..cols.1 {
                    // SAFETY: the task owns these sums, see below.
                    unsafe { self.out.add(row * self.out_stride + col).write(0.0) };
                }
            }
            return;
        }
        let mut right = [0.0; RIGHT];
        let mut starts = [std::ptr::null_mut(); MAX_TASK_ROWS];
        for (r, start) in starts[..rows].iter_mut().enumerate() {
            *start = self.out.wrapping_add(r * self.out_stride);
        }
        let mut memory;
        let memory: &mut [f32] = if strips.is_some() {
            memory = [0.0; STRIP];
            &mut memory
        } else {
            &mut []
        };
        for block in mine.clone() {
            let (view, first, count, at) = match strips {
                Some(strips) => {
                    let (strip, at) = strips.copy(&view, block, memory);
                    (strip, 0, strip.height.targets * strip.width.targets, at)
                }
                None => {
                    (view, block * depth, depth.min(positions.saturating_sub(block * depth)), block * depth)
                }
            };
            assert!(count <= MAX_DEPTH);
            let left = &self.left[at * self.left_channels + self.left_first..];
            pack_rows::<ROWS>(left, self.left_channels, count, rows, panels);
            // Several panels at a time, so that neighbouring columns are read together.
            let group_cols = (RIGHT / count / tile_cols).max(1) * tile_cols;
            for first_col in (cols.0..cols.1).step_by(group_cols) {
                let end_col = cols.1.min(first_col + group_cols);
                view.pack_cols::<V>(first, count, (first_col, end_col), tile_cols, &mut right);
                for col in (first_col..end_col).step_by(tile_cols) {
                    let width = tile_cols.min(end_col - col);
                    let vectors = width.div_ceil(V::LANES);
                    let b = right[(col - first_col) * count..][..count * vectors * V::LANES].as_ptr();
                    for row in (0..rows).step_by(ROWS) {
                        let to = Rows {
                            at: starts[row..].as_ptr(),
                            col,
                            count: ROWS.min(rows - row),
                            cols: width,
                            accumulate: block != mine.start,
                            bias: std::ptr::null(),
                        };
                        let a = panels[row * count..][..ROWS * count].as_ptr();
                        // SAFETY: both panels have `count` rows as `pack_rows` and `pack_cols` made them.
                        // `add_positions` checked that there are sums for all rows and columns, of which those of one
                        // task belong to no other; `starts` has where all rows start.
                        unsafe { product::packed::<V, ROWS, VECTORS>(vectors, count, (a, ROWS), b, &to) };
                    }
                }
            }
        }
    }
}

/// Values of the panels of columns that are packed together. One panel fits in any case.
const RIGHT: usize = 128 * MAX_DEPTH;

/// Packs `rows` channels of `count` positions to panels of `ROWS` channels, the last of which is filled up with zeros.
#[inline(always)]
fn pack_rows<const ROWS: usize>(
    data: &[f32],
    channels: usize,
    count: usize,
    rows: usize,
    panels: &mut [f32],
) {
    // Few positions at a time, so that memory is read in order and written in long enough pieces.
    const STEP: usize = 16;
    for first in (0..count).step_by(STEP) {
        for row in (0..rows).step_by(ROWS) {
            let panel = &mut panels[row * count..][..ROWS * count];
            let (panel, _) = panel.as_chunks_mut::<ROWS>();
            let panel = &mut panel[first..count.min(first + STEP)];
            let from = &data[first * channels + row..];
            if row + ROWS <= rows {
                assert!((panel.len() - 1) * channels + ROWS <= from.len());
                for (p, to) in panel.iter_mut().enumerate() {
                    // SAFETY: checked above for the last position; an array is aligned like its elements.
                    *to = unsafe { from.as_ptr().add(p * channels).cast::<[f32; ROWS]>().read() };
                }
            } else {
                for (p, to) in panel.iter_mut().enumerate() {
                    *to = [0.0; ROWS];
                    to[..rows - row].copy_from_slice(&from[p * channels..][..rows - row]);
                }
            }
        }
    }
}

impl View<'_> {
    /// Packs the columns `cols` of the patches of `count` positions from `first` on to panels of `tile_cols` columns, the
    /// last of whole vectors, of which only the first columns are written.
    #[inline(always)]
    fn pack_cols<V: Vector>(
        &self,
        first: usize,
        count: usize,
        cols: (usize, usize),
        tile_cols: usize,
        panels: &mut [f32],
    ) {
        let last_width = (cols.1 - cols.0 - 1) % tile_cols + 1;
        let last_width = last_width.next_multiple_of(V::LANES);
        let mut col = cols.0;
        while col < cols.1 {
            let (tap, channel) = (col / self.len, col % self.len);
            let len = (self.len - channel).min(cols.1 - col);
            let (row_tap, column_tap) = (tap / self.width.taps, tap % self.width.taps);
            let mut place = self.place(first);
            let mut at = 0;
            while at < count {
                let run = (self.width.targets - place.column).min(count - at);
                let row = self.height.source_at(place.row, row_tap);
                let (start, inside) = match (row as usize) < self.height.sources {
                    true => self.width.inside(place.column, run, column_tap),
                    false => (place.column, 0),
                };
                let before = start - place.column;
                let from = if inside > 0 {
                    let row = place.image * self.height.sources + row as usize;
                    let column = self.width.source_at(start, column_tap) as usize;
                    &self.data[(row * self.width.sources + column) * self.channels + self.first + channel..]
                } else {
                    &[]
                };
                let step = self.width.source_step * self.channels;
                // A row of an image is read from end to end once or a few times; its columns stay in the cache.
                let mut done = 0;
                while done < len {
                    let place = col + done - cols.0;
                    let (panel, within) = (place / tile_cols * tile_cols, place % tile_cols);
                    let width = if panel + tile_cols > cols.1 - cols.0 { last_width } else { tile_cols };
                    let piece = (tile_cols - within).min(len - done);
                    let panel = &mut panels[panel * count..][..width * count];
                    let to = |p: usize| (at + p) * width + within;
                    for p in (0..before).chain(before + inside..run) {
                        panel[to(p)..][..piece].fill(0.0);
                    }
                    if inside > 0 {
                        copy_runs::<V>(&from[done..], step, &mut panel[to(before)..], width, piece, inside);
                    }
                    done += piece;
                }
                at += run;
                self.advance(&mut place, run);
            }
            col += len;
        }
    }
}

/// Copies a few values.
///
/// # Safety
/// Both must be valid for `count` values.
#[inline(always)]
unsafe fn copy_rest(from: *const f32, to: *mut f32, count: usize) {
    // SAFETY: as the caller.
    unsafe {
        match count {
            1 => to.write(from.read()),
            2 => to.cast::<[f32; 2]>().write(from.cast::<[f32; 2]>().read()),
            3 => to.cast::<[f32; 3]>().write(from.cast::<[f32; 3]>().read()),
            _ => from.copy_to_nonoverlapping(to, count),
        }
    }
}

/// Copies `count` runs of `len` values.
#[inline(always)]
fn copy_runs<V: Vector>(
    from: &[f32],
    from_step: usize,
    to: &mut [f32],
    to_step: usize,
    len: usize,
    count: usize,
) {
    assert!((count - 1) * from_step + len <= from.len() && (count - 1) * to_step + len <= to.len());
    let (mut from, mut to) = (from.as_ptr(), to.as_mut_ptr());
    for _ in 0..count {
        let mut at = 0;
        while at + V::LANES <= len {
            // SAFETY: the assertion covers `len` values of each run.
            unsafe { V::load(from.add(at)).store(to.add(at)) };
            at += V::LANES;
        }
        if at + 4 <= len {
            // SAFETY: as above.
            unsafe { <[f32; 4]>::load(from.add(at)).store(to.add(at)) };
            at += 4;
        }
        if at < len {
            // SAFETY: as above; fewer values are left than were copied at a time.
            unsafe { copy_rest(from.add(at), to.add(at), len - at) };
        }
        (from, to) = (from.wrapping_add(from_step), to.wrapping_add(to_step));
    }
}
