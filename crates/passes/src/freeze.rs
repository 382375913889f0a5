//! `freeze-quant`: PaddleSlim's `convert`. Quantizers become pairs of ONNX operators, weights become int8.
//!
//! ```text
//! x_fq = qat.FakeQuant (x, x_scale, x_zp)
//! w_fq = qat.FakeQuant <axis=0, high=127, low=-127> (w, w_scale)
//! conv1 = Conv (x_fq, w_fq)
//! bn1 = BatchNormalization (conv1, gamma, beta, mean, var)
//! relu1 = Relu (bn1)
//! relu1_fq = qat.FakeQuant (relu1, …)
//! pool1 = MaxPool (relu1_fq)
//! ->
//! x_quantized = QuantizeLinear (x, x_scale, x_zp)       # uint8
//! x_dequantized = DequantizeLinear (x_quantized, x_scale, x_zp)
//! w_dequantized = DequantizeLinear <axis=0> (w_quantized, w_scale, w_zp)   # int8 constant
//! b_dequantized = DequantizeLinear <axis=0> (b_quantized, b_scale, b_zp)   # int32 constant, b_scale = x_scale * w_scale
//! conv1 = Conv (x_dequantized, w_dequantized, b_dequantized)
//! relu1 = Relu (conv1)
//! relu1_quantized = QuantizeLinear (relu1, …)
//! relu1_dequantized = DequantizeLinear (relu1_quantized, …)
//! pool1 = MaxPool (relu1_dequantized)
//! pool1_quantized = QuantizeLinear (pool1, …)           # scale and zero point of relu1
//! pool1_dequantized = DequantizeLinear (pool1_quantized, …)
//! ```
//!
//! The codes of a weight are those that training saw, with the scale of the final weight. A batch norm behind the
//! convolution multiplies the scale of each channel and turns the sign of its codes where it is negative; the rest of it goes
//! into the bias. Learned clipping disappears: the quantizer behind it saturates at the same range.
//!
//! Operators that move or select values get a pair with the scale of their operand, so that runtimes run them on codes.

use crate::fold_constants::Evaluator;
use crate::hooks::unprocessed;
use crate::pass::{Pass, Report, operations, rename_and_replace};
use ir::{Graph, GraphError, NodeId, Output, QuantRole, ValueId};
use kernels::quant::{Axis, Grid, Quantizer, Round, Rule, Scales, batch_norm_affine, quantize_i8};
use observe::scale;
use ops::{BatchNormalization, Clip, DequantizeLinear, FakeQuant, QuantizeLinear};
use std::collections::{BTreeMap, HashSet};
use tensor::{DType, Tensor};

/// See the module. Wants a graph without updates ([`DropUpdates`](crate::DropUpdates)).
#[derive(Clone, Copy, Debug, Default)]
pub struct Freeze;

impl Pass for Freeze {
    fn name(&self) -> &'static str {
        "freeze-quant"
    }

    fn run(&self, graph: &mut Graph, report: &mut Report) -> Result<(), GraphError> {
        let nodes = operations(graph)?;
        let mut frozen = Frozen::default();
        for &id in &nodes {
            if let Some(QuantRole::Weighted { data, weight, axis, bias }) =
                graph.node(id).op().map(|op| op.quant())
            {
                frozen.weighted(graph, report, Slots { id, data, weight, axis, bias })?;
            }
        }
        for &id in &nodes {
            if graph.node(id).is::<FakeQuant>().is_some() {
                frozen.activation(graph, report, id)?;
            }
        }
        for id in operations(graph)? {
            same_scale(graph, id)?;
        }
        name_outputs(graph);
        graph.infer()
    }
}

/// A weighted node and its operand slots.
#[derive(Clone, Copy)]
struct Slots {
    id: NodeId,
    data: usize,
    weight: usize,
    axis: usize,
    bias: usize,
}

/// A quantizer whose scale is known: what its result stands for.
#[derive(Clone, Debug)]
struct Known {
    quantizer: Quantizer,
    axis: Option<usize>,
    scale: Vec<f32>,
    zero_point: Vec<i32>,
}

