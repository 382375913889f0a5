//! What the reductions share: axes, shape rule, step, and `qat.ReduceGrad`, the gradient of all of them.

use crate::shapes::{axes, integers, list};
use ir::{Attr, Attrs, Dim, Infer, Io, Layouts, Lower, OnnxForm, Op, Parse, Parsed, Step, Type, Vjp};
use kernels::reduce::{Reduce, Reduction};
use kernels::select::{Axis, Selection, strides};
use std::sync::Arc;
use tensor::{DType, Element};

/// How the result of a reduction looks. The axes are operand 1 of the node: all axes where it is omitted or empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// A reduced axis stays, with size 1.
    pub keep_dims: bool,
    /// No axes mean that nothing is reduced, instead of everything (opset 18).
    pub noop: bool,
}

impl Default for Form {
    fn default() -> Form {
        Form { keep_dims: true, noop: false }
    }
}

impl Form {
    /// Reads the attributes; axes that are an attribute become operand 1.
    pub(crate) fn parse(cx: &Parse) -> Result<(Form, Vec<(usize, tensor::Tensor)>), String> {
        let keep_dims = cx.attrs.int("keepdims", 1)? != 0;
        let noop = cx.attrs.int("noop_with_empty_axes", 0)? != 0;
        let inputs =
            cx.attrs.ints("axes")?.filter(|_| cx.ins < 2).map(|a| (1, list(&a))).into_iter().collect();
        Ok((Form { keep_dims, noop }, inputs))
    }

    pub(crate) fn attrs(&self) -> Attrs {
        Attrs::new().with_int("keepdims", self.keep_dims.into(), 1).with_int(
            "noop_with_empty_axes",
            self.noop.into(),
            0,
        )
    }

    /// Axes are an input from opset `since` on and an attribute before.
    pub(crate) fn to_onnx(self, name: &str, opset: i64, since: i64) -> Result<OnnxForm, String> {
        let form = OnnxForm { op_type: name.into(), attrs: self.attrs(), ..OnnxForm::default() };
        match (opset >= since, self.noop) {
            (true, _) => Ok(form),
            (false, true) => Err(format!("{name} has no noop_with_empty_axes before opset {since}")),
            (false, false) => Ok(OnnxForm { as_attrs: vec![(1, "axes".into())], ..form }),
        }
    }

    /// The axes to reduce.
    fn axes(&self, list: &[i64], rank: usize) -> Result<Vec<usize>, String> {
        if list.is_empty() && !self.noop { Ok((0..rank).collect()) } else { axes(list, rank) }
    }

    /// The shape of the result.
    pub(crate) fn infer(&self, cx: &Infer) -> Result<Option<Vec<Dim>>, String> {
        let Some(dims) = &cx.ty(0)?.shape else { return Ok(None) };
        match integers(cx, 1)? {
            None if cx.has(1) => Ok(self.keep_dims.then(|| crate::shapes::unknown(dims.len()))),
            given => {
                let axes = self.axes(&given.unwrap_or_default(), dims.len())?;
                Ok(Some(reduced(dims, &axes, self.keep_dims, Dim::Fixed(1))))
            }
        }
    }

    /// The axes at run time, which must be constant.
    fn constant_axes(&self, cx: &Lower) -> Result<Vec<usize>, String> {
        let given = if cx.optional(1).is_some() { cx.constant(1)?.to_i64() } else { Vec::new() };
        self.axes(&given, cx.input(0)?.shape.len())
    }

