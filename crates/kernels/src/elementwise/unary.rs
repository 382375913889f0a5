//! Operators of one operand.

use super::math;
use crate::parallel::{CHUNK, for_each_chunk};
use crate::simd::{Isa, dispatch};

/// An element-wise operator of one operand. Names and formulas are those of the ONNX operators, except where stated.
///
/// Gradients at kinks follow PyTorch. NaN stays NaN in every operator.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Unary {
    /// `x`.
    Identity,
    /// `max(x, 0)`; the gradient at 0 is 0.
    Relu,
    /// `x` above 0, else `alpha x`; the gradient at 0 is `alpha`.
    LeakyRelu {
        /// Slope of the negative part.
        alpha: f32,
    },
    /// `x` above 0, else `alpha (e^x - 1)`; the gradient at 0 is `alpha`.
    Elu {
        /// Scale of the negative part.
        alpha: f32,
    },
    /// `min(max(x, lo), hi)`; the gradient passes on the closed interval `lo..=hi`. Relu6 is `Clip { lo: 0, hi: 6 }`.
    Clip {
        /// Lower bound; minus infinity for none.
        lo: f32,
        /// Upper bound; infinity for none. Wins where it is less than `lo`.
        hi: f32,
    },
    /// `1 / (1 + e^-x)`.
    Sigmoid,
    /// `min(max(alpha x + beta, 0), 1)`; the gradient passes strictly between the bounds.
    HardSigmoid {
        /// Slope; 0.2 by default in ONNX, 1/6 in MobileNetV3.
        alpha: f32,
        /// Value at 0.
        beta: f32,
    },
    /// `x min(max(x / 6 + 1/2, 0), 1)`; the gradient at -3 is 0 and at 3 is 1.
    HardSwish,
    /// `x sigmoid(x)`, also called swish.
    Silu,
    /// The hyperbolic tangent.
    Tanh,
    /// `e^x`.
    Exp,
    /// The natural logarithm.
    Log,
    /// The square root.
    Sqrt,
    /// `-x`.
    Neg,
    /// `|x|`; the gradient at 0 is 0.
    Abs,
    /// -1, 0 or 1; the gradient is 0.
    Sign,
    /// The error function.
    Erf,
    /// `x (1 + erf(x / sqrt(2))) / 2`.
    Gelu,
    /// `x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2`: Gelu with `approximate = "tanh"`.
    GeluTanh,
    /// `log(1 + e^x)`.
    Softplus,
    /// `x / (1 + |x|)`.
    Softsign,
    /// `1 / x`.
    Reciprocal,
    /// The largest integer not above `x`; the gradient is 0, as for the two below.
    Floor,
    /// The smallest integer not below `x`.
    Ceil,
    /// The nearest integer, ties to even.
    Round,
    /// The sine, from the standard library: not vectorized.
    Sin,
    /// The cosine, from the standard library: not vectorized.
    Cos,
    /// The tangent; from the standard library, as the inverse and hyperbolic functions below.
    Tan,
    /// The arc sine.
    Asin,
    /// The arc cosine.
    Acos,
    /// The arc tangent.
    Atan,
    /// The hyperbolic sine.
    Sinh,
    /// The hyperbolic cosine.
    Cosh,
    /// The inverse hyperbolic sine.
    Asinh,
    /// The inverse hyperbolic cosine.
    Acosh,
    /// The inverse hyperbolic tangent.
    Atanh,
    /// `gamma x` above 0, else `gamma alpha (e^x - 1)`.
    Selu {
        /// Scale of the negative part.
        alpha: f32,
        /// Scale of everything.
        gamma: f32,
    },
    /// `x` above 0, else `alpha (e^(x / alpha) - 1)`.
    Celu {
        /// Where the negative part ends.
        alpha: f32,
    },
    /// `x tanh(log(1 + e^x))`.
    Mish,
    /// `x sigmoid(alpha x)`.
    Swish {
        /// Slope of the gate.
        alpha: f32,
    },
    /// `x` above `alpha`, else 0.
    ThresholdedRelu {
        /// The threshold.
        alpha: f32,
    },
    /// `x` moved by `bias` towards 0 outside of `-lambd..=lambd`, else 0.
    Shrink {
        /// How far it is moved.
        bias: f32,
        /// The threshold.
        lambd: f32,
    },
}