impl Known {
    /// Of a FakeQuant; `None` when its scale is not constant.
    fn of(graph: &Graph, id: NodeId, values: &mut Evaluator) -> Option<Known> {
        let node = graph.node(id);
        let quant = node.is::<FakeQuant>()?;
        let scale = values.value(graph, node.ins[1]?)?.to_f32();
        let zero_point = match node.ins.get(2).copied().flatten() {
            Some(z) => values.value(graph, z)?.to_i64().into_iter().map(|z| z as i32).collect(),
            None => vec![0; scale.len()],
        };
        let mut known = Known { quantizer: quant.quantizer, axis: quant.axis, scale, zero_point };
        if let Rule::Paddle(round) = known.quantizer.rule {
            // Paddle's scale is the magnitude of the largest code, ONNX's the width of a step.
            let high = known.quantizer.grid.high;
            known.scale.iter_mut().for_each(|s| *s = (*s / high as f32).max(scale::MIN_SCALE));
            // The first format clips values to the scale, the second one codes to the grid.
            let low = if round == Round::HalfAway { -high } else { known.quantizer.grid.low };
            known.quantizer = Quantizer::onnx(Grid { low, high });
        }
        Some(known)
    }
}

#[derive(Default)]
struct Frozen {
    values: Evaluator,
    /// Frozen weights by quantizer, where nothing specific to the reader went into them.
    weights: BTreeMap<ValueId, ValueId>,
    /// Pairs by tensor, scale (its bits) and zero point.
    pairs: BTreeMap<(ValueId, u32, i32), ValueId>,
}

/// Adds a constant next to the tensor that it belongs to. It takes over the name of what computed it in training.
fn constant(graph: &mut Graph, base: &str, what: &str, value: Tensor) -> ValueId {
    let name = format!("{base}_{what}");
    let constant = graph.add_const(&name, value);
    let of_training = |id: NodeId| graph.node(id).op().is_some_and(|op| op.domain() == "qat");
    if let Some(holder) = graph.find(&name)
        && holder != constant
        && !graph.is_output(holder)
        && (of_training(holder.node)
            || graph.consumers(holder).iter().all(|&(reader, _)| of_training(reader)))
    {
        graph.swap_names(holder, constant);
    }
    constant
}

/// Adds `DequantizeLinear` of a constant.
fn dequantize(
    graph: &mut Graph,
    base: &str,
    codes: Tensor,
    scale: Tensor,
    axis: i64,
) -> Result<ValueId, GraphError> {
    let zero_point = Tensor::zeros(codes.dtype(), scale.shape());
    let codes = constant(graph, base, "quantized", codes);
    let scale = constant(graph, base, "scale", scale);
    let zero_point = constant(graph, base, "zero_point", zero_point);
    let op = DequantizeLinear { axis, extra: Vec::new() };
    graph.add(op, &[codes, scale, zero_point], &format!("{base}_dequantized"))
}

/// Scale of the quantizer from which a value comes, directly or through nodes that only move values.
fn data_scale(graph: &Graph, mut v: ValueId, values: &mut Evaluator) -> Option<f32> {
    loop {
        let node = graph.node(v.node);
        if node.is::<FakeQuant>().is_some() {
            let known = Known::of(graph, v.node, values)?;
            return (known.scale.len() == 1).then(|| known.scale[0]);
        }
        match node.op().map(|op| op.quant()) {
            Some(QuantRole::SameScale) => v = node.ins.first().copied().flatten()?,
            _ => return None,
        }
    }
}

