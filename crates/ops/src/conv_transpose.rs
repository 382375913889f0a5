//! `ConvTranspose` (ONNX 1, 11, 22): the gradient of a convolution with respect to its input, used as a layer.
//!
//! Its own gradients are therefore a [`Conv`] and a [`ConvWeightGrad`]. The history of the operator brings element types
//! only. The kernels take one and two spatial axes; more are spelled out.

use crate::conv::{check_axis, kernel_sizes, parse_group, ranks};
use crate::shapes::conv_products;
use crate::window::{AutoPad, Window};
use crate::{ChannelSum, Conv, ConvWeightGrad, volume};
use ir::{
    Attrs, Compose, Dim, Infer, Io, Layouts, Lower, Op, Parse, Parsed, QuantRole, Step, Type, ValueId, Vjp,
};
use kernels::conv::{self, Axis};
use kernels::window::Window as Plane;
use std::sync::Arc;

/// `ConvTranspose(x, w, bias?)`: `x` `(N, C, spatial...)`, `w` `(C, M / group, kernel...)`, `bias` `(M)`. f32.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConvTranspose {
    /// Kernel size, strides, dilations, padding (which here is cut off the result).
    pub window: Window,
    /// Number of groups into which the channels are split.
    pub group: usize,
    /// Elements added at the end of each axis of the result; empty for none.
    pub output_padding: Vec<usize>,
    /// Spatial sizes of the result, from which the padding follows; empty where the padding is given.
    pub output_shape: Vec<usize>,
}

impl Default for ConvTranspose {
    fn default() -> ConvTranspose {
        ConvTranspose {
            window: Window::default(),
            group: 1,
            output_padding: Vec::new(),
            output_shape: Vec::new(),
        }
    }
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    Ok(ConvTranspose {
        window: Window::parse(cx.attrs)?,
        group: parse_group(cx.attrs)?,
        output_padding: cx.attrs.sizes("output_padding")?.unwrap_or_default(),
        output_shape: cx.attrs.sizes("output_shape")?.unwrap_or_default(),
    }
    .into())
}

impl ConvTranspose {
    /// The axes of the convolution whose input has the shape of this result: size `i` of `x` is `input[i]`.
    fn axis(&self, i: usize, axes: usize, input: usize, kernel: usize) -> Result<Axis, String> {
        let (stride, dilation) = (self.window.stride(i), self.window.dilation(i));
        let extra = self.output_padding.get(i).copied().unwrap_or(0);
        let full = Axis::transposed(input, kernel, stride, dilation, 0, 0, extra)?;
        let pad = |at: usize| self.window.pads.get(at).copied().unwrap_or(0);
        // Exporters write the whole shape, or the spatial sizes only.
        let given =
            self.output_shape.len().checked_sub(axes).and_then(|skip| self.output_shape.get(skip + i));
        let wanted = match (given, self.window.auto_pad) {
            (Some(&size), _) => size,
            (None, AutoPad::NotSet) => {
                return Axis::transposed(input, kernel, stride, dilation, pad(i), pad(i + axes), extra);
            }
            (None, AutoPad::Valid) => return Ok(full),
            (None, AutoPad::SameUpper | AutoPad::SameLower) => input.saturating_mul(stride),
        };
        let missing = wanted.saturating_sub(full.input);
        if missing >= stride && missing > 0 {
            return Err(format!(
                "an axis of {input} does not grow to {wanted}, but to {} at most",
                full.input + stride - 1
            ));
        }
        let total = full.input.saturating_sub(wanted);
        let half = total / 2;
        let begin = if self.window.auto_pad == AutoPad::SameUpper { half } else { total - half };
        Axis::transposed(input, kernel, stride, dilation, begin, total - begin, extra + missing)
    }

