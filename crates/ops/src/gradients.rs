//! Every gradient, held against differences on operands and attributes that are drawn: [`DRAWN`] says how, operator by
//! operator. `PROPTEST_CASES` is the number of cases of each operator.

use crate::testing::{Agreement, Check, Draw, Tolerance};
use crate::{Ops, operators};
use ir::{Attr, Attrs, Parse, Parsed, Registry};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use std::cell::Cell;
use tensor::{DType, Tensor};

/// A drawn operation: attributes and operands in the form of the newest ONNX.
#[derive(Clone, Debug, Default)]
pub(crate) struct Drawn {
    pub attrs: Attrs,
    pub ins: Vec<Option<Tensor>>,
    /// Slots of floats that have no gradient.
    fixed: Vec<usize>,
    pub outs: usize,
    /// How many of the first results a loss may read.
    read: usize,
}

impl Drawn {
    fn of<const N: usize>(ins: [Tensor; N]) -> Drawn {
        Drawn { ins: ins.map(Some).into(), outs: 1, read: 1, ..Drawn::default() }
    }

    /// One more operand.
    fn and(mut self, operand: Tensor) -> Drawn {
        self.ins.push(Some(operand));
        self
    }

    /// One more operand, or a hole in its place.
    fn maybe(mut self, given: bool, operand: Tensor) -> Drawn {
        self.ins.push(given.then_some(operand));
        self
    }

    fn with(mut self, name: &str, value: Attr) -> Drawn {
        self.attrs.set(name, value);
        self
    }

    fn int(self, name: &str, value: i64) -> Drawn {
        self.with(name, Attr::Int(value))
    }

    fn flag(self, name: &str, value: bool) -> Drawn {
        self.int(name, value.into())
    }

    fn float(self, name: &str, value: f32) -> Drawn {
        self.with(name, Attr::Float(value))
    }

    fn str(self, name: &str, value: &str) -> Drawn {
        self.with(name, Attr::Str(value.into()))
    }

    fn ints(self, name: &str, values: &[usize]) -> Drawn {
        self.with(name, Attr::Ints(values.iter().map(|&v| v as i64).collect()))
    }

    /// Without a gradient of these operands.
    fn fixed(mut self, slots: &[usize]) -> Drawn {
        self.fixed.extend(slots);
        self
    }

    /// With several results, of which a loss may read the first `read`.
    fn outs(self, outs: usize, read: usize) -> Drawn {
        Drawn { outs, read, ..self }
    }
}

pub(crate) type Case = fn(&mut Draw) -> Drawn;

