//! Naive forms of the convolution and pooling kernels, straight from their definitions and summed in `f64`, and small
//! tools of the tests.

use crate::conv::Conv;
use crate::window::Window;

/// Calls `f(image, output position, kernel position, input position)` for every pair that meets.
fn for_each_tap(batch: usize, window: &Window, mut f: impl FnMut(usize, usize, usize, usize)) {
    let (h, w) = (window.height, window.width);
    for n in 0..batch {
        for oy in 0..h.output {
            for ox in 0..w.output {
                for ky in 0..h.kernel {
                    for kx in 0..w.kernel {
                        let y = (oy * h.stride + ky * h.dilation).wrapping_sub(h.pad_begin);
                        let x = (ox * w.stride + kx * w.dilation).wrapping_sub(w.pad_begin);
                        if y < h.input && x < w.input {
                            f(n, oy * w.output + ox, ky * w.kernel + kx, y * w.input + x);
                        }
                    }
                }
            }
        }
    }
}

/// Calls `f(x offset, weight offset, y offset)` for every multiplication of a convolution.
fn for_each_product(conv: &Conv, mut f: impl FnMut(usize, usize, usize)) {
    let (inputs, outputs) = (conv.in_channels / conv.groups, conv.out_channels / conv.groups);
    let window = &conv.window;
    for_each_tap(conv.batch, window, |n, o, k, i| {
        for oc in 0..conv.out_channels {
            for ic in 0..inputs {
                let x = (n * window.input_len() + i) * conv.in_channels + oc / outputs * inputs + ic;
                let w = (oc * inputs + ic) * window.kernel_len() + k;
                f(x, w, (n * window.output_len() + o) * conv.out_channels + oc);
            }
        }
    });
}

/// `y = conv(x, w) + bias`; see [`crate::conv::forward`].
pub fn conv_forward(conv: &Conv, x: &[f32], w: &[f32], bias: Option<&[f32]>) -> Vec<f64> {
    let bias = |at: usize| bias.map_or(0.0, |bias| f64::from(bias[at % conv.out_channels]));
    let mut y: Vec<f64> = (0..conv.output_len()).map(bias).collect();
    for_each_product(conv, |xi, wi, yi| y[yi] += f64::from(x[xi]) * f64::from(w[wi]));
    y
}

/// Gradient of a convolution by its input; see [`crate::conv::input_grad`].
pub fn conv_input_grad(conv: &Conv, dy: &[f32], w: &[f32]) -> Vec<f64> {
    let mut dx = vec![0.0; conv.input_len()];
    for_each_product(conv, |xi, wi, yi| dx[xi] += f64::from(dy[yi]) * f64::from(w[wi]));
    dx
}

/// Gradient of a convolution by its weights; see [`crate::conv::weight_grad`].
pub fn conv_weight_grad(conv: &Conv, x: &[f32], dy: &[f32]) -> Vec<f64> {
    let mut dw = vec![0.0; conv.weight_len()];
    for_each_product(conv, |xi, wi, yi| dw[wi] += f64::from(dy[yi]) * f64::from(x[xi]));
    dw
}

/// The `(x offset, y offset)` pairs of a pooling over `(batch, input, channels)`, in the order of kernel positions.
pub fn pool_pairs(batch: usize, channels: usize, window: &Window) -> Vec<(usize, usize)> {
    let mut pairs = Vec::new();
    for_each_tap(batch, window, |n, o, _, i| {
        for c in 0..channels {
            let x = (n * window.input_len() + i) * channels + c;
            pairs.push((x, (n * window.output_len() + o) * channels + c));
        }
    });
    pairs
}

/// A small generator of test data (SplitMix64).
pub struct Draw(u64);

impl Draw {
    /// A generator that repeats itself for the same seed.
    pub fn new(seed: u64) -> Draw {
        Draw(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `0..end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// Numbers in `-1..1`.
    pub fn values(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0).collect()
    }
}

/// Asserts that `value` is `expected` up to the rounding of a sum of `terms` products of numbers below 1.
pub fn assert_close(value: f32, expected: f64, terms: usize) {
    let tolerance = 4.0 * f64::from(f32::EPSILON) * (terms as f64 + 2.0);
    assert!((f64::from(value) - expected).abs() <= tolerance, "{value} is not {expected} ± {tolerance}");
}

/// [`assert_close`] for every pair of two slices.
pub fn assert_all_close(values: &[f32], expected: &[f64], terms: usize) {
    assert_eq!(values.len(), expected.len());
    values.iter().zip(expected).for_each(|(&value, &expected)| assert_close(value, expected, terms));
}

/// Runs `f` on a pool of its own.
#[allow(clippy::unwrap_used)]
pub fn on_threads<R: Send>(threads: usize, f: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(f)
}
