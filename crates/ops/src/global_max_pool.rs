//! `GlobalMaxPool` (ONNX 1, 22): the maximum over all spatial axes; and its gradient `qat.GlobalMaxPoolGrad`.

use crate::global_average_pool::{image, per_channel};
use crate::max_pool::max_grad_step;
use crate::shapes::gradient_of;
use ir::{Infer, Io, Layouts, Lower, Op, Parse, Parsed, QuantRole, Step, Type, Vjp};
use kernels::pool::{self, Axis, Pool, Rounding, Window};

/// `GlobalMaxPool(x)`: f32 `(N, C, spatial...)` to `(N, C, 1...)`. Of equal values the first counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GlobalMaxPool;

/// Reads the operator.
pub fn parse(_cx: &Parse) -> Result<Parsed, String> {
    Ok(GlobalMaxPool.into())
}

/// One window over the whole image, seen as a row.
fn plan(shape: &[usize]) -> Result<Pool, String> {
    let (positions, channels) = image(shape)?;
    let axis = Axis::new(positions, positions, 1, 1, 0, 0, Rounding::Floor)?;
    Pool::new(shape[0], channels, Window::flat(axis))
}

impl Op for GlobalMaxPool {
    fn name(&self) -> &str {
        "GlobalMaxPool"
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        Ok(vec![per_channel(cx.float(0)?)?])
    }

    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        let (x, dy) = (cx.input(0)?, cx.d_output(0)?);
        let dx = cx.add(GlobalMaxPoolGrad, &[dy, x])?;
        cx.set(0, dx);
        Some(())
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let plan = plan(&cx.typed::<f32>(0)?.shape)?;
        let step = Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let argmax = parts.workspace::<i32>();
            pool::max(&plan, parts.input(0), parts.output(0), argmax);
            Ok(())
        });
        Ok(step.workspace::<i32>(plan.output_len()))
    }

    fn quant(&self) -> QuantRole {
        QuantRole::SameScale
    }

    fn layouts(&self) -> Layouts {
        Layouts::ChannelsLast { ins: 1, outs: 1 }
    }
}

/// `GlobalMaxPoolGrad(dy, x)`: the gradient of [`GlobalMaxPool`], to the first maximum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GlobalMaxPoolGrad;

/// Reads the gradient.
pub fn parse_grad(_cx: &Parse) -> Result<Parsed, String> {
    Ok(GlobalMaxPoolGrad.into())
}

impl Op for GlobalMaxPoolGrad {
    fn name(&self) -> &str {
        "GlobalMaxPoolGrad"
    }

    fn domain(&self) -> &str {
        "qat"
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let (dy, x) = (cx.float(0)?, cx.float(1)?);
        gradient_of(dy, &per_channel(x)?)?;
        Ok(vec![x.clone()])
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        Ok(max_grad_step(plan(&cx.typed::<f32>(1)?.shape)?, cx.typed::<f32>(0)?))
    }

    fn layouts(&self) -> Layouts {
        Layouts::ChannelsLast { ins: 0b11, outs: 1 }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{Draw, check_gradient, run};
    use tensor::Tensor;

    #[test]
    fn the_maximum_of_the_image() {
        let x = Tensor::new(&[1, 2, 2, 2], vec![1.0f32, 4.0, 3.0, 2.0, -1.0, -4.0, -3.0, -2.0]);
        let y = run(&GlobalMaxPool, &[Some(&x)], 1).unwrap();
        assert_eq!(y[0], Tensor::new(&[1, 2, 1, 1], vec![4.0f32, -1.0]));
    }

    #[test]
    fn gradients_against_differences() {
        let mut draw = Draw::new(9);
        for shape in [vec![2, 3, 4, 5], vec![3, 2, 4], vec![1, 2, 2, 2, 2]] {
            check_gradient(GlobalMaxPool, &[&draw.distinct(&shape)], 1, &[0]);
        }
    }
}
