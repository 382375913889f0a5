//! Parameter updates, each in one sweep over the parameter, its gradient and its state.
//!
//! L2 decay is added to the gradient before anything else, `g + decay w`, as the `L2Decay` regularizer of Paddle and the
//! `weight_decay` of PyTorch's `SGD` and `Adam` do (not the decoupled decay of AdamW).

use crate::parallel::{CHUNK, for_each_chunk, for_each_chunk2};
use crate::simd::{Isa, dispatch};
use rayon::prelude::*;

/// What the optimizers share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Learning rate.
    pub rate: f32,
    /// L2 decay; 0 for none.
    pub decay: f32,
}

/// Stochastic gradient descent: `w -= rate (g + decay w)`.
///
/// # Panics
/// When the lengths differ.
pub fn sgd(step: Step, g: &[f32], w: &mut [f32]) {
    assert_eq!(g.len(), w.len());
    let isa = Isa::detect();
    for_each_chunk(w, CHUNK, |i, w| sgd_chunk(isa, step, &g[i * CHUNK..][..w.len()], w));
}

dispatch! {
    fn sgd_chunk(step: Step, g: &[f32], w: &mut [f32]) {
        for (w, &g) in w.iter_mut().zip(g) {
            *w -= step.rate * (g + step.decay * *w);
        }
    }
}

/// Gradient descent with momentum `mu`, as Paddle's `momentum` operator and PyTorch's `SGD` have it (the rate is not
/// part of the velocity): with `g' = g + decay w`,
///
/// ```text
/// v = mu v + g'
/// w -= rate v                or, by Nesterov,  w -= rate (g' + mu v)
/// ```
///
/// The velocity starts at 0.
///
/// # Panics
/// When the lengths differ.
pub fn momentum(step: Step, mu: f32, nesterov: bool, g: &[f32], w: &mut [f32], v: &mut [f32]) {
    assert_eq!([g.len(), v.len()], [w.len(); 2]);
    let isa = Isa::detect();
    for_each_chunk2(w, CHUNK, v, CHUNK, |i, w, v| {
        momentum_chunk(isa, step, mu, nesterov, &g[i * CHUNK..][..w.len()], w, v);
    });
}

dispatch! {
    fn momentum_chunk(step: Step, mu: f32, nesterov: bool, g: &[f32], w: &mut [f32], v: &mut [f32]) {
        for ((w, v), &g) in w.iter_mut().zip(v).zip(g) {
            let g = g + step.decay * *w;
            *v = mu * *v + g;
            *w -= step.rate * if nesterov { g + mu * *v } else { *v };
        }
    }
}

/// Parameters of Adam.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    /// Decay of the mean of the gradient.
    pub beta1: f32,
    /// Decay of the mean of its square.
    pub beta2: f32,
    /// Added to the root of the second mean.
    pub epsilon: f32,
}

impl Default for Adam {
    fn default() -> Adam {
        Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 }
    }
}

/// The factors of one step of Adam, after the correction of the bias.
#[derive(Clone, Copy)]
struct AdamStep {
    decay: f32,
    adam: Adam,
    /// `rate / (1 - beta1^t)`.
    rate: f32,
    /// `1 / sqrt(1 - beta2^t)`.
    root_scale: f32,
}

/// Adam (Kingma and Ba 2015, algorithm 1), with `g' = g + decay w` and `t` counted from 1:
///
/// ```text
/// m = beta1 m + (1 - beta1) g'
/// s = beta2 s + (1 - beta2) g'^2
/// w -= rate m / (1 - beta1^t) / (sqrt(s / (1 - beta2^t)) + epsilon)
/// ```
///
/// Both means start at 0.
///
/// # Panics
/// When the lengths differ, or `t` is 0.
#[allow(clippy::too_many_arguments)]
pub fn adam(step: Step, adam: Adam, t: u64, g: &[f32], w: &mut [f32], m: &mut [f32], s: &mut [f32]) {
    assert_eq!([g.len(), m.len(), s.len()], [w.len(); 3]);
    assert!(t > 0, "steps are counted from 1");
    // The powers of numbers close to 1 are taken in double precision.
    let correction = |beta: f32| 1.0 - (beta as f64).powf(t as f64);
    let step = AdamStep {
        decay: step.decay,
        adam,
        rate: (step.rate as f64 / correction(adam.beta1)) as f32,
        root_scale: (1.0 / correction(adam.beta2).sqrt()) as f32,
    };
    let isa = Isa::detect();
    // Element-wise, hence independent of how the chunks are scheduled.
    let state = m.par_chunks_mut(CHUNK).zip(s.par_chunks_mut(CHUNK));
    w.par_chunks_mut(CHUNK).zip(g.par_chunks(CHUNK)).zip(state).for_each(|((w, g), (m, s))| {
        adam_chunk(isa, step, g, w, m, s);
    });
}

