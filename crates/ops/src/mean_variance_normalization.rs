//! `MeanVarianceNormalization` (ONNX 9, 13): zero mean and unit variance over some axes.

use crate::parts::number;
use crate::reduce::Form;
use crate::shapes::{axes, list};
use crate::{Add, Div, Mul, ReduceMean, Sqrt, Sub};
use ir::{Attr, Attrs, Compose, Infer, Op, Parse, Parsed, Type, ValueId};

/// `MeanVarianceNormalization(x)`: `(x - mean) / (deviation + 1e-9)`, mean and standard deviation over `axes`. Floats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeanVarianceNormalization {
    /// The axes; negative ones count from the end.
    pub axes: Vec<i64>,
}

const DEFAULT: [i64; 3] = [0, 2, 3];

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    let axes = cx.attrs.ints("axes")?.unwrap_or_else(|| DEFAULT.to_vec());
    Ok(MeanVarianceNormalization { axes }.into())
}

impl Op for MeanVarianceNormalization {
    fn name(&self) -> &str {
        "MeanVarianceNormalization"
    }

    fn attrs(&self) -> Attrs {
        if self.axes == DEFAULT {
            Attrs::new()
        } else {
            Attrs::new().with("axes", Attr::Ints(self.axes.clone()))
        }
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let x = cx.float(0)?;
        x.rank().map_or(Ok(Vec::new()), |rank| axes(&self.axes, rank))?;
        Ok(vec![x.clone()])
    }

    fn compose(&self, cx: &mut Compose) -> Option<Vec<ValueId>> {
        let x = cx.input(0)?;
        let axes = cx.constant_value(list(&self.axes));
        let mean = ReduceMean { form: Form { keep_dims: true, noop: true } };
        let center = cx.add(mean, &[x, axes])?;
        let distance = cx.add(Sub, &[x, center])?;
        let square = cx.add(Mul, &[distance, distance])?;
        let variance = cx.add(mean, &[square, axes])?;
        let deviation = cx.add(Sqrt, &[variance])?;
        let epsilon = number(cx, x, 1e-9)?;
        let deviation = cx.add(Add, &[deviation, epsilon])?;
        Some(vec![cx.add(Div, &[distance, deviation])?])
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{Draw, check_gradient, eval};
    use tensor::Tensor;

    #[test]
    fn normalizes() {
        let x = Tensor::new(&[2, 2], vec![1.0f32, 3.0, 5.0, 11.0]);
        let op = MeanVarianceNormalization { axes: vec![-1] };
        assert_eq!(eval(&op, &[&x]).unwrap().to_f32(), [-1.0, 1.0, -1.0, 1.0]);
        check_gradient(op, &[&Draw::new(1).tensor(&[2, 5], -1.0, 1.0)], 1, &[0]);
        let e = eval(&MeanVarianceNormalization { axes: DEFAULT.to_vec() }, &[&x]).unwrap_err();
        assert!(e.contains("axis 2"), "{e}");
    }
}
