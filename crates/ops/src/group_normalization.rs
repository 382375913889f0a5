//! `GroupNormalization` (ONNX 21; Wu and He 2018, arXiv 1803.08494).

use crate::shapes::{list, sum_to, untouched};
use crate::{Add, Mul, Reciprocal, ReduceMean, Reshape, Sqrt, Sub};
use ir::{Attr, Attrs, Infer, Io, Lower, OnnxForm, Op, Parse, Parsed, Step, Type, ValueId, Vjp};
use tensor::Tensor;

/// `GroupNormalization(x, scale, bias)`: `(x - mean) / sqrt(variance + epsilon) * scale + bias` of `x`, `(N, C, ...)`, mean
/// and variance of each sample over groups of channels, scale and bias per channel. f32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupNormalization {
    /// Number of groups; it divides the channels.
    pub groups: usize,
    /// Added to the variance.
    pub epsilon: f32,
}

/// Reads the operator. Sums are f32 here whatever `stash_type` says, whose default that is. Before opset 21 there was a
/// scale for each group: such a node is carried through.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    if cx.opset < 21 {
        return Ok(untouched("GroupNormalization", cx));
    }
    let groups = cx.attrs.int("num_groups", 0)?;
    let fits = usize::try_from(groups).ok().filter(|&n| n > 0);
    let groups = fits.ok_or_else(|| format!("attribute num_groups should be above 0, but is {groups}"))?;
    Ok(GroupNormalization { groups, epsilon: cx.attrs.float("epsilon", 1e-5)? }.into())
}

impl Op for GroupNormalization {
    fn name(&self) -> &str {
        "GroupNormalization"
    }

    fn attrs(&self) -> Attrs {
        Attrs::new().with("num_groups", Attr::Int(self.groups as i64)).with_float(
            "epsilon",
            self.epsilon,
            1e-5,
        )
    }

    fn to_onnx(&self, opset: i64) -> Result<OnnxForm, String> {
        crate::unary::since(self, opset, 21)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let x = cx.float(0)?;
        if let Some(dims) = &x.shape {
            let channels = dims.get(1).ok_or_else(|| format!("{x} has no channels"))?;
            if channels.fixed().is_some_and(|c| c % self.groups != 0) {
                return Err(format!("{channels} channels do not make {} groups", self.groups));
            }
            for (i, what) in [(1, "scale"), (2, "bias")] {
                let ty = cx.float(i)?;
                if ty.shape.as_ref().is_some_and(|s| s.len() != 1 || !s[0].agrees(channels)) {
                    return Err(format!("the {what} {ty} does not fit the {channels} channels"));
                }
            }
        }
        Ok(vec![x.clone()])
    }

    /// With `u = (x - mean) r`, `r = 1 / sqrt(variance + epsilon)` and `g = dy scale`, all in groups:
    /// `dx = r (g - mean(g) - u mean(g u))`.
    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        let (dy, x, scale) = (cx.d_output(0)?, cx.input(0)?, cx.input(1)?);
        let shape = cx.dims(x)?;
        let sizes = |list: &[usize]| list.iter().map(|&n| n as i64).collect::<Vec<i64>>();
        let whole = cx.constant_value(list(&sizes(&shape)));
        let rows: usize = shape[2..].iter().product();
        let grouped = [shape[0], self.groups, shape[1] / self.groups, rows];
        let grouped = cx.constant_value(list(&sizes(&grouped)));
        let mut channel = vec![1; shape.len() - 1];
        channel[0] = shape[1];
        let channel = cx.constant_value(list(&sizes(&channel)));
        let axes = cx.constant_value(list(&[2, 3]));
        let epsilon = cx.constant_value(Tensor::scalar(self.epsilon));
        let mean = |cx: &mut Vjp, v: ValueId| cx.add(ReduceMean::default(), &[v, axes]);
        let reshape = |cx: &mut Vjp, v: ValueId, to: ValueId| cx.add(Reshape::default(), &[v, to]);

