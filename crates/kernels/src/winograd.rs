//! Gradients of 3x3 convolutions of stride 1 with a quarter of the multiplications.
//!
//! The minimal filtering algorithm `F(4x4, 3x3)` of Lavin and Gray, *Fast algorithms for convolutional neural networks*
//! (CVPR 2016), after Winograd. A tile of 4x4 outputs of one pair of channels is
//!
//! ```text
//! y = Aᵀ [ (G g Gᵀ) ∘ (Bᵀ d B) ] A          g: 3x3 weights, d: 6x6 inputs
//! ```
//!
//! so that the sum over channels becomes 36 matrix products, one for each element of the 6x6 squares. The gradient by the
//! input is such a convolution of the output gradients with the turned kernel. The gradient by the weights is the adjoint
//! by `g`, `Gᵀ [ (A dy Aᵀ) ∘ (Bᵀ d B) ] G`, whose 36 products sum over tiles.
//!
//! The squares are values of polynomials at the points 0, ±[`P`], ±[`Q`] and infinity. Rounding errors are a few times
//! those of the direct sum, which gradients bear; the forward pass does without, so that its results stay as close to
//! other runtimes as sums in another order are.
#![allow(unsafe_code)]

use crate::conv::Conv;
use crate::parallel;
use crate::product::{self, Job, MAX_COLS, Rows, Shared, dispatch};
use crate::simd::{Isa, Vector};
use crate::window::Axis;

/// Whether the gradients of a convolution are found this way: vectors are whole, and channels and tiles enough for what the
/// products save to outweigh the transforms.
pub(crate) fn applies(conv: &Conv) -> bool {
    let axis = |a: &Axis| a.kernel == 3 && a.stride == 1 && a.dilation == 1;
    let channels = |n: usize| n >= MIN_CHANNELS && n.is_multiple_of(MAX_LANES);
    conv.groups == 1
        && axis(&conv.window.height)
        && axis(&conv.window.width)
        && channels(conv.in_channels)
        && channels(conv.out_channels)
        && Shape::of_outputs(conv).tiles >= MIN_TILES
}

/// Fewest channels on either side.
const MIN_CHANNELS: usize = 32;
/// Fewest tiles, which the transforms of weights are made for.
const MIN_TILES: usize = 64;
/// Lanes of the widest vector.
const MAX_LANES: usize = 16;
/// Elements of a transformed square.
const POINTS: usize = 36;
/// Outputs of a tile along an axis.
const TILE: usize = 4;
/// Values between rows and between matrices, without which those of a power of two would compete for one set of the cache.
const GAP: usize = 16;

/// A linear map of one axis.
trait Map<const IN: usize, const OUT: usize> {
    fn map<V: Vector>(x: [V; IN]) -> [V; OUT];
}

/// The finite points other than 0 are `±P` and `±Q`. With these, errors of sums over 256 channels have 1.7 times the size of
/// those of direct sums; with the usual 1 and 2 it is 4.
const P: f32 = 2.0 / 3.0;
const Q: f32 = 1.5;
const P2: f32 = P * P;
const Q2: f32 = Q * Q;
/// `1 / Π (point - other points)` for 0, `±P` and `±Q`.
const N0: f32 = 1.0 / (P2 * Q2);
const NP: f32 = 1.0 / (2.0 * P2 * (P2 - Q2));
const NQ: f32 = 1.0 / (2.0 * Q2 * (Q2 - P2));

#[inline(always)]
fn times<V: Vector>(x: V, factor: f32) -> V {
    x.mul(V::splat(factor))
}

/// `x * factor + y`.
#[inline(always)]
fn axpy<V: Vector>(factor: f32, x: V, y: V) -> V {
    x.mul_add(V::splat(factor), y)
}

/// The sum and the difference.
#[inline(always)]
fn butterfly<V: Vector>(even: V, odd: V) -> [V; 2] {
    [even.add(odd), axpy(-1.0, odd, even)]
}

/// `Bᵀ`, of inputs.
struct Inputs;

impl Map<6, 6> for Inputs {
    #[inline(always)]
    fn map<V: Vector>([d0, d1, d2, d3, d4, d5]: [V; 6]) -> [V; 6] {
        let ends = |a: V, b: V, c: V| axpy(P2 * Q2, a, axpy(-(P2 + Q2), b, c));
        let [p, minus_p] = butterfly(axpy(-Q2, d2, d4), times(axpy(-Q2, d1, d3), P));
        let [q, minus_q] = butterfly(axpy(-P2, d2, d4), times(axpy(-P2, d1, d3), Q));
        [ends(d0, d2, d4), p, minus_p, q, minus_q, ends(d1, d3, d5)]
    }
}

