//! `Dropout` (ONNX 7, 10, 12, 13, 22): passes its operand on.
//!
//! This is the form of inference. A node in training mode (`training_mode` true, from opset 12) is passed on too: training
//! here never drops anything, since fine-tuning for quantization is short and better without noise of its own. The mask
//! then says that everything was kept.

use ir::{Infer, Io, Layouts, Lower, Op, Pair, Parse, Parsed, QuantRole, Step, Type, Vjp};
use tensor::{DType, Tensor};

/// `Dropout(x, ratio?, training_mode?)`: `x`, and optionally a mask of booleans, all true.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropout;

/// Reads the operator. Before opset 12 the ratio was an attribute.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    let ratio = cx.attrs.float("ratio", 0.5)?;
    let inputs = if ratio == 0.5 || cx.ins > 1 { Vec::new() } else { vec![(1, Tensor::scalar(ratio))] };
    Ok(Parsed { inputs, ..Dropout.into() })
}

impl Op for Dropout {
    fn name(&self) -> &str {
        "Dropout"
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let x = cx.float(0)?;
        Ok(vec![x.clone(), Type { dtype: Some(DType::Bool), shape: x.shape.clone() }])
    }

    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        let dy = cx.d_output(0)?;
        cx.set(0, dy);
        Some(())
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        if cx.outs.len() == 1 {
            return Ok(Step::view());
        }
        cx.typed::<f32>(0)?;
        let run = |io: &mut Io| {
            if let Pair::Apart(x, y) = io.pair::<f32>(0, 0) {
                y.copy_from_slice(x);
            }
            io.output::<u8>(1).fill(1);
            Ok(())
        };
        Ok(Step::new(run).in_place(0, 0))
    }

    fn quant(&self) -> QuantRole {
        QuantRole::SameScale
    }

    fn layouts(&self) -> Layouts {
        Layouts::Same { ins: 1, outs: 0b11 }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{Draw, check_gradient_within, run};
    use ir::Attrs;
    use std::sync::Arc;

    #[test]
    fn everything_is_kept() {
        let x = Draw::new(1).tensor(&[2, 3, 2], -1.0, 1.0);
        let outs = run(&Dropout, &[Some(&x), None, None], 2).unwrap();
        assert_eq!(outs[0], x);
        assert_eq!(outs[1], Tensor::bools(&[2, 3, 2], &[true; 12]));
        for outs in [1, 2] {
            check_gradient_within(Arc::new(Dropout), &[Some(&x)], outs, &[0], Default::default());
        }
    }

    #[test]
    fn the_ratio_becomes_an_input() {
        let attrs = Attrs::new().with_float("ratio", 0.25, 0.5);
        let parsed = parse(&Parse { attrs: &attrs, opset: 7, ins: 1, outs: 1 }).unwrap();
        assert_eq!(parsed.inputs, [(1, Tensor::scalar(0.25f32))]);
    }
}
