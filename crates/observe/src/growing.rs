//! A histogram of a stream of values, of which nobody knows the range beforehand.

use crate::{NonFinite, Range, finite_extremes};

/// Most bins that a histogram has.
const BINS: f64 = 4096.0;

/// The smallest width is `2^MIN_EXPONENT`, that of the smallest `f32`.
const MIN_EXPONENT: i32 = -149;

/// Counts of values in bins of equal width, in bounded memory, in one pass.
///
/// The width is the smallest power of two with which no more than 4096 bins reach from the smallest value (or 0) to the
/// largest (or 0), and bin `k` holds `k * width <= x < (k + 1) * width`. When a value falls outside, the width doubles and
/// neighbours join: their sum is what a histogram of the new width would have counted from the beginning. So the counts do
/// not depend on the order of the values, nor on how they come in batches.
///
/// ```
/// use onnx_qat_observe::Histogram;
///
/// let mut h = Histogram::default();
/// h.update(&[0.0, 0.25, -0.5])?;
/// h.update(&[3000.0, 0.25])?;
/// assert_eq!((h.width(), h.total()), (1.0, 5));
/// assert_eq!(h.bins().map(|b| (b.low, b.count)).filter(|b| b.1 > 0).collect::<Vec<_>>(), [(-1.0, 1), (0.0, 3), (3000.0, 1)]);
/// # Ok::<(), onnx_qat_observe::NonFinite>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    exponent: i32,
    /// The number of the first bin, at most 0.
    first: i64,
    counts: Vec<u64>,
    range: Option<Range>,
    zeros: u64,
}

/// One bin of a [`Histogram`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bin {
    /// The lower edge, which belongs to the bin.
    pub low: f64,
    /// The upper edge, which does not.
    pub high: f64,
    /// How many values lie in it.
    pub count: u64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { exponent: MIN_EXPONENT, first: 0, counts: Vec::new(), range: None, zeros: 0 }
    }
}

impl Histogram {
    /// Counts a batch of values.
    ///
    /// # Errors
    /// When a value is not finite; the batch is then ignored.
    pub fn update(&mut self, x: &[f32]) -> Result<(), NonFinite> {
        let Some(e) = finite_extremes(x)? else { return Ok(()) };
        self.reach(Range { min: e.min, max: e.max });
        let (inverse, first) = (1.0 / self.width(), self.first);
        for &x in x {
            self.counts[((x as f64 * inverse).floor() as i64 - first) as usize] += 1;
        }
        self.zeros += x.iter().filter(|&&x| x == 0.0).count() as u64;
        Ok(())
    }

    /// Widens bins and extent until `range` has a place.
    fn reach(&mut self, range: Range) {
        let range =
            self.range.map_or(range, |r| Range { min: r.min.min(range.min), max: r.max.max(range.max) });
        self.range = Some(range);
        let ends = |exponent: i32| {
            let inverse = (-exponent as f64).exp2();
            let end = |x: f32| (x as f64 * inverse).floor();
            (end(range.min.min(0.0)), end(range.max.max(0.0)))
        };
        let mut exponent = self.exponent;
        while ends(exponent).1 - ends(exponent).0 >= BINS {
            exponent += 1;
        }
        let (low, high) = (ends(exponent).0 as i64, ends(exponent).1 as i64);
        let mut counts = vec![0; (high - low + 1) as usize];
        let shift = (exponent - self.exponent).min(63);
        for (k, &n) in (self.first..).zip(&self.counts) {
            counts[((k >> shift) - low) as usize] += n;
        }
        (self.exponent, self.first, self.counts) = (exponent, low, counts);
    }

    /// The width of a bin.
    pub fn width(&self) -> f64 {
        (self.exponent as f64).exp2()
    }

    /// The smallest and the largest value; `None` before the first.
    pub fn range(&self) -> Option<Range> {
        self.range
    }

    /// How many values there are.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// How many values are 0.
    pub fn zeros(&self) -> u64 {
        self.zeros
    }

    /// All bins from the smallest value (or 0) to the largest (or 0).
    pub fn bins(&self) -> impl Iterator<Item = Bin> {
        let (width, first) = (self.width(), self.first);
        let bin = move |(k, &count): (i64, &u64)| Bin {
            low: k as f64 * width,
            high: (k + 1) as f64 * width,
            count,
        };
        (first..).zip(&self.counts).map(bin)
    }

    /// Counts of magnitudes: the bins of `|x|` from 0 upwards, of the same width.
    pub fn magnitudes(&self) -> Vec<u64> {
        let last = self.first + self.counts.len() as i64 - 1;
        let mut counts = vec![0; last.max(-1 - self.first).max(0) as usize + 1];
        for (k, &n) in (self.first..).zip(&self.counts) {
            let folded = if k < 0 { -1 - k } else { k };
            counts[folded as usize] += n;
        }
        counts
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn of(batches: &[&[f32]]) -> Histogram {
        let mut h = Histogram::default();
        batches.iter().for_each(|x| h.update(x).unwrap());
        h
    }

    #[test]
    fn counts_do_not_depend_on_order_or_batches() {
        let x: Vec<f32> =
            (0..3000).map(|i| ((i * 7919) % 3001) as f32 * 0.37 - 200.0).chain([5e4, 0.0]).collect();
        let whole = of(&[&x]);
        let backwards: Vec<f32> = x.iter().rev().copied().collect();
        assert_eq!(of(&[&backwards]), whole);
        assert_eq!(of(&x.chunks(17).collect::<Vec<_>>()), whole);
        assert_eq!((whole.total(), whole.zeros()), (3002, x.iter().filter(|&&x| x == 0.0).count() as u64));
        assert!(whole.bins().count() <= 4096 && whole.bins().count() > 2000);
    }

    #[test]
    fn every_value_is_in_its_bin() {
        for x in [0.0f32, -0.0, 1e-45, -1e-45, 0.75, -3.0, f32::MAX, f32::MIN, 4096.0, -4096.0] {
            let h = of(&[&[x]]);
            let held: Vec<Bin> = h.bins().filter(|b| b.count > 0).collect();
            assert_eq!(held.len(), 1, "{x}");
            assert!(held[0].low <= x as f64 && (x as f64) < held[0].high, "{x}: {held:?}");
            assert_eq!(h.magnitudes().iter().sum::<u64>(), 1);
        }
        let h = of(&[&[f32::MIN, f32::MAX, 1e-30]]);
        assert_eq!(h.total(), 3);
    }

    #[test]
    fn nothing_and_what_is_not_finite_change_nothing() {
        let mut h = of(&[&[1.0, 2.0]]);
        let before = h.clone();
        h.update(&[]).unwrap();
        assert!(h.update(&[f32::NAN, 1.0]).is_err());
        assert_eq!(h, before);
        assert_eq!(Histogram::default().magnitudes(), [0]);
    }

    #[test]
    fn magnitudes_fold_at_zero() {
        let h = of(&[&[-4000.0, -0.5, 0.5, 1.5, 0.0]]);
        assert_eq!(h.width(), 1.0);
        assert_eq!(h.magnitudes()[..3], [3, 1, 0]);
        assert_eq!(h.magnitudes()[3999], 1);
    }
}
