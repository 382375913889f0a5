//! `GlobalAveragePool` (ONNX 1, 22): the mean over all spatial axes; and its gradient `qat.GlobalAveragePoolGrad`.

use crate::average_pool::input_type;
use ir::{Attrs, Dim, Infer, Io, Layouts, Lower, Op, Parse, Parsed, QuantRole, Step, Type, Vjp};
use kernels::pool;

/// `GlobalAveragePool(x)`: f32 `(N, C, spatial...)` to `(N, C, 1...)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GlobalAveragePool;

/// Reads the operator.
pub fn parse(_cx: &Parse) -> Result<Parsed, String> {
    Ok(GlobalAveragePool.into())
}

/// The type of one value per channel of `x`.
pub(crate) fn per_channel(x: &Type) -> Result<Type, String> {
    let Some(shape) = &x.shape else { return Ok(x.clone()) };
    if shape.len() < 3 {
        return Err(format!("{x} has no spatial axis"));
    }
    let ones = std::iter::repeat_n(Dim::Fixed(1), shape.len() - 2);
    Ok(Type { dtype: x.dtype, shape: Some(shape.iter().take(2).cloned().chain(ones).collect()) })
}

/// Positions and channels of an image.
pub(crate) fn image(shape: &[usize]) -> Result<(usize, usize), String> {
    match shape {
        [_, channels, spatial @ ..] if !spatial.is_empty() && *channels > 0 && !spatial.contains(&0) => {
            Ok((spatial.iter().product(), *channels))
        }
        _ => Err(format!("images of shape {shape:?} are empty")),
    }
}

impl Op for GlobalAveragePool {
    fn name(&self) -> &str {
        "GlobalAveragePool"
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        Ok(vec![per_channel(cx.float(0)?)?])
    }

    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        let (x, dy) = (cx.input(0)?, cx.d_output(0)?);
        let input = cx.dims(x)?[2..].to_vec();
        let dx = cx.add(GlobalAveragePoolGrad { input }, &[dy])?;
        cx.set(0, dx);
        Some(())
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let (positions, channels) = image(&cx.typed::<f32>(0)?.shape)?;
        Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            pool::global_average(parts.input(0), positions, channels, parts.output(0));
            Ok(())
        }))
    }

    fn quant(&self) -> QuantRole {
        QuantRole::Rescaling
    }

    fn layouts(&self) -> Layouts {
        Layouts::ChannelsLast { ins: 1, outs: 1 }
    }
}

/// `GlobalAveragePoolGrad(dy)`: the gradient of [`GlobalAveragePool`], `(N, C, input...)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GlobalAveragePoolGrad {
    /// Spatial sizes of its input.
    pub input: Vec<usize>,
}

/// Reads the gradient.
pub fn parse_grad(cx: &Parse) -> Result<Parsed, String> {
    Ok(GlobalAveragePoolGrad { input: cx.attrs.sizes("input_size")?.ok_or("input_size is missing")? }.into())
}

impl Op for GlobalAveragePoolGrad {
    fn name(&self) -> &str {
        "GlobalAveragePoolGrad"
    }

    fn domain(&self) -> &str {
        "qat"
    }

    fn attrs(&self) -> Attrs {
        Attrs::new().with_sizes("input_size", &self.input, &[])
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let dy = cx.float(0)?;
        let x = input_type(dy, &self.input);
        crate::shapes::gradient_of(dy, &per_channel(&x)?)?;
        Ok(vec![x])
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        cx.typed::<f32>(0)?;
        let (positions, channels) = image(&cx.outs[0].shape)?;
        Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            pool::global_average_grad(parts.input(0), positions, channels, parts.output(0));
            Ok(())
        }))
    }

    fn layouts(&self) -> Layouts {
        Layouts::ChannelsLast { ins: 1, outs: 1 }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{Draw, check_gradient, run};
    use tensor::Tensor;

    #[test]
    fn means_over_the_image() {
        let x = Tensor::new(&[1, 2, 2, 2], (0..8).map(|i| i as f32).collect());
        let y = run(&GlobalAveragePool, &[Some(&x)], 1).unwrap();
        assert_eq!(y[0], Tensor::new(&[1, 2, 1, 1], vec![1.5f32, 5.5]));
        let flat = Tensor::new(&[2, 2], vec![0f32; 4]);
        assert_eq!(run(&GlobalAveragePool, &[Some(&flat)], 1).unwrap_err(), "float[2,2] has no spatial axis");
    }

    #[test]
    fn gradients_against_differences() {
        let mut draw = Draw::new(8);
        for shape in [vec![2, 3, 4, 5], vec![3, 2, 4], vec![1, 2, 2, 2, 2]] {
            check_gradient(GlobalAveragePool, &[&draw.tensor(&shape, -1.0, 1.0)], 1, &[0]);
        }
    }
}
