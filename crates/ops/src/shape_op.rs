//! `Shape` (ONNX 1, 13, 15, 19, 21): the sizes of a tensor.

use ir::{Attr, Attrs, Infer, Io, Lower, OnnxForm, Op, Parse, Parsed, Step, Type};
use tensor::{DType, Tensor};

/// `Shape(x)`: sizes of `x` as i64, or a range of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// First axis; below 0 from the end (opset 15).
    pub start: i64,
    /// Axis behind the last; `None` for all.
    pub end: Option<i64>,
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    let end = match cx.attrs.get("end") {
        None => None,
        Some(_) => Some(cx.attrs.int("end", 0)?),
    };
    Ok(Shape { start: cx.attrs.int("start", 0)?, end }.into())
}

impl Shape {
    fn range(&self, rank: usize) -> std::ops::Range<usize> {
        let n = rank as i64;
        let clamp = |at: i64| (if at < 0 { at.saturating_add(n) } else { at }).clamp(0, n) as usize;
        let (start, end) = (clamp(self.start), clamp(self.end.unwrap_or(n)));
        start..end.max(start)
    }

    /// The result, where the type alone decides it: constant folding needs no value.
    pub fn value(&self, x: &Type) -> Option<Tensor> {
        let dims = x.shape.as_ref()?;
        let sizes = dims[self.range(dims.len())]
            .iter()
            .map(|d| d.fixed().map(|n| n as i64))
            .collect::<Option<Vec<_>>>();
        sizes.map(|s| crate::shapes::list(&s))
    }
}

impl Op for Shape {
    fn name(&self) -> &str {
        "Shape"
    }

    fn attrs(&self) -> Attrs {
        let attrs = Attrs::new().with_int("start", self.start, 0);
        self.end.map_or(attrs.clone(), |end| attrs.with("end", Attr::Int(end)))
    }

    fn to_onnx(&self, opset: i64) -> Result<OnnxForm, String> {
        if opset < 15 && *self != Shape::default() {
            return Err("Shape has no start and end before opset 15".into());
        }
        Ok(OnnxForm { op_type: self.name().into(), attrs: self.attrs(), ..OnnxForm::default() })
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        Ok(vec![match cx.ty(0)?.rank() {
            Some(rank) => Type::new(DType::I64, [self.range(rank).len()]),
            None => Type { dtype: Some(DType::I64), shape: Some(crate::shapes::unknown(1)) },
        }])
    }

    fn known(&self, cx: &Infer) -> Option<Tensor> {
        self.value(cx.ty(0).ok()?)
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let dims = &cx.input(0)?.shape;
        let sizes: Vec<i64> = dims[self.range(dims.len())].iter().map(|&n| n as i64).collect();
        Ok(Step::new(move |io: &mut Io| {
            io.output(0).copy_from_slice(&sizes);
            Ok(())
        }))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::eval;
    use ir::Dim;

    #[test]
    fn ranges() {
        let x = Tensor::zeros(DType::F32, &[2, 3, 4]);
        let shape = |start, end| eval(&Shape { start, end }, &[&x]).unwrap().to_i64();
        assert_eq!(shape(0, None), [2, 3, 4]);
        assert_eq!(shape(-1, None), [4]);
        assert_eq!(shape(0, Some(-1)), [2, 3]);
        assert_eq!(shape(5, Some(i64::MIN)), [0i64; 0]);
        assert!(Shape { start: 1, end: None }.to_onnx(13).is_err());
    }

    #[test]
    fn known_sizes_need_no_value() {
        let ty = Type::new(DType::F32, [Dim::sym("N"), 3.into()]);
        assert_eq!(Shape::default().value(&ty), None);
        assert_eq!(Shape { start: 1, end: None }.value(&ty).unwrap().to_i64(), [3]);
    }
}