/// `G`, of weights.
struct Weights;

impl Map<3, 6> for Weights {
    #[inline(always)]
    fn map<V: Vector>([g0, g1, g2]: [V; 3]) -> [V; 6] {
        let [p, minus_p] = butterfly(times(axpy(P2, g2, g0), NP), times(g1, NP * P));
        let [q, minus_q] = butterfly(times(axpy(Q2, g2, g0), NQ), times(g1, NQ * Q));
        [times(g0, N0), p, minus_p, q, minus_q, g2]
    }
}

/// `Gᵀ`, to gradients of weights.
struct ToWeights;

impl Map<6, 3> for ToWeights {
    #[inline(always)]
    fn map<V: Vector>([m0, m1, m2, m3, m4, m5]: [V; 6]) -> [V; 3] {
        let ([sum_p, difference_p], [sum_q, difference_q]) = (butterfly(m1, m2), butterfly(m3, m4));
        let (even_p, even_q) = (times(sum_p, NP), times(sum_q, NQ));
        [
            axpy(N0, m0, even_p.add(even_q)),
            axpy(NP * P, difference_p, times(difference_q, NQ * Q)),
            axpy(P2, even_p, axpy(Q2, even_q, m5)),
        ]
    }
}

/// `Aᵀ`, to outputs.
struct ToOutputs;

impl Map<6, 4> for ToOutputs {
    #[inline(always)]
    fn map<V: Vector>([m0, m1, m2, m3, m4, m5]: [V; 6]) -> [V; 4] {
        let ([sum_p, difference_p], [sum_q, difference_q]) = (butterfly(m1, m2), butterfly(m3, m4));
        [
            m0.add(sum_p.add(sum_q)),
            axpy(P, difference_p, times(difference_q, Q)),
            axpy(P2, sum_p, times(sum_q, Q2)),
            axpy(P2 * P, difference_p, axpy(Q2 * Q, difference_q, m5)),
        ]
    }
}

/// `A`, of gradients of outputs.
struct Outputs;

impl Map<4, 6> for Outputs {
    #[inline(always)]
    fn map<V: Vector>([y0, y1, y2, y3]: [V; 4]) -> [V; 6] {
        let [p, minus_p] = butterfly(axpy(P2, y2, y0), times(axpy(P2, y3, y1), P));
        let [q, minus_q] = butterfly(axpy(Q2, y2, y0), times(axpy(Q2, y3, y1), Q));
        [y0, p, minus_p, q, minus_q, y3]
    }
}

/// A map of both axes of a square.
#[inline(always)]
fn both<M: Map<IN, OUT>, V: Vector, const IN: usize, const OUT: usize>(x: &[[V; IN]; IN]) -> [[V; OUT]; OUT] {
    let mut columns = [[V::splat(0.0); IN]; OUT];
    for j in 0..IN {
        let column = M::map(std::array::from_fn(|i| x[i][j]));
        for i in 0..OUT {
            columns[i][j] = column[i];
        }
    }
    let mut out = [[V::splat(0.0); OUT]; OUT];
    for (out, row) in out.iter_mut().zip(&columns) {
        *out = M::map(*row);
    }
    out
}

/// Images of `(height, width, channels)` cut to tiles. Tile `(i, j)` begins at `(4 i + top, 4 j + left)`.
#[derive(Clone, Copy)]
struct Image {
    height: usize,
    width: usize,
    channels: usize,
    top: isize,
    left: isize,
    /// Tiles of an image along both axes.
    tiles: (usize, usize),
}

/// What a tile has outside of its image.
const OUTSIDE: usize = usize::MAX;

impl Image {
    /// Where the channels of the square of a tile start.
    fn square<const SIZE: usize>(&self, tile: usize) -> [[usize; SIZE]; SIZE] {
        let (rows, columns) = self.tiles;
        let (image, row, column) = (tile / (rows * columns), tile / columns % rows, tile % columns);
        let at = |i: usize, size: usize, first: isize| {
            usize::try_from(i as isize + first).ok().filter(|&i| i < size)
        };
        std::array::from_fn(|i| {
            std::array::from_fn(|j| {
                let row = at(row * TILE + i, self.height, self.top);
                let column = at(column * TILE + j, self.width, self.left);
                let position = |(row, column)| (image * self.height + row) * self.width + column;
                row.zip(column).map_or(OUTSIDE, |place| position(place) * self.channels)
            })
        })
    }
}

