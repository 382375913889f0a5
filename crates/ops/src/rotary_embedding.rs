//! `RotaryEmbedding` (ONNX 23): positions as rotations of pairs of elements (Su et al. 2021, arXiv 2104.09864).

use crate::parts::{reshape, resized, slice, unsqueeze};
use crate::{Add, Concat, Gather, Mul, Sub, unary};
use ir::{Attrs, Compose, Infer, OnnxForm, Op, Parse, Parsed, Type, ValueId};

/// `RotaryEmbedding(x, cos, sin, positions?)`: `x` float `(batch, heads, length, size)` or `(batch, length, heads size)`. Each
/// pair of the first `dim` elements of a head is turned by the angle whose cosine and sine stand in the rows of `cos` and
/// `sin`, `(positions, dim / 2)`, that `positions`, `(batch, length)`, name; without it the rows are `(batch, length, dim / 2)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RotaryEmbedding {
    /// Pairs are neighbours, instead of an element of the first half with one of the second.
    pub interleaved: bool,
    /// Number of heads, where `x` has three axes.
    pub heads: usize,
    /// How many elements of a head are turned; 0 for all.
    pub dim: usize,
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    let size = |name: &str| {
        let n = cx.attrs.int(name, 0)?;
        usize::try_from(n).map_err(|_| format!("attribute {name} should not be negative, but is {n}"))
    };
    let interleaved = cx.attrs.int("interleaved", 0)? != 0;
    Ok(RotaryEmbedding { interleaved, heads: size("num_heads")?, dim: size("rotary_embedding_dim")? }.into())
}

impl Op for RotaryEmbedding {
    fn name(&self) -> &str {
        "RotaryEmbedding"
    }

    fn attrs(&self) -> Attrs {
        Attrs::new()
            .with_int("interleaved", self.interleaved.into(), 0)
            .with_int("num_heads", self.heads as i64, 0)
            .with_int("rotary_embedding_dim", self.dim as i64, 0)
    }

    fn to_onnx(&self, opset: i64) -> Result<OnnxForm, String> {
        unary::since(self, opset, 23)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let x = cx.float(0)?;
        (1..3).try_for_each(|i| cx.float(i).map(|_| ()))?;
        match (x.rank(), x.shape.as_ref().and_then(|s| s.last()?.fixed())) {
            (Some(3), _) if self.heads == 0 => {
                Err(format!("{x} has heads side by side, but their number is not given"))
            }
            (Some(3), Some(n)) if n % self.heads != 0 => {
                Err(format!("{x} does not divide into {} heads", self.heads))
            }
            (Some(3 | 4) | None, _) => Ok(vec![x.clone()]),
            _ => Err(format!("the operand should have 3 or 4 axes, but is {x}")),
        }
    }

    fn compose(&self, cx: &mut Compose) -> Option<Vec<ValueId>> {
        let [x, mut cos, mut sin] = [cx.input(0)?, cx.input(1)?, cx.input(2)?];
        let dims = cx.dims(x)?;
        if let Some(positions) = cx.input(3) {
            cos = cx.add(Gather { axis: 0 }, &[cos, positions])?;
            sin = cx.add(Gather { axis: 0 }, &[sin, positions])?;
        }
        // One angle for all heads.
        let flat = dims.len() == 3;
        let heads_axis = if flat { 2 } else { 1 };
        let (cos, sin) = (unsqueeze(cx, cos, heads_axis)?, unsqueeze(cx, sin, heads_axis)?);
        let split = if flat { reshape(cx, x, &[0, 0, self.heads as i64, -1])? } else { x };
        let size = *cx.dims(split)?.last()? as i64;
        let dim = if self.dim == 0 { size } else { self.dim as i64 };
        let (first, second) = match self.interleaved {
            true => (slice(cx, split, -1, 0, dim, 2)?, slice(cx, split, -1, 1, dim, 2)?),
            false => (slice(cx, split, -1, 0, dim / 2, 1)?, slice(cx, split, -1, dim / 2, dim, 1)?),
        };
        let mut product = |a: ValueId, b: ValueId| cx.add(Mul, &[a, b]);
        let [cc, ss] = [product(cos, first)?, product(sin, second)?];
        let [sc, cs] = [product(sin, first)?, product(cos, second)?];
        let (real, imaginary) = (cx.add(Sub, &[cc, ss])?, cx.add(Add, &[sc, cs])?);
        let mut y = match self.interleaved {
            true => {
                let (real, imaginary) = (unsqueeze(cx, real, -1)?, unsqueeze(cx, imaginary, -1)?);
                let pairs = cx.add(Concat { axis: -1 }, &[real, imaginary])?;
                reshape(cx, pairs, &[0, 0, 0, dim])?
            }
            false => cx.add(Concat { axis: -1 }, &[real, imaginary])?,
        };
        if dim < size {
            let rest = slice(cx, split, -1, dim, size, 1)?;
            y = cx.add(Concat { axis: -1 }, &[y, rest])?;
        }
        Some(vec![if flat { resized(cx, y, &dims)? } else { y }])
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{Draw, check_gradient, eval};
    use tensor::Tensor;

    #[test]
    fn turns_pairs() {
        let x = Tensor::new(&[1, 1, 1, 5], vec![1.0f32, 2.0, 3.0, 4.0, 5.0]);
        let (cos, sin) =
            (Tensor::new(&[1, 1, 2], vec![0.0f32, 1.0]), Tensor::new(&[1, 1, 2], vec![1.0f32, 0.0]));
        let turned = |interleaved| {
            let op = RotaryEmbedding { interleaved, heads: 0, dim: 4 };
            eval(&op, &[&x, &cos, &sin]).unwrap().to_f32()
        };
        assert_eq!(turned(false), [-3.0, 2.0, 1.0, 4.0, 5.0]);
        assert_eq!(turned(true), [-2.0, 1.0, 3.0, 4.0, 5.0]);
    }

    #[test]
    fn gradient() {
        let mut draw = Draw::new(2);
        let x = draw.tensor(&[2, 3, 8], -1.0, 1.0);
        let [cos, sin] = [0; 2].map(|_| draw.tensor(&[5, 2], -1.0, 1.0));
        let positions = Tensor::new(&[2, 3], vec![0i64, 1, 4, 2, 2, 3]);
        for interleaved in [false, true] {
            let op = RotaryEmbedding { interleaved, heads: 2, dim: 0 };
            check_gradient(op, &[&x, &cos, &sin, &positions], 1, &[0]);
        }
    }
}
