//! `BatchNormalization` (ONNX 7, 9, 14, 15; Ioffe and Szegedy 2015), for inference and for training; and
//! `qat.BatchStatistics` and `qat.BatchNormalizationGrad`, its gradient.
//!
//! Opset 14 made training an attribute; before, a node with more than one output was in training mode, and it had two
//! outputs more, for the statistics of the batch. Opset 9 dropped `spatial`.

use ir::{
    Attrs, Dim, Infer, Io, Layout, Layouts, Lower, Op, Operand, Parse, Parsed, QuantRole, Step, Type, Vjp,
};
use kernels::batch_norm::{self, Shape, Statistics};
use std::sync::Arc;

/// `BatchNormalization(x, scale, bias, mean, variance)`, the parameters `(C)`, f32.
///
/// Inference: `y = (x - mean) / sqrt(variance + epsilon) * scale + bias`. Training: the same with mean and variance of
/// the batch, and results 1 and 2 are the running statistics, `momentum * old + (1 - momentum) * batch`, with the
/// variance of the population. In training there may be two results more, the batch's mean and its
/// `1 / sqrt(variance + epsilon)`: the gradient reads them where they are, and computes them anew where not.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchNormalization {
    /// Added to the variance.
    pub epsilon: f32,
    /// How much of a running statistic stays.
    pub momentum: f32,
    /// Normalizes with the statistics of the batch.
    pub training: bool,
}

impl Default for BatchNormalization {
    fn default() -> BatchNormalization {
        BatchNormalization { epsilon: 1e-5, momentum: 0.9, training: false }
    }
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    if cx.opset < 7 {
        return Err(format!("BatchNormalization of opset {}; opset 7 is the oldest that is read", cx.opset));
    }
    if cx.opset < 9 && cx.attrs.int("spatial", 1)? == 0 {
        return Err("spatial = 0 (statistics per position) is not supported; opset 9 dropped it".into());
    }
    let default = BatchNormalization::default();
    let training = if cx.opset < 14 { cx.outs > 1 } else { cx.attrs.int("training_mode", 0)? != 0 };
    Ok(BatchNormalization {
        epsilon: cx.attrs.float("epsilon", default.epsilon)?,
        momentum: cx.attrs.float("momentum", default.momentum)?,
        training,
    }
    .into())
}

/// The channel dimension of an activation.
pub(crate) fn channels(x: &Type) -> Result<Dim, String> {
    match &x.shape {
        None => Ok(Dim::Unknown),
        Some(shape) => shape.get(1).cloned().ok_or_else(|| format!("{x} has no channel axis")),
    }
}

/// Checks that these operands have one element per channel, and tells the number of channels, which may be known from them
/// alone.
pub(crate) fn check_parameters(
    cx: &Infer,
    operands: std::ops::Range<usize>,
    mut channels: Dim,
) -> Result<Dim, String> {
    for i in operands {
        let ty = cx.float(i)?;
        match ty.shape.as_deref() {
            None => {}
            Some([d]) if d.agrees(&channels) => {
                channels = if d.fixed().is_some() { d.clone() } else { channels }
            }
            Some(_) => {
                let problem = "should have one element for each of the";
                return Err(format!("input {i} {problem} {channels} channels, but is {ty}"));
            }
        }
    }
    Ok(channels)
}

/// The activation as the kernels see it, in either layout.
pub(crate) fn shape(x: &Operand) -> Result<Shape, String> {
    let [batch, channels, ref spatial @ ..] = x.shape[..] else {
        return Err(format!("an operand of shape {:?} has no channel axis", x.shape));
    };
    let spatial = spatial.iter().product();
    Ok(match x.layout {
        Layout::Plain => Shape { batch, channels, spatial },
        Layout::ChannelsLast => Shape::channels_last(batch * spatial, channels),
    })
}

impl Op for BatchNormalization {
    fn name(&self) -> &str {
        "BatchNormalization"
    }

    fn attrs(&self) -> Attrs {
        let default = BatchNormalization::default();
        Attrs::new()
            .with_float("epsilon", self.epsilon, default.epsilon)
            .with_float("momentum", self.momentum, default.momentum)
            .with_int("training_mode", self.training.into(), 0)
    }