/// Operators with a gradient: domain, name, and how a case is drawn. Elements stay away from poles and, where that is
/// easily said, from kinks.
pub(crate) const DRAWN: &[(&str, &str, Case)] = &[
    ("", "Abs", |d| unary(d, -2.0, 2.0, &[0.0])),
    ("", "Acos", |d| unary(d, -0.8, 0.8, &[])),
    ("", "Acosh", |d| unary(d, 1.3, 3.0, &[])),
    ("", "Add", |d| binary(d, -2.0, 2.0)),
    ("", "AffineGrid", |d| {
        let axes = d.int(2, 4);
        let size = [vec![d.int(1, 3), 1], d.shape(axes, 3)].concat();
        let theta = d.tensor(&[size[0], axes, axes + 1], -1.0, 1.0);
        Drawn::of([theta, list(&size)]).flag("align_corners", d.chance(2))
    }),
    ("", "Asin", |d| unary(d, -0.8, 0.8, &[])),
    ("", "Asinh", |d| unary(d, -3.0, 3.0, &[])),
    ("", "Atan", |d| unary(d, -3.0, 3.0, &[])),
    ("", "Atanh", |d| unary(d, -0.7, 0.7, &[])),
    ("", "Attention", |d| {
        let (batch, queries, keys, size) = (d.int(1, 3), d.int(1, 4), d.int(1, 4), d.int(1, 4));
        let (kv_heads, shared, values) = (d.int(1, 3), d.int(1, 3), d.int(1, 4));
        let (flat, heads) = (d.chance(2), kv_heads * shared);
        let operand = |d: &mut Draw, heads: usize, length: usize, size: usize| match flat {
            true => d.tensor(&[batch, length, heads * size], -1.0, 1.0),
            false => d.tensor(&[batch, heads, length, size], -1.0, 1.0),
        };
        let q = operand(d, heads, queries, size);
        let (k, v) = (operand(d, kv_heads, keys, size), operand(d, kv_heads, keys, values));
        let masked = d.chance(2);
        let mut drawn = Drawn::of([q, k, v]).maybe(masked, d.tensor(&[queries, keys], -1.0, 1.0));
        if flat {
            drawn = drawn.int("q_num_heads", heads as i64).int("kv_num_heads", kv_heads as i64);
        }
        if d.chance(2) {
            drawn = drawn.float("softcap", 1.5);
        }
        drawn.flag("is_causal", d.chance(2)).float("scale", d.float(0.5, 1.0))
    }),
    ("", "AveragePool", |d| {
        let (x, drawn) = window(d, true);
        let count = d.chance(2);
        drawn(Drawn::of([d.tensor(&x, -1.0, 1.0)]))
            .flag("count_include_pad", count)
            .flag("ceil_mode", d.chance(2))
    }),
    ("", "BatchNormalization", |d| {
        let x = d.dims(2, 5);
        let (c, training) = (x[1], d.chance(2));
        let per_channel = |d: &mut Draw, lo, hi| d.tensor(&[c], lo, hi);
        let mut drawn =
            Drawn::of([d.tensor(&x, -2.0, 2.0), per_channel(d, 0.5, 1.5), per_channel(d, -1.0, 1.0)]);
        drawn = drawn.and(per_channel(d, -1.0, 1.0)).and(per_channel(d, 0.5, 2.0)).fixed(&[3, 4]);
        let drawn = drawn.flag("training_mode", training).float("epsilon", 0.1);
        if training { drawn.outs(3, 1) } else { drawn }
    }),
    ("", "Cast", |d| unary(d, -2.0, 2.0, &[]).int("to", 1)),
    ("", "CastLike", |d| unary(d, -2.0, 2.0, &[]).and(Tensor::scalar(1f32)).fixed(&[1])),
    ("", "CausalConvWithState", |d| {
        let (batch, channels, length, kernel) = (d.int(1, 3), d.int(1, 4), d.int(1, 5), d.int(1, 4));
        let (bias, past) = (d.chance(2), d.chance(2));
        let activation = d.pick(&["none", "silu"]);
        Drawn::of([
            d.tensor(&[batch, channels, length], -1.0, 1.0),
            d.tensor(&[channels, 1, kernel], -1.0, 1.0),
        ])
        .maybe(bias, d.tensor(&[channels], -1.0, 1.0))
        .maybe(past, d.tensor(&[batch, channels, kernel - 1], -1.0, 1.0))
        .str("activation", activation)
        .outs(2, 2)
    }),
    ("", "Ceil", |d| unary(d, -1.9, 1.9, &[-1.0, 0.0, 1.0])),
    ("", "Celu", |d| unary(d, -2.0, 2.0, &[0.0]).float("alpha", d.float(0.5, 2.0))),
    ("", "CenterCropPad", |d| {
        let x = d.dims(1, 4);
        let to = d.shape(x.len(), 5);
        Drawn::of([d.tensor(&x, -1.0, 1.0), list(&to)])
    }),
    ("", "Clip", |d| {
        let (low, high) = (d.chance(2), d.chance(2));
        let drawn = unary(d, -2.0, 2.0, &[-1.0, 0.5]);
        drawn.maybe(low, Tensor::scalar(-1f32)).maybe(high, Tensor::scalar(0.5f32)).fixed(&[1, 2])
    }),
    ("", "Col2Im", |d| {
        let (x, attributes) = window(d, false);
        let block = kernel(&attributes);
        let w = crate::Window::parse(&attributes(Drawn::default()).attrs).unwrap_or_default();
        let output = |i: usize| {
            w.axis(i, block.len(), x[i + 2], block[i], kernels::window::Rounding::Floor)
                .map_or(0, |a| a.output)
        };
        let patches = (0..block.len()).map(output).product();
        let columns = x[1] * block.iter().product::<usize>();
        let operands =
            Drawn::of([d.tensor(&[x[0], columns, patches], -1.0, 1.0), list(&x[2..]), list(&block)]);
        let mut drawn = attributes(operands);
        drawn.attrs = drawn
            .attrs
            .iter()
            .filter(|(n, _)| *n != "kernel_shape")
            .map(|(n, a)| (n.into(), a.clone()))
            .collect();
        drawn
    }),
    ("", "Compress", |d| {
        let x = d.dims(1, 4);
        let axis = d.int(0, x.len());
        let (whole, n) = (d.chance(3), d.int(1, x[axis] + 1));
        let chosen: Vec<bool> = (0..n).map(|i| i == 0 || d.chance(2)).collect();
        let drawn = Drawn::of([d.tensor(&x, -2.0, 2.0), Tensor::bools(&[n], &chosen)]);
        if whole { drawn } else { drawn.int("axis", signed(d, axis, x.len())) }
    }),
    ("", "Concat", |d| {
        let mut x = d.dims(1, 4);
        let (axis, parts) = (d.int(0, x.len()), d.int(1, 4));
        let mut ins = Vec::new();
        for _ in 0..parts {
            x[axis] = d.int(1, 4);
            ins.push(Some(d.tensor(&x, -2.0, 2.0)));
        }
        Drawn { ins, ..Drawn::of([]) }.int("axis", signed(d, axis, x.len()))
    }),
    ("", "Conv", |d| {
        let (x, drawn) = window(d, false);
        let group = d.int(1, 4);
        let (own, out, kernel) = (d.int(1, 4), d.int(1, 3), kernel(&drawn));
        let x = [&[x[0], group * own], &x[2..]].concat();
        let w = [&[group * out, own], &kernel[..]].concat();
        let bias = d.chance(2);
        let operands = Drawn::of([d.tensor(&x, -1.0, 1.0), d.tensor(&w, -1.0, 1.0)]);
        drawn(operands.maybe(bias, d.tensor(&[group * out], -1.0, 1.0))).int("group", group as i64)
    }),
    ("", "ConvTranspose", |d| {
        let (axes, group) = (d.int(1, 3), d.int(1, 3));
        let each = |d: &mut Draw, from, to| (0..axes).map(|_| d.int(from, to)).collect::<Vec<usize>>();
        let (kernel, strides, dilations) = (each(d, 1, 4), each(d, 1, 4), each(d, 1, 3));
        let extra: Vec<usize> = strides.iter().map(|&s| d.int(0, s)).collect();
        let x = [vec![d.int(1, 3), group * d.int(1, 3)], each(d, 1, 5)].concat();
        let w = [vec![x[1], d.int(1, 3)], kernel.clone()].concat();
        let extent = |i: usize| (kernel[i] - 1) * dilations[i] + 1;
        // At least one element has to stay.
        let most = |i: usize| ((x[i + 2] - 1) * strides[i] + extent(i) - 1).min(extent(i) - 1);
        let begin: Vec<usize> = (0..axes).map(|i| d.int(0, most(i) / 2 + 1)).collect();
        let end: Vec<usize> = (0..axes).map(|i| d.int(0, most(i) / 2 + 1)).collect();
        let auto = d.chance(4);
        let bias = d.chance(2);
        let drawn = Drawn::of([d.tensor(&x, -1.0, 1.0), d.tensor(&w, -1.0, 1.0)])
            .maybe(bias, d.tensor(&[group * w[1]], -1.0, 1.0))
            .ints("strides", &strides)
            .ints("dilations", &dilations)
            .int("group", group as i64);
        match auto {
            true => drawn.str("auto_pad", "VALID"),
            false => drawn.ints("pads", &[begin, end].concat()).ints("output_padding", &extra),
        }
    }),
    ("", "Cos", |d| unary(d, -3.0, 3.0, &[])),
    ("", "Cosh", |d| unary(d, -2.0, 2.0, &[])),
    ("", "CumProd", |d| cumulative(d, &[0.0, -0.5, 1.0, 1.5])),
    ("", "CumSum", |d| cumulative(d, &[0.0, -0.5, 1.0, 1.5])),
    ("", "DeformConv", |d| {
        let (group, own, out) = (d.int(1, 3), d.int(1, 3), d.int(1, 3));
        let (kernel, x) = (d.shape(2, 2), [d.int(2, 5), d.int(2, 5)]);
        let y = [x[0] - kernel[0] + 1, x[1] - kernel[1] + 1];
        let taps = kernel[0] * kernel[1];
        let (bias, mask) = (d.chance(2), d.chance(2));
        let places = |channels: usize| [1, channels, y[0], y[1]];
        let (x, w) = ([1, group * own, x[0], x[1]], [group * out, own, kernel[0], kernel[1]]);
        // Taps stay between elements, away from the kinks there.
        Drawn::of([d.tensor(&x, -1.0, 1.0), d.tensor(&w, -1.0, 1.0), d.tensor(&places(2 * taps), 0.1, 0.9)])
            .maybe(bias, d.tensor(&[group * out], -1.0, 1.0))
            .maybe(mask, d.tensor(&places(taps), 0.5, 1.0))
            .int("group", group as i64)
    }),
    ("", "DepthToSpace", |d| {
        let b = d.int(1, 4);
        let x = [d.int(1, 3), b * b * d.int(1, 3), d.int(1, 4), d.int(1, 4)];
        Drawn::of([d.tensor(&x, -2.0, 2.0)]).int("blocksize", b as i64).str("mode", d.pick(&["DCR", "CRD"]))
    }),
    ("", "Div", |d| {
        let [a, b] = broadcast(d);
        Drawn::of([d.tensor(&a, -2.0, 2.0), d.tensor_off(&b, -2.0, 2.0, &[0.0], 0.5)])
    }),
    ("", "Dropout", |d| {
        let x = d.dims(0, 4);
        let x = d.tensor(&x, -2.0, 2.0);
        let operands = [x, Tensor::scalar(d.float(0.0, 0.9)), Tensor::bools(&[], &[d.chance(2)])];
        let two = d.chance(2);
        Drawn::of(operands).fixed(&[1, 2]).int("seed", d.int(0, 9) as i64).outs(if two { 2 } else { 1 }, 1)
    }),
    ("", "Einsum", einsum),
    ("", "Elu", |d| unary(d, -2.0, 2.0, &[0.0]).float("alpha", d.float(0.5, 2.0))),
    ("", "Erf", |d| unary(d, -2.0, 2.0, &[])),
    ("", "Exp", |d| unary(d, -2.0, 2.0, &[])),
    ("", "Expand", |d| {
        let to = d.dims(0, 4);
        let x = d.broadcast_operand(&to);
        Drawn::of([d.tensor(&x, -2.0, 2.0), list(&to)])
    }),
    ("", "Flatten", |d| {
        let x = d.dims(1, 4);
        Drawn::of([d.tensor(&x, -2.0, 2.0)]).int("axis", d.int(0, x.len() + 1) as i64)
    }),
    ("", "Floor", |d| unary(d, -1.9, 1.9, &[-1.0, 0.0, 1.0])),
    ("", "GRU", |d| {
        let before = d.chance(2);
        recurrent(d, 3, 2, false).flag("linear_before_reset", before)
    }),
    ("", "Gather", |d| {
        let x = d.dims(1, 4);
        let axis = d.int(0, x.len());
        let at = d.dims(0, 2);
        let at = indices(d, &at, &x[axis..=axis]);
        Drawn::of([d.tensor(&x, -2.0, 2.0), at]).int("axis", signed(d, axis, x.len()))
    }),
    ("", "GatherElements", |d| {
        let (x, at, axis) = elements(d);
        Drawn::of([d.tensor(&x, -2.0, 2.0), at]).int("axis", signed(d, axis, x.len()))
    }),
    ("", "GatherND", |d| {
        let x = d.dims(1, 4);
        let batch = d.int(0, x.len());
        let k = d.int(1, x.len() - batch + 1);
        let more = d.dims(0, 2);
        let at = [&x[..batch], &more, &[k]].concat();
        let at = indices(d, &at, &x[batch..batch + k]);
        Drawn::of([d.tensor(&x, -2.0, 2.0), at]).int("batch_dims", batch as i64)
    }),
    ("", "Gelu", |d| unary(d, -3.0, 3.0, &[]).str("approximate", d.pick(&["none", "tanh"]))),
    ("", "Gemm", |d| {
        let [m, k, n] = [0; 3].map(|_| d.int(1, 5));
        let (a, b, bias) = (d.chance(2), d.chance(2), d.chance(2));
        let c = d.broadcast_operand(&[m, n]);
        let x = if a { [k, m] } else { [m, k] };
        let w = if b { [n, k] } else { [k, n] };
        Drawn::of([d.tensor(&x, -1.0, 1.0), d.tensor(&w, -1.0, 1.0)])
            .maybe(bias, d.tensor(&c, -1.0, 1.0))
            .flag("transA", a)
            .flag("transB", b)
            .float("alpha", d.pick(&[1.0, 0.5, -2.0]))
            .float("beta", d.pick(&[1.0, 0.5, -2.0]))
    }),
    ("", "GlobalAveragePool", |d| {
        let x = d.dims(3, 5);
        Drawn::of([d.tensor(&x, -2.0, 2.0)])
    }),
    ("", "GlobalLpPool", |d| {
        let x = d.dims(3, 5);
        Drawn::of([d.tensor(&x, 0.5, 1.5)]).int("p", d.int(1, 4) as i64)
    }),
    ("", "GlobalMaxPool", |d| {
        let x = d.dims(3, 5);
        Drawn::of([d.distinct(&x)])
    }),
    ("", "GridSample", |d| {
        let axes = d.int(1, 4);
        let x = [vec![d.int(1, 3), d.int(1, 3)], d.shape(axes, 3)].concat();
        let grid = [vec![x[0]], d.shape(axes, 2), vec![axes]].concat();
        let mode = d.pick(&["linear", "nearest", "cubic"]);
        let drawn = Drawn::of([d.tensor(&x, -1.0, 1.0), d.tensor(&grid, -1.2, 1.2)]);
        // Positions have kinks at every element; their gradients are tested with the operator.
        drawn
            .str("mode", mode)
            .str("padding_mode", d.pick(&["zeros", "border", "reflection"]))
            .flag("align_corners", d.chance(2))
            .fixed(&[1])
    }),
    ("", "GroupNormalization", |d| {
        let groups = d.int(1, 4);
        let x = [vec![d.int(1, 3), groups * d.int(1, 4)], d.dims(1, 3)].concat();
        let [scale, bias] = [0.5, -1.0].map(|lo| d.tensor(&x[1..2], lo, 1.0));
        Drawn::of([d.tensor(&x, -2.0, 2.0), scale, bias])
            .int("num_groups", groups as i64)
            .float("epsilon", 0.1)
    }),
    ("", "HardSigmoid", |d| unary(d, -2.0, 2.0, &[-1.0, 1.0]).float("alpha", 0.5).float("beta", 0.5)),
    ("", "HardSwish", |d| unary(d, -4.0, 4.0, &[-3.0, 3.0])),
    ("", "Identity", |d| unary(d, -2.0, 2.0, &[])),
    ("", "InstanceNormalization", |d| {
        let x = d.dims(3, 5);
        let [scale, bias] = [0.5, -1.0].map(|lo| d.tensor(&x[1..2], lo, 1.0));
        Drawn::of([d.tensor(&x, -2.0, 2.0), scale, bias]).float("epsilon", 0.1)
    }),
    ("", "LRN", |d| {
        let x = [vec![d.int(1, 3), d.int(1, 6)], d.dims(0, 3)].concat();
        Drawn::of([d.tensor(&x, -2.0, 2.0)])
            .int("size", d.int(1, 7) as i64)
            .float("alpha", d.float(0.1, 2.0))
            .float("beta", d.float(0.2, 2.0))
            .float("bias", d.float(0.5, 2.0))
    }),
    ("", "LSTM", |d| {
        let peepholes = d.chance(2);
        recurrent(d, 4, 3, peepholes)
    }),
    ("", "LayerNormalization", layer_norm),
    ("", "LeakyRelu", |d| unary(d, -2.0, 2.0, &[0.0]).float("alpha", d.float(0.01, 0.5))),
    ("", "Log", |d| unary(d, 0.4, 3.0, &[])),
    ("", "LogSoftmax", |d| along_axis(d, -2.0, 2.0)),
    ("", "LpNormalization", |d| {
        let p = d.int(1, 3) as i64;
        let mut drawn = along_axis(d, -2.0, 2.0);
        // Elements of the sum of absolute values stay off its kinks, and norms off 0.
        let shape = drawn.ins[0].as_ref().map(|x| x.shape().to_vec()).unwrap_or_default();
        drawn.ins[0] = Some(d.tensor_off(&shape, -2.0, 2.0, &[0.0], 0.3));
        drawn.int("p", p)
    }),
    ("", "LpPool", |d| {
        let (x, drawn) = window(d, true);
        drawn(Drawn::of([d.tensor(&x, 0.5, 1.5)])).int("p", d.int(1, 4) as i64).flag("ceil_mode", d.chance(2))
    }),
    ("", "MatMul", |d| {
        let [m, k, n] = [0; 3].map(|_| d.int(1, 5));
        let batch = d.dims(0, 2);
        let [a, b] = match d.int(0, 4) {
            0 => [vec![m, k], vec![k, n]],
            1 => [vec![k], [&batch[..], &[k, n]].concat()],
            2 => [[&batch[..], &[m, k]].concat(), vec![k]],
            _ => {
                let [a, b] = [0; 2].map(|_| d.broadcast_operand(&batch));
                [[&a[..], &[m, k]].concat(), [&b[..], &[k, n]].concat()]
            }
        };
        Drawn::of([d.tensor(&a, -1.0, 1.0), d.tensor(&b, -1.0, 1.0)])
    }),
    ("", "Max", extreme),
    ("", "MaxPool", |d| {
        let (x, drawn) = window(d, true);
        let indices = d.chance(3);
        let drawn = drawn(Drawn::of([d.distinct(&x)])).flag("ceil_mode", d.chance(2));
        if indices { drawn.outs(2, 1) } else { drawn }
    }),
    ("", "MaxUnpool", |d| {
        let (channels, n, kernel) = (d.int(1, 3), d.int(1, 4), d.int(1, 4));
        // One index in each window, no two of them alike.
        let places = (0..channels * n).map(|i| (i * kernel + d.int(0, kernel)) as i64).collect();
        let x = [1, channels, n];
        Drawn::of([d.tensor(&x, -1.0, 1.0), Tensor::new(&x, places)])
            .ints("kernel_shape", &[kernel])
            .ints("strides", &[kernel])
    }),
    ("", "Mean", several),
    ("", "MeanVarianceNormalization", |d| {
        let x = [2, d.int(1, 3), d.int(2, 4), d.int(1, 4)];
        let axes = d.pick(&[&[0usize, 2, 3][..], &[0, 1, 2], &[0, 2]]);
        Drawn::of([d.distinct(&x)]).ints("axes", axes)
    }),
    ("", "Min", extreme),
    ("", "Mish", |d| unary(d, -3.0, 3.0, &[])),
    ("", "Mod", |d| {
        let [a, b] = broadcast(d);
        let fmod = d.chance(2);
        // Quotients whose whole part no small step changes.
        let b =
            Tensor::new(&b, (0..b.iter().product()).map(|_| d.pick(&[-2.0f32, -1.5, 1.0, 2.5])).collect());
        Drawn::of([d.tensor(&a, -5.0, 5.0), b]).flag("fmod", fmod)
    }),
    ("", "Mul", |d| binary(d, -2.0, 2.0)),
    ("", "Neg", |d| unary(d, -2.0, 2.0, &[])),
    ("", "NegativeLogLikelihoodLoss", class_loss),
    ("", "PRelu", |d| {
        let x = d.dims(0, 4);
        let slope = d.broadcast_operand(&x);
        Drawn::of([d.tensor_off(&x, -2.0, 2.0, &[0.0], 0.02), d.tensor(&slope, 0.0, 0.5)])
    }),
    ("", "Pad", |d| {
        let mode = d.pick(&["constant", "edge", "reflect", "wrap"]);
        let (value, some) = (mode == "constant" && d.chance(2), d.chance(3));
        // The gradient of the value is a sum over all that is padded, which few elements leave exact enough.
        let x = d.dims(1, if value { 2 } else { 4 });
        let axes: Vec<usize> = (0..x.len()).filter(|&i| i == 0 || !some || d.chance(2)).collect();
        // Reflections reach over one axis length at most; constants may crop.
        let pad = |d: &mut Draw, n: usize| match mode {
            "reflect" => d.int(0, n) as i64,
            "constant" if n > 2 && d.chance(3) => -1,
            _ => d.int(0, n.min(2) + 1) as i64,
        };
        let pads: Vec<i64> = [0, 1].iter().flat_map(|_| &axes).map(|&a| pad(d, x[a])).collect();
        let drawn = Drawn::of([d.tensor(&x, -2.0, 2.0), Tensor::new(&[pads.len()], pads)]).str("mode", mode);
        let drawn = drawn.maybe(value, Tensor::scalar(0.5f32));
        if some { drawn.and(list(&axes)) } else { drawn }
    }),
    ("", "Pow", |d| {
        let [a, b] = broadcast(d);
        Drawn::of([d.tensor(&a, 0.5, 2.0), d.tensor(&b, -2.0, 3.0)])
    }),
    ("", "RMSNormalization", |d| {
        let x = d.dims(1, 4);
        let axis = d.int(0, x.len());
        let scale = d.int(axis, x.len() + 1);
        Drawn::of([d.tensor(&x, -2.0, 2.0), d.tensor(&x[scale..], 0.5, 1.5)])
            .int("axis", signed(d, axis, x.len()))
            .float("epsilon", 0.1)
    }),
    ("", "RNN", |d| recurrent(d, 1, 1, false)),
    ("", "Reciprocal", |d| unary(d, 0.5, 3.0, &[])),
    ("", "ReduceL1", |d| reduction(d, |d, x| d.tensor_off(x, -2.0, 2.0, &[0.0], 0.05))),
    ("", "ReduceL2", |d| reduction(d, |d, x| d.tensor_off(x, -2.0, 2.0, &[0.0], 0.3))),
    ("", "ReduceLogSum", |d| reduction(d, |d, x| d.tensor(x, 0.5, 2.0))),
    ("", "ReduceLogSumExp", |d| reduction(d, |d, x| d.tensor(x, -2.0, 2.0))),
    ("", "ReduceMax", |d| reduction(d, |d, x| d.distinct(x))),
    ("", "ReduceMean", |d| reduction(d, |d, x| d.tensor(x, -2.0, 2.0))),
    ("", "ReduceMin", |d| reduction(d, |d, x| d.distinct(x))),
    ("", "ReduceProd", |d| reduction(d, |d, x| d.among(x, &[0.0, -0.5, 1.0, 1.5]))),
    ("", "ReduceSum", |d| reduction(d, |d, x| d.tensor(x, -2.0, 2.0))),
    ("", "ReduceSumSquare", |d| reduction(d, |d, x| d.tensor(x, -2.0, 2.0))),
    ("", "Relu", |d| unary(d, -2.0, 2.0, &[0.0])),
    ("", "Reshape", |d| {
        let x = d.dims(0, 4);
        let len: usize = x.iter().product();
        let first = (1..=len).filter(|&n| len.is_multiple_of(n)).nth(d.int(0, 2)).unwrap_or(1);
        let to = if d.chance(2) { vec![first as i64, -1] } else { vec![-1, 1, first as i64] };
        Drawn::of([d.tensor(&x, -2.0, 2.0), Tensor::new(&[to.len()], to)])
    }),
    ("", "Resize", resize),
    ("", "ReverseSequence", |d| {
        let x = d.dims(2, 4);
        let batch = d.int(0, 2);
        let lengths = (0..x[batch]).map(|_| d.int(1, x[1 - batch] + 1) as i64).collect();
        Drawn::of([d.tensor(&x, -2.0, 2.0), Tensor::new(&x[batch..=batch], lengths)])
            .int("batch_axis", batch as i64)
            .int("time_axis", 1 - batch as i64)
    }),
    ("", "RotaryEmbedding", |d| {
        let (batch, heads, length, half) = (d.int(1, 3), d.int(1, 3), d.int(1, 4), d.int(1, 4));
        let (flat, rest) = (d.chance(2), if d.chance(3) { 2 } else { 0 });
        let size = 2 * half + rest;
        let x = if flat { vec![batch, length, heads * size] } else { vec![batch, heads, length, size] };
        let positions: Vec<i64> = (0..batch * length).map(|_| d.int(0, 5) as i64).collect();
        Drawn::of([d.tensor(&x, -1.0, 1.0), d.tensor(&[5, half], -1.0, 1.0), d.tensor(&[5, half], -1.0, 1.0)])
            .and(Tensor::new(&[batch, length], positions))
            .flag("interleaved", d.chance(2))
            .int("num_heads", heads as i64)
            .int("rotary_embedding_dim", if rest == 0 { 0 } else { 2 * half as i64 })
    }),
    ("", "Round", |d| unary(d, -1.4, 1.4, &[-0.5, 0.5])),
    ("", "Scatter", |d| scatter_elements(d, "none")),
    ("", "ScatterElements", |d| {
        let reduction = d.pick(&["none", "add", "mul", "max", "min"]);
        scatter_elements(d, reduction).str("reduction", reduction)
    }),
    ("", "ScatterND", |d| {
        let reduction = d.pick(&["none", "add", "mul", "max", "min"]);
        let x = d.dims(1, 3);
        let k = d.int(1, x.len() + 1);
        let distinct = reduction == "none";
        let places: usize = x[..k].iter().product();
        let rows = if distinct { vec![d.int(1, places + 1)] } else { d.dims(1, 2) };
        let draw = if distinct { distinct_indices } else { indices };
        let at = draw(d, &[&rows[..], &[k]].concat(), &x[..k]);
        scatter(d, &x, at, &[&rows[..], &x[k..]].concat(), reduction).str("reduction", reduction)
    }),
    ("", "Selu", |d| unary(d, -2.0, 2.0, &[0.0])),
    ("", "Shrink", |d| unary(d, -2.0, 2.0, &[-0.5, 0.5]).float("bias", d.float(0.0, 0.5))),
    ("", "Sigmoid", |d| unary(d, -4.0, 4.0, &[])),
    ("", "Sign", |d| unary(d, -2.0, 2.0, &[0.0])),
    ("", "Sin", |d| unary(d, -3.0, 3.0, &[])),
    ("", "Sinh", |d| unary(d, -2.0, 2.0, &[])),
    ("", "Slice", |d| {
        let x = d.dims(1, 4);
        let axes: Vec<usize> = (0..x.len()).filter(|&i| i == 0 || d.chance(2)).collect();
        let mut parts = [vec![], vec![], vec![]];
        for &axis in &axes {
            let (n, back) = (x[axis], d.chance(2));
            let (from, to) = (d.int(0, n), d.int(0, n));
            let (from, to) = (from.min(to) as i64, from.max(to) as i64);
            let step = d.int(1, 4) as i64;
            let [start, end, step] =
                if back { [to, from - 1 - n as i64, -step] } else { [from, to + 1, step] };
            let start = if d.chance(2) { start - n as i64 } else { start };
            parts.iter_mut().zip([start, end, step]).for_each(|(part, value)| part.push(value));
        }
        let [starts, ends, steps] = parts.map(|values| Tensor::new(&[axes.len()], values));
        Drawn::of([d.tensor(&x, -2.0, 2.0), starts, ends, list(&axes), steps])
    }),
    ("", "Softmax", |d| along_axis(d, -2.0, 2.0)),
    ("", "SoftmaxCrossEntropyLoss", |d| {
        let outs = d.int(1, 3);
        class_loss(d).outs(outs, outs)
    }),
    ("", "Softplus", |d| unary(d, -3.0, 3.0, &[])),
    ("", "Softsign", |d| unary(d, -3.0, 3.0, &[0.0])),
    ("", "SpaceToDepth", |d| {
        let b = d.int(1, 4);
        let x = [d.int(1, 3), d.int(1, 4), b * d.int(1, 4), b * d.int(1, 4)];
        Drawn::of([d.tensor(&x, -2.0, 2.0)]).int("blocksize", b as i64)
    }),
    ("", "Split", |d| {
        let mut x = d.dims(1, 4);
        let (axis, parts, even) = (d.int(0, x.len()), d.int(1, 4), d.chance(2));
        let sizes: Vec<usize> = (0..parts).map(|_| d.int(1, 4)).collect();
        x[axis] = sizes.iter().sum();
        let drawn =
            Drawn::of([d.tensor(&x, -2.0, 2.0)]).int("axis", signed(d, axis, x.len())).outs(parts, parts);
        if even { drawn.int("num_outputs", parts as i64) } else { drawn.and(list(&sizes)) }
    }),
    ("", "Sqrt", |d| unary(d, 0.4, 3.0, &[])),
    ("", "Squeeze", |d| {
        let mut x = d.dims(1, 4);
        let (axis, all) = (d.int(0, x.len()), d.chance(2));
        x[axis] = 1;
        let drawn = Drawn::of([d.tensor(&x, -2.0, 2.0)]);
        if all { drawn } else { drawn.and(list(&[axis])) }
    }),
    ("", "Sub", |d| binary(d, -2.0, 2.0)),
    ("", "Sum", several),
    ("", "SwiGLU", |d| {
        let x = d.dims(0, 4);
        Drawn::of([d.tensor(&x, -2.0, 2.0), d.tensor(&x, -2.0, 2.0)]).float("alpha", d.float(0.5, 2.0))
    }),
    ("", "Swish", |d| unary(d, -2.0, 2.0, &[]).float("alpha", d.float(0.5, 2.0))),
    ("", "Tan", |d| unary(d, -1.0, 1.0, &[])),
    ("", "Tanh", |d| unary(d, -2.0, 2.0, &[])),
    ("", "ThresholdedRelu", |d| unary(d, -2.0, 2.0, &[0.5]).float("alpha", 0.5)),
    ("", "Tile", |d| {
        let x = d.dims(0, 4);
        let repeats: Vec<usize> = x.iter().map(|_| d.int(1, 4)).collect();
        Drawn::of([d.tensor(&x, -2.0, 2.0), list(&repeats)])
    }),
    ("", "TopK", |d| {
        let x = d.dims(1, 4);
        let (axis, outs) = (d.int(0, x.len()), d.int(1, 3));
        let k = d.int(1, x[axis] + 1);
        Drawn::of([d.distinct(&x), list(&[k])])
            .int("axis", signed(d, axis, x.len()))
            .int("largest", d.int(0, 2) as i64)
            .outs(outs, 1)
    }),
    ("", "Transpose", |d| {
        let x = d.dims(0, 5);
        let mut order: Vec<usize> = (0..x.len()).collect();
        (1..order.len()).for_each(|i| order.swap(i, d.int(0, i + 1)));
        let given = d.chance(2);
        let drawn = Drawn::of([d.tensor(&x, -2.0, 2.0)]);
        if given { drawn.ints("perm", &order) } else { drawn }
    }),
    ("", "Trilu", |d| {
        let x = d.dims(2, 4);
        let given = d.chance(2);
        let k = Tensor::scalar(d.int(0, 7) as i64 - 3);
        Drawn::of([d.tensor(&x, -2.0, 2.0)]).maybe(given, k).int("upper", d.int(0, 2) as i64)
    }),
    ("", "Unsqueeze", |d| {
        let x = d.dims(0, 3);
        let axis = d.int(0, x.len() + 1);
        Drawn::of([d.tensor(&x, -2.0, 2.0), list(&[axis])])
    }),
    ("", "Upsample", |d| {
        let x = d.dims(4, 4);
        let scales = [1.0, 1.0, d.pick(&[1.0, 1.5, 2.0]), d.pick(&[1.0, 2.0, 3.0])];
        let mode = d.pick(&["nearest", "linear"]);
        Drawn::of([d.tensor(&x, -2.0, 2.0)]).with("scales", Attr::Floats(scales.into())).str("mode", mode)
    }),
    ("", "Where", |d| {
        let full = d.dims(0, 4);
        let [condition, a, b] = [0; 3].map(|_| d.broadcast_operand(&full));
        let choice: Vec<bool> = (0..condition.iter().product()).map(|_| d.float(0.0, 1.0) < 0.5).collect();
        let condition = Tensor::bools(&condition, &choice);
        Drawn::of([condition, d.tensor(&a, -2.0, 2.0), d.tensor(&b, -2.0, 2.0)])
    }),
    ("com.microsoft", "BiasGelu", biased),
    ("com.microsoft", "FastGelu", biased),
    ("com.microsoft", "Gelu", |d| unary(d, -3.0, 3.0, &[])),
    ("com.microsoft", "LayerNormalization", layer_norm),
    ("com.microsoft", "QuickGelu", |d| unary(d, -3.0, 3.0, &[]).float("alpha", d.float(0.5, 2.0))),
    ("com.microsoft", "SkipLayerNormalization", |d| skip_norm(d, 2)),
    ("com.microsoft", "SkipSimplifiedLayerNormalization", |d| skip_norm(d, 1)),
    ("qat", "SumTo", |d| {
        let full = d.dims(0, 4);
        let to = d.broadcast_operand(&full);
        Drawn::of([d.tensor(&full, -0.5, 0.5), d.tensor(&to, -2.0, 2.0)]).fixed(&[1])
    }),
];

