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
