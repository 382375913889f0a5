//! Shape rules that several operators share.

use crate::SumTo;
use ir::{Dim, Infer, Opaque, Operand, Parse, Parsed, Type, ValueId, Vjp};
use tensor::{DType, Tensor};

/// Shape of a multidirectional broadcast (ONNX broadcasting: right-aligned, size 1 stretches).
pub(crate) fn broadcast(a: &Type, b: &Type) -> Result<Option<Vec<Dim>>, String> {
    let (Some(x), Some(y)) = (&a.shape, &b.shape) else { return Ok(None) };
    let rank = x.len().max(y.len());
    let at = |s: &[Dim], i: usize| (i + s.len()).checked_sub(rank).map_or(Dim::Fixed(1), |j| s[j].clone());
    (0..rank)
        .map(|i| {
            let (n, m) = (at(x, i), at(y, i));
            stretched(&n, &m).ok_or_else(|| format!("{a} and {b} do not broadcast: {n} against {m}"))
        })
        .collect::<Result<_, _>>()
        .map(Some)
}

/// The size to which both of two sizes stretch; `None` where neither is 1 and they differ.
pub(crate) fn stretched(a: &Dim, b: &Dim) -> Option<Dim> {
    match (a, b) {
        _ if a == b => Some(a.clone()),
        (Dim::Fixed(1), d) | (d, Dim::Fixed(1)) => Some(d.clone()),
        (Dim::Fixed(_), Dim::Fixed(_)) => None,
        (d @ Dim::Fixed(_), _) | (_, d @ Dim::Fixed(_)) => Some(d.clone()),
        _ => Some(Dim::Unknown),
    }
}

/// A shape in which nothing is known but the rank, for rules that cannot say more.
pub(crate) fn unknown(rank: usize) -> Vec<Dim> {
    vec![Dim::Unknown; rank]
}

/// [`unknown`], with the rank of a tensor whose sizes, or axes, an operand of so many elements lists.
pub(crate) fn listed(elements: usize) -> Result<Vec<Dim>, String> {
    match elements {
        0..=Type::MAX_RANK => Ok(unknown(elements)),
        _ => Err(format!(
            "a list of {elements} sizes or axes is longer than the {} of any tensor",
            Type::MAX_RANK
        )),
    }
}

/// Checks that an operand, where it is given, is a single number.
pub(crate) fn single(cx: &Infer, i: usize, what: &str) -> Result<(), String> {
    let ty = if cx.has(i) { cx.ty(i)? } else { return Ok(()) };
    match ty.dims() {
        Some(dims) if dims.iter().product::<usize>() != 1 => {
            Err(format!("the {what} should be one number, but is {ty}"))
        }
        _ => Ok(()),
    }
}

/// Checks that the scale (or zero point) of a quantizer is a scalar, or has one element per channel of `axis`.
pub(crate) fn channel_scale(x: &Type, scale: &Type, axis: Option<usize>, what: &str) -> Result<(), String> {
    let Some(dims) = scale.dims() else { return Ok(()) };
    let fits = match (axis, &x.shape) {
        (None, _) => dims.iter().product::<usize>() == 1,
        (Some(_), None) => dims.len() == 1,
        (Some(axis), Some(shape)) => {
            shape.get(axis).is_some_and(|d| dims.len() == 1 && d.agrees(&Dim::Fixed(dims[0])))
        }
    };
    let along = axis.map_or("the whole tensor".to_string(), |a| format!("axis {a}"));
    if fits {
        Ok(())
    } else {
        Err(format!("the {what} has shape {dims:?}, which does not fit {along} of {x}"))
    }
}

/// Checks that `dy` is the gradient of a value of type `y`.
pub(crate) fn gradient_of(dy: &Type, y: &Type) -> Result<(), String> {
    if dy.agrees(y) { Ok(()) } else { Err(format!("the gradient should be {y}, but is {dy}")) }
}

