//! `Unique` (ONNX 11): what occurs in a tensor.

use crate::shapes::axis;
use ir::{Attr, Attrs, Dim, Infer, Io, Lower, Op, Parse, Parsed, Step, Type};
use std::cmp::Ordering;
use tensor::{DType, Tensor};

/// `Unique(x)`: the different slices of `x` along an axis, or its different elements, in order of value or of occurrence. Results
/// 1 to 3 are i64: where each occurs first, which one each slice of `x` is, and how often each occurs. How many there are is
/// known only where `x` is a constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unique {
    /// The axis; `None` for the elements of the whole tensor.
    pub axis: Option<i64>,
    /// By value, instead of by first occurrence.
    pub sorted: bool,
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    let axis = cx.attrs.get("axis").map(|_| cx.attrs.int("axis", 0)).transpose()?;
    Ok(Unique { axis, sorted: cx.attrs.int("sorted", 1)? != 0 }.into())
}

/// What there is: for each different slice where it occurs first and how often; and for each slice which one it is.
struct Found {
    first: Vec<usize>,
    counts: Vec<i64>,
    which: Vec<i64>,
}

impl Unique {
    /// Slices before the axis, along it, and elements of each behind it.
    fn sizes(&self, shape: &[usize]) -> Result<[usize; 3], String> {
        match self.axis {
            None => Ok([1, shape.iter().product(), 1]),
            Some(at) => {
                let at = axis(at, shape.len())?;
                Ok([shape[..at].iter().product(), shape[at], shape[at + 1..].iter().product()])
            }
        }
    }

    fn find(&self, x: &Tensor) -> Result<Found, String> {
        let [outer, n, inner] = self.sizes(x.shape())?;
        // Integers of 64 bits are compared as such: doubles do not hold them.
        let order: Box<dyn Fn(usize, usize) -> Ordering> = if x.dtype().is_float() {
            let values = x.to_f64();
            Box::new(move |a, b| values[a].total_cmp(&values[b]))
        } else {
            let values = x.to_i64();
            Box::new(move |a, b| values[a].cmp(&values[b]))
        };
        let compare = |a: usize, b: usize| {
            let places = (0..outer).flat_map(|o| (0..inner).map(move |i| (o, i)));
            let mut orders = places.map(|(o, i)| order((o * n + a) * inner + i, (o * n + b) * inner + i));
            orders.find(|o| o.is_ne()).unwrap_or(Ordering::Equal)
        };
        let mut sorted: Vec<usize> = (0..n).collect();
        sorted.sort_by(|&a, &b| compare(a, b));
        let mut groups: Vec<Vec<usize>> = Vec::new();
        for i in sorted {
            match groups.last_mut() {
                Some(group) if compare(group[0], i).is_eq() => group.push(i),
                _ => groups.push(vec![i]),
            }
        }
        if !self.sorted {
            groups.sort_by_key(|group| group[0]);
        }
        let mut which = vec![0; n];
        for (number, group) in groups.iter().enumerate() {
            group.iter().for_each(|&i| which[i] = number as i64);
        }
        Ok(Found {
            first: groups.iter().map(|g| g[0]).collect(),
            counts: groups.iter().map(|g| g.len() as i64).collect(),
            which,
        })
    }
}

impl Op for Unique {
    fn name(&self) -> &str {
        "Unique"
    }

    fn attrs(&self) -> Attrs {
        let attrs = Attrs::new().with_int("sorted", self.sorted.into(), 1);
        match self.axis {
            Some(axis) => attrs.with("axis", Attr::Int(axis)),
            None => attrs,
        }
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let x = cx.ty(0)?;
        let count = match cx.value(0) {
            Some(x) => Dim::Fixed(self.find(x)?.first.len()),
            None => Dim::Unknown,
        };
        let (shape, slices) = match (self.axis, &x.shape) {
            (None, _) => {
                let all = x.dims().map(|d| d.iter().product());
                (Some(vec![count.clone()]), all.map_or(Dim::Unknown, Dim::Fixed))
            }
            (Some(_), None) => (None, Dim::Unknown),
            (Some(at), Some(dims)) => {
                let at = axis(at, dims.len())?;
                let mut shape = dims.clone();
                shape[at] = count.clone();
                (Some(shape), dims[at].clone())
            }
        };
        let list = |dim: Dim| Type { dtype: Some(DType::I64), shape: Some(vec![dim]) };
        Ok(vec![Type { dtype: x.dtype, shape }, list(count.clone()), list(slices), list(count)])
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let x = cx.constant(0)?;
        let [outer, n, inner] = self.sizes(x.shape())?;
        let Found { first, counts, which } = self.find(x)?;
        let width = x.dtype().bytes(inner);
        if x.dtype().bits() < 8 {
            return Err(format!("the executor does not sort packed elements of type {}", x.dtype()));
        }
        let outs = cx.outs.len();
        let lists = [first.iter().map(|&i| i as i64).collect(), which, counts];
        Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let (x, y): (&[u8], &mut [u8]) = (parts.input(0), parts.output(0));
            for (i, y) in y.chunks_exact_mut(width.max(1)).take(outer * first.len()).enumerate() {
                let from = (i / first.len() * n + first[i % first.len()]) * width;
                y.copy_from_slice(&x[from..][..width]);
            }
            for (i, list) in lists.iter().enumerate().take(outs - 1) {
                parts.output::<i64>(i + 1).copy_from_slice(list);
            }
            Ok(())
        }))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::run;

    #[test]
    fn elements_and_rows() {
        let x = Tensor::new(&[5], vec![3i64, 1, 3, 2, 1]);
        let all = |op: Unique, x: &Tensor| {
            run(&op, &[Some(x)], 4).unwrap().iter().map(Tensor::to_i64).collect::<Vec<_>>()
        };
        let by_value = all(Unique { axis: None, sorted: true }, &x);
        assert_eq!(by_value, [vec![1, 2, 3], vec![1, 3, 0], vec![2, 0, 2, 1, 0], vec![2, 1, 2]]);
        let as_they_come = all(Unique { axis: None, sorted: false }, &x);
        assert_eq!(as_they_come, [vec![3, 1, 2], vec![0, 1, 3], vec![0, 1, 0, 2, 1], vec![2, 2, 1]]);
        let rows = Tensor::new(&[3, 2], vec![1i32, 5, 0, 5, 1, 5]);
        let op = Unique { axis: Some(0), sorted: true };
        assert_eq!(all(op, &rows), [vec![0, 5, 1, 5], vec![1, 0], vec![1, 0, 1], vec![1, 2]]);
        let columns = Unique { axis: Some(-1), sorted: true };
        assert_eq!(run(&columns, &[Some(&rows)], 1).unwrap()[0].shape(), [3, 2]);
        let empty = Tensor::new(&[0, 2], Vec::<i32>::new());
        assert_eq!(run(&op, &[Some(&empty)], 1).unwrap()[0].shape(), [0, 2]);
    }
}
