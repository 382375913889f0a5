//! `qat.Epilogue`: what stands behind a product in training, as one operation: batch normalization or a sum, an activation,
//! PACT, the observer and the fake quantizer; and `qat.EpilogueGrad`, its gradient. A pass makes it of the single operators,
//! whose arithmetic it keeps. Between product and result nothing is stored: the gradient computes it again.

use crate::activation_scale::ActivationScale;
use crate::batch_normalization::{channels, check_parameters, shape};
use crate::decode::values;
use crate::shapes::single;
use crate::{pact, unary};
use ir::{Attr, Attrs, Infer, Io, Layouts, Lower, Op, Parse, Parsed, Step, Type, Vjp};
use kernels::batch_norm::{self, Shape, Statistics};
use kernels::elementwise::Unary;
use kernels::quant::{self, Grid, Operand, Settings, Source};
use std::sync::Arc;
use tensor::DType;

/// Batch normalization in training mode.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norm {
    /// Added to the variance.
    pub epsilon: f32,
    /// How much of a running statistic stays.
    pub momentum: f32,
}

/// Observer and fake quantizer under the ONNX rule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EpilogueQuant {
    /// From the range to scale and zero point; says the statistic too.
    pub scale: ActivationScale,
    /// The gradient stops where the quantizer saturates.
    pub clipped: bool,
}

/// `Epilogue(x, other?, gamma?, beta?, mean?, variance?, threshold?, state?, x_scale?, x_zero_point?, other_scale?,
/// other_zero_point?)`: what the fields name, in their order, applied to `x` or to the sum of `x` and `other`.
///
/// `x` f32, or uint8 codes with scale and zero point, and `other` of the same shape where there is a sum; `gamma` to
/// `variance` `(C)` where there is a norm, with the running statistics; `threshold` of PACT; `state` of the observer.
/// Results: `y` like `x`; with a norm the new running mean and variance, the batch's mean and `1 / sqrt(variance +
/// epsilon)`; with a quantizer the new state, scale and zero point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Epilogue {
    /// Normalization of `x`. Not together with `other`.
    pub norm: Option<Norm>,
    /// The activation; `Identity` for none.
    pub activation: Unary,
    /// Learned clipping.
    pub pact: Option<quant::Pact>,
    /// Observer and quantizer.
    pub quantizer: Option<EpilogueQuant>,
    /// `y` is uint8 codes instead of their values.
    pub codes: bool,
}

const OTHER: usize = 1;
const GAMMA: usize = 2;
const BETA: usize = 3;
const MEAN: usize = 4;
const VARIANCE: usize = 5;
const THRESHOLD: usize = 6;
const STATE: usize = 7;
const X_SCALE: usize = 8;
const OTHER_SCALE: usize = 10;

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    let epilogue = Epilogue::from_attrs(cx)?;
    match cx.outs == epilogue.results() {
        true => Ok(epilogue.into()),
        false => Err(format!("there are {} results, not {}", epilogue.results(), cx.outs)),
    }
}

/// Reads the gradient.
pub fn parse_grad(cx: &Parse) -> Result<Parsed, String> {
    match cx.outs {
        4 => Ok(EpilogueGrad(Epilogue::from_attrs(cx)?).into()),
        other => Err(format!("there are 4 results, not {other}")),
    }
}

impl Epilogue {
    fn from_attrs(cx: &Parse) -> Result<Epilogue, String> {
        let flag = |name| Ok::<_, String>(cx.attrs.int(name, 0)? != 0);
        let norm =
            Norm { epsilon: cx.attrs.float("epsilon", 1e-5)?, momentum: cx.attrs.float("momentum", 0.9)? };
        let activation = unary::function(cx.attrs, "activation")?;
        if !quant::Epilogue::fuses(activation) {
            return Err(format!("the activation {activation:?} has no place in an epilogue"));
        }
        let pact = flag("pact")?.then(|| pact::form(cx.attrs)).transpose()?;
        let quantizer = if flag("quantized")? {
            Some(EpilogueQuant { scale: ActivationScale::from_attrs(cx.attrs)?, clipped: flag("clipped")? })
        } else {
            None
        };
        let norm = flag("norm")?.then_some(norm);
        Ok(Epilogue { norm, activation, pact, quantizer, codes: flag("codes")? })
    }

