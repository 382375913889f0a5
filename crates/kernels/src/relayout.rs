//! Moving elements into another order of axes.

use crate::parallel;

/// `(batch, channels, spatial)` to `(batch, spatial, channels)`: `NCHW` to channels-last, for any number of spatial
/// axes, whose product is `spatial`.
///
/// # Panics
/// When a slice does not have `batch * channels * spatial` elements.
pub fn to_channels_last<T: Copy + Send + Sync>(
    src: &[T],
    batch: usize,
    channels: usize,
    spatial: usize,
    dst: &mut [T],
) {
    permute(src, &[batch, channels, spatial], &[0, 2, 1], dst);
}

/// `(batch, spatial, channels)` to `(batch, channels, spatial)`: channels-last to `NCHW`.
///
/// # Panics
/// When a slice does not have `batch * channels * spatial` elements.
pub fn from_channels_last<T: Copy + Send + Sync>(
    src: &[T],
    batch: usize,
    channels: usize,
    spatial: usize,
    dst: &mut [T],
) {
    permute(src, &[batch, spatial, channels], &[0, 2, 1], dst);
}

/// An axis of the output: its length and its stride in the input.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Axis {
    len: usize,
    stride: usize,
}

/// Transposes an array of the given `shape`: axis `i` of the output is axis `perm[i]` of the input, as in ONNX and NumPy
/// `transpose`.
///
/// # Panics
/// When `perm` is not a permutation of the axes, or a slice does not have as many elements as the shape.
pub fn permute<T: Copy + Send + Sync>(src: &[T], shape: &[usize], perm: &[usize], dst: &mut [T]) {
    let count: usize = shape.iter().product();
    assert!(
        src.len() == count && dst.len() == count,
        "{} or {} elements for {shape:?}",
        src.len(),
        dst.len()
    );
    let is_permutation = perm.len() == shape.len() && (0..shape.len()).all(|axis| perm.contains(&axis));
    assert!(is_permutation, "{perm:?} does not permute the axes of {shape:?}");
    if count == 0 {
        return;
    }
    let mut axes: Vec<Axis> = Vec::with_capacity(perm.len());
    for &axis in perm {
        let next = Axis { len: shape[axis], stride: shape[axis + 1..].iter().product() };
        match axes.last_mut() {
            _ if next.len == 1 => {}
            // Axes that stay neighbours are one longer axis.
            Some(last) if last.stride == next.len * next.stride => {
                *last = Axis { len: last.len * next.len, stride: next.stride };
            }
            _ => axes.push(next),
        }
    }
    split(&axes, src, 0, dst);
}

/// Fewest rows of a transposed block: as many elements as fill a cache line of the input, or nearly.
const MIN_ROWS: usize = 16;

/// Cuts `dst` into chunks for the threads.
fn split<T: Copy + Send + Sync>(axes: &[Axis], src: &[T], base: usize, dst: &mut [T]) {
    let [first, rest @ ..] = axes else {
        return copy(axes, src, base, dst);
    };
    if dst.len() <= parallel::CHUNK {
        return copy(axes, src, base, dst);
    }
    let inner = dst.len() / first.len;
    if first.stride != 1 && inner > parallel::CHUNK {
        parallel::for_each_chunk(dst, inner, |i, dst| split(rest, src, base + i * first.stride, dst));
    } else {
        let rows = (parallel::CHUNK / inner).max(MIN_ROWS);
        parallel::for_each_chunk(dst, rows * inner, |i, dst| {
            let base = base + i * rows * first.stride;
            copy_rows(Axis { len: dst.len() / inner, ..*first }, rest, src, base, dst);
        });
    }
}

/// Fills `dst`, which has the given axes.
fn copy<T: Copy>(axes: &[Axis], src: &[T], base: usize, dst: &mut [T]) {
    match axes {
        [] => dst[0] = src[base],
        [first, rest @ ..] => copy_rows(*first, rest, src, base, dst),
    }
}

/// [`copy`] with the first axis apart.
fn copy_rows<T: Copy>(first: Axis, rest: &[Axis], src: &[T], base: usize, dst: &mut [T]) {
    match rest {
        [] if first.stride == 1 => dst.copy_from_slice(&src[base..base + first.len]),
        [] => dst.iter_mut().zip(src[base..].iter().step_by(first.stride)).for_each(|(d, &s)| *d = s),
        // The axis that is contiguous in the input leads, another one is contiguous in the output.
        [middle @ .., last] if first.stride == 1 => {
            transpose_all(first.len, dst.len() / first.len, middle, *last, src, base, dst);
        }
        _ => {
            let inner = dst.len() / first.len;
            for (i, dst) in dst.chunks_exact_mut(inner).enumerate() {
                copy(rest, src, base + i * first.stride, dst);
            }
        }
    }
}