/// The gradient `d` of a broadcast operand, summed to the operand's shape; `d` itself where the shapes are equal.
pub(crate) fn sum_to(cx: &mut Vjp, d: ValueId, operand: ValueId) -> Option<ValueId> {
    if cx.dims(d)? == cx.dims(operand)? { Some(d) } else { cx.add(SumTo, &[d, operand]) }
}

/// A node as the file has it, for forms of an operator that are not understood: it is carried through untouched.
pub(crate) fn untouched(op_type: &str, cx: &Parse) -> Parsed {
    untouched_of("", op_type, cx)
}

/// As [`untouched`], for an operator of another domain than that of ONNX.
pub(crate) fn untouched_of(domain: &str, op_type: &str, cx: &Parse) -> Parsed {
    Opaque { domain: domain.into(), op_type: op_type.into(), attrs: cx.attrs.clone(), captured: 0 }.into()
}

/// An axis that may be counted from the end.
pub(crate) fn axis(axis: i64, rank: usize) -> Result<usize, String> {
    let counted = if axis < 0 { axis.checked_add(rank as i64) } else { Some(axis) };
    let fits = counted.and_then(|a| usize::try_from(a).ok()).filter(|&a| a < rank);
    fits.ok_or_else(|| format!("axis {axis} does not exist in a tensor of rank {rank}"))
}

/// Distinct axes, in ascending order.
pub(crate) fn axes(axes: &[i64], rank: usize) -> Result<Vec<usize>, String> {
    let mut all = axes.iter().map(|&a| axis(a, rank)).collect::<Result<Vec<_>, _>>()?;
    all.sort_unstable();
    if all.windows(2).any(|w| w[0] == w[1]) {
        return Err(format!("axes {axes:?} name an axis twice"));
    }
    Ok(all)
}

/// The element type that both operands must share.
pub(crate) fn same_dtype(a: &Type, b: &Type) -> Result<Option<DType>, String> {
    match (a.dtype, b.dtype) {
        (Some(x), Some(y)) if x != y => {
            Err(format!("the operands should have one element type, but are {a} and {b}"))
        }
        (x, y) => Ok(x.or(y)),
    }
}

/// The integers of a constant operand: `None` when it is omitted or computed.
pub(crate) fn integers(cx: &Infer, i: usize) -> Result<Option<Vec<i64>>, String> {
    match cx.value(i) {
        Some(t) if t.dtype().is_float() => {
            Err(format!("input {i} should hold integers, but is {}", t.dtype()))
        }
        value => Ok(value.map(Tensor::to_i64)),
    }
}

/// Checks the length of a table with an entry for each place of an axis, or for each matrix of a batch, in front of making it.
pub(crate) fn check_table(len: usize) -> Result<(), String> {
    const MOST: usize = 1 << 24;
    match len <= MOST {
        true => Ok(()),
        false => Err(format!("the executor makes no table of {len} entries, but of {MOST} at most")),
    }
}

/// A list of integers as an operand: the form in which newer operator sets take what was an attribute.
pub(crate) fn list(values: &[i64]) -> Tensor {
    Tensor::new(&[values.len()], values.to_vec())
}

/// Operations of `count` sums of `inner` products each.
pub(crate) fn products(count: usize, inner: usize) -> Option<u64> {
    Some((2 * count as u64).saturating_mul(inner as u64))
}

/// Operations of a convolution that makes `y` (or takes it, as a gradient) with the weight `w`, `(O, I, kernel...)`.
pub(crate) fn conv_products(y: &Operand, w: &Operand) -> Option<u64> {
    products(y.len(), w.shape[1..].iter().product())
}

/// Evaluates the expression with `$T` an unsigned integer as wide as the element type: for kernels that only move elements.
macro_rules! by_width {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype.bits() {
            8 => {
                type $T = u8;
                $body
            }
            16 => {
                type $T = u16;
                $body
            }
            32 => {
                type $T = u32;
                $body
            }
            64 => {
                type $T = u64;
                $body
            }
            _ => Err(format!("the executor does not move packed elements of type {}", $dtype)),
        }
    };
}
pub(crate) use by_width;
