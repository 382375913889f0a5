//! `Dropout` (ONNX 7, 10, 12, 13, 22): sets random elements to 0 in training mode (Srivastava et al. 2014), and passes its
//! operand on otherwise.
//!
//! Fine-tuning goes without: normalization removes the nodes in whatever mode they stand, since it is short and better
//! without noise of its own. What is here is the operator as a graph that is run as it stands has it.

use crate::shapes::single;
use ir::{Attr, Attrs, Infer, Io, Lower, Op, Parse, Parsed, QuantRole, Step, Type, Vjp};
use rand_mt::Mt;
use std::sync::Arc;
use tensor::{DType, Tensor};

/// `Dropout(x, ratio?, training_mode?)`: where `training_mode` is true, each element of `x` is 0 with probability `ratio` (0.5 by
/// default) and `x / (1 - ratio)` else; `x` itself otherwise. The second result, of booleans, says what was kept. f32 of
/// any shape.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropout {
    /// What the elements are drawn with: from the Mersenne Twister of numpy's `random.seed`, as the reference of ONNX does. Without
    /// one, 0: the same graph always gives the same results here.
    pub seed: Option<i64>,
}

/// Reads the operator. Before opset 12 the ratio was an attribute.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    let seed = cx.attrs.get("seed").map(|_| cx.attrs.int("seed", 0)).transpose()?;
    let ratio = cx.attrs.float("ratio", 0.5)?;
    let inputs = if ratio == 0.5 || cx.ins > 1 { Vec::new() } else { vec![(1, Tensor::scalar(ratio))] };
    Ok(Parsed { inputs, ..Dropout { seed }.into() })
}

/// The next number of `numpy.random.uniform`: 53 bits of two draws.
fn uniform(draws: &mut Mt) -> f64 {
    let (high, low) = (draws.next_u32() >> 5, draws.next_u32() >> 6);
    (f64::from(high) * f64::from(1 << 26) + f64::from(low)) / (1u64 << 53) as f64
}

impl Op for Dropout {
    fn name(&self) -> &str {
        "Dropout"
    }

    fn attrs(&self) -> Attrs {
        self.seed.map_or(Attrs::new(), |seed| Attrs::new().with("seed", Attr::Int(seed)))
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let x = cx.float(0)?;
        single(cx, 1, "ratio")?;
        single(cx, 2, "mode")?;
        Ok(vec![x.clone(), Type { dtype: Some(DType::Bool), shape: x.shape.clone() }])
    }

    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        let dy = cx.d_output(0)?;
        // The same seed draws the same elements.
        let d = match cx.input(2) {
            Some(mode) => cx.add_multi(Arc::new(*self), &[Some(dy), cx.input(1), Some(mode)], 1)?[0],
            None => dy,
        };
        cx.set(0, d);
        Some(())
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let drops = cx.optional(2).is_some_and(|mode| mode.value.as_ref().is_none_or(|t| t.to_i64() != [0]));
        if !drops && cx.outs.len() == 1 {
            return Ok(Step::view());
        }
        cx.typed::<f32>(0)?;
        if cx.optional(1).is_some() {
            cx.typed::<f32>(1)?;
        }
        let seed = self.seed.unwrap_or(0) as u32;
        Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let ratio = parts.optional::<f32>(1).and_then(|r| r.first().copied()).unwrap_or(0.5);
            let training = parts.optional::<u8>(2).is_some_and(|mode| mode.first().is_some_and(|&m| m != 0));
            if training && !(0.0..1.0).contains(&ratio) {
                return Err(format!("the ratio should be at least 0 and below 1, but is {ratio}"));
            }
            let ratio = if training { ratio } else { 0.0 };
            let (x, y): (&[f32], &mut [f32]) = (parts.input(0), parts.output(0));
            let mask: &mut [u8] = parts.output(1);
            let (mut draws, scale) = (Mt::new(seed), 1.0 / (1.0 - ratio));
            for (i, (y, &x)) in y.iter_mut().zip(x).enumerate() {
                let kept = ratio == 0.0 || uniform(&mut draws) >= ratio.into();
                *y = if kept { x * scale } else { 0.0 };
                if let Some(mask) = mask.get_mut(i) {
                    *mask = kept.into();
                }
            }
            Ok(())
        }))
    }

    fn quant(&self) -> QuantRole {
        QuantRole::SameScale
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{Draw, check_gradient_within, run};

    #[test]
    fn everything_is_kept_at_inference() {
        let x = Draw::new(1).tensor(&[2, 3, 2], -1.0, 1.0);
        let off = Tensor::bools(&[], &[false]);
        for mode in [None, Some(&off)] {
            let outs = run(&Dropout::default(), &[Some(&x), None, mode], 2).unwrap();
            assert_eq!(outs[0], x);
            assert_eq!(outs[1], Tensor::bools(&[2, 3, 2], &[true; 12]));
        }
        for outs in [1, 2] {
            let op = Arc::new(Dropout::default());
            check_gradient_within(op, &[Some(&x)], outs, &[0], Default::default());
        }
    }

    /// `numpy.random.seed(7); numpy.random.uniform(0, 1, 6)` is 0.076, 0.780, 0.438, 0.723, 0.978, 0.538.
    #[test]
    fn training_drops_what_numpy_draws() {
        let (x, on) = (Tensor::new(&[6], vec![1f32; 6]), Tensor::bools(&[], &[true]));
        let op = Dropout { seed: Some(7) };
        let outs = run(&op, &[Some(&x), None, Some(&on)], 2).unwrap();
        assert_eq!(outs[0].to_f32(), [0.0, 2.0, 0.0, 2.0, 2.0, 2.0]);
        assert_eq!(outs[1], Tensor::bools(&[6], &[false, true, false, true, true, true]));
        let ratio = Tensor::scalar(0.75f32);
        let outs = run(&op, &[Some(&x), Some(&ratio), Some(&on)], 1).unwrap();
        assert_eq!(outs[0].to_f32(), [0.0, 4.0, 0.0, 0.0, 4.0, 0.0]);
        let all = Tensor::scalar(1f32);
        assert!(run(&op, &[Some(&x), Some(&all), Some(&on)], 1).unwrap_err().contains("below 1"));
    }

    #[test]
    fn the_ratio_becomes_an_input() {
        let attrs = Attrs::new().with_float("ratio", 0.25, 0.5);
        let parsed = parse(&Parse { attrs: &attrs, opset: 7, ins: 1, outs: 1 }).unwrap();
        assert_eq!(parsed.inputs, [(1, Tensor::scalar(0.25f32))]);
    }
}
