//! Shape rules that several operators share.

use ir::{Dim, Type};

/// Shape of a multidirectional broadcast (ONNX broadcasting: right-aligned, size 1 stretches).
pub(crate) fn broadcast(a: &Type, b: &Type) -> Result<Option<Vec<Dim>>, String> {
    let (Some(x), Some(y)) = (&a.shape, &b.shape) else { return Ok(None) };
    let rank = x.len().max(y.len());
    let at = |s: &[Dim], i: usize| (i + s.len()).checked_sub(rank).map_or(Dim::Fixed(1), |j| s[j].clone());
    (0..rank)
        .map(|i| match (at(x, i), at(y, i)) {
            (p, q) if p == q => Ok(p),
            (Dim::Fixed(1), d) | (d, Dim::Fixed(1)) => Ok(d),
            (Dim::Fixed(n), Dim::Fixed(m)) => Err(format!("{a} and {b} do not broadcast: {n} against {m}")),
            (d @ Dim::Fixed(_), _) | (_, d @ Dim::Fixed(_)) => Ok(d),
            _ => Ok(Dim::Unknown),
        })
        .collect::<Result<_, _>>()
        .map(Some)
}

/// Checks that the scale (or zero point) of a quantizer is a scalar, or has one element per channel of `axis`.
pub(crate) fn channel_scale(x: &Type, scale: &Type, axis: Option<usize>, what: &str) -> Result<(), String> {
    let Some(dims) = scale.dims() else { return Ok(()) };
    let fits = match (axis, &x.shape) {
        (None, _) => dims.iter().product::<usize>() == 1,
        (Some(_), None) => true,
        (Some(axis), Some(shape)) => {
            shape.get(axis).is_some_and(|d| dims.len() == 1 && d.agrees(&Dim::Fixed(dims[0])))
        }
    };
    let along = axis.map_or("the whole tensor".to_string(), |a| format!("axis {a}"));
    if fits { Ok(()) } else { Err(format!("the {what} has shape {dims:?}, which does not fit {along} of {x}")) }
}
