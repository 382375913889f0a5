//! `Reshape` (ONNX 5, 13, 14, 19, 21): the same elements under another shape.

use ir::{Attrs, Dim, Infer, Lower, OnnxForm, Op, Parse, Parsed, QuantRole, Step, Type, ValueId, Vjp};
use std::sync::Arc;

/// `Reshape(x, shape)`: `shape` i64; -1 stands for what is left over (once), 0 for the size of the operand at that place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reshape {
    /// 0 means a size of 0 (opset 14).
    pub allow_zero: bool,
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    Ok(Reshape { allow_zero: cx.attrs.int("allowzero", 0)? != 0 }.into())
}

/// Gives `d` the shape of `like`, whose sizes are all known. The gradient of everything that only renames positions.
pub(crate) fn reshape_as(cx: &mut Vjp, d: ValueId, like: ValueId) -> Option<ValueId> {
    let dims = cx.dims(like)?;
    if cx.dims(d)? == dims {
        return Some(d);
    }
    let shape: Vec<i64> = dims.iter().map(|&n| n as i64).collect();
    let shape = cx.constant_value(crate::shapes::list(&shape));
    cx.add(Reshape { allow_zero: dims.contains(&0) }, &[d, shape])
}

impl Reshape {
    /// The sizes that `target` asks for.
    fn resolve(&self, x: &[Dim], target: &[i64]) -> Result<Vec<Dim>, String> {
        let mut left: Vec<Option<&Dim>> = x.iter().map(Some).collect();
        let mut dims = Vec::with_capacity(target.len());
        let mut open = None;
        for (i, &n) in target.iter().enumerate() {
            dims.push(match n {
                0 if !self.allow_zero => {
                    let same = left
                        .get_mut(i)
                        .ok_or_else(|| format!("size {i} is copied from a tensor of rank {}", x.len()))?;
                    same.take().cloned().unwrap_or(Dim::Unknown)
                }
                -1 if open.is_some() => return Err(format!("shape {target:?} leaves two sizes open")),
                -1 => {
                    open = Some(i);
                    Dim::Unknown
                }
                n => Dim::Fixed(
                    usize::try_from(n).map_err(|_| format!("shape {target:?} holds a negative size"))?,
                ),
            });
        }
        // Sizes that are copied stand on both sides; the others are compared.
        let given = (target.iter().zip(&dims))
            .filter(|(n, _)| **n != -1 && (**n != 0 || self.allow_zero))
            .try_fold(1usize, |p, (_, d)| p.checked_mul(d.fixed().unwrap_or(1)))
            .ok_or_else(|| format!("shape {target:?} overflows"))?;
        let left: Vec<&Dim> = left.into_iter().flatten().collect();
        let named: Vec<&Dim> = left.iter().copied().filter(|d| d.fixed().is_none()).collect();
        let known = left
            .iter()
            .filter_map(|d| d.fixed())
            .try_fold(1usize, usize::checked_mul)
            .ok_or("the operand is too large")?;
        let misfit =
            || Err(format!("a tensor of {} elements does not take the shape {target:?}", product(x)));
        match (open, &named[..]) {
            (Some(at), []) if given == 0 => {
                dims[at] = Dim::Fixed(if known == 0 { 0 } else { return misfit() })
            }
            (Some(at), []) if known % given == 0 => dims[at] = Dim::Fixed(known / given),
            (Some(at), [name]) if known == given => dims[at] = (*name).clone(),
            (None, []) if known == given => {}
            (_, []) => return misfit(),
            _ => {}
        }
        Ok(dims)
    }
}

/// For messages: sizes with `x` between them.
fn product(shape: &[Dim]) -> String {
    shape.iter().map(Dim::to_string).collect::<Vec<_>>().join(" x ")
}

impl Op for Reshape {
    fn name(&self) -> &str {
        "Reshape"
    }

    fn attrs(&self) -> Attrs {
        Attrs::new().with_int("allowzero", self.allow_zero.into(), 0)
    }

    fn to_onnx(&self, opset: i64) -> Result<OnnxForm, String> {
        if opset < 14 && self.allow_zero {
            return Err("Reshape has no allowzero before opset 14".into());
        }
        crate::unary::since(self, opset, 5)
    }

    /// Where no size is 0, it does not matter what 0 means.
    fn settled(&self, cx: &Infer) -> Option<Arc<dyn Op>> {
        let target = crate::shapes::integers(cx, 1).ok()??;
        let plain = self.allow_zero && !target.contains(&0);
        plain.then(|| Arc::new(Reshape::default()) as Arc<dyn Op>)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let (x, target) = (cx.ty(0)?, cx.ty(1)?);
        let shape = match (crate::shapes::integers(cx, 1)?, &x.shape, &target.shape) {
            (Some(target), Some(x), _) => Some(self.resolve(x, &target)?),
            (Some(target), None, _) => Some(
                target
                    .iter()
                    .map(|&n| usize::try_from(n).ok().filter(|n| *n > 0).map_or(Dim::Unknown, Dim::Fixed))
                    .collect(),
            ),
            (None, _, Some(rank)) => {
                rank.first().and_then(Dim::fixed).map(crate::shapes::listed).transpose()?
            }
            _ => None,
        };
        Ok(vec![Type { dtype: x.dtype, shape }])
    }

    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        let d = reshape_as(cx, cx.d_output(0)?, cx.input(0)?)?;
        cx.set(0, d);
        Some(())
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        view(cx)
    }

    fn quant(&self) -> QuantRole {
        QuantRole::SameScale
    }
}

