//! `Concat` (ONNX 4, 11, 13): joins tensors along an axis.

use crate::Split;
use crate::shapes::{axis, by_width, list, same_dtype};
use ir::{Attr, Attrs, Dim, Infer, Io, Layouts, Lower, Op, Parse, Parsed, QuantRole, Step, Type, Vjp};
use kernels::select::copy_blocks;
use std::sync::Arc;

/// `Concat(x0, x1, …)`, for any element type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Concat {
    /// The axis along which the operands are joined.
    pub axis: i64,
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    match cx.attrs.get("axis") {
        Some(Attr::Int(axis)) => Ok(Concat { axis: *axis }.into()),
        _ => Err("attribute axis is missing".into()),
    }
}

/// Elements of one block along `axis` of a shape, and the number of blocks.
pub(crate) fn blocks(shape: &[usize], axis: usize) -> (usize, usize) {
    (shape[axis..].iter().product(), shape[..axis].iter().product())
}

impl Op for Concat {
    fn name(&self) -> &str {
        "Concat"
    }

    fn attrs(&self) -> Attrs {
        Attrs::new().with("axis", Attr::Int(self.axis))
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let mut all = cx.ty(0)?.clone();
        let at = all.rank().map(|rank| axis(self.axis, rank)).transpose()?;
        for i in 1..cx.len() {
            let next = cx.ty(i)?;
            let misfit = || format!("{next} does not continue {all} along axis {}", self.axis);
            let dtype = same_dtype(&all, next)?;
            let shape = match (&all.shape, &next.shape) {
                (Some(a), Some(b)) if a.len() != b.len() => return Err(misfit()),
                (Some(a), Some(b)) => Some(
                    (a.iter().zip(b).enumerate())
                        .map(|(j, (x, y))| match (x, y) {
                            (Dim::Fixed(x), Dim::Fixed(y)) if Some(j) == at => {
                                x.checked_add(*y).map(Dim::Fixed).ok_or_else(misfit)
                            }
                            _ if Some(j) == at => Ok(Dim::Unknown),
                            (x, y) if !x.agrees(y) => Err(misfit()),
                            (Dim::Fixed(_), _) | (_, Dim::Unknown) => Ok(x.clone()),
                            (Dim::Unknown, _) | (_, Dim::Fixed(_)) => Ok(y.clone()),
                            _ => Ok(x.clone()),
                        })
                        .collect::<Result<_, _>>()?,
                ),
                _ => None,
            };
            all = Type { dtype, shape };
        }
        Ok(vec![all])
    }

    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        let ins: Vec<_> = (0..).map_while(|i| cx.input(i)).collect();
        let dims = ins.iter().map(|&v| cx.dims(v)).collect::<Option<Vec<_>>>()?;
        let at = axis(self.axis, dims.first()?.len()).ok()?;
        let sizes: Vec<i64> = dims.iter().map(|d| d[at] as i64).collect();
        let sizes = cx.constant_value(list(&sizes));
        let split = Split { axis: self.axis, ..Split::default() };
        let parts = cx.add_multi(Arc::new(split), &[cx.d_output(0), Some(sizes)], ins.len())?;
        for (i, d) in parts.into_iter().enumerate() {
            cx.set(i, d);
        }
        Some(())
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let y = &cx.outs[0];
        let at = y.memory_axis(axis(self.axis, y.shape.len())?);
        let (row, count) = blocks(&y.memory_shape(), at);
        let sizes = (0..cx.ins.len())
            .map(|i| Ok(blocks(&cx.input(i)?.memory_shape(), at).0))
            .collect::<Result<Vec<usize>, String>>()?;
        by_width!(y.dtype, T => Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let (mut from, y): (_, &mut [T]) = (0, parts.output(0));
            for (i, &block) in sizes.iter().enumerate() {
                if !y.is_empty() {
                    copy_blocks(parts.input(i), block, &mut y[from..], row, block, count);
                }
                from += block;
            }
            Ok(())
        })))
    }

    fn quant(&self) -> QuantRole {
        QuantRole::Rescaling
    }

    /// Along axis 1, the channels of images, between kernels that compute channels-last.
    fn layouts(&self) -> Layouts {
        if self.axis == 1 { Layouts::ChannelsLast { ins: !0, outs: 1 } } else { Layouts::Plain }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{Draw, check_gradient, eval, run};
    use ir::Arg;
    use tensor::{DType, Tensor};

    #[test]
    fn values() {
        let (a, b) = (Tensor::new(&[2, 1], vec![1i64, 2]), Tensor::new(&[2, 2], vec![3i64, 4, 5, 6]));
        let y = eval(&Concat { axis: -1 }, &[&a, &b]).unwrap();
        assert_eq!((y.shape(), y.to_i64()), (&[2, 3][..], vec![1, 3, 4, 2, 5, 6]));
        assert_eq!(eval(&Concat { axis: 1 }, &[&a]).unwrap(), a);
        let e = eval(&Concat { axis: 0 }, &[&a, &b]).unwrap_err();
        assert_eq!(e, "int64[2,2] does not continue int64[2,1] along axis 0");
        assert!(eval(&Concat { axis: 2 }, &[&a, &b]).unwrap_err().contains("axis 2"));
        assert!(eval(&Concat { axis: 0 }, &[&a, &Tensor::scalar(1i64)]).is_err());
    }

    /// More than a mask of layouts has bits.
    #[test]
    fn many_operands() {
        let mut draw = Draw::new(1);
        let operands: Vec<Tensor> = (0..40).map(|i| draw.tensor(&[2, 1 + i % 3, 2, 3], -1.0, 1.0)).collect();
        let ins: Vec<Option<&Tensor>> = operands.iter().map(Some).collect();
        let y = run(&Concat { axis: 1 }, &ins, 1).unwrap().remove(0).to_f32();
        let first: Vec<f32> = operands.iter().flat_map(|t| t.to_f32()[..t.len() / 2].to_vec()).collect();
        assert_eq!(y[..y.len() / 2], first);
    }

    #[test]
    fn names_survive() {
        let (a, b) = ([Dim::sym("N"), 2.into()], [Dim::sym("N"), 3.into()]);
        let (a, b) = (Type::new(DType::F32, a), Type::new(DType::F32, b));
        let args = [Some(Arg { ty: &a, value: None }), Some(Arg { ty: &b, value: None })];
        assert_eq!(Concat { axis: 1 }.infer(&Infer::new(&args, 1)).unwrap()[0].to_string(), "float[N,5]");
        assert_eq!(
            Concat { axis: 0 }.infer(&Infer::new(&args[..1], 1)).unwrap()[0].to_string(),
            "float[N,2]"
        );
    }

    #[test]
    fn gradient() {
        let mut draw = Draw::new(1);
        for case in 0..20 {
            let rank = [4, 2, 3, 1, 5][case % 5];
            let at = if case % 2 == 0 && rank > 1 { 1 } else { draw.int(0, rank) };
            let shape = draw.shape(rank, 3);
            let n = draw.int(1, 4);
            let mut operands = Vec::new();
            for _ in 0..n {
                let mut shape = shape.clone();
                shape[at] = draw.int(1, 4);
                operands.push(draw.tensor(&shape, -1.0, 1.0));
            }
            let ins: Vec<&Tensor> = operands.iter().collect();
            check_gradient(Concat { axis: at as i64 }, &ins, 1, &(0..n).collect::<Vec<_>>());
            check_gradient(Concat { axis: at as i64 - rank as i64 }, &ins, 1, &[0]);
        }
    }
}
