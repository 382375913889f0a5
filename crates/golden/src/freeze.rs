//! What becomes of weights: integers, corrected statistics, folded batch normalization.

use crate::case::{Array, Fault, Inputs, Outputs, malformed, refused};
use crate::operators::{axis, bits, scales, sweep};
use kernels::quant::{self, Axis, Grid, Quantizer, Scales};
use observe::histogram;

fn freezer(inputs: &Inputs<'_>, clip: bool) -> Result<Quantizer, Fault> {
    let bits = bits(inputs.integer_or("bits", 8)?)?;
    Quantizer::paddle_freeze(bits, clip).ok_or_else(|| refused(format!("{bits} bits")))
}

/// Integers of a weight, and the real numbers that were rounded to them.
fn weight(inputs: &Inputs<'_>, clip: bool) -> Result<Outputs, Fault> {
    let w = inputs.array("w")?;
    let axis = axis(inputs, "axis", -1, &w)?;
    let scale = scales(inputs, "scale", axis)?;
    let quantizer = freezer(inputs, clip)?;
    Ok(Outputs::default()
        .with("q", sweep(quant::quantize_f32, quantizer, axis, &scale, &w))
        .with("before_round", sweep(quant::unrounded, quantizer, axis, &scale, &w)))
}

/// `QuantizationFreezePass`
pub(crate) fn weight_freeze(inputs: &Inputs<'_>) -> Result<Outputs, Fault> {
    weight(inputs, true)
}

/// `QuantWeightPass`
pub(crate) fn weight_onnx(inputs: &Inputs<'_>) -> Result<Outputs, Fault> {
    weight(inputs, false)
}

/// `bias_correction_w`: the corrected weight in steps, and rounded.
pub(crate) fn bias_correction(inputs: &Inputs<'_>) -> Result<Outputs, Fault> {
    let w = inputs.array("w")?;
    let codes = inputs.same_shape("q", &w)?;
    let axis = axis(inputs, "axis", -1, &w)?;
    let scale = scales(inputs, "scale", axis)?;
    let quantizer = freezer(inputs, true)?;
    let corrected =
        quant::bias_correction(quantizer, axis, Scales::symmetric(&scale), &w.values, &codes.values);
    let corrected = Array::new(&w.shape, corrected);
    let integers = sweep(quant::quantize_f32, quantizer, axis, &scale, &corrected);
    let steps = sweep(quant::unrounded, quantizer, axis, &scale, &corrected);
    Ok(Outputs::default()
        .with("corrected", steps)
        .with("final_int", integers)
        .rounding("final_int", "corrected"))
}

/// `quant_post_dynamic` of one weight
pub(crate) fn quant_post_dynamic(inputs: &Inputs<'_>) -> Result<Outputs, Fault> {
    let w = inputs.array("w")?;
    let drop = inputs.number("threshold_rate")?;
    let bits = bits(inputs.integer_or("bits", 8)?)?;
    // What exceeds the threshold is clipped to it on both sides.
    let grid = Grid::narrow(bits).ok_or_else(|| refused(format!("{bits} bits")))?;
    let (axis, threshold) = match inputs.text("type")? {
        "channel_wise_abs_max" => {
            let axis = axis(inputs, "axis", 0, &w)?;
            let mut threshold = vec![0.0; axis.channels];
            quant::abs_max_channels(axis, &w.values, &mut threshold);
            (axis, threshold.into_iter().map(f64::from).collect())
        }
        "abs_max" if drop.abs() < 1e-10 => {
            (Axis::whole(w.values.len()), vec![quant::abs_max(&w.values) as f64])
        }
        "abs_max" => (Axis::whole(w.values.len()), vec![histogram::dropping_threshold(&w.values, drop)]),
        other => return Err(refused(format!("type {other}"))),
    };
    let scale: Vec<f32> = threshold.iter().map(|t| (t / grid.high as f64) as f32).collect();
    let quantizer = Quantizer::onnx(grid);
    let mut int = sweep(quant::quantize_f32, quantizer, axis, &scale, &w);
    // A channel of zeros gives 0 / 0, which the cast to an integer turns into 0.
    int.values.iter_mut().filter(|q| q.is_nan()).for_each(|q| *q = 0.0);
    let dequantized = sweep(quant::dequantize_f32, quantizer, axis, &scale, &int);
    Ok(Outputs::default()
        .with("int", int)
        .with("dequantized", dequantized)
        .with("scale", Array::vector(scale)))
}

