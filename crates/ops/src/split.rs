//! `Split` (ONNX 2, 11, 13, 18): cuts a tensor along an axis. Before opset 13 the sizes were an attribute; from opset 18
//! on, equal parts are asked for by their number.

use crate::Concat;
use crate::concat::blocks;
use crate::constant_of_shape::zeros_as;
use crate::shapes::{axis, by_width, integers, list};
use ir::{Attrs, Dim, Infer, Io, Layouts, Lower, OnnxForm, Op, Parse, Parsed, QuantRole, Step, Type, Vjp};
use kernels::select::copy_blocks;
use std::sync::Arc;

/// `Split(x, sizes?)`: `sizes` i64; equal parts where they are omitted, of which the last may be smaller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// The axis that is cut.
    pub axis: i64,
    /// Number of equal parts, where no sizes are given.
    pub parts: Option<usize>,
    /// The last of these may be smaller, and there may be fewer results (opset 18).
    pub uneven: bool,
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    let axis = cx.attrs.int("axis", 0)?;
    let sizes = cx.attrs.ints("split")?.filter(|_| cx.ins < 2);
    let given = cx.ins > 1 || sizes.is_some();
    let parts = cx.attrs.int("num_outputs", cx.outs as i64)?;
    let parts = usize::try_from(parts).map_err(|_| format!("attribute num_outputs is {parts}"))?;
    let inputs = sizes.map(|s| (1, list(&s))).into_iter().collect();
    let split = Split { axis, parts: (!given).then_some(parts), uneven: !given && cx.opset >= 18 };
    Ok(Parsed { inputs, ..split.into() })
}

impl Split {
    /// Sizes of parts of an axis of `n` elements, for each of `outs` results.
    fn sizes(&self, n: usize, given: Option<&[i64]>, outs: usize) -> Result<Vec<usize>, String> {
        if let Some(list) = given {
            let sizes = list.iter().map(|&s| usize::try_from(s)).collect::<Result<Vec<_>, _>>();
            let sizes = sizes.map_err(|_| format!("split {list:?} holds a negative size"))?;
            let total = sizes.iter().try_fold(0usize, |a, &b| a.checked_add(b));
            if total != Some(n) || sizes.len() < outs {
                return Err(format!("split {list:?} does not cut {n} elements into {outs} parts"));
            }
            return Ok(sizes);
        }
        let parts = self.parts.unwrap_or(outs);
        if parts == 0 || parts < outs {
            return Err(format!("{parts} parts have {outs} results"));
        }
        let size = n.div_ceil(parts);
        let at = |i: usize| size.min(n.saturating_sub(size.saturating_mul(i)));
        Ok((0..outs).map(at).collect())
    }
}

impl Op for Split {
    fn name(&self) -> &str {
        "Split"
    }

    fn attrs(&self) -> Attrs {
        let attrs = Attrs::new().with_int("axis", self.axis, 0);
        self.parts.map_or(attrs.clone(), |n| attrs.with_int("num_outputs", n as i64, 0))
    }

    fn to_onnx(&self, opset: i64) -> Result<OnnxForm, String> {
        if opset < 18 && self.uneven {
            return Err("Split has no parts of different sizes without their list before opset 18".into());
        }
        let attrs = if opset < 18 { Attrs::new().with_int("axis", self.axis, 0) } else { self.attrs() };
        Ok(OnnxForm { op_type: self.name().into(), attrs, ..OnnxForm::default() })
    }