    /// Binds `op` of operand 0.
    pub(crate) fn lower(&self, op: Reduce, cx: &Lower) -> Result<Step, String> {
        let dtype = cx.input(0)?.dtype;
        let extreme = match op {
            Reduce::Max => self.lower_extreme(dtype, cx, true),
            Reduce::Min => self.lower_extreme(dtype, cx, false),
            _ => None,
        };
        match (extreme, dtype) {
            (Some(step), _) => return step,
            (None, DType::I64) => return self.lower_integer(op, cx),
            (None, DType::Bool) => {
                return Err("booleans have a largest and a smallest, but no sum".into());
            }
            _ => {}
        }
        let (x, y) = (cx.typed::<f32>(0)?, &cx.outs[0]);
        let axes = self.constant_axes(cx)?;
        let in_memory: Vec<usize> = axes.iter().map(|&a| x.memory_axis(a)).collect();
        let plan = Reduction::new(&x.memory_shape(), &in_memory);

        // The kernel keeps the order in memory. Where the result's order is another (kept channels behind kept spatial
        // axes), what it wrote is put in order.
        let kept: Vec<usize> = (0..x.shape.len()).filter(|a| self.keep_dims || !axes.contains(a)).collect();
        let size = |a: usize| if axes.contains(&a) { 1 } else { x.shape[a] };
        let mut made: Vec<usize> = kept.iter().copied().filter(|&a| size(a) != 1).collect();
        made.sort_by_key(|&a| x.memory_axis(a));
        let mut wanted: Vec<(usize, usize)> = kept
            .iter()
            .enumerate()
            .map(|(d, &a)| (y.memory_axis(d), a))
            .filter(|&(_, a)| size(a) != 1)
            .collect();
        wanted.sort_unstable();
        let wanted: Vec<usize> = wanted.into_iter().map(|(_, a)| a).collect();
        let reorder = (made != wanted).then(|| {
            let steps = strides(&made.iter().map(|&a| size(a)).collect::<Vec<_>>());
            let step = |a: usize| made.iter().position(|&m| m == a).map_or(1, |i| steps[i]);
            Selection::new(plan.out_len(), wanted.iter().map(|&a| Axis::strided(size(a), step(a))).collect())
        });

        let (scratch, between) = (plan.workspace(), if reorder.is_some() { plan.out_len() } else { 0 });
        let run = move |io: &mut Io| {
            let mut parts = io.split();
            let (scratch, between) = parts.workspace()[..scratch + between].split_at_mut(scratch);
            match &reorder {
                None => plan.run(op, parts.input(0), parts.output(0), scratch),
                Some(reorder) => {
                    plan.run(op, parts.input(0), between, scratch);
                    reorder.run(between, 0.0, parts.output(0));
                }
            }
            Ok(())
        };
        Ok(Step::new(run).workspace::<f32>(scratch + between))
    }

    /// The largest or the smallest integer or boolean, in their own type: of nothing it is an end of what the type
    /// holds. `None` for other types.
    fn lower_extreme(&self, dtype: DType, cx: &Lower, largest: bool) -> Option<Result<Step, String>> {
        macro_rules! step {
            ($low:expr, $high:expr) => {
                match largest {
                    true => self.lower_groups(cx, |x| x.iter().fold($low, |a, &b| a.max(b))),
                    false => self.lower_groups(cx, |x| x.iter().fold($high, |a, &b| a.min(b))),
                }
            };
        }
        Some(match dtype {
            DType::Bool => step!(0u8, 1u8),
            DType::I8 => step!(i8::MIN, i8::MAX),
            DType::U8 => step!(u8::MIN, u8::MAX),
            DType::I16 => step!(i16::MIN, i16::MAX),
            DType::U16 => step!(u16::MIN, u16::MAX),
            DType::I32 => step!(i32::MIN, i32::MAX),
            DType::U32 => step!(u32::MIN, u32::MAX),
            DType::I64 => step!(i64::MIN, i64::MAX),
            DType::U64 => step!(u64::MIN, u64::MAX),
            _ => return None,
        })
    }

    /// Sums and means as [`Form::lower`], for i64. A mean is truncated, and 0 of nothing.
    fn lower_integer(&self, op: Reduce, cx: &Lower) -> Result<Step, String> {
        let fold: fn(&[i64]) -> i64 = match op {
            Reduce::Sum => sum,
            Reduce::Mean => |x: &[i64]| sum(x) / x.len().max(1) as i64,
            Reduce::L1 => |x: &[i64]| x.iter().fold(0, |a, &b| a.wrapping_add(b.wrapping_abs())),
            Reduce::SumSquare => |x: &[i64]| x.iter().fold(0, |a, &b| a.wrapping_add(b.wrapping_mul(b))),
            _ => return Err("the executor takes no root and no largest magnitude of integers".into()),
        };
        self.lower_groups(cx, fold)
    }

