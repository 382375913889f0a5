//! How the values of a tensor are distributed, and the thresholds that calibration methods choose for them.

use crate::growing::Histogram;
use crate::{NonFinite, Range};
use kernels::quant::{Axis, Extremes, extremes_channels};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Steps of an 8-bit grid.
const STEPS: f64 = 255.0;

/// The distributions of the tensors of a model: what `onnx-qat analyze` writes, in TOML.
///
/// ```
/// use onnx_qat_observe::{DistributionObserver, Distributions};
///
/// let mut observer = DistributionObserver::default();
/// observer.update(&[2, 2], &[0.0, 1.0, 0.5, -0.25])?;
/// let mut all = Distributions::default();
/// all.tensors.extend(observer.distribution().map(|d| ("relu1".to_string(), d)));
/// let text = all.to_toml()?;
/// assert!(text.contains("[tensors.relu1]\nmin = -0.25\nmax = 1.0\n"));
/// assert_eq!(Distributions::from_toml(&text)?, all);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Distributions {
    /// By name of the tensor.
    pub tensors: BTreeMap<String, Distribution>,
}

impl Distributions {
    /// Reads TOML.
    ///
    /// # Errors
    /// When the text is not TOML, or a key is missing or unknown.
    pub fn from_toml(text: &str) -> Result<Distributions, toml::de::Error> {
        toml::from_str(text)
    }

    /// Writes TOML.
    ///
    /// # Errors
    /// None that is known: names and numbers all have a form in TOML.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(self)
    }
}

/// How the values of one tensor are distributed over all data that it was observed on. Percentiles and thresholds are
/// magnitudes: a threshold `t` keeps the values from `-t` to `t`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Distribution {
    /// The smallest value.
    pub min: f32,
    /// The largest value.
    pub max: f32,
    /// The mean.
    pub mean: f32,
    /// The standard deviation.
    pub std: f32,
    /// The share of values that are 0.
    pub zeros: f32,
    /// The share of values further than six standard deviations from the mean; of a normal distribution 2e-9.
    pub outliers: f32,
    /// How many times the largest magnitude of a channel is that of the median channel; 1 without channels.
    pub channel_spread: f32,
    /// 99 % of the values are not larger in magnitude.
    pub percentile_99: f32,
    /// 99.9 % of the values are not larger in magnitude.
    pub percentile_99_9: f32,
    /// 99.99 % of the values are not larger in magnitude.
    pub percentile_99_99: f32,
    /// What calibration methods choose.
    pub thresholds: Thresholds,
}

/// What each calibration method chooses.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Thresholds {
    /// The largest magnitude: nothing is clipped.
    pub abs_max: Threshold,
    /// The magnitude that 99.99 % of the values do not exceed (`hist` in PaddleSlim).
    pub hist: Threshold,
    /// The smallest divergence between the distributions before and after (Kullback-Leibler, as TensorRT and PaddleSlim).
    pub kl: Threshold,
    /// The smallest mean squared error.
    pub mse: Threshold,
}

impl Thresholds {
    /// All, by the name of the method.
    pub fn named(&self) -> [(&'static str, Threshold); 4] {
        [("abs_max", self.abs_max), ("hist", self.hist), ("kl", self.kl), ("mse", self.mse)]
    }

    /// The threshold with the highest [`Threshold::sqnr`], the first of equals.
    pub fn best(&self) -> (&'static str, Threshold) {
        let better = |a: (_, Threshold), b: (_, Threshold)| if b.1.sqnr > a.1.sqnr { b } else { a };
        self.named().into_iter().fold(("abs_max", self.abs_max), better)
    }
}

/// Where a method clips, and what that costs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Threshold {
    /// The largest magnitude that is kept.
    pub magnitude: f32,
    /// Signal-to-noise ratio of the tensor in 8 bits with this threshold, in dB.
    pub sqnr: f32,
}

/// Observes a tensor batch by batch, in bounded memory.
#[derive(Clone, Debug, Default)]
pub struct DistributionObserver {
    histogram: Histogram,
    channels: Vec<Extremes>,
}

/// The axis of the channels: the second one, but the last one of `[batch, position, channel]`.
fn channels(shape: &[usize]) -> Option<Axis> {
    match shape.len() {
        0 | 1 => None,
        3 => Axis::of(shape, 2),
        _ => Axis::of(shape, 1),
    }
}

