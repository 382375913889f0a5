//! From ranges to scales and zero points, as ONNX QuantizeLinear takes them: `scale` is the width of one step.

use crate::Range;
use kernels::quant::Grid;

/// No scale is smaller. The product of two of them, a bias scale, is still a normal number.
pub const MIN_SCALE: f32 = 1e-12;

/// Largest magnitude of an `int32` bias code. The other half of the accumulator remains for the products: 33 000 of
/// the largest `uint8` by `int8` products fit.
pub const BIAS_LIMIT: i32 = 1 << 30;

/// Scale and zero point of one tensor or channel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Affine {
    /// The width of one step, positive.
    pub scale: f32,
    /// The code of the real number 0.
    pub zero_point: i32,
}

/// A usable scale for `range` spread over `steps` steps. Where the range is empty, the tensor is zero and any scale
/// represents it; that of the range 0..1 keeps a bias scale in the usual magnitude.
fn guard(range: f32, steps: i32) -> f32 {
    let range = if range > 0.0 { range } else { 1.0 };
    (range / steps as f32).max(MIN_SCALE)
}

/// Asymmetric quantization of an activation, for `uint8` with [`Grid::U8`].
///
/// The range is first widened to include 0, so that 0 (padding, ReLU) is exact:
///
/// ```text
/// scale      = (max(max, 0) - min(min, 0)) / (high - low)
/// zero_point = half_even(low - min(min, 0) / scale), within low..=high
/// ```
///
/// Where nothing is negative the zero point is `low`, 0 for `uint8`. A constant tensor `c` has the range `0..c` and keeps
/// its value exactly up to rounding; a tensor of zeros gets the scale of the range 0..1.
///
/// ```
/// use onnx_qat_observe::{Range, scale};
/// use kernels::quant::Grid;
///
/// let relu = scale::asymmetric(Range { min: 0.3, max: 2.55 }, Grid::U8);
/// assert_eq!((relu.scale, relu.zero_point), (0.01, 0));
/// ```
pub fn asymmetric(range: Range, grid: Grid) -> Affine {
    let (min, max) = (range.min.min(0.0), range.max.max(0.0));
    let scale = guard(max - min, grid.high - grid.low);
    let zero_point = (grid.low as f32 - min / scale).round_ties_even();
    Affine { scale, zero_point: (zero_point as i32).clamp(grid.low, grid.high) }
}

/// Symmetric quantization of an activation: `scale = max|x| / reach`, where the zero point is the middle of the grid
/// (128 for `uint8`, 0 for signed grids) and `reach` the number of codes above it (127).
pub fn symmetric(range: Range, grid: Grid) -> Affine {
    let zero_point = (grid.low + grid.high + 1).div_euclid(2);
    Affine { scale: guard(range.abs_max(), grid.high - zero_point), zero_point }
}

/// Symmetric scales of a weight, one per channel from its largest magnitude: `scale[c] = abs_max[c] / high`, zero point
/// 0. For codes in ±127, [`Grid::I8_NARROW`].
///
/// A dead channel, all zeros, would get the scale 0, and with it a bias scale of 0. Any scale represents its zeros; it
/// gets the largest scale of the other channels, or `1 / high` when all are dead.
pub fn weight(abs_max: &[f32], grid: Grid) -> Vec<f32> {
    let largest = abs_max.iter().copied().fold(0.0, f32::max);
    abs_max.iter().map(|&a| guard(if a > 0.0 { a } else { largest }, grid.high)).collect()
}

/// A quantized bias: see [`bias`].
#[derive(Clone, Debug, PartialEq)]
pub struct Bias {
    /// The codes, one per channel, within ±[`BIAS_LIMIT`].
    pub codes: Vec<i32>,
    /// The scale of each code, the `f32` product of the scales of input and weight.
    pub scale: Vec<f32>,
    /// The weight scales that the products are made of, one per channel or one in all, as given or enlarged. The
    /// weight has to be quantized with these.
    pub weight_scale: Vec<f32>,
    /// The indices in `weight_scale` of those that were enlarged, ascending.
    pub enlarged: Vec<usize>,
}