/// The other operators: why, domain, names.
const OTHERS: &[(&str, &str, &[&str])] = &[
    (
        "loops become their rounds, and branches that are decided themselves, before gradients are taken",
        "",
        &["If", "Loop", "Scan"],
    ),
    (
        "results are booleans or integers",
        "",
        &[
            "And",
            "ArgMax",
            "ArgMin",
            "BitShift",
            "BitwiseAnd",
            "BitwiseNot",
            "BitwiseOr",
            "BitwiseXor",
            "ConvInteger",
            "DynamicQuantizeLinear",
            "Equal",
            "Greater",
            "GreaterOrEqual",
            "IsInf",
            "IsNaN",
            "Less",
            "LessOrEqual",
            "MatMulInteger",
            "NonMaxSuppression",
            "NonZero",
            "Not",
            "Or",
            "QLinearConv",
            "QLinearMatMul",
            "QuantizeLinear",
            "Shape",
            "Size",
            "Xor",
        ],
    ),
    (
        "operands are integers, bits, or say how a constant looks",
        "",
        &[
            "BitCast",
            "BlackmanWindow",
            "ConstantOfShape",
            "DequantizeLinear",
            "EyeLike",
            "HammingWindow",
            "HannWindow",
            "OneHot",
            "Range",
        ],
    ),
    ("the result is constant but for jumps", "", &["Hardmax"]),
    (
        "of caches, regions and signals, which are not trained",
        "",
        &["Det", "LinearAttention", "RoiAlign", "TensorScatter", "Unique"],
    ),
    (
        "an update of parameters is the end of a step",
        "ai.onnx.preview.training",
        &["Adagrad", "Adam", "Momentum"],
    ),
    ("an update of parameters is the end of a step", "qat", &["Adam", "Momentum", "Sgd"]),
    (
        "operators of deployed files, which are not trained",
        "com.microsoft",
        &[
            "FusedConv",
            "MatMulIntegerToFloat",
            "QGemm",
            "QLinearAdd",
            "QLinearAveragePool",
            "QLinearConcat",
            "QLinearGlobalAveragePool",
            "QLinearLeakyRelu",
            "QLinearMul",
            "QLinearSigmoid",
        ],
    ),
    (
        "gradients have no gradients of their own",
        "qat",
        &[
            "AveragePoolGrad",
            "BatchNormalizationGrad",
            "BinaryGrad",
            "ChannelSum",
            "ClipGrad",
            "CodesConvWeightGrad",
            "ConvInputGrad",
            "ConvWeightGrad",
            "CumProdGrad",
            "EpilogueGrad",
            "FakeQuantGrad",
            "FakeQuantScaleGrad",
            "GatherGrad",
            "GlobalAveragePoolGrad",
            "GlobalMaxPoolGrad",
            "GridSampleGrad",
            "InstanceNormalizationGrad",
            "LRNGrad",
            "LayerNormalizationGrad",
            "LogSoftmaxGrad",
            "MatMulGrad",
            "MaxPoolGrad",
            "NegativeLogLikelihoodGrad",
            "PactGrad",
            "PadGrad",
            "RecurrentGrad",
            "ReduceGrad",
            "ResizeGrad",
            "SliceGrad",
            "SoftmaxCrossEntropyGrad",
            "SoftmaxGrad",
            "UnaryGrad",
        ],
    ),
    (
        "statistics of ranges are tracked, not trained",
        "qat",
        &["AbsMax", "ActivationScale", "BatchStatistics", "Observe", "WeightScale", "ZeroPoint"],
    ),
    ("stands in behind the gradients", "qat", &["CodesConv", "Decode"]),
    (
        "the gradient is defined, not the slope; tested with the operator",
        "qat",
        &["Epilogue", "FakeQuant", "Pact", "Processed"],
    ),
];