/// The operand under the shape of the result.
pub(crate) fn view(cx: &Lower) -> Result<Step, String> {
    let (x, y) = (cx.input(0)?, &cx.outs[0]);
    if x.len() == y.len() && x.dtype == y.dtype {
        return Ok(Step::view());
    }
    Err(format!("a tensor of shape {:?} cannot be read as {:?}", x.shape, y.shape))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::shapes::list;
    use crate::testing::{Draw, check_gradient, eval};
    use ir::Arg;
    use tensor::{DType, Tensor};

    fn shape(x: &[Dim], target: &[i64], allow_zero: bool) -> Result<String, String> {
        let (x, t) = (Type::new(DType::F32, x.to_vec()), list(target));
        let ty = Type::new(DType::I64, [target.len()]);
        let args = [Some(Arg { ty: &x, value: None }), Some(Arg { ty: &ty, value: Some(&t) })];
        Reshape { allow_zero }.infer(&Infer::new(&args, 1)).map(|t| t[0].to_string())
    }

    #[test]
    fn zero_and_minus_one() {
        let x = [2, 3, 4].map(Dim::from);
        assert_eq!(shape(&x, &[0, -1], false).unwrap(), "float[2,12]");
        assert_eq!(shape(&x, &[-1], false).unwrap(), "float[24]");
        assert_eq!(shape(&x, &[4, 0, -1], false).unwrap(), "float[4,3,2]");
        assert!(shape(&x, &[5, -1], false).unwrap_err().contains("does not take the shape [5, -1]"));
        assert!(shape(&x, &[-1, -1], false).unwrap_err().contains("two sizes"));
        assert!(shape(&x, &[2, 3, 4, 0], false).unwrap_err().contains("rank 3"));
        assert!(shape(&x, &[-2], false).unwrap_err().contains("negative"));
        assert!(shape(&x, &[i64::MAX, i64::MAX, i64::MAX], false).is_err());
        let empty = [0, 3].map(Dim::from);
        assert_eq!(shape(&empty, &[3, 0], true).unwrap(), "float[3,0]");
        assert_eq!(shape(&empty, &[0, -1], true).unwrap(), "float[0,0]");
    }

    #[test]
    fn zeros_before_opset_14() {
        let (x, ty) = (Type::new(DType::F32, [0usize, 3]), Type::new(DType::I64, [2usize]));
        let written = |target: &[i64], opset: i64| {
            let target = list(target);
            let args = [Some(Arg { ty: &x, value: None }), Some(Arg { ty: &ty, value: Some(&target) })];
            let op: Arc<dyn Op> = Arc::new(Reshape { allow_zero: true });
            op.settled(&Infer::new(&args, 1)).unwrap_or(op).to_onnx(opset).map(|form| form.attrs)
        };
        assert!(written(&[3, 0], 13).unwrap_err().contains("before opset 14"));
        assert_eq!(written(&[3, 0], 14).unwrap().int("allowzero", 0), Ok(1));
        assert!(written(&[3, -1], 13).unwrap().is_empty());
    }

    #[test]
    fn names_survive() {
        let x = [Dim::sym("N"), 16.into(), 5.into(), 5.into()];
        assert_eq!(shape(&x, &[-1, 400], false).unwrap(), "float[N,400]");
        assert_eq!(shape(&x, &[0, 400], false).unwrap(), "float[N,400]");
        assert_eq!(shape(&x, &[0, -1], false).unwrap(), "float[N,400]");
        assert_eq!(shape(&x, &[-1, 10], false).unwrap(), "float[?,10]");
    }

    #[test]
    fn the_target_may_be_unknown() {
        let (x, t) = (Type::new(DType::F32, [4usize]), Type::new(DType::I64, [3usize]));
        let args = [Some(Arg { ty: &x, value: None }), Some(Arg { ty: &t, value: None })];
        assert_eq!(Reshape::default().infer(&Infer::new(&args, 1)).unwrap()[0].to_string(), "float[?,?,?]");
    }

    #[test]
    fn gradient() {
        let x = Draw::new(1).tensor(&[2, 3, 4], -1.0, 1.0);
        check_gradient(Reshape::default(), &[&x, &list(&[4, -1])], 1, &[0]);
        let y = eval(&Reshape::default(), &[&x, &list(&[0, 12])]).unwrap();
        assert_eq!((y.shape(), y.to_f32()), (&[2, 12][..], x.to_f32()));
        let empty = Tensor::new::<f32>(&[0, 2], vec![]);
        check_gradient(Reshape { allow_zero: true }, &[&empty, &list(&[2, 0])], 1, &[0]);
    }
}
