//! `LRN` (ONNX 1, 13): normalization by neighbouring channels (Krizhevsky et al. 2012), and `qat.LRNGrad`, its gradient.

use ir::{Attr, Attrs, Infer, Io, Lower, Op, Operand, Parse, Parsed, Step, Type, Vjp};
use std::ops::RangeInclusive;

/// `LRN(x)`: `x / (bias + alpha / size * sum of squares of the neighbours)^beta` of `x`, `(N, C, ...)`, over `size`
/// neighbouring channels, the channel itself in the middle. f32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LRN {
    /// Number of channels that are summed over.
    pub size: usize,
    /// Factor of the mean square.
    pub alpha: f32,
    /// Exponent.
    pub beta: f32,
    /// Added to the sum.
    pub bias: f32,
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    Ok(LRN::from_attrs(cx.attrs)?.into())
}

/// Reads the gradient.
pub fn parse_grad(cx: &Parse) -> Result<Parsed, String> {
    Ok(LRNGrad(LRN::from_attrs(cx.attrs)?).into())
}

impl LRN {
    fn from_attrs(attrs: &Attrs) -> Result<LRN, String> {
        let size = attrs.int("size", 0)?;
        let fits = usize::try_from(size).ok().filter(|n| (1..1 << 30).contains(n));
        Ok(LRN {
            size: fits.ok_or_else(|| format!("attribute size should be above 0, but is {size}"))?,
            alpha: attrs.float("alpha", 1e-4)?,
            beta: attrs.float("beta", 0.75)?,
            bias: attrs.float("bias", 1.0)?,
        })
    }

    /// The channels that a channel is normalized by.
    fn neighbours(&self, channel: usize, channels: usize) -> RangeInclusive<usize> {
        channel.saturating_sub((self.size - 1) / 2)..=(channel + self.size / 2).min(channels - 1)
    }

    /// The channels that are normalized by a channel.
    fn readers(&self, channel: usize, channels: usize) -> RangeInclusive<usize> {
        channel.saturating_sub(self.size / 2)..=(channel + (self.size - 1) / 2).min(channels - 1)
    }

    /// What the power is taken of, for a channel; `x(c)` is the element of channel `c`.
    fn spread(&self, channel: usize, channels: usize, x: impl Fn(usize) -> f32) -> f32 {
        let sum: f32 = self.neighbours(channel, channels).map(|c| x(c) * x(c)).sum();
        self.bias + self.alpha / self.size as f32 * sum
    }
}

/// Channels, and elements of each.
fn channels(x: &Operand) -> (usize, usize) {
    (x.shape[1], x.shape[2..].iter().product())
}

impl Op for LRN {
    fn name(&self) -> &str {
        "LRN"
    }

    fn attrs(&self) -> Attrs {
        Attrs::new()
            .with("size", Attr::Int(self.size as i64))
            .with_float("alpha", self.alpha, 1e-4)
            .with_float("beta", self.beta, 0.75)
            .with_float("bias", self.bias, 1.0)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let x = cx.float(0)?;
        match x.rank() {
            Some(0 | 1) => Err(format!("{x} has no channels")),
            _ => Ok(vec![x.clone()]),
        }
    }

    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        let d = cx.add(LRNGrad(*self), &[cx.d_output(0)?, cx.input(0)?])?;
        cx.set(0, d);
        Some(())
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let (channels, inner) = channels(cx.typed::<f32>(0)?);
        let this = *self;
        Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let x: &[f32] = parts.input(0);
            for (i, y) in parts.output::<f32>(0).iter_mut().enumerate() {
                let channel = i / inner % channels;
                let first = i - channel * inner;
                *y = x[i] / this.spread(channel, channels, |c| x[first + c * inner]).powf(this.beta);
            }
            Ok(())
        }))
    }

    fn flops(&self, cx: &Lower) -> Option<u64> {
        let x = cx.optional(0)?;
        crate::shapes::products(x.len(), self.size.min(channels(x).0))
    }
}

/// `LRNGrad(dy, x)`: with `s` what the power is taken of,
/// `dx = dy s^-beta - 2 alpha beta / size x sum(dy x s^(-beta - 1))`, the sum over the channels that `x` normalizes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LRNGrad(pub LRN);

impl Op for LRNGrad {
    fn name(&self) -> &str {
        "LRNGrad"
    }

    fn domain(&self) -> &str {
        "qat"
    }

    fn attrs(&self) -> Attrs {
        self.0.attrs()
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let (dy, x) = (cx.float(0)?, cx.float(1)?);
        crate::shapes::gradient_of(dy, x)?;
        self.0.infer(&Infer::new(&[Some(ir::Arg { ty: x, value: None })], 1))
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let (channels, inner) = channels(cx.typed::<f32>(1)?);
        cx.typed::<f32>(0)?;
        let this = self.0;
        let run = move |io: &mut Io| {
            let mut parts = io.split();
            let (dy, x): (&[f32], &[f32]) = (parts.input(0), parts.input(1));
            let dx: &mut [f32] = parts.output(0);
            // Of one position, per channel: the power, and what the sums are of.
            let (powers, terms) = parts.workspace::<f32>()[..2 * channels].split_at_mut(channels);
            let image = (channels * inner).max(1);
            for first in (0..x.len() / image).flat_map(|b| (0..inner).map(move |i| b * image + i)) {
                for c in 0..channels {
                    let at = first + c * inner;
                    let spread = this.spread(c, channels, |c| x[first + c * inner]);
                    powers[c] = spread.powf(-this.beta);
                    terms[c] = dy[at] * x[at] * powers[c] / spread;
                }
                for c in 0..channels {
                    let at = first + c * inner;
                    let sum: f32 = terms[this.readers(c, channels)].iter().sum();
                    let factor = 2.0 * this.alpha * this.beta / this.size as f32;
                    dx[at] = dy[at] * powers[c] - factor * x[at] * sum;
                }
            }
            Ok(())
        };
        Ok(Step::new(run).workspace::<f32>(2 * channels))
    }

    fn flops(&self, cx: &Lower) -> Option<u64> {
        let x = cx.optional(1)?;
        crate::shapes::products(x.len(), self.0.size.min(channels(x).0))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::eval;
    use tensor::Tensor;

    #[test]
    fn values() {
        let x = Tensor::new(&[1, 3, 1], vec![1f32, 2.0, 3.0]);
        let y = eval(&LRN { size: 3, alpha: 3.0, beta: 1.0, bias: 1.0 }, &[&x]).unwrap().to_f32();
        assert_eq!(y, [1.0 / 6.0, 2.0 / 15.0, 3.0 / 14.0]);
    }
}