/// A batch normalization folded into the convolution before it, and the output of both.
pub(crate) fn conv_bn_fold(inputs: &Inputs<'_>) -> Result<Outputs, Fault> {
    let (x, mut w) = (inputs.array("x")?, inputs.array("w")?);
    let axis = Axis::of(&w.shape, 0).ok_or_else(|| malformed("`w` is a scalar"))?;
    let per_channel = |slot: &str| {
        let values = inputs.array(slot)?.values;
        if values.len() == axis.channels {
            Ok(values)
        } else {
            Err(malformed(format!("`{slot}` has {} elements for {} channels", values.len(), axis.channels)))
        }
    };
    let (gamma, beta) = (per_channel("gamma")?, per_channel("beta")?);
    let (mean, variance) = (per_channel("mean")?, per_channel("var")?);
    let (a, bias) =
        quant::batch_norm_affine(&gamma, &beta, &mean, &variance, inputs.number("epsilon")? as f32);
    quant::fold_scale(axis, &a, &mut w.values);
    let y = conv(&x, &w, &bias, inputs.integer_or("groups", 1)?, inputs.integer_or("padding", 0)?)?;
    Ok(Outputs::default().with("w_folded", w).with("bias", Array::vector(bias)).with("y", y))
}

/// A 2-D convolution of stride 1, NCHW by OIHW, written down as its definition.
fn conv(x: &Array, w: &Array, bias: &[f32], groups: i64, padding: i64) -> Result<Array, Fault> {
    let shapes = (<[usize; 4]>::try_from(&x.shape[..]), <[usize; 4]>::try_from(&w.shape[..]));
    let (Ok([n, c, height, width]), Ok([o, i, kh, kw])) = shapes else {
        return Err(malformed(format!("convolution of {:?} with {:?}", x.shape, w.shape)));
    };
    let (groups, pad) = (usize::try_from(groups).unwrap_or(0), usize::try_from(padding).unwrap_or(0));
    let fits =
        groups > 0 && c == i * groups && o % groups == 0 && height + 2 * pad >= kh && width + 2 * pad >= kw;
    if !fits {
        return Err(malformed(format!("convolution of {:?} with {:?} in {groups} groups", x.shape, w.shape)));
    }
    let shape = [n, o, height + 2 * pad - kh + 1, width + 2 * pad - kw + 1];
    let mut y = Vec::with_capacity(shape.iter().product());
    for at in 0..shape.iter().product() {
        let (col, row) = (at % shape[3], at / shape[3] % shape[2]);
        let (channel, image) = (at / (shape[2] * shape[3]) % o, at / (shape[1] * shape[2] * shape[3]));
        let first = channel / (o / groups) * i;
        let mut sum = bias[channel] as f64;
        for (j, r, s) in (0..i).flat_map(|j| (0..kh).flat_map(move |r| (0..kw).map(move |s| (j, r, s)))) {
            let (h, v) = (row + r, col + s);
            if (pad..pad + height).contains(&h) && (pad..pad + width).contains(&v) {
                let x = x.values[((image * c + first + j) * height + h - pad) * width + v - pad];
                sum += x as f64 * w.values[((channel * i + j) * kh + r) * kw + s] as f64;
            }
        }
        y.push(sum as f32);
    }
    Ok(Array::new(&shape, y))
}
