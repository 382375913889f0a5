//! `LogSoftmax` (ONNX 1, 11, 13), and `qat.LogSoftmaxGrad`, its gradient. Axes as of `Softmax`.

use crate::softmax::{along, attrs, infer, infer_grad, layouts, lower, settled, to_onnx};
use ir::{Attrs, Infer, Layouts, Lower, OnnxForm, Op, Parse, Parsed, Step, Type, Vjp};
use std::sync::Arc;

/// `LogSoftmax(x)`: `x - log(sum of e^x)` along an axis. f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSoftmax {
    /// The axis; negative counts from the end.
    pub axis: i64,
    /// Along all axes from `axis` on, as before opset 13.
    pub flatten: bool,
}

impl Default for LogSoftmax {
    fn default() -> LogSoftmax {
        LogSoftmax { axis: -1, flatten: false }
    }
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    let (axis, flatten) = along(cx)?;
    Ok(LogSoftmax { axis, flatten }.into())
}

impl Op for LogSoftmax {
    fn name(&self) -> &str {
        "LogSoftmax"
    }

    fn attrs(&self) -> Attrs {
        attrs(self.axis, self.flatten)
    }

    fn to_onnx(&self, _opset: i64) -> Result<OnnxForm, String> {
        to_onnx(self, self.flatten)
    }

    fn settled(&self, cx: &Infer) -> Option<Arc<dyn Op>> {
        Some(Arc::new(LogSoftmax { axis: settled(cx, self.axis, self.flatten)?, flatten: false }))
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        infer(cx, self.axis, self.flatten)
    }

    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        let grad = LogSoftmaxGrad { axis: self.axis, flatten: self.flatten };
        let dx = cx.add(grad, &[cx.d_output(0)?, cx.output(0)])?;
        cx.set(0, dx);
        Some(())
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        lower(cx, self.axis, self.flatten, 1, |[x, _], classes, y| {
            kernels::softmax::log_softmax(x, classes, y)
        })
    }

    fn layouts(&self) -> Layouts {
        layouts(self.flatten, 1)
    }
}

/// `LogSoftmaxGrad(dy, y)`: the gradient of [`LogSoftmax`] from its result, `dx = dy - e^y sum of dy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSoftmaxGrad {
    /// As of [`LogSoftmax`].
    pub axis: i64,
    /// As of [`LogSoftmax`].
    pub flatten: bool,
}

/// Reads the gradient.
pub fn parse_grad(cx: &Parse) -> Result<Parsed, String> {
    let (axis, flatten) = along(&Parse { opset: 13, ..*cx })?;
    Ok(LogSoftmaxGrad { axis, flatten }.into())
}

impl Op for LogSoftmaxGrad {
    fn name(&self) -> &str {
        "LogSoftmaxGrad"
    }

    fn domain(&self) -> &str {
        "qat"
    }

    fn attrs(&self) -> Attrs {
        attrs(self.axis, self.flatten)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        infer_grad(cx, self.axis, self.flatten)
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let grad = |[dy, y]: [&[f32]; 2], classes, dx: &mut [f32]| {
            kernels::softmax::log_softmax_grad(y, dy, classes, dx);
        };
        lower(cx, self.axis, self.flatten, 2, grad)
    }

    fn layouts(&self) -> Layouts {
        layouts(self.flatten, 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_gradients() {
        crate::softmax::testing::check(|axis, flatten| LogSoftmax { axis, flatten }, |x, sum| x - sum.ln());
    }
}