/// `int32` bias of a convolution or product, in the scale that its accumulator has:
///
/// ```text
/// scale[c] = input_scale * weight_scale[c]                 (in f32, as runtimes recompute it)
/// code[c]  = half_even(bias[c] / scale[c])
/// ```
///
/// Where a code would exceed [`BIAS_LIMIT`], because the weights of the channel are tiny beside its bias, the weight scale
/// of the channel is enlarged to `|bias| / (input_scale * BIAS_LIMIT)`: the weights lose digits that the bias would drown
/// anyway. ONNX Runtime's quantizer does the same.
///
/// `weight_scale` has one element per bias, or one for all.
///
/// # Panics
/// When it has another length.
pub fn bias(bias: &[f32], input_scale: f32, weight_scale: &[f32]) -> Bias {
    let per_tensor = weight_scale.len() == 1;
    assert!(per_tensor || weight_scale.len() == bias.len(), "one weight scale, or one per bias");
    let slot = |channel: usize| if per_tensor { 0 } else { channel };
    let mut weight_scale = weight_scale.to_vec();
    let mut enlarged = Vec::new();
    for (channel, &b) in bias.iter().enumerate() {
        let needed = b.abs() as f64 / (input_scale as f64 * BIAS_LIMIT as f64);
        let scale = &mut weight_scale[slot(channel)];
        if needed > *scale as f64 {
            // The next f32 above, so that no rounding brings the code back over the limit.
            *scale = (needed as f32).next_up();
            enlarged.push(slot(channel));
        }
    }
    enlarged.dedup();
    let scale: Vec<f32> = (0..bias.len()).map(|channel| input_scale * weight_scale[slot(channel)]).collect();
    let codes = bias.iter().zip(&scale).map(|(&b, &s)| (b as f64 / s as f64).round_ties_even() as i32);
    Bias { codes: codes.map(|q| q.clamp(-BIAS_LIMIT, BIAS_LIMIT)).collect(), scale, weight_scale, enlarged }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernels::quant::Quantizer;

    fn range(min: f32, max: f32) -> Range {
        Range { min, max }
    }

    #[test]
    fn zero_is_exact_and_both_ends_are_reached() {
        let q = Quantizer::onnx(Grid::U8);
        for (min, max) in [(-1.0, 3.0), (0.5, 2.0), (-3.0, -1.0), (-1e-3, 1e4), (0.0, 6.0), (-0.37, 0.12)] {
            let Affine { scale, zero_point } = asymmetric(range(min, max), Grid::U8);
            let back = |x| q.value(scale, zero_point, q.code(scale, zero_point, x));
            assert_eq!(back(0.0), 0.0);
            for end in [min, max] {
                assert!((back(end) - end).abs() <= 0.5001 * scale, "{min} {max} at {end}: {}", back(end));
            }
            assert!(min < 0.0 || zero_point == 0, "{min} {max}: {zero_point}");
        }
        assert_eq!(asymmetric(range(-2.55, -1.0), Grid::U8), Affine { scale: 0.01, zero_point: 255 });
        assert_eq!(asymmetric(range(0.0, 2.55), Grid::I8).zero_point, -128);
    }

    #[test]
    fn constants_get_a_usable_scale() {
        assert_eq!(asymmetric(range(0.0, 0.0), Grid::U8), Affine { scale: 1.0 / 255.0, zero_point: 0 });
        assert_eq!(symmetric(range(0.0, 0.0), Grid::U8), Affine { scale: 1.0 / 127.0, zero_point: 128 });
        assert_eq!(asymmetric(range(0.0, 1e-30), Grid::U8).scale, MIN_SCALE);
        assert_eq!(asymmetric(range(-510.0, -510.0), Grid::U8), Affine { scale: 2.0, zero_point: 255 });
    }

    #[test]
    fn symmetric_grids() {
        let r = range(-2.54, 1.0);
        assert_eq!(symmetric(r, Grid::U8), Affine { scale: 0.02, zero_point: 128 });
        assert_eq!(symmetric(r, Grid::I8), Affine { scale: 0.02, zero_point: 0 });
        assert_eq!(symmetric(r, Grid::I8_NARROW), Affine { scale: 0.02, zero_point: 0 });
        assert_eq!(
            symmetric(range(-7.0, 7.0), Grid { low: 0, high: 15 }),
            Affine { scale: 1.0, zero_point: 8 }
        );
    }

    #[test]
    fn dead_channels_borrow_a_scale() {
        assert_eq!(weight(&[1.27, 0.0, 2.54], Grid::I8_NARROW), [0.01, 0.02, 0.02]);
        assert_eq!(weight(&[0.0, 0.0], Grid::I8_NARROW), [1.0 / 127.0; 2]);
        assert_eq!(weight(&[], Grid::I8_NARROW), []);
    }

    #[test]
    fn bias_follows_input_and_weight() {
        let b = bias(&[1.0, -0.125], 0.5, &[0.25, 0.25]);
        assert_eq!((&*b.codes, &*b.scale, &*b.enlarged), (&[8, -1][..], &[0.125; 2][..], &[][..]));
        assert_eq!(bias(&[1.0, 2.0], 0.5, &[0.25]).codes, [8, 16]);
    }

    #[test]
    fn bias_that_would_overflow_enlarges_its_weight_scale() {
        let b = bias(&[1.0, 3.0, -7.0], 1e-3, &[0.01, 1e-9, 1e-12]);
        assert_eq!(b.enlarged, [1, 2]);
        assert_eq!(b.weight_scale[0], 0.01);
        for c in 0..3 {
            assert!(b.codes[c].abs() <= BIAS_LIMIT);
            let back = b.codes[c] as f64 * b.scale[c] as f64;
            let want = [1.0, 3.0, -7.0][c];
            assert!((back - want).abs() <= 0.5 * b.scale[c] as f64, "{c}: {back}");
        }
        // One weight scale for all channels: the largest need wins.
        let b = bias(&[3.0, 7.0, 5.0], 1e-3, &[1e-12]);
        assert_eq!((b.enlarged.len(), b.weight_scale.len()), (1, 1));
        assert!(b.codes.iter().all(|q| q.abs() <= BIAS_LIMIT));
    }
}
