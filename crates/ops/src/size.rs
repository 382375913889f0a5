//! `Size` (ONNX 1, 13, 19, 21): the number of elements of a tensor.

use ir::{Infer, Io, Lower, Op, Parse, Parsed, Step, Type};
use tensor::{DType, Tensor};

/// `Size(x)`: the number of elements of `x`, an i64 scalar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size;

/// Reads the operator: it has no attributes.
pub fn parse(_: &Parse) -> Result<Parsed, String> {
    Ok(Size.into())
}

impl Size {
    /// The result, where the type alone decides it: constant folding needs no value.
    pub fn value(&self, x: &Type) -> Option<Tensor> {
        Some(Tensor::scalar(tensor::element_count(&x.dims()?)? as i64))
    }
}

impl Op for Size {
    fn name(&self) -> &str {
        "Size"
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        cx.ty(0)?;
        Ok(vec![Type::new(DType::I64, [0usize; 0])])
    }

    fn known(&self, cx: &Infer) -> Option<Tensor> {
        self.value(cx.ty(0).ok()?)
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let n = cx.input(0)?.len() as i64;
        Ok(Step::new(move |io: &mut Io| {
            io.output(0).fill(n);
            Ok(())
        }))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::eval;

    #[test]
    fn counts() {
        assert_eq!(eval(&Size, &[&Tensor::zeros(DType::U8, &[2, 3])]).unwrap(), Tensor::scalar(6i64));
        assert_eq!(Size.value(&Type::new(DType::U8, [2usize, 0])), Some(Tensor::scalar(0i64)));
        assert_eq!(Size.value(&Type::of(DType::U8)), None);
    }
}
