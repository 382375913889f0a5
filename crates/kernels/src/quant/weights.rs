//! What happens to weights before they are quantized, and after.

use super::{Axis, Quantizer, Scales, dequantize_f32};

/// Paddle's `fake_dequantize_max_abs` and `fake_channel_wise_dequantize_max_abs`: `x * scale[c] * by / max_range`, from
/// left to right in `f32`.
///
/// After its weights are frozen, a convolution of integers gives integers: there `scale` is that of the weight, `by`
/// that of the input, and `max_range` the product of both ranges. With one scale, `by` is 1.
///
/// # Panics
/// When the lengths do not fit `axis`; there may be one scale or one per channel.
pub fn dequantize_max_abs(axis: Axis, scale: &[f32], by: f32, max_range: f32, x: &[f32], out: &mut [f32]) {
    assert_eq!(
        (x.len(), out.len()),
        (axis.len(), axis.len()),
        "input and output have the length of {axis:?}"
    );
    assert!(scale.len() == 1 || scale.len() == axis.channels, "{} scales for {axis:?}", scale.len());
    if axis.is_empty() {
        return;
    }
    let runs = x.chunks_exact(axis.inner).zip(out.chunks_exact_mut(axis.inner));
    for ((x, out), &s) in runs.zip(scale.iter().cycle()) {
        x.iter().zip(out).for_each(|(&x, out)| *out = x * s * by / max_range);
    }
}

/// An inference-time batch normalization as one multiplication and one addition: `y = a * x + b` with
/// `a = gamma / sqrt(variance + epsilon)` and `b = beta - mean * a`, per channel, in `f64` up to the last rounding.
///
/// # Panics
/// When the lengths differ.
pub fn batch_norm_affine(
    gamma: &[f32],
    beta: &[f32],
    mean: &[f32],
    variance: &[f32],
    epsilon: f32,
) -> (Vec<f32>, Vec<f32>) {
    let lengths = [beta.len(), mean.len(), variance.len()];
    assert_eq!(lengths, [gamma.len(); 3], "all parameters of a batch normalization have one length");
    (0..gamma.len())
        .map(|c| {
            let a = gamma[c] as f64 / (variance[c] as f64 + epsilon as f64).sqrt();
            (a as f32, (beta[c] as f64 - mean[c] as f64 * a) as f32)
        })
        .unzip()
}

/// Multiplies each channel of a weight with its factor: `w[c] *= a[c]`, which folds the `a` of [`batch_norm_affine`]
/// into the convolution before it. The new bias is `bias * a + b`.
///
/// # Panics
/// When the lengths do not fit `axis`.
pub fn fold_scale(axis: Axis, a: &[f32], w: &mut [f32]) {
    assert_eq!((w.len(), a.len()), (axis.len(), axis.channels), "weight and factors fit {axis:?}");
    if axis.is_empty() {
        return;
    }
    for (run, &a) in w.chunks_exact_mut(axis.inner).zip(a.iter().cycle()) {
        run.iter_mut().for_each(|w| *w *= a);
    }
}

/// Mean and population standard deviation in `f64`.
fn moments(x: impl Iterator<Item = f32> + Clone) -> (f64, f64) {
    let n = x.clone().count() as f64;
    let mean = x.clone().map(f64::from).sum::<f64>() / n;
    (mean, (x.map(|x| (x as f64 - mean).powi(2)).sum::<f64>() / n).sqrt())
}

/// Paddle's `bias_correction_w`: quantized weights `codes` of `w`, shifted and stretched so that mean and standard
/// deviation of each channel are nearer to those of `w`:
/// `(dequantized + mean(w - dequantized)) * std(w) / (std(dequantized) + 1e-8)`. Returns real numbers.
///
/// With more than one scale, Paddle does not apply the statistics of channel `c` to channel `c`: it tiles the vector of
/// statistics over the flattened weight, so element `i` gets those of channel `i % channels`. So does this.
///
/// # Panics
/// When the lengths do not fit `axis`.
pub fn bias_correction(
    quantizer: Quantizer,
    axis: Axis,
    scales: Scales<'_>,
    w: &[f32],
    codes: &[f32],
) -> Vec<f32> {
    let mut out = vec![0.0; codes.len()];
    dequantize_f32(quantizer, axis, scales, codes, &mut out);
    assert_eq!(w.len(), out.len(), "weight and codes have one length");
    let channels = if scales.per_tensor() { 1 } else { axis.channels };
    let statistics: Vec<(f32, f32)> = (0..channels)
        .map(|channel| {
            let of = |i: &usize| channels == 1 || i / axis.inner % axis.channels == channel;
            let at = (0..w.len()).filter(of);
            let (shift, _) = moments(at.clone().map(|i| w[i] - out[i]));
            let (_, wanted) = moments(at.clone().map(|i| w[i]));
            let (_, found) = moments(at.map(|i| out[i]));
            (shift as f32, wanted as f32 / (found as f32 + 1e-8))
        })
        .collect();
    for (out, &(shift, stretch)) in out.iter_mut().zip(statistics.iter().cycle()) {
        *out = (shift + *out) * stretch;
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::quant::quantize_f32;

    #[test]
    fn integers_are_scaled_back_per_channel() {
        let mut out = [0.0; 4];
        let axis = Axis { outer: 1, channels: 2, inner: 2 };
        dequantize_max_abs(axis, &[127.0, 254.0], 127.0, 127.0 * 127.0, &[1.0, 2.0, 3.0, -4.0], &mut out);
        assert_eq!(out, [1.0, 2.0, 6.0, -8.0]);
        dequantize_max_abs(axis, &[0.5], 1.0, 2.0, &[1.0, 2.0, 3.0, -4.0], &mut out);
        assert_eq!(out, [0.25, 0.5, 0.75, -1.0]);
    }

    #[test]
    fn batch_norm_folds_into_the_weight() {
        let (a, b) = batch_norm_affine(&[2.0, -1.0], &[0.5, 1.0], &[3.0, 4.0], &[4.0, 0.25], 0.0);
        assert_eq!((&*a, &*b), (&[1.0, -2.0][..], &[-2.5, 9.0][..]));
        let mut w = [1.0, 2.0, 3.0, 4.0];
        fold_scale(Axis { outer: 1, channels: 2, inner: 2 }, &a, &mut w);
        assert_eq!(w, [1.0, 2.0, -6.0, -8.0]);
        let mut w = [1.0, 2.0, 3.0, 4.0];
        fold_scale(Axis { outer: 2, channels: 2, inner: 1 }, &a, &mut w);
        assert_eq!(w, [1.0, -4.0, 3.0, -8.0]);
    }

    #[test]
    fn bias_correction_restores_mean_and_deviation() {
        let w: Vec<f32> = (0..60).map(|i| ((i * 37) % 61) as f32 * 0.01 - 0.1).collect();
        let (q, axis) = (Quantizer::paddle_freeze(3, true).unwrap(), Axis::whole(w.len()));
        let mut codes = vec![0.0; w.len()];
        let scales = Scales::symmetric(&[0.5]);
        quantize_f32(q, axis, scales, &w, &mut codes);
        let out = bias_correction(q, axis, scales, &w, &codes);
        let (wanted, found) = (moments(w.iter().copied()), moments(out.iter().copied()));
        assert!((wanted.1 - found.1).abs() < 1e-6, "{wanted:?} {found:?}");
    }
}
