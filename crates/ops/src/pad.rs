//! `Pad` (ONNX 2, 11, 13, 18, 19, 21): extends a tensor along its axes. Before opset 11 sizes and value were attributes.

use crate::reshape::reshape_as;
use crate::shapes::{axis, by_width, check_table, integers, list};
use crate::{ReduceSum, Sub};
use ir::{Attr, Attrs, Dim, Infer, Io, Lower, OnnxForm, Op, Parse, Parsed, Step, Type, Vjp};
use kernels::select::{Axis, Selection, strides};
use std::sync::Arc;
use tensor::Tensor;

/// What stands outside of the operand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PadMode {
    /// One value, 0 unless given.
    #[default]
    Constant,
    /// The operand mirrored at its border, without the border itself.
    Reflect,
    /// The border.
    Edge,
    /// The operand from its other end on (opset 19).
    Wrap,
}

const MODES: [(&str, PadMode); 4] = [
    ("constant", PadMode::Constant),
    ("reflect", PadMode::Reflect),
    ("edge", PadMode::Edge),
    ("wrap", PadMode::Wrap),
];

/// `Pad(x, pads, value?, axes?)`: `pads` i64, the sizes before each axis and then those behind each; negative ones crop.
/// `axes` names the axes, all of them where it is omitted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pad {
    /// What stands outside.
    pub mode: PadMode,
    /// Whether operand 3 is given: opsets before 18 have no such operand.
    pub has_axes: bool,
}

fn mode(attrs: &Attrs) -> Result<PadMode, String> {
    let name = attrs.str("mode", "constant")?;
    let known = MODES.iter().find(|(n, _)| *n == name);
    known
        .map(|(_, m)| *m)
        .ok_or_else(|| format!("attribute mode is \"{name}\"; known are constant, reflect, edge, wrap"))
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    let mut inputs = Vec::new();
    if let Some(pads) = cx.attrs.ints("pads")?.filter(|_| cx.ins < 2) {
        inputs.push((1, list(&pads)));
        let value = cx.attrs.float("value", 0.0)?;
        if value != 0.0 {
            inputs.push((2, Tensor::scalar(value)));
        }
    }
    Ok(Parsed { inputs, like_operand: true, ..Pad { mode: mode(cx.attrs)?, has_axes: cx.ins > 3 }.into() })
}

/// Reads the gradient.
pub fn parse_grad(cx: &Parse) -> Result<Parsed, String> {
    let shape = cx.attrs.sizes("shape")?.ok_or("attribute shape is missing")?;
    Ok(PadGrad { mode: mode(cx.attrs)?, shape }.into())
}

/// Sizes before and behind each axis.
fn by_axis(pads: &[i64], axes: Option<&[i64]>, rank: usize) -> Result<Vec<(i64, i64)>, String> {
    let n = axes.map_or(rank, <[_]>::len);
    if pads.len() != 2 * n {
        return Err(format!("pads {pads:?} should have {} entries for {n} axes", 2 * n));
    }
    let mut all = vec![(0, 0); rank];
    for i in 0..n {
        let at = axis(axes.map_or(i as i64, |a| a[i]), rank)?;
        all[at] = (pads[i], pads[n + i]);
    }
    Ok(all)
}

/// The size of a padded axis.
fn padded(n: usize, (before, behind): (i64, i64)) -> Result<usize, String> {
    let size = i64::try_from(n).ok().and_then(|n| n.checked_add(before)?.checked_add(behind));
    let size = size.and_then(|s| usize::try_from(s).ok()).filter(|&s| s < 1 << 40);
    size.ok_or_else(|| format!("{n} elements cannot be padded by {before} and {behind}"))
}

impl PadMode {
    fn name(self) -> &'static str {
        MODES.iter().find(|(_, m)| *m == self).map_or("constant", |(name, _)| name)
    }

    /// The element at position `i` of `n`, which may lie outside.
    fn at(self, i: i64, n: usize) -> Option<usize> {
        let size = n as i64;
        if (0..size).contains(&i) {
            return Some(i as usize);
        }
        match self {
            _ if n == 0 => None,
            PadMode::Constant => None,
            PadMode::Edge => Some(i.clamp(0, size - 1) as usize),
            PadMode::Wrap => Some(i.rem_euclid(size) as usize),
            PadMode::Reflect if n == 1 => Some(0),
            PadMode::Reflect => {
                let turn = i.rem_euclid(2 * size - 2);
                Some(turn.min(2 * size - 2 - turn) as usize)
            }
        }
    }

    /// Selects the result from a tensor of `shape`, as the constant operands `pads` and `axes` say.
    fn selection(self, cx: &Lower, shape: &[usize]) -> Result<Selection, String> {
        let pads = cx.constant(1)?.to_i64();
        let axes = cx.optional(3).map(|_| cx.constant(3).map(Tensor::to_i64)).transpose()?;
        let pads = by_axis(&pads, axes.as_deref(), shape.len())?;
        let mut all = Vec::with_capacity(shape.len());
        for ((&n, pads), stride) in shape.iter().zip(pads).zip(strides(shape)) {
            let m = padded(n, pads)?;
            if n == 0 && m > 0 && self != PadMode::Constant {
                return Err(format!("an axis without elements cannot be padded by mode {}", self.name()));
            }
            check_table(m)?;
            all.push(Axis::at((0..m as i64).map(|i| self.at(i - pads.0, n)), stride));
        }
        Ok(Selection::new(shape.iter().product(), all))
    }
}