    fn kernel(&self) -> quant::Epilogue {
        quant::Epilogue {
            activation: self.activation,
            pact: self.pact,
            grid: self.quantizer.map(|q| q.scale.grid),
            clipped: self.quantizer.is_some_and(|q| q.clipped),
        }
    }

    /// Position of the state among the results; scale and zero point follow.
    pub fn state_result(&self) -> usize {
        if self.norm.is_some() { 5 } else { 1 }
    }

    /// Number of results.
    pub fn results(&self) -> usize {
        self.state_result() + if self.quantizer.is_some() { 3 } else { 0 }
    }
}

/// The source without a normalization: operand `at` alone, or with the one behind it; the scales are at `scale` and
/// `scale + 2`, each with its zero point behind it.
fn source<'b, 'a: 'b>(parts: &ir::Parts<'b, 'a>, at: usize, scale: usize) -> Source<'b> {
    let operand = |at: usize, scale: usize| match parts.optional::<f32>(scale) {
        Some(s) => {
            let zero_point = parts.input::<i32>(scale + 1)[0];
            Operand::Codes { codes: parts.input(at), scale: s[0], zero_point }
        }
        None => Operand::Values(parts.input(at)),
    };
    if parts.optional::<u8>(at + 1).is_some() {
        Source::Sum(operand(at, scale), operand(at + 1, scale + 2))
    } else {
        Source::Plain(operand(at, scale))
    }
}

/// Checks the types of what [`source`] reads, and that operands `numbers` are floats where they are given.
fn check_operands(
    cx: &Lower,
    at: usize,
    scale: usize,
    numbers: std::ops::Range<usize>,
) -> Result<(), String> {
    for (operand, scale) in [(at, scale), (at + 1, scale + 2)] {
        match cx.optional_typed::<f32>(scale)? {
            Some(_) => {
                cx.typed::<i32>(scale + 1)?;
                cx.optional_typed::<u8>(operand)?;
            }
            None => {
                cx.optional_typed::<f32>(operand)?;
            }
        }
    }
    numbers.into_iter().try_for_each(|i| cx.optional_typed::<f32>(i).map(|_| ()))
}

/// `y = a b`, element by element.
fn product(a: &[f32], b: &[f32], y: &mut [f32]) {
    y.iter_mut().zip(a).zip(b).for_each(|((y, a), b)| *y = a * b);
}

impl Op for Epilogue {
    fn name(&self) -> &str {
        "Epilogue"
    }

    fn domain(&self) -> &str {
        "qat"
    }

