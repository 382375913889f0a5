//! PACT: clipping activations at a learned threshold (Choi et al. 2018, arXiv 1805.06085).

use crate::parallel::{self, CHUNK};
use crate::simd::{Isa, dispatch};

/// A formulation of PACT with threshold `u`. The first two agree with the third for `u >= 0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pact {
    /// `y = x - relu(x - u) + relu(-u - x)`: PaddleSlim's demo and its dygraph layer. For `u < 0`, where both ramps
    /// overlap, it flips signs.
    Demo,
    /// `t = x - relu(x - u); y = t + relu(-u - t)`: PaddleSlim's `pact`. For `u < 0` it is the constant `|u|`.
    Slim,
    /// `y = clip(x, -u, u)`, for what a symmetric quantizer follows. A negative `u` counts as 0, and the gradient can
    /// pull it back.
    Symmetric,
    /// `y = clip(x, 0, u)`, for what an unsigned quantizer follows: the form of the paper. A negative `u` counts as 0.
    Relu,
}

#[inline(always)]
fn relu(x: f32) -> f32 {
    if x > 0.0 { x } else { 0.0 }
}

/// `(y, dy/dx, dy/du)` at one element. A derivative of `relu` at 0 is 0, so equality passes through.
#[inline(always)]
fn element(form: Pact, u: f32, x: f32) -> (f32, f32, f32) {
    let step = |x: f32| if x > 0.0 { 1.0 } else { 0.0 };
    match form {
        Pact::Demo => {
            let (above, below) = (x - u, -u - x);
            let (high, low) = (step(above), step(below));
            (x - relu(above) + relu(below), 1.0 - high - low, high - low)
        }
        Pact::Slim => {
            let above = x - u;
            let t = x - relu(above);
            let below = -u - t;
            let (high, low) = (step(above), step(below));
            (t + relu(below), (1.0 - low) * (1.0 - high), (1.0 - low) * high - low)
        }
        Pact::Symmetric => {
            let u = relu(u);
            let (high, low) = (step(x - u), step(-u - x));
            let y = if x > u { u } else { x };
            (if y < -u { -u } else { y }, 1.0 - high - low, high - low)
        }
        Pact::Relu => {
            let u = relu(u);
            let (high, low) = (step(x - u), step(-x));
            let y = if x > u { u } else { x };
            (if y < 0.0 { 0.0 } else { y }, 1.0 - high - low, high)
        }
    }
}

/// Independent accumulators of the sum over elements.
const LANES: usize = 16;

#[inline(always)]
fn forward(form: Pact, u: f32, x: &[f32], y: &mut [f32]) {
    x.iter().zip(y).for_each(|(&x, y)| *y = element(form, u, x).0);
}

/// Writes `dx` and adds what each element contributes to `du` to its lane.
#[inline(always)]
fn backward_lanes(form: Pact, u: f32, x: &[f32], dy: &[f32], dx: &mut [f32], du: &mut [f64]) {
    for (((&x, &dy), dx), du) in x.iter().zip(dy).zip(dx).zip(du) {
        let (_, by_x, by_u) = element(form, u, x);
        *dx = dy * by_x;
        *du += (dy * by_u) as f64;
    }
}

#[inline(always)]
fn backward(form: Pact, u: f32, x: &[f32], dy: &[f32], dx: &mut [f32]) -> f64 {
    let mut du = [0.0f64; LANES];
    let ((x, x_rest), (dy, dy_rest)) = (x.as_chunks::<LANES>(), dy.as_chunks::<LANES>());
    let (dx, dx_rest) = dx.as_chunks_mut::<LANES>();
    for ((x, dy), dx) in x.iter().zip(dy).zip(dx) {
        backward_lanes(form, u, x, dy, dx, &mut du);
    }
    backward_lanes(form, u, x_rest, dy_rest, dx_rest, &mut du);
    du.iter().sum()
}

dispatch! {
    fn forward_chunk(form: Pact, u: f32, x: &[f32], y: &mut [f32]) {
        // A literal form per arm, so that each loop is compiled for its own.
        match form {
            Pact::Demo => forward(Pact::Demo, u, x, y),
            Pact::Slim => forward(Pact::Slim, u, x, y),
            Pact::Symmetric => forward(Pact::Symmetric, u, x, y),
            Pact::Relu => forward(Pact::Relu, u, x, y),
        }
    }

    fn backward_chunk(form: Pact, u: f32, x: &[f32], dy: &[f32], dx: &mut [f32]) -> f64 {
        match form {
            Pact::Demo => backward(Pact::Demo, u, x, dy, dx),
            Pact::Slim => backward(Pact::Slim, u, x, dy, dx),
            Pact::Symmetric => backward(Pact::Symmetric, u, x, dy, dx),
            Pact::Relu => backward(Pact::Relu, u, x, dy, dx),
        }
    }
}

/// Clips `x` at threshold `u`.
///
/// # Panics
/// When the lengths differ.
pub fn pact(form: Pact, u: f32, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "input and output have one length");
    parallel::for_each_chunk(y, CHUNK, |i, y| {
        forward_chunk(Isa::detect(), form, u, &x[i * CHUNK..][..y.len()], y)
    });
}