impl Op for Pad {
    fn name(&self) -> &str {
        "Pad"
    }

    fn attrs(&self) -> Attrs {
        Attrs::new().with_str("mode", self.mode.name(), "constant")
    }

    fn to_onnx(&self, opset: i64) -> Result<OnnxForm, String> {
        if opset < 18 && self.has_axes {
            return Err("Pad has no axes before opset 18".into());
        }
        if opset < 19 && self.mode == PadMode::Wrap {
            return Err("Pad has no mode wrap before opset 19".into());
        }
        Ok(OnnxForm { op_type: self.name().into(), attrs: self.attrs(), ..OnnxForm::default() })
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let x = cx.ty(0)?;
        cx.ty(1)?;
        let Some(dims) = &x.shape else { return Ok(vec![Type { dtype: x.dtype, shape: None }]) };
        let (pads, axes) = (integers(cx, 1)?, integers(cx, 3)?);
        let shape = match pads {
            Some(pads) if axes.is_some() || !cx.has(3) => {
                let size = |(dim, pads): (&Dim, (i64, i64))| match dim.fixed() {
                    Some(n) => padded(n, pads).map(Dim::Fixed),
                    None if pads == (0, 0) => Ok(dim.clone()),
                    None => Ok(Dim::Unknown),
                };
                dims.iter()
                    .zip(by_axis(&pads, axes.as_deref(), dims.len())?)
                    .map(size)
                    .collect::<Result<_, _>>()?
            }
            _ => crate::shapes::unknown(dims.len()),
        };
        Ok(vec![Type { dtype: x.dtype, shape: Some(shape) }])
    }

    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        let grad = PadGrad { mode: self.mode, shape: cx.dims(cx.input(0)?)? };
        let ins = [cx.d_output(0), cx.input(1), None, cx.input(3)];
        let ins = &ins[..if ins[3].is_some() { 4 } else { 2 }];
        let d = cx.add_multi(Arc::new(grad), ins, 1)?[0];
        cx.set(0, d);
        if cx.wants(2) {
            // What the operand does not get, the value gets.
            let (dy, value) = (cx.d_output(0)?, cx.input(2)?);
            let [all, inside] = [cx.add(ReduceSum::default(), &[dy])?, cx.add(ReduceSum::default(), &[d])?];
            let d = cx.add(Sub, &[all, inside])?;
            let d = reshape_as(cx, d, value)?;
            cx.set(2, d);
        }
        Some(())
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let x = cx.input(0)?;
        if let Some(fill) = cx.optional(2).filter(|fill| fill.dtype != x.dtype) {
            return Err(format!(
                "{} elements cannot be filled up with a value of type {}",
                x.dtype, fill.dtype
            ));
        }
        let plan = self.mode.selection(cx, &x.shape)?;
        by_width!(x.dtype, T => Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let fill = parts.input::<T>(2).first().copied().unwrap_or_default();
            plan.run::<T>(parts.input(0), fill, parts.output(0));
            Ok(())
        })))
    }
}

/// `PadGrad(dy, pads, _, axes?)`: adds `dy` up at the elements from which it was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PadGrad {
    /// What stood outside.
    pub mode: PadMode,
    /// Shape of the tensor that was padded.
    pub shape: Vec<usize>,
}

impl Op for PadGrad {
    fn name(&self) -> &str {
        "PadGrad"
    }

    fn domain(&self) -> &str {
        "qat"
    }

