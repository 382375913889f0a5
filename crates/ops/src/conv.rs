//! `Conv` (ONNX 1, 11, 22): convolution over the spatial axes, in groups, with strides, dilations and padding; and its
//! gradients `qat.ConvInputGrad` and `qat.ConvWeightGrad`.
//!
//! The history of the operator brings element types only. The kernels take one and two spatial axes; more are
//! spelled out.

use crate::shapes::conv_products;
use crate::window::Window;
use crate::{ChannelSum, volume};
use ir::{
    Attrs, Compose, Dim, Infer, Io, Layouts, Lower, Op, Parse, Parsed, QuantRole, Step, Type, ValueId, Vjp,
};
use kernels::conv::{self, Finish, Rounding};
use kernels::elementwise::Unary;
use std::sync::Arc;

/// `Conv(x, w, bias?)`: `x` `(N, C, spatial...)`, `w` `(O, C / group, kernel...)`, `bias` `(O)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conv {
    /// Kernel size, strides, dilations, padding.
    pub window: Window,
    /// Number of groups into which the channels are split.
    pub group: usize,
}

impl Default for Conv {
    fn default() -> Conv {
        Conv { window: Window::default(), group: 1 }
    }
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    Ok(Conv::from_attrs(cx.attrs)?.into())
}

impl Conv {
    pub(crate) fn from_attrs(attrs: &Attrs) -> Result<Conv, String> {
        Ok(Conv { window: Window::parse(attrs)?, group: parse_group(attrs)? })
    }

    /// The shape for the kernels, of operands 0 and 1.
    pub(crate) fn plan(&self, cx: &Lower) -> Result<conv::Conv, String> {
        plan(&self.window, self.group, &cx.typed::<f32>(0)?.shape, &cx.typed::<f32>(1)?.shape)
    }
}

/// The attribute `group`.
pub(crate) fn parse_group(attrs: &Attrs) -> Result<usize, String> {
    let group = attrs.int("group", 1)?;
    usize::try_from(group)
        .ok()
        .filter(|&g| g > 0)
        .ok_or_else(|| format!("group should be positive, but is {group}"))
}

/// The kernel sizes: those of the attribute, which the weight must have, or those of the weight.
pub(crate) fn kernel_sizes(window: &Window, w: &[Dim]) -> Result<Vec<Option<usize>>, String> {
    let weight: Vec<Option<usize>> = w.iter().skip(2).map(Dim::fixed).collect();
    if window.kernel.is_empty() {
        return Ok(weight);
    }
    let agrees = window.kernel.len() == weight.len()
        && window.kernel.iter().zip(&weight).all(|(&k, w)| w.is_none_or(|w| w == k));
    if !agrees {
        return Err(format!("kernel_shape is {:?}, but the weight has {weight:?}", window.kernel));
    }
    Ok(window.kernel.iter().map(|&k| Some(k)).collect())
}

/// Checks an operand of rank `rank` with `channels` along `axis`.
pub(crate) fn check_axis(ty: &Type, what: &str, axis: usize, expected: Option<usize>) -> Result<(), String> {
    let found = ty.shape.as_ref().and_then(|s| s.get(axis)).and_then(Dim::fixed);
    match (found, expected) {
        (Some(found), Some(expected)) if found != expected => {
            Err(format!("the {what} {ty} should have {expected} along axis {axis}"))
        }
        _ => Ok(()),
    }
}

/// Two shapes.
type Shapes<'a> = (&'a [Dim], &'a [Dim]);

/// The shapes of data and weight, which must be of one rank with at least one spatial axis; `None` where unknown.
pub(crate) fn ranks<'a>(x: &'a Type, w: &'a Type) -> Result<Option<Shapes<'a>>, String> {
    if let Some(rank) = [x, w].iter().filter_map(|t| t.rank()).find(|&r| r < 3) {
        return Err(format!("{x} and weight {w} should have a spatial axis, but one has rank {rank}"));
    }
    let (Some(xs), Some(ws)) = (&x.shape, &w.shape) else { return Ok(None) };
    if xs.len() != ws.len() {
        return Err(format!("{x} and weight {w} should have the same rank"));
    }
    Ok(Some((xs, ws)))
}

