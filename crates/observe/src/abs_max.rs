//! Ranges around zero, after Paddle's activation quantizers.

use crate::{NonFinite, Observer, Range, finite_extremes};

/// The largest magnitude seen: `max over batches of max|x|`. Paddle's `abs_max` calibration.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct AbsMax {
    largest: Option<f32>,
}

impl AbsMax {
    fn step(&mut self, abs_max: f32) {
        self.largest = Some(self.largest.map_or(abs_max, |a| a.max(abs_max)));
    }
}

impl Observer for AbsMax {
    fn update(&mut self, x: &[f32]) -> Result<(), NonFinite> {
        if let Some(e) = finite_extremes(x)? {
            self.step(e.abs_max());
        }
        Ok(())
    }

    fn range(&self) -> Option<Range> {
        self.largest.map(Range::symmetric)
    }

    fn merge(&mut self, other: &AbsMax) {
        if let Some(a) = other.largest {
            self.step(a);
        }
    }
}

/// Paddle's `moving_average_abs_max`: with `a = max|x|` of the batch,
///
/// ```text
/// state <- rate * state + 1
/// accum <- rate * accum + a
/// scale <- accum / state
/// ```
///
/// in `f32`. Started at zero, this is the average of [`MovingAverageMinMax`](crate::MovingAverageMinMax). Paddle's
/// activation quantizers start `state` and `accum` at 1, which pulls the scale towards 1 for the first tens of batches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MovingAverageAbsMax {
    /// How much of the weight of the past a new batch leaves, in `0..1`; 0.9 is usual.
    pub rate: f32,
    /// Sum of the weights.
    pub state: f32,
    /// Weighted sum of the magnitudes.
    pub accum: f32,
    /// The current scale; what a quantizer uses that does not update it.
    pub scale: f32,
}

impl MovingAverageAbsMax {
    /// Nothing seen yet: the first batch gives its own magnitude. Paddle's dygraph output observer.
    pub fn new(rate: f32) -> MovingAverageAbsMax {
        MovingAverageAbsMax { rate, state: 0.0, accum: 0.0, scale: 0.0 }
    }

    /// The start of Paddle's activation quantizers: state 1, accum 1, scale 0.001.
    pub fn paddle(rate: f32) -> MovingAverageAbsMax {
        MovingAverageAbsMax { rate, state: 1.0, accum: 1.0, scale: 0.001 }
    }

    /// Takes a batch into account whose largest magnitude is known; returns the new scale.
    pub fn step(&mut self, abs_max: f32) -> f32 {
        self.state = self.rate * self.state + 1.0;
        self.accum = self.rate * self.accum + abs_max;
        self.scale = self.accum / self.state;
        self.scale
    }
}

impl Observer for MovingAverageAbsMax {
    fn update(&mut self, x: &[f32]) -> Result<(), NonFinite> {
        if let Some(e) = finite_extremes(x)? {
            self.step(e.abs_max());
        }
        Ok(())
    }

    fn range(&self) -> Option<Range> {
        (self.state > 0.0).then(|| Range::symmetric(self.scale))
    }

    /// Adds states and sums: the average over both streams.
    fn merge(&mut self, other: &MovingAverageAbsMax) {
        self.state += other.state;
        self.accum += other.accum;
        if self.state > 0.0 {
            self.scale = self.accum / self.state;
        }
    }
}

/// Paddle's `fake_quantize_range_abs_max`: the largest magnitude of a sliding window of batches, kept in a ring of
/// `window` slots. With `a = max|x|` of batch number `k = 1, 2, …` and `i = k mod window`,
///
/// ```text
/// removed <- window[i];  window[i] <- a
/// if scale < a:                        scale <- a
/// else if |removed - scale| < 1e-6:    scale <- max(window[0 .. min(k, window)])
/// ```
///
/// The counter comes from outside in Paddle and is incremented first, so slot 0 is written for the first time by batch
/// number `window`. The scale starts at 0.001 and falls only when its own batch leaves the window.
#[derive(Clone, Debug, PartialEq)]
pub struct RangeAbsMax {
    window: Vec<f32>,
    steps: u64,
    scale: f32,
}

