//! `IsNaN` (ONNX 9, 13, 20): whether an element is not a number.

use ir::{Infer, Io, Layouts, Lower, Op, Parse, Parsed, Step, Type};
use tensor::DType;

/// `IsNaN(x)`: whether an element is not a number, as booleans; `x` of floats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IsNaN;

/// Reads the operator: it has no attributes.
pub fn parse(_: &Parse) -> Result<Parsed, String> {
    Ok(IsNaN.into())
}

impl Op for IsNaN {
    fn name(&self) -> &str {
        "IsNaN"
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        Ok(vec![Type { dtype: Some(DType::Bool), ..cx.float(0)?.clone() }])
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        cx.typed::<f32>(0)?;
        Ok(Step::new(|io: &mut Io| {
            let mut parts = io.split();
            let (x, y): (&[f32], &mut [u8]) = (parts.input(0), parts.output(0));
            y.iter_mut().zip(x).for_each(|(y, x)| *y = x.is_nan().into());
            Ok(())
        }))
    }

    fn layouts(&self) -> Layouts {
        Layouts::Any
    }
}
