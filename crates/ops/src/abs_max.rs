//! `qat.AbsMax`: the largest magnitude of a tensor or of each of its channels, from which a weight's scale follows.

use ir::{Attrs, Infer, Io, Lower, Op, Parse, Parsed, Step, Type};
use kernels::quant::{self, Axis};
use tensor::DType;

/// `AbsMax(x)`: f32 of any shape to a scalar, or to one number per channel of `axis`. No gradient: scales follow the
/// weights, they are not trained by them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbsMax {
    /// Channel axis.
    pub axis: Option<usize>,
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    let axis = match cx.attrs.int("axis", -1)? {
        -1 => None,
        axis => Some(usize::try_from(axis).map_err(|_| format!("attribute axis is {axis}"))?),
    };
    Ok(AbsMax { axis }.into())
}

impl Op for AbsMax {
    fn name(&self) -> &str {
        "AbsMax"
    }

    fn domain(&self) -> &str {
        "qat"
    }

    fn attrs(&self) -> Attrs {
        Attrs::new().with_int("axis", self.axis.map_or(-1, |a| a as i64), -1)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let x = cx.float(0)?;
        let shape = match (self.axis, &x.shape) {
            (None, _) => Some(vec![]),
            (Some(_), None) => None,
            (Some(axis), Some(shape)) => {
                let d = shape.get(axis).ok_or_else(|| format!("axis {axis} of {x}"))?;
                Some(vec![d.clone()])
            }
        };
        Ok(vec![Type { dtype: Some(DType::F32), shape }])
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let x = cx.typed::<f32>(0)?;
        let rows = match self.axis {
            None => Axis::whole(x.len()),
            Some(axis) => {
                Axis::of(&x.shape, axis).ok_or_else(|| format!("axis {axis} of shape {:?}", x.shape))?
            }
        };
        Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            quant::abs_max_channels(rows, parts.input(0), parts.output(0));
            Ok(())
        }))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use tensor::Tensor;

    #[test]
    fn per_channel_and_whole() {
        let x = Tensor::new(&[2, 2], vec![1.0f32, -3.0, 0.5, 0.25]);
        let of = |axis| ir::eval(&AbsMax { axis }, &[Some(&x)], 1).unwrap().remove(0);
        assert_eq!(of(None), Tensor::scalar(3.0f32));
        assert_eq!(of(Some(0)), Tensor::new(&[2], vec![3.0f32, 0.5]));
        assert_eq!(of(Some(1)), Tensor::new(&[2], vec![1.0f32, 3.0]));
    }
}