impl Frozen {
    /// Freezes weight and bias of one node, and folds the batch norm behind it.
    fn weighted(&mut self, graph: &mut Graph, report: &mut Report, at: Slots) -> Result<(), GraphError> {
        let values = &mut self.values;
        let node = graph.node(at.id);
        let label = node.label();
        let Some(w_fq) = node.ins.get(at.weight).copied().flatten() else { return Ok(()) };
        if graph.node(w_fq.node).is::<FakeQuant>().is_none() {
            return Ok(());
        }
        let source = graph.node(w_fq.node).ins[0];
        let (Some(known), Some((w, source))) =
            (Known::of(graph, w_fq.node, values), source.and_then(|s| Some((values.value(graph, s)?, s))))
        else {
            report.skip("freeze-quant", label, "its weight or the weight's scale is not constant");
            return Ok(());
        };
        let Some(rows) = Axis::of(w.shape(), at.axis) else { return Ok(()) };
        if known.quantizer.grid.high > i8::MAX.into() {
            report.skip("freeze-quant", label, "the codes of its weight fit no 8-bit type");
            return Ok(());
        }
        if known.scale.len() > 1 && known.axis != Some(at.axis) {
            report.skip("freeze-quant", label, "its weight has a scale per channel of another axis");
            return Ok(());
        }
        let name = graph.value(unprocessed(graph, source)).name.clone();
        let data = node.ins.get(at.data).copied().flatten();
        let input_scale = data.and_then(|v| data_scale(graph, v, values));
        let bias_value = node.ins.get(at.bias).copied().flatten();
        let bias = match bias_value {
            None => None,
            Some(b) => match values.value(graph, b).map(|t| t.to_f32()) {
                Some(b) if b.len() == rows.channels => Some(b),
                Some(b) if b.len() == 1 => Some(vec![b[0]; rows.channels]),
                _ => None,
            },
        };
        // A MatMul has no slot for the bias that a batch norm leaves behind, and a grouped ConvTranspose has more output
        // channels than the axis of its weight.
        let has_slot = node.op().is_some_and(|op| op.params().contains(&at.bias));
        let fold = batch_norm(graph, at.id, values).filter(|(_, factor, _)| {
            has_slot && bias.is_some() == bias_value.is_some() && factor.len() == rows.channels
        });

        let mut scale = known.scale.clone();
        let mut dead = Vec::new();
        let mut bias = bias;
        if let Some((_, factor, shift)) = &fold {
            scale = if scale.len() == 1 { vec![scale[0]; rows.channels] } else { scale };
            let old = bias.unwrap_or_else(|| vec![0.0; rows.channels]);
            bias = Some(old.iter().zip(factor).zip(shift).map(|((b, a), s)| b * a + s).collect());
            for (s, a) in scale.iter_mut().zip(factor) {
                // A channel that the batch norm switches off: no code matters, any scale will do.
                *s = if a.abs() * *s > scale::MIN_SCALE { *s * a.abs() } else { 0.0 };
            }
            dead = scale.iter().map(|&s| s == 0.0).collect();
            let usual = scale.iter().copied().fold(0.0, f32::max);
            let usual = if usual > 0.0 { usual } else { 1.0 / 127.0 };
            scale.iter_mut().filter(|s| **s == 0.0).for_each(|s| *s = usual);
        }
        let mut enlarged = Vec::new();
        let bias = match (bias, input_scale) {
            (Some(bias), Some(x)) => {
                let quantized = scale::bias(&bias, x, &scale);
                if quantized.scale.iter().any(|s| !s.is_finite()) {
                    let what = "the product of the steps of its data and its weight, in which its bias counts, is not finite: \
                                training may have diverged";
                    return Err(GraphError { place: label, what: what.into() });
                }
                enlarged = quantized.enlarged.clone();
                if !enlarged.is_empty() {
                    scale = quantized.weight_scale.clone();
                }
                Some(Ok(quantized))
            }
            (Some(bias), None) if fold.is_some() => Some(Err(bias)),
            _ => None,
        };

        let reusable = fold.is_none() && enlarged.is_empty();
        let weight = match self.weights.get(&w_fq).filter(|_| reusable) {
            Some(&done) => done,
            None => {
                let mut values = w.to_f32();
                let mut codes = quantize(&known, rows, &known.scale, &values);
                if let Some((_, factor, _)) = &fold {
                    each_channel(rows, &mut codes, |c, code| match dead[c] {
                        true => 0,
                        false if factor[c] < 0.0 => -code,
                        false => *code,
                    });
                }
                if !enlarged.is_empty() {
                    // Larger steps need other codes: from the final weights, as the first ones.
                    let channel = |i: usize| i / rows.inner.max(1) % rows.channels;
                    if let Some((_, factor, _)) = &fold {
                        values.iter_mut().enumerate().for_each(|(i, w)| *w *= factor[channel(i)]);
                    }
                    let again = quantize(&known, rows, &scale, &values);
                    let slot = |i: usize| if scale.len() == 1 { 0 } else { channel(i) };
                    for (i, (code, again)) in codes.iter_mut().zip(again).enumerate() {
                        *code = if enlarged.binary_search(&slot(i)).is_ok() { again } else { *code };
                    }
                }
                let shape: &[usize] = if scale.len() == 1 { &[] } else { &[rows.channels] };
                let (scale, codes) = (Tensor::new(shape, scale), Tensor::new(w.shape(), codes));
                let done = dequantize(graph, &name, codes, scale, at.axis as i64)?;
                if reusable {
                    self.weights.insert(w_fq, done);
                }
                done
            }
        };
        graph.set_input(at.id, at.weight, Some(weight));
        let bias_name =
            bias_value.map_or(format!("{}_bias", graph.node(at.id).name), |b| graph.value(b).name.clone());
        match bias {
            Some(Ok(bias)) => {
                let n = [rows.channels];
                let value = dequantize(
                    graph,
                    &bias_name,
                    Tensor::new(&n, bias.codes),
                    Tensor::new(&n, bias.scale),
                    0,
                )?;
                graph.set_input(at.id, at.bias, Some(value));
            }
            Some(Err(bias)) => {
                let value =
                    graph.add_const(&format!("{bias_name}_folded"), Tensor::new(&[rows.channels], bias));
                graph.set_input(at.id, at.bias, Some(value));
            }
            None => {}
        }
        let mut how = format!("int8 weight \"{name}\"");
        if let Some((bn, ..)) = fold {
            how += &format!(", {} folded", graph.node(bn).label());
            rename_and_replace(graph, bn.into(), at.id.into())?;
        }
        if !enlarged.is_empty() {
            how += &format!(
                ", weight scale of {} channels enlarged so that the bias fits int32",
                enlarged.len()
            );
        }
        report.done("freeze-quant", label, how);
        Ok(())
    }

