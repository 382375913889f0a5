//! PACT: forward, gradients, and thresholds under training.

use crate::case::{Array, Fault, Inputs, Outputs, malformed};
use kernels::quant::{self, Pact};

fn call(inputs: &Inputs<'_>, form: Pact) -> Result<Outputs, Fault> {
    let x = inputs.array("x")?;
    let upstream = inputs.same_shape("upstream", &x)?;
    let threshold = inputs.scalar("threshold")?;
    let (mut y, mut dx) = (vec![0.0; x.values.len()], vec![0.0; x.values.len()]);
    quant::pact(form, threshold, &x.values, &mut y);
    let dthreshold = quant::pact_grad(form, threshold, &x.values, &upstream.values, &mut dx);
    Ok(Outputs::default()
        .with("y", Array::new(&x.shape, y))
        .with("dx", Array::new(&x.shape, dx))
        .with("dthreshold", Array::vector(vec![dthreshold])))
}

/// The formulation of PaddleSlim's demo, which its dygraph layer shares.
pub(crate) fn demo(inputs: &Inputs<'_>) -> Result<Outputs, Fault> {
    call(inputs, Pact::Demo)
}

/// The formulation of `paddleslim.quant.quanter.pact`.
pub(crate) fn slim(inputs: &Inputs<'_>) -> Result<Outputs, Fault> {
    call(inputs, Pact::Slim)
}

/// A threshold under momentum with weight decay. Axis 0 is the step; recorded are the gradient without the decay, and
/// velocity and threshold after the step.
pub(crate) fn threshold_update(inputs: &Inputs<'_>) -> Result<Outputs, Fault> {
    let x = inputs.array("x")?;
    let upstream = inputs.same_shape("upstream", &x)?;
    let count = *x.shape.first().ok_or_else(|| malformed("`x` has no axis of steps"))?;
    let len =
        x.values.len().checked_div(count).filter(|&len| len > 0).ok_or_else(|| malformed("`x` is empty"))?;
    let number = |name| Ok::<f32, Fault>(inputs.number(name)? as f32);
    let (momentum, decay) = (number("momentum")?, number("l2")?);
    let rate = number("lr")? * number("lr_multiplier")?;
    let (mut threshold, mut velocity) = (number("init")?, 0.0);
    let (mut grads, mut velocities, mut thresholds) = (vec![], vec![], vec![]);
    for (x, dy) in x.values.chunks_exact(len).zip(upstream.values.chunks_exact(len)) {
        let grad = quant::pact_grad(Pact::Demo, threshold, x, dy, &mut vec![0.0; len]);
        velocity = momentum * velocity + (grad + decay * threshold);
        threshold -= rate * velocity;
        grads.push(grad);
        velocities.push(velocity);
        thresholds.push(threshold);
    }
    Ok(Outputs::default()
        .with("grad", Array::vector(grads))
        .with("velocity", Array::vector(velocities))
        .with("threshold", Array::vector(thresholds)))
}
