//! Splitting work over the threads of the current rayon pool, by shape alone.
//!
//! The number and the bounds of the chunks depend on lengths that the caller gives, never on the number of threads, and
//! partial results are combined along a fixed tree: a kernel built from these helpers gives the same bits on any pool.
//! On a pool of one thread everything runs inline.

use rayon::prelude::*;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A chunk length, in elements, for element-wise sweeps: 64 KiB of `f32`, long enough to hide the cost of a task.
pub const CHUNK: usize = 16 * 1024;

fn inline() -> bool {
    rayon::current_num_threads() == 1
}

/// Calls `f(index)` for every `index` in `0..count`, in any order.
pub fn for_each(count: usize, f: impl Fn(usize) + Sync + Send) {
    if count <= 1 || inline() {
        (0..count).for_each(f);
    } else {
        (0..count).into_par_iter().with_max_len(1).for_each(f);
    }
}

/// Calls `f(index, scratch)` for every `index` in `0..count`, in any order. Each call has `len` elements of `scratch` for
/// itself, with whatever an earlier call left in them; as many run at a time as there are threads and scratch for.
///
/// # Panics
/// When `scratch` is shorter than `len`, unless `count` is 0.
pub fn for_each_with<T: Send>(
    count: usize,
    scratch: &mut [T],
    len: usize,
    f: impl Fn(usize, &mut [T]) + Sync + Send,
) {
    if count <= 1 || inline() {
        (0..count).for_each(|i| f(i, &mut scratch[..len]));
        return;
    }
    let next = AtomicUsize::new(0);
    let threads = rayon::current_num_threads();
    scratch.par_chunks_exact_mut(len).take(threads).for_each(|scratch| {
        while let Some(i) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|&i| i < count) {
            f(i, scratch);
        }
    });
}

/// Splits `out` into chunks of `chunk_len` elements (the last may be shorter) and calls `f(index, chunk)` for each.
///
/// # Panics
/// When `chunk_len` is 0.
pub fn for_each_chunk<T: Send>(out: &mut [T], chunk_len: usize, f: impl Fn(usize, &mut [T]) + Sync + Send) {
    if out.len() <= chunk_len || inline() {
        out.chunks_mut(chunk_len).enumerate().for_each(|(i, chunk)| f(i, chunk));
    } else {
        out.par_chunks_mut(chunk_len).enumerate().for_each(|(i, chunk)| f(i, chunk));
    }
}

/// Calls `f(index, element)` for every element of `out`, each of which takes `reads` elements of an operand to compute: no
/// task is smaller than [`CHUNK`] of these, so that small tensors wake no thread.
pub fn for_each_element<T: Send>(out: &mut [T], reads: usize, f: impl Fn(usize, &mut T) + Sync + Send) {
    let len = CHUNK.div_ceil(reads.max(1));
    for_each_chunk(out, len, |i, out| {
        out.iter_mut().enumerate().for_each(|(at, out)| f(i * len + at, out));
    });
}

/// [`for_each_chunk`] over two slices at once: chunk `i` of `a` goes with chunk `i` of `b`. Stops at the shorter one.
///
/// # Panics
/// When a chunk length is 0.
pub fn for_each_chunk2<T: Send, U: Send>(
    a: &mut [T],
    a_len: usize,
    b: &mut [U],
    b_len: usize,
    f: impl Fn(usize, &mut [T], &mut [U]) + Sync + Send,
) {
    if a.len() <= a_len || inline() {
        a.chunks_mut(a_len).zip(b.chunks_mut(b_len)).enumerate().for_each(|(i, (a, b))| f(i, a, b));
    } else {
        a.par_chunks_mut(a_len).zip(b.par_chunks_mut(b_len)).enumerate().for_each(|(i, (a, b))| f(i, a, b));
    }
}