/// Gradients of [`pact`]: writes that of `x` to `dx` and returns that of `u`.
///
/// With `hi = [x > u]` and `lo = [x < -u]`, `dx = dy * (1 - hi - lo)` and `du = sum of dy * (hi - lo)`, summed in `f64`
/// over chunks of fixed size. [`Pact::Relu`] has `lo = [x < 0]`, which does not reach `du`.
///
/// # Panics
/// When the lengths differ.
pub fn pact_grad(form: Pact, u: f32, x: &[f32], dy: &[f32], dx: &mut [f32]) -> f32 {
    assert_eq!((x.len(), dy.len()), (dx.len(), dx.len()), "input and gradients have one length");
    let mut sums = vec![0.0; dx.len().div_ceil(CHUNK)];
    parallel::for_each_chunk2(dx, CHUNK, &mut sums, 1, |i, dx, sum| {
        let (x, dy) = (&x[i * CHUNK..][..dx.len()], &dy[i * CHUNK..][..dx.len()]);
        sum[0] = backward_chunk(Isa::detect(), form, u, x, dy, dx);
    });
    sums.iter().sum::<f64>() as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMS: [Pact; 4] = [Pact::Demo, Pact::Slim, Pact::Symmetric, Pact::Relu];

    fn run(form: Pact, u: f32, x: &[f32]) -> (Vec<f32>, Vec<f32>, f32) {
        let (mut y, mut dx, dy) = (vec![0.0; x.len()], vec![0.0; x.len()], vec![2.0; x.len()]);
        pact(form, u, x, &mut y);
        let du = pact_grad(form, u, x, &dy, &mut dx);
        (y, dx, du)
    }

    #[test]
    fn clips_on_both_sides_or_above_zero() {
        let x = [-3.0, -2.0, -0.5, 0.0, 1.0, 2.0, 2.5, 4.0];
        for form in [Pact::Demo, Pact::Slim, Pact::Symmetric] {
            let (y, dx, du) = run(form, 2.0, &x);
            assert_eq!(y, [-2.0, -2.0, -0.5, 0.0, 1.0, 2.0, 2.0, 2.0]);
            assert_eq!(dx, [0.0, 2.0, 2.0, 2.0, 2.0, 2.0, 0.0, 0.0]);
            assert_eq!(du, 2.0); // two above, one below
        }
        let (y, dx, du) = run(Pact::Relu, 2.0, &x);
        assert_eq!(y, [0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 2.0, 2.0]);
        assert_eq!(dx, [0.0, 0.0, 0.0, 2.0, 2.0, 2.0, 0.0, 0.0]);
        assert_eq!(du, 4.0);
    }

    #[test]
    fn negative_thresholds() {
        let x = [-3.0, -0.5, 0.5, 3.0];
        assert_eq!(run(Pact::Demo, -1.0, &x).0, [1.0, 0.5, -0.5, -1.0]);
        assert_eq!(run(Pact::Slim, -1.0, &x).0, [1.0; 4]);
        assert_eq!(run(Pact::Symmetric, -1.0, &x).0, [0.0; 4]);
        assert_eq!(run(Pact::Relu, -1.0, &x).0, [0.0; 4]);
    }

    /// The gradients against central differences, away from the kinks.
    #[test]
    fn gradients_are_those_of_the_forward() {
        let x: Vec<f32> = (0..200).map(|i| (i as f32 - 99.7) * 0.03).collect();
        let loss = |form, u: f32, x: &[f32]| run(form, u, x).0.iter().map(|&y| 2.0 * y as f64).sum::<f64>();
        for form in FORMS {
            for u in [1.004, -0.51] {
                let (_, dx, du) = run(form, u, &x);
                let h = 0.001953125; // 2^-9: no rounding in u + h
                let slope = (loss(form, u + h, &x) - loss(form, u - h, &x)) / (2.0 * h as f64);
                let expected =
                    if u < 0.0 && matches!(form, Pact::Symmetric | Pact::Relu) { None } else { Some(slope) };
                assert!(expected.is_none_or(|s| (s - du as f64).abs() < 0.05), "{form:?} {u} {slope} {du}");
                for i in (0..x.len()).step_by(7) {
                    let at = |d: f32| loss(form, u, &[x[i] + d]);
                    let slope = (at(h) - at(-h)) / (2.0 * h as f64);
                    assert!(
                        (slope - dx[i] as f64).abs() < 0.01,
                        "{form:?} {u} at {} {slope} {}",
                        x[i],
                        dx[i]
                    );
                }
            }
        }
    }

    #[test]
    fn instruction_sets_and_thread_counts_agree() {
        let x: Vec<f32> = (0..40_003).map(|i| ((i * 31) % 977) as f32 * 0.01 - 4.0).collect();
        let dy: Vec<f32> = (0..40_003).map(|i| ((i * 17) % 101) as f32 * 0.013 - 0.6).collect();
        for form in FORMS {
            let on = |isa| {
                let (mut y, mut dx) = (vec![0.0; x.len()], vec![0.0; x.len()]);
                forward_chunk(isa, form, 2.5, &x, &mut y);
                let du = backward_chunk(isa, form, 2.5, &x, &dy, &mut dx);
                (y, dx, du)
            };
            assert!(Isa::ALL.iter().all(|&isa| on(isa) == on(Isa::Scalar)), "{form:?}");
            let mut dx = vec![0.0; x.len()];
            let mut threads = |n| {
                #[allow(clippy::unwrap_used)]
                let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
                pool.install(|| pact_grad(form, 2.5, &x, &dy, &mut dx))
            };
            assert_eq!(threads(1).to_bits(), threads(3).to_bits());
        }
    }
}
