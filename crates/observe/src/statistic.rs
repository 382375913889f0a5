//! Observers whose state is a tensor, so that it can be a variable of a graph.

use crate::abs_max::window_step;
use crate::{MovingAverageAbsMax, MovingAverageMinMax, NonFinite, Observer, Range, finite_extremes};
use kernels::quant::Extremes;

/// A range statistic, chosen at run time. Its state is a slice of `f32`: first the smallest value ever seen, which
/// tells whether anything is negative, then what the statistic itself needs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Statistic {
    /// [`MinMax`](crate::MinMax). State: lowest, max, number of batches.
    MinMax,
    /// [`MovingAverageMinMax`]. State: lowest, weight, low, high.
    MovingAverageMinMax {
        /// Decay of the past per batch.
        rate: f32,
    },
    /// [`AbsMax`](crate::AbsMax) of the current batch alone, as Paddle's `abs_max` quantizer. State: lowest, magnitude.
    AbsMax,
    /// [`MovingAverageAbsMax`]. State: lowest, scale, state, accum.
    MovingAverageAbsMax {
        /// Decay of the past per batch.
        rate: f32,
    },
    /// [`RangeAbsMax`](crate::RangeAbsMax). State: lowest, scale, number of batches, then the window.
    RangeAbsMax {
        /// Number of batches in the window.
        window: usize,
    },
}

impl Statistic {
    /// The state before the first batch.
    pub fn initial(self) -> Vec<f32> {
        match self {
            Statistic::MinMax => vec![0.0; 3],
            Statistic::MovingAverageMinMax { .. } => vec![0.0; 4],
            Statistic::AbsMax => vec![0.0; 2],
            Statistic::MovingAverageAbsMax { .. } => vec![0.0; 4],
            Statistic::RangeAbsMax { window } => {
                let mut state = vec![0.0; 3 + window.max(1)];
                state[1] = 0.001;
                state
            }
        }
    }

    /// The state with which Paddle's static graph passes start: scale 0.001, and 1 for `state` and `accum`.
    pub fn initial_paddle(self) -> Vec<f32> {
        let mut state = self.initial();
        match self {
            Statistic::MovingAverageAbsMax { .. } => state[1..4].copy_from_slice(&[0.001, 1.0, 1.0]),
            Statistic::AbsMax => state[1] = 0.001,
            _ => {}
        }
        state
    }

    /// The state that many batches leave which all span `range`.
    pub fn holding(self, range: Range) -> Vec<f32> {
        let Range { min, max } = range;
        let (magnitude, mut state) = (range.abs_max(), self.initial());
        // The sum of all weights, from the newest to the oldest.
        let weight = |rate: f32| 1.0 / (1.0 - rate);
        state[0] = min;
        match self {
            Statistic::MinMax => state[1..].copy_from_slice(&[max, 1.0]),
            Statistic::MovingAverageMinMax { rate } => {
                let weight = weight(rate);
                state[1..].copy_from_slice(&[weight, min * weight, max * weight]);
            }
            Statistic::AbsMax => state[1] = magnitude,
            Statistic::MovingAverageAbsMax { rate } => {
                let weight = weight(rate);
                state[1..].copy_from_slice(&[magnitude, weight, magnitude * weight]);
            }
            Statistic::RangeAbsMax { .. } => state[1..4].copy_from_slice(&[magnitude, 1.0, magnitude]),
        }
        state
    }

    /// Takes one batch into account. An empty batch changes nothing.
    ///
    /// # Errors
    /// When a value is not finite; the state is then unchanged.
    ///
    /// # Panics
    /// When the state has not the length of [`Statistic::initial`].
    pub fn update(self, x: &[f32], state: &mut [f32]) -> Result<(), NonFinite> {
        if let Some(extremes) = finite_extremes(x)? {
            self.take(extremes, state);
        }
        Ok(())
    }

    /// Takes one batch into account of which the extremes are known, all of them finite.
    ///
    /// # Panics
    /// When the state has not the length of [`Statistic::initial`].
    pub fn take(self, e: Extremes, state: &mut [f32]) {
        state[0] = state[0].min(e.min);
        match self {
            Statistic::MinMax => {
                let first = state[2] == 0.0;
                state[0] = if first { e.min } else { state[0] };
                state[1] = if first { e.max } else { state[1].max(e.max) };
                state[2] += 1.0;
            }
            Statistic::MovingAverageMinMax { rate } => {
                let mut o = MovingAverageMinMax { rate, weight: state[1], low: state[2], high: state[3] };
                o.step(Range { min: e.min, max: e.max });
                state[1..4].copy_from_slice(&[o.weight, o.low, o.high]);
            }
            Statistic::AbsMax => state[1] = e.abs_max(),
            Statistic::MovingAverageAbsMax { rate } => {
                let mut o = MovingAverageAbsMax { rate, scale: state[1], state: state[2], accum: state[3] };
                o.step(e.abs_max());
                state[1..4].copy_from_slice(&[o.scale, o.state, o.accum]);
            }
            Statistic::RangeAbsMax { .. } => {
                let (head, window) = state.split_at_mut(3);
                head[2] += 1.0;
                head[1] = window_step(window, head[2] as u64, head[1], e.abs_max());
            }
        }
    }