impl RangeAbsMax {
    /// Nothing seen yet; a window of at least one batch.
    pub fn new(window: usize) -> RangeAbsMax {
        RangeAbsMax { window: vec![0.0; window.max(1)], steps: 0, scale: 0.001 }
    }

    /// Takes a batch into account whose largest magnitude is known; returns the new scale.
    pub fn step(&mut self, abs_max: f32) -> f32 {
        self.steps += 1;
        self.scale = window_step(&mut self.window, self.steps, self.scale, abs_max);
        self.scale
    }

    /// The current scale; what a quantizer uses that does not update it.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// The ring of magnitudes.
    pub fn window(&self) -> &[f32] {
        &self.window
    }

    /// How many batches were seen.
    pub fn steps(&self) -> u64 {
        self.steps
    }
}

/// The new scale after batch number `steps`, whose largest magnitude is `abs_max`; the rule of [`RangeAbsMax`].
pub(crate) fn window_step(window: &mut [f32], steps: u64, scale: f32, abs_max: f32) -> f32 {
    let size = window.len();
    let slot = (steps % size as u64) as usize;
    let removed = std::mem::replace(&mut window[slot], abs_max);
    if scale < abs_max {
        abs_max
    } else if (removed - scale).abs() < 1e-6 {
        let filled = size.min(usize::try_from(steps).unwrap_or(size));
        window[..filled].iter().copied().fold(0.0, f32::max)
    } else {
        scale
    }
}

impl Observer for RangeAbsMax {
    fn update(&mut self, x: &[f32]) -> Result<(), NonFinite> {
        if let Some(e) = finite_extremes(x)? {
            self.step(e.abs_max());
        }
        Ok(())
    }

    fn range(&self) -> Option<Range> {
        (self.steps > 0).then(|| Range::symmetric(self.scale))
    }

    /// Slot by slot the larger one: as if both had seen halves of the same batches.
    fn merge(&mut self, other: &RangeAbsMax) {
        self.window.iter_mut().zip(&other.window).for_each(|(a, &b)| *a = a.max(b));
        self.steps = self.steps.max(other.steps);
        self.scale = self.scale.max(other.scale);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn largest_magnitude() {
        let mut a = AbsMax::default();
        assert_eq!(a.range(), None);
        a.update(&[-3.0, 1.0]).unwrap();
        a.update(&[2.0]).unwrap();
        assert_eq!(a.range(), Some(Range::symmetric(3.0)));
        assert!(a.update(&[f32::NAN]).is_err());
    }

    #[test]
    fn paddle_starts_near_one() {
        let mut a = MovingAverageAbsMax::paddle(0.9);
        a.update(&[0.1]).unwrap();
        assert_eq!(a.scale, (0.9 + 0.1) / 1.9);
        let mut a = MovingAverageAbsMax::new(0.9);
        assert_eq!(a.range(), None);
        a.update(&[0.1]).unwrap();
        assert_eq!(a.range(), Some(Range::symmetric(0.1)));
    }

    #[test]
    fn merged_averages_weigh_both_streams() {
        let (mut a, mut b) = (MovingAverageAbsMax::new(0.5), MovingAverageAbsMax::new(0.5));
        a.update(&[1.0]).unwrap();
        b.update(&[3.0]).unwrap();
        a.merge(&b);
        assert_eq!(a.scale, 2.0);
    }

    #[test]
    fn window_forgets_its_maximum() {
        let mut a = RangeAbsMax::new(2);
        let scales: Vec<f32> = [5.0, 1.0, 2.0, 1.5, 0.5].iter().map(|&x| a.step(x)).collect();
        // Batch 1 goes to slot 1, is replaced by batch 3; the 2 of batch 3 is replaced by batch 5.
        assert_eq!(scales, [5.0, 5.0, 2.0, 2.0, 1.5]);
        assert_eq!(a.window(), [1.5, 0.5]);
    }

    #[test]
    fn window_merges_slot_by_slot() {
        let (mut a, mut b) = (RangeAbsMax::new(2), RangeAbsMax::new(2));
        a.step(1.0);
        b.step(3.0);
        a.merge(&b);
        assert_eq!((a.scale(), a.window(), a.steps()), (3.0, &[0.0, 3.0][..], 1));
    }
}