/// The tiles of a convolution and what they read and write.
struct Shape {
    /// All tiles.
    tiles: usize,
    x: Image,
    dy: Image,
}

impl Shape {
    /// For the gradient by the input, whose tiles are those of `x`.
    fn of_inputs(conv: &Conv) -> Shape {
        let (height, width) = (conv.window.height, conv.window.width);
        let tiles = (height.input.div_ceil(TILE), width.input.div_ceil(TILE));
        // The kernel is turned: the last tap comes first.
        let first = |axis: &Axis| axis.pad_begin as isize - 2;
        Shape::new(conv, tiles, (0, 0), (first(&height), first(&width)))
    }

    /// For the gradient by the weights, whose tiles are those of `dy`.
    fn of_outputs(conv: &Conv) -> Shape {
        let (height, width) = (conv.window.height, conv.window.width);
        let tiles = (height.output.div_ceil(TILE), width.output.div_ceil(TILE));
        let first = |axis: &Axis| -(axis.pad_begin as isize);
        Shape::new(conv, tiles, (first(&height), first(&width)), (0, 0))
    }

    fn new(conv: &Conv, tiles: (usize, usize), x: (isize, isize), dy: (isize, isize)) -> Shape {
        let (height, width) = (conv.window.height, conv.window.width);
        let image =
            |height, width, channels, (top, left)| Image { height, width, channels, top, left, tiles };
        Shape {
            tiles: conv.batch * tiles.0 * tiles.1,
            x: image(height.input, width.input, conv.in_channels, x),
            dy: image(height.output, width.output, conv.out_channels, dy),
        }
    }
}

/// Where transformed squares go: one matrix for each of the 36 elements, `matrix` values apart, of `rows` rows; columns in
/// panels of `panel`, one behind the other, whose rows are `gap` values longer than they have columns.
#[derive(Clone, Copy)]
struct Matrices {
    to: Shared,
    matrix: usize,
    rows: usize,
    panel: usize,
    gap: usize,
}

impl Matrices {
    /// Transforms the squares of a tile to row `row`.
    ///
    /// # Safety
    /// The matrices must be valid for writes, and the row belong to the caller alone. Channels are whole vectors.
    #[inline(always)]
    unsafe fn write<M: Map<IN, 6>, V: Vector, const IN: usize>(
        self,
        data: &[f32],
        square: &[[usize; IN]; IN],
        channels: usize,
        row: usize,
    ) {
        let last = square.iter().flatten().filter(|&&at| at != OUTSIDE).max();
        assert!(last.is_none_or(|last| last + channels <= data.len()));
        for col in (0..channels).step_by(self.panel) {
            let width = self.panel.min(channels - col);
            let to = self.to.at(col * self.rows + row * (width + self.gap));
            for c in (0..width).step_by(V::LANES) {
                let mut x = [[V::splat(0.0); IN]; IN];
                for (x, square) in x.iter_mut().flatten().zip(square.iter().flatten()) {
                    if *square != OUTSIDE {
                        // SAFETY: asserted above for the last one; `col + c` and its vector are within the channels.
                        *x = unsafe { V::load(data.as_ptr().add(square + col + c)) };
                    }
                }
                let out = both::<M, V, IN, 6>(&x);
                for (point, out) in out.iter().flatten().enumerate() {
                    // SAFETY: as the caller.
                    unsafe { out.store(to.wrapping_add(point * self.matrix + c)) };
                }
            }
        }
    }
}

/// Reads a vector of the 36 matrices from `from` on, and maps the square of them.
///
/// # Safety
/// All must be valid for reads.
#[inline(always)]
unsafe fn read<M: Map<6, OUT>, V: Vector, const OUT: usize>(
    from: *const f32,
    matrix: usize,
) -> [[V; OUT]; OUT] {
    let mut x = [[V::splat(0.0); 6]; 6];
    for (point, x) in x.iter_mut().flatten().enumerate() {
        // SAFETY: as the caller.
        *x = unsafe { V::load(from.wrapping_add(point * matrix)) };
    }
    both::<M, V, 6, OUT>(&x)
}