/// Reduces the range `0..len`: `map` turns each run of `chunk_len` indices into a partial result, and `combine` joins
/// neighbours along a balanced tree whose shape depends on `len` and `chunk_len` only. `None` when `len` is 0.
///
/// # Panics
/// When `chunk_len` is 0.
pub fn reduce<R: Send>(
    len: usize,
    chunk_len: usize,
    map: impl Fn(Range<usize>) -> R + Sync,
    combine: impl Fn(R, R) -> R + Sync,
) -> Option<R> {
    fn tree<R: Send>(
        chunks: Range<usize>,
        inline: bool,
        leaf: &(impl Fn(usize) -> R + Sync),
        combine: &(impl Fn(R, R) -> R + Sync),
    ) -> R {
        if chunks.len() == 1 {
            return leaf(chunks.start);
        }
        let middle = chunks.start + chunks.len() / 2;
        let left = || tree(chunks.start..middle, inline, leaf, combine);
        let right = || tree(middle..chunks.end, inline, leaf, combine);
        let (left, right) = if inline { (left(), right()) } else { rayon::join(left, right) };
        combine(left, right)
    }
    let chunks = len.div_ceil(chunk_len);
    let leaf = |i: usize| map(i * chunk_len..len.min((i + 1) * chunk_len));
    (chunks > 0).then(|| tree(0..chunks, chunks == 1 || inline(), &leaf, &combine))
}

/// Adds the rows of `partials`, a matrix `(count, out.len())`, to `out` in row order.
///
/// # Panics
/// When the length of `partials` is not a multiple of that of `out`.
pub fn add_partials(partials: &[f32], out: &mut [f32]) {
    if out.is_empty() {
        return;
    }
    assert!(partials.len().is_multiple_of(out.len()), "partials are not rows of the length of the output");
    let width = out.len();
    for_each_chunk(out, CHUNK, |i, out| {
        for row in partials.chunks_exact(width) {
            let row = &row[i * CHUNK..][..out.len()];
            out.iter_mut().zip(row).for_each(|(out, &x)| *out += x);
        }
    });
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn pool(threads: usize) -> rayon::ThreadPool {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
    }

    #[test]
    fn chunks_cover_the_slice_once() {
        for threads in [1, 3] {
            pool(threads).install(|| {
                let mut out = vec![0; 1000];
                for_each_chunk(&mut out, 64, |i, chunk| chunk.iter_mut().for_each(|x| *x += i + 1));
                assert!(out.iter().enumerate().all(|(at, &x)| x == at / 64 + 1));
                for reads in [0, 1, CHUNK / 3, CHUNK, usize::MAX] {
                    out.fill(0);
                    for_each_element(&mut out, reads, |i, x| *x += i + 1);
                    assert!(out.iter().enumerate().all(|(at, &x)| x == at + 1), "{reads}");
                }
                let (mut a, mut b) = (vec![0; 10], vec![0; 20]);
                for_each_chunk2(&mut a, 3, &mut b, 6, |i, a, b| {
                    a.fill(i);
                    b.fill(i);
                });
                assert_eq!(a, [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]);
                assert!(b.iter().enumerate().all(|(at, &x)| x == at / 6));
            });
        }
    }

    #[test]
    fn sums_do_not_depend_on_the_number_of_threads() {
        let x: Vec<f32> = (0..100_003).map(|i| (i as f32).sin()).collect();
        let sum = || reduce(x.len(), 1000, |range| x[range].iter().sum::<f32>(), |a, b| a + b);
        let one = pool(1).install(sum);
        assert_eq!(one, pool(3).install(sum));
        assert!(one.is_some());
        assert_eq!(reduce(0, 8, |_| 0.0, |a: f32, b| a + b), None);
    }

    #[test]
    fn partials_add_in_row_order() {
        let mut out = vec![1.0; 3];
        add_partials(&[1.0, 2.0, 3.0, 10.0, 20.0, 30.0], &mut out);
        assert_eq!(out, [12.0, 23.0, 34.0]);
        add_partials(&[], &mut []);
    }
}