    /// Gathers what goes into each result, then folds it.
    pub(crate) fn lower_groups<T: Element + Default>(
        &self,
        cx: &Lower,
        fold: fn(&[T]) -> T,
    ) -> Result<Step, String> {
        let (x, y) = (cx.input(0)?, &cx.outs[0]);
        let axes = self.constant_axes(cx)?;
        let steps = strides(&x.memory_shape());
        let mut kept: Vec<(usize, usize)> = (0..x.shape.len())
            .filter(|a| self.keep_dims || !axes.contains(a))
            .enumerate()
            .map(|(d, a)| (y.memory_axis(d), a))
            .filter(|(_, a)| !axes.contains(a))
            .collect();
        kept.sort_unstable();
        let order = kept.into_iter().map(|(_, a)| a).chain(axes.iter().copied());
        let plan = Selection::new(
            x.len(),
            order.map(|a| Axis::strided(x.shape[a], steps[x.memory_axis(a)])).collect(),
        );
        let (len, count) = (x.len(), axes.iter().map(|&a| x.shape[a]).product::<usize>());
        let run = move |io: &mut Io| {
            let mut parts = io.split();
            let (gathered, y): (&mut [T], &mut [T]) = (&mut parts.workspace()[..len], parts.output(0));
            plan.run(parts.input(0), T::default(), gathered);
            for (i, y) in y.iter_mut().enumerate() {
                *y = fold(&gathered[i * count..][..count]);
            }
            Ok(())
        };
        Ok(Step::new(run).workspace::<T>(len))
    }

    /// The shape of operand 0, and the axes that are reduced.
    fn reduced_axes(&self, cx: &Vjp) -> Option<(Vec<usize>, Vec<usize>)> {
        let shape = cx.dims(cx.input(0)?)?;
        let given = match cx.input(1) {
            Some(axes) => cx.constant(axes)?.to_i64(),
            None => Vec::new(),
        };
        let axes = self.axes(&given, shape.len()).ok()?;
        Some((shape, axes))
    }

    /// Emits the gradient of operand 0.
    pub(crate) fn vjp(&self, of: Reduce, cx: &mut Vjp) -> Option<()> {
        let (shape, axes) = self.reduced_axes(cx)?;
        let (x, y) = reads(of);
        let ins = [cx.d_output(0), cx.input(0).filter(|_| x), Some(cx.output(0)).filter(|_| y)];
        let ins = &ins[..1 + usize::from(x) + usize::from(y)];
        let d = cx.add_multi(Arc::new(ReduceGrad { of, axes, shape }), ins, 1)?[0];
        cx.set(0, d);
        Some(())
    }
}

fn sum(x: &[i64]) -> i64 {
    x.iter().fold(0, |a, &b| a.wrapping_add(b))
}

/// Whether the gradient reads the operand, and the result.
fn reads(of: Reduce) -> (bool, bool) {
    match of {
        Reduce::Sum | Reduce::Mean => (false, false),
        Reduce::SumSquare | Reduce::L1 => (true, false),
        Reduce::L2 | Reduce::Max | Reduce::Min | Reduce::AbsMax => (true, true),
    }
}

/// A shape without the given axes, or with `one` in their place.
fn reduced<D: Clone>(dims: &[D], axes: &[usize], keep_dims: bool, one: D) -> Vec<D> {
    let size = |(i, d): (usize, &D)| match axes.contains(&i) {
        true => keep_dims.then(|| one.clone()),
        false => Some(d.clone()),
    };
    dims.iter().enumerate().filter_map(size).collect()
}

