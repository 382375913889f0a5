//! The numerics of quantization: real numbers to integer codes and back, PACT clipping, and the ranges of tensors.
//!
//! One set of sweeps serves two kinds of arithmetic, chosen by the [`Rule`] of a [`Quantizer`]:
//!
//! | rule | code of `x` | value of code `q` |
//! |---|---|---|
//! | [`Rule::Onnx`] | `saturate(half_even(x / s) + z)` | `(q - z) * s` |
//! | [`Rule::Paddle`], half away | `half_away(R * inv(s) * clip(x, -s, s))` | `q * s / R` |
//! | [`Rule::Paddle`], half even | `saturate(half_even(R * inv(s) * x))` | `q * s / R` |
//! | [`Rule::PaddleFreeze`], clipping | `half_even(clip(x, -s, s) / s * R)` | `q * s / R` |
//! | [`Rule::PaddleFreeze`], saturating | `saturate(half_even(x / s * R))` | `q * s / R` |
//!
//! All of it is `f32` arithmetic in the order written. For ONNX, `s` is the width of one step; for Paddle, it is the
//! largest magnitude, which gets the code `R = 2^(bits-1) - 1`. `inv(s)` is `1 / (s + 1e-6)` up to `s = 1e-30` and
//! `1 / s` above. Multiplying with the reciprocal and dividing disagree by one step on values close to a tie, which is
//! why both exist: what will run on ONNX Runtime has to be trained with the division.

mod arithmetic;
mod epilogue;
mod learned;
mod pact;
mod range;
mod sweep;
mod weights;

pub use arithmetic::{Grid, Quantizer, Round, Rule};
pub use epilogue::{Epilogue, Operand, Settings, Source};
pub use learned::{Anchor, scale_gradients};
pub use pact::{Pact, pact, pact_grad};
pub use range::{Extremes, abs_max, abs_max_channels, abs_max_paddle, extremes, extremes_channels};
pub use sweep::{
    Axis, Scales, dequantize_f32, dequantize_i8, dequantize_i32, dequantize_u8, fake_quantize, quantize_f32,
    quantize_i8, quantize_u8, straight_through_clipped, unrounded,
};
pub use weights::{batch_norm_affine, bias_correction, dequantize_max_abs, fold_scale};
