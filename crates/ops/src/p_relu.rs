//! `PRelu` (ONNX 7, 9, 16): a leaky rectifier with learned slopes (He et al. 2015, arXiv 1502.01852).

use crate::binary;
use crate::shapes::{broadcast, same_dtype};
use ir::{Infer, Layouts, Lower, Op, Parse, Parsed, Step, Type, Vjp};
use kernels::elementwise::Binary;

/// `PRelu(x, slope)`: `x` above 0, else `slope x`. `slope` broadcasts to `x`; both f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PRelu;

/// Reads the operator: it has no attributes.
pub fn parse(_: &Parse) -> Result<Parsed, String> {
    Ok(PRelu.into())
}

impl Op for PRelu {
    fn name(&self) -> &str {
        "PRelu"
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let (x, slope) = (cx.ty(0)?, cx.ty(1)?);
        same_dtype(x, slope)?;
        let full = Type { dtype: x.dtype, shape: broadcast(x, slope)? };
        if !full.agrees(x) {
            return Err(format!("the slope {slope} does not broadcast to {x}"));
        }
        Ok(vec![x.clone()])
    }

    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        binary::vjp(Binary::PRelu, cx)
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        cx.typed::<f32>(0)?;
        binary::lower(Binary::PRelu, cx)
    }

    fn layouts(&self) -> Layouts {
        Layouts::Any
    }

    fn params(&self) -> &'static [usize] {
        &[1]
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{Draw, check_gradient, eval};
    use tensor::Tensor;

    #[test]
    fn slopes_per_channel() {
        let x = Tensor::new(&[1, 2, 2], vec![-1.0f32, 2.0, -3.0, 4.0]);
        let slope = Tensor::new(&[2, 1], vec![0.5f32, 10.0]);
        assert_eq!(eval(&PRelu, &[&x, &slope]).unwrap().to_f32(), [-0.5, 2.0, -30.0, 4.0]);
        let wide = Tensor::new(&[3, 1, 1], vec![1.0f32; 3]);
        assert!(eval(&PRelu, &[&x, &wide]).unwrap_err().contains("does not broadcast"));
    }

    #[test]
    fn gradient() {
        let mut draw = Draw::new(5);
        for slope in [&[3, 1, 1][..], &[1, 3, 1, 1], &[], &[2, 3, 4, 2]] {
            let x = draw.tensor_off(&[2, 3, 4, 2], -2.0, 2.0, &[0.0], 0.02);
            check_gradient(PRelu, &[&x, &draw.tensor(slope, 0.0, 0.5)], 1, &[0, 1]);
        }
    }
}
