//! Signed ranges.

use crate::{NonFinite, Observer, Range, finite_extremes};
use kernels::quant::Extremes;

/// The smallest and the largest value seen: `min = min over batches of min(x)`, likewise `max`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MinMax(Extremes);

impl Default for MinMax {
    fn default() -> MinMax {
        MinMax(Extremes::EMPTY)
    }
}

impl Observer for MinMax {
    fn update(&mut self, x: &[f32]) -> Result<(), NonFinite> {
        if let Some(e) = finite_extremes(x)? {
            self.0 = self.0.merge(e);
        }
        Ok(())
    }

    fn range(&self) -> Option<Range> {
        (self.0.min <= self.0.max).then_some(Range { min: self.0.min, max: self.0.max })
    }

    fn merge(&mut self, other: &MinMax) {
        self.0 = self.0.merge(other.0);
    }
}

/// An average of the extremes of the batches with weights that decay by `rate`:
///
/// ```text
/// weight <- rate * weight + 1
/// low    <- rate * low  + min(x)        min = low / weight
/// high   <- rate * high + max(x)        max = high / weight
/// ```
///
/// All three start at 0, so the first batch gives its own range and no start value has to fade away (the usual
/// `range <- rate * range + (1 - rate) * new` has the same weights in the limit). Merging adds the sums of both, which
/// gives the average over both streams.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MovingAverageMinMax {
    /// How much of the weight of the past a new batch leaves, in `0..1`; 0.9 is usual.
    pub rate: f32,
    /// Sum of the weights.
    pub weight: f32,
    /// Weighted sum of the minima.
    pub low: f32,
    /// Weighted sum of the maxima.
    pub high: f32,
}

impl MovingAverageMinMax {
    /// An observer that has seen nothing.
    pub fn new(rate: f32) -> MovingAverageMinMax {
        MovingAverageMinMax { rate, weight: 0.0, low: 0.0, high: 0.0 }
    }

    /// Takes a batch into account whose range is known.
    pub fn step(&mut self, batch: Range) {
        self.weight = self.rate * self.weight + 1.0;
        self.low = self.rate * self.low + batch.min;
        self.high = self.rate * self.high + batch.max;
    }
}

impl Observer for MovingAverageMinMax {
    fn update(&mut self, x: &[f32]) -> Result<(), NonFinite> {
        if let Some(e) = finite_extremes(x)? {
            self.step(Range { min: e.min, max: e.max });
        }
        Ok(())
    }

    fn range(&self) -> Option<Range> {
        (self.weight > 0.0).then(|| Range { min: self.low / self.weight, max: self.high / self.weight })
    }

    fn merge(&mut self, other: &MovingAverageMinMax) {
        self.weight += other.weight;
        self.low += other.low;
        self.high += other.high;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn min_max_over_batches_and_observers() {
        let mut a = MinMax::default();
        assert_eq!(a.range(), None);
        a.update(&[]).unwrap();
        assert_eq!(a.range(), None);
        a.update(&[1.0, 2.0]).unwrap();
        let mut b = MinMax::default();
        b.update(&[-1.0, 0.5]).unwrap();
        a.merge(&b);
        assert_eq!(a.range(), Some(Range { min: -1.0, max: 2.0 }));
        assert_eq!(a.range().map(Range::abs_max), Some(2.0));
    }

    #[test]
    fn what_is_not_finite_is_refused_and_counted() {
        let mut a = MinMax::default();
        a.update(&[1.0]).unwrap();
        let e = a.update(&[0.0, f32::INFINITY, f32::NAN, f32::NEG_INFINITY]).unwrap_err();
        assert_eq!(e, NonFinite { nan: 1, infinite: 2, len: 4, first: 1 });
        assert_eq!(a.range(), Some(Range { min: 1.0, max: 1.0 }));
    }

    #[test]
    fn moving_average_starts_at_the_first_batch() {
        let mut a = MovingAverageMinMax::new(0.5);
        assert_eq!(a.range(), None);
        a.update(&[-1.0, 3.0]).unwrap();
        assert_eq!(a.range(), Some(Range { min: -1.0, max: 3.0 }));
        a.update(&[2.0, 6.0]).unwrap();
        // Weights 1/3 and 2/3.
        assert_eq!(a.range(), Some(Range { min: 1.0, max: 5.0 }));
        let mut b = MovingAverageMinMax::new(0.5);
        b.merge(&a);
        assert_eq!(a, b);
    }
}