dispatch! {
    fn adam_chunk(step: AdamStep, g: &[f32], w: &mut [f32], m: &mut [f32], s: &mut [f32]) {
        let Adam { beta1, beta2, epsilon } = step.adam;
        for (((w, m), s), &g) in w.iter_mut().zip(m).zip(s).zip(g) {
            let g = g + step.decay * *w;
            *m = beta1 * *m + (1.0 - beta1) * g;
            *s = beta2 * *s + (1.0 - beta2) * (g * g);
            *w -= step.rate * *m / (s.sqrt() * step.root_scale + epsilon);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elementwise::testing::{bits, close, drawn, on_any_pool, wide};

    const STEP: Step = Step { rate: 0.05, decay: 0.01 };
    const N: usize = 1003;

    /// Runs `steps` steps of `update(t, w, g)` with drawn gradients.
    fn steps(mut update: impl FnMut(u64, &[f32])) {
        (1..=5).for_each(|t| update(t, &drawn(100 + t, N, 1.0)));
    }

    #[test]
    fn sgd_against_double_precision() {
        let mut w = drawn(1, N, 1.0);
        let mut want = wide(&w);
        steps(|_, g| {
            sgd(STEP, g, &mut w);
            want.iter_mut().zip(g).for_each(|(w, &g)| *w -= 0.05 * (g as f64 + 0.01 * *w));
        });
        close(&w, &want, 1e-6);
    }

    #[test]
    fn momentum_against_double_precision() {
        for nesterov in [false, true] {
            let (mut w, mut v) = (drawn(2, N, 1.0), vec![0.0; N]);
            let (mut want, mut velocity) = (wide(&w), vec![0.0; N]);
            steps(|_, g| {
                momentum(STEP, 0.9, nesterov, g, &mut w, &mut v);
                for ((w, v), &g) in want.iter_mut().zip(&mut velocity).zip(g) {
                    let g = g as f64 + 0.01 * *w;
                    *v = 0.9 * *v + g;
                    *w -= 0.05 * if nesterov { g + 0.9 * *v } else { *v };
                }
            });
            close(&w, &want, 1e-6);
            close(&v, &velocity, 1e-6);
        }
    }

    #[test]
    fn adam_against_double_precision() {
        let (mut w, mut m, mut s) = (drawn(3, N, 1.0), vec![0.0; N], vec![0.0; N]);
        let (mut want, mut mean, mut square) = (wide(&w), vec![0.0; N], vec![0.0; N]);
        steps(|t, g| {
            adam(STEP, Adam::default(), t, g, &mut w, &mut m, &mut s);
            for (((w, m), s), &g) in want.iter_mut().zip(&mut mean).zip(&mut square).zip(g) {
                let g = g as f64 + 0.01 * *w;
                *m = 0.9 * *m + 0.1 * g;
                *s = 0.999 * *s + 0.001 * g * g;
                let (m, s) = (*m / (1.0 - 0.9f64.powi(t as i32)), *s / (1.0 - 0.999f64.powi(t as i32)));
                *w -= 0.05 * m / (s.sqrt() + 1e-8);
            }
        });
        close(&w, &want, 1e-5);
    }

    #[test]
    fn first_step_of_adam_is_the_rate() {
        let (mut w, mut m, mut s) = ([1.0], [0.0], [0.0]);
        adam(Step { rate: 0.1, decay: 0.0 }, Adam::default(), 1, &[-7.0], &mut w, &mut m, &mut s);
        assert!((w[0] - 1.1).abs() < 1e-6);
    }

    #[test]
    fn instruction_sets_and_threads_change_nothing() {
        let n = 2 * CHUNK + 77;
        let (g, w) = (drawn(4, n, 1.0), drawn(5, n, 1.0));
        let factors = AdamStep { decay: 0.01, adam: Adam::default(), rate: 0.1, root_scale: 3.0 };
        let run = |isa| {
            let mut all = [w.clone(), w.clone(), w.clone(), vec![0.1; n], vec![0.2; n], vec![0.3; n]];
            let [a, b, c, v, m, s] = &mut all;
            sgd_chunk(isa, STEP, &g, a);
            momentum_chunk(isa, STEP, 0.9, true, &g, b, v);
            adam_chunk(isa, factors, &g, c, m, s);
            all.iter().map(|x| bits(x)).collect::<Vec<_>>()
        };
        assert!(Isa::ALL.iter().all(|&isa| run(isa) == run(Isa::Scalar)));
        on_any_pool(|| {
            let (mut w, mut m, mut s) = (w.clone(), vec![0.1; n], vec![0.3; n]);
            adam(STEP, Adam::default(), 3, &g, &mut w, &mut m, &mut s);
            momentum(STEP, 0.9, false, &g, &mut w, &mut m);
            sgd(STEP, &g, &mut w);
            (w, m, s)
        });
    }
}
