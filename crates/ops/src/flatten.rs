//! `Flatten` (ONNX 1, 9, 11, 13, 21): a matrix of the sizes before an axis times those from it on.

use crate::reshape::{reshape_as, view};
use ir::{Attrs, Dim, Infer, Lower, Op, Parse, Parsed, QuantRole, Step, Type, Vjp};

/// `Flatten(x)`, for any element type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flatten {
    /// First axis of the columns, from `-rank` to `rank`.
    pub axis: i64,
}

impl Default for Flatten {
    fn default() -> Flatten {
        Flatten { axis: 1 }
    }
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    Ok(Flatten { axis: cx.attrs.int("axis", 1)? }.into())
}

/// The product of sizes: of one size, itself; unknown where one is not known.
fn product(dims: &[Dim]) -> Result<Dim, String> {
    let mut named = None;
    let mut known = 1usize;
    for d in dims {
        match d.fixed() {
            Some(n) => known = known.checked_mul(n).ok_or("the operand is too large")?,
            None if named.is_none() => named = Some(d),
            None => return Ok(Dim::Unknown),
        }
    }
    Ok(match named {
        None => Dim::Fixed(known),
        Some(d) if known == 1 => d.clone(),
        Some(_) => Dim::Unknown,
    })
}

impl Op for Flatten {
    fn name(&self) -> &str {
        "Flatten"
    }

    fn attrs(&self) -> Attrs {
        Attrs::new().with_int("axis", self.axis, 1)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let x = cx.ty(0)?;
        let Some(dims) = &x.shape else {
            return Ok(vec![Type { dtype: x.dtype, shape: Some(crate::shapes::unknown(2)) }]);
        };
        let rank = dims.len();
        let axis = if self.axis == rank as i64 { rank } else { crate::shapes::axis(self.axis, rank)? };
        let shape = Some(vec![product(&dims[..axis])?, product(&dims[axis..])?]);
        Ok(vec![Type { dtype: x.dtype, shape }])
    }

    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        let d = reshape_as(cx, cx.d_output(0)?, cx.input(0)?)?;
        cx.set(0, d);
        Some(())
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        view(cx)
    }

    fn quant(&self) -> QuantRole {
        QuantRole::SameScale
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{Draw, check_gradient, eval};
    use ir::Arg;
    use tensor::{DType, Tensor};

    #[test]
    fn shapes() {
        let x = Tensor::zeros(DType::F32, &[2, 3, 4]);
        let shape = |axis| eval(&Flatten { axis }, &[&x]).map(|t| t.shape().to_vec());
        assert_eq!(shape(1).unwrap(), [2, 12]);
        assert_eq!(shape(0).unwrap(), [1, 24]);
        assert_eq!(shape(3).unwrap(), [24, 1]);
        assert_eq!(shape(-1).unwrap(), [6, 4]);
        assert!(shape(4).unwrap_err().contains("axis 4"));
        let ty = Type::new(DType::F32, [Dim::sym("N"), 3.into(), 4.into()]);
        let args = [Some(Arg { ty: &ty, value: None })];
        assert_eq!(Flatten::default().infer(&Infer::new(&args, 1)).unwrap()[0].to_string(), "float[N,12]");
    }

    #[test]
    fn gradient() {
        check_gradient(Flatten::default(), &[&Draw::new(1).tensor(&[2, 3, 2, 2], -1.0, 1.0)], 1, &[0]);
    }
}
