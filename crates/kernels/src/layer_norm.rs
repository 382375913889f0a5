//! Layer normalization (Ba, Kiros and Hinton 2016) as ONNX `LayerNormalization` (opset 17) defines it, over the trailing
//! axes: a matrix `(rows, width)` whose rows are normalized on their own.

use crate::parallel::{CHUNK, for_each_chunk, for_each_chunk2};
use crate::reduce::{fold_rows, sum_of, sum_of_pairs};
use crate::simd::{Isa, dispatch};

/// Rows of a task. At least 32 keep the partial sums small against the data.
fn rows_per_chunk(width: usize) -> usize {
    (CHUNK / width.max(1)).max(32)
}

/// Number of elements of a task.
fn chunk_len(width: usize) -> usize {
    rows_per_chunk(width) * width.max(1)
}

/// Writes mean and `1 / sqrt(variance + epsilon)` of every row of `x`; the variance is that of the population.
///
/// # Panics
/// When the lengths do not fit.
pub fn statistics(x: &[f32], width: usize, epsilon: f32, mean: &mut [f32], inv_std: &mut [f32]) {
    assert_eq!([mean.len() * width, inv_std.len() * width], [x.len(); 2]);
    let (isa, rows) = (Isa::detect(), rows_per_chunk(width));
    for_each_chunk2(mean, rows, inv_std, rows, |i, mean, inv_std| {
        let x = &x[i * rows * width..][..mean.len() * width];
        statistics_rows(isa, x, width, epsilon, mean, inv_std);
    });
}

/// `y = (x - mean) inv_std gamma + beta`, with the statistics of [`statistics`]; no `beta` is a `beta` of 0.
///
/// # Panics
/// When the lengths do not fit.
pub fn forward(x: &[f32], gamma: &[f32], beta: Option<&[f32]>, mean: &[f32], inv_std: &[f32], y: &mut [f32]) {
    let width = gamma.len();
    assert_eq!([x.len(), mean.len() * width, inv_std.len() * width], [y.len(); 3]);
    assert!(beta.is_none_or(|beta| beta.len() == width));
    let isa = Isa::detect();
    for_each_chunk(y, chunk_len(width), |i, y| {
        let (row, start) = (i * rows_per_chunk(width), i * chunk_len(width));
        forward_rows(isa, &x[start..][..y.len()], gamma, beta, &mean[row..], &inv_std[row..], y);
    });
}

/// Gradient of `x`: with `g = dy gamma` and `z = (x - mean) inv_std`,
/// `dx = inv_std (g - mean of g - z mean of (g z))` for every row.
///
/// # Panics
/// When the lengths do not fit.
pub fn grad_input(x: &[f32], dy: &[f32], gamma: &[f32], mean: &[f32], inv_std: &[f32], dx: &mut [f32]) {
    let width = gamma.len();
    assert_eq!([x.len(), dy.len(), mean.len() * width, inv_std.len() * width], [dx.len(); 4]);
    let isa = Isa::detect();
    for_each_chunk(dx, chunk_len(width), |i, dx| {
        let (row, start) = (i * rows_per_chunk(width), i * chunk_len(width));
        let (x, dy) = (&x[start..][..dx.len()], &dy[start..][..dx.len()]);
        grad_rows(isa, x, dy, gamma, &mean[row..], &inv_std[row..], dx);
    });
}

/// Workspace of [`grad_parameters`], in elements.
pub fn workspace(rows: usize, width: usize) -> usize {
    2 * width * rows.div_ceil(rows_per_chunk(width))
}

