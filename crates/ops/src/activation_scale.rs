//! `qat.ActivationScale`: scale and zero point of an activation from the state of its observer.

use crate::observe::{attrs as statistic_attrs, check_state, statistic};
use crate::shapes::single;
use ir::{Attr, Attrs, Infer, Io, Lower, Op, Parse, Parsed, Step, Type};
use kernels::quant::Grid;
use observe::{Range, Statistic, scale};
use tensor::DType;

/// How a range becomes scale and zero point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// [`scale::asymmetric`]: the zero point is `low` where nothing is negative.
    Asymmetric,
    /// [`scale::symmetric`]: zero point in the middle of the grid; as asymmetric where nothing is negative.
    Symmetric,
    /// Paddle: the scale is the magnitude that the largest code stands for; there is no zero point.
    Paddle,
}

/// `ActivationScale(state, threshold?)`: scalar `scale` f32 and scalar `zero_point` int32. The range of the state is
/// limited to the threshold of PACT where there is one. Before the first batch, the range is 0..1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ActivationScale {
    /// What the state is.
    pub statistic: Statistic,
    /// The rule.
    pub scheme: Scheme,
    /// The codes.
    pub grid: Grid,
}

const SCHEMES: [(&str, Scheme); 3] =
    [("asymmetric", Scheme::Asymmetric), ("symmetric", Scheme::Symmetric), ("paddle", Scheme::Paddle)];

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    Ok(ActivationScale::from_attrs(cx.attrs)?.into())
}

impl ActivationScale {
    pub(crate) fn from_attrs(attrs: &Attrs) -> Result<ActivationScale, String> {
        let name = attrs.str("scheme", "asymmetric")?;
        let scheme = SCHEMES.iter().find(|(n, _)| *n == name).map(|(_, s)| *s);
        let scheme =
            scheme.ok_or_else(|| format!("attribute scheme is \"{name}\", which names no scheme"))?;
        let grid = crate::fake_quant::grid(attrs)?;
        Ok(ActivationScale { statistic: statistic(attrs)?, scheme, grid })
    }

    /// Scale and zero point for a state, and the threshold of PACT.
    pub fn of(&self, state: &[f32], threshold: Option<f32>) -> (f32, i32) {
        if self.scheme == Scheme::Paddle {
            return (self.statistic.magnitude(state), 0);
        }
        let range = self.statistic.range(state).unwrap_or(Range { min: 0.0, max: 1.0 });
        let range = match threshold {
            Some(u) => Range { min: range.min.max(-u.max(0.0)), max: range.max.min(u.max(0.0)) },
            None => range,
        };
        let affine = match self.scheme {
            Scheme::Symmetric if range.min < 0.0 => scale::symmetric(range, self.grid),
            _ => scale::asymmetric(range, self.grid),
        };
        (affine.scale, affine.zero_point)
    }
}

impl Op for ActivationScale {
    fn name(&self) -> &str {
        "ActivationScale"
    }

    fn domain(&self) -> &str {
        "qat"
    }

    fn attrs(&self) -> Attrs {
        let scheme = SCHEMES.iter().find(|(_, s)| *s == self.scheme).map_or("asymmetric", |(n, _)| n);
        statistic_attrs(self.statistic)
            .with("low", Attr::Int(self.grid.low.into()))
            .with("high", Attr::Int(self.grid.high.into()))
            .with_str("scheme", scheme, "asymmetric")
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        check_state(cx, 0, self.statistic)?;
        single(cx, 1, "threshold")?;
        Ok(vec![Type::new(DType::F32, [0usize; 0]), Type::new(DType::I32, [0usize; 0])])
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        cx.typed::<f32>(0)?;
        cx.optional_typed::<f32>(1)?;
        let op = *self;
        Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let threshold = parts.optional::<f32>(1).map(|u| u[0]);
            let (scale, zero_point) = op.of(parts.input(0), threshold);
            parts.output::<f32>(0)[0] = scale;
            if let Some(to) = parts.output::<i32>(1).first_mut() {
                *to = zero_point;
            }
            Ok(())
        }))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use tensor::Tensor;

    const STATISTIC: Statistic = Statistic::MinMax;

    fn of(scheme: Scheme, state: [f32; 3], threshold: Option<f32>) -> (f32, i32) {
        ActivationScale { statistic: STATISTIC, scheme, grid: Grid::U8 }.of(&state, threshold)
    }

    #[test]
    fn positive_tensors_have_zero_point_zero_under_every_scheme() {
        assert_eq!(of(Scheme::Asymmetric, [0.5, 2.55, 1.0], None), (0.01, 0));
        assert_eq!(of(Scheme::Symmetric, [0.5, 2.55, 1.0], None), (0.01, 0));
    }

    #[test]
    fn signed_tensors() {
        assert_eq!(of(Scheme::Symmetric, [-1.0, 1.27, 1.0], None), (0.01, 128));
        assert_eq!(of(Scheme::Asymmetric, [-0.55, 2.0, 1.0], None), (0.01, 55));
    }

    #[test]
    fn a_threshold_limits_the_range() {
        assert_eq!(of(Scheme::Asymmetric, [0.0, 100.0, 1.0], Some(2.55)), (0.01, 0));
    }

    #[test]
    fn results_are_scalars() {
        let op = ActivationScale { statistic: STATISTIC, scheme: Scheme::Asymmetric, grid: Grid::U8 };
        let state = Tensor::new(&[3], vec![0.0f32, 2.55, 1.0]);
        let results = ir::eval(&op, &[Some(&state)], 2).unwrap();
        assert_eq!(results, [Tensor::scalar(0.01f32), Tensor::scalar(0i32)]);
    }
}
