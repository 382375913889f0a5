//! `SpaceToDepth` (ONNX 1, 13, 28): moves blocks of space into channels. Opset 28 added the second order of channels.

use crate::DepthToSpace;
use crate::shapes::by_width;
use ir::{Attr, Attrs, Dim, Infer, Io, Lower, OnnxForm, Op, Parse, Parsed, QuantRole, Step, Type, Vjp};
use kernels::select::Selection;

/// `SpaceToDepth(x)`: `(N, C, H b, W b)` becomes `(N, b b C, H, W)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpaceToDepth {
    /// Block size `b`.
    pub block: usize,
    /// The channels of the operand count before the places in a block, instead of behind them.
    pub channels_first: bool,
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    let channels_first = match cx.attrs.str("mode", "DCR")? {
        "DCR" => false,
        "CRD" => true,
        other => return Err(format!("attribute mode should be DCR or CRD, but is \"{other}\"")),
    };
    Ok(SpaceToDepth { block: block_size(cx.attrs)?, channels_first }.into())
}

pub(crate) fn block_size(attrs: &Attrs) -> Result<usize, String> {
    let block = attrs.int("blocksize", 0)?;
    let size = usize::try_from(block).ok().filter(|b| (1..1 << 20).contains(b));
    size.ok_or_else(|| format!("attribute blocksize should be positive, but is {block}"))
}

/// A size times a factor.
pub(crate) fn scaled(dim: &Dim, factor: usize) -> Result<Dim, String> {
    match dim.fixed() {
        Some(n) => {
            n.checked_mul(factor).map(Dim::Fixed).ok_or_else(|| format!("{n} times {factor} is too large"))
        }
        None => Ok(if factor == 1 { dim.clone() } else { Dim::Unknown }),
    }
}

impl Op for SpaceToDepth {
    fn name(&self) -> &str {
        "SpaceToDepth"
    }

    fn attrs(&self) -> Attrs {
        let mode = if self.channels_first { "CRD" } else { "DCR" };
        Attrs::new().with("blocksize", Attr::Int(self.block as i64)).with_str("mode", mode, "DCR")
    }

    fn to_onnx(&self, opset: i64) -> Result<OnnxForm, String> {
        crate::unary::since(self, opset, if self.channels_first { 28 } else { 1 })
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let x = cx.ty(0)?;
        let divided = |dim: &Dim| match dim.fixed() {
            Some(n) if n % self.block == 0 => Ok(Dim::Fixed(n / self.block)),
            Some(n) => Err(format!("a size of {n} does not consist of blocks of {}", self.block)),
            None => Ok(Dim::Unknown),
        };
        let shape = match x.shape.as_deref() {
            None => Some(crate::shapes::unknown(4)),
            Some([n, c, h, w]) => {
                let blocks = self.block.checked_mul(self.block).ok_or("the block size is too large")?;
                Some(vec![n.clone(), scaled(c, blocks)?, divided(h)?, divided(w)?])
            }
            Some(_) => return Err(format!("the operand should have the shape (N, C, H, W), but is {x}")),
        };
        Ok(vec![Type { dtype: x.dtype, shape }])
    }

    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        let d = cx.add(
            DepthToSpace { block: self.block, channels_first: self.channels_first },
            &[cx.d_output(0)?],
        )?;
        cx.set(0, d);
        Some(())
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let (x, y, b) = (cx.input(0)?, &cx.outs[0], self.block);
        let (&[n, c, ..], &[_, _, h, w]) = (&x.shape[..], &y.shape[..]) else {
            return Err(format!("the operand should have the shape (N, C, H, W), but has {:?}", x.shape));
        };
        let order = if self.channels_first { [0, 1, 3, 5, 2, 4] } else { [0, 3, 5, 1, 2, 4] };
        let plan = Selection::transpose(&[n, c, h, b, w, b], &order);
        by_width!(x.dtype, T => Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            plan.run::<T>(parts.input(0), T::default(), parts.output(0));
            Ok(())
        })))
    }

    fn quant(&self) -> QuantRole {
        QuantRole::SameScale
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{Draw, check_gradient, eval};
    use tensor::Tensor;

    #[test]
    fn values() {
        let x = Tensor::new(&[1, 2, 2, 2], (0..8).collect::<Vec<i64>>());
        let at = |block, channels_first| eval(&SpaceToDepth { block, channels_first }, &[&x]);
        let y = at(2, false).unwrap();
        assert_eq!((y.shape(), y.to_i64()), (&[1, 8, 1, 1][..], vec![0, 4, 1, 5, 2, 6, 3, 7]));
        assert_eq!(at(2, true).unwrap().to_i64(), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert!(at(3, false).unwrap_err().contains("blocks of 3"));
    }

    #[test]
    fn gradient() {
        for channels_first in [false, true] {
            let x = Draw::new(1).tensor(&[2, 3, 4, 2], -1.0, 1.0);
            check_gradient(SpaceToDepth { block: 2, channels_first }, &[&x], 1, &[0]);
        }
    }
}