    /// Turns the quantizer of an activation into a pair.
    fn activation(&mut self, graph: &mut Graph, report: &mut Report, id: NodeId) -> Result<(), GraphError> {
        let readers = graph.consumers(id.into());
        if readers.is_empty() && !graph.is_output(id.into()) {
            return Ok(());
        }
        let Some(known) = Known::of(graph, id, &mut self.values) else {
            report.skip("freeze-quant", graph.node(id).label(), "its scale is not constant");
            return Ok(());
        };
        let Some(mut x) = graph.node(id).ins[0].map(|x| unprocessed(graph, x)) else { return Ok(()) };
        let name = graph.value(x).name.clone();
        let grid = known.quantizer.grid;
        let symmetric = grid.low >= i8::MIN.into()
            && grid.high <= i8::MAX.into()
            && known.zero_point.iter().all(|&z| z == 0);
        if let Some(value) = graph.tensor(x).filter(|_| symmetric).cloned() {
            // A weight whose reader has no weight slot, a gathered table say.
            let rows =
                known.axis.and_then(|a| Axis::of(value.shape(), a)).unwrap_or(Axis::whole(value.len()));
            let codes = quantize(&known, rows, &known.scale, &value.to_f32());
            let shape: &[usize] = if known.scale.len() == 1 { &[] } else { &[known.scale.len()] };
            let scale = Tensor::new(shape, known.scale);
            let codes = Tensor::new(value.shape(), codes);
            let w = dequantize(graph, &name, codes, scale, known.axis.unwrap_or(0) as i64)?;
            return graph.replace(id.into(), w);
        }
        let Some((zero_point, clip)) = storage(&known) else {
            report.skip("freeze-quant", graph.node(id).label(), "its codes fit no 8-bit type");
            return Ok(());
        };
        let &[step] = &known.scale[..] else {
            report.skip("freeze-quant", graph.node(id).label(), "its scale is not one number");
            return Ok(());
        };
        // Paddle's passes leave a tensor with several quantizers; they followed the same values.
        let key = (x, step.to_bits(), zero_point.to_i64()[0] as i32);
        if let (Some(&dq), None) = (self.pairs.get(&key), &clip) {
            return graph.replace(id.into(), dq);
        }
        let scale = constant(graph, &name, "scale", Tensor::scalar(step));
        let zero_point = constant(graph, &name, "zero_point", zero_point);
        if let Some((low, high)) = clip {
            let low = constant(graph, &name, "low", Tensor::scalar(low));
            let high = constant(graph, &name, "high", Tensor::scalar(high));
            x = graph.add(Clip, &[x, low, high], &format!("{name}_clipped"))?;
        }
        let dq = pair(graph, &name, x, scale, zero_point)?;
        if clip.is_none() {
            self.pairs.insert(key, dq);
        }
        graph.replace(id.into(), dq)
    }
}

/// Adds a `QuantizeLinear` and `DequantizeLinear` pair.
pub(crate) fn pair(
    graph: &mut Graph,
    name: &str,
    x: ValueId,
    scale: ValueId,
    zero_point: ValueId,
) -> Result<ValueId, GraphError> {
    let q = graph.add(QuantizeLinear::default(), &[x, scale, zero_point], &format!("{name}_quantized"))?;
    graph.add(DequantizeLinear::default(), &[q, scale, zero_point], &format!("{name}_dequantized"))
}

/// The zero point to write for an activation, and the range to clip to first where the codes do not fill the type.
fn storage(known: &Known) -> Option<(Tensor, Option<(f32, f32)>)> {
    let grid = known.quantizer.grid;
    // Signed codes become unsigned ones: uint8 is what every runtime computes with.
    let offset = if grid.low < 0 { 128 } else { 0 };
    let [low, high, zero] =
        [grid.low, grid.high, *known.zero_point.first()?].map(|code| i64::from(code) + offset);
    let zero_point = Tensor::scalar(u8::try_from(zero).ok()?);
    if low < 0 || high > 255 {
        return None;
    }
    let value = |code: i64| (code - zero) as f32 * known.scale[0];
    let full = (low == 0 || (low == 1 && offset == 128)) && high == 255;
    Some((zero_point, (!full).then(|| (value(low), value(high)))))
}