    fn attrs(&self) -> Attrs {
        let shape = Attr::Ints(self.shape.iter().map(|&n| n as i64).collect());
        Attrs::new().with_str("mode", self.mode.name(), "constant").with("shape", shape)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let shape = Some(self.shape.iter().map(|&n| n.into()).collect());
        Ok(vec![Type { dtype: cx.float(0)?.dtype, shape }])
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let dy = cx.typed::<f32>(0)?;
        let plan = self.mode.selection(cx, &self.shape)?;
        if plan.len() != dy.len() {
            return Err(format!("the gradient {:?} is not that of a padded {:?}", dy.shape, self.shape));
        }
        Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            plan.grad(parts.input(0), parts.output(0));
            Ok(())
        }))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{Draw, check_gradient, check_gradient_within, eval, run};
    use tensor::DType;

    fn pad(mode: PadMode) -> Pad {
        Pad { mode, has_axes: false }
    }

    #[test]
    fn modes() {
        let x = Tensor::new(&[3], vec![1i64, 2, 3]);
        let value = |mode, pads: &[i64]| eval(&pad(mode), &[&x, &list(pads)]).unwrap().to_i64();
        assert_eq!(value(PadMode::Constant, &[1, 2]), [0, 1, 2, 3, 0, 0]);
        assert_eq!(value(PadMode::Edge, &[1, 2]), [1, 1, 2, 3, 3, 3]);
        assert_eq!(value(PadMode::Reflect, &[2, 2]), [3, 2, 1, 2, 3, 2, 1]);
        assert_eq!(value(PadMode::Wrap, &[1, 2]), [3, 1, 2, 3, 1, 2]);
        assert_eq!(value(PadMode::Constant, &[-1, 1]), [2, 3, 0]);
        assert_eq!(value(PadMode::Reflect, &[-1, -1]), [2]);
        let nine = eval(&pad(PadMode::Constant), &[&x, &list(&[1, 0]), &Tensor::scalar(9i64)]).unwrap();
        assert_eq!(nine.to_i64(), [9, 1, 2, 3]);
    }

    #[test]
    fn only_some_axes() {
        let x = Tensor::new(&[2, 2], vec![1i64, 2, 3, 4]);
        let op = Pad { mode: PadMode::Constant, has_axes: true };
        let y = run(&op, &[Some(&x), Some(&list(&[0, 1])), None, Some(&list(&[-1]))], 1).unwrap();
        assert_eq!(y[0].to_i64(), [1, 2, 0, 3, 4, 0]);
        assert!(op.to_onnx(17).is_err() && op.to_onnx(18).is_ok());
    }

    #[test]
    fn nonsense_is_told() {
        let x = Tensor::zeros(DType::F32, &[2, 0]);
        let run = |mode, pads: &[i64]| eval(&pad(mode), &[&x, &list(pads)]).map(|t| t.shape().to_vec());
        assert!(run(PadMode::Constant, &[0, 0, 0]).unwrap_err().contains("4 entries"));
        assert!(run(PadMode::Constant, &[-2, 0, -1, 0]).unwrap_err().contains("cannot be padded"));
        assert!(run(PadMode::Constant, &[i64::MAX, 0, i64::MAX, 0]).is_err());
        assert!(run(PadMode::Edge, &[0, 1, 0, 0]).unwrap_err().contains("without elements"));
        assert_eq!(run(PadMode::Constant, &[0, 1, 0, 0]).unwrap(), [2, 1]);
        let attrs = Attrs::new().with_str("mode", "mirror", "");
        assert!(parse(&Parse { attrs: &attrs, opset: 13, ins: 2, outs: 1 }).unwrap_err().contains("mirror"));
    }

    #[test]
    fn attributes_become_inputs() {
        let attrs = Attrs::new().with("pads", Attr::Ints(vec![1, 1])).with_float("value", 2.0, 0.0);
        let parsed = parse(&Parse { attrs: &attrs, opset: 2, ins: 1, outs: 1 }).unwrap();
        assert_eq!(parsed.inputs, [(1, list(&[1, 1])), (2, Tensor::scalar(2f32))]);
    }

    #[test]
    fn gradient() {
        let mut draw = Draw::new(1);
        for mode in [PadMode::Constant, PadMode::Reflect, PadMode::Edge, PadMode::Wrap] {
            for pads in [[0, 0, 1, 2, 0, 0, 2, 1], [0, 1, -1, 0, 1, 0, 0, -1]] {
                let x = draw.tensor(&[2, 2, 3, 4], -1.0, 1.0);
                check_gradient(pad(mode), &[&x, &list(&pads)], 1, &[0]);
            }
        }
        let (x, pads, axes) = (draw.tensor(&[2, 3], -1.0, 1.0), list(&[1, 1]), list(&[1]));
        let op = Arc::new(Pad { mode: PadMode::Edge, has_axes: true });
        check_gradient_within(op, &[Some(&x), Some(&pads), None, Some(&axes)], 1, &[0], Default::default());
    }
}
