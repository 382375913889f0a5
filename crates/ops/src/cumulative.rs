//! What `CumSum` and `CumProd` share: running totals along an axis.

use crate::shapes::axis;
use ir::{Infer, Io, Lower, Operand, Step, Type};
use tensor::{Element, Tensor};

/// The lines of a tensor along an axis.
pub(crate) struct Lines {
    len: usize,
    inner: usize,
    reverse: bool,
}

impl Lines {
    /// Of `x`, along the axis that a constant holds, from the end where `reverse`.
    pub fn new(x: &Operand, along: &Tensor, reverse: bool) -> Result<Lines, String> {
        let along = along.to_i64();
        let at = axis(along.first().copied().ok_or("the axis is empty")?, x.shape.len())?;
        Ok(Lines { len: x.shape[at], inner: x.shape[at + 1..].iter().product(), reverse })
    }

    /// How many there are in `elements` elements.
    pub fn count(&self, elements: usize) -> usize {
        elements / self.len.max(1)
    }

    /// The places of the elements of a line, in order.
    pub fn places(&self, line: usize) -> impl DoubleEndedIterator<Item = usize> + use<> {
        let Lines { len, inner, reverse } = *self;
        let first = line / inner * len * inner + line % inner;
        (0..len).map(move |i| first + if reverse { len - 1 - i } else { i } * inner)
    }
}

/// The total of all elements up to each, along the axis that operand 1 holds; without the element itself where `exclusive`, from
/// the end where `reverse`.
pub(crate) fn step<T: Element>(
    cx: &Lower,
    (exclusive, reverse): (bool, bool),
    start: T,
    join: fn(T, T) -> T,
) -> Result<Step, String> {
    let lines = Lines::new(cx.typed::<T>(0)?, cx.constant(1)?, reverse)?;
    Ok(Step::new(move |io: &mut Io| {
        let mut parts = io.split();
        let (x, y): (&[T], &mut [T]) = (parts.input(0), parts.output(0));
        for line in 0..lines.count(x.len()) {
            let mut sofar = start;
            for i in lines.places(line) {
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
