//! `TopK` (ONNX 1, 10, 11, 24): the largest or smallest elements along an axis, and where they are.

use crate::ScatterElements;
use crate::constant_of_shape::zeros_as;
use crate::scatter::Join;
use crate::shapes::{axis, integers, list};
use ir::{Attrs, Dim, Infer, Io, Lower, Op, Parse, Parsed, Step, Type, Vjp};
use std::cmp::Ordering;
use std::sync::Arc;
use tensor::{DType, Element};

/// `TopK(x, k)`: the `k` (a constant) largest elements along an axis, in order, and their indices (i64). Of equal elements
/// the first one comes first; NaN counts as larger than everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopK {
    /// The axis; negative counts from the end.
    pub axis: i64,
    /// The largest elements, not the smallest.
    pub largest: bool,
}

impl Default for TopK {
    fn default() -> TopK {
        TopK { axis: -1, largest: true }
    }
}

/// Reads the operator. Elements come in order even where `sorted` does not ask for it. Before opset 10 `k` was an
/// attribute.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    let op = TopK { axis: cx.attrs.int("axis", -1)?, largest: cx.attrs.int("largest", 1)? != 0 };
    let inputs = match cx.attrs.int("k", -1)? {
        k if cx.opset < 10 => vec![(1, list(&[k]))],
        _ => Vec::new(),
    };
    Ok(Parsed { inputs, ..op.into() })
}

impl Op for TopK {
    fn name(&self) -> &str {
        "TopK"
    }

    fn attrs(&self) -> Attrs {
        Attrs::new().with_int("axis", self.axis, -1).with_int("largest", self.largest.into(), 1)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let (x, k) = (cx.ty(0)?, integers(cx, 1)?);
        let mut shape = x.shape.clone();
        if let Some(dims) = &mut shape {
            let along = axis(self.axis, dims.len())?;
            dims[along] = match k.as_deref() {
                Some(&[k]) => {
                    let fits =
                        usize::try_from(k).ok().filter(|&k| dims[along].fixed().is_none_or(|n| k <= n));
                    Dim::Fixed(fits.ok_or_else(|| format!("{k} elements of {x} along axis {along}"))?)
                }
                Some(_) => return Err("k should be one number".into()),
                None => Dim::Unknown,
            };
        }
        let indices = Type { dtype: Some(DType::I64), shape: shape.clone() };
        Ok(vec![Type { dtype: x.dtype, shape }, indices])
    }

    /// What was chosen gets the gradient.
    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        let indices = match cx.outs() {
            0 | 1 => cx.add_multi(Arc::new(*self), &[cx.input(0), cx.input(1)], 2)?[1],
            _ => cx.output(1),
        };
        let zeros = zeros_as(cx, cx.input(0)?)?;
        let dy = cx.d_output(0)?;
        let d = cx.add(ScatterElements { axis: self.axis, reduction: Join::Add }, &[zeros, indices, dy])?;
        cx.set(0, d);
        Some(())
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        match cx.input(0)?.dtype {
            DType::F32 => self.step::<f32>(cx, |a, b| match (a.is_nan(), b.is_nan()) {
                (false, false) => a.partial_cmp(&b).unwrap_or(Ordering::Equal),
                (a, b) => a.cmp(&b),
            }),
            DType::I64 => self.step::<i64>(cx, |a, b| a.cmp(&b)),
            other => Err(format!("the executor does not order elements of type {other}")),
        }
    }
}

impl TopK {
    fn step<T: Element>(self, cx: &Lower, order: fn(T, T) -> Ordering) -> Result<Step, String> {
        let x = cx.typed::<T>(0)?;
        let at = axis(self.axis, x.shape.len())?;
        let (n, k, inner) = (x.shape[at], cx.outs[0].shape[at], x.shape[at + 1..].iter().product::<usize>());
        let both = cx.outs.len() > 1;
        let run = move |io: &mut Io| {
            let mut parts = io.split();
            let x: &[T] = parts.input(0);
            let values: &mut [T] = parts.output(0);
            let indices: &mut [i64] = if both { parts.output(1) } else { &mut [] };
            let numbers = &mut parts.workspace::<i64>()[..n];
            for line in 0..x.len() / n.max(1) {
                let (outer, inside) = (line / inner, line % inner);
                let element = |i: i64| x[(outer * n + i as usize) * inner + inside];
                numbers.iter_mut().enumerate().for_each(|(i, number)| *number = i as i64);
                numbers.sort_unstable_by(|&a, &b| {
                    let ascending = order(element(a), element(b));
                    (if self.largest { ascending.reverse() } else { ascending }).then(a.cmp(&b))
                });
                for (i, &number) in numbers[..k].iter().enumerate() {
                    let to = (outer * k + i) * inner + inside;
                    values[to] = element(number);
                    if both {
                        indices[to] = number;
                    }
                }
            }
            Ok(())
        };
        Ok(Step::new(run).workspace::<i64>(n))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{Draw, check_gradient, run};
    use tensor::Tensor;

    #[test]
    fn values() {
        let x = Tensor::new(&[2, 3], vec![1f32, 5.0, 5.0, 7.0, 0.0, 2.0]);
        let top = |op: TopK, k: i64| run(&op, &[Some(&x), Some(&Tensor::new(&[1], vec![k]))], 2);
        let y = top(TopK::default(), 2).unwrap();
        assert_eq!((y[0].to_f32(), y[1].to_i64()), (vec![5.0, 5.0, 7.0, 2.0], vec![1, 2, 0, 2]));
        let y = top(TopK { axis: 0, largest: false }, 1).unwrap();
        assert_eq!((y[0].to_f32(), y[1].to_i64()), (vec![1.0, 0.0, 2.0], vec![0, 1, 1]));
        assert!(top(TopK::default(), 4).unwrap_err().contains("4 elements"));
    }

    #[test]
    fn k_was_an_attribute() {
        let attrs = Attrs::new().with_int("k", 2, 0);
        let parsed = parse(&Parse { attrs: &attrs, opset: 9, ins: 1, outs: 2 }).unwrap();
        assert_eq!(parsed.op.is::<TopK>(), Some(&TopK::default()));
        assert_eq!(parsed.inputs, [(1, list(&[2]))]);
        assert!(
            parse(&Parse { attrs: &Attrs::new(), opset: 10, ins: 2, outs: 2 }).unwrap().inputs.is_empty()
        );
    }

    #[test]
    fn gradient() {
        let x = Draw::new(1).distinct(&[3, 4]);
        check_gradient(TopK::default(), &[&x, &Tensor::new(&[1], vec![2i64])], 2, &[0]);
    }
}
