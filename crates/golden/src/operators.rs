//! Single calls of Paddle's quantization operators.

use crate::case::{Array, Fault, Inputs, Outputs, malformed, refused};
use kernels::quant::{self, Axis, Quantizer, Round, Scales};

/// The rounding that attribute `round_type` asks for.
pub(crate) fn round(inputs: &Inputs<'_>, default: Round) -> Result<Round, Fault> {
    let number = match default {
        Round::HalfEven => 0,
        Round::HalfAway => 1,
    };
    match inputs.integer_or("round_type", number)? {
        0 => Ok(Round::HalfEven),
        1 => Ok(Round::HalfAway),
        other => Err(refused(format!("round_type {other}"))),
    }
}

/// A number of bits that Paddle's operators accept.
pub(crate) fn bits(bits: i64) -> Result<u32, Fault> {
    u32::try_from(bits).ok().filter(|b| (1..=16).contains(b)).ok_or_else(|| refused(format!("{bits} bits")))
}

/// Paddle's operator arithmetic after the attributes `bit_length` and `round_type`.
pub(crate) fn quantizer(inputs: &Inputs<'_>, default: Round) -> Result<Quantizer, Fault> {
    let bits = bits(inputs.integer_or("bit_length", 8)?)?;
    Quantizer::paddle(bits, round(inputs, default)?).ok_or_else(|| refused(format!("{bits} bits")))
}

/// `x` seen from attribute `name`: -1 is the whole tensor, 0 and 1 are axes, and Paddle knows no others.
pub(crate) fn axis(inputs: &Inputs<'_>, name: &str, default: i64, x: &Array) -> Result<Axis, Fault> {
    let axis = match inputs.integer_or(name, default)? {
        -1 => Some(Axis::whole(x.values.len())),
        axis @ 0..=1 => Axis::of(&x.shape, axis as usize),
        _ => None,
    };
    axis.ok_or_else(|| refused(format!("`{name}` for shape {:?}", x.shape)))
}

/// One scale, or one per channel.
pub(crate) fn scales(inputs: &Inputs<'_>, slot: &str, axis: Axis) -> Result<Vec<f32>, Fault> {
    let scale = inputs.array(slot)?.values;
    if scale.len() == 1 || scale.len() == axis.channels {
        return Ok(scale);
    }
    Err(malformed(format!("`{slot}` has {} scales for {} channels", scale.len(), axis.channels)))
}

