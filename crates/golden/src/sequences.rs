//! Operators with state, over several steps. Axis 0 of all arrays is the step.

use crate::case::{Array, Fault, Inputs, Outputs, malformed};
use crate::operators::quantizer;
use kernels::quant::{self, Axis, Quantizer, Round, Scales};
use observe::{MovingAverageAbsMax, RangeAbsMax};

/// A sweep of `kernels::quant` from `f32` to `f32`.
type Sweep = fn(Quantizer, Axis, Scales<'_>, &[f32], &mut [f32]);

/// The values of each step.
fn steps(x: &Array) -> Result<impl Iterator<Item = &[f32]>, Fault> {
    let count = *x.shape.first().ok_or_else(|| malformed("`x` has no axis of steps"))?;
    let len =
        x.values.len().checked_div(count).filter(|&len| len > 0).ok_or_else(|| malformed("`x` is empty"))?;
    Ok(x.values.chunks_exact(len))
}

/// One column per step.
fn column(values: Vec<f32>) -> Array {
    Array::new(&[values.len(), 1], values)
}

/// Runs a moving average over the steps; `f` turns the values of a step into its output, given the new scale.
fn moving_average(inputs: &Inputs<'_>, f: impl Fn(f32, &[f32], &mut [f32])) -> Result<Outputs, Fault> {
    let x = inputs.array("x")?;
    let start = MovingAverageAbsMax::paddle(inputs.number("moving_rate")? as f32);
    let mut average = MovingAverageAbsMax {
        rate: start.rate,
        state: inputs.scalar_or("init_state", start.state)?,
        accum: inputs.scalar_or("init_accum", start.accum)?,
        scale: inputs.scalar_or("init_scale", start.scale)?,
    };
    let (mut out, mut scale, mut state, mut accum) = (vec![], vec![], vec![], vec![]);
    for x in steps(&x)? {
        if !inputs.flag("is_test")? {
            average.step(quant::abs_max_paddle(x));
        }
        scale.push(average.scale);
        state.push(average.state);
        accum.push(average.accum);
        let from = out.len();
        out.resize(from + x.len(), 0.0);
        f(average.scale, x, &mut out[from..]);
    }
    Ok(Outputs::default()
        .with("out", Array::new(&x.shape, out))
        .with("scale", column(scale))
        .with("state", column(state))
        .with("accum", column(accum)))
}

fn per_tensor(sweep: Sweep, quantizer: Quantizer) -> impl Fn(f32, &[f32], &mut [f32]) {
    move |scale, x, out| sweep(quantizer, Axis::whole(x.len()), Scales::symmetric(&[scale]), x, out)
}

/// `fake_quantize_moving_average_abs_max`
pub(crate) fn quantize(inputs: &Inputs<'_>) -> Result<Outputs, Fault> {
    moving_average(inputs, per_tensor(quant::quantize_f32, quantizer(inputs, Round::HalfAway)?))
}

/// `fake_quantize_dequantize_moving_average_abs_max`
pub(crate) fn quantize_dequantize(inputs: &Inputs<'_>) -> Result<Outputs, Fault> {
    moving_average(inputs, per_tensor(quant::fake_quantize, quantizer(inputs, Round::HalfAway)?))
}

/// `moving_average_abs_max_scale`: observes and copies.
pub(crate) fn observe(inputs: &Inputs<'_>) -> Result<Outputs, Fault> {
    moving_average(inputs, |_, x, out| out.copy_from_slice(x))
}

/// `quantize_linear` in training: per tensor a moving average, per channel the magnitudes of each step.
pub(crate) fn quantize_linear(inputs: &Inputs<'_>) -> Result<Outputs, Fault> {
    let quantizer = quantizer(inputs, Round::HalfEven)?;
    if inputs.integer_or("quant_axis", -1)? == -1 {
        return moving_average(inputs, per_tensor(quant::quantize_f32, quantizer));
    }
    let x = inputs.array("x")?;
    let inner = Array::new(x.shape.get(1..).unwrap_or_default(), vec![]);
    let axis = crate::operators::axis(inputs, "quant_axis", 0, &inner)?;
    let (mut out, mut scales) = (vec![], vec![]);
    for x in steps(&x)? {
        let mut scale = vec![0.0; axis.channels];
        quant::abs_max_channels(axis, x, &mut scale);
        let from = out.len();
        out.resize(from + x.len(), 0.0);
        quant::quantize_f32(quantizer, axis, Scales::symmetric(&scale), x, &mut out[from..]);
        scales.extend(scale);
    }
    // State and sum keep their start values.
    let kept = |slot| Ok::<_, Fault>(column(vec![inputs.scalar_or(slot, 1.0)?; x.shape[0]]));
    Ok(Outputs::default()
        .with("scale", Array::new(&[x.shape[0], axis.channels], scales))
        .with("state", kept("init_state")?)
        .with("accum", kept("init_accum")?)
        .with("out", Array::new(&x.shape, out)))
}

/// `fake_quantize_range_abs_max`
pub(crate) fn range_abs_max(inputs: &Inputs<'_>) -> Result<Outputs, Fault> {
    let x = inputs.array("x")?;
    let quantize = per_tensor(quant::quantize_f32, quantizer(inputs, Round::HalfAway)?);
    let size = inputs.integer_or("window_size", 10_000)?;
    let size = usize::try_from(size)
        .ok()
        .filter(|&n| n > 0)
        .ok_or_else(|| malformed("`window_size` is not positive"))?;
    let mut window = RangeAbsMax::new(size);
    // A large window is recorded in part.
    let shown = inputs.output_shape("scales").and_then(|s| s.last().copied()).unwrap_or(size).min(size);
    let (mut out, mut scale, mut windows, mut iter) = (vec![], vec![], vec![], vec![]);
    for x in steps(&x)? {
        scale.push(window.step(quant::abs_max_paddle(x)));
        windows.extend_from_slice(&window.window()[..shown]);
        iter.push(window.steps() as f32);
        let from = out.len();
        out.resize(from + x.len(), 0.0);
        quantize(window.scale(), x, &mut out[from..]);
    }
    Ok(Outputs::default()
        .with("out", Array::new(&x.shape, out))
        .with("scales", Array::new(&[scale.len(), shown], windows))
        .with("scale", column(scale))
        .with("iter", column(iter)))
}
