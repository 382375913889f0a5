//! `LRN` (ONNX 1, 13): normalization by neighbouring channels (Krizhevsky et al. 2012).

use ir::{Attr, Attrs, Infer, Io, Lower, Op, Parse, Parsed, Step, Type};

/// `LRN(x)`: `x / (bias + alpha / size * sum of squares of the neighbours)^beta` of `x`, `(N, C, ...)`, over `size`
/// neighbouring channels, the channel itself in the middle. f32. Without gradient.
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
    let size = cx.attrs.int("size", 0)?;
    let fits = usize::try_from(size).ok().filter(|n| (1..1 << 30).contains(n));
    Ok(LRN {
        size: fits.ok_or_else(|| format!("attribute size should be above 0, but is {size}"))?,
        alpha: cx.attrs.float("alpha", 1e-4)?,
        beta: cx.attrs.float("beta", 0.75)?,
        bias: cx.attrs.float("bias", 1.0)?,
    }
    .into())
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

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let x = cx.typed::<f32>(0)?;
        let (channels, inner) = (x.shape[1], x.shape[2..].iter().product::<usize>());
        let LRN { size, alpha, beta, bias } = *self;
        Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let x: &[f32] = parts.input(0);
            for (i, y) in parts.output::<f32>(0).iter_mut().enumerate() {
                let channel = i / inner % channels;
                let (first, last) =
                    (channel.saturating_sub((size - 1) / 2), (channel + size / 2).min(channels - 1));
                let square = |c: usize| {
                    let x = x[i - channel * inner + c * inner];
                    x * x
                };
                let sum: f32 = (first..=last).map(square).sum();
                *y = x[i] / (bias + alpha / size as f32 * sum).powf(beta);
            }
            Ok(())
        }))
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