/// Which value of the forward pass a gradient reads, and an executor therefore has to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saved {
    /// Neither.
    Nothing,
    /// The operand `x`.
    Input,
    /// The result `y`.
    Output,
}

/// Length of the blocks that the in-place forms copy to the stack, in elements: 2 KiB.
const BLOCK: usize = 512;

const SQRT_2_OVER_PI: f32 = 0.797_884_6;
const GELU_CUBIC: f32 = 0.044715;

impl Unary {
    /// What [`Unary::grad`] reads.
    pub fn saved(self) -> Saved {
        use Unary::*;
        match self {
            Identity | Neg | Sign | Floor | Ceil | Round => Saved::Nothing,
            Relu | Sigmoid | Tanh | Exp | Sqrt | Reciprocal => Saved::Output,
            _ => Saved::Input,
        }
    }

    /// `y = op(x)`.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn forward(self, x: &[f32], y: &mut [f32]) {
        assert_eq!(x.len(), y.len());
        let isa = Isa::detect();
        for_each_chunk(y, CHUNK, |i, y| forward(isa, self, &x[i * CHUNK..][..y.len()], y));
    }

    /// `x = op(x)`.
    pub fn forward_in_place(self, x: &mut [f32]) {
        let isa = Isa::detect();
        for_each_chunk(x, CHUNK, |_, x| {
            // These would spend half of their time on a copy.
            match self {
                Unary::Identity => return,
                Unary::Relu => return relu_in_place(isa, x),
                Unary::Clip { lo, hi } => return clip_in_place(isa, lo, hi, x),
                _ => {}
            }
            let mut copy = [0.0; BLOCK];
            for x in x.chunks_mut(BLOCK) {
                let copy = &mut copy[..x.len()];
                copy.copy_from_slice(x);
                forward(isa, self, copy, x);
            }
        });
    }

    /// `dx = op'(x) dy`. Of `x` and `y` only the one that [`Unary::saved`] names is read; the other may be empty.
    ///
    /// # Panics
    /// When the lengths of the slices that are read differ.
    pub fn grad(self, x: &[f32], y: &[f32], dy: &[f32], dx: &mut [f32]) {
        assert_eq!(dy.len(), dx.len());
        let isa = Isa::detect();
        let saved = self.pick(x, y).unwrap_or(dy);
        for_each_chunk(dx, CHUNK, |i, dx| {
            let range = i * CHUNK..i * CHUNK + dx.len();
            grad(isa, self, &saved[range.clone()], &dy[range], dx);
        });
    }

    /// [`Unary::grad`] that overwrites `dy` with `dx`.
    ///
    /// # Panics
    /// As [`Unary::grad`].
    pub fn grad_in_place(self, x: &[f32], y: &[f32], dy: &mut [f32]) {
        let saved = self.pick(x, y);
        if let Some(saved) = saved {
            assert_eq!(saved.len(), dy.len());
        }
        let isa = Isa::detect();
        for_each_chunk(dy, CHUNK, |i, dy| {
            let mut copy = [0.0; BLOCK];
            for (j, dy) in dy.chunks_mut(BLOCK).enumerate() {
                let copy = &mut copy[..dy.len()];
                copy.copy_from_slice(dy);
                // Operators that read nothing of the forward pass get the gradient in its place.
                let saved = saved.map_or(&*copy, |saved| &saved[i * CHUNK + j * BLOCK..][..dy.len()]);
                grad(isa, self, saved, copy, dy);
            }
        });
    }

    fn pick<'a>(self, x: &'a [f32], y: &'a [f32]) -> Option<&'a [f32]> {
        match self.saved() {
            Saved::Nothing => None,
            Saved::Input => Some(x),
            Saved::Output => Some(y),
        }
    }
}

