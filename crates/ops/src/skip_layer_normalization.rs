//! `SkipLayerNormalization` and `SkipSimplifiedLayerNormalization` (com.microsoft 1): an addition and a normalization of the
//! last axis in one, as ONNX Runtime's optimizer writes it.

use crate::q_linear::MICROSOFT;
use crate::{Add, LayerNormalization, RMSNormalization};
use ir::{Attrs, Compose, Dim, Infer, Op, Parse, Parsed, Type, ValueId};
use std::sync::Arc;
use tensor::DType;

/// `SkipLayerNormalization(x, skip, scale, shift?, bias?)`: `LayerNormalization(x + skip + bias, scale, shift)` over the
/// last axis; `SkipSimplifiedLayerNormalization(x, skip, scale, bias?)`: `RMSNormalization(x + skip + bias, scale)`.
/// Floats of any rank. Results 1 and 2 are mean and inverse deviation of each row; result 3 is the sum that is normalized.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SkipLayerNormalization {
    /// Added to the variance.
    pub epsilon: f32,
    /// Without mean and shift.
    pub simplified: bool,
}

const EPSILON: f32 = 1e-5;

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    Ok(SkipLayerNormalization { epsilon: cx.attrs.float("epsilon", EPSILON)?, simplified: false }.into())
}

/// Reads the operator without mean and shift.
pub fn parse_simplified(cx: &Parse) -> Result<Parsed, String> {
    Ok(SkipLayerNormalization { epsilon: cx.attrs.float("epsilon", EPSILON)?, simplified: true }.into())
}

impl Op for SkipLayerNormalization {
    fn name(&self) -> &str {
        if self.simplified { "SkipSimplifiedLayerNormalization" } else { "SkipLayerNormalization" }
    }

    fn domain(&self) -> &str {
        MICROSOFT
    }

    fn attrs(&self) -> Attrs {
        Attrs::new().with_float("epsilon", self.epsilon, EPSILON)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let (x, skip) = (cx.float(0)?, cx.float(1)?);
        let last = |ty: &Type| ty.shape.as_ref().and_then(|s| s.last().cloned());
        for i in 2..cx.len() {
            if let (Some(a), Some(b)) = (last(x), cx.ty(i).ok().and_then(last))
                && !a.agrees(&b)
            {
                return Err(format!("input {i}, {}, does not fit the last axis of {x}", cx.ty(i)?));
            }
        }
        if crate::shapes::broadcast(x, skip)?.is_some_and(|s| Some(s.len()) != x.rank()) {
            return Err(format!("{skip} has more axes than {x}, to which it is added"));
        }
        let mut row = Type { dtype: Some(DType::F32), ..x.clone() };
        if let Some(last) = row.shape.as_mut().and_then(|s| s.last_mut()) {
            *last = Dim::Fixed(1);
        }
        Ok(vec![x.clone(), row.clone(), row, x.clone()])
    }

    fn compose(&self, cx: &mut Compose) -> Option<Vec<ValueId>> {
        let mut sum = cx.add(Add, &[cx.input(0)?, cx.input(1)?])?;
        if let Some(bias) = cx.input(if self.simplified { 3 } else { 4 }) {
            sum = cx.add(Add, &[sum, bias])?;
        }
        let epsilon = self.epsilon;
        if self.simplified {
            // Mean and deviation have no meaning here, and ONNX Runtime does not write them.
            let y = cx.add(RMSNormalization { axis: -1, epsilon }, &[sum, cx.input(2)?])?;
            return Some(vec![y, y, y, sum]);
        }
        let norm = Arc::new(LayerNormalization { axis: -1, epsilon });
        let ins: Vec<_> = [Some(sum), cx.input(2), cx.input(3)].into_iter().filter(Option::is_some).collect();
        let statistics = if cx.outs() > 1 { 3 } else { 1 };
        let mut results = cx.add_multi(norm, &ins, statistics)?;
        results.resize(3, sum);
        results.push(sum);
        Some(results)
    }

    fn params(&self) -> &'static [usize] {
        &[2, 3, 4]
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{Draw, Tolerance, check_gradient_within, run};

    #[test]
    fn is_its_parts() {
        let mut draw = Draw::new(1);
        let [x, skip] = [0; 2].map(|_| draw.tensor(&[2, 3, 4], -1.0, 1.0));
        let [scale, shift, bias] = [0; 3].map(|_| draw.tensor(&[4], 0.5, 1.0));
        let op = SkipLayerNormalization { epsilon: 1e-3, simplified: false };
        let ins = [Some(&x), Some(&skip), Some(&scale), Some(&shift), Some(&bias)];
        let y = run(&op, &ins, 4).unwrap();
        let sum: Vec<f32> =
            (0..24).map(|i| x.to_f32()[i] + skip.to_f32()[i] + bias.to_f32()[i % 4]).collect();
        let sum = tensor::Tensor::new(&[2, 3, 4], sum);
        let norm = LayerNormalization { axis: -1, epsilon: 1e-3 };
        let want = run(&norm, &[Some(&sum), Some(&scale), Some(&shift)], 3).unwrap();
        assert_eq!((&y[..3], &y[3]), (&want[..], &sum));
        let tolerance = Tolerance { relative: 1e-2, ..Tolerance::default() };
        check_gradient_within(Arc::new(op), &ins, 1, &[0, 1, 2, 3, 4], tolerance);
        let op = SkipLayerNormalization { epsilon: 1e-3, simplified: true };
        check_gradient_within(Arc::new(op), &ins[..4], 1, &[0, 1, 2, 3], tolerance);
    }
}