impl DistributionObserver {
    /// Takes a batch of values of this shape into account; the first axis is the batch.
    ///
    /// # Errors
    /// When a value is not finite; the batch is then ignored.
    ///
    /// # Panics
    /// When shape and values do not fit.
    pub fn update(&mut self, shape: &[usize], x: &[f32]) -> Result<(), NonFinite> {
        self.histogram.update(x)?;
        if let Some(axis) = channels(shape) {
            let mut batch = vec![Extremes::EMPTY; axis.channels];
            extremes_channels(axis, x, &mut batch);
            self.channels.resize(axis.channels.max(self.channels.len()), Extremes::EMPTY);
            self.channels.iter_mut().zip(batch).for_each(|(c, b)| *c = c.merge(b));
        }
        Ok(())
    }

    /// The counts so far.
    pub fn histogram(&self) -> &Histogram {
        &self.histogram
    }

    /// What was observed so far; `None` before the first value.
    pub fn distribution(&self) -> Option<Distribution> {
        let h = &self.histogram;
        let range = h.range()?;
        let (mean, variance) = moments(h);
        let magnitudes = h.magnitudes();
        let percentile = |share| (percentile(&magnitudes, h.width(), share) as f32).min(range.abs_max());
        let threshold = |magnitude: f32| Threshold { magnitude, sqnr: sqnr(h, magnitude) as f32 };
        let abs_max = threshold(range.abs_max());
        Some(Distribution {
            min: range.min,
            max: range.max,
            mean: mean as f32,
            std: variance.sqrt() as f32,
            zeros: h.zeros() as f32 / h.total() as f32,
            outliers: outliers(h, mean, 6.0 * variance.sqrt()),
            channel_spread: self.channel_spread(),
            percentile_99: percentile(0.99),
            percentile_99_9: percentile(0.999),
            percentile_99_99: percentile(0.9999),
            thresholds: Thresholds {
                abs_max,
                hist: threshold(percentile(0.9999)),
                kl: threshold((kl(&magnitudes, h.width()) as f32).min(range.abs_max())),
                mse: mse(range, threshold),
            },
        })
    }

    fn channel_spread(&self) -> f32 {
        let mut largest: Vec<f32> =
            self.channels.iter().filter(|c| c.min <= c.max).map(|c| c.abs_max()).collect();
        largest.sort_by(f32::total_cmp);
        // Dead channels have no range that could differ.
        let alive = &largest[largest.partition_point(|&m| m == 0.0)..];
        match alive.last() {
            Some(last) => last / alive[(alive.len() - 1) / 2],
            None => 1.0,
        }
    }
}

/// Mean and variance, with every value in the middle of its bin, zeros apart.
fn moments(h: &Histogram) -> (f64, f64) {
    let total = h.total() as f64;
    let sum = |f: &dyn Fn(f64) -> f64| {
        let bins = h.bins().map(|b| {
            let zeros = if b.low == 0.0 { h.zeros() } else { 0 };
            (b.count - zeros) as f64 * f(0.5 * (b.low + b.high)) + zeros as f64 * f(0.0)
        });
        bins.sum::<f64>() / total
    };
    let mean = sum(&|x| x);
    // A constant is in one bin, of which it need not be the middle.
    let constant = h.range().is_some_and(|r| r.min == r.max);
    match h.range() {
        Some(range) if constant => (range.min as f64, 0.0),
        _ => (mean, sum(&|x| (x - mean).powi(2))),
    }
}

/// The share of values that lie further than `reach` from `mean`.
fn outliers(h: &Histogram, mean: f64, reach: f64) -> f32 {
    let far = h.bins().filter(|b| (0.5 * (b.low + b.high) - mean).abs() > reach + h.width());
    (far.map(|b| b.count).sum::<u64>() as f64 / h.total() as f64) as f32
}

/// The magnitude that a `share` of the values does not exceed; within a bin, values are taken to lie evenly.
fn percentile(magnitudes: &[u64], width: f64, share: f64) -> f64 {
    let mut left = share * magnitudes.iter().sum::<u64>() as f64;
    for (k, &n) in magnitudes.iter().enumerate() {
        if n as f64 >= left {
            return width * (k as f64 + if n == 0 { 0.0 } else { left / n as f64 });
        }
        left -= n as f64;
    }
    width * magnitudes.len() as f64
}