/// Tiles of a block of the gradient by the input, a multiple of the rows of a product's tile. Its matrices stay in the
/// second-level cache where channels are few; where they are many, the weights are read less often.
fn block_tiles(conv: &Conv) -> usize {
    if conv.in_channels + conv.out_channels <= 128 { 24 } else { 48 }
}

/// Tasks, about, where blocks are few.
const FEW_TASKS: usize = 4;
/// Blocks that are worked on at the same time, at most.
const BLOCKS: usize = 8;

/// Blocks of tiles, and parts of the columns of each.
fn tasks(conv: &Conv) -> (usize, usize) {
    let blocks = Shape::of_inputs(conv).tiles.div_ceil(block_tiles(conv));
    let parts = FEW_TASKS.div_ceil(blocks.max(1)).min(conv.in_channels.div_ceil(2 * MAX_COLS));
    let cols = conv.in_channels.div_ceil(parts).next_multiple_of(MAX_COLS);
    (blocks, cols.min(conv.in_channels))
}

/// Values of the transformed output gradients of a block, and of its products.
fn block_lens(conv: &Conv) -> (usize, usize) {
    let len = |channels: usize| block_tiles(conv) * (channels + GAP) + GAP;
    (len(conv.out_channels), len(tasks(conv).1))
}

/// Workspace of [`input_grad`], in `f32`.
pub(crate) fn input_grad_workspace(conv: &Conv) -> usize {
    let (blocks, cols) = tasks(conv);
    let (left, products) = block_lens(conv);
    let at_once = (blocks * conv.in_channels.div_ceil(cols)).min(BLOCKS);
    POINTS * (conv.in_channels * conv.out_channels + at_once * (left + products))
}

/// See [`crate::conv::input_grad`], which checks the lengths.
pub(crate) fn input_grad(
    isa: Isa,
    conv: &Conv,
    dy: &[f32],
    w: &[f32],
    dx: &mut [f32],
    workspace: &mut [f32],
) {
    let (weights, blocks) =
        workspace[..input_grad_workspace(conv)].split_at_mut(POINTS * conv.in_channels * conv.out_channels);
    dispatch(isa, PackWeights { isa, conv, w, to: Shared(weights.as_mut_ptr()) });
    let (count, cols) = tasks(conv);
    let parts = conv.in_channels.div_ceil(cols);
    let (left, products) = block_lens(conv);
    let (shape, dx, weights) = (Shape::of_inputs(conv), Shared(dx.as_mut_ptr()), &*weights);
    parallel::for_each_with(count * parts, blocks, POINTS * (left + products), |task, memory| {
        let (block, part) = (task / parts, task % parts);
        let cols = (part * cols, conv.in_channels.min((part + 1) * cols));
        let first = block * block_tiles(conv);
        let tiles = (first, shape.tiles.min(first + block_tiles(conv)));
        dispatch(isa, InputBlock { conv, shape: &shape, tiles, cols, dy, weights, dx, memory });
    });
}

/// Transforms the turned weights to panels of input channels; rows are output channels.
struct PackWeights<'a> {
    isa: Isa,
    conv: &'a Conv,
    w: &'a [f32],
    to: Shared,
}

impl Job for PackWeights<'_> {
    #[inline(always)]
    fn run<V: Vector, const ROWS: usize, const VECTORS: usize>(self) {
        let panels = self.conv.in_channels.div_ceil(VECTORS * V::LANES);
        parallel::for_each(panels, |panel| {
            dispatch(self.isa, PackPanel { conv: self.conv, w: self.w, panel, to: self.to });
        });
    }
}

struct PackPanel<'a> {
    conv: &'a Conv,
    w: &'a [f32],
    panel: usize,
    to: Shared,
}

impl Job for PackPanel<'_> {
    #[inline(always)]
    fn run<V: Vector, const ROWS: usize, const VECTORS: usize>(self) {
        let (inputs, outputs) = (self.conv.in_channels, self.conv.out_channels);
        let col = self.panel * VECTORS * V::LANES;
        let width = (VECTORS * V::LANES).min(inputs - col);
        for k in 0..outputs {
            for c in (0..width).step_by(V::LANES) {
                let from = &self.w[(k * inputs + col + c) * 9..][..V::LANES * 9];
                let mut turned = [[0.0; MAX_LANES]; 9];
                for (lane, kernel) in from.chunks_exact(9).enumerate() {
                    for (tap, &w) in kernel.iter().rev().enumerate() {
                        turned[tap][lane] = w;
                    }
                }
                let mut g = [[V::splat(0.0); 3]; 3];
                for (g, turned) in g.iter_mut().flatten().zip(&turned) {
                    // SAFETY: a vector has at most `MAX_LANES` lanes.
                    *g = unsafe { V::load(turned.as_ptr()) };
                }
                let to = self.to.at(col * outputs + k * width + c);
                for (point, u) in both::<Weights, V, 3, 6>(&g).iter().flatten().enumerate() {
                    // SAFETY: `input_grad` gave memory for 36 matrices of all channels; a panel belongs to one task.
                    unsafe { u.store(to.wrapping_add(point * inputs * outputs)) };
                }
            }
        }
    }
}