/// A value and what is added to each of its rows.
fn biased(d: &mut Draw) -> Drawn {
    let x = d.dims(1, 4);
    Drawn::of([d.tensor(&x, -2.0, 2.0), d.tensor(&x[x.len() - 1..], -1.0, 1.0)])
}

/// Rows from any axis on, with or without the bias and the statistics.
fn layer_norm(d: &mut Draw) -> Drawn {
    let x = d.dims(1, 4);
    let (axis, bias) = (d.int(0, x.len()), d.chance(2));
    let outs = d.pick(&[1, 3]);
    Drawn::of([d.tensor(&x, -2.0, 2.0), d.tensor(&x[axis..], 0.5, 1.5)])
        .maybe(bias, d.tensor(&x[axis..], -1.0, 1.0))
        .int("axis", signed(d, axis, x.len()))
        .float("epsilon", 0.1)
        .outs(outs, 1)
}

/// A normalized sum, with so many parameters of the norm, and a bias.
fn skip_norm(d: &mut Draw, parameters: usize) -> Drawn {
    let x = [d.int(1, 3), d.int(1, 4), d.int(2, 5)];
    let mut drawn = Drawn::of([d.tensor(&x, -2.0, 2.0), d.tensor(&x, -2.0, 2.0)]);
    for _ in 0..parameters {
        drawn = drawn.and(d.tensor(&x[2..], 0.5, 1.5));
    }
    drawn.maybe(d.chance(2), d.tensor(&x[2..], -1.0, 1.0)).float("epsilon", 0.1)
}