/// Transposes a `(last, rows)` block of the input to `(rows, last)` for every index of the `middle` axes. Rows of the
/// output lie `row_stride` apart.
fn transpose_all<T: Copy>(
    rows: usize,
    row_stride: usize,
    middle: &[Axis],
    last: Axis,
    src: &[T],
    base: usize,
    dst: &mut [T],
) {
    match middle {
        [] => transpose(rows, row_stride, last, &src[base..], dst),
        [first, rest @ ..] => {
            let inner: usize = rest.iter().map(|axis| axis.len).product::<usize>() * last.len;
            for i in 0..first.len {
                let (base, dst) = (base + i * first.stride, &mut dst[i * inner..]);
                transpose_all(rows, row_stride, rest, last, src, base, dst);
            }
        }
    }
}

/// `dst[i * row_stride + j] = src[i + j * cols.stride]` for `i` in `0..rows`, `j` in `0..cols.len`.
fn transpose<T: Copy>(rows: usize, row_stride: usize, cols: Axis, src: &[T], dst: &mut [T]) {
    const TILE: usize = 8;
    let one_by_one = |i_range: std::ops::Range<usize>, j_range: std::ops::Range<usize>, dst: &mut [T]| {
        for i in i_range {
            for j in j_range.clone() {
                dst[i * row_stride + j] = src[i + j * cols.stride];
            }
        }
    };
    let (full_rows, full_cols) = (rows / TILE * TILE, cols.len / TILE * TILE);
    // Strips of few columns: their lines stay in cache from one tile to the next, even when the columns lie a multiple of
    // a page apart, and the prefetcher can follow them.
    const STRIP: usize = 16;
    for strip in (0..full_cols).step_by(STRIP) {
        for i in (0..full_rows).step_by(TILE) {
            for j in (strip..full_cols.min(strip + STRIP)).step_by(TILE) {
                let tile: [&[T; TILE]; TILE] =
                    std::array::from_fn(|j_in| crate::simd::load(src, i + (j + j_in) * cols.stride));
                for i_in in 0..TILE {
                    let out = crate::simd::load_mut::<T, TILE>(dst, (i + i_in) * row_stride + j);
                    *out = tile.map(|column| column[i_in]);
                }
            }
        }
    }
    one_by_one(0..full_rows, full_cols..cols.len, dst);
    one_by_one(full_rows..rows, 0..cols.len, dst);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::{Draw, on_threads};

    fn naive<T: Copy>(src: &[T], shape: &[usize], perm: &[usize]) -> Vec<T> {
        let strides: Vec<usize> = (0..shape.len()).map(|axis| shape[axis + 1..].iter().product()).collect();
        (0..src.len())
            .map(|mut at| {
                let mut offset = 0;
                for &axis in perm.iter().rev() {
                    offset += at % shape[axis] * strides[axis];
                    at /= shape[axis];
                }
                src[offset]
            })
            .collect()
    }

    fn check<T: Copy + Send + Sync + PartialEq + std::fmt::Debug>(
        shape: &[usize],
        perm: &[usize],
        make: impl Fn(usize) -> T,
    ) {
        let src: Vec<T> = (0..shape.iter().product()).map(make).collect();
        let expected = naive(&src, shape, perm);
        for threads in [1, 3] {
            let mut dst = src.clone();
            on_threads(threads, || permute(&src, shape, perm, &mut dst));
            assert_eq!(dst, expected, "{shape:?} {perm:?}");
        }
    }

    #[test]
    fn drawn_permutations() {
        let mut draw = Draw::new(7);
        for _ in 0..150 {
            let rank = draw.below(6);
            let shape: Vec<usize> = (0..rank).map(|_| [1, 2, 3, 9, 17][draw.below(5)]).collect();
            let mut perm: Vec<usize> = (0..rank).collect();
            for i in (1..rank).rev() {
                perm.swap(i, draw.below(i + 1));
            }
            check(&shape, &perm, |i| i as u32);
            check(&shape, &perm, |i| i as u8);
        }
        check(&[0, 3], &[1, 0], |i| i as u16);
    }

    #[test]
    fn large_arrays_are_split() {
        check(&[2, 40, 1000], &[0, 2, 1], |i| i as f32);
        check(&[2, 1000, 3], &[0, 2, 1], |i| i as u64);
        check(&[300, 301], &[1, 0], |i| i as u16);
        check(&[20_000, 5], &[1, 0], |i| i as u32);
        check(&[5, 20_000], &[1, 0], |i| i as u32);
        check(&[30, 31, 32], &[2, 0, 1], |i| i as u32);
        check(&[30, 31, 32], &[2, 1, 0], |i| i as u32);
        check(&[64, 48, 9], &[2, 1, 0], |i| i as f32);
    }

    #[test]
    fn channels_last_and_back() {
        let x: Vec<f32> = (0..2 * 5 * 77).map(|i| i as f32).collect();
        let (mut last, mut back) = (vec![0.0; x.len()], vec![0.0; x.len()]);
        to_channels_last(&x, 2, 5, 77, &mut last);
        assert_eq!(last[..5], [0.0, 77.0, 154.0, 231.0, 308.0]);
        from_channels_last(&last, 2, 5, 77, &mut back);
        assert_eq!(back, x);
    }
}
