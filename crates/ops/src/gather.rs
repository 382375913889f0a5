//! `Gather` (ONNX 1, 11, 13): rows by index.

use crate::shapes::{axis, by_width};
use ir::{Attr, Attrs, Infer, Io, Lower, Op, Operand, Parse, Parsed, QuantRole, Step, Type, Vjp};
use kernels::select;
use tensor::DType;

/// `Gather(data, indices)`: the elements of `data` along an axis at `indices` (i64 or i32; below 0 from the end). The shape
/// of `indices` takes the place of the axis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gather {
    /// The axis of `data` that is indexed.
    pub axis: i64,
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    Ok(Gather { axis: cx.attrs.int("axis", 0)? }.into())
}

/// Reads the gradient.
pub fn parse_grad(cx: &Parse) -> Result<Parsed, String> {
    let shape = cx.attrs.sizes("shape")?.ok_or("attribute shape is missing")?;
    let axis = axis(cx.attrs.int("axis", 0)?, shape.len())?;
    Ok(GatherGrad { axis, shape }.into())
}

/// Sizes before the axis, of it, and behind it.
fn sizes(shape: &[usize], axis: usize) -> [usize; 3] {
    [shape[..axis].iter().product(), shape[axis], shape[axis + 1..].iter().product()]
}

/// Scratch memory for indices of 32 bits, in elements of 64.
fn widened(indices: &Operand) -> Result<usize, String> {
    match indices.dtype {
        DType::I64 => Ok(0),
        DType::I32 => Ok(indices.len()),
        other => Err(format!("indices should be int64 or int32, but are {other}")),
    }
}

/// The indices as i64, through scratch memory where they are i32.
fn indices<'b>(parts: &mut ir::Parts<'b, '_>, scratch: usize) -> &'b [i64] {
    if scratch == 0 {
        return parts.input(1);
    }
    let (narrow, wide): (&[i32], &mut [i64]) = (parts.input(1), parts.workspace());
    let wide = &mut wide[..scratch];
    wide.iter_mut().zip(narrow).for_each(|(w, &n)| *w = n.into());
    wide
}

fn outside(index: i64, n: usize) -> String {
    format!("index {index} is outside of the {n} elements of the axis")
}

impl Op for Gather {
    fn name(&self) -> &str {
        "Gather"
    }

    fn attrs(&self) -> Attrs {
        Attrs::new().with_int("axis", self.axis, 0)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let (data, indices) = (cx.ty(0)?, cx.ty(1)?);
        if indices.dtype.is_some_and(|d| !matches!(d, DType::I64 | DType::I32)) {
            return Err(format!("indices should be int64 or int32, but are {indices}"));
        }
        let shape = match (&data.shape, &indices.shape) {
            (Some(dims), Some(at)) => {
                let axis = axis(self.axis, dims.len())?;
                Some(dims[..axis].iter().chain(at).chain(&dims[axis + 1..]).cloned().collect())
            }
            _ => None,
        };
        Ok(vec![Type { dtype: data.dtype, shape }])
    }

    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        let shape = cx.dims(cx.input(0)?)?;
        let axis = axis(self.axis, shape.len()).ok()?;
        let d = cx.add(GatherGrad { axis, shape }, &[cx.d_output(0)?, cx.input(1)?])?;
        cx.set(0, d);
        Some(())
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let (data, scratch) = (cx.input(0)?, widened(cx.input(1)?)?);
        let sizes = sizes(&data.shape, axis(self.axis, data.shape.len())?);
        by_width!(data.dtype, T => Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let indices = indices(&mut parts, scratch);
            let done = select::gather::<T>(parts.input(0), sizes, indices, parts.output(0));
            done.map_err(|bad| outside(bad, sizes[1]))
        })
        .workspace::<i64>(scratch)))
    }

    fn quant(&self) -> QuantRole {
        QuantRole::SameScale
    }

    fn params(&self) -> &'static [usize] {
        &[0]
    }
}

/// `GatherGrad(dy, indices)`: adds the rows of `dy` up at their indices; the gradient of an embedding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatherGrad {
    /// The axis that was indexed.
    pub axis: usize,
    /// Shape of the data.
    pub shape: Vec<usize>,
}

impl Op for GatherGrad {
    fn name(&self) -> &str {
        "GatherGrad"
    }

    fn domain(&self) -> &str {
        "qat"
    }

    fn attrs(&self) -> Attrs {
        let shape = Attr::Ints(self.shape.iter().map(|&n| n as i64).collect());
        Attrs::new().with_int("axis", self.axis as i64, 0).with("shape", shape)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let shape = Some(self.shape.iter().map(|&n| n.into()).collect());
        Ok(vec![Type { dtype: cx.float(0)?.dtype, shape }])
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let (dy, at) = (cx.typed::<f32>(0)?, cx.input(1)?);
        let (scratch, sizes) = (widened(at)?, sizes(&self.shape, self.axis));
        if sizes[0].checked_mul(at.len()).and_then(|n| n.checked_mul(sizes[2])) != Some(dy.len()) {
            return Err(format!(
                "the gradient {:?} does not come from {:?} by {:?}",
                dy.shape, self.shape, at.shape
            ));
        }
        let run = move |io: &mut Io| {
            let mut parts = io.split();
            let indices = indices(&mut parts, scratch);
            let done = select::scatter_add(parts.input(0), sizes, indices, parts.output(0));
            done.map_err(|bad| outside(bad, sizes[1]))
        };
        Ok(Step::new(run).workspace::<i64>(scratch))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::shapes::list;
    use crate::testing::{Draw, check_gradient, eval};
    use tensor::Tensor;

    #[test]
    fn values() {
        let x = Tensor::new(&[3, 2], vec![1i64, 2, 3, 4, 5, 6]);
        let y = eval(&Gather::default(), &[&x, &Tensor::new(&[2, 1], vec![-1i32, 0])]).unwrap();
        assert_eq!((y.shape(), y.to_i64()), (&[2, 1, 2][..], vec![5, 6, 1, 2]));
        let column = eval(&Gather { axis: -1 }, &[&x, &Tensor::scalar(1i64)]).unwrap();
        assert_eq!((column.shape(), column.to_i64()), (&[3][..], vec![2, 4, 6]));
        let e = eval(&Gather::default(), &[&x, &list(&[3])]).unwrap_err();
        assert_eq!(e, "index 3 is outside of the 3 elements of the axis");
        assert!(eval(&Gather::default(), &[&x, &Tensor::scalar(1f32)]).unwrap_err().contains("indices"));
        assert!(
            eval(&Gather::default(), &[&Tensor::scalar(1i64), &list(&[0])]).unwrap_err().contains("axis 0")
        );
    }

    #[test]
    fn gradient() {
        let mut draw = Draw::new(1);
        let table = draw.tensor(&[5, 3], -1.0, 1.0);
        check_gradient(Gather::default(), &[&table, &list(&[1, 1, -1, 0])], 1, &[0]);
        check_gradient(Gather { axis: 1 }, &[&table, &Tensor::new(&[2, 2], vec![2i32, 0, 2, -3])], 1, &[0]);
        check_gradient(
            Gather { axis: 1 },
            &[&draw.tensor(&[2, 3, 4], -1.0, 1.0), &Tensor::scalar(2i64)],
            1,
            &[0],
        );
    }
}