/// `y = f(x)` for every element. A macro, and not a function of a closure: closures are not sure to be inlined into the
/// code for a wider instruction set.
macro_rules! map {
    ($x:expr, $y:expr, |$v:ident| $f:expr) => {
        for (y, &$v) in $y.iter_mut().zip($x) {
            *y = $f;
        }
    };
}

/// `dx = f(v, dy)` for every element, where `v` is the saved value.
macro_rules! zip {
    ($v:expr, $dy:expr, $dx:expr, |$x:ident, $d:ident| $f:expr) => {
        for ((dx, &$x), &$d) in $dx.iter_mut().zip($v).zip($dy) {
            *dx = $f;
        }
    };
}

/// `max(x, 0)` that keeps NaN, and has no negative 0.
#[inline(always)]
fn relu(x: f32) -> f32 {
    if x <= 0.0 { 0.0 } else { x }
}

/// `min(max(x, lo), hi)` that keeps NaN.
#[inline(always)]
fn clip(x: f32, lo: f32, hi: f32) -> f32 {
    let x = if x < lo { lo } else { x };
    if x > hi { hi } else { x }
}

/// -1, 0 or 1; NaN for NaN.
#[inline(always)]
pub(crate) fn sign(x: f32) -> f32 {
    let positive = if x > 0.0 { 1.0 } else { x * 0.0 };
    if x < 0.0 { -1.0 } else { positive }
}

/// The argument of the hyperbolic tangent in `GeluTanh`.
#[inline(always)]
fn gelu_argument(x: f32) -> f32 {
    SQRT_2_OVER_PI * (x + GELU_CUBIC * x * x * x)
}

/// The distribution function of the standard normal distribution.
#[inline(always)]
fn normal_cdf(x: f32) -> f32 {
    0.5 + 0.5 * math::erf(x * std::f32::consts::FRAC_1_SQRT_2)
}

dispatch! {
    fn relu_in_place(x: &mut [f32]) {
        x.iter_mut().for_each(|x| *x = relu(*x));
    }

    fn clip_in_place(lo: f32, hi: f32, x: &mut [f32]) {
        x.iter_mut().for_each(|x| *x = clip(*x, lo, hi));
    }

    fn forward(op: Unary, x: &[f32], y: &mut [f32]) {
        match op {
            Unary::Identity => y.copy_from_slice(x),
            Unary::Relu => map!(x, y, |x| relu(x)),
            Unary::LeakyRelu { alpha } => map!(x, y, |x| if x > 0.0 { x } else { alpha * x }),
            Unary::Elu { alpha } => map!(x, y, |x| if x > 0.0 { x } else { alpha * math::exp_m1(x) }),
            Unary::Clip { lo, hi } => map!(x, y, |x| clip(x, lo, hi)),
            Unary::Sigmoid => map!(x, y, |x| math::sigmoid(x)),
            Unary::HardSigmoid { alpha, beta } => map!(x, y, |x| clip(alpha * x + beta, 0.0, 1.0)),
            Unary::HardSwish => map!(x, y, |x| x * clip(x * (1.0 / 6.0) + 0.5, 0.0, 1.0)),
            Unary::Silu => map!(x, y, |x| x * math::sigmoid(x)),
            Unary::Tanh => map!(x, y, |x| math::tanh(x)),
            Unary::Exp => map!(x, y, |x| math::exp(x)),
            Unary::Log => map!(x, y, |x| math::log(x)),
            Unary::Sqrt => map!(x, y, |x| f32::sqrt(x)),
            Unary::Neg => map!(x, y, |x| -x),
            Unary::Abs => map!(x, y, |x| f32::abs(x)),
            Unary::Sign => map!(x, y, |x| sign(x)),
            Unary::Erf => map!(x, y, |x| math::erf(x)),
            Unary::Gelu => map!(x, y, |x| x * normal_cdf(x)),
            Unary::GeluTanh => map!(x, y, |x| 0.5 * x * (1.0 + math::tanh(gelu_argument(x)))),
            Unary::Softplus => map!(x, y, |x| math::softplus(x)),
            Unary::Softsign => map!(x, y, |x| x / (1.0 + x.abs())),
            Unary::Reciprocal => map!(x, y, |x| 1.0 / x),
            Unary::Floor => map!(x, y, |x| f32::floor(x)),
            Unary::Ceil => map!(x, y, |x| f32::ceil(x)),
            Unary::Round => map!(x, y, |x| f32::round_ties_even(x)),
            Unary::Sin => map!(x, y, |x| f32::sin(x)),
            Unary::Cos => map!(x, y, |x| f32::cos(x)),
            Unary::Tan => map!(x, y, |x| f32::tan(x)),
            Unary::Asin => map!(x, y, |x| f32::asin(x)),
            Unary::Acos => map!(x, y, |x| f32::acos(x)),
            Unary::Atan => map!(x, y, |x| f32::atan(x)),
            Unary::Sinh => map!(x, y, |x| f32::sinh(x)),
            Unary::Cosh => map!(x, y, |x| f32::cosh(x)),
            Unary::Asinh => map!(x, y, |x| f32::asinh(x)),
            Unary::Acosh => map!(x, y, |x| f32::acosh(x)),
            Unary::Atanh => map!(x, y, |x| f32::atanh(x)),
            Unary::Selu { alpha, gamma } => {
                map!(x, y, |x| gamma * if x > 0.0 { x } else { alpha * math::exp_m1(x) })
            }
            Unary::Celu { alpha } => map!(x, y, |x| if x > 0.0 { x } else { alpha * math::exp_m1(x / alpha) }),
            Unary::Mish => map!(x, y, |x| x * math::tanh(math::softplus(x))),
            Unary::Swish { alpha } => map!(x, y, |x| x * math::sigmoid(alpha * x)),
            Unary::ThresholdedRelu { alpha } => map!(x, y, |x| if x <= alpha { 0.0 } else { x }),
            Unary::Shrink { bias, lambd } => map!(x, y, |x| shrink(bias, lambd, x)),
        }
    }
}

