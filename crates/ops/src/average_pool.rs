//! `AveragePool` (ONNX 1, 7, 10, 11, 19, 22): the mean of each window; and its gradient `qat.AveragePoolGrad`.
//!
//! Opset 7 added `count_include_pad`, 10 `ceil_mode`, 19 dilations. The kernels take one and two spatial axes; more are
//! spelled out.

use crate::max_pool::{plan, pooled};
use crate::shapes::products;
use crate::volume;
use crate::window::Window;
use ir::{
    Attrs, Compose, Dim, Infer, Io, Layouts, Lower, Op, Parse, Parsed, QuantRole, Step, Type, ValueId, Vjp,
};
use kernels::pool;
use std::sync::Arc;

/// `AveragePool(x)`: `x` f32 `(N, C, spatial...)`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AveragePool {
    /// Kernel size, strides, dilations, padding.
    pub window: Window,
    /// The last window may reach beyond the padded input.
    pub ceil: bool,
    /// Padding counts as zeros; without, the mean is over what a window sees of the input.
    pub include_pad: bool,
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    Ok(AveragePool::from_attrs(cx.attrs)?.into())
}

impl AveragePool {
    pub(crate) fn from_attrs(attrs: &Attrs) -> Result<AveragePool, String> {
        Ok(AveragePool {
            window: Window::parse(attrs)?.with_kernel()?,
            ceil: attrs.int("ceil_mode", 0)? != 0,
            include_pad: attrs.int("count_include_pad", 0)? != 0,
        })
    }
}

impl Op for AveragePool {
    fn name(&self) -> &str {
        "AveragePool"
    }

    fn attrs(&self) -> Attrs {
        self.window.attrs(Attrs::new()).with_int("ceil_mode", self.ceil.into(), 0).with_int(
            "count_include_pad",
            self.include_pad.into(),
            0,
        )
    }

    fn to_onnx(&self, opset: i64) -> Result<ir::OnnxForm, String> {
        if opset < 19 && self.window.dilations.iter().any(|&d| d != 1) {
            return Err(format!("AveragePool has dilations from opset 19 on, not in {opset}"));
        }
        Ok(ir::OnnxForm { op_type: self.name().into(), attrs: self.attrs(), ..ir::OnnxForm::default() })
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        Ok(vec![pooled(cx.float(0)?, &self.window, self.ceil)?])
    }

    fn compose(&self, cx: &mut Compose) -> Option<Vec<ValueId>> {
        volume::pool(cx, &self.window, |window| Arc::new(AveragePool { window, ..self.clone() }))
    }

    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        let (x, dy) = (cx.input(0)?, cx.d_output(0)?);
        let input = cx.dims(x)?[2..].to_vec();
        let dx = cx.add(AveragePoolGrad { pool: self.clone(), input }, &[dy])?;
        cx.set(0, dx);
        Some(())
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let plan = plan(&cx.typed::<f32>(0)?.shape, &self.window, self.ceil)?;
        let include_pad = self.include_pad;
        Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            pool::average(&plan, include_pad, parts.input(0), parts.output(0));
            Ok(())
        }))
    }

    fn flops(&self, cx: &Lower) -> Option<u64> {
        products(cx.outs[0].len(), self.window.kernel.iter().product())
    }

    fn quant(&self) -> QuantRole {
        QuantRole::Rescaling
    }

    fn layouts(&self) -> Layouts {
        Layouts::ChannelsLast { ins: 1, outs: 1 }
    }
}

/// `AveragePoolGrad(dy)`: the gradient of [`AveragePool`], `(N, C, input...)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AveragePoolGrad {
    /// The pool.
    pub pool: AveragePool,
    /// Spatial sizes of its input.
    pub input: Vec<usize>,
}

/// Reads the gradient.
pub fn parse_grad(cx: &Parse) -> Result<Parsed, String> {
    let input = cx.attrs.sizes("input_size")?.ok_or("input_size is missing")?;
    Ok(AveragePoolGrad { pool: AveragePool::from_attrs(cx.attrs)?, input }.into())
}

/// The type of an input with these spatial sizes whose result has gradient `dy`.
pub(crate) fn input_type(dy: &Type, input: &[usize]) -> Type {
    let shape =
        dy.shape.as_ref().map(|s| s.iter().take(2).cloned().chain(input.iter().map(|&n| Dim::Fixed(n))));
    Type { dtype: dy.dtype, shape: shape.map(Iterator::collect) }
}

impl Op for AveragePoolGrad {
    fn name(&self) -> &str {
        "AveragePoolGrad"
    }

    fn domain(&self) -> &str {
        "qat"
    }

    fn attrs(&self) -> Attrs {
        self.pool.attrs().with_sizes("input_size", &self.input, &[])
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let dy = cx.float(0)?;
        let x = input_type(dy, &self.input);
        crate::shapes::gradient_of(dy, &pooled(&x, &self.pool.window, self.pool.ceil)?)?;
        Ok(vec![x])
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        cx.typed::<f32>(0)?;
        let plan = plan(&cx.outs[0].shape, &self.pool.window, self.pool.ceil)?;
        let include_pad = self.pool.include_pad;
        Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            pool::average_grad(&plan, include_pad, parts.input(0), parts.output(0));
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
    fn means_with_and_without_padding() {
        let x = Tensor::new(&[1, 1, 4], vec![1.0f32, 2.0, 4.0, 8.0]);
        let mean = |ceil, pad, include_pad| {
            let op = AveragePool { window: Window::new(&[3], 2, pad), ceil, include_pad };
            run(&op, &[Some(&x)], 1).unwrap()[0].to_f32()
        };
        assert_eq!(mean(false, 1, false), [1.5, 14.0 / 3.0]);
        assert_eq!(mean(false, 1, true), [1.0, 14.0 / 3.0]);
        assert_eq!(mean(true, 0, true), [7.0 / 3.0, 6.0]);
    }

    #[test]
    fn gradients_against_differences() {
        let mut draw = Draw::new(6);
        for include_pad in [false, true] {
            for (shape, kernel, stride, pad, ceil) in [
                (vec![2, 3, 5, 6], vec![3, 3], 2, 1, false),
                (vec![1, 2, 5, 5], vec![2, 2], 2, 0, true),
                (vec![2, 2, 7], vec![3], 1, 1, false),
            ] {
                let op = AveragePool { window: Window::new(&kernel, stride, pad), ceil, include_pad };
                check_gradient(op, &[&draw.tensor(&shape, -1.0, 1.0)], 1, &[0]);
            }
        }
    }

    #[test]
    fn dilations_are_young() {
        let window = Window { dilations: vec![2], ..Window::new(&[2], 1, 0) };
        let op = AveragePool { window, ..AveragePool::default() };
        assert!(op.to_onnx(17).is_err() && op.to_onnx(19).is_ok());
        assert_eq!(AveragePool::from_attrs(&op.attrs()).unwrap().attrs(), op.attrs());
        let x = Tensor::new(&[1, 1, 3], vec![1.0f32, 2.0, 4.0]);
        assert_eq!(run(&op, &[Some(&x)], 1).unwrap()[0].to_f32(), [2.5]);
    }
}