fn list(values: &[usize]) -> Tensor {
    Tensor::new(&[values.len()], values.iter().map(|&v| v as i64).collect())
}

/// An axis, perhaps counted from the end.
fn signed(d: &mut Draw, axis: usize, rank: usize) -> i64 {
    if d.chance(2) { axis as i64 - rank as i64 } else { axis as i64 }
}

fn unary(d: &mut Draw, lo: f32, hi: f32, kinks: &[f32]) -> Drawn {
    let x = d.dims(0, 5);
    Drawn::of([d.tensor_off(&x, lo, hi, kinks, 0.02)])
}

/// Two shapes that broadcast.
fn broadcast(d: &mut Draw) -> [Vec<usize>; 2] {
    let full = d.dims(0, 4);
    [0; 2].map(|_| d.broadcast_operand(&full))
}

fn binary(d: &mut Draw, lo: f32, hi: f32) -> Drawn {
    Drawn::of(broadcast(d).map(|shape| d.tensor(&shape, lo, hi)))
}

/// Several operands that broadcast.
fn several(d: &mut Draw) -> Drawn {
    let (full, n) = (d.dims(0, 4), d.int(1, 5));
    let mut drawn = Drawn::of([]);
    for _ in 0..n {
        let shape = d.broadcast_operand(&full);
        drawn = drawn.and(d.tensor(&shape, -2.0, 2.0));
    }
    drawn
}