    fn to_onnx(&self, opset: i64) -> Result<ir::OnnxForm, String> {
        let attrs =
            if opset < 14 { BatchNormalization { training: false, ..*self }.attrs() } else { self.attrs() };
        // The statistics of the batch are results of ours; opset 14 dropped ONNX's own two.
        let outs = Some(if !self.training {
            1
        } else if opset < 14 {
            5
        } else {
            3
        });
        // There, a node with one result is in inference mode.
        let fewest = if self.training && opset < 14 { 2 } else { 1 };
        Ok(ir::OnnxForm { op_type: self.name().into(), attrs, outs, fewest, ..ir::OnnxForm::default() })
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let x = cx.float(0)?;
        let channels = check_parameters(cx, 1..5, channels(x)?)?;
        if !self.training {
            return Ok(vec![x.clone()]);
        }
        let statistic = cx.ty(3)?.refined(&Type { dtype: x.dtype, shape: Some(vec![channels]) });
        Ok([x.clone()].into_iter().chain(vec![statistic; 4]).collect())
    }

    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        let (x, scale, dy) = (cx.input(0)?, cx.input(1)?, cx.d_output(0)?);
        let of_statistics = !self.training && (cx.wants(3) || cx.wants(4));
        if of_statistics || (1..5).any(|i| cx.d_output(i).is_some()) {
            return None;
        }
        let epsilon = self.epsilon;
        let (mean, spread) = match (self.training, cx.outs()) {
            (false, _) => (cx.input(3)?, cx.input(4)?),
            (true, 5..) => (cx.output(3), cx.output(4)),
            (true, _) => {
                let saved = cx.add_multi(Arc::new(BatchStatistics { epsilon }), &[Some(x)], 2)?;
                (saved[0], saved[1])
            }
        };
        let op = BatchNormalizationGrad { epsilon, training: self.training };
        let ins = [dy, x, scale, mean, spread].map(Some);
        let grads = cx.add_multi(Arc::new(op), &ins, 3)?;
        for (i, &gradient) in grads.iter().enumerate().filter(|(i, _)| cx.wants(*i)).collect::<Vec<_>>() {
            cx.set(i, gradient);
        }
        Some(())
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        (1..5).try_for_each(|i| cx.typed::<f32>(i).map(|_| ()))?;
        let shape = shape(cx.typed::<f32>(0)?)?;
        let BatchNormalization { epsilon, momentum, training } = *self;
        let c = shape.channels;
        if !training {
            let step = Step::new(move |io: &mut Io| {
                let mut parts = io.split();
                let (a, b) = parts.workspace::<f32>().split_at_mut(c);
                let [gamma, beta, mean, variance] = [1, 2, 3, 4].map(|i| parts.input(i));
                batch_norm::inference_affine(gamma, beta, mean, variance, epsilon, a, b);
                batch_norm::affine(shape, parts.input(0), a, b, parts.output(0));
                Ok(())
            });
            return Ok(step.workspace::<f32>(2 * c));
        }
        if shape.count() == 0 {
            return Err("a batch without elements has no statistics".into());
        }
        let asked = cx.outs.len();
        let step = Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let (own, workspace) = parts.workspace::<f32>().split_at_mut(3 * c);
            let (mean, rest) = own.split_at_mut(c);
            let (variance, inv_std) = rest.split_at_mut(c);
            let mean = if asked > 3 { parts.output(3) } else { mean };
            let inv_std = if asked > 4 { parts.output(4) } else { inv_std };
            let stats = Statistics { mean: &mut *mean, variance: &mut *variance, inv_std };
            let [x, gamma, beta] = [0, 1, 2].map(|i| parts.input(i));
            batch_norm::forward_training(shape, x, gamma, beta, epsilon, parts.output(0), stats, workspace);
            if asked > 1 {
                batch_norm::update_running(momentum, parts.input(3), mean, parts.output(1));
            }
            if asked > 2 {
                batch_norm::update_running(momentum, parts.input(4), variance, parts.output(2));
            }
            Ok(())
        });
        Ok(step.workspace::<f32>(3 * c + shape.workspace()))
    }

    fn quant(&self) -> QuantRole {
        QuantRole::Folded
    }

    fn layouts(&self) -> Layouts {
        Layouts::Same { ins: 1, outs: 1 }
    }

    fn params(&self) -> &'static [usize] {
        &[1, 2]
    }
}