/// `x` moved by `bias` towards 0 where it is far enough from it.
#[inline(always)]
fn shrink(bias: f32, lambd: f32, x: f32) -> f32 {
    let below = if x < -lambd { x + bias } else { x * 0.0 };
    if x > lambd { x - bias } else { below }
}

#[inline(always)]
fn mish_grad(x: f32, dy: f32) -> f32 {
    let t = math::tanh(math::softplus(x));
    dy * (t + x * (1.0 - t * t) * math::sigmoid(x))
}

#[inline(always)]
fn swish_grad(alpha: f32, x: f32, dy: f32) -> f32 {
    let s = math::sigmoid(alpha * x);
    dy * (s + alpha * x * s * (1.0 - s))
}

#[inline(always)]
pub(crate) fn hard_sigmoid_grad(alpha: f32, beta: f32, x: f32, dy: f32) -> f32 {
    let y = alpha * x + beta;
    if y > 0.0 && y < 1.0 { alpha * dy } else { 0.0 }
}

#[inline(always)]
pub(crate) fn hard_swish_grad(x: f32, dy: f32) -> f32 {
    let middle = if x > -3.0 { dy * (x * (1.0 / 3.0) + 0.5) } else { 0.0 };
    if x >= 3.0 { dy } else { middle }
}

#[inline(always)]
fn silu_grad(x: f32, dy: f32) -> f32 {
    let s = math::sigmoid(x);
    dy * (s + x * s * (1.0 - s))
}

#[inline(always)]
fn gelu_grad(x: f32, dy: f32) -> f32 {
    const ONE_OVER_SQRT_2_PI: f32 = 0.5 * std::f32::consts::FRAC_1_SQRT_2 * std::f32::consts::FRAC_2_SQRT_PI;
    let density = ONE_OVER_SQRT_2_PI * math::exp(-0.5 * x * x);
    dy * (normal_cdf(x) + x * density)
}

#[inline(always)]
fn gelu_tanh_grad(x: f32, dy: f32) -> f32 {
    let t = math::tanh(gelu_argument(x));
    let slope = SQRT_2_OVER_PI * (1.0 + 3.0 * GELU_CUBIC * x * x);
    dy * (0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * slope)
}

