//! `qat.CodesConv`: the convolution of a training step on 8-bit codes of activation and weight, as it will be deployed; and
//! `qat.CodesConvWeightGrad`, its gradient with respect to the weight.

use crate::conv::{check_axis, kernel_sizes, parse_group, plan, ranks};
use crate::decode::{decode, values};
use crate::shapes::conv_products;
use crate::window::Window;
use crate::{ConvWeightGrad, FakeQuant};
use ir::{Attrs, Infer, Io, Layouts, Lower, Op, Parse, Parsed, Step, Type};
use kernels::conv::{self, Rounding};
use kernels::integer::TrainedConv;
use kernels::quant::{Axis, Quantizer, Scales, quantize_i8};
use tensor::DType;

/// `CodesConv(x, x_scale, x_zero_point, w, w_scale, bias?)`: `x` uint8 codes `(N, C, spatial...)`, `w` f32
/// `(O, C / group, kernel...)`, quantized here with one scale per output channel, `bias` f32. The result is f32: sums of
/// products of codes, exact in int32, times `x_scale w_scale[o]`, plus the bias.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodesConv {
    /// Kernel, strides, padding, dilation.
    pub window: Window,
    /// Number of groups.
    pub group: usize,
    /// How the weight becomes int8 codes.
    pub quantizer: Quantizer,
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    let quantizer = FakeQuant::from_attrs(cx.attrs)?.quantizer;
    Ok(CodesConv { window: Window::parse(cx.attrs)?, group: parse_group(cx.attrs)?, quantizer }.into())
}

/// Reads the gradient.
pub fn parse_weight_grad(cx: &Parse) -> Result<Parsed, String> {
    let of = ConvWeightGrad { window: Window::parse(cx.attrs)?, group: parse_group(cx.attrs)? };
    Ok(CodesConvWeightGrad(of).into())
}

impl Op for CodesConv {
    fn name(&self) -> &str {
        "CodesConv"
    }

    fn domain(&self) -> &str {
        "qat"
    }

    fn attrs(&self) -> Attrs {
        let mut attrs = self.window.attrs(Attrs::new()).with_int("group", self.group as i64, 1);
        let quant = FakeQuant { quantizer: self.quantizer, axis: None, clipped: false, learned: false };
        quant.attrs().iter().for_each(|(name, value)| attrs.set(name, value.clone()));
        attrs
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let (x, w) = (values(cx, 0, 1)?, cx.float(3)?);
        let Some((xs, ws)) = ranks(&x, w)? else { return Ok(vec![Type::of(DType::F32)]) };
        let channels = ws[1].fixed().and_then(|i| i.checked_mul(self.group));
        check_axis(&x, "input", 1, channels)?;
        check_axis(cx.float(4)?, "scale", 0, ws[0].fixed())?;
        if cx.has(5) {
            check_axis(cx.float(5)?, "bias", 0, ws[0].fixed())?;
        }
        let spatial = self.window.outputs(&xs[2..], &kernel_sizes(&self.window, ws)?, Rounding::Floor)?;
        let shape = [xs[0].clone(), ws[0].clone()].into_iter().chain(spatial).collect();
        Ok(vec![Type { dtype: Some(DType::F32), shape: Some(shape) }])
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let w = cx.typed::<f32>(3)?;
        let plan = plan(&self.window, self.group, &cx.typed::<u8>(0)?.shape, &w.shape)?;
        let channels = plan.out_channels;
        let rows = Axis { outer: 1, channels, inner: plan.weight_len() / channels };
        if cx.input(4)?.len() != channels {
            return Err(format!("one scale for each of the {channels} output channels is needed"));
        }
        let (quantizer, conv) = (self.quantizer, TrainedConv::new(plan));
        // Codes of the weight, four to a word, and factors of the output channels.
        let (code_words, weight_len) = (plan.weight_len().div_ceil(4), plan.weight_len());
        let workspace = conv.workspace();
        let step = Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let (codes, rest) = parts.workspace::<u32>().split_at_mut(code_words);
            let (factors, workspace) = rest.split_at_mut(channels);
            let codes = &mut bytemuck::cast_slice_mut::<u32, i8>(codes)[..weight_len];
            let factors: &mut [f32] = bytemuck::cast_slice_mut(factors);
            let (w, w_scale) = (parts.input::<f32>(3), parts.input::<f32>(4));
            quantize_i8(quantizer, rows, Scales::symmetric(w_scale), w, codes);
            let (x_scale, zero_point) = (parts.input::<f32>(1)[0], parts.input::<i32>(2)[0]);
            factors.iter_mut().zip(w_scale).for_each(|(f, w)| *f = x_scale * w);
            let (x, bias) = (parts.input(0), parts.optional(5));
            conv.values(x, zero_point as u8, codes, factors, bias, parts.output(0), workspace);
            Ok(())
        });
        Ok(step.workspace::<u32>(code_words + channels + workspace))
    }

    fn layouts(&self) -> Layouts {
        Layouts::ChannelsLast { ins: 1, outs: 1 }
    }

    fn flops(&self, cx: &Lower) -> Option<u64> {
        conv_products(&cx.outs[0], cx.optional(3)?)
    }
}

