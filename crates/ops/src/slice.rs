//! `Slice` (ONNX 1, 10, 11, 13): a range of each of some axes, with steps. Before opset 10 the ranges were attributes.

use crate::shapes::{axis, by_width, integers, list};
use ir::{Attr, Attrs, Dim, Infer, Io, Lower, Op, Parse, Parsed, QuantRole, Step, Type, Vjp};
use kernels::select::{Axis, Selection, strides};
use std::sync::Arc;
use tensor::Tensor;

/// `Slice(x, starts, ends, axes?, steps?)`: integers of equal number; `axes` are the first ones and `steps` 1 where
/// omitted. Positions below 0 count from the end; those outside are clamped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slice;

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    let mut inputs = Vec::new();
    for (slot, name) in [(1, "starts"), (2, "ends"), (3, "axes")] {
        if let Some(values) = cx.attrs.ints(name)?.filter(|_| cx.ins < 2) {
            inputs.push((slot, list(&values)));
        }
    }
    Ok(Parsed { inputs, ..Slice.into() })
}

/// Reads the gradient.
pub fn parse_grad(cx: &Parse) -> Result<Parsed, String> {
    let shape = cx.attrs.sizes("shape")?.ok_or("attribute shape is missing")?;
    Ok(SliceGrad { shape }.into())
}

/// The elements of one axis: the first, the distance from one to the next, and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    start: usize,
    step: i64,
    count: usize,
}

impl Range {
    /// `start..end` with `step` over `n` elements.
    fn new(start: i64, end: i64, step: i64, n: usize) -> Result<Range, String> {
        if step == 0 {
            return Err("a slice has the step 0".into());
        }
        let n = i64::try_from(n).map_err(|_| "an axis is too long")?;
        // Backwards, the first element may be the last one and the end is before the first one.
        let (low, high) = if step > 0 { (0, n) } else { (-1, n - 1) };
        let clamp = |at: i64| if at < 0 { at.saturating_add(n).clamp(low, high) } else { at.min(high) };
        let (start, end) = (clamp(start).max(0), clamp(end));
        let span = if step > 0 { end.saturating_sub(start) } else { start.saturating_sub(end) };
        let count = if span <= 0 { 0 } else { (span as u64).div_ceil(step.unsigned_abs()) as usize };
        Ok(Range { start: start as usize, step, count: if n == 0 { 0 } else { count } })
    }

    fn axis(&self, stride: usize) -> Axis {
        let step = if self.count > 1 { self.step as isize * stride as isize } else { stride as isize };
        Axis::Affine { n: self.count, start: self.start * stride, step }
    }
}

/// Start, end and step of each axis that is sliced.
type Ranges = Vec<Option<(i64, i64, i64)>>;

/// The four lists, with their defaults filled in.
fn ranges(
    starts: &[i64],
    ends: &[i64],
    axes: Option<&[i64]>,
    steps: Option<&[i64]>,
    rank: usize,
) -> Result<Ranges, String> {
    let lens = [
        starts.len(),
        ends.len(),
        axes.map_or(starts.len(), <[_]>::len),
        steps.map_or(starts.len(), <[_]>::len),
    ];
    if lens.iter().any(|&n| n != lens[0]) {
        return Err(format!(
            "a slice has {} starts, {} ends, {} axes and {} steps",
            lens[0], lens[1], lens[2], lens[3]
        ));
    }
    let mut all = vec![None; rank];
    for i in 0..starts.len() {
        let at = axis(axes.map_or(i as i64, |a| a[i]), rank)?;
        if all[at].is_some() {
            return Err(format!("axis {at} is sliced twice"));
        }
        all[at] = Some((starts[i], ends[i], steps.map_or(1, |s| s[i])));
    }
    Ok(all)
}