/// The convolution of an input of shape `x` with a weight of shape `w`, for the kernels.
pub(crate) fn plan(window: &Window, group: usize, x: &[usize], w: &[usize]) -> Result<conv::Conv, String> {
    let ([batch, channels, spatial @ ..], [outputs, inputs, kernel @ ..]) = (x, w) else {
        return Err(format!("shapes {x:?} and {w:?} have no spatial axes"));
    };
    if inputs.checked_mul(group) != Some(*channels) {
        return Err(format!("a weight of shape {w:?} in {group} group(s) does not take {channels} channels"));
    }
    conv::Conv::new(*batch, *channels, *outputs, group, window.plane(spatial, kernel, Rounding::Floor)?)
}

/// The convolution of operands 0 and 1, plus a bias, operand 2, where it is given. A weight that never changes is packed here,
/// once. `fused` is an operator with an addend, operand 3, and an activation.
pub(crate) fn step(plan: conv::Conv, cx: &Lower, fused: Option<Unary>) -> Result<Step, String> {
    fn finish<'b>(parts: &ir::Parts<'b, '_>, fused: Option<Unary>) -> Finish<'b> {
        let addend = fused.and_then(|_| parts.optional(3));
        Finish { bias: parts.optional(2), addend, activation: fused.unwrap_or(Unary::Identity) }
    }
    cx.optional_typed::<f32>(2)?;
    cx.optional_typed::<f32>(3)?;
    if let Ok(w) = cx.constant(1) {
        let mut packed = vec![0.0; conv::packed_len(&plan)];
        conv::pack_weights(&plan, &w.to_f32(), &mut packed);
        return Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let finish = finish(&parts, fused);
            conv::forward_packed(&plan, parts.input(0), &packed, finish, parts.output(0));
            Ok(())
        }));
    }
    let step = Step::new(move |io: &mut Io| {
        let mut parts = io.split();
        let (y, workspace) = (parts.output(0), parts.workspace());
        let finish = finish(&parts, fused);
        conv::forward(&plan, parts.input(0), parts.input(1), finish, y, workspace);
        Ok(())
    });
    Ok(step.workspace::<f32>(conv::forward_workspace(&plan)))
}

impl Op for Conv {
    fn name(&self) -> &str {
        "Conv"
    }

    fn attrs(&self) -> Attrs {
        self.window.attrs(Attrs::new()).with_int("group", self.group as i64, 1)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let (x, w) = (cx.float(0)?, cx.float(1)?);
        let Some((xs, ws)) = ranks(x, w)? else { return Ok(vec![Type { dtype: x.dtype, shape: None }]) };
        if let (Some(c), Some(i)) = (xs[1].fixed(), ws[1].fixed())
            && i.checked_mul(self.group) != Some(c)
        {
            return Err(format!(
                "{x} has {c} channels, but the weight {w} in {} group(s) takes {i} each",
                self.group
            ));
        }
        if let Some(o) = ws[0].fixed().filter(|o| o % self.group != 0) {
            return Err(format!("{o} output channels do not divide into {} groups", self.group));
        }
        if cx.has(2) {
            let bias = cx.float(2)?;
            if bias.rank().is_some_and(|r| r != 1) {
                return Err(format!("the bias should have one axis, but is {bias}"));
            }
            check_axis(bias, "bias", 0, ws[0].fixed())?;
        }
        let spatial = self.window.outputs(&xs[2..], &kernel_sizes(&self.window, ws)?, Rounding::Floor)?;
        let shape = [xs[0].clone(), ws[0].clone()].into_iter().chain(spatial).collect();
        Ok(vec![Type { dtype: x.dtype, shape: Some(shape) }])
    }

