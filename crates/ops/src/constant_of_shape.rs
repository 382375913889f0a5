//! `ConstantOfShape` (ONNX 9, 20, 21): a tensor of one value.

use crate::shapes::{by_width, integers, list, listed, untouched};
use ir::{Attr, Attrs, Dim, Infer, Io, Lower, Op, Parse, Parsed, Step, Type, ValueId, Vjp};
use tensor::Tensor;

/// `ConstantOfShape(shape)`: `shape` i64.
#[derive(Clone, Debug, PartialEq)]
pub struct ConstantOfShape {
    /// The value, one element of any type.
    pub value: Tensor,
}

impl Default for ConstantOfShape {
    fn default() -> ConstantOfShape {
        ConstantOfShape { value: Tensor::new(&[1], vec![0f32]) }
    }
}

/// Reads the operator, where its value could be read.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    match cx.attrs.get("value") {
        None => Ok(ConstantOfShape::default().into()),
        Some(Attr::Tensor(value)) if value.len() == 1 => Ok(ConstantOfShape { value: value.clone() }.into()),
        Some(Attr::Raw(_)) => Ok(untouched("ConstantOfShape", cx)),
        Some(other) => Err(format!("attribute value should be a tensor of one element, but is {other:?}")),
    }
}

/// Zeros of f32 as large as `like`, for gradients that are there in a few places.
pub(crate) fn zeros_as(cx: &mut Vjp, like: ValueId) -> Option<ValueId> {
    let shape: Vec<i64> = cx.dims(like)?.iter().map(|&n| n as i64).collect();
    let shape = cx.constant_value(list(&shape));
    cx.add(ConstantOfShape::default(), &[shape])
}

impl Op for ConstantOfShape {
    fn name(&self) -> &str {
        "ConstantOfShape"
    }

    fn attrs(&self) -> Attrs {
        if *self == ConstantOfShape::default() {
            return Attrs::new();
        }
        Attrs::new().with("value", Attr::Tensor(self.value.clone()))
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let rank = cx.ty(0)?.dims().and_then(|d| d.first().copied());
        let shape = match integers(cx, 0)? {
            Some(list) => {
                let sizes = list.iter().map(|&n| usize::try_from(n)).collect::<Result<Vec<_>, _>>();
                let sizes = sizes.map_err(|_| format!("shape {list:?} holds a negative size"))?;
                let count = tensor::element_count(&sizes)
                    .filter(|n| n.checked_mul(self.value.dtype().bits()).is_some());
                count.ok_or_else(|| format!("shape {list:?} is too large"))?;
                Some(sizes.into_iter().map(Dim::Fixed).collect())
            }
            None => rank.map(listed).transpose()?,
        };
        Ok(vec![Type { dtype: Some(self.value.dtype()), shape }])
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let bytes = self.value.bytes().clone();
        by_width!(cx.outs[0].dtype, T => Ok(Step::new(move |io: &mut Io| {
            let mut value = [0; size_of::<T>()];
            value.copy_from_slice(&bytes);
            io.output(0).fill(T::from_ne_bytes(value));
            Ok(())
        })))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::eval;

    #[test]
    fn values() {
        let y = eval(&ConstantOfShape { value: Tensor::new(&[1], vec![7i64]) }, &[&list(&[2, 2])]).unwrap();
        assert_eq!(y, Tensor::new(&[2, 2], vec![7i64; 4]));
        assert_eq!(eval(&ConstantOfShape::default(), &[&list(&[])]).unwrap(), Tensor::scalar(0f32));
        assert!(eval(&ConstantOfShape::default(), &[&list(&[-1])]).unwrap_err().contains("negative"));
        assert!(
            eval(&ConstantOfShape::default(), &[&list(&[1 << 40, 1 << 40])])
                .unwrap_err()
                .contains("too large")
        );
    }
    #[test]
    fn a_value_that_is_not_read_is_carried_through() {
        let attrs = Attrs::new().with("value", Attr::Raw(Default::default()));
        let parsed = parse(&Parse { attrs: &attrs, opset: 21, ins: 1, outs: 1 }).unwrap();
        assert!(parsed.op.is::<ir::Opaque>().is_some());
    }
}