/// Gradients of `gamma` and `beta`: `dbeta = sum dy`, `dgamma = sum dy (x - mean) inv_std`, over the rows.
///
/// # Panics
/// When the lengths do not fit, or the workspace that of [`workspace`].
pub fn grad_parameters(
    x: &[f32],
    dy: &[f32],
    mean: &[f32],
    inv_std: &[f32],
    dgamma: &mut [f32],
    dbeta: &mut [f32],
    workspace: &mut [f32],
) {
    let (width, rows) = (dgamma.len(), mean.len());
    assert_eq!([x.len(), dy.len(), inv_std.len() * width], [rows * width; 3]);
    assert_eq!(dbeta.len(), width);
    assert_eq!(workspace.len(), self::workspace(rows, width));
    if width == 0 {
        return;
    }
    let (isa, chunk) = (Isa::detect(), chunk_len(width));
    for_each_chunk(workspace, 2 * width, |i, part| {
        let (dgamma, dbeta) = part.split_at_mut(width);
        let (range, row) = (i * chunk..x.len().min((i + 1) * chunk), i * rows_per_chunk(width));
        sums_rows(isa, &x[range.clone()], &dy[range], &mean[row..], &inv_std[row..], dgamma, dbeta);
    });
    dgamma.fill(0.0);
    dbeta.fill(0.0);
    for part in workspace.chunks_exact(2 * width) {
        dgamma.iter_mut().chain(dbeta.iter_mut()).zip(part).for_each(|(sum, &part)| *sum += part);
    }
}