/// `BatchStatistics(x)`: mean and `1 / sqrt(variance + epsilon)` of each channel of the batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchStatistics {
    /// Added to the variance.
    pub epsilon: f32,
}

/// Reads the statistics.
pub fn parse_statistics(cx: &Parse) -> Result<Parsed, String> {
    if cx.outs != 2 {
        return Err(format!("there are 2 results, not {}", cx.outs));
    }
    Ok(BatchStatistics { epsilon: cx.attrs.float("epsilon", 1e-5)? }.into())
}

impl Op for BatchStatistics {
    fn name(&self) -> &str {
        "BatchStatistics"
    }

    fn domain(&self) -> &str {
        "qat"
    }

    fn attrs(&self) -> Attrs {
        Attrs::new().with_float("epsilon", self.epsilon, 1e-5)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let x = cx.float(0)?;
        Ok(vec![Type { dtype: x.dtype, shape: Some(vec![channels(x)?]) }; 2])
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let shape = shape(cx.typed::<f32>(0)?)?;
        let epsilon = self.epsilon;
        let step = Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let (variance, workspace) = parts.workspace::<f32>().split_at_mut(shape.channels);
            let (mean, inv_std) = (parts.output(0), parts.output(1));
            batch_norm::statistics(shape, parts.input(0), epsilon, mean, variance, inv_std, workspace);
            Ok(())
        });
        Ok(step.workspace::<f32>(shape.channels + shape.workspace()))
    }

    fn layouts(&self) -> Layouts {
        Layouts::Same { ins: 1, outs: 0 }
    }
}

/// `BatchNormalizationGrad(dy, x, scale, mean, spread)` gives the gradients of `x`, `scale` and `bias`. In training,
/// mean and spread are those of the batch, the spread being `1 / sqrt(variance + epsilon)`, and gradients flow through
/// them; otherwise they are the running mean and variance, which are constants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchNormalizationGrad {
    /// Added to the variance.
    pub epsilon: f32,
    /// Whether the forward pass was in training mode.
    pub training: bool,
}

/// Reads the gradient.
pub fn parse_grad(cx: &Parse) -> Result<Parsed, String> {
    let (epsilon, training) = (cx.attrs.float("epsilon", 1e-5)?, cx.attrs.int("training_mode", 0)? != 0);
    Ok(BatchNormalizationGrad { epsilon, training }.into())
}

impl Op for BatchNormalizationGrad {
    fn name(&self) -> &str {
        "BatchNormalizationGrad"
    }

    fn domain(&self) -> &str {
        "qat"
    }

