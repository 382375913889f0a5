//! `IsInf` (ONNX 10, 20): whether an element is infinite.

use ir::{Attrs, Infer, Io, Layouts, Lower, Op, Parse, Parsed, Step, Type};
use tensor::DType;

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
        cx.typed::<f32>(0)?;
        let IsInf { negative, positive } = *self;
        Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let (x, y): (&[f32], &mut [u8]) = (parts.input(0), parts.output(0));
            let counts = |x: f32| (positive && x == f32::INFINITY) || (negative && x == f32::NEG_INFINITY);
            y.iter_mut().zip(x).for_each(|(y, &x)| *y = counts(x).into());
            Ok(())
        }))
    }

    fn layouts(&self) -> Layouts {
        Layouts::Any
    }
}