/// `ReduceGrad(dy, x?, y?)`: gradient of a reduction of `x` to `y`, in the shape of `x`. Sums and means read neither, sums
/// of squares and of absolute values only `x`. Elements that tie for a maximum share its gradient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReduceGrad {
    /// What is reduced.
    pub of: Reduce,
    /// The reduced axes, ascending.
    pub axes: Vec<usize>,
    /// Shape of `x`.
    pub shape: Vec<usize>,
}

const NAMES: [(&str, Reduce); 8] = [
    ("AbsMax", Reduce::AbsMax),
    ("L1", Reduce::L1),
    ("L2", Reduce::L2),
    ("Max", Reduce::Max),
    ("Mean", Reduce::Mean),
    ("Min", Reduce::Min),
    ("Sum", Reduce::Sum),
    ("SumSquare", Reduce::SumSquare),
];

/// Reads the gradient.
pub fn parse_grad(cx: &Parse) -> Result<Parsed, String> {
    let name = cx.attrs.str("of", "")?;
    let known = NAMES.iter().find(|(n, _)| *n == name);
    let (_, of) = known.ok_or_else(|| format!("attribute of names no reduction: \"{name}\""))?;
    let sizes = |name| Ok::<_, String>(cx.attrs.sizes(name)?.unwrap_or_default());
    Ok(ReduceGrad { of: *of, axes: sizes("axes")?, shape: sizes("shape")? }.into())
}

impl ReduceGrad {
    /// All spatial axes of an image, as in global pooling: its neighbours compute channels-last.
    fn is_spatial(&self) -> bool {
        self.shape.len() >= 4 && self.axes.iter().copied().eq(2..self.shape.len())
    }
}

impl Op for ReduceGrad {
    fn name(&self) -> &str {
        "ReduceGrad"
    }

    fn domain(&self) -> &str {
        "qat"
    }

    fn attrs(&self) -> Attrs {
        let of = NAMES.iter().find(|(_, op)| *op == self.of).map_or("Sum", |(name, _)| name);
        let ints = |list: &[usize]| Attr::Ints(list.iter().map(|&x| x as i64).collect());
        Attrs::new().with_str("of", of, "").with("axes", ints(&self.axes)).with("shape", ints(&self.shape))
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let dy = cx.float(0)?;
        if self.axes.iter().any(|&a| a >= self.shape.len()) {
            return Err(format!("axes {:?} of a tensor of shape {:?}", self.axes, self.shape));
        }
        let kept: usize = reduced(&self.shape, &self.axes, true, 1).iter().product();
        if dy.dims().is_some_and(|d| d.iter().product::<usize>() != kept) {
            return Err(format!(
                "the gradient {dy} does not come from axes {:?} of {:?}",
                self.axes, self.shape
            ));
        }
        let ty = Type { dtype: dy.dtype, shape: Some(self.shape.iter().map(|&n| n.into()).collect()) };
        if reads(self.of).0 && !cx.ty(1)?.agrees(&ty) {
            return Err(format!("the operand {} has not the shape {:?}", cx.ty(1)?, self.shape));
        }
        Ok(vec![ty])
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        cx.typed::<f32>(0)?;
        let (of, dx) = (self.of, &cx.outs[0]);
        let axes: Vec<usize> = self.axes.iter().map(|&a| dx.memory_axis(a)).collect();
        let plan = Reduction::new(&dx.memory_shape(), &axes);
        let workspace = plan.grad_workspace(of);
        let run = move |io: &mut Io| {
            let mut parts = io.split();
            let scratch = &mut parts.workspace()[..workspace];
            plan.grad(of, parts.input(1), parts.input(2), parts.input(0), parts.output(0), scratch);
            Ok(())
        };
        Ok(Step::new(run).workspace::<f32>(workspace))
    }

    fn layouts(&self) -> Layouts {
        if self.is_spatial() { Layouts::ChannelsLast { ins: 0b111, outs: 1 } } else { Layouts::Plain }
    }
}

