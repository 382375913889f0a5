//! `qat.Processed`: marks what a pre-process in front of a quantizer has made of a tensor, beside the tensor itself, so
//! that freezing can take the tensor again.

use ir::{Attrs, Infer, Layouts, Lower, Op, Parse, Parsed, Step, Type, Vjp};

/// `Processed(processed, original)` is `processed`; gradients go through what made it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Processed {
    /// Gradients go to `original` instead, past the pre-process and its parameters. So PaddleSlim has it for every reader
    /// of a processed tensor but the first.
    pub bypassed: bool,
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    Ok(Processed { bypassed: cx.attrs.int("bypassed", 0)? != 0 }.into())
}

impl Op for Processed {
    fn name(&self) -> &str {
        "Processed"
    }

    fn domain(&self) -> &str {
        "qat"
    }

    fn attrs(&self) -> Attrs {
        Attrs::new().with_int("bypassed", self.bypassed.into(), 0)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let (processed, original) = (cx.ty(0)?, cx.ty(1)?);
        if processed.agrees(original) {
            Ok(vec![processed.clone()])
        } else {
            Err(format!("a pre-process keeps the type, but {original} became {processed}"))
        }
    }

    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        let dy = cx.d_output(0)?;
        cx.set(self.bypassed.into(), dy);
        Some(())
    }

    fn lower(&self, _: &Lower) -> Result<Step, String> {
        Ok(Step::view())
    }

    fn layouts(&self) -> Layouts {
        Layouts::Same { ins: 1, outs: 1 }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use tensor::Tensor;

    #[test]
    fn is_the_processed_tensor() {
        let (a, b) = (Tensor::scalar(1.0f32), Tensor::scalar(2.0f32));
        assert_eq!(ir::eval(&Processed::default(), &[Some(&a), Some(&b)], 1).unwrap(), [a]);
        assert!(ir::eval(&Processed::default(), &[Some(&b), Some(&Tensor::scalar(1i64))], 1).is_err());
    }
}