/// A sweep of `kernels::quant` from `f32` to `f32`.
type Sweep = fn(Quantizer, Axis, Scales<'_>, &[f32], &mut [f32]);

pub(crate) fn sweep(f: Sweep, quantizer: Quantizer, axis: Axis, scale: &[f32], x: &Array) -> Array {
    let mut out = vec![0.0; x.values.len()];
    f(quantizer, axis, Scales::symmetric(scale), &x.values, &mut out);
    Array::new(&x.shape, out)
}

/// `out` of `f`, with the straight-through gradient where the case asks for one.
fn forward(inputs: &Inputs<'_>, f: Sweep, axis: Axis, scale: &[f32], x: &Array) -> Result<Outputs, Fault> {
    let out = sweep(f, quantizer(inputs, Round::HalfAway)?, axis, scale, x);
    let outputs = Outputs::default().with("out", out);
    match inputs.get("upstream")? {
        Some(_) => Ok(outputs.with("dx", inputs.same_shape("upstream", x)?)),
        None => Ok(outputs),
    }
}

/// The scale is the largest magnitude of the input.
fn abs_max(inputs: &Inputs<'_>, f: Sweep) -> Result<Outputs, Fault> {
    let x = inputs.array("x")?;
    let scale = vec![quant::abs_max_paddle(&x.values)];
    Ok(forward(inputs, f, Axis::whole(x.values.len()), &scale, &x)?.with("scale", Array::vector(scale)))
}

/// `fake_quantize_abs_max`
pub(crate) fn quantize(inputs: &Inputs<'_>) -> Result<Outputs, Fault> {
    abs_max(inputs, quant::quantize_f32)
}

/// `fake_quantize_dequantize_abs_max`
pub(crate) fn quantize_dequantize(inputs: &Inputs<'_>) -> Result<Outputs, Fault> {
    abs_max(inputs, quant::fake_quantize)
}

/// The scale is given.
fn stored(inputs: &Inputs<'_>, f: Sweep) -> Result<Outputs, Fault> {
    let x = inputs.array("x")?;
    forward(inputs, f, Axis::whole(x.values.len()), &[inputs.scalar("scale")?], &x)
}

/// `fake_quantize_moving_average_abs_max` at inference
pub(crate) fn quantize_stored(inputs: &Inputs<'_>) -> Result<Outputs, Fault> {
    stored(inputs, quant::quantize_f32)
}

/// `fake_quantize_dequantize_moving_average_abs_max` at inference
pub(crate) fn quantize_dequantize_stored(inputs: &Inputs<'_>) -> Result<Outputs, Fault> {
    stored(inputs, quant::fake_quantize)
}

/// The scales are the largest magnitudes of the channels; at inference, those that are given.
fn channel_wise(inputs: &Inputs<'_>, f: Sweep) -> Result<Outputs, Fault> {
    let x = inputs.array("x")?;
    let axis = axis(inputs, "quant_axis", 0, &x)?;
    let mut scale = vec![0.0; axis.channels];
    if inputs.flag("is_test")? {
        scale = scales(inputs, "scale", axis)?;
    } else {
        quant::abs_max_channels(axis, &x.values, &mut scale);
    }
    Ok(forward(inputs, f, axis, &scale, &x)?.with("scale", Array::vector(scale)))
}

/// `fake_channel_wise_quantize_abs_max`
pub(crate) fn channel_wise_quantize(inputs: &Inputs<'_>) -> Result<Outputs, Fault> {
    channel_wise(inputs, quant::quantize_f32)
}

/// `fake_channel_wise_quantize_dequantize_abs_max`
pub(crate) fn channel_wise_quantize_dequantize(inputs: &Inputs<'_>) -> Result<Outputs, Fault> {
    channel_wise(inputs, quant::fake_quantize)
}

/// `quantize_linear`, then `dequantize_linear` of its output, with given scales.
pub(crate) fn linear(inputs: &Inputs<'_>) -> Result<Outputs, Fault> {
    let x = inputs.array("x")?;
    let axis = axis(inputs, "quant_axis", 0, &x)?;
    let scale = scales(inputs, "scale", axis)?;
    let quantizer = quantizer(inputs, Round::HalfEven)?;
    let q = sweep(quant::quantize_f32, quantizer, axis, &scale, &x);
    let dq = sweep(quant::dequantize_f32, quantizer, axis, &scale, &q);
    Ok(Outputs::default().with("q", q).with("dq", dq))
}

/// `dequantize_linear` of integer codes
pub(crate) fn dequantize_linear(inputs: &Inputs<'_>) -> Result<Outputs, Fault> {
    let x = inputs.array("x")?;
    let axis = axis(inputs, "quant_axis", 0, &x)?;
    let scale = scales(inputs, "scale", axis)?;
    let out = sweep(quant::dequantize_f32, quantizer(inputs, Round::HalfEven)?, axis, &scale, &x);
    Ok(Outputs::default().with("out", out))
}

fn dequantize(x: &Array, axis: Axis, scale: &[f32], by: f32, max_range: f32) -> Outputs {
    let mut out = vec![0.0; x.values.len()];
    quant::dequantize_max_abs(axis, scale, by, max_range, &x.values, &mut out);
    Outputs::default().with("out", Array::new(&x.shape, out))
}

/// `fake_dequantize_max_abs`
pub(crate) fn dequantize_max_abs(inputs: &Inputs<'_>) -> Result<Outputs, Fault> {
    let x = inputs.array("x")?;
    let max_range = inputs.number("max_range")? as f32;
    Ok(dequantize(&x, Axis::whole(x.values.len()), &[inputs.scalar("scale")?], 1.0, max_range))
}

/// The largest code of each number of bits in attribute `quant_bits`.
fn ranges<const N: usize>(inputs: &Inputs<'_>) -> Result<[f32; N], Fault> {
    let list = inputs.integers("quant_bits")?;
    let ranges =
        list.iter().map(|&b| Ok(((1 << (bits(b)? - 1)) - 1) as f32)).collect::<Result<Vec<f32>, Fault>>()?;
    ranges
        .get(..N)
        .and_then(|r| r.try_into().ok())
        .ok_or_else(|| malformed(format!("`quant_bits` is {list:?}")))
}

/// `fake_channel_wise_dequantize_max_abs` of a weight
pub(crate) fn dequantize_one_scale(inputs: &Inputs<'_>) -> Result<Outputs, Fault> {
    let x = inputs.array("x")?;
    let axis = axis(inputs, "quant_axis", 0, &x)?;
    let [range] = ranges(inputs)?;
    Ok(dequantize(&x, axis, &scales(inputs, "scale", axis)?, 1.0, range))
}

/// `fake_channel_wise_dequantize_max_abs` of the output of an operator on integers
pub(crate) fn dequantize_two_scales(inputs: &Inputs<'_>) -> Result<Outputs, Fault> {
    let x = inputs.array("x")?;
    let dims = inputs.integer_or("x_num_col_dims", 1)?;
    let axis = usize::try_from(dims).ok().and_then(|axis| Axis::of(&x.shape, axis));
    let axis = axis.ok_or_else(|| refused(format!("x_num_col_dims {dims} for shape {:?}", x.shape)))?;
    let [weight, input] = ranges(inputs)?;
    let by = inputs.scalar("act_scale")?;
    Ok(dequantize(&x, axis, &scales(inputs, "weight_scale", axis)?, by, weight * input))
}