/// As [`several`], operand by operand at a distance from each other.
fn extreme(d: &mut Draw) -> Drawn {
    let mut drawn = several(d);
    for (i, x) in drawn.ins.iter_mut().flatten().enumerate() {
        let values = (0..x.len()).map(|_| d.int(0, 10) as f32 * 0.5 + 0.1 * i as f32 - 2.0).collect();
        *x = Tensor::new(x.shape(), values);
    }
    drawn
}

fn along_axis(d: &mut Draw, lo: f32, hi: f32) -> Drawn {
    let x = d.dims(1, 4);
    let axis = d.int(0, x.len());
    Drawn::of([d.tensor(&x, lo, hi)]).int("axis", signed(d, axis, x.len()))
}

fn cumulative(d: &mut Draw, values: &[f32]) -> Drawn {
    let x = d.dims(1, 4);
    let axis = d.int(0, x.len());
    let axis = Tensor::scalar(signed(d, axis, x.len()));
    let (exclusive, reverse) = (d.chance(2), d.chance(2));
    Drawn::of([d.among(&x, values), axis]).flag("exclusive", exclusive).flag("reverse", reverse)
}

fn reduction(d: &mut Draw, values: fn(&mut Draw, &[usize]) -> Tensor) -> Drawn {
    let x = d.dims(0, 4);
    let (keep, given, noop) = (d.chance(2), d.chance(2), d.chance(4));
    let images = x.len() == 4 && d.chance(3);
    let axes: Vec<usize> = (0..x.len()).filter(|&i| if images { i > 1 } else { d.chance(2) }).collect();
    let drawn = Drawn::of([values(d, &x)]).flag("keepdims", keep).flag("noop_with_empty_axes", noop);
    if given { drawn.and(list(&axes)) } else { drawn }
}

