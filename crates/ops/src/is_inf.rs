//! `IsInf` (ONNX 10, 20): whether an element is infinite.

use ir::{Attrs, Infer, Io, Layouts, Lower, Op, Parse, Parsed, Step, Type};
use tensor::{DType, Element};

/// `IsInf(x)`: whether an element is infinite, as booleans; `x` of floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IsInf {
    /// Minus infinity counts.
    pub negative: bool,
    /// Plus infinity counts.
    pub positive: bool,
}

impl Default for IsInf {
    fn default() -> IsInf {
        IsInf { negative: true, positive: true }
    }
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    let flag = |name| Ok::<_, String>(cx.attrs.int(name, 1)? != 0);
    Ok(IsInf { negative: flag("detect_negative")?, positive: flag("detect_positive")? }.into())
}

impl IsInf {
    fn typed<T: Element + Into<f64>>(self, cx: &Lower) -> Result<Step, String> {
        cx.typed::<T>(0)?;
        let IsInf { negative, positive } = self;
        Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let (x, y): (&[T], &mut [u8]) = (parts.input(0), parts.output(0));
            let counts = |x: f64| (positive && x == f64::INFINITY) || (negative && x == f64::NEG_INFINITY);
            y.iter_mut().zip(x).for_each(|(y, &x)| *y = counts(x.into()).into());
            Ok(())
        }))
    }
}

impl Op for IsInf {
    fn name(&self) -> &str {
        "IsInf"
    }

    fn attrs(&self) -> Attrs {
        let attrs = Attrs::new().with_int("detect_negative", self.negative.into(), 1);
        attrs.with_int("detect_positive", self.positive.into(), 1)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        Ok(vec![Type { dtype: Some(DType::Bool), ..cx.float(0)?.clone() }])
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        // A double beyond the range of a float is finite.
        match cx.input(0)?.dtype {
            DType::F64 => self.typed::<f64>(cx),
            _ => self.typed::<f32>(cx),
        }
    }

    fn layouts(&self) -> Layouts {
        Layouts::Any
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::eval;
    use tensor::Tensor;

    #[test]
    fn only_infinity_is_infinite() {
        let x = Tensor::new(&[4], vec![1e300, f64::INFINITY, f64::NEG_INFINITY, f64::NAN]);
        assert_eq!(eval(&IsInf::default(), &[&x]).unwrap().to_i64(), [0, 1, 1, 0]);
        let x = Tensor::new(&[4], x.to_f32());
        let op = IsInf { positive: false, ..IsInf::default() };
        assert_eq!(eval(&op, &[&x]).unwrap().to_i64(), [0, 0, 1, 0]);
    }
}
