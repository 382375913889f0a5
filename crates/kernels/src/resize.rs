//! Resampling along axes: every element of the result is a weighted sum of a few elements along one axis, axis by axis.
//!
//! Nearest, linear and cubic interpolation differ in their [`Taps`] only, and the gradient is the same kernel with the
//! transposed taps.

use crate::parallel::{CHUNK, for_each_chunk};

/// The weights of one axis: a sparse matrix of `len()` rows over `input()` columns.
#[derive(Clone, Debug, PartialEq)]
pub struct Taps {
    input: usize,
    /// Where the taps of each row begin; one more entry than rows.
    starts: Vec<usize>,
    taps: Vec<(usize, f32)>,
}

impl Taps {
    /// The taps of each element of the result over an axis of `input` elements. Weights of 0 are dropped.
    ///
    /// # Panics
    /// When a tap is not below `input`.
    pub fn new(input: usize, rows: impl IntoIterator<Item = Vec<(usize, f32)>>) -> Taps {
        let (mut starts, mut taps) = (vec![0], Vec::new());
        for row in rows {
            assert!(row.iter().all(|t| t.0 < input), "a tap outside of {input} elements");
            taps.extend(row.into_iter().filter(|t| t.1 != 0.0));
            starts.push(taps.len());
        }
        Taps { input, starts, taps }
    }

    /// The transposed matrix: the taps of the gradient.
    pub fn transposed(&self) -> Taps {
        let mut rows = vec![Vec::new(); self.input];
        for i in 0..self.len() {
            for &(j, w) in self.row(i) {
                rows[j].push((i, w));
            }
        }
        Taps::new(self.len(), rows)
    }

    /// Number of elements of the result.
    pub fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// The result has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of elements of the operand.
    pub fn input(&self) -> usize {
        self.input
    }

    fn row(&self, i: usize) -> &[(usize, f32)] {
        &self.taps[self.starts[i]..self.starts[i + 1]]
    }
}

/// A plan to resample some axes, one after the other.
#[derive(Clone, Debug, PartialEq)]
pub struct Resample {
    lens: [usize; 2],
    /// Outer size, taps, inner size.
    steps: Vec<(usize, Taps, usize)>,
    workspace: usize,
}

impl Resample {
    /// Plans for an operand of `shape`; `taps` gives the axes to resample, in the order in which it is done.
    ///
    /// # Panics
    /// When an axis does not exist, or its taps are for another size.
    pub fn new(shape: &[usize], taps: Vec<(usize, Taps)>) -> Resample {
        let mut now = shape.to_vec();
        let (mut steps, mut workspace) = (Vec::new(), 0);
        let count = taps.len();
        for (i, (axis, taps)) in taps.into_iter().enumerate() {
            assert_eq!(now[axis], taps.input(), "taps of axis {axis} of {shape:?}");
            now[axis] = taps.len();
            if i + 1 < count {
                workspace = workspace.max(now.iter().product());
            }
            steps.push((now[..axis].iter().product(), taps, now[axis + 1..].iter().product()));
        }
        let lens = [shape.iter().product(), now.iter().product()];
        Resample { lens, steps, workspace: if count > 2 { 2 * workspace } else { workspace } }
    }

    /// The plan of the gradient: from the result's shape back to the operand's.
    pub fn transposed(&self) -> Resample {
        let mut steps: Vec<(usize, Taps, usize)> = Vec::new();
        for (outer, taps, inner) in self.steps.iter().rev() {
            steps.push((*outer, taps.transposed(), *inner));
        }
        let between = self.steps.iter().skip(1).map(|(o, t, i)| o * t.input() * i).max().unwrap_or(0);
        let workspace = if steps.len() > 2 { 2 * between } else { between };
        Resample { lens: [self.lens[1], self.lens[0]], steps, workspace }
    }

    /// Number of elements of the operand and of the result.
    pub fn lens(&self) -> [usize; 2] {
        self.lens
    }

    /// Workspace of [`Resample::run`], in elements.
    pub fn workspace(&self) -> usize {
        self.workspace
    }

