//! `GatherElements` (ONNX 11, 13): single elements by index.

use crate::ScatterElements;
use crate::constant_of_shape::zeros_as;
use crate::scatter::{Join, index, position};
use crate::shapes::{axis, by_width};
use ir::{Attrs, Infer, Io, Lower, Op, Parse, Parsed, QuantRole, Step, Type, Vjp};
use kernels::select::strides;

/// `GatherElements(data, indices)`: the result has the shape of `indices` (i64; below 0 from the end), which replace the
/// coordinate along `axis`: `y[i][j] = data[indices[i][j]][j]` along axis 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GatherElements {
    /// The axis that is indexed.
    pub axis: i64,
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    Ok(GatherElements { axis: cx.attrs.int("axis", 0)? }.into())
}

impl Op for GatherElements {
    fn name(&self) -> &str {
        "GatherElements"
    }

    fn attrs(&self) -> Attrs {
        Attrs::new().with_int("axis", self.axis, 0)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let (data, indices) = (cx.ty(0)?, cx.ty(1)?);
        check_elements(data, indices, self.axis)?;
        Ok(vec![Type { dtype: data.dtype, shape: indices.shape.clone() }])
    }

    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        let zeros = zeros_as(cx, cx.input(0)?)?;
        let op = ScatterElements { axis: self.axis, reduction: Join::Add };
        let (indices, dy) = (cx.input(1)?, cx.d_output(0)?);
        let d = cx.add(op, &[zeros, indices, dy])?;
        cx.set(0, d);
        Some(())
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let (data, indices) = (cx.input(0)?, cx.typed::<i64>(1)?);
        let at = axis(self.axis, data.shape.len())?;
        let (n, shape, mut steps) = (data.shape[at], indices.shape.clone(), strides(&data.shape));
        let along = std::mem::take(&mut steps[at]);
        by_width!(data.dtype, T => Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let (x, indices): (&[T], &[i64]) = (parts.input(0), parts.input(1));
            for (i, y) in parts.output::<T>(0).iter_mut().enumerate() {
                *y = x[position(i, &shape, &steps) + index(indices[i], n)? * along];
            }
            Ok(())
        })))
    }

    fn quant(&self) -> QuantRole {
        QuantRole::SameScale
    }
}

/// Checks that `indices` fit `data`: as many axes, and none longer except the one that is indexed.
pub(crate) fn check_elements(data: &Type, indices: &Type, along: i64) -> Result<(), String> {
    let (Some(d), Some(at)) = (&data.shape, &indices.shape) else { return Ok(()) };
    let along = axis(along, d.len())?;
    let fits = |(i, (d, n)): (usize, (&ir::Dim, &ir::Dim))| {
        i == along || d.fixed().zip(n.fixed()).is_none_or(|(d, n)| n <= d)
    };
    if d.len() == at.len() && d.iter().zip(at).enumerate().all(fits) {
        return Ok(());
    }
    Err(format!("indices {indices} do not fit {data} along axis {along}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{Draw, check_gradient, eval};
    use tensor::Tensor;

    #[test]
    fn values() {
        let x = Tensor::new(&[2, 2], vec![1i64, 2, 3, 4]);
        let at = Tensor::new(&[2, 2], vec![0i64, -2, 1, 0]);
        assert_eq!(eval(&GatherElements { axis: 1 }, &[&x, &at]).unwrap().to_i64(), [1, 1, 4, 3]);
        assert_eq!(eval(&GatherElements { axis: 0 }, &[&x, &at]).unwrap().to_i64(), [1, 2, 3, 2]);
        let far = Tensor::new(&[1, 1], vec![2i64]);
        assert!(eval(&GatherElements { axis: 0 }, &[&x, &far]).unwrap_err().contains("index 2"));
        assert!(eval(&GatherElements { axis: 0 }, &[&x, &Tensor::new(&[1], vec![0i64])]).is_err());
    }

    #[test]
    fn gradient() {
        let x = Draw::new(1).tensor(&[3, 4], -1.0, 1.0);
        let at = Tensor::new(&[2, 4], vec![0i64, 2, 2, -1, 0, 1, 2, 0]);
        check_gradient(GatherElements { axis: 0 }, &[&x, &at], 1, &[0]);
    }
}
