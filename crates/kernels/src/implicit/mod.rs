//! Convolutions as products whose left or right operand, the matrix of patches, never exists.
//!
//! [`Gather`] is the forward pass and the gradient by the input. Each output position is a row of the product. Its
//! patch is a run of input channels per kernel position, which the tiles read where it is; a run of zeros stands for
//! the padding. The gradient by the input at stride `s` splits into `s` times `s` such products, one for each remainder
//! of the input position by the stride: it meets every `s`-th kernel position only, always the same ones, at
//! neighbouring outputs.
//!
//! [`weight_grad()`] sums over positions. Blocks of them are packed from where they are: the output gradients to panels
//! of a tile's rows, the inputs of a few kernel positions and channels to a panel of a tile's columns.
//!
//! Where a run of channels is very short, as that of an image of three, the part of the input that a block reads is
//! copied with its padding to a strip first. In it the runs of neighbouring kernel columns join to one.

mod gather;
mod weight_grad;

use crate::product::MAX_DEPTH;
use crate::window::{Axis, gcd};
pub(crate) use gather::{Gather, Weights, panels_len};
pub(crate) use weight_grad::{weight_grad, weight_grad_workspace};

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

/// Values of a run that are packed at a time, and that blocks are multiples of.
const CHANNELS: usize = 8;