    /// `y` = `x` resampled.
    ///
    /// # Panics
    /// When a slice has not the planned length.
    pub fn run(&self, x: &[f32], y: &mut [f32], workspace: &mut [f32]) {
        assert_eq!([x.len(), y.len()], self.lens, "operand and result of a resampling");
        assert_eq!(workspace.len(), self.workspace, "workspace of a resampling");
        let Some((last, first)) = self.steps.split_last() else { return y.copy_from_slice(x) };
        if first.is_empty() {
            return pass(last, x, y);
        }
        let half = if self.steps.len() > 2 { self.workspace / 2 } else { self.workspace };
        let (mut from, mut to) = workspace.split_at_mut(half);
        let size = |(outer, taps, inner): &(usize, Taps, usize)| outer * taps.len() * inner;
        pass(&first[0], x, &mut from[..size(&first[0])]);
        for steps in first.windows(2) {
            pass(&steps[1], &from[..size(&steps[0])], &mut to[..size(&steps[1])]);
            std::mem::swap(&mut from, &mut to);
        }
        pass(last, &from[..size(&first[first.len() - 1])], y);
    }
}

/// One axis: `y[o, i, ..] = sum of w x[o, j, ..]` over the taps `(j, w)` of `i`.
fn pass((outer, taps, inner): &(usize, Taps, usize), x: &[f32], y: &mut [f32]) {
    if y.is_empty() {
        return;
    }
    debug_assert_eq!([x.len(), y.len()], [outer * taps.input() * inner, outer * taps.len() * inner]);
    let rows = (CHUNK / inner).max(1);
    for_each_chunk(y, rows * inner, |chunk, y| {
        for (k, y) in y.chunks_exact_mut(*inner).enumerate() {
            let row = chunk * rows + k;
            let (o, i) = (row / taps.len(), row % taps.len());
            let x = &x[o * taps.input() * inner..][..taps.input() * inner];
            match taps.row(i) {
                [(j, 1.0)] => y.copy_from_slice(&x[j * inner..][..*inner]),
                [(j, v), (k, w)] => {
                    let (a, b) = (&x[j * inner..][..*inner], &x[k * inner..][..*inner]);
                    y.iter_mut().zip(a).zip(b).for_each(|((y, a), b)| *y = v * a + w * b);
                }
                taps => {
                    y.fill(0.0);
                    for (j, w) in taps {
                        y.iter_mut().zip(&x[j * inner..][..*inner]).for_each(|(y, x)| *y += w * x);
                    }
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elementwise::testing::{drawn, on_any_pool};

    fn run(plan: &Resample, x: &[f32]) -> Vec<f32> {
        let mut y = vec![f32::NAN; plan.lens()[1]];
        plan.run(x, &mut y, &mut vec![f32::NAN; plan.workspace()]);
        y
    }

    fn double(n: usize) -> Taps {
        Taps::new(n, (0..2 * n).map(|i| vec![(i / 2, 0.75), (((i / 2) + i % 2).min(n - 1), 0.25)]))
    }

    #[test]
    fn axis_by_axis() {
        let plan = Resample::new(&[2, 2], vec![(0, double(2)), (1, double(2))]);
        let rows = run(&Resample::new(&[2, 2], vec![(0, double(2))]), &[1.0, 2.0, 5.0, 6.0]);
        assert_eq!(rows, [1.0, 2.0, 2.0, 3.0, 5.0, 6.0, 5.0, 6.0]);
        let both = run(&plan, &[1.0, 2.0, 5.0, 6.0]);
        assert_eq!(both[..4], [1.0, 1.25, 2.0, 2.0]);
        assert_eq!(run(&Resample::new(&[3], vec![]), &[1.0, 2.0, 3.0]), [1.0, 2.0, 3.0]);
    }

    #[test]
    fn the_gradient_is_the_transposed_map() {
        for axes in [&[0][..], &[1], &[1, 2], &[0, 1, 2], &[2, 0, 1, 3]] {
            let shape = [2, 3, 4, 5];
            let plan = Resample::new(&shape, axes.iter().map(|&a| (a, double(shape[a]))).collect());
            let (x, dy) = (drawn(1, plan.lens()[0], 1.0), drawn(2, plan.lens()[1], 1.0));
            let (y, dx) = (run(&plan, &x), run(&plan.transposed(), &dy));
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| *a as f64 * *b as f64).sum::<f64>();
            assert!((dot(&y, &dy) - dot(&x, &dx)).abs() < 1e-4, "{axes:?}");
        }
    }

    #[test]
    fn threads_change_nothing() {
        let plan = Resample::new(&[3, 60, 70, 4], vec![(1, double(60)), (2, double(70))]);
        let x = drawn(3, plan.lens()[0], 1.0);
        on_any_pool(|| run(&plan, &x));
    }
}