    fn compose(&self, cx: &mut Compose) -> Option<Vec<ValueId>> {
        volume::convolution(cx, &self.window, |window| Arc::new(Conv { window, group: self.group }))
    }

    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        let (x, w, dy) = (cx.input(0)?, cx.input(1)?, cx.d_output(0)?);
        let Conv { window, group } = self.clone();
        if cx.wants(0) {
            let input = cx.dims(x)?[2..].to_vec();
            let dx = cx.add(ConvInputGrad { window: window.clone(), group, input }, &[dy, w])?;
            cx.set(0, dx);
        }
        if cx.wants(1) {
            let kernel = cx.dims(w)?[2..].to_vec();
            let dw = cx.add(ConvWeightGrad { window: Window { kernel, ..window }, group }, &[dy, x])?;
            cx.set(1, dw);
        }
        if cx.wants(2) {
            let db = cx.add(ChannelSum, &[dy])?;
            cx.set(2, db);
        }
        Some(())
    }

    fn quant(&self) -> QuantRole {
        QuantRole::Weighted { data: 0, weight: 1, axis: 0, bias: 2 }
    }

    fn layouts(&self) -> Layouts {
        Layouts::ChannelsLast { ins: 1, outs: 1 }
    }

    fn params(&self) -> &'static [usize] {
        &[1, 2]
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        step(self.plan(cx)?, cx, None)
    }

    fn flops(&self, cx: &Lower) -> Option<u64> {
        conv_products(&cx.outs[0], cx.optional(1)?)
    }
}

/// `ConvInputGrad(dy, w)`: the gradient of [`Conv`] with respect to its input, `(N, C, input...)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConvInputGrad {
    /// Window of the convolution.
    pub window: Window,
    /// Its groups.
    pub group: usize,
    /// Spatial sizes of its input; strides leave them open.
    pub input: Vec<usize>,
}

/// Reads the gradient.
pub fn parse_input_grad(cx: &Parse) -> Result<Parsed, String> {
    let input = cx.attrs.sizes("input_size")?.ok_or("input_size is missing")?;
    Ok(ConvInputGrad { window: Window::parse(cx.attrs)?, group: parse_group(cx.attrs)?, input }.into())
}

impl Op for ConvInputGrad {
    fn name(&self) -> &str {
        "ConvInputGrad"
    }

    fn domain(&self) -> &str {
        "qat"
    }

    fn attrs(&self) -> Attrs {
        let attrs = self.window.attrs(Attrs::new()).with_int("group", self.group as i64, 1);
        attrs.with_sizes("input_size", &self.input, &[])
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let (dy, w) = (cx.float(0)?, cx.float(1)?);
        let Some((dys, ws)) = ranks(dy, w)? else { return Ok(vec![Type { dtype: dy.dtype, shape: None }]) };
        check_axis(dy, "gradient", 1, ws[0].fixed())?;
        let input: Vec<Dim> = self.input.iter().map(|&n| Dim::Fixed(n)).collect();
        let outputs = self.window.outputs(&input, &kernel_sizes(&self.window, ws)?, Rounding::Floor)?;
        if outputs.len() + 2 != dys.len() || !outputs.iter().zip(&dys[2..]).all(|(a, b)| a.agrees(b)) {
            return Err(format!("the gradient {dy} is not that of an input of size {:?}", self.input));
        }
        let channels = match ws[1].fixed() {
            Some(i) => Dim::Fixed(i.checked_mul(self.group).ok_or("too many channels")?),
            None => Dim::Unknown,
        };
        let shape = [dys[0].clone(), channels].into_iter().chain(input).collect();
        Ok(vec![Type { dtype: dy.dtype, shape: Some(shape) }])
    }

    fn layouts(&self) -> Layouts {
        Layouts::ChannelsLast { ins: 1, outs: 1 }
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        cx.typed::<f32>(0)?;
        let plan = plan(&self.window, self.group, &cx.outs[0].shape, &cx.typed::<f32>(1)?.shape)?;
        let step = Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let (dx, workspace) = (parts.output(0), parts.workspace());
            conv::input_grad(&plan, parts.input(0), parts.input(1), dx, workspace);
            Ok(())
        });
        Ok(step.workspace::<f32>(conv::input_grad_workspace(&plan)))
    }

    fn flops(&self, cx: &Lower) -> Option<u64> {
        conv_products(cx.optional(0)?, cx.optional(1)?)
    }
}

/// `ConvWeightGrad(dy, x)`: the gradient of [`Conv`] with respect to its weight, `(O, C / group, kernel...)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConvWeightGrad {
    /// Window of the convolution, with its kernel size.
    pub window: Window,
    /// Its groups.
    pub group: usize,
}

/// Reads the gradient.
pub fn parse_weight_grad(cx: &Parse) -> Result<Parsed, String> {
    Ok(ConvWeightGrad { window: Window::parse(cx.attrs)?, group: parse_group(cx.attrs)? }.into())
}

