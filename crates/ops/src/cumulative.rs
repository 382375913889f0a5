//! What `CumSum` and `CumProd` share: running totals along an axis.

use crate::shapes::axis;
use ir::{Infer, Io, Lower, Step, Type};
use tensor::Element;

/// The total of all elements up to each, along the axis that operand 1 holds; without the element itself where `exclusive`, from
/// the end where `reverse`.
pub(crate) fn step<T: Element>(
    cx: &Lower,
    (exclusive, reverse): (bool, bool),
    start: T,
    join: fn(T, T) -> T,
) -> Result<Step, String> {
    let x = cx.typed::<T>(0)?;
    let along = cx.constant(1)?.to_i64();
    let at = axis(along.first().copied().ok_or("the axis is empty")?, x.shape.len())?;
    let (n, inner) = (x.shape[at], x.shape[at + 1..].iter().product::<usize>());
    Ok(Step::new(move |io: &mut Io| {
        let mut parts = io.split();
        let (x, y): (&[T], &mut [T]) = (parts.input(0), parts.output(0));
        for line in 0..x.len() / n.max(1) {
            let first = line / inner * n * inner + line % inner;
            let mut sofar = start;
            for i in 0..n {
                let i = first + if reverse { n - 1 - i } else { i } * inner;
                let next = join(sofar, x[i]);
                y[i] = if exclusive { sofar } else { next };
                sofar = next;
            }
        }
        Ok(())
    }))
}

/// The type of the data, once the axis fits it.
pub(crate) fn infer(cx: &Infer) -> Result<Vec<Type>, String> {
    let x = cx.ty(0)?;
    if let (Some(along), Some(rank)) = (crate::shapes::integers(cx, 1)?, x.rank()) {
        along.iter().try_for_each(|&a| axis(a, rank).map(|_| ()))?;
    }
    Ok(vec![x.clone()])
}