/// Selects from a tensor of `shape` what the constant operands 1 to 4 say.
fn selection(cx: &Lower, shape: &[usize]) -> Result<Selection, String> {
    let constant = |i: usize| cx.optional(i).map(|_| cx.constant(i).map(Tensor::to_i64)).transpose();
    let (starts, ends) = (cx.constant(1)?.to_i64(), cx.constant(2)?.to_i64());
    let (axes, steps) = (constant(3)?, constant(4)?);
    let all = ranges(&starts, &ends, axes.as_deref(), steps.as_deref(), shape.len())?;
    let mut selected = Vec::with_capacity(shape.len());
    for ((&n, range), stride) in shape.iter().zip(all).zip(strides(shape)) {
        selected.push(match range {
            None => Axis::strided(n, stride),
            Some((start, end, step)) => Range::new(start, end, step, n)?.axis(stride),
        });
    }
    Ok(Selection::new(shape.iter().product(), selected))
}

impl Op for Slice {
    fn name(&self) -> &str {
        "Slice"
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let x = cx.ty(0)?;
        let Some(dims) = &x.shape else { return Ok(vec![Type { dtype: x.dtype, shape: None }]) };
        let lists = [integers(cx, 1)?, integers(cx, 2)?, integers(cx, 3)?, integers(cx, 4)?];
        let computed = (1..=4).any(|i| cx.has(i) && cx.value(i).is_none());
        let (Some(starts), Some(ends), false) = (&lists[0], &lists[1], computed) else {
            return Ok(vec![Type { dtype: x.dtype, shape: Some(crate::shapes::unknown(dims.len())) }]);
        };
        let all = ranges(starts, ends, lists[2].as_deref(), lists[3].as_deref(), dims.len())?;
        let mut shape = Vec::with_capacity(dims.len());
        for (dim, range) in dims.iter().zip(all) {
            shape.push(match (dim.fixed(), range) {
                (_, None) => dim.clone(),
                // Everything from the first element on, whatever the size.
                (None, Some((0, i64::MAX | 0x7fff_ffff, 1))) => dim.clone(),
                (None, Some((_, _, 0))) => return Err("a slice has the step 0".into()),
                (None, Some(_)) => Dim::Unknown,
                (Some(n), Some((start, end, step))) => Dim::Fixed(Range::new(start, end, step, n)?.count),
            });
        }
        Ok(vec![Type { dtype: x.dtype, shape: Some(shape) }])
    }

    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        let shape = cx.dims(cx.input(0)?)?;
        let ins = [cx.d_output(0), cx.input(1), cx.input(2), cx.input(3), cx.input(4)];
        let d = cx.add_multi(Arc::new(SliceGrad { shape }), &ins, 1)?[0];
        cx.set(0, d);
        Some(())
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let x = cx.input(0)?;
        let plan = selection(cx, &x.shape)?;
        by_width!(x.dtype, T => Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            plan.run::<T>(parts.input(0), T::default(), parts.output(0));
            Ok(())
        })))
    }

    fn quant(&self) -> QuantRole {
        QuantRole::SameScale
    }
}

/// `SliceGrad(dy, starts, ends, axes?, steps?)`: `dy` at the places from which the slice was taken, 0 elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceGrad {
    /// Shape of the tensor that was sliced.
    pub shape: Vec<usize>,
}

impl Op for SliceGrad {
    fn name(&self) -> &str {
        "SliceGrad"
    }

    fn domain(&self) -> &str {
        "qat"
    }