impl ConvWeightGrad {
    /// The type of the result for a gradient `dy` and an input `x`.
    pub(crate) fn types(&self, dy: &Type, x: &Type) -> Result<Vec<Type>, String> {
        let Some((dys, xs)) = ranks(dy, x)? else { return Ok(vec![Type { dtype: dy.dtype, shape: None }]) };
        check_axis(dy, "gradient", 0, xs[0].fixed())?;
        let kernel: Vec<Option<usize>> = self.window.kernel.iter().map(|&k| Some(k)).collect();
        if kernel.len() + 2 != xs.len() {
            return Err(format!("kernel_shape {:?} does not fit {x}", self.window.kernel));
        }
        let outputs = self.window.outputs(&xs[2..], &kernel, Rounding::Floor)?;
        if !outputs.iter().zip(&dys[2..]).all(|(a, b)| a.agrees(b)) {
            return Err(format!("the gradient {dy} is not that of an input {x}"));
        }
        let channels = match xs[1].fixed() {
            Some(c) if c % self.group != 0 => {
                return Err(format!("{c} input channels do not divide into {} groups", self.group));
            }
            Some(c) => Dim::Fixed(c / self.group),
            None => Dim::Unknown,
        };
        let kernel = self.window.kernel.iter().map(|&k| Dim::Fixed(k));
        let shape = [dys[1].clone(), channels].into_iter().chain(kernel).collect();
        Ok(vec![Type { dtype: dy.dtype, shape: Some(shape) }])
    }
}

impl Op for ConvWeightGrad {
    fn name(&self) -> &str {
        "ConvWeightGrad"
    }

    fn domain(&self) -> &str {
        "qat"
    }

    fn attrs(&self) -> Attrs {
        self.window.attrs(Attrs::new()).with_int("group", self.group as i64, 1)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        self.types(cx.float(0)?, cx.float(1)?)
    }