/// The codes of a weight with these scales.
fn quantize(known: &Known, rows: Axis, scale: &[f32], values: &[f32]) -> Vec<i8> {
    let mut codes = vec![0i8; values.len()];
    let rows = scale_rows(rows, scale);
    quantize_i8(known.quantizer, rows, Scales::symmetric(scale), values, &mut codes);
    codes
}

/// One row per channel where there is a scale per channel, the whole tensor otherwise.
fn scale_rows(rows: Axis, scale: &[f32]) -> Axis {
    if scale.len() == 1 { Axis::whole(rows.len()) } else { rows }
}

/// Replaces each code, given its channel.
fn each_channel(rows: Axis, codes: &mut [i8], f: impl Fn(usize, &i8) -> i8) {
    for (i, run) in codes.chunks_exact_mut(rows.inner.max(1)).enumerate() {
        run.iter_mut().for_each(|q| *q = f(i % rows.channels, q));
    }
}

/// The batch norm that alone reads a node's result, with its factor and shift per channel.
fn batch_norm(graph: &Graph, id: NodeId, values: &mut Evaluator) -> Option<(NodeId, Vec<f32>, Vec<f32>)> {
    let bn = graph.only_consumer(id.into())?;
    let node = graph.node(bn);
    let op = node.is::<BatchNormalization>().filter(|op| !op.training)?;
    let mut operand = |i: usize| Some(values.value(graph, node.ins.get(i).copied().flatten()?)?.to_f32());
    let (gamma, beta, mean, variance) = (operand(1)?, operand(2)?, operand(3)?, operand(4)?);
    let (factor, shift) = batch_norm_affine(&gamma, &beta, &mean, &variance, op.epsilon);
    Some((bn, factor, shift))
}

/// Puts a pair behind a node that only moves values, with the scale of its operand, when an integer node reads on.
fn same_scale(graph: &mut Graph, id: NodeId) -> Result<(), GraphError> {
    let node = graph.node(id);
    if node.op().map(|op| op.quant()) != Some(QuantRole::SameScale) {
        return Ok(());
    }
    let Some(x) = node.ins.first().copied().flatten() else { return Ok(()) };
    if graph.producer::<DequantizeLinear>(x).is_none()
        || graph.tensor(graph.node(x.node).ins[0].unwrap_or(x)).is_some()
    {
        return Ok(());
    }
    let (Some(scale), Some(zero_point)) =
        (graph.node(x.node).ins[1], graph.node(x.node).ins.get(2).copied().flatten())
    else {
        return Ok(());
    };
    for out in 0..graph.node(id).outs.len() {
        let y = ValueId { node: id, out: out as u16 };
        let readers = graph.consumers(y);
        let integer = |&(n, _): &(NodeId, usize)| {
            let role = graph.node(n).op().map(|op| op.quant());
            matches!(role, Some(QuantRole::Weighted { .. } | QuantRole::Rescaling | QuantRole::SameScale))
        };
        if graph.ty(y).dtype.is_some_and(|d| d != DType::F32) || !readers.iter().any(integer) {
            continue;
        }
        let name = graph.value(y).name.clone();
        let dq = pair(graph, &name, y, scale, zero_point)?;
        graph.replace_if(y, dq, |n, slot| readers.contains(&(n, slot)))?;
    }
    Ok(())
}

/// Gives each output its name back where rewriting left another value under it: that of the tensor before its pair.
fn name_outputs(graph: &mut Graph) {
    let outputs = graph.outputs().to_vec();
    let has_name = |o: &&Output| graph.value(o.value).name == o.name;
    let mut named: HashSet<ValueId> = outputs.iter().filter(has_name).map(|o| o.value).collect();
    for output in &outputs {
        if named.contains(&output.value) || graph.node(output.value.node).op().is_none() {
            continue;
        }
        match graph.find(&output.name) {
            // An input of this name has to keep it.
            Some(holder) if graph.node(holder.node).op().is_none() => continue,
            Some(holder) => {
                graph.rename(holder, &format!("{}_float", output.name));
                named.remove(&holder);
            }
            None => {}
        }
        graph.rename(output.value, &output.name);
        named.insert(output.value);
    }
}