dispatch! {
    /// `v` is what `op.saved()` names: `x`, `y`, or anything.
    fn grad(op: Unary, v: &[f32], dy: &[f32], dx: &mut [f32]) {
        match op {
            Unary::Identity => dx.copy_from_slice(dy),
            Unary::Neg => map!(dy, dx, |dy| -dy),
            Unary::Sign | Unary::Floor | Unary::Ceil | Unary::Round => dx.fill(0.0),
            Unary::Relu => zip!(v, dy, dx, |y, dy| if y > 0.0 { dy } else { 0.0 }),
            Unary::LeakyRelu { alpha } => zip!(v, dy, dx, |x, dy| if x > 0.0 { dy } else { alpha * dy }),
            Unary::Elu { alpha } => zip!(v, dy, dx, |x, dy| if x > 0.0 { dy } else { alpha * math::exp(x) * dy }),
            Unary::Clip { lo, hi } => zip!(v, dy, dx, |x, dy| if x >= lo && x <= hi { dy } else { 0.0 }),
            Unary::Sigmoid => zip!(v, dy, dx, |y, dy| dy * (y * (1.0 - y))),
            Unary::HardSigmoid { alpha, beta } => zip!(v, dy, dx, |x, dy| hard_sigmoid_grad(alpha, beta, x, dy)),
            Unary::HardSwish => zip!(v, dy, dx, |x, dy| hard_swish_grad(x, dy)),
            Unary::Silu => zip!(v, dy, dx, |x, dy| silu_grad(x, dy)),
            Unary::Tanh => zip!(v, dy, dx, |y, dy| dy * (1.0 - y * y)),
            Unary::Exp => zip!(v, dy, dx, |y, dy| dy * y),
            Unary::Log => zip!(v, dy, dx, |x, dy| dy / x),
            Unary::Sqrt => zip!(v, dy, dx, |y, dy| dy / (2.0 * y)),
            Unary::Abs => zip!(v, dy, dx, |x, dy| sign(x) * dy),
            Unary::Erf => zip!(v, dy, dx, |x, dy| dy * (std::f32::consts::FRAC_2_SQRT_PI * math::exp(-x * x))),
            Unary::Gelu => zip!(v, dy, dx, |x, dy| gelu_grad(x, dy)),
            Unary::GeluTanh => zip!(v, dy, dx, |x, dy| gelu_tanh_grad(x, dy)),
            Unary::Softplus => zip!(v, dy, dx, |x, dy| dy * math::sigmoid(x)),
            Unary::Softsign => zip!(v, dy, dx, |x, dy| dy / ((1.0 + x.abs()) * (1.0 + x.abs()))),
            Unary::Reciprocal => zip!(v, dy, dx, |y, dy| -dy * (y * y)),
            Unary::Sin => zip!(v, dy, dx, |x, dy| dy * x.cos()),
            Unary::Cos => zip!(v, dy, dx, |x, dy| -dy * x.sin()),
            Unary::Tan => zip!(v, dy, dx, |x, dy| dy * (1.0 + x.tan() * x.tan())),
            Unary::Asin => zip!(v, dy, dx, |x, dy| dy / (1.0 - x * x).sqrt()),
            Unary::Acos => zip!(v, dy, dx, |x, dy| -dy / (1.0 - x * x).sqrt()),
            Unary::Atan => zip!(v, dy, dx, |x, dy| dy / (1.0 + x * x)),
            Unary::Sinh => zip!(v, dy, dx, |x, dy| dy * x.cosh()),
            Unary::Cosh => zip!(v, dy, dx, |x, dy| dy * x.sinh()),
            Unary::Asinh => zip!(v, dy, dx, |x, dy| dy / (x * x + 1.0).sqrt()),
            Unary::Acosh => zip!(v, dy, dx, |x, dy| dy / (x * x - 1.0).sqrt()),
            Unary::Atanh => zip!(v, dy, dx, |x, dy| dy / (1.0 - x * x)),
            Unary::Selu { alpha, gamma } => {
                zip!(v, dy, dx, |x, dy| dy * gamma * if x > 0.0 { 1.0 } else { alpha * math::exp(x) })
            }
            Unary::Celu { alpha } => zip!(v, dy, dx, |x, dy| if x > 0.0 { dy } else { math::exp(x / alpha) * dy }),
            Unary::Mish => zip!(v, dy, dx, |x, dy| mish_grad(x, dy)),
            Unary::Swish { alpha } => zip!(v, dy, dx, |x, dy| swish_grad(alpha, x, dy)),
            Unary::ThresholdedRelu { alpha } => zip!(v, dy, dx, |x, dy| if x > alpha { dy } else { 0.0 }),
            Unary::Shrink { lambd, .. } => zip!(v, dy, dx, |x, dy| if x > lambd || x < -lambd { dy } else { 0.0 }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elementwise::testing::{bits, close, drawn, on_any_pool, wide};

    const ALL: [Unary; 42] = [
        Unary::Identity,
        Unary::Relu,
        Unary::LeakyRelu { alpha: 0.1 },
        Unary::Elu { alpha: 1.3 },
        Unary::Clip { lo: -1.0, hi: 2.5 },
        Unary::Sigmoid,
        Unary::HardSigmoid { alpha: 0.2, beta: 0.45 },
        Unary::HardSwish,
        Unary::Silu,
        Unary::Tanh,
        Unary::Exp,
        Unary::Log,
        Unary::Sqrt,
        Unary::Neg,
        Unary::Abs,
        Unary::Sign,
        Unary::Erf,
        Unary::Gelu,
        Unary::GeluTanh,
        Unary::Softplus,
        Unary::Softsign,
        Unary::Reciprocal,
        Unary::Floor,
        Unary::Ceil,
        Unary::Round,
        Unary::Sin,
        Unary::Cos,
        Unary::Tan,
        Unary::Asin,
        Unary::Acos,
        Unary::Atan,
        Unary::Sinh,
        Unary::Cosh,
        Unary::Asinh,
        Unary::Acosh,
        Unary::Atanh,
        Unary::Selu { alpha: 1.67, gamma: 1.05 },
        Unary::Celu { alpha: 2.0 },
        Unary::Mish,
        Unary::Swish { alpha: 1.5 },
        Unary::ThresholdedRelu { alpha: 2.75 },
        Unary::Shrink { bias: 0.5, lambd: 3.0 },
    ];

    fn erf(x: f64) -> f64 {
        // Independent of the kernel's fit: the Taylor series, good for |x| < 6 in double precision to about 1e-4 of an
        // f32 rounding step near 0 and 1e-6 at 4.
        let (mut term, mut sum) = (x, 0.0);
        for k in 0..150 {
            sum += term / (2 * k + 1) as f64;
            term *= -x * x / (k + 1) as f64;
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    }

    fn reference(op: Unary, x: f64) -> f64 {
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        match op {
            Unary::Identity => x,
            Unary::Relu => x.max(0.0),
            Unary::LeakyRelu { alpha } => {
                if x > 0.0 {
                    x
                } else {
                    alpha as f64 * x
                }
            }
            Unary::Elu { alpha } => {
                if x > 0.0 {
                    x
                } else {
                    alpha as f64 * x.exp_m1()
                }
            }
            Unary::Clip { lo, hi } => x.max(lo as f64).min(hi as f64),
            Unary::Sigmoid => sigmoid(x),
            Unary::HardSigmoid { alpha, beta } => (alpha as f64 * x + beta as f64).clamp(0.0, 1.0),
            Unary::HardSwish => x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
            Unary::Silu => x * sigmoid(x),
            Unary::Tanh => x.tanh(),
            Unary::Exp => x.exp(),
            Unary::Log => x.ln(),
            Unary::Sqrt => x.sqrt(),
            Unary::Neg => -x,
            Unary::Abs => x.abs(),
            Unary::Sign => {
                if x == 0.0 {
                    0.0
                } else {
                    x.signum()
                }
            }
            Unary::Erf => erf(x),
            Unary::Gelu => 0.5 * x * (1.0 + erf(x / 2f64.sqrt())),
            Unary::GeluTanh => {
                0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
            }
            Unary::Softplus => x.exp().ln_1p(),
            Unary::Softsign => x / (1.0 + x.abs()),
            Unary::Reciprocal => 1.0 / x,
            Unary::Floor => x.floor(),
            Unary::Ceil => x.ceil(),
            Unary::Round => x.round_ties_even(),
            Unary::Sin => x.sin(),
            Unary::Cos => x.cos(),
            Unary::Tan => x.tan(),
            Unary::Asin => x.asin(),
            Unary::Acos => x.acos(),
            Unary::Atan => x.atan(),
            Unary::Sinh => x.sinh(),
            Unary::Cosh => x.cosh(),
            Unary::Asinh => x.asinh(),
            Unary::Acosh => x.acosh(),
            Unary::Atanh => x.atanh(),
            Unary::Selu { alpha, gamma } => {
                gamma as f64 * if x > 0.0 { x } else { alpha as f64 * x.exp_m1() }
            }
            Unary::Celu { alpha } => {
                if x > 0.0 {
                    x
                } else {
                    alpha as f64 * (x / alpha as f64).exp_m1()
                }
            }
            Unary::Mish => x * x.exp().ln_1p().tanh(),
            Unary::Swish { alpha } => x * sigmoid(alpha as f64 * x),
            Unary::ThresholdedRelu { alpha } => {
                if x > alpha as f64 {
                    x
                } else {
                    0.0
                }
            }
            Unary::Shrink { bias, lambd } => {
                if x.abs() > lambd as f64 {
                    x - bias as f64 * x.signum()
                } else {
                    0.0
                }
            }
        }
    }

    /// Operands in -4..4, made positive where the operator wants that, and kept away from kinks.
    fn operands(op: Unary) -> Vec<f32> {
        let mut x = drawn(7, 1003, 4.0);
        if matches!(op, Unary::Log | Unary::Sqrt | Unary::Reciprocal) {
            x.iter_mut().for_each(|x| *x = x.abs() + 0.05);
        }
        match op {
            // Inside of the domain, where the slope is moderate.
            Unary::Asin | Unary::Acos | Unary::Atanh => x.iter_mut().for_each(|x| *x *= 0.2),
            Unary::Acosh => x.iter_mut().for_each(|x| *x = x.abs() + 1.2),
            Unary::Tan => x.iter_mut().for_each(|x| *x *= 0.3),
            _ => {}
        }
        for x in &mut x {
            for kink in [-3.0, -2.25, -1.0, 0.0, 2.5, 2.75, 3.0, x.round()] {
                if (*x - kink).abs() < 1e-3 {
                    *x = kink + 2e-3;
                }
            }
        }
        x
    }

    #[test]
    fn forward_and_gradient_against_double_precision() {
        for op in ALL {
            let x = operands(op);
            let dy = drawn(8, x.len(), 1.0);
            let (mut y, mut dx) = (vec![0.0; x.len()], vec![0.0; x.len()]);
            op.forward(&x, &mut y);
            close(&y, &wide(&x).iter().map(|&x| reference(op, x)).collect::<Vec<_>>(), 1e-6);
            op.grad(&x, &y, &dy, &mut dx);
            let slope = |x: f64| (reference(op, x + 1e-5) - reference(op, x - 1e-5)) / 2e-5;
            let want: Vec<f64> = wide(&x).iter().zip(wide(&dy)).map(|(&x, dy)| slope(x) * dy).collect();
            close(&dx, &want, 3e-6);
        }
    }

    #[test]
    fn in_place_and_unread_operands_change_nothing() {
        for op in ALL {
            let x = operands(op);
            let dy = drawn(9, x.len(), 1.0);
            let (mut y, mut dx) = (vec![0.0; x.len()], vec![0.0; x.len()]);
            op.forward(&x, &mut y);
            op.grad(&x, &y, &dy, &mut dx);
            let mut z = x.clone();
            op.forward_in_place(&mut z);
            assert_eq!(bits(&z), bits(&y), "{op:?}");
            let (x, y): (&[f32], &[f32]) = match op.saved() {
                Saved::Nothing => (&[], &[]),
                Saved::Input => (&x, &[]),
                Saved::Output => (&[], &y),
            };
            let mut z = dy.clone();
            op.grad_in_place(x, y, &mut z);
            assert_eq!(bits(&z), bits(&dx), "{op:?}");
        }
    }

    #[test]
    fn all_instruction_sets_give_the_same_bits() {
        let mut x = drawn(3, 2003, 20.0);
        x.extend([0.0, -0.0, f32::INFINITY, -f32::INFINITY, f32::NAN, 1e-40, -1e-40, 88.6, -103.0, 0.5, 2.5]);
        let dy = drawn(4, x.len(), 1.0);
        for op in ALL {
            let run = |isa| {
                let (mut y, mut dx) = (vec![0.0; x.len()], vec![0.0; x.len()]);
                forward(isa, op, &x, &mut y);
                grad(isa, op, if op.saved() == Saved::Output { &y } else { &x }, &dy, &mut dx);
                (bits(&y), bits(&dx))
            };
            let scalar = run(Isa::Scalar);
            for isa in Isa::ALL {
                assert!(run(isa) == scalar, "{op:?} on {isa:?}");
            }
        }
    }

    #[test]
    fn threads_change_nothing() {
        let x = drawn(5, 3 * CHUNK + 17, 5.0);
        on_any_pool(|| {
            let (mut y, mut dx) = (vec![0.0; x.len()], vec![0.0; x.len()]);
            Unary::Gelu.forward(&x, &mut y);
            Unary::Gelu.grad(&x, &[], &y, &mut dx);
            Unary::Tanh.forward_in_place(&mut y);
            (y, dx)
        });
    }

    #[test]
    fn gradients_at_kinks() {
        let at = |op: Unary, x: f32| {
            let (mut y, mut dx) = ([0.0], [0.0]);
            op.forward(&[x], &mut y);
            op.grad(&[x], &y, &[1.0], &mut dx);
            dx[0]
        };
        assert_eq!(at(Unary::Relu, 0.0), 0.0);
        assert_eq!(at(Unary::LeakyRelu { alpha: 0.1 }, 0.0), 0.1);
        assert_eq!(at(Unary::Elu { alpha: 0.5 }, 0.0), 0.5);
        let clip = Unary::Clip { lo: 0.0, hi: 6.0 };
        assert_eq!([at(clip, 0.0), at(clip, 6.0), at(clip, 6.1)], [1.0, 1.0, 0.0]);
        let hard = Unary::HardSigmoid { alpha: 0.25, beta: 0.5 };
        assert_eq!([at(hard, -2.0), at(hard, 2.0), at(hard, 1.9)], [0.0, 0.0, 0.25]);
        assert_eq!([at(Unary::HardSwish, -3.0), at(Unary::HardSwish, 3.0)], [0.0, 1.0]);
        assert_eq!(at(Unary::Abs, 0.0), 0.0);
    }

    #[test]
    fn not_a_number_stays() {
        for op in ALL {
            let mut y = [0.0];
            op.forward(&[f32::NAN], &mut y);
            assert!(y[0].is_nan(), "{op:?}");
        }
    }

    #[test]
    fn hand_computed_values() {
        let mut y = [0.0; 4];
        Unary::Round.forward(&[0.5, 1.5, -2.5, 2.6], &mut y);
        assert_eq!(y, [0.0, 2.0, -2.0, 3.0]);
        Unary::Clip { lo: 3.0, hi: 1.0 }.forward(&[0.0, 2.0, 3.0, 9.0], &mut y);
        assert_eq!(y, [1.0; 4], "the upper bound wins");
        Unary::HardSwish.forward(&[-4.0, -3.0, 0.0, 3.0], &mut y);
        assert_eq!(y, [0.0, 0.0, 0.0, 3.0]);
    }
}