    /// The range that a state stands for. Magnitudes give `-a..a`, or `0..a` where nothing negative was ever seen. `None`
    /// before the first batch.
    pub fn range(self, state: &[f32]) -> Option<Range> {
        let magnitude = |a: f32| Range { min: if state[0] < 0.0 { -a } else { 0.0 }, max: a };
        match self {
            Statistic::MinMax => (state[2] > 0.0).then(|| Range { min: state[0], max: state[1] }),
            Statistic::MovingAverageMinMax { rate } => {
                MovingAverageMinMax { rate, weight: state[1], low: state[2], high: state[3] }.range()
            }
            Statistic::MovingAverageAbsMax { .. } => (state[2] > 0.0).then(|| magnitude(state[1])),
            Statistic::RangeAbsMax { .. } => (state[2] > 0.0).then(|| magnitude(state[1])),
            Statistic::AbsMax => Some(magnitude(state[1])),
        }
    }

    /// The scale of Paddle's quantizers: the magnitude itself, whatever the sign of the values.
    pub fn magnitude(self, state: &[f32]) -> f32 {
        match self {
            Statistic::MinMax | Statistic::MovingAverageMinMax { .. } => {
                self.range(state).map_or(0.0, Range::abs_max)
            }
            _ => state[1],
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{MinMax, RangeAbsMax};

    #[test]
    fn agrees_with_the_observers() {
        let batches: [&[f32]; 4] = [&[1.0, -2.0], &[0.5], &[3.0, -0.1], &[0.2]];
        let (mut a, mut b) = (MinMax::default(), MovingAverageMinMax::new(0.9));
        let (mut c, mut d) = (MovingAverageAbsMax::new(0.9), RangeAbsMax::new(2));
        let kinds = [
            Statistic::MinMax,
            Statistic::MovingAverageMinMax { rate: 0.9 },
            Statistic::MovingAverageAbsMax { rate: 0.9 },
            Statistic::RangeAbsMax { window: 2 },
        ];
        let mut states = kinds.map(Statistic::initial);
        for x in batches {
            a.update(x).unwrap();
            b.update(x).unwrap();
            c.update(x).unwrap();
            d.update(x).unwrap();
            kinds.iter().zip(&mut states).for_each(|(k, s)| k.update(x, s).unwrap());
        }
        let ranges: Vec<_> = kinds.iter().zip(&states).map(|(k, s)| k.range(s)).collect();
        assert_eq!(ranges, [a.range(), b.range(), c.range(), d.range()]);
    }

    #[test]
    fn a_magnitude_of_positive_values_begins_at_zero() {
        let kind = Statistic::MovingAverageAbsMax { rate: 0.9 };
        let mut state = kind.initial();
        assert_eq!(kind.range(&state), None);
        kind.update(&[0.0, 2.0], &mut state).unwrap();
        assert_eq!(kind.range(&state), Some(Range { min: 0.0, max: 2.0 }));
    }

    #[test]
    fn a_held_range_is_the_range() {
        let kinds = [
            Statistic::MinMax,
            Statistic::MovingAverageMinMax { rate: 0.9 },
            Statistic::AbsMax,
            Statistic::MovingAverageAbsMax { rate: 0.9 },
            Statistic::RangeAbsMax { window: 3 },
        ];
        for kind in kinds {
            let symmetric = Range { min: -3.0, max: 3.0 };
            let held = kind.range(&kind.holding(symmetric)).unwrap();
            assert!((held.min + 3.0).abs() < 1e-6 && (held.max - 3.0).abs() < 1e-6, "{kind:?}: {held:?}");
        }
        for kind in &kinds[..2] {
            let mut state = kind.holding(Range { min: -1.0, max: 2.0 });
            kind.update(&[-1.0, 2.0], &mut state).unwrap();
            let held = kind.range(&state).unwrap();
            assert!((held.min + 1.0).abs() < 1e-6 && (held.max - 2.0).abs() < 1e-6, "{kind:?}: {held:?}");
        }
    }

    #[test]
    fn what_is_not_finite_leaves_the_state_alone() {
        let mut state = Statistic::MinMax.initial();
        assert!(Statistic::MinMax.update(&[1.0, f32::NAN], &mut state).is_err());
        assert_eq!(state, [0.0; 3]);
    }
}