    fn check(&self, axes: usize) -> Result<(), String> {
        self.window.check(axes)?;
        if !self.output_padding.is_empty() && self.output_padding.len() != axes {
            return Err(format!("output_padding {:?} should have {axes} entries", self.output_padding));
        }
        if !self.output_shape.is_empty()
            && self.output_shape.len() != axes
            && self.output_shape.len() != axes + 2
        {
            return Err(format!("output_shape {:?} should have {axes} entries", self.output_shape));
        }
        Ok(())
    }

    fn axes(&self, x: &[usize], w: &[usize]) -> Result<Vec<Axis>, String> {
        let ([_, _, spatial @ ..], [_, _, kernel @ ..]) = (x, w) else {
            return Err(format!("shapes {x:?} and {w:?} have no spatial axes"));
        };
        self.check(spatial.len())?;
        let axis = |(i, (&n, &k))| self.axis(i, spatial.len(), n, k);
        spatial.iter().zip(kernel).enumerate().map(axis).collect()
    }
}

impl Op for ConvTranspose {
    fn name(&self) -> &str {
        "ConvTranspose"
    }

    fn attrs(&self) -> Attrs {
        let padding =
            if self.output_padding.iter().all(|&p| p == 0) { &[] } else { &self.output_padding[..] };
        self.window
            .attrs(Attrs::new())
            .with_int("group", self.group as i64, 1)
            .with_sizes("output_padding", padding, &[])
            .with_sizes("output_shape", &self.output_shape, &[])
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let (x, w) = (cx.float(0)?, cx.float(1)?);
        let Some((xs, ws)) = ranks(x, w)? else { return Ok(vec![Type { dtype: x.dtype, shape: None }]) };
        check_axis(w, "weight", 0, xs[1].fixed())?;
        if let Some(c) = ws[0].fixed().filter(|c| c % self.group != 0) {
            return Err(format!("{c} input channels do not divide into {} groups", self.group));
        }
        let channels = match ws[1].fixed() {
            Some(m) => Dim::Fixed(m.checked_mul(self.group).ok_or("too many channels")?),
            None => Dim::Unknown,
        };
        if cx.has(2) {
            let bias = cx.float(2)?;
            if bias.rank().is_some_and(|r| r != 1) {
                return Err(format!("the bias should have one axis, but is {bias}"));
            }
            check_axis(bias, "bias", 0, channels.fixed())?;
        }
        let axes = xs.len() - 2;
        self.check(axes)?;
        let kernel = kernel_sizes(&self.window, ws)?;
        let size = |(i, (dim, kernel)): (usize, (&Dim, &Option<usize>))| match (dim, kernel) {
            (Dim::Fixed(n), Some(k)) => Ok::<_, String>(Dim::Fixed(self.axis(i, axes, *n, *k)?.input)),
            _ => Ok(Dim::Unknown),
        };
        let spatial = xs[2..].iter().zip(&kernel).enumerate().map(size).collect::<Result<Vec<_>, _>>()?;
        let shape = [xs[0].clone(), channels].into_iter().chain(spatial).collect();
        Ok(vec![Type { dtype: x.dtype, shape: Some(shape) }])
    }