    fn settled(&self, cx: &Infer) -> Option<Arc<dyn Op>> {
        let dims = cx.ty(0).ok()?.shape.as_ref()?;
        let n = dims[axis(self.axis, dims.len()).ok()?].fixed()?;
        let even = self.parts == Some(cx.outs()) && n.is_multiple_of(cx.outs());
        (self.uneven && even).then(|| Arc::new(Split { uneven: false, ..*self }) as Arc<dyn Op>)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let x = cx.ty(0)?;
        let Some(dims) = &x.shape else { return Ok(vec![Type { dtype: x.dtype, shape: None }; cx.outs()]) };
        let at = axis(self.axis, dims.len())?;
        let with = |d: Dim| {
            let mut dims = dims.clone();
            dims[at] = d;
            Type { dtype: x.dtype, shape: Some(dims) }
        };
        let given = integers(cx, 1)?;
        Ok(match (dims[at].fixed(), given) {
            (_, None) if cx.has(1) => vec![with(Dim::Unknown); cx.outs()],
            (None, Some(list)) => {
                list.iter().map(|&n| with(usize::try_from(n).map_or(Dim::Unknown, Dim::Fixed))).collect()
            }
            (None, None) => vec![with(Dim::Unknown); cx.outs()],
            (Some(n), given) => {
                self.sizes(n, given.as_deref(), cx.outs())?.into_iter().map(|n| with(Dim::Fixed(n))).collect()
            }
        })
    }

    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        let mut parts = Vec::new();
        for i in 0..cx.outs() {
            parts.push(Some(match cx.d_output(i) {
                Some(d) => d,
                None => zeros_as(cx, cx.output(i))?,
            }));
        }
        let d = cx.add_multi(Arc::new(Concat { axis: self.axis }), &parts, 1)?[0];
        cx.set(0, d);
        Some(())
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let x = cx.input(0)?;
        let at = x.memory_axis(axis(self.axis, x.shape.len())?);
        let (row, count) = blocks(&x.memory_shape(), at);
        let sizes: Vec<usize> = cx.outs.iter().map(|y| blocks(&y.memory_shape(), at).0).collect();
        by_width!(x.dtype, T => Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let (mut from, x): (_, &[T]) = (0, parts.input(0));
            for (i, &block) in sizes.iter().enumerate() {
                if !x.is_empty() {
                    copy_blocks(&x[from..], row, parts.output(i), block, block, count);
                }
                from += block;
            }
            Ok(())
        })))
    }

    fn quant(&self) -> QuantRole {
        QuantRole::SameScale
    }

    /// As for `Concat`.
    fn layouts(&self) -> Layouts {
        if self.axis == 1 { Layouts::ChannelsLast { ins: 1, outs: !0 } } else { Layouts::Plain }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{Draw, check_gradient, check_gradient_within, run};
    use ir::{Arg, Attr};
    use tensor::{DType, Tensor};

    fn sized(axis: i64) -> Split {
        Split { axis, ..Split::default() }
    }

    fn equal(axis: i64, parts: usize) -> Split {
        Split { parts: Some(parts), ..sized(axis) }
    }

    #[test]
    fn values() {
        let x = Tensor::new(&[2, 3], vec![1i64, 2, 3, 4, 5, 6]);
        let parts = run(&sized(1), &[Some(&x), Some(&list(&[1, 2]))], 2).unwrap();
        assert_eq!((parts[0].to_i64(), parts[1].to_i64()), (vec![1, 4], vec![2, 3, 5, 6]));
        let halves = run(&equal(-1, 2), &[Some(&x)], 2).unwrap();
        assert_eq!((halves[0].shape(), halves[1].to_i64()), (&[2, 2][..], vec![3, 6]));
        let e = run(&sized(0), &[Some(&x), Some(&list(&[1, 2]))], 2).unwrap_err();
        assert_eq!(e, "split [1, 2] does not cut 2 elements into 2 parts");
        assert!(run(&sized(0), &[Some(&x), Some(&list(&[3, -1]))], 2).is_err());
        assert!(run(&equal(0, 0), &[Some(&x)], 1).is_err());
        assert!(run(&sized(2), &[Some(&x)], 1).is_err());
    }

    /// More than a mask of layouts has bits.
    #[test]
    fn many_results() {
        let x = Draw::new(1).tensor(&[1, 40, 2, 3], -1.0, 1.0);
        let parts = run(&equal(1, 40), &[Some(&x)], 40).unwrap();
        assert_eq!(parts.iter().flat_map(Tensor::to_f32).collect::<Vec<_>>(), x.to_f32());
    }

    #[test]
    fn every_opset() {
        let attrs = Attrs::new().with("split", Attr::Ints(vec![1, 2])).with_int("axis", 1, 0);
        let old = parse(&Parse { attrs: &attrs, opset: 11, ins: 1, outs: 2 }).unwrap();
        assert_eq!(old.inputs, [(1, list(&[1, 2]))]);
        assert!(old.op.to_onnx(18).unwrap().attrs.get("num_outputs").is_none());
        let equal = parse(&Parse { attrs: &Attrs::new(), opset: 13, ins: 1, outs: 3 }).unwrap();
        assert_eq!(equal.op.to_onnx(18).unwrap().attrs.int("num_outputs", 0), Ok(3));
        assert!(equal.op.to_onnx(17).unwrap().attrs.is_empty());
    }

    #[test]
    fn uneven_parts_are_those_of_opset_18() {
        let settled = |n: Dim, attrs: &Attrs, outs: usize| {
            let op = parse(&Parse { attrs, opset: 18, ins: 1, outs }).unwrap().op;
            let ty = Type::new(DType::F32, [n]);
            let args = [Some(Arg { ty: &ty, value: None })];
            let cx = Infer::new(&args, outs);
            assert_eq!(op.infer(&cx).unwrap().len(), outs);
            op.settled(&cx).unwrap_or(op)
        };
        let parts = |n: i64| Attrs::new().with_int("num_outputs", n, 0);
        assert!(settled(6.into(), &parts(2), 2).to_onnx(17).unwrap().attrs.is_empty());
        assert_eq!(settled(6.into(), &parts(2), 2).to_onnx(18).unwrap().attrs, parts(2));
        let others = [(Dim::from(5), 2), (6.into(), 3), (Dim::sym("N"), 2), (4.into(), 1 << 40)];
        for (n, count) in others {
            let op = settled(n, &parts(count), 2);
            assert!(op.to_onnx(17).unwrap_err().contains("before opset 18"));
            assert_eq!(op.to_onnx(18).unwrap().attrs, parts(count));
        }
    }

    #[test]
    fn open_sizes() {
        let ty = Type::new(DType::F32, [Dim::sym("N"), Dim::sym("C")]);
        let args = [Some(Arg { ty: &ty, value: None })];
        let types = equal(1, 2).infer(&Infer::new(&args, 2)).unwrap();
        assert_eq!(types[1].to_string(), "float[N,?]");
    }

    #[test]
    fn gradient() {
        let mut draw = Draw::new(1);
        let x = draw.tensor(&[2, 5, 2, 3], -1.0, 1.0);
        for (axis, sizes) in [(1, [2, 3]), (3, [1, 2]), (-3, [4, 1])] {
            check_gradient(sized(axis), &[&x, &list(&sizes)], 2, &[0]);
        }
        let equal = Arc::new(equal(1, 2));
        check_gradient_within(equal, &[Some(&x)], 2, &[0], Default::default());
    }
}