    fn attrs(&self) -> Attrs {
        Attrs::new().with_float("epsilon", self.epsilon, 1e-5).with_int(
            "training_mode",
            self.training.into(),
            0,
        )
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let (dy, x) = (cx.float(0)?, cx.float(1)?);
        crate::shapes::gradient_of(dy, x)?;
        check_parameters(cx, 2..5, channels(x)?)?;
        Ok(vec![x.clone(), cx.ty(2)?.clone(), cx.ty(2)?.clone()])
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        (0..5).try_for_each(|i| cx.typed::<f32>(i).map(|_| ()))?;
        let shape = shape(cx.input(1)?)?;
        let BatchNormalizationGrad { epsilon, training } = *self;
        let step = Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let (inv_std, workspace) = parts.workspace::<f32>().split_at_mut(shape.channels);
            let [dy, x, gamma, mean, spread] = [0, 1, 2, 3, 4].map(|i| parts.input(i));
            let (dx, dgamma, dbeta) = (parts.output(0), parts.output(1), parts.output(2));
            if training {
                batch_norm::grad_parameters(shape, x, dy, mean, spread, dgamma, dbeta, workspace);
                batch_norm::grad_input(shape, x, dy, gamma, mean, spread, dgamma, dbeta, dx, workspace);
            } else {
                batch_norm::inverse_std(spread, epsilon, inv_std);
                batch_norm::grad_parameters(shape, x, dy, mean, inv_std, dgamma, dbeta, workspace);
                batch_norm::grad_input_frozen(shape, dy, gamma, inv_std, dx, workspace);
            }
            Ok(())
        });
        Ok(step.workspace::<f32>(shape.channels + shape.workspace()))
    }

    fn layouts(&self) -> Layouts {
        Layouts::Same { ins: 0b11, outs: 1 }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{Draw, Tolerance, check_gradient_within, run};
    use ir::Registry;
    use tensor::Tensor;

    fn vector(values: &[f32]) -> Tensor {
        Tensor::new(&[values.len()], values.to_vec())
    }

    #[test]
    fn inference_is_affine_per_channel() {
        let x = Tensor::new(&[1, 2, 2], vec![1.0f32, 2.0, 3.0, 4.0]);
        let ins = [x, vector(&[2.0, 1.0]), vector(&[0.5, 0.0]), vector(&[1.0, 3.0]), vector(&[3.75, 0.75])];
        let op = BatchNormalization { epsilon: 0.25, ..BatchNormalization::default() };
        let y = run(&op, &ins.each_ref().map(Some), 1).unwrap();
        assert_eq!(y[0].to_f32(), [0.5, 1.5, 0.0, 1.0]);
    }

    #[test]
    fn training_normalizes_the_batch_and_tracks_it() {
        let x = Tensor::new(&[2, 1, 2], vec![1.0f32, 3.0, 5.0, 7.0]);
        let ins = [x, vector(&[2.0]), vector(&[1.0]), vector(&[8.0]), vector(&[1.0])];
        let op = BatchNormalization { epsilon: 4.0, momentum: 0.5, training: true };
        for outs in 1..=5 {
            let y = run(&op, &ins.each_ref().map(Some), outs).unwrap();
            assert_eq!(y.len(), outs);
            let want =
                [vec![-1.0, 1.0 / 3.0, 5.0 / 3.0, 3.0], vec![6.0], vec![3.0], vec![4.0], vec![1.0 / 3.0]];
            for (y, want) in y.iter().zip(want) {
                assert!(
                    y.to_f64().iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-6),
                    "{y:?} against {want:?}"
                );
            }
        }
    }

    #[test]
    fn gradients_against_differences() {
        let mut draw = Draw::new(7);
        for shape in [vec![4, 3, 2, 3], vec![5, 2, 4], vec![6, 3]] {
            let c = shape[1];
            let ins = [
                draw.tensor(&shape, -2.0, 2.0),
                draw.tensor(&[c], 0.5, 1.5),
                draw.tensor(&[c], -1.0, 1.0),
                draw.tensor(&[c], -0.5, 0.5),
                draw.tensor(&[c], 0.5, 1.5),
            ];
            for training in [false, true] {
                // Results 1 and 2 do not depend on the loss, and the batch's statistics are only saved.
                let op = Arc::new(BatchNormalization { training, ..BatchNormalization::default() });
                let tolerance = Tolerance { relative: 1e-2, ..Tolerance::default() };
                check_gradient_within(op, &ins.each_ref().map(Some), 1, &[0, 1, 2], tolerance);
            }
        }
    }

    #[test]
    fn old_training_nodes_are_told_by_their_outputs() {
        let parse = |opset, outs| {
            let cx = Parse { attrs: &Attrs::new(), opset, ins: 5, outs };
            let parsed = crate::Ops.parse("", "BatchNormalization", &cx).unwrap().unwrap();
            parsed.op.is::<BatchNormalization>().unwrap().training
        };
        assert!(parse(9, 5) && !parse(9, 1) && !parse(15, 1));
        let spatial = Attrs::new().with_int("spatial", 0, 1);
        assert!(super::parse(&Parse { attrs: &spatial, opset: 7, ins: 5, outs: 1 }).is_err());
        let op = BatchNormalization { training: true, ..BatchNormalization::default() };
        assert!(op.to_onnx(13).unwrap().attrs.is_empty() && !op.to_onnx(17).unwrap().attrs.is_empty());
        assert_eq!((op.to_onnx(13).unwrap().fewest, op.to_onnx(17).unwrap().fewest), (2, 1));
    }

    #[test]
    fn misfits_are_told() {
        let x = Tensor::new(&[1, 2, 2], vec![0.0f32; 4]);
        let (p, q) = (vector(&[1.0, 1.0]), vector(&[1.0]));
        let e = run(&BatchNormalization::default(), &[Some(&x), Some(&p), Some(&p), Some(&q), Some(&p)], 1)
            .unwrap_err();
        assert_eq!(e, "input 3 should have one element for each of the 2 channels, but is float[1]");
        let e = run(&BatchNormalization::default(), &[Some(&p); 5], 1).unwrap_err();
        assert!(e.contains("no channel axis"), "{e}");
    }
}