/// Sizes of a batch of images of one or two axes, and what adds the attributes of a window over them to a case.
fn window(d: &mut Draw, pool: bool) -> (Vec<usize>, impl Fn(Drawn) -> Drawn + use<>) {
    let axes = d.int(1, 3);
    let each = |d: &mut Draw, from, to| (0..axes).map(|_| d.int(from, to)).collect::<Vec<usize>>();
    let (kernel, strides, dilations) = (each(d, 1, 4), each(d, 1, 4), each(d, 1, 3));
    // The padding of a pool is narrower than its window.
    let pad = |d: &mut Draw, i: usize| d.int(0, if pool { kernel[i] } else { 3 });
    let pads: Vec<usize> = (0..2 * axes).map(|i| pad(d, i % axes)).collect();
    let auto = d.pick(&["NOTSET", "NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]);
    let padded = |i: usize| if auto == "NOTSET" { pads[i] + pads[i + axes] } else { 0 };
    // No window lies between the holes of a dilated one.
    let fewest = |i: usize| if pool { dilations[i] } else { 1 };
    let least = |i: usize| ((kernel[i] - 1) * dilations[i] + 1).saturating_sub(padded(i)).max(fewest(i));
    let mut x = vec![d.int(1, 3), d.int(1, 4)];
    x.extend((0..axes).map(|i| d.int(least(i), least(i) + 4)));
    let attributes = move |drawn: Drawn| {
        let drawn =
            drawn.ints("kernel_shape", &kernel).ints("strides", &strides).ints("dilations", &dilations);
        if auto == "NOTSET" { drawn.ints("pads", &pads) } else { drawn.str("auto_pad", auto) }
    };
    (x, attributes)
}

/// The kernel that [`window`] drew.
fn kernel(attributes: &impl Fn(Drawn) -> Drawn) -> Vec<usize> {
    attributes(Drawn::default()).attrs.sizes("kernel_shape").ok().flatten().unwrap_or_default()
}

/// Indices of places: the last axis of `shape` runs over `sizes`, where they are several.
fn indices(d: &mut Draw, shape: &[usize], sizes: &[usize]) -> Tensor {
    let index = |i: usize| {
        let n = sizes[i % sizes.len()];
        signed(d, 0, n) + d.int(0, n) as i64
    };
    let values: Vec<i64> = (0..shape.iter().product()).map(index).collect();
    // What is counted from the end stays in range: -n .. -1, and 0 .. n - 1.
    Tensor::new(shape, values)
}

/// Shape of the data, indices along an axis, and the axis.
fn elements(d: &mut Draw) -> (Vec<usize>, Tensor, usize) {
    let x = d.dims(1, 4);
    let axis = d.int(0, x.len());
    let mut at: Vec<usize> = x.iter().map(|&n| d.int(1, n + 1)).collect();
    at[axis] = d.int(1, 5);
    (x.clone(), indices(d, &at, &x[axis..=axis]), axis)
}

/// Indices that are all distinct: every last axis of `shape` is one of the places that `sizes` has.
fn distinct_indices(d: &mut Draw, shape: &[usize], sizes: &[usize]) -> Tensor {
    let (k, total) = (sizes.len(), sizes.iter().product::<usize>());
    let first = d.int(0, total);
    let coordinate = |row: usize, i: usize| {
        let behind: usize = sizes[i + 1..].iter().product();
        ((first + row) % total / behind % sizes[i]) as i64
    };
    let rows = shape.iter().product::<usize>() / k;
    Tensor::new(
        shape,
        (0..rows).flat_map(|row| (0..k).map(move |i| (row, i))).map(|(r, i)| coordinate(r, i)).collect(),
    )
}

/// Data, indices and updates. Numbers are distinct where the largest or smallest one counts.
fn scatter(d: &mut Draw, x: &[usize], at: Tensor, updates: &[usize], reduction: &str) -> Drawn {
    let [x, updates] = match reduction {
        "max" | "min" => {
            let updates = d.distinct(updates);
            let between = updates.to_f32().iter().map(|u| u + 0.1).collect();
            [d.distinct(x), Tensor::new(updates.shape(), between)]
        }
        "mul" => [x, updates].map(|shape| d.among(shape, &[0.0, -0.5, 1.0, 1.5])),
        _ => [x, updates].map(|shape| d.tensor(shape, -2.0, 2.0)),
    };
    Drawn::of([x, at, updates])
}

fn scatter_elements(d: &mut Draw, reduction: &str) -> Drawn {
    let (x, mut at, axis) = elements(d);
    if reduction == "none" {
        // No place twice, since the order is not defined.
        let (n, first) = (x[axis], d.int(0, x[axis]));
        let mut shape = at.shape().to_vec();
        shape[axis] = shape[axis].min(n);
        let inner: usize = shape[axis + 1..].iter().product();
        let place = |i: usize| ((first + i / inner % shape[axis]) % n) as i64;
        at = Tensor::new(&shape, (0..shape.iter().product()).map(place).collect());
    }
    let updates = at.shape().to_vec();
    scatter(d, &x, at, &updates, reduction).int("axis", signed(d, axis, x.len()))
}

fn class_loss(d: &mut Draw) -> Drawn {
    let mut scores = d.dims(2, 4);
    scores[1] = d.int(1, 5);
    let classes = scores[1];
    let labels = [&scores[..1], &scores[2..]].concat();
    let ignore = d.chance(2);
    let (weights, narrow) = (d.chance(2), d.chance(3));
    // The first label counts: a mean over nothing is not a number.
    let mut label =
        |i: usize| if ignore && i > 0 && d.float(0.0, 1.0) < 0.3 { -1 } else { d.int(0, classes) as i64 };
    let values: Vec<i64> = (0..labels.iter().product()).map(&mut label).collect();
    let labels = match narrow {
        true => Tensor::new(&labels, values.iter().map(|&v| v as i32).collect()),
        false => Tensor::new(&labels, values),
    };
    let drawn = Drawn::of([d.tensor(&scores, -2.0, 2.0), labels])
        .maybe(weights, d.tensor(&[classes], 0.5, 2.0))
        .fixed(&[2])
        .str("reduction", d.pick(&["mean", "sum", "none"]));
    if ignore { drawn.int("ignore_index", -1) } else { drawn }
}

fn einsum(d: &mut Draw) -> Drawn {
    let equation = d.pick(&[
        "ij->ji",
        "ij->i",
        "ij->",
        "ij",
        "ii->i",
        "ii",
        "iij->j",
        "ij,jk->ik",
        "ij,jk",
        "bij,bjk->bik",
        "bij,bjk->bki",
        "bhid,bhjd->bhij",
        "i,j->ij",
        "ij,ij->",
        "ij,jk,kl->il",
        "...ij,...jk->...ik",
        "...i->...",
        "i...,...->i...",
        "a,b,c->cab",
        "ij,kl->il",
        "iji,j->i",
    ]);
    let (left, _) = equation.split_once("->").unwrap_or((equation, ""));
    let sizes: Vec<(char, usize)> =
        ('a'..='z').map(|c| (c, if left.contains(c) { d.int(1, 4) } else { 1 })).collect();
    let shared = if equation.contains("...") { d.dims(0, 2) } else { vec![] };
    let mut drawn = Drawn::of([]);
    for term in left.split(',') {
        let mut shape = Vec::new();
        let mut rest = term;
        while let Some(c) = rest.chars().next() {
            if let Some(behind) = rest.strip_prefix("...") {
                shape.extend(d.broadcast_operand(&shared));
                rest = behind;
            } else {
                shape.extend(sizes.iter().find(|(letter, _)| *letter == c).map(|(_, n)| *n));
                rest = &rest[1..];
            }
        }
        drawn = drawn.and(d.tensor(&shape, -1.0, 1.0));
    }
    drawn.str("equation", equation)
}

fn resize(d: &mut Draw) -> Drawn {
    let mode = d.pick(&["nearest", "linear", "cubic"]);
    let x = d.dims(if mode == "nearest" { 1 } else { 3 }, 4);
    let skip = x.len().saturating_sub(2);
    let by_size = d.chance(2);
    let coordinates =
        d.pick(&["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "half_pixel_symmetric"]);
    let scales: Vec<f32> =
        (0..x.len()).map(|i| if i < skip { 1.0 } else { d.pick(&[1.0, 2.0, 1.5, 0.7, 3.0]) }).collect();
    let sizes: Vec<usize> = x.iter().zip(&scales).map(|(&n, s)| ((n as f32 * s) as usize).max(1)).collect();
    // Results have one element at least.
    let scales: Vec<f32> =
        x.iter().zip(&scales).map(|(&n, &s)| if n as f32 * s < 1.0 { 1.0 } else { s }).collect();
    let mut drawn = Drawn::of([d.tensor(&x, -2.0, 2.0)])
        .str("mode", mode)
        .str("coordinate_transformation_mode", coordinates)
        .str("nearest_mode", d.pick(&["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]))
        .float("cubic_coeff_a", d.pick(&[-0.75, -0.5]))
        .flag("exclude_outside", mode == "cubic" && d.chance(2))
        .fixed(&[2]);
    drawn.ins.push(None);
    drawn.ins.extend(match by_size {
        true => [None, Some(list(&sizes))],
        false => [Some(Tensor::new(&[scales.len()], scales)), None],
    });
    drawn
}

/// A recurrent operator with so many gates and activations per direction.
fn recurrent(d: &mut Draw, gates: usize, activations: usize, peepholes: bool) -> Drawn {
    let [time, batch, width, hidden] = [0; 4].map(|_| d.int(1, 4));
    let direction = d.pick(&["forward", "reverse", "bidirectional"]);
    let directions = if direction == "bidirectional" { 2 } else { 1 };
    let batch_first = d.chance(2);
    let turn = |[a, b, c]: [usize; 3]| if batch_first { [b, a, c] } else { [a, b, c] };
    let rows = gates * hidden;
    let [bias, lengths, initial] = [0; 3].map(|_| d.chance(2));
    let sizes = Tensor::new(&[batch], (0..batch).map(|_| d.int(0, time + 1) as i32).collect());
    let state = turn([directions, batch, hidden]);
    let mut drawn = Drawn::of([
        d.tensor(&turn([time, batch, width]), -1.0, 1.0),
        d.tensor(&[directions, rows, width], -1.0, 1.0),
        d.tensor(&[directions, rows, hidden], -1.0, 1.0),
    ])
    .maybe(bias, d.tensor(&[directions, 2 * rows], -0.5, 0.5))
    .maybe(lengths, sizes)
    .maybe(initial, d.tensor(&state, -1.0, 1.0))
    .str("direction", direction)
    .int("hidden_size", hidden as i64)
    .flag("layout", batch_first)
    .outs(2, 2);
    if gates == 4 {
        let cell = d.chance(2);
        drawn = drawn
            .maybe(cell, d.tensor(&state, -1.0, 1.0))
            .maybe(peepholes, d.tensor(&[directions, 3 * hidden], -1.0, 1.0))
            .outs(3, 3);
    }
    if d.chance(2) {
        let names =
            (0..directions * activations).map(|_| d.pick(&["Tanh", "Sigmoid", "Softsign", "Relu"]).into());
        drawn = drawn.with("activations", Attr::Strs(names.collect()));
    }
    if d.chance(3) { drawn.float("clip", 0.4) } else { drawn }
}

/// Parses and checks a case: gradients of some of the operands, of a loss that reads some of the results.
fn check(domain: &str, name: &str, draw: &mut Draw, case: Case) -> Result<Agreement, String> {
    let mut drawn = case(draw);
    let cx = Parse { attrs: &drawn.attrs, opset: 26, ins: drawn.ins.len(), outs: drawn.outs };
    let Some(parsed) = Ops.parse(domain, name, &cx) else { return Err("no such operator".into()) };
    let Parsed { op, inputs, moved, .. } = parsed?;
    assert!(moved.is_empty(), "{name}: operands are drawn as the newest operator set has them");
    for (slot, value) in inputs {
        drawn.ins.resize(drawn.ins.len().max(slot + 1), None);
        drawn.ins[slot] = Some(value);
        drawn.fixed.push(slot);
    }
    let ins: Vec<Option<&Tensor>> = drawn.ins.iter().map(Option::as_ref).collect();
    let float = |i: &usize| ins[*i].is_some_and(|t| t.dtype() == DType::F32) && !drawn.fixed.contains(i);
    let mut wrt: Vec<usize> = (0..ins.len()).filter(float).collect();
    let mut read: Vec<usize> = (0..drawn.read).collect();
    for slots in [&mut wrt, &mut read] {
        if slots.len() > 1 && draw.chance(4) {
            *slots = vec![draw.pick(slots)];
        }
    }
    let tolerance = Tolerance { step: 1e-2, relative: 2e-3 };
    let checked = Check { op, ins: &ins, outs: drawn.outs, read, wrt: &wrt, tolerance, most: 24 };
    checked.run().map_err(|e| format!("{e}, of {checked:?}"))
}

/// The number of cases, and always the same ones.
fn runner() -> TestRunner {
    let cases = match std::env::var_os("PROPTEST_CASES") {
        Some(_) => Config::default().cases,
        None => 16,
    };
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
    TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha))
}

#[test]
fn every_gradient_is_the_slope() {
    let mut wrong = Vec::new();
    for &(domain, name, case) in DRAWN {
        let total = Cell::new(Agreement::default());
        let drawn = (any::<u64>(), proptest::collection::vec(any::<u16>(), 40));
        let result = runner().run(&drawn, |(seed, choices)| {
            let one =
                check(domain, name, &mut Draw::chosen(seed, choices), case).map_err(TestCaseError::fail)?;
            let Agreement { agreeing, unclear } = total.get();
            total.set(Agreement { agreeing: agreeing + one.agreeing, unclear: unclear + one.unclear });
            Ok(())
        });
        let Agreement { agreeing, unclear } = total.get();
        match result {
            Err(TestError::Fail(why, _)) => wrong.push(format!("{name}: {why}")),
            Err(e) => wrong.push(format!("{name}: {e}")),
            // Few elements may lie at a kink, and all others must have been compared.
            Ok(()) if 10 * unclear > agreeing || agreeing == 0 => {
                wrong.push(format!("{name}: {unclear} elements are unclear and {agreeing} agree"));
            }
            Ok(()) => {}
        }
    }
    assert!(wrong.is_empty(), "{} operators:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_operator_has_an_entry() {
    let others = OTHERS.iter().flat_map(|(_, domain, names)| names.iter().map(move |name| (*domain, *name)));
    let mut entries: Vec<(&str, &str)> =
        DRAWN.iter().map(|&(domain, name, _)| (domain, name)).chain(others).collect();
    entries.sort_unstable();
    let missing: Vec<_> = operators().filter(|entry| entries.binary_search(entry).is_err()).collect();
    assert!(missing.is_empty(), "say in DRAWN how these are drawn, or in OTHERS why not: {missing:?}");
    assert!(entries.iter().copied().eq(operators()), "an entry twice, or of no operator: {entries:?}");
}

/// Operators of ONNX are not in [`OTHERS`] by mistake: those that take plain matrices have no gradient of them.
#[test]
fn the_others_have_no_gradient() {
    let mut tried = 0;
    for (_, domain, names) in OTHERS.iter().filter(|(_, domain, _)| *domain != "qat") {
        for name in *names {
            for operands in 1..=3 {
                let x = Tensor::new(&[2, 2], vec![0.5f32, -1.0, 2.0, 0.25]);
                let ins = vec![Some(&x); operands];
                let cx = Parse { attrs: &Attrs::new(), opset: 26, ins: operands, outs: 1 };
                let Some(Ok(Parsed { op, .. })) = Ops.parse(domain, name, &cx) else { continue };
                if !ir::eval(&*op, &ins, 1).is_ok_and(|y| y[0].dtype() == DType::F32) {
                    continue;
                }
                tried += 1;
                let (wrt, tolerance) = ((0..operands).collect::<Vec<_>>(), Tolerance::default());
                let check = Check { op, ins: &ins, outs: 1, read: vec![0], wrt: &wrt, tolerance, most: 1 };
                let error = check.run().err().unwrap_or_default();
                assert!(error.contains("has no gradient"), "{name} has a gradient: {error}");
            }
        }
    }
    assert!(tried > 5, "{tried}");
}
