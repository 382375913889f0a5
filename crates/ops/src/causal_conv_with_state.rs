//! `CausalConvWithState` (ONNX 27): a convolution along time that sees the past only, and carries its end on.

use crate::conv::check_axis;
use crate::parts::{pad, slice};
use crate::{Concat, Conv, Swish, Window, unary};
use ir::{Attrs, Compose, Dim, Infer, OnnxForm, Op, Parse, Parsed, Type, ValueId};
use std::sync::Arc;

/// `CausalConvWithState(x, w, bias?, past?)`: `x` float `(batch, channels, length)`, `w` `(channels, 1, kernel)`; a kernel for
/// each channel over `past`, `(batch, channels, kernel - 1)`, zeros where omitted, and `x` behind it. Result 1 is the end of
/// both, the past of the next piece.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CausalConvWithState {
    /// Whether the result goes through `x sigmoid(x)`.
    pub silu: bool,
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    match cx.attrs.str("activation", "none")? {
        "none" => Ok(CausalConvWithState { silu: false }.into()),
        "silu" | "swish" => Ok(CausalConvWithState { silu: true }.into()),
        other => Err(format!("attribute activation should be none, silu or swish, but is \"{other}\"")),
    }
}

impl Op for CausalConvWithState {
    fn name(&self) -> &str {
        "CausalConvWithState"
    }

    fn attrs(&self) -> Attrs {
        Attrs::new().with_str("activation", if self.silu { "silu" } else { "none" }, "none")
    }

    fn to_onnx(&self, opset: i64) -> Result<OnnxForm, String> {
        unary::since(self, opset, 27)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let (x, w) = (cx.float(0)?, cx.float(1)?);
        if [x, w].iter().any(|t| t.rank().is_some_and(|r| r != 3)) {
            return Err(format!("data {x} and weight {w} should have 3 axes"));
        }
        check_axis(w, "weight", 1, Some(1))?;
        if w.shape.iter().flatten().any(|dim| dim.fixed() == Some(0)) {
            return Err(format!("the weight {w} has no elements"));
        }
        let state = match (&x.shape, &w.shape) {
            (Some(xs), Some(ws)) => {
                check_axis(x, "input", 1, ws[0].fixed())?;
                let past = ws[2].fixed().map_or(Dim::Unknown, |kernel| Dim::Fixed(kernel - 1));
                Some(vec![xs[0].clone(), xs[1].clone(), past])
            }
            _ => None,
        };
        let state = Type { dtype: x.dtype, shape: state };
        if cx.has(3) && !cx.float(3)?.agrees(&state) {
            return Err(format!("the past should be {state}, but is {}", cx.float(3)?));
        }
        Ok(vec![x.clone(), state])
    }

    fn compose(&self, cx: &mut Compose) -> Option<Vec<ValueId>> {
        let (x, w) = (cx.input(0)?, cx.input(1)?);
        let [channels, _, kernel] = cx.dims(w)?[..] else { return None };
        let past = kernel as i64 - 1;
        let whole = match cx.input(3) {
            Some(state) => cx.add(Concat { axis: 2 }, &[state, x])?,
            None => pad(cx, x, &[0, 0, past], &[0, 0, 0])?,
        };
        let conv = Conv { window: Window::default(), group: channels };
        let mut ins = vec![Some(whole), Some(w)];
        ins.extend(cx.input(2).map(Some));
        let mut y = cx.add_multi(Arc::new(conv), &ins, 1)?[0];
        if self.silu {
            y = cx.add(Swish { alpha: 1.0 }, &[y])?;
        }
        let length = *cx.dims(whole)?.last()? as i64;
        Some(vec![y, slice(cx, whole, 2, length - past, length, 1)?])
    }

    fn params(&self) -> &'static [usize] {
        &[1, 2]
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{Draw, check_gradient_within, run};
    use tensor::{DType, Tensor};

    #[test]
    fn piece_by_piece_is_the_whole() {
        let mut draw = Draw::new(1);
        let (x, w) = (draw.tensor(&[1, 2, 6], -1.0, 1.0), draw.tensor(&[2, 1, 3], -1.0, 1.0));
        let op = CausalConvWithState::default();
        let whole = run(&op, &[Some(&x), Some(&w)], 2).unwrap();
        let piece = |range: std::ops::Range<usize>| {
            let values = x.to_f32().chunks(6).flat_map(|row| row[range.clone()].to_vec()).collect();
            Tensor::new(&[1, 2, range.len()], values)
        };
        let first = run(&op, &[Some(&piece(0..4)), Some(&w)], 2).unwrap();
        let second = run(&op, &[Some(&piece(4..6)), Some(&w), None, Some(&first[1])], 2).unwrap();
        assert_eq!(second[1], whole[1]);
        let (whole, second) = (whole[0].to_f32(), second[0].to_f32());
        assert_eq!(second, [whole[4], whole[5], whole[10], whole[11]]);
    }

    #[test]
    fn a_weight_without_elements_is_refused() {
        // Also where nothing is known of the data.
        let data = Type { dtype: Some(DType::F32), shape: None };
        for shape in [[0, 1, 2], [2, 1, 0]] {
            let w = Type::new(DType::F32, shape);
            let args = [&data, &w].map(|ty| Some(ir::Arg { ty, value: None }));
            let refused = CausalConvWithState::default().infer(&Infer::new(&args, 1)).unwrap_err();
            assert_eq!(refused, format!("the weight {w} has no elements"));
        }
    }

    #[test]
    fn gradients_against_differences() {
        let mut draw = Draw::new(2);
        let (x, w) = (draw.tensor(&[2, 3, 4], -1.0, 1.0), draw.tensor(&[3, 1, 2], -1.0, 1.0));
        let (b, past) = (draw.tensor(&[3], -1.0, 1.0), draw.tensor(&[2, 3, 1], -1.0, 1.0));
        let op = Arc::new(CausalConvWithState { silu: true });
        let ins = [Some(&x), Some(&w), Some(&b), Some(&past)];
        check_gradient_within(op, &ins, 2, &[0, 1, 2, 3], Default::default());
    }
}