    fn attrs(&self) -> Attrs {
        let mut attrs = unary::attrs(self.activation, "activation");
        if let Some(norm) = self.norm {
            attrs = attrs.with_int("norm", 1, 0).with_float("epsilon", norm.epsilon, 1e-5).with_float(
                "momentum",
                norm.momentum,
                0.9,
            );
        }
        if let Some(form) = self.pact {
            attrs = attrs.with_int("pact", 1, 0);
            pact::attrs(form).iter().for_each(|(name, value)| attrs.set(name, value.clone()));
        }
        if let Some(quantizer) = self.quantizer {
            attrs = attrs.with("quantized", Attr::Int(1)).with_int("clipped", quantizer.clipped.into(), 0);
            attrs = attrs.with_int("codes", self.codes.into(), 0);
            quantizer.scale.attrs().iter().for_each(|(name, value)| attrs.set(name, value.clone()));
        }
        attrs
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let x = &values(cx, 0, X_SCALE)?;
        if cx.has(OTHER) {
            let other = values(cx, OTHER, OTHER_SCALE)?;
            if !x.agrees(&other) {
                return Err(format!("the addends {x} and {other} differ"));
            }
        }
        if self.codes && self.quantizer.is_none_or(|q| q.scale.grid != Grid::U8) {
            return Err("only a quantizer to uint8 gives codes".into());
        }
        let dtype = if self.codes { DType::U8 } else { DType::F32 };
        let mut results = vec![Type { dtype: Some(dtype), shape: x.shape.clone() }];
        if self.norm.is_some() {
            let channels = check_parameters(cx, GAMMA..VARIANCE + 1, channels(x)?)?;
            let statistic = Type { dtype: x.dtype, shape: Some(vec![channels]) };
            results.extend(vec![cx.ty(MEAN)?.refined(&statistic); 4]);
        }
        single(cx, THRESHOLD, "threshold")?;
        if let Some(quantizer) = self.quantizer {
            crate::observe::check_state(cx, STATE, quantizer.scale.statistic)?;
            results.push(cx.ty(STATE)?.clone());
            results.extend([DType::F32, DType::I32].map(|dtype| Type::new(dtype, [0usize; 0])));
        }
        Ok(results)
    }

    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        let dy = cx.d_output(0)?;
        // Codes have no gradient: they come in behind the gradients.
        if self.codes || cx.input(X_SCALE).is_some() || cx.input(OTHER_SCALE).is_some() {
            return None;
        }
        if (1..self.results()).any(|i| cx.d_output(i).is_some()) {
            return None;
        }
        let norm = |i| self.norm.map(|_| cx.output(i));
        let scale = |i| self.quantizer.map(|_| cx.output(self.state_result() + i));
        let ins = [
            Some(dy),
            cx.input(0),
            cx.input(OTHER),
            cx.input(GAMMA),
            cx.input(BETA),
            norm(3),
            norm(4),
            cx.input(THRESHOLD),
            scale(1),
            scale(2),
        ];
        let grads = cx.add_multi(Arc::new(EpilogueGrad(*self)), &ins, 4)?;
        for (slot, grad) in [(0, 0), (OTHER, 0), (GAMMA, 1), (BETA, 2), (THRESHOLD, 3)] {
            if cx.wants(slot) {
                cx.set(slot, grads[grad]);
            }
        }
        Some(())
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let x = cx.input(0)?;
        check_operands(cx, 0, X_SCALE, GAMMA..X_SCALE)?;
        let (op, kernel) = (*self, self.kernel());
        let shape = self.norm.map(|_| cx.typed::<f32>(0).and_then(shape)).transpose()?;
        let results = x.len();
        if shape.is_some_and(|shape| shape.count() == 0) {
            return Err("a batch without elements has no statistics".into());
        }
        let channels = shape.map_or(0, |shape| shape.channels);
        // Extremes of the channels are those of the result, where all is monotone.
        let by_channel = shape.is_some() && self.quantizer.is_some() && kernel.is_monotone();
        let own = if by_channel { 4 * channels } else { 2 * channels };
        let step = Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let (own, workspace) = parts.workspace::<f32>().split_at_mut(own);
            let (variance, own) = own.split_at_mut(channels);
            let (scale, extremes) = own.split_at_mut(channels);
            let (min, max) = extremes.split_at_mut(if by_channel { channels } else { 0 });
            let source = match (op.norm, shape) {
                (Some(norm), Some(shape)) => {
                    let x = parts.input::<f32>(0);
                    let (mean, inv_std) = (parts.output(3), parts.output(4));
                    let stats =
                        Statistics { mean: &mut *mean, variance: &mut *variance, inv_std: &mut *inv_std };
                    if by_channel {
                        let extremes = [&mut *min, &mut *max];
                        batch_norm::statistics_and_extremes(
                            shape,
                            x,
                            norm.epsilon,
                            stats,
                            extremes,
                            workspace,
                        );
                    } else {
                        let Statistics { mean, variance, inv_std } = stats;
                        batch_norm::statistics(shape, x, norm.epsilon, mean, variance, inv_std, workspace);
                    }
                    if let (Some(old_mean), Some(old_variance)) =
                        (parts.optional(MEAN), parts.optional(VARIANCE))
                    {
                        batch_norm::update_running(norm.momentum, old_mean, mean, parts.output(1));
                        batch_norm::update_running(norm.momentum, old_variance, variance, parts.output(2));
                    }
                    product(parts.input(GAMMA), inv_std, scale);
                    Source::Norm { shape, x, mean, scale, beta: parts.input(BETA) }
                }
                _ => source(&parts, 0, X_SCALE),
            };
            let threshold = parts.optional::<f32>(THRESHOLD).map(|u| u[0]);
            let mut settings =
                Settings { threshold: threshold.unwrap_or_default(), scale: 1.0, zero_point: 0 };
            if let Some(quantizer) = op.quantizer {
                let statistic = quantizer.scale.statistic;
                let state = parts.updated::<f32>(STATE, op.state_result());
                let extremes = if by_channel {
                    kernel.range_of_channels(settings, source, [&*min, &*max])
                } else {
                    kernel.range(settings, source)
                };
                if extremes.finite {
                    if !source.is_empty() {
                        statistic.take(extremes, state);
                    }
                } else {
                    // What is wrong is said of the tensor that the observer stands at.
                    let mut seen = vec![0.0; results];
                    quant::Epilogue { grid: None, ..kernel }.forward(settings, source, &mut seen);
                    statistic.update(&seen, state).map_err(|e| e.to_string())?;
                }
                (settings.scale, settings.zero_point) = quantizer.scale.of(state, threshold);
                parts.output::<f32>(op.state_result() + 1)[0] = settings.scale;
                parts.output::<i32>(op.state_result() + 2)[0] = settings.zero_point;
            }
            if op.codes {
                kernel.codes(settings, source, parts.output(0));
            } else {
                kernel.forward(settings, source, parts.output(0));
            }
            Ok(())
        });
        let of_statistics = if by_channel { Shape::extremes_workspace } else { Shape::workspace };
        let step = step.workspace::<f32>(own + shape.map_or(0, of_statistics));
        Ok(if self.quantizer.is_some() { step.in_place(STATE, self.state_result()) } else { step })
    }

    fn layouts(&self) -> Layouts {
        Layouts::Same { ins: 0b11, outs: 1 }
    }
}