/// Signal-to-noise ratio in dB of 8-bit codes over the range that remains of the tensor's own when it is clipped to
/// `-magnitude ..= magnitude`. Exact to the width of a bin: values in it are taken to lie evenly, or all in its middle.
fn sqnr(h: &Histogram, magnitude: f32) -> f64 {
    let Some(range) = h.range() else { return f64::INFINITY };
    let (low, high) = (range.min.clamp(-magnitude, 0.0) as f64, range.max.clamp(0.0, magnitude) as f64);
    let step = (high - low) / STEPS;
    let (mut signal, mut noise) = (0.0, 0.0);
    for b in h.bins() {
        let n = if b.low == 0.0 { b.count - h.zeros() } else { b.count } as f64;
        if n == 0.0 {
            continue;
        }
        // The ends of the range are codes: values at them, clipped or not, need no interpolation.
        let x = (0.5 * (b.low + b.high)).clamp(range.min as f64, range.max as f64);
        let inside = x.clamp(low, high);
        let rounding = if step <= h.width() {
            step * step / 12.0
        } else {
            (inside - (inside / step).round() * step).powi(2) + h.width().powi(2) / 12.0
        };
        signal += n * x * x;
        noise += n * ((x - inside).powi(2) + rounding);
    }
    if noise == 0.0 { f64::INFINITY } else { 10.0 * (signal / noise).log10() }
}

/// The threshold with the highest signal-to-noise ratio among whole percents of the largest magnitude, the largest of
/// equals.
fn mse(range: Range, threshold: impl Fn(f32) -> Threshold) -> Threshold {
    let candidates = (1..100).rev().map(|percent| threshold(range.abs_max() * percent as f32 / 100.0));
    candidates.fold(threshold(range.abs_max()), |a, b| if b.sqnr > a.sqnr { b } else { a })
}