    fn layouts(&self) -> Layouts {
        Layouts::ChannelsLast { ins: 0b11, outs: 0 }
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        cx.typed::<f32>(0)?;
        let plan = plan(&self.window, self.group, &cx.typed::<f32>(1)?.shape, &cx.outs[0].shape)?;
        let step = Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let (dw, workspace) = (parts.output(0), parts.workspace());
            conv::weight_grad(&plan, parts.input(1), parts.input(0), dw, workspace);
            Ok(())
        });
        Ok(step.workspace::<f32>(conv::weight_grad_workspace(&plan)))
    }

    fn flops(&self, cx: &Lower) -> Option<u64> {
        conv_products(cx.optional(0)?, &cx.outs[0])
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::AutoPad;
    use crate::testing::{Draw, check_gradient, run};
    use tensor::Tensor;

    /// The definition, element by element in double precision, for two spatial axes and explicit padding.
    fn naive(op: &Conv, x: &Tensor, w: &Tensor, bias: &Tensor, shape: &[usize]) -> Vec<f64> {
        let ([_, c, h, wd], [_, i, kh, kw]) = (x.shape(), w.shape()) else {
            unreachable!("two spatial axes")
        };
        let [n, o, oh, ow] = shape else { unreachable!("two spatial axes") };
        let (xs, ws, b) = (x.to_f64(), w.to_f64(), bias.to_f64());
        let mut y = Vec::new();
        for (img, out) in (0..*n).flat_map(|img| (0..*o).map(move |out| (img, out))) {
            for (row, col) in (0..*oh).flat_map(|row| (0..*ow).map(move |col| (row, col))) {
                let mut sum = b[out];
                for (ch, r, s) in
                    (0..*i).flat_map(|ch| (0..*kh).flat_map(move |r| (0..*kw).map(move |s| (ch, r, s))))
                {
                    let at = |i: usize, o: usize, k: usize| {
                        (o * op.window.stride(i) + k * op.window.dilation(i)).checked_sub(op.window.pads[i])
                    };
                    let (Some(p), Some(q)) = (at(0, row, r), at(1, col, s)) else { continue };
                    if p < *h && q < *wd {
                        let from = out / (o / op.group) * i + ch;
                        sum +=
                            xs[((img * c + from) * h + p) * wd + q] * ws[((out * i + ch) * kh + r) * kw + s];
                    }
                }
                y.push(sum);
            }
        }
        y
    }

    fn drawn(draw: &mut Draw, x: &[usize], w: &[usize]) -> [Tensor; 3] {
        [draw.tensor(x, -1.0, 1.0), draw.tensor(w, -1.0, 1.0), draw.tensor(&w[..1], -1.0, 1.0)]
    }

    /// Group, stride, dilation, padding, and the shapes of data and weight.
    type Case = (usize, usize, usize, usize, [usize; 4], [usize; 4]);

    const CASES: &[Case] = &[
        (1, 1, 1, 0, [2, 3, 4, 5], [4, 3, 1, 1]),
        (1, 1, 1, 1, [2, 3, 5, 4], [2, 3, 3, 3]),
        (1, 2, 1, 1, [1, 2, 6, 5], [3, 2, 3, 2]),
        (1, 1, 2, 2, [1, 2, 6, 5], [3, 2, 3, 3]),
        (2, 2, 1, 0, [2, 4, 5, 4], [6, 2, 2, 2]),
        (4, 1, 1, 1, [2, 4, 4, 5], [4, 1, 3, 3]),
        (3, 2, 1, 2, [1, 3, 6, 6], [6, 1, 5, 3]),
    ];

    fn case(&(group, stride, dilation, pad, x, w): &Case) -> Conv {
        let window = Window { dilations: vec![dilation; 2], ..Window::new(&w[2..], stride, pad) };
        assert!(x[1] == w[1] * group);
        Conv { window, group }
    }

    #[test]
    fn follows_the_definition() {
        let mut draw = Draw::new(1);
        for c in CASES {
            let op = case(c);
            let [x, w, b] = drawn(&mut draw, &c.4, &c.5);
            let y = run(&op, &[Some(&x), Some(&w), Some(&b)], 1).unwrap().remove(0);
            let want = naive(&op, &x, &w, &b, y.shape());
            assert!(y.to_f64().iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-5), "{op:?}");
            // Without a bias, and with one axis where the height is 1.
            let zero = Tensor::zeros(tensor::DType::F32, &c.5[..1]);
            let y = run(&op, &[Some(&x), Some(&w)], 1).unwrap().remove(0);
            let want = naive(&op, &x, &w, &zero, y.shape());
            assert!(y.to_f64().iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-5), "{op:?}");
        }
    }

    #[test]
    fn one_axis_is_an_image_of_height_one() {
        let mut draw = Draw::new(2);
        let [x, w, b] = drawn(&mut draw, &[2, 3, 1, 9], &[4, 3, 1, 3]);
        let flat = |t: &Tensor| {
            let mut shape = t.shape().to_vec();
            shape.remove(2);
            t.reshape(&shape).unwrap()
        };
        let two = Conv {
            window: Window { strides: vec![1, 2], pads: vec![0, 1, 0, 1], ..Window::default() },
            group: 1,
        };
        let one =
            Conv { window: Window { strides: vec![2], pads: vec![1, 1], ..Window::default() }, group: 1 };
        let want = run(&two, &[Some(&x), Some(&w), Some(&b)], 1).unwrap().remove(0);
        let (x, w) = (flat(&x), flat(&w));
        assert_eq!(run(&one, &[Some(&x), Some(&w), Some(&b)], 1).unwrap()[0], flat(&want));
        check_gradient(one, &[&x, &w, &b], 1, &[0, 1, 2]);
    }

    #[test]
    fn automatic_padding() {
        let x = Tensor::new(&[1, 1, 4], vec![1.0f32, 2.0, 3.0, 4.0]);
        let w = Tensor::new(&[1, 1, 2], vec![1.0f32, 10.0]);
        let y = |auto_pad| {
            let op = Conv { window: Window { auto_pad, ..Window::default() }, group: 1 };
            run(&op, &[Some(&x), Some(&w)], 1).unwrap()[0].to_f32()
        };
        assert_eq!(y(AutoPad::SameUpper), [21.0, 32.0, 43.0, 4.0]);
        assert_eq!(y(AutoPad::SameLower), [10.0, 21.0, 32.0, 43.0]);
        assert_eq!(y(AutoPad::Valid), [21.0, 32.0, 43.0]);
        let op = Conv {
            window: Window { strides: vec![3], auto_pad: AutoPad::SameLower, ..Window::default() },
            group: 1,
        };
        check_gradient(op, &[&x, &w], 1, &[0, 1]);
    }

    #[test]
    fn gradients_against_differences() {
        let mut draw = Draw::new(3);
        for c in CASES {
            let [x, w, b] = drawn(&mut draw, &c.4, &c.5);
            check_gradient(case(c), &[&x, &w, &b], 1, &[0, 1, 2]);
        }
    }

    #[test]
    fn symbolic_sizes_pass_through() {
        let x = Type {
            shape: Some(vec![Dim::sym("N"), Dim::Fixed(3), Dim::sym("H"), Dim::Fixed(7)]),
            ..Type::of(tensor::DType::F32)
        };
        let w = Type::new(tensor::DType::F32, [8, 3, 3, 3]);
        let args = [&x, &w].map(|ty| Some(ir::Arg { ty, value: None }));
        let op = Conv { window: Window::new(&[3, 3], 1, 1), group: 1 };
        assert_eq!(op.infer(&Infer::new(&args, 1)).unwrap()[0].to_string(), "float[N,8,H,7]");
    }

    #[test]
    fn the_three_products_are_as_much_work() {
        let operand = |shape: &[usize]| ir::Operand {
            dtype: tensor::DType::F32,
            shape: shape.to_vec(),
            layout: ir::Layout::Plain,
            value: None,
        };
        let (x, w, y) = (operand(&[2, 6, 5, 5]), operand(&[4, 3, 3, 3]), operand(&[2, 4, 3, 3]));
        let flops = |op: &dyn Op, ins: [&ir::Operand; 2], out: &ir::Operand| {
            op.flops(&Lower { ins: ins.map(|o| Some(o.clone())).to_vec(), outs: vec![out.clone()] })
        };
        let (window, group) = (Window::new(&[3, 3], 1, 0), 2);
        let forward = flops(&Conv { window: window.clone(), group }, [&x, &w], &y);
        let input = vec![5, 5];
        let grads = [
            flops(&ConvInputGrad { window: window.clone(), group, input }, [&y, &w], &x),
            flops(&ConvWeightGrad { window, group }, [&y, &x], &w),
        ];
        assert_eq!((forward, grads), (Some(2 * 72 * 27), [forward; 2]));
    }

    #[test]
    fn misfits_are_told() {
        let t = |shape: &[usize]| Tensor::zeros(tensor::DType::F32, shape);
        let fail = |op: &Conv, x: &[usize], w: &[usize], b: &[usize]| {
            run(op, &[Some(&t(x)), Some(&t(w)), Some(&t(b))], 1).unwrap_err()
        };
        let op = Conv::default();
        let e = fail(&op, &[1, 3, 4, 4], &[2, 2, 3, 3], &[2]);
        assert_eq!(
            e,
            "float[1,3,4,4] has 3 channels, but the weight float[2,2,3,3] in 1 group(s) takes 2 each"
        );
        assert!(fail(&op, &[1, 3, 4, 4], &[2, 3, 5, 5], &[2]).contains("window of 5 exceeds"));
        assert!(fail(&op, &[1, 3, 4, 4], &[2, 3, 3, 3], &[3]).contains("the bias float[3] should have 2"));
        assert!(fail(&op, &[1, 3, 4, 4], &[2, 3, 3], &[2]).contains("same rank"));
        assert!(fail(&op, &[1, 3], &[2, 3], &[2]).contains("rank 2"));
        assert!(
            fail(&Conv { group: 2, ..op.clone() }, &[1, 2, 4], &[3, 1, 3], &[3]).contains("do not divide")
        );
        assert!(
            fail(&Conv { window: Window::new(&[2], 1, 0), group: 1 }, &[1, 2, 4], &[3, 2, 3], &[3])
                .contains("kernel_shape")
        );
        assert!(fail(&op, &[1, 2, 4, 4, 4], &[3, 2, 5, 1, 1], &[3]).contains("window of 5 exceeds"));
        assert!(parse_group(&Attrs::new().with_int("group", 0, 1)).is_err());
    }
}