/// `EpilogueGrad(dy, x, other?, gamma?, beta?, mean?, inv_std?, threshold?, scale?, zero_point?, x_scale?, x_zero_point?,
/// other_scale?, other_zero_point?)`: gradients of `x` (and of `other`), `gamma`, `beta` and the threshold. Mean and
/// `inv_std` are those of the batch, scale and zero point those of the forward pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EpilogueGrad(pub Epilogue);

const GRAD_X_SCALE: usize = 10;

impl Op for EpilogueGrad {
    fn name(&self) -> &str {
        "EpilogueGrad"
    }

    fn domain(&self) -> &str {
        "qat"
    }

    fn attrs(&self) -> Attrs {
        self.0.attrs()
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let (dy, x) = (cx.float(0)?, &values(cx, 1, GRAD_X_SCALE)?);
        crate::shapes::gradient_of(dy, x)?;
        [(7, "threshold"), (8, "scale"), (9, "zero point")]
            .iter()
            .try_for_each(|&(i, what)| single(cx, i, what))?;
        let of_channels =
            if self.0.norm.is_some() { cx.ty(3)?.clone() } else { Type::new(DType::F32, [0usize]) };
        Ok(vec![x.clone(), of_channels.clone(), of_channels, Type::new(DType::F32, [1usize])])
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let x = cx.input(1)?;
        cx.typed::<f32>(0)?;
        check_operands(cx, 1, GRAD_X_SCALE, 3..9)?;
        cx.optional_typed::<i32>(9)?;
        let (op, kernel) = (self.0, self.0.kernel());
        let shape = op.norm.map(|_| shape(x)).transpose()?;
        let workspace = match shape {
            Some(shape) => shape.channels + quant::Epilogue::backward_norm_workspace(shape),
            None => quant::Epilogue::backward_workspace(x.len()),
        };
        let step = Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let dx = parts.updated::<f32>(0, 0);
            let first = |i: usize| parts.optional::<f32>(i).map(|v| v[0]).unwrap_or_default();
            let zero_point = parts.optional::<i32>(9).map(|z| z[0]).unwrap_or_default();
            let settings = Settings { threshold: first(7), scale: first(8), zero_point };
            let workspace = parts.workspace::<f32>();
            let threshold = match shape {
                Some(shape) => {
                    let x = parts.input::<f32>(1);
                    let (scale, workspace) = workspace.split_at_mut(shape.channels);
                    let [gamma, beta, mean, inv_std] = [3, 4, 5, 6].map(|i| parts.input::<f32>(i));
                    product(gamma, inv_std, scale);
                    let source = Source::Norm { shape, x, mean, scale, beta };
                    let (dgamma, dbeta) = (parts.output(1), parts.output(2));
                    kernel.backward_norm(settings, source, inv_std, dx, dgamma, dbeta, workspace)
                }
                None => kernel.backward(settings, source(&parts, 1, GRAD_X_SCALE), dx, workspace),
            };
            parts.output::<f32>(3)[0] = threshold;
            Ok(())
        });
        Ok(step.workspace::<f32>(workspace).in_place(0, 0))
    }

    fn layouts(&self) -> Layouts {
        Layouts::Same { ins: 0b111, outs: 1 }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::Scheme;
    use crate::testing::{Draw, check_gradient, run};
    use observe::Statistic;
    use tensor::Tensor;

    const PLAIN: Epilogue =
        Epilogue { norm: None, activation: Unary::Relu, pact: None, quantizer: None, codes: false };

    fn quantized() -> Epilogue {
        let statistic = Statistic::MovingAverageMinMax { rate: 0.9 };
        let scale = ActivationScale { statistic, scheme: Scheme::Asymmetric, grid: Grid::U8 };
        Epilogue {
            norm: Some(Norm { epsilon: 1e-3, momentum: 0.8 }),
            activation: Unary::Clip { lo: 0.0, hi: 6.0 },
            pact: Some(quant::Pact::Symmetric),
            quantizer: Some(EpilogueQuant { scale, clipped: true }),
            codes: false,
        }
    }

    #[test]
    fn attributes_survive_their_text() {
        for op in [PLAIN, quantized(), Epilogue { activation: Unary::Identity, ..quantized() }] {
            let attrs = op.attrs();
            let read = Epilogue::from_attrs(&Parse { attrs: &attrs, opset: 1, ins: 8, outs: 8 }).unwrap();
            assert_eq!(read, op);
        }
    }

    #[test]
    fn gradients_of_what_is_differentiable() {
        let mut draw = Draw::new(9);
        let (a, b) = (draw.tensor(&[2, 3, 2, 2], 0.5, 2.0), draw.tensor(&[2, 3, 2, 2], 0.5, 2.0));
        check_gradient(PLAIN, &[&a, &b], 1, &[0, 1]);
        let threshold = Tensor::new(&[1], vec![1.1f32]);
        let x = draw.tensor_off(&[2, 3, 2, 2], -2.0, 2.0, &[0.0, 1.1], 0.05);
        let op = Epilogue { pact: Some(quant::Pact::Symmetric), ..PLAIN };
        let loss = |u: f32| {
            let u = Tensor::new(&[1], vec![u]);
            let ins = [Some(&x), None, None, None, None, None, Some(&u)];
            run(&op, &ins, 1).unwrap()[0].to_f64().iter().sum::<f64>()
        };
        let ones = Tensor::new(x.shape(), vec![1f32; x.len()]);
        let ins = [Some(&ones), Some(&x), None, None, None, None, None, Some(&threshold)];
        let grads = run(&EpilogueGrad(op), &ins, 4).unwrap();
        let slope = (loss(1.1 + 1e-3) - loss(1.1 - 1e-3)) / 2e-3;
        assert!(
            (grads[3].to_f64()[0] - slope).abs() < 1e-2 * slope.abs(),
            "{} {slope}",
            grads[3].to_f64()[0]
        );
    }

    #[test]
    fn what_is_not_finite_is_told_of() {
        let op = Epilogue { norm: None, pact: None, ..quantized() };
        let x = Tensor::new(&[2], vec![1.0f32, f32::NAN]);
        let state = Tensor::new(&[4], vec![0f32; 4]);
        let ins = [Some(&x), None, None, None, None, None, None, Some(&state)];
        assert!(run(&op, &ins, 4).unwrap_err().contains("NaN"));
    }
}