dispatch! {
    fn statistics_rows(x: &[f32], width: usize, epsilon: f32, mean: &mut [f32], inv_std: &mut [f32]) {
        let scale = 1.0 / width as f32;
        for ((x, mean), inv_std) in x.chunks_exact(width).zip(mean).zip(inv_std) {
            let center = sum_of(x, |x| x) * scale;
            let variance = sum_of(x, |x| (x - center) * (x - center)) * scale;
            *mean = center;
            *inv_std = 1.0 / (variance + epsilon).sqrt();
        }
    }

    fn forward_rows(
        x: &[f32],
        gamma: &[f32],
        beta: Option<&[f32]>,
        mean: &[f32],
        inv_std: &[f32],
        y: &mut [f32],
    ) {
        let width = gamma.len();
        let rows = x.chunks_exact(width).zip(y.chunks_exact_mut(width));
        for ((x, y), (mean, inv_std)) in rows.zip(mean.iter().zip(inv_std)) {
            for ((y, &x), &gamma) in y.iter_mut().zip(x).zip(gamma) {
                *y = (x - mean) * inv_std * gamma;
            }
            if let Some(beta) = beta {
                for (y, &beta) in y.iter_mut().zip(beta) {
                    *y += beta;
                }
            }
        }
    }

    fn grad_rows(x: &[f32], dy: &[f32], gamma: &[f32], mean: &[f32], inv_std: &[f32], dx: &mut [f32]) {
        let width = gamma.len();
        let scale = 1.0 / width as f32;
        let rows = x.chunks_exact(width).zip(dy.chunks_exact(width)).zip(dx.chunks_exact_mut(width));
        for (((x, dy), dx), (&mean, &inv_std)) in rows.zip(mean.iter().zip(inv_std)) {
            for ((g, &dy), &gamma) in dx.iter_mut().zip(dy).zip(gamma) {
                *g = dy * gamma;
            }
            let sum = sum_of(dx, |g| g) * scale;
            let product = sum_of_pairs(dx, x, |g, x| g * ((x - mean) * inv_std)) * scale;
            for (dx, &x) in dx.iter_mut().zip(x) {
                *dx = inv_std * (*dx - sum - (x - mean) * inv_std * product);
            }
        }
    }

    fn sums_rows(
        x: &[f32],
        dy: &[f32],
        mean: &[f32],
        inv_std: &[f32],
        dgamma: &mut [f32],
        dbeta: &mut [f32],
    ) {
        dgamma.fill(0.0);
        dbeta.fill(0.0);
        fold_rows([x, dy], dgamma, |r, _, [x, dy]| dy * ((x - mean[r]) * inv_std[r]), |a, b| a + b);
        fold_rows([dy], dbeta, |_, _, [dy]| dy, |a, b| a + b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elementwise::testing::{bits, close, drawn, on_any_pool, slopes, wide};

    const EPSILON: f32 = 1e-3;

    fn reference(x: &[f64], gamma: &[f64], beta: &[f64]) -> Vec<f64> {
        let n = gamma.len() as f64;
        let row = |x: &[f64]| -> Vec<f64> {
            let mean = x.iter().sum::<f64>() / n;
            let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
            let scale = 1.0 / (variance + EPSILON as f64).sqrt();
            x.iter()
                .zip(gamma)
                .zip(beta)
                .map(|((x, gamma), beta)| (x - mean) * scale * gamma + beta)
                .collect()
        };
        x.chunks(gamma.len()).flat_map(row).collect()
    }

    /// `y`, `dx`, `dgamma` and `dbeta`.
    fn run(x: &[f32], dy: &[f32], gamma: &[f32], beta: Option<&[f32]>) -> [Vec<f32>; 4] {
        let (width, rows) = (gamma.len(), x.len() / gamma.len());
        let (mut mean, mut inv_std) = (vec![0.0; rows], vec![0.0; rows]);
        let (mut y, mut dx) = (vec![0.0; x.len()], vec![0.0; x.len()]);
        let (mut dgamma, mut dbeta) = (vec![f32::NAN; width], vec![f32::NAN; width]);
        statistics(x, width, EPSILON, &mut mean, &mut inv_std);
        forward(x, gamma, beta, &mean, &inv_std, &mut y);
        grad_input(x, dy, gamma, &mean, &inv_std, &mut dx);
        let mut workspace = vec![f32::NAN; workspace(rows, width)];
        grad_parameters(x, dy, &mean, &inv_std, &mut dgamma, &mut dbeta, &mut workspace);
        [y, dx, dgamma, dbeta]
    }

    #[test]
    fn forward_and_gradients_against_double_precision() {
        for (rows, width) in [(4, 7), (1, 40), (11, 3), (2, 65)] {
            let (x, dy) = (drawn(1, rows * width, 2.0), drawn(2, rows * width, 1.0));
            let (gamma, beta) = (drawn(3, width, 2.0), drawn(4, width, 1.0));
            let [y, dx, dgamma, dbeta] = run(&x, &dy, &gamma, Some(&beta));
            let (x64, gamma64, beta64) = (wide(&x), wide(&gamma), wide(&beta));
            close(&y, &reference(&x64, &gamma64, &beta64), 2e-6);
            close(&run(&x, &dy, &gamma, None)[0], &reference(&x64, &gamma64, &vec![0.0; width]), 2e-6);
            let loss = |x: &[f64], gamma: &[f64], beta: &[f64]| -> f64 {
                reference(x, gamma, beta).iter().zip(&dy).map(|(y, &dy)| y * dy as f64).sum()
            };
            close(&dx, &slopes(|x| loss(x, &gamma64, &beta64), &x64), 1e-5);
            close(&dgamma, &slopes(|gamma| loss(&x64, gamma, &beta64), &gamma64), 1e-5);
            close(&dbeta, &slopes(|beta| loss(&x64, &gamma64, beta), &beta64), 1e-5);
        }
    }

    #[test]
    fn instruction_sets_and_threads_change_nothing() {
        let (rows, width) = (301, 193);
        let (x, dy) = (drawn(1, rows * width, 2.0), drawn(2, rows * width, 1.0));
        let (gamma, beta) = (drawn(3, width, 2.0), drawn(4, width, 1.0));
        on_any_pool(|| run(&x, &dy, &gamma, Some(&beta)));
        let on = |isa| {
            let (mut mean, mut inv_std) = (vec![0.0; rows], vec![0.0; rows]);
            let (mut y, mut dx) = (vec![0.0; x.len()], vec![0.0; x.len()]);
            let (mut dgamma, mut dbeta) = (vec![0.0; width], vec![0.0; width]);
            statistics_rows(isa, &x, width, EPSILON, &mut mean, &mut inv_std);
            forward_rows(isa, &x, &gamma, Some(&beta), &mean, &inv_std, &mut y);
            grad_rows(isa, &x, &dy, &gamma, &mean, &inv_std, &mut dx);
            sums_rows(isa, &x, &dy, &mean, &inv_std, &mut dgamma, &mut dbeta);
            [mean, inv_std, y, dx, dgamma, dbeta].map(|x| bits(&x))
        };
        assert!(Isa::ALL.iter().all(|&isa| on(isa) == on(Isa::Scalar)));
    }
}