/// The gradients by the input channels `cols` of some tiles.
struct InputBlock<'a> {
    conv: &'a Conv,
    shape: &'a Shape,
    tiles: (usize, usize),
    cols: (usize, usize),
    dy: &'a [f32],
    weights: &'a [f32],
    dx: Shared,
    memory: &'a mut [f32],
}

impl Job for InputBlock<'_> {
    #[inline(always)]
    fn run<V: Vector, const ROWS: usize, const VECTORS: usize>(self) {
        let InputBlock { conv, shape, tiles, cols, dy, weights, dx, memory } = self;
        let (inputs, outputs) = (conv.in_channels, conv.out_channels);
        let count = tiles.1 - tiles.0;
        let (left_len, product_len) = block_lens(conv);
        let (left, products) = memory[..POINTS * (left_len + product_len)].split_at_mut(POINTS * left_len);
        let (left_row, product_row) = (outputs + GAP, cols.1 - cols.0 + GAP);
        let to = Matrices {
            to: Shared(left.as_mut_ptr()),
            matrix: left_len,
            rows: block_tiles(conv),
            panel: outputs,
            gap: GAP,
        };
        for t in 0..count {
            // SAFETY: a matrix of `left_len` values has rows for all tiles of a block; the memory is the task's own.
            unsafe {
                to.write::<Inputs, V, 6>(dy, &shape.dy.square(tiles.0 + t), outputs, t);
            }
        }
        let tile_cols = VECTORS * V::LANES;
        for point in 0..POINTS {
            let (left, products) = (&left[point * left_len..], products[point * product_len..].as_mut_ptr());
            let weights = &weights[point * inputs * outputs..][..inputs * outputs];
            let from: [*const f32; MAX_TILES] =
                std::array::from_fn(|t| left[t.min(count - 1) * left_row..].as_ptr());
            let at: [*mut f32; MAX_TILES] = std::array::from_fn(|t| products.wrapping_add(t * product_row));
            for first in (0..outputs).step_by(product::depth(tile_cols)) {
                let depth = product::depth(tile_cols).min(outputs - first);
                for col in (cols.0..cols.1).step_by(tile_cols) {
                    let width = tile_cols.min(cols.1 - col);
                    // The last panel of all is narrower, those of other parts are not.
                    let panel = tile_cols.min(inputs - col);
                    let b = weights[col * outputs + first * panel..][..depth * panel].as_ptr();
                    for t in (0..count).step_by(ROWS) {
                        let a: [*const f32; ROWS] = std::array::from_fn(|r| from[t + r].wrapping_add(first));
                        let rows = Rows {
                            at: at[t..].as_ptr(),
                            col: col - cols.0,
                            count: ROWS.min(count - t),
                            cols: width,
                            accumulate: first > 0,
                            bias: std::ptr::null(),
                        };
                        let vectors = width / V::LANES;
                        // SAFETY: rows of both matrices are within them, as `block_lens` counts them, and the panel of
                        // column `col` has `outputs` rows, of which `depth` from `first` on are meant.
                        unsafe {
                            product::gathered::<V, ROWS, VECTORS>(vectors, (1, depth), a.as_ptr(), b, &rows);
                        }
                    }
                }
            }
        }
        for t in 0..count {
            let square = shape.x.square::<TILE>(tiles.0 + t);
            for c in (0..cols.1 - cols.0).step_by(V::LANES) {
                // SAFETY: the products of this tile were all written.
                let y = unsafe {
                    read::<ToOutputs, V, TILE>(products.as_ptr().add(t * product_row + c), product_len)
                };
                for (y, &at) in y.iter().flatten().zip(square.iter().flatten()) {
                    if at != OUTSIDE {
                        // SAFETY: the place is inside of `dx`; tiles and columns of a task belong to no other.
                        unsafe { y.store(dx.at(at + cols.0 + c)) };
                    }
                }
            }
        }
    }
}