/// Defines a reduction: its struct, its reader and its [`Op`], with what differs from one to the other as functions.
macro_rules! reduction {
    (
        $(#[$doc:meta])*
        pub struct $name:ident, axes since $since:literal, gradient $vjp:expr, step $lower:expr, layouts $layouts:expr
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name {
            /// How the result looks.
            pub form: crate::reduce::Form,
        }

        /// Reads the operator.
        pub fn parse(cx: &ir::Parse) -> Result<ir::Parsed, String> {
            let (form, inputs) = crate::reduce::Form::parse(cx)?;
            Ok(ir::Parsed { inputs, ..$name { form }.into() })
        }

        impl ir::Op for $name {
            fn name(&self) -> &str {
                stringify!($name)
            }

            fn attrs(&self) -> ir::Attrs {
                self.form.attrs()
            }

            fn to_onnx(&self, opset: i64) -> Result<ir::OnnxForm, String> {
                self.form.to_onnx(self.name(), opset, $since)
            }

            fn infer(&self, cx: &ir::Infer) -> Result<Vec<ir::Type>, String> {
                Ok(vec![ir::Type { dtype: cx.ty(0)?.dtype, shape: self.form.infer(cx)? }])
            }

            fn vjp(&self, cx: &mut ir::Vjp) -> Option<()> {
                $vjp(self.form, cx)
            }

            fn lower(&self, cx: &ir::Lower) -> Result<ir::Step, String> {
                $lower(self.form, cx)
            }

            fn layouts(&self) -> ir::Layouts {
                $layouts
            }
        }
    };
}
pub(crate) use reduction;

/// Defines a reduction that folds groups of numbers, of f32 and perhaps of i64.
macro_rules! fold {
    (
        $(#[$doc:meta])*
        pub struct $name:ident { f32: $float:expr $(, i64: $integer:expr)? }, gradient $vjp:expr
    ) => {
        crate::reduce::reduction! {
            $(#[$doc])*
            pub struct $name, axes since 18, gradient $vjp,
            step |form: crate::reduce::Form, cx: &ir::Lower| match cx.input(0)?.dtype {
                tensor::DType::F32 => form.lower_groups::<f32>(cx, $float),
                $(tensor::DType::I64 => form.lower_groups::<i64>(cx, $integer),)?
                other => Err(format!("the executor does not reduce elements of type {other} here")),
            },
            layouts ir::Layouts::Plain
        }
    };
}
pub(crate) use fold;

/// Defines a reduction that the kernels know.
macro_rules! operator {
    ($(#[$doc:meta])* pub struct $name:ident: $reduce:ident, axes since $since:literal) => {
        crate::reduce::reduction! {
            $(#[$doc])*
            pub struct $name, axes since $since,
            gradient |form: crate::reduce::Form, cx: &mut ir::Vjp| form.vjp(kernels::reduce::Reduce::$reduce, cx),
            step |form: crate::reduce::Form, cx: &ir::Lower| form.lower(kernels::reduce::Reduce::$reduce, cx),
            layouts ir::Layouts::Same { ins: 1, outs: 1 }
        }
    };
}
pub(crate) use operator;

/// Operand, result and its gradient, the last two with the reduced axes as size 1: what gradients of folds read.
pub(crate) fn aligned(form: Form, cx: &mut Vjp) -> Option<[ir::ValueId; 3]> {
    let (x, y, dy) = (cx.input(0)?, cx.output(0), cx.d_output(0)?);
    let (shape, axes) = form.reduced_axes(cx)?;
    let kept: Vec<i64> = reduced(&shape, &axes, true, 1).iter().map(|&n| n as i64).collect();
    let kept = cx.constant_value(list(&kept));
    let mut align = |v| cx.add(crate::Reshape::default(), &[v, kept]);
    Some([x, align(y)?, align(dy)?])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{Draw, check_gradient, eval, run};
    use crate::*;
    use tensor::Tensor;

    fn form(keep_dims: bool) -> Form {
        Form { keep_dims, ..Form::default() }
    }

    #[test]
    fn values() {
        let x = Tensor::new(&[2, 3], vec![1.0f32, -2.0, 3.0, 4.0, 0.0, -3.0]);
        let value = |op: &dyn Op| eval(op, &[&x, &list(&[1])]).unwrap().to_f32();
        assert_eq!(value(&ReduceSum::default()), [2.0, 1.0]);
        assert_eq!(value(&ReduceMean::default()), [2.0 / 3.0, 1.0 / 3.0]);
        assert_eq!(value(&ReduceMax::default()), [3.0, 4.0]);
        assert_eq!(value(&ReduceMin::default()), [-2.0, -3.0]);
        assert_eq!(value(&ReduceSumSquare::default()), [14.0, 25.0]);
        assert_eq!(value(&ReduceL1::default()), [6.0, 7.0]);
        assert_eq!(value(&ReduceL2::default()), [14f32.sqrt(), 5.0]);
    }

    #[test]
    fn integers() {
        let x = Tensor::new(&[2, 3, 2], vec![1i64, -2, 3, 4, 0, -3, 7, 8, 9, 10, 11, 12]);
        let value = |op: &dyn Op, axes: &[i64]| eval(op, &[&x, &list(axes)]).unwrap().to_i64();
        assert_eq!(value(&ReduceSum::default(), &[0, 2]), [14, 26, 20]);
        assert_eq!(value(&ReduceMax { form: form(false) }, &[1]), [3, 4, 11, 12]);
        assert_eq!(value(&ReduceMin::default(), &[]), [-3]);
        assert!(eval(&ReduceL2::default(), &[&x]).unwrap_err().contains("integers"));
        assert_eq!(value(&ReduceMean::default(), &[0, 2]), [3, 6, 5]);
        let negative = Tensor::new(&[3], vec![-1i64, -2, -4]);
        assert_eq!(eval(&ReduceMean::default(), &[&negative, &list(&[0])]).unwrap().to_i64(), [-2]);
        let none = Tensor::zeros(DType::I64, &[0, 2]);
        assert_eq!(eval(&ReduceSum::default(), &[&none, &list(&[0])]).unwrap().to_i64(), [0, 0]);
        assert_eq!(eval(&ReduceMean::default(), &[&none, &list(&[0])]).unwrap().to_i64(), [0, 0]);
    }

    #[test]
    fn the_largest_and_the_smallest_of_no_integers() {
        let of = |op: &dyn Op, x: &Tensor| ir::eval(op, &[Some(x), Some(&list(&[1]))], 1).unwrap().remove(0);
        macro_rules! ends {
            ($($t:ty),*) => {$(
                let none = Tensor::new::<$t>(&[1, 0], vec![]);
                assert_eq!(of(&ReduceMax::default(), &none), Tensor::new(&[1, 1], vec![<$t>::MIN]));
                assert_eq!(of(&ReduceMin::default(), &none), Tensor::new(&[1, 1], vec![<$t>::MAX]));
            )*};
        }
        ends!(i8, u8, i16, u16, i32, u32, i64, u64);
        let x = Tensor::new(&[1, 3], vec![7u64, u64::MAX, 3]);
        assert_eq!(of(&ReduceMax::default(), &x), Tensor::new(&[1, 1], vec![u64::MAX]));
        let x = Tensor::bools(&[1, 0], &[]);
        assert_eq!(of(&ReduceMin::default(), &x), Tensor::bools(&[1, 1], &[true]));
    }

    #[test]
    fn shapes() {
        let x = Tensor::zeros(DType::F32, &[2, 3, 4]);
        let shape = |keep, axes: &[i64]| {
            eval(&ReduceSum { form: form(keep) }, &[&x, &list(axes)]).map(|t| t.shape().to_vec())
        };
        assert_eq!(shape(true, &[-1, 0]).unwrap(), [1, 3, 1]);
        assert_eq!(shape(false, &[1]).unwrap(), [2, 4]);
        assert_eq!(shape(false, &[]).unwrap(), [0usize; 0]);
        assert!(shape(true, &[3]).unwrap_err().contains("axis 3"));
        assert_eq!(run(&ReduceSum::default(), &[Some(&x)], 1).unwrap()[0].shape(), [1, 1, 1]);
        let noop = ReduceSum { form: Form { noop: true, ..Form::default() } };
        assert_eq!(run(&noop, &[Some(&x)], 1).unwrap()[0].shape(), [2, 3, 4]);
        let ty = Type::new(DType::F32, [Dim::sym("N"), 8.into(), Dim::sym("H")]);
        let axes = list(&[2]);
        let axes_ty = Type::new(DType::I64, [1usize]);
        let args =
            [Some(ir::Arg { ty: &ty, value: None }), Some(ir::Arg { ty: &axes_ty, value: Some(&axes) })];
        let infer =
            |keep| ReduceMean { form: form(keep) }.infer(&Infer::new(&args, 1)).unwrap()[0].to_string();
        assert_eq!([infer(true), infer(false)], ["float[N,8,1]", "float[N,8]"]);
    }

    #[test]
    fn axes_go_where_the_opset_wants_them() {
        let attrs = Attrs::new().with("axes", Attr::Ints(vec![2, 3])).with_int("keepdims", 0, 1);
        let parsed = reduce_mean::parse(&Parse { attrs: &attrs, opset: 13, ins: 1, outs: 1 }).unwrap();
        assert_eq!(parsed.inputs, [(1, list(&[2, 3]))]);
        let (old, new) = (parsed.op.to_onnx(17).unwrap(), parsed.op.to_onnx(18).unwrap());
        assert_eq!((old.as_attrs, new.as_attrs), (vec![(1, "axes".to_string())], vec![]));
        assert!(ReduceSum::default().to_onnx(13).unwrap().as_attrs.is_empty());
        assert!(ReduceMax { form: Form { noop: true, ..Form::default() } }.to_onnx(17).is_err());
    }

    #[test]
    fn gradients() {
        let mut draw = Draw::new(1);
        for case in 0..40 {
            let rank = [4, 4, 3, 5, 2, 1, 0][case % 7];
            let shape = draw.shape(rank, 4);
            let axes: Vec<i64> = (0..rank as i64).filter(|_| draw.int(0, 2) == 0).collect();
            let axes = if case % 4 == 0 && rank == 4 { vec![2, 3] } else { axes };
            let axes = list(&axes);
            let form = form(draw.int(0, 2) == 0);
            let x = draw.tensor_off(&shape, -2.0, 2.0, &[0.0], 0.05);
            check_gradient(ReduceSum { form }, &[&x, &axes], 1, &[0]);
            check_gradient(ReduceMean { form }, &[&x, &axes], 1, &[0]);
            check_gradient(ReduceSumSquare { form }, &[&x, &axes], 1, &[0]);
            check_gradient(ReduceL1 { form }, &[&x, &axes], 1, &[0]);
            check_gradient(ReduceL2 { form }, &[&x, &axes], 1, &[0]);
            check_gradient(ReduceLogSumExp { form }, &[&x, &axes], 1, &[0]);
            let positive = draw.tensor(&shape, 0.5, 2.0);
            check_gradient(ReduceLogSum { form }, &[&positive, &axes], 1, &[0]);
            let x = draw.distinct(&shape);
            check_gradient(ReduceMax { form }, &[&x, &axes], 1, &[0]);
            check_gradient(ReduceMin { form }, &[&x, &axes], 1, &[0]);
        }
    }

    #[test]
    fn the_gradient_is_read_back() {
        let op = ReduceGrad { of: Reduce::Max, axes: vec![1], shape: vec![2, 3] };
        let parsed = parse_grad(&Parse { attrs: &op.attrs(), opset: 1, ins: 3, outs: 1 }).unwrap();
        assert_eq!(parsed.op.is::<ReduceGrad>(), Some(&op));
    }
}