/// `CodesConvWeightGrad(dy, x, x_scale, x_zero_point)`: [`ConvWeightGrad`] with `x` as uint8 codes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodesConvWeightGrad(pub ConvWeightGrad);

impl Op for CodesConvWeightGrad {
    fn name(&self) -> &str {
        "CodesConvWeightGrad"
    }

    fn domain(&self) -> &str {
        "qat"
    }

    fn attrs(&self) -> Attrs {
        self.0.attrs()
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        self.0.types(cx.float(0)?, &values(cx, 1, 2)?)
    }

    fn layouts(&self) -> Layouts {
        Layouts::ChannelsLast { ins: 0b11, outs: 0 }
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let x = cx.typed::<u8>(1)?;
        let plan = plan(&self.0.window, self.0.group, &x.shape, &cx.outs[0].shape)?;
        let len = x.len();
        let step = Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let (x, workspace) = parts.workspace::<f32>().split_at_mut(len);
            decode(parts.input(1), parts.input(2), parts.input(3), x);
            conv::weight_grad(&plan, x, parts.input(0), parts.output(0), workspace);
            Ok(())
        });
        Ok(step.workspace::<f32>(len + conv::weight_grad_workspace(&plan)))
    }

    fn flops(&self, cx: &Lower) -> Option<u64> {
        conv_products(cx.optional(0)?, &cx.outs[0])
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{Draw, eval, run};
    use crate::{Conv, Decode};
    use kernels::quant::Grid;
    use tensor::Tensor;

    #[test]
    fn agrees_with_the_convolution_of_what_the_codes_stand_for() {
        let mut draw = Draw::new(7);
        for (shape, w_shape, group, window) in [
            (vec![2, 6, 7, 5], vec![5, 6, 3, 3], 1, Window::new(&[3, 3], 2, 1)),
            (vec![2, 20, 4, 4], vec![40, 20, 1, 1], 1, Window::new(&[1, 1], 1, 0)),
            (vec![2, 6, 9, 9], vec![4, 3, 3, 3], 2, Window::new(&[3, 3], 1, 1)),
        ] {
            let len = shape.iter().product();
            let x = Tensor::new(&shape, (0..len).map(|_| draw.int(0, 256) as u8).collect());
            let (x_scale, x_zero) = (Tensor::scalar(0.02f32), Tensor::scalar(draw.int(0, 256) as i32));
            let (w, bias) = (draw.tensor(&w_shape, -1.0, 1.0), draw.tensor(&[w_shape[0]], -1.0, 1.0));
            let w_scale = Tensor::new(&[w_shape[0]], vec![1f32 / 127.0; w_shape[0]]);
            let quantizer = Quantizer::onnx(Grid::I8_NARROW);
            let op = CodesConv { window: window.clone(), group, quantizer };
            let got = run(&op, &[&x, &x_scale, &x_zero, &w, &w_scale, &bias].map(Some), 1).unwrap().remove(0);

            let values = run(&Decode, &[&x, &x_scale, &x_zero].map(Some), 1).unwrap().remove(0);
            let quant = FakeQuant { quantizer, axis: Some(0), clipped: false, learned: false };
            let rounded = eval(&quant, &[&w, &w_scale]).unwrap();
            let want = eval(&Conv { window: window.clone(), group }, &[&values, &rounded, &bias]).unwrap();
            assert_eq!(got.shape(), want.shape());
            let close = |a: &Tensor, b: &Tensor| {
                let largest = b.to_f64().iter().fold(1f64, |m, x| m.max(x.abs()));
                assert!(a.to_f64().iter().zip(b.to_f64()).all(|(a, b)| (a - b).abs() <= 1e-5 * largest));
            };
            close(&got, &want);

            let dy = draw.tensor(got.shape(), -1.0, 1.0);
            let grad = ConvWeightGrad { window: Window { kernel: w_shape[2..].to_vec(), ..window }, group };
            let want = eval(&grad, &[&dy, &values]).unwrap();
            let ins = [&dy, &x, &x_scale, &x_zero].map(Some);
            close(&run(&CodesConvWeightGrad(grad), &ins, 1).unwrap()[0], &want);
        }
    }

    #[test]
    fn attributes_survive_their_text() {
        let quantizer = Quantizer::onnx(Grid::I8_NARROW);
        let op = CodesConv { window: Window::new(&[3, 3], 2, 1), group: 2, quantizer };
        let attrs = op.attrs();
        let parsed = parse(&Parse { attrs: &attrs, opset: 1, ins: 5, outs: 1 }).unwrap();
        assert_eq!(parsed.op.is::<CodesConv>(), Some(&op));
    }
}