    fn attrs(&self) -> Attrs {
        Attrs::new().with("shape", Attr::Ints(self.shape.iter().map(|&n| n as i64).collect()))
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let shape = Some(self.shape.iter().map(|&n| n.into()).collect());
        Ok(vec![Type { dtype: cx.float(0)?.dtype, shape }])
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let dy = cx.typed::<f32>(0)?;
        let plan = selection(cx, &self.shape)?;
        if plan.len() != dy.len() {
            return Err(format!("the gradient {:?} is not that of a slice of {:?}", dy.shape, self.shape));
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
    use crate::testing::{Draw, check_gradient, eval};
    use ir::Arg;
    use tensor::DType;

    fn slice(x: &Tensor, lists: [&[i64]; 4]) -> Result<Tensor, String> {
        let lists = lists.map(list);
        eval(&Slice, &[x, &lists[0], &lists[1], &lists[2], &lists[3]])
    }

    #[test]
    fn values() {
        let x = Tensor::new(&[2, 4], (0..8).collect::<Vec<i64>>());
        let y = slice(&x, [&[1], &[3], &[1], &[1]]).unwrap();
        assert_eq!((y.shape(), y.to_i64()), (&[2, 2][..], vec![1, 2, 5, 6]));
        let value =
            |start: i64, end: i64, step: i64| slice(&x, [&[start], &[end], &[-1], &[step]]).unwrap().to_i64();
        assert_eq!(value(-3, i64::MAX, 2), [1, 3, 5, 7]);
        assert_eq!(value(i64::MAX, i64::MIN, -1), [3, 2, 1, 0, 7, 6, 5, 4]);
        assert_eq!(value(2, 0, -2), [2, 6]);
        assert_eq!(value(-1, -5, -3), [3, 0, 7, 4]);
        assert!(value(3, 1, 1).is_empty());
        assert!(value(0, 3, -1).is_empty());
        assert_eq!(value(0, 4, i64::MAX), [0, 4]);
        assert_eq!(eval(&Slice, &[&x, &list(&[1, 1]), &list(&[2, 2])]).unwrap().to_i64(), [5]);
    }

    #[test]
    fn nonsense_is_told() {
        let x = Tensor::zeros(DType::F32, &[2, 4]);
        assert!(slice(&x, [&[0], &[1], &[0], &[0]]).unwrap_err().contains("step 0"));
        assert!(slice(&x, [&[0, 1], &[1], &[0], &[1]]).unwrap_err().contains("2 starts, 1 ends"));
        assert!(slice(&x, [&[0, 0], &[1, 1], &[0, -2], &[1, 1]]).unwrap_err().contains("twice"));
        assert!(slice(&x, [&[0], &[1], &[2], &[1]]).unwrap_err().contains("axis 2"));
        assert!(slice(&Tensor::zeros(DType::F32, &[0]), [&[0], &[1], &[0], &[-1]]).unwrap().is_empty());
    }

    #[test]
    fn open_sizes() {
        let ty = Type::new(DType::F32, [Dim::sym("N"), Dim::sym("H")]);
        let (starts, ends) = (list(&[0, 1]), list(&[i64::MAX, 3]));
        let lists = Type::new(DType::I64, [2usize]);
        let arg = |t| Some(Arg { ty: &lists, value: Some(t) });
        let args = [Some(Arg { ty: &ty, value: None }), arg(&starts), arg(&ends)];
        assert_eq!(Slice.infer(&Infer::new(&args, 1)).unwrap()[0].to_string(), "float[N,?]");
        let computed = [args[0], args[1], Some(Arg { ty: &lists, value: None })];
        assert_eq!(Slice.infer(&Infer::new(&computed, 1)).unwrap()[0].to_string(), "float[?,?]");
    }

    #[test]
    fn gradient() {
        let mut draw = Draw::new(1);
        for _ in 0..20 {
            let rank = draw.int(1, 5);
            let shape = draw.shape(rank, 5);
            let (mut starts, mut ends, mut steps) = (vec![], vec![], vec![]);
            for &n in &shape {
                let step = draw.pick(&[1, 2, -1, -2]);
                let (a, b) = (draw.int(0, n) as i64, draw.int(0, n) as i64);
                let (low, high) = (a.min(b), a.max(b));
                starts.push(if step > 0 { low } else { high });
                ends.push(if step > 0 { high + 1 } else { low - 1 - n as i64 });
                steps.push(step);
            }
            let axes: Vec<i64> = (0..rank as i64).collect();
            let x = draw.tensor(&shape, -1.0, 1.0);
            check_gradient(Slice, &[&x, &list(&starts), &list(&ends), &list(&axes), &list(&steps)], 1, &[0]);
        }
    }
}
