//! The gradient by the weights.
#![allow(unsafe_code)]

use super::{STRIP, Side, Strips, View};
use crate::conv::Conv;
use crate::parallel;
use crate::product::{self, Job, MAX_COLS, MAX_DEPTH, Rows, Shared, dispatch};
use crate::relayout::permute;
use crate::simd::{Isa, Vector};

/// How the gradient by the weights is divided into tasks, by shape alone.
#[derive(Clone, Copy)]
struct Division {
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

impl Division {
    fn new(conv: &Conv) -> Division {
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
        Division { swapped, rows, cols, parts, task_rows, task_cols }
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
    let division = Division::new(conv);
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
    let division = Division::new(conv);
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
    division: &Division,
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