    fn compose(&self, cx: &mut Compose) -> Option<Vec<ValueId>> {
        let axes = self.axes(&cx.dims(cx.input(0)?)?, &cx.dims(cx.input(1)?)?).ok()?;
        if !volume::is_deep(axes.len()) {
            return None;
        }
        let behind = |list: &[usize]| list.iter().rev().take(axes.len() - 1).rev().copied().collect();
        volume::transposed_convolution(cx, &self.window, self.group, &axes[0], |window| {
            Arc::new(ConvTranspose {
                window,
                group: self.group,
                output_padding: behind(&self.output_padding),
                output_shape: behind(&self.output_shape),
            })
        })
    }

    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        let (x, w, dy) = (cx.input(0)?, cx.input(1)?, cx.d_output(0)?);
        let axes = self.axes(&cx.dims(x)?, &cx.dims(w)?).ok()?;
        let each = |f: fn(&Axis) -> usize| axes.iter().map(f);
        let window = Window {
            kernel: each(|a| a.kernel).collect(),
            strides: each(|a| a.stride).collect(),
            dilations: each(|a| a.dilation).collect(),
            pads: each(|a| a.pad_begin).chain(each(|a| a.pad_end)).collect(),
            auto_pad: AutoPad::NotSet,
        };
        if cx.wants(0) {
            let dx = cx.add(Conv { window: window.clone(), group: self.group }, &[dy, w])?;
            cx.set(0, dx);
        }
        if cx.wants(1) {
            let dw = cx.add(ConvWeightGrad { window, group: self.group }, &[x, dy])?;
            cx.set(1, dw);
        }
        if cx.wants(2) {
            let db = cx.add(ChannelSum, &[dy])?;
            cx.set(2, db);
        }
        Some(())
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let (x, w) = (&cx.typed::<f32>(0)?.shape, &cx.typed::<f32>(1)?.shape);
        cx.optional_typed::<f32>(2)?;
        let plane = match self.axes(x, w)?[..] {
            [axis] => Plane::flat(axis),
            [height, width] => Plane { height, width },
            ref axes => {
                return Err(format!(
                    "the executor runs windows over one or two spatial axes, not {}",
                    axes.len()
                ));
            }
        };
        let plan = conv::Conv::new(x[0], w[1] * self.group, x[1], self.group, plane)?;
        let step = Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let (y, workspace) = (parts.output(0), parts.workspace());
            conv::transpose_forward(&plan, parts.input(0), parts.input(1), parts.optional(2), y, workspace);
            Ok(())
        });
        Ok(step.workspace::<f32>(conv::transpose_forward_workspace(&plan)))
    }

    fn flops(&self, cx: &Lower) -> Option<u64> {
        conv_products(cx.optional(0)?, cx.optional(1)?)
    }

    fn quant(&self) -> QuantRole {
        QuantRole::Weighted { data: 0, weight: 1, axis: 1, bias: 2 }
    }

    fn layouts(&self) -> Layouts {
        Layouts::ChannelsLast { ins: 1, outs: 1 }
    }

    fn params(&self) -> &'static [usize] {
        &[1, 2]
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::ConvInputGrad;
    use crate::testing::{Draw, check_gradient, run};
    use tensor::Tensor;

    #[test]
    fn spreads_each_input_by_the_kernel() {
        let x = Tensor::new(&[1, 1, 3], vec![1.0f32, 2.0, 3.0]);
        let (w, b) =
            (Tensor::new(&[1, 2, 2], vec![1.0f32, 10.0, -1.0, 0.0]), Tensor::new(&[2], vec![0.5f32, 0.0]));
        let op = ConvTranspose {
            output_padding: vec![1],
            window: Window::new(&[2], 2, 0),
            ..ConvTranspose::default()
        };
        let y = run(&op, &[Some(&x), Some(&w), Some(&b)], 1).unwrap();
        assert_eq!(y[0].shape(), [1, 2, 7]);
        assert_eq!(
            y[0].to_f32(),
            [1.5, 10.5, 2.5, 20.5, 3.5, 30.5, 0.5, -1.0, 0.0, -2.0, 0.0, -3.0, 0.0, 0.0]
        );
    }

    #[test]
    fn padding_follows_from_the_size() {
        let x = Tensor::new(&[1, 1, 3], vec![1.0f32, 2.0, 3.0]);
        let w = Tensor::new(&[1, 1, 3], vec![1.0f32, 10.0, 100.0]);
        let y = |auto_pad, output_shape: &[usize], stride| {
            let window = Window { strides: vec![stride], auto_pad, ..Window::default() };
            let op =
                ConvTranspose { window, output_shape: output_shape.to_vec(), ..ConvTranspose::default() };
            run(&op, &[Some(&x), Some(&w)], 1).map(|y| y[0].to_f32())
        };
        // All of it: 1, 10, 102, 20, 203, 30, 300.
        assert_eq!(y(AutoPad::Valid, &[], 2).unwrap(), [1.0, 10.0, 102.0, 20.0, 203.0, 30.0, 300.0]);
        assert_eq!(y(AutoPad::SameUpper, &[], 2).unwrap(), [1.0, 10.0, 102.0, 20.0, 203.0, 30.0]);
        assert_eq!(y(AutoPad::SameLower, &[], 2).unwrap(), [10.0, 102.0, 20.0, 203.0, 30.0, 300.0]);
        assert_eq!(y(AutoPad::NotSet, &[5], 2).unwrap(), [10.0, 102.0, 20.0, 203.0, 30.0]);
        assert_eq!(y(AutoPad::NotSet, &[1, 1, 8], 2).unwrap().len(), 8);
        assert!(y(AutoPad::NotSet, &[9], 2).unwrap_err().contains("8 at most"));
        assert!(y(AutoPad::NotSet, &[5, 5], 2).unwrap_err().contains("output_shape"));
    }

    /// Group, stride, dilation, padding, output padding, and the shapes of data and weight.
    type Case = (usize, usize, usize, usize, usize, &'static [usize], &'static [usize]);

    const CASES: &[Case] = &[
        (1, 1, 1, 0, 0, &[2, 3, 3, 4], &[3, 2, 1, 1]),
        (1, 1, 1, 1, 0, &[2, 3, 3, 4], &[3, 2, 3, 3]),
        (1, 2, 1, 1, 1, &[1, 2, 3, 3], &[2, 3, 3, 2]),
        (2, 2, 2, 0, 0, &[2, 4, 3, 2], &[4, 2, 2, 2]),
        (4, 2, 1, 1, 0, &[1, 4, 3, 3], &[4, 1, 4, 4]),
        (1, 3, 1, 0, 2, &[2, 2, 4], &[2, 3, 2]),
    ];

    #[test]
    fn is_the_input_gradient_of_a_convolution() {
        let mut draw = Draw::new(1);
        for &(group, stride, dilation, pad, extra, x, w) in CASES {
            let window =
                Window { dilations: vec![dilation; w.len() - 2], ..Window::new(&w[2..], stride, pad) };
            let op = ConvTranspose {
                window: window.clone(),
                group,
                output_padding: vec![extra; w.len() - 2],
                output_shape: Vec::new(),
            };
            let (x, w) = (draw.tensor(x, -1.0, 1.0), draw.tensor(w, -1.0, 1.0));
            let y = run(&op, &[Some(&x), Some(&w)], 1).unwrap().remove(0);
            let grad = ConvInputGrad { window, group, input: y.shape()[2..].to_vec() };
            assert_eq!(y, run(&grad, &[Some(&x), Some(&w)], 1).unwrap()[0], "{op:?}");
            let b = draw.tensor(&y.shape()[1..2], -1.0, 1.0);
            check_gradient(op, &[&x, &w, &b], 1, &[0, 1, 2]);
        }
    }

    #[test]
    fn misfits_are_told() {
        let t = |shape: &[usize]| Tensor::zeros(tensor::DType::F32, shape);
        let fail = |op: &ConvTranspose, x: &[usize], w: &[usize]| {
            run(op, &[Some(&t(x)), Some(&t(w))], 1).unwrap_err()
        };
        let op = ConvTranspose::default();
        assert_eq!(fail(&op, &[1, 3, 4], &[2, 2, 3]), "the weight float[2,2,3] should have 3 along axis 0");
        let cut = ConvTranspose { window: Window::new(&[3], 1, 9), ..op.clone() };
        assert!(fail(&cut, &[1, 2, 4], &[2, 2, 3]).contains("leaves no output"));
        assert!(fail(&op, &[1, 2, 4, 4, 4], &[3, 2, 1, 1, 1]).contains("should have 2 along axis 0"));
        let padded = ConvTranspose { output_padding: vec![1, 1], ..op };
        assert!(fail(&padded, &[1, 2, 4], &[2, 2, 3]).contains("output_padding"));
    }
}