/// Tiles of any block, at most, and room for the rows of a product's tile behind them.
const MAX_TILES: usize = 48 + 8;

/// Output channels whose products are made together, a multiple of the rows of a product's tile.
const MAX_ROWS: usize = 144;

/// How the gradient by the weights is divided.
struct Division {
    /// Tiles of a block, and blocks.
    tiles: usize,
    blocks: usize,
    /// Output channels of a part, and parts.
    rows: usize,
    parts: usize,
    /// Values between the matrices of the left and right operand and of the products.
    left: usize,
    right: usize,
    products: usize,
}

/// Tiles of a block, at most.
const BLOCK: usize = product::MAX_DEPTH;

impl Division {
    fn new(conv: &Conv, depth: usize) -> Division {
        let all = Shape::of_outputs(conv).tiles;
        let blocks = all.div_ceil(depth).max(1);
        let tiles = all.div_ceil(blocks).max(1);
        let parts = conv.out_channels.div_ceil(MAX_ROWS);
        let rows = conv.out_channels.div_ceil(parts).next_multiple_of(ROW_UNIT);
        Division {
            tiles,
            blocks,
            rows,
            parts: conv.out_channels.div_ceil(rows),
            left: tiles * (conv.out_channels + GAP) + GAP,
            right: tiles * conv.in_channels + GAP,
            products: rows * (conv.in_channels + GAP) + GAP,
        }
    }

    /// Where the products of several blocks are added up, or those of one are read at once.
    fn sums(&self) -> usize {
        if self.blocks > 1 { self.parts } else { 1 }
    }

    fn workspace(&self) -> usize {
        POINTS * (self.left + self.right + self.sums() * self.products)
    }
}

/// What the rows of all tiles divide.
const ROW_UNIT: usize = 24;

/// Workspace of [`weight_grad`], in `f32`.
pub(crate) fn weight_grad_workspace(conv: &Conv) -> usize {
    let depths = [BLOCK, BLOCK / 2];
    depths.map(|depth| Division::new(conv, depth).workspace()).into_iter().max().unwrap_or_default()
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
    dispatch(isa, WeightGrad { isa, conv, x, dy, dw, workspace });
}

struct WeightGrad<'a> {
    isa: Isa,
    conv: &'a Conv,
    x: &'a [f32],
    dy: &'a [f32],
    dw: &'a mut [f32],
    workspace: &'a mut [f32],
}

/// Tiles that a task transforms.
const TRANSFORMS: usize = 8;

impl Job for WeightGrad<'_> {
    #[inline(always)]
    fn run<V: Vector, const ROWS: usize, const VECTORS: usize>(self) {
        let WeightGrad { isa, conv, x, dy, dw, workspace } = self;
        let (inputs, outputs, tile_cols) = (conv.in_channels, conv.out_channels, VECTORS * V::LANES);
        let division = Division::new(conv, product::depth(tile_cols));
        let shape = Shape::of_outputs(conv);
        let (left, rest) = workspace[..division.workspace()].split_at_mut(POINTS * division.left);
        let (right, sums) = rest.split_at_mut(POINTS * division.right);
        let (to_left, to_right, to_sums) =
            (Shared(left.as_mut_ptr()), Shared(right.as_mut_ptr()), Shared(sums.as_mut_ptr()));
        for block in 0..division.blocks {
            let first = block * division.tiles;
            let count = division.tiles.min(shape.tiles.saturating_sub(first));
            parallel::for_each(count.div_ceil(TRANSFORMS), |task| {
                let rows = division.tiles;
                let left = Matrices { to: to_left, matrix: division.left, rows, panel: outputs, gap: GAP };
                let right = Matrices { to: to_right, matrix: division.right, rows, panel: tile_cols, gap: 0 };
                let tiles = (task * TRANSFORMS, count.min((task + 1) * TRANSFORMS));
                dispatch(isa, Transform { shape: &shape, x, dy, first, tiles, left, right });
            });
            for part in 0..division.parts {
                let rows = (part * division.rows, outputs.min((part + 1) * division.rows));
                let sums =
                    to_sums.at(if division.blocks > 1 { part * POINTS * division.products } else { 0 });
                let sums = Shared(sums);
                parallel::for_each(POINTS, |point| {
                    dispatch(
                        isa,
                        Products {
                            inputs,
                            count,
                            tiles: division.tiles,
                            left: to_left.at(point * division.left).cast_const(),
                            left_row: outputs + GAP,
                            right: to_right.at(point * division.right).cast_const(),
                            rows,
                            to: sums.at(point * division.products),
                            accumulate: block > 0,
                        },
                    );
                });
                if block + 1 == division.blocks {
                    let dw = &mut dw[rows.0 * inputs * 9..rows.1 * inputs * 9];
                    parallel::for_each_chunk(dw, inputs * 9, |row, dw| {
                        let from = sums.at(row * (inputs + GAP)).cast_const();
                        dispatch(isa, ReadWeights { from, matrix: division.products, dw });
                    });
                }
            }
        }
    }
}

