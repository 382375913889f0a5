//! 1x1 convolutions of stride 1 without padding: matrix products over all `N * H * W` positions.
//!
//! The positions are divided by shape into parts, which run in parallel, and those into tiles small enough for the cache.

use crate::conv::{Conv, Finish, add_bias};
use crate::matmul::{Matrix, MatrixMut, multiply};
use crate::parallel;
use crate::relayout::permute;
use crate::simd::Isa;

/// Elements of a tile of the wider side, about, as long as it has at least [`TILE_ROWS`] rows.
const TILE_ELEMENTS: usize = 1 << 18;
/// Fewest positions of a tile.
const TILE_ROWS: usize = 512;
/// Most parts.
const PARTS: usize = 8;
/// Positions up to which packing the weights takes longer than it saves, as in squeeze-and-excitation blocks.
const FEW_ROWS: usize = 64;

/// Positions of a tile, of a part, and number of parts.
#[derive(Clone, Copy, Debug)]
struct Tiles {
    tile: usize,
    part: usize,
    parts: usize,
}

impl Tiles {
    fn new(conv: &Conv, max_parts: usize) -> Tiles {
        let rows = conv.rows();
        let most = (TILE_ELEMENTS / conv.in_channels.max(conv.out_channels)).max(TILE_ROWS);
        let part = rows.div_ceil(rows.div_ceil(most).clamp(1, max_parts)).max(1);
        Tiles { tile: part.div_ceil(part.div_ceil(most)), part, parts: rows.div_ceil(part) }
    }

    /// Every part has a copy of the weights.
    fn weight_grad(conv: &Conv) -> Tiles {
        Tiles::new(conv, (TILE_ELEMENTS / conv.weight_len()).clamp(1, PARTS))
    }

    /// The tiles of a part of `rows` positions, as `(first in the part, count)`.
    fn of(self, rows: usize) -> impl Iterator<Item = (usize, usize)> {
        (0..rows).step_by(self.tile).map(move |first| (first, self.tile.min(rows - first)))
    }
}

/// Length of the workspace of [`forward`], in `f32`.
pub fn forward_workspace(conv: &Conv) -> usize {
    if conv.rows() <= FEW_ROWS { 0 } else { conv.weight_len() }
}

/// See [`conv::forward`](crate::conv::forward).
pub fn forward(conv: &Conv, x: &[f32], w: &[f32], finish: Finish<'_>, y: &mut [f32], workspace: &mut [f32]) {
    if y.is_empty() {
        return;
    }
    let (inputs, outputs, isa) = (conv.group_inputs(), conv.group_outputs(), Isa::detect());
    let product = |x: &[f32], group: usize, weights: Matrix<'_>, y: &mut [f32]| {
        let rows = y.len() / conv.out_channels;
        let x = Matrix::strided(&x[group * inputs..], rows, inputs, conv.in_channels, 1);
        multiply(
            1.0,
            x,
            weights,
            0.0,
            MatrixMut::strided(&mut y[group * outputs..], rows, outputs, conv.out_channels),
        );
    };
    let finish = |at: usize, y: &mut [f32]| {
        finish.bias.into_iter().for_each(|bias| add_bias(isa, bias, y));
        finish.rest(isa, at, y);
    };
    if conv.rows() <= FEW_ROWS {
        for group in 0..conv.groups {
            let weights = Matrix::new(&w[group * outputs * inputs..], outputs, inputs).transposed();
            product(x, group, weights, y);
        }
        finish(0, y);
        return;
    }
    // (groups, O, C) to (groups, C, O): the right operand of the product, row by row.
    let packed = &mut workspace[..conv.weight_len()];
    permute(w, &[conv.groups, outputs, inputs], &[0, 2, 1], packed);
    let (packed, tiles) = (&*packed, Tiles::new(conv, PARTS));
    parallel::for_each_chunk(y, tiles.part * conv.out_channels, |part, y| {
        for (first, rows) in tiles.of(y.len() / conv.out_channels) {
            let y = &mut y[first * conv.out_channels..][..rows * conv.out_channels];
            let row = part * tiles.part + first;
            let x = &x[row * conv.in_channels..];
            for group in 0..conv.groups {
                product(x, group, Matrix::new(&packed[group * inputs * outputs..], inputs, outputs), y);
            }
            finish(row * conv.out_channels, y);
        }
    });
}

/// See [`conv::input_grad`](crate::conv::input_grad).
pub fn input_grad(conv: &Conv, dy: &[f32], w: &[f32], dx: &mut [f32]) {
    if dx.is_empty() {
        return;
    }
    let (inputs, outputs, rows) = (conv.group_inputs(), conv.group_outputs(), conv.rows());
    for group in 0..conv.groups {
        let dy = Matrix::strided(&dy[group * outputs..], rows, outputs, conv.out_channels, 1);
        let w = Matrix::new(&w[group * outputs * inputs..], outputs, inputs);
        let dx = MatrixMut::strided(&mut dx[group * inputs..], rows, inputs, conv.in_channels);
        multiply(1.0, dy, w, 0.0, dx);
    }
}

/// Length of the workspace of [`weight_grad`], in `f32`.
pub fn weight_grad_workspace(conv: &Conv) -> usize {
    match Tiles::weight_grad(conv).parts {
        0 | 1 => 0,
        parts => parts * conv.weight_len(),
    }
}

/// See [`conv::weight_grad`](crate::conv::weight_grad).
pub fn weight_grad(conv: &Conv, x: &[f32], dy: &[f32], dw: &mut [f32], workspace: &mut [f32]) {
    let (inputs, outputs, tiles) = (conv.group_inputs(), conv.group_outputs(), Tiles::weight_grad(conv));
    let part = |part: usize, sums: &mut [f32]| {
        let start = part * tiles.part;
        let count = tiles.part.min(conv.rows() - start);
        if count == 0 {
            sums.fill(0.0);
        }
        for (first, rows) in tiles.of(count) {
            let row = start + first;
            for group in 0..conv.groups {
                let (x, dy) = (&x[row * conv.in_channels + group * inputs..], &dy[row * conv.out_channels..]);
                let x = Matrix::strided(x, rows, inputs, conv.in_channels, 1);
                let dy =
                    Matrix::strided(&dy[group * outputs..], rows, outputs, conv.out_channels, 1).transposed();
                let sums = MatrixMut::new(&mut sums[group * outputs * inputs..], outputs, inputs);
                multiply(1.0, dy, x, if first == 0 { 0.0 } else { 1.0 }, sums);
            }
        }
    };
    if tiles.parts <= 1 {
        return part(0, dw);
    }
    let sums = &mut workspace[..tiles.parts * dw.len()];
    parallel::for_each_chunk(sums, dw.len(), part);
    dw.copy_from_slice(&sums[..dw.len()]);
    parallel::add_partials(&sums[dw.len()..], dw);
}