        let grouped_x = reshape(cx, x, grouped)?;
        let centre = mean(cx, grouped_x)?;
        let centred = cx.add(Sub, &[grouped_x, centre])?;
        let square = cx.add(Mul, &[centred, centred])?;
        let variance = mean(cx, square)?;
        let variance = cx.add(Add, &[variance, epsilon])?;
        let root = cx.add(Sqrt, &[variance])?;
        let r = cx.add(Reciprocal, &[root])?;
        let u = cx.add(Mul, &[centred, r])?;

        let per_channel = reshape(cx, scale, channel)?;
        if cx.wants(1) {
            let u = reshape(cx, u, whole)?;
            let d = cx.add(Mul, &[dy, u])?;
            let d = sum_to(cx, d, per_channel)?;
            let flat = cx.constant_value(list(&[shape[1] as i64]));
            let d = reshape(cx, d, flat)?;
            cx.set(1, d);
        }
        if cx.wants(2) {
            let d = sum_to(cx, dy, per_channel)?;
            let flat = cx.constant_value(list(&[shape[1] as i64]));
            let d = reshape(cx, d, flat)?;
            cx.set(2, d);
        }
        if cx.wants(0) {
            let g = cx.add(Mul, &[dy, per_channel])?;
            let g = reshape(cx, g, grouped)?;
            let along = cx.add(Mul, &[g, u])?;
            let along = mean(cx, along)?;
            let along = cx.add(Mul, &[u, along])?;
            let level = mean(cx, g)?;
            let d = cx.add(Sub, &[g, level])?;
            let d = cx.add(Sub, &[d, along])?;
            let d = cx.add(Mul, &[d, r])?;
            let d = reshape(cx, d, whole)?;
            cx.set(0, d);
        }
        Some(())
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let x = cx.typed::<f32>(0)?;
        cx.typed::<f32>(1)?;
        cx.typed::<f32>(2)?;
        let (channels, rows) = (x.shape[1], x.shape[2..].iter().product::<usize>().max(1));
        let (groups, width, epsilon) = (self.groups, (channels / self.groups * rows).max(1), self.epsilon);
        Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let (x, scale, bias): (&[f32], &[f32], &[f32]) = (parts.input(0), parts.input(1), parts.input(2));
            let all = parts.output::<f32>(0).chunks_exact_mut(width).zip(x.chunks_exact(width));
            for (group, (y, x)) in all.enumerate() {
                let mean = x.iter().sum::<f32>() / width as f32;
                let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / width as f32;
                let r = 1.0 / (variance + epsilon).sqrt();
                let first = group % groups * (channels / groups);
                for (i, (y, x)) in y.iter_mut().zip(x).enumerate() {
                    let channel = first + i / rows;
                    *y = (x - mean) * r * scale[channel] + bias[channel];
                }
            }
            Ok(())
        }))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{Draw, check_gradient, eval};

    #[test]
    fn values() {
        let x = Tensor::new(&[1, 2, 2], vec![1f32, 3.0, 5.0, 5.0]);
        let (scale, bias) = (Tensor::new(&[2], vec![1f32, 2.0]), Tensor::new(&[2], vec![0f32, 0.5]));
        let y =
            eval(&GroupNormalization { groups: 2, epsilon: 0.0001 }, &[&x, &scale, &bias]).unwrap().to_f32();
        assert!((y[0] + 1.0).abs() < 1e-3 && (y[1] - 1.0).abs() < 1e-3 && y[2..] == [0.5, 0.5]);
        let wrong = eval(&GroupNormalization { groups: 3, epsilon: 0.0 }, &[&x, &scale, &bias]);
        assert!(wrong.unwrap_err().contains("2 channels"));
    }

    #[test]
    fn gradient() {
        let mut draw = Draw::new(1);
        for shape in [&[2, 4, 3, 2][..], &[1, 4, 5]] {
            let (x, scale, bias) =
                (draw.tensor(shape, -1.0, 1.0), draw.tensor(&[4], 0.5, 1.5), draw.tensor(&[4], -1.0, 1.0));
            check_gradient(
                GroupNormalization { groups: 2, epsilon: 1e-2 },
                &[&x, &scale, &bias],
                1,
                &[0, 1, 2],
            );
        }
    }
}
