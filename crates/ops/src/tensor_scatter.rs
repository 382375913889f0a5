//! `TensorScatter` (ONNX 24): new entries of a cache.

use crate::shapes::{axis, by_width};
use ir::{Attrs, Infer, Io, Lower, OnnxForm, Op, Parse, Parsed, Step, Type};
use tensor::DType;

/// `TensorScatter(cache, update, starts?)`: `cache` with `update` written over the places of an axis from `starts`, i64
/// `(batch)`, on: one start for each entry of axis 0, zeros where omitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorScatter {
    /// The axis that is written along; negative counts from the end.
    pub axis: i64,
    /// What goes beyond the end goes on at the beginning.
    pub circular: bool,
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    let circular = match cx.attrs.str("mode", "linear")? {
        "linear" => false,
        "circular" => true,
        other => return Err(format!("attribute mode should be linear or circular, but is \"{other}\"")),
    };
    Ok(TensorScatter { axis: cx.attrs.int("axis", -2)?, circular }.into())
}

impl Op for TensorScatter {
    fn name(&self) -> &str {
        "TensorScatter"
    }

    fn attrs(&self) -> Attrs {
        let mode = if self.circular { "circular" } else { "linear" };
        Attrs::new().with_int("axis", self.axis, -2).with_str("mode", mode, "linear")
    }

    fn to_onnx(&self, opset: i64) -> Result<OnnxForm, String> {
        crate::unary::since(self, opset, 24)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let (cache, update) = (cx.ty(0)?, cx.ty(1)?);
        if let (Some(a), Some(b)) = (&cache.shape, &update.shape) {
            let along = axis(self.axis, a.len())?;
            let fits = a.len() == b.len() && along > 0;
            let agree = |i: usize| match (i == along, a[i].fixed(), b[i].fixed()) {
                (true, Some(n), Some(m)) => m <= n,
                (true, ..) => true,
                (false, ..) => a[i].agrees(&b[i]),
            };
            if !fits || !(0..a.len()).all(agree) {
                return Err(format!("{update} does not fit into {cache} along axis {along}"));
            }
        }
        crate::shapes::same_dtype(cache, update)?;
        Ok(vec![cache.clone()])
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let (cache, update) = (cx.input(0)?, cx.input(1)?);
        let along = axis(self.axis, cache.shape.len())?;
        let (batch, n, m) = (cache.shape[0], cache.shape[along], update.shape[along]);
        let outer: usize = cache.shape[1..along].iter().product();
        let inner: usize = cache.shape[along + 1..].iter().product();
        if let Some(starts) = cx.optional(2)
            && (starts.dtype != DType::I64 || starts.len() != batch)
        {
            return Err(format!("{} starts of type {} for {batch} entries", starts.len(), starts.dtype));
        }
        let circular = self.circular;
        by_width!(cache.dtype, T => Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let starts: Option<&[i64]> = parts.optional(2);
            let update: &[T] = parts.input(1);
            let y: &mut [T] = parts.updated(0, 0);
            for row in 0..batch * outer {
                let start = starts.map_or(0, |s| s[row / outer]);
                for i in 0..m {
                    let at = start.checked_add(i as i64).map(|at| if circular { at.rem_euclid(n as i64) } else { at });
                    let at = at.and_then(|at| usize::try_from(at).ok()).filter(|&at| at < n);
                    let at = at.ok_or_else(|| format!("place {i} behind {start} is outside of the {n} of the cache"))?;
                    y[(row * n + at) * inner..][..inner].copy_from_slice(&update[(row * m + i) * inner..][..inner]);
                }
            }
            Ok(())
        })
        .in_place(0, 0)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::eval;
    use tensor::Tensor;

    #[test]
    fn writes_over() {
        let cache = Tensor::new(&[2, 3, 1], vec![0i32; 6]);
        let update = Tensor::new(&[2, 2, 1], vec![1i32, 2, 3, 4]);
        let starts = |a: i64, b: i64| Tensor::new(&[2], vec![a, b]);
        let at = |circular, starts| eval(&TensorScatter { axis: -2, circular }, &[&cache, &update, &starts]);
        assert_eq!(at(false, starts(0, 1)).unwrap().to_i64(), [1, 2, 0, 0, 3, 4]);
        assert_eq!(at(true, starts(2, 1)).unwrap().to_i64(), [2, 0, 1, 0, 3, 4]);
        assert!(at(false, starts(2, 1)).unwrap_err().contains("outside"));
        assert!(at(false, starts(i64::MAX, 1)).unwrap_err().contains("outside"));
        let e = eval(&TensorScatter { axis: 0, circular: false }, &[&cache, &update]).unwrap_err();
        assert!(e.contains("does not fit"), "{e}");
    }
}
