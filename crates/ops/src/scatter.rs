//! What the gathering and scattering operators share: positions in a tensor, how an element joins what is there, and the
//! gradient of that.

use crate::constant_of_shape::zeros_as;
use crate::reduce_prod::Factors;
use crate::{Cast, Div, Equal, Mul};
use ir::{Attrs, Io, Lower, OnnxForm, Op, Step, ValueId, Vjp};
use tensor::{DType, Element};

/// How a scattered element joins the one that is there (ONNX 16, 18).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Join {
    /// It replaces it.
    #[default]
    None,
    Add,
    Mul,
    Max,
    Min,
}

const NAMES: [(&str, Join); 5] =
    [("none", Join::None), ("add", Join::Add), ("mul", Join::Mul), ("max", Join::Max), ("min", Join::Min)];

impl Join {
    /// Reads the attribute `reduction`.
    pub(crate) fn parse(attrs: &Attrs) -> Result<Join, String> {
        let name = attrs.str("reduction", "none")?;
        let known = NAMES.iter().find(|(n, _)| *n == name).map(|(_, join)| *join);
        known.ok_or_else(|| {
            format!("attribute reduction should be none, add, mul, max or min, but is \"{name}\"")
        })
    }

    /// What [`Join::parse`] reads.
    pub(crate) fn name(self) -> &'static str {
        NAMES.iter().find(|(_, join)| *join == self).map_or("none", |(name, _)| name)
    }

    /// The form at `opset` of an operator that joins so.
    pub(crate) fn to_onnx(self, op: &dyn Op, opset: i64) -> Result<OnnxForm, String> {
        let since = match self {
            Join::None => 11,
            Join::Add | Join::Mul => 16,
            Join::Max | Join::Min => 18,
        };
        if self != Join::None && opset < since {
            return Err(format!("{} has no reduction \"{}\" before opset {since}", op.name(), self.name()));
        }
        crate::unary::since(op, opset, since)
    }
}

/// An element that can be joined.
pub(crate) trait Joined: Element {
    fn join(join: Join, a: Self, b: Self) -> Self;
}

macro_rules! joined {
    ($t:ty, $add:expr, $mul:expr) => {
        impl Joined for $t {
            fn join(join: Join, a: $t, b: $t) -> $t {
                match join {
                    Join::None => b,
                    Join::Add => $add(a, b),
                    Join::Mul => $mul(a, b),
                    Join::Max => a.max(b),
                    Join::Min => a.min(b),
                }
            }
        }
    };
}
joined!(f32, std::ops::Add::add, std::ops::Mul::mul);
joined!(i64, i64::wrapping_add, i64::wrapping_mul);

/// The flat position in a tensor with `strides` of the element with number `i` in one of sizes `shape`.
pub(crate) fn position(mut i: usize, shape: &[usize], strides: &[usize]) -> usize {
    let mut at = 0;
    for (&n, &stride) in shape.iter().zip(strides).rev() {
        at += i % n * stride;
        i /= n;
    }
    at
}

/// An index that may be counted from the end.
pub(crate) fn index(index: i64, n: usize) -> Result<usize, String> {
    let counted = if index < 0 { index + n as i64 } else { index };
    let fits = usize::try_from(counted).ok().filter(|&i| i < n);
    fits.ok_or_else(|| format!("index {index} is outside of the {n} elements of the axis"))
}

/// `y = x`, with the elements `updates` (operand 2) joined in; `place(indices, i)` says where update `i` goes.
pub(crate) fn lower(
    join: Join,
    cx: &Lower,
    place: impl Fn(&[i64], usize) -> Result<usize, String> + Send + Sync + 'static,
) -> Result<Step, String> {
    cx.typed::<i64>(1)?;
    let dtype = cx.input(0)?.dtype;
    match (join, dtype) {
        (Join::None, _) => crate::shapes::by_width!(dtype, T => Ok(Step::new(move |io: &mut Io| {
            scatter::<T>(io, &place, |_, b| b)
        }))),
        (_, DType::F32) => {
            Ok(Step::new(move |io: &mut Io| scatter::<f32>(io, &place, |a, b| f32::join(join, a, b))))
        }
        (_, DType::I64) => {
            Ok(Step::new(move |io: &mut Io| scatter::<i64>(io, &place, |a, b| i64::join(join, a, b))))
        }
        (_, other) => Err(format!("the executor joins no elements of type {other}")),
    }
}

fn scatter<T: Element>(
    io: &mut Io,
    place: &impl Fn(&[i64], usize) -> Result<usize, String>,
    join: impl Fn(T, T) -> T,
) -> Result<(), String> {
    let mut parts = io.split();
    let (x, indices, updates): (&[T], &[i64], &[T]) = (parts.input(0), parts.input(1), parts.input(2));
    let y = parts.output(0);
    y.copy_from_slice(x);
    for (i, &update) in updates.iter().enumerate() {
        let at = place(indices, i)?;
        y[at] = join(y[at], update);
    }
    Ok(())
}

/// Gradients of data and updates: `scatter` and `gather` are the operators that write and read at the same places. Of a
/// largest or smallest element, those that tie share the gradient.
pub(crate) fn vjp<S: Op, G: Op + Copy>(
    join: Join,
    scatter: impl Fn(Join) -> S,
    gather: G,
    cx: &mut Vjp,
) -> Option<()> {
    let (dy, x, indices, updates) = (cx.d_output(0)?, cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let joined = |cx: &mut Vjp, join, x, updates| cx.add(scatter(join), &[x, indices, updates]);
    let read = |cx: &mut Vjp, v| cx.add(gather, &[v, indices]);
    match join {
        Join::None | Join::Add => {
            let d = match join {
                Join::None => {
                    let zeros = zeros_as(cx, updates)?;
                    joined(cx, join, dy, zeros)?
                }
                _ => dy,
            };
            cx.set(0, d);
            let d = read(cx, dy)?;
            cx.set(2, d);
        }
        Join::Mul => {
            let (of_x, of_updates) = (Factors::of(cx, x)?, Factors::of(cx, updates)?);
            let all = Factors {
                zeros: joined(cx, Join::Add, of_x.zeros, of_updates.zeros)?,
                product: joined(cx, Join::Mul, of_x.product, of_updates.product)?,
            };
            let d = of_x.gradient(cx, &all, dy)?;
            cx.set(0, d);
            let dy = read(cx, dy)?;
            let all = Factors { zeros: read(cx, all.zeros)?, product: read(cx, all.product)? };
            let d = of_updates.gradient(cx, &all, dy)?;
            cx.set(2, d);
        }
        Join::Max | Join::Min => {
            let y = cx.output(0);
            let chosen = |cx: &mut Vjp, v: ValueId, y: ValueId| {
                let equal = cx.add(Equal, &[v, y])?;
                cx.add(Cast { to: DType::F32 }, &[equal])
            };
            let of_x = chosen(cx, x, y)?;
            let y = read(cx, y)?;
            let of_updates = chosen(cx, updates, y)?;
            let ties = joined(cx, Join::Add, of_x, of_updates)?;
            let share = cx.add(Div, &[dy, ties])?;
            let d = cx.add(Mul, &[share, of_x])?;
            cx.set(0, d);
            let share = read(cx, share)?;
            let d = cx.add(Mul, &[share, of_updates])?;
            cx.set(2, d);
        }
    }
    Some(())
}
