//! `DepthToSpace` (ONNX 1, 11, 13): moves blocks of channels into space.

use crate::SpaceToDepth;
use crate::shapes::by_width;
use crate::space_to_depth::{block_size, scaled};
use ir::{Attr, Attrs, Dim, Infer, Io, Lower, Op, Parse, Parsed, QuantRole, Step, Type, Vjp};
use kernels::select::Selection;

/// `DepthToSpace(x)`: `(N, C b b, H, W)` becomes `(N, C, H b, W b)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DepthToSpace {
    /// Block size `b`.
    pub block: usize,
    /// Order of the channels: `C b b` (pixel shuffle, mode `CRD`) instead of `b b C` (mode `DCR`).
    pub channels_first: bool,
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    let channels_first = match cx.attrs.str("mode", "DCR")? {
        "DCR" => false,
        "CRD" => true,
        other => return Err(format!("attribute mode should be DCR or CRD, but is \"{other}\"")),
    };
    Ok(DepthToSpace { block: block_size(cx.attrs)?, channels_first }.into())
}

impl DepthToSpace {
    /// The operand's shape with the channels taken apart, and the order that puts the blocks next to space.
    fn parts(&self, n: usize, c: usize, h: usize, w: usize) -> ([usize; 6], [usize; 6]) {
        let b = self.block;
        if self.channels_first {
            ([n, c, b, b, h, w], [0, 1, 4, 2, 5, 3])
        } else {
            ([n, b, b, c, h, w], [0, 3, 4, 1, 5, 2])
        }
    }
}

impl Op for DepthToSpace {
    fn name(&self) -> &str {
        "DepthToSpace"
    }

    fn attrs(&self) -> Attrs {
        let mode = if self.channels_first { "CRD" } else { "DCR" };
        Attrs::new().with("blocksize", Attr::Int(self.block as i64)).with_str("mode", mode, "DCR")
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let x = cx.ty(0)?;
        let shape = match x.shape.as_deref() {
            None => Some(crate::shapes::unknown(4)),
            Some([n, c, h, w]) => {
                let blocks = self.block.checked_mul(self.block).ok_or("the block size is too large")?;
                let c = match c.fixed() {
                    Some(c) if c % blocks == 0 => Dim::Fixed(c / blocks),
                    Some(c) => return Err(format!("{c} channels do not consist of blocks of {blocks}")),
                    None => Dim::Unknown,
                };
                Some(vec![n.clone(), c, scaled(h, self.block)?, scaled(w, self.block)?])
            }
            Some(_) => return Err(format!("the operand should have the shape (N, C, H, W), but is {x}")),
        };
        Ok(vec![Type { dtype: x.dtype, shape }])
    }

    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        let dy = cx.d_output(0)?;
        let back = SpaceToDepth { block: self.block, channels_first: self.channels_first };
        let d = cx.add(back, &[dy])?;
        cx.set(0, d);
        Some(())
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let (x, y) = (cx.input(0)?, &cx.outs[0]);
        let (&[n, c, ..], &[_, _, h, w]) = (&y.shape[..], &x.shape[..]) else {
            return Err(format!("the operand should have the shape (N, C, H, W), but has {:?}", x.shape));
        };
        let (shape, order) = self.parts(n, c, h, w);
        let plan = Selection::transpose(&shape, &order);
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
    use tensor::{DType, Tensor};

    #[test]
    fn values() {
        let x = Tensor::new(&[1, 8, 1, 1], (0..8).collect::<Vec<i64>>());
        let value = |channels_first| eval(&DepthToSpace { block: 2, channels_first }, &[&x]).unwrap();
        assert_eq!(value(false).shape(), [1, 2, 2, 2]);
        assert_eq!(value(false).to_i64(), [0, 2, 4, 6, 1, 3, 5, 7]);
        assert_eq!(value(true).to_i64(), [0, 1, 2, 3, 4, 5, 6, 7]);
        let odd = eval(&DepthToSpace { block: 3, channels_first: false }, &[&x]);
        assert!(odd.unwrap_err().contains("blocks of 9"));
        assert!(
            eval(&DepthToSpace { block: 2, channels_first: true }, &[&Tensor::zeros(DType::F32, &[4])])
                .is_err()
        );
        let attrs = Attrs::new().with("blocksize", Attr::Int(0));
        assert!(parse(&Parse { attrs: &attrs, opset: 13, ins: 1, outs: 1 }).is_err());
    }

    #[test]
    fn gradient() {
        let x = Draw::new(1).tensor(&[2, 8, 2, 3], -1.0, 1.0);
        for channels_first in [false, true] {
            check_gradient(DepthToSpace { block: 2, channels_first }, &[&x], 1, &[0]);
        }
    }
}