/// Transforms the tiles `first + tiles.0..first + tiles.1` of both operands.
struct Transform<'a> {
    shape: &'a Shape,
    x: &'a [f32],
    dy: &'a [f32],
    first: usize,
    tiles: (usize, usize),
    left: Matrices,
    right: Matrices,
}

impl Job for Transform<'_> {
    #[inline(always)]
    fn run<V: Vector, const ROWS: usize, const VECTORS: usize>(self) {
        let Transform { shape, x, dy, first, tiles, left, right } = self;
        for t in tiles.0..tiles.1 {
            // SAFETY: `Division` counts rows for all tiles of a block; those of a task belong to no other.
            unsafe {
                left.write::<Outputs, V, TILE>(dy, &shape.dy.square(first + t), shape.dy.channels, t);
                right.write::<Inputs, V, 6>(x, &shape.x.square(first + t), shape.x.channels, t);
            }
        }
    }
}

/// One of the 36 products of a block and a part of the output channels.
struct Products {
    inputs: usize,
    /// Tiles of this block, and of the others.
    count: usize,
    tiles: usize,
    left: *const f32,
    left_row: usize,
    right: *const f32,
    rows: (usize, usize),
    to: *mut f32,
    accumulate: bool,
}

impl Job for Products {
    #[inline(always)]
    fn run<V: Vector, const ROWS: usize, const VECTORS: usize>(self) {
        let Products { inputs, count, tiles, left, left_row, right, rows, to, accumulate } = self;
        let tile_cols = VECTORS * V::LANES;
        let starts: [*mut f32; MAX_ROWS] = std::array::from_fn(|r| to.wrapping_add(r * (inputs + GAP)));
        for col in (0..inputs).step_by(tile_cols) {
            let width = tile_cols.min(inputs - col);
            for row in (rows.0..rows.1).step_by(ROWS) {
                let to = Rows {
                    at: starts[row - rows.0..].as_ptr(),
                    col,
                    count: ROWS.min(rows.1 - row),
                    cols: width,
                    accumulate,
                    bias: std::ptr::null(),
                };
                // SAFETY: the operands have `count` rows as `Transform` made them. A row of the left one has a gap behind
                // it, into which the last tile of rows may read. The sums of one product belong to no other task.
                unsafe {
                    product::packed::<V, ROWS, VECTORS>(
                        width / V::LANES,
                        count,
                        (left.add(row), left_row),
                        right.add(col * tiles),
                        &to,
                    );
                }
            }
        }
    }
}

/// The gradients by the weights of one output channel.
struct ReadWeights<'a> {
    from: *const f32,
    matrix: usize,
    dw: &'a mut [f32],
}

impl Job for ReadWeights<'_> {
    #[inline(always)]
    fn run<V: Vector, const ROWS: usize, const VECTORS: usize>(self) {
        for (c, dw) in self.dw.chunks_exact_mut(9 * V::LANES).enumerate() {
            // SAFETY: the sums of all input channels of this output channel were written.
            let g = unsafe { read::<ToWeights, V, 3>(self.from.add(c * V::LANES), self.matrix) };
            let mut taps = [[0.0; MAX_LANES]; 9];
            for (g, tap) in g.iter().flatten().zip(&mut taps) {
                // SAFETY: a vector has at most `MAX_LANES` lanes.
                unsafe { g.store(tap.as_mut_ptr()) };
            }
            for (lane, dw) in dw.chunks_exact_mut(9).enumerate() {
                for (dw, tap) in dw.iter_mut().zip(&taps) {
                    *dw = tap[lane];
                }
            }
        }
    }
}