/// PaddleSlim's search (`KL`, after TensorRT) for the threshold that loses the least information: among the upper
/// half of at most 2048 bins of `|x|`, the number `i` of bins whose distribution, with everything above put into the last of
/// them, is closest to itself spread over 127 groups.
fn kl(magnitudes: &[u64], width: f64) -> f64 {
    const GROUPS: usize = 127;
    let merge = magnitudes.len().div_ceil(2048);
    let bins: Vec<f64> = magnitudes.chunks(merge).map(|c| c.iter().sum::<u64>() as f64).collect();
    let n = bins.len();
    let total: f64 = bins.iter().sum();
    let mut best: Option<(f64, usize)> = None;
    // With no more bins than groups nothing is lost.
    let start = (n.saturating_sub(1) / 2).max(GROUPS + 1);
    for i in start..n {
        if bins[i - 1] == 0.0 {
            continue;
        }
        let kept: f64 = bins[..i].iter().sum();
        let beyond = total - kept;
        let group = i / GROUPS;
        let mut divergence = 0.0;
        for g in 0..GROUPS {
            let end = if g + 1 == GROUPS { i } else { (g + 1) * group };
            let part = &bins[g * group..end];
            // The last bin is filled by what lies beyond, whether or not it held something.
            let filled = part.iter().filter(|&&h| h > 0.0).count() as f64;
            let q = part.iter().sum::<f64>() / filled;
            for (k, &h) in part.iter().enumerate().filter(|(_, h)| **h > 0.0) {
                let p = if g * group + k + 1 == i { h + beyond } else { h };
                divergence += p * ((kept * p).ln() - (total * q).ln());
            }
        }
        let divergence = divergence / total;
        if best.is_none_or(|(least, _)| divergence < least) {
            best = Some((divergence, i));
        }
    }
    // The upper half is empty but for its last bin: what is there are outliers.
    let below = || bins.get(..start).and_then(|b| b.iter().rposition(|&h| h > 0.0));
    let i = best.map(|(_, i)| i).or_else(below).map_or(n as f64, |i| i as f64 + 0.5);
    i * width * merge as f64
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use kernels::quant::{Grid, Quantizer};

    fn observe(shape: &[usize], x: &[f32]) -> Distribution {
        let mut observer = DistributionObserver::default();
        observer.update(shape, x).unwrap();
        observer.distribution().unwrap()
    }

    /// Sums of twelve uniform numbers: nearly normal, with mean 0 and variance 1.
    fn normal(n: usize) -> Vec<f32> {
        let mut state = 7u64;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1u64 << 24) as f32
        };
        (0..n).map(|_| (0..12).map(|_| next()).sum::<f32>() - 6.0).collect()
    }

    /// The signal-to-noise ratio, measured.
    fn measured(x: &[f32], t: f32) -> f32 {
        let (min, max) = x.iter().fold((0f32, 0f32), |(a, b), &x| (a.min(x), b.max(x)));
        let affine = crate::scale::asymmetric(Range { min: min.max(-t), max: max.min(t) }, Grid::U8);
        let q = Quantizer::onnx(Grid::U8);
        let back = |x| q.value(affine.scale, affine.zero_point, q.code(affine.scale, affine.zero_point, x));
        let noise: f64 = x.iter().map(|&x| (x as f64 - back(x) as f64).powi(2)).sum();
        let signal: f64 = x.iter().map(|&x| (x as f64).powi(2)).sum();
        10.0 * (signal / noise).log10() as f32
    }

    #[test]
    fn moments_and_percentiles_of_a_normal_distribution() {
        let d = observe(&[40_000], &normal(40_000));
        assert!(d.mean.abs() < 0.02 && (d.std - 1.0).abs() < 0.02, "{d:?}");
        let mut sorted: Vec<f32> = normal(40_000).iter().map(|x| x.abs()).collect();
        sorted.sort_by(f32::total_cmp);
        for (p, rank) in
            [(d.percentile_99, 39_600), (d.percentile_99_9, 39_960), (d.percentile_99_99, 39_996)]
        {
            assert!((p - sorted[rank - 1]).abs() < 0.01, "{p} {}", sorted[rank - 1]);
        }
        assert_eq!((d.outliers, d.zeros, d.channel_spread), (0.0, 0.0, 1.0));
    }

    #[test]
    fn signal_to_noise_is_that_of_the_codes() {
        let mut x = normal(20_000);
        let relu: Vec<f32> = x.iter().map(|x| x.max(0.0)).collect();
        let mut outliers = x.clone();
        outliers[..3].fill(40.0);
        x.iter_mut().for_each(|x| *x *= 1e-4);
        for x in [&x, &relu, &outliers] {
            let d = observe(&[20_000], x);
            for (name, t) in d.thresholds.named() {
                let real = measured(x, t.magnitude);
                assert!((t.sqnr - real).abs() < 0.15, "{name}: {} estimated, {real} measured", t.sqnr);
            }
            let best = d.thresholds.named().iter().map(|t| t.1.sqnr).fold(0.0, f32::max);
            assert!(d.thresholds.mse.sqnr >= best - 0.02, "{d:?}");
        }
    }

    #[test]
    fn outliers_are_clipped_by_all_but_abs_max() {
        let mut x = normal(50_000);
        x[7] = 60.0;
        let d = observe(&[50_000], &x);
        let t = d.thresholds;
        assert_eq!((t.abs_max.magnitude, d.outliers), (60.0, 1.0 / 50_000.0));
        assert!(t.mse.magnitude < 60.0 && t.hist.magnitude < 5.0 && t.kl.magnitude < 6.0, "{t:?}");
        assert_eq!(t.best().0, "mse");
    }

    #[test]
    fn channels_of_different_ranges() {
        let x = [1.0f32, -1.0, 8.0, 4.0, 0.0, 0.0, 2.0, 0.5];
        assert_eq!(observe(&[1, 4, 2], &x).channel_spread, 8.0 / 4.0);
        assert_eq!(observe(&[1, 4, 1, 2], &x).channel_spread, 8.0 / 2.0);
        assert_eq!(observe(&[4, 2], &x).channel_spread, 8.0 / 4.0);
    }

    #[test]
    fn constants_have_a_distribution() {
        let d = observe(&[3], &[0.75; 3]);
        assert_eq!((d.min, d.mean, d.std, d.percentile_99), (0.75, 0.75, 0.0, 0.75));
        assert!(d.thresholds.abs_max.sqnr > 60.0, "{d:?}");
        let d = observe(&[3], &[0.0; 3]);
        assert_eq!((d.zeros, d.max, d.std), (1.0, 0.0, 0.0));
        assert!(!d.thresholds.abs_max.sqnr.is_nan(), "{d:?}");
        assert!(DistributionObserver::default().distribution().is_none());
    }
}
