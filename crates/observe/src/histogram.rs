//! Histograms of magnitudes, and the thresholds that are read from them.

/// NumPy's `histogram(x, bins, range=(0, high))` of `f32` values in `0..=high`: counts and the `bins + 1` edges.
///
/// The edges are computed in `f64` and rounded to `f32`; a value belongs to the bin whose edges enclose it, the last bin
/// includes its upper edge.
fn counts(x: impl Iterator<Item = f32>, bins: usize, high: f32) -> (Vec<u64>, Vec<f32>) {
    let width = high as f64 / bins as f64;
    let mut edges: Vec<f32> = (0..=bins).map(|i| (i as f64 * width) as f32).collect();
    edges[bins] = high;
    let mut counts = vec![0; bins];
    for x in x.filter(|x| (0.0..=high).contains(x)) {
        // The last edge that is not above x.
        let bin = edges.partition_point(|&edge| edge <= x).saturating_sub(1);
        counts[bin.min(bins - 1)] += 1;
    }
    (counts, edges)
}

/// The magnitude that a share `drop` of the values exceeds, by Paddle's `quant_post_dynamic`: upper edge of the first of
/// 5000 bins of `|x|` at which the cumulated share reaches `1 - drop`, as a multiple of the width of the first bin. 0 for a
/// tensor of zeros.
pub fn dropping_threshold(x: &[f32], drop: f64) -> f64 {
    const BINS: usize = 5000;
    let high = kernels::quant::abs_max(x);
    if high == 0.0 {
        return 0.0;
    }
    let (counts, edges) = counts(x.iter().map(|x| x.abs()), BINS, high);
    let total = counts.iter().sum::<u64>() as f64;
    let mut share = 0.0;
    let last = counts.iter().position(|&n| {
        share += n as f64 / total;
        share >= 1.0 - drop
    });
    last.map_or(0.0, |bin| (bin + 1) as f64 * (edges[1] - edges[0]) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_on_edges_belong_to_the_bin_above_except_the_last() {
        let (counts, edges) = counts([0.0, 0.5, 1.0, 1.5, 2.0, 9.0].into_iter(), 4, 2.0);
        assert_eq!((counts, edges), (vec![1, 1, 1, 2], vec![0.0, 0.5, 1.0, 1.5, 2.0]));
    }

    #[test]
    fn threshold_drops_the_tail() {
        let x: Vec<f32> = (1..=100).map(|i| i as f32).chain([-1000.0]).collect();
        assert!((dropping_threshold(&x, 0.02) - 99.2).abs() < 1e-3, "{}", dropping_threshold(&x, 0.02));
        assert!((dropping_threshold(&x, 0.0) - 1000.0).abs() < 1e-3);
        assert_eq!(dropping_threshold(&[0.0; 3], 0.02), 0.0);
    }
}
