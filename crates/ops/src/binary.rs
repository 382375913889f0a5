//! What the element-wise operators of two operands share: shape rule, step, and `qat.BinaryGrad`, the gradient of those
//! whose derivative is not made of other operators.

use crate::shapes::{broadcast, same_dtype, sum_to};
use ir::{Attrs, Infer, Io, Layouts, Lower, Op, Operand, Parse, Parsed, Step, Type, ValueId, Vjp};
use kernels::broadcast::Broadcast;
use kernels::elementwise::{Binary, Compare, Integer, Logic, Operand as Side};
use tensor::{DType, Element};

/// The shape that both operands broadcast to, of their common element type.
pub(crate) fn infer(cx: &Infer) -> Result<Vec<Type>, String> {
    let (a, b) = (cx.ty(0)?, cx.ty(1)?);
    Ok(vec![Type { dtype: same_dtype(a, b)?, shape: broadcast(a, b)? }])
}

/// As [`infer`], for results of truth.
pub(crate) fn infer_bool(cx: &Infer) -> Result<Vec<Type>, String> {
    Ok(vec![Type { dtype: Some(DType::Bool), ..infer(cx)?.remove(0) }])
}

/// The plan for operands in memory order, checked against the result.
pub(crate) fn plan<const K: usize>(
    operands: [&Operand; K],
    result: &Operand,
) -> Result<Broadcast<K>, String> {
    let shapes = operands.map(Operand::memory_shape);
    let plan = Broadcast::new(std::array::from_fn(|k| shapes[k].as_slice())).map_err(|e| e.to_string())?;
    if plan.len() == result.len() {
        return Ok(plan);
    }
    Err(format!("the operands broadcast to {:?}, not to {:?}", plan.shape(), result.memory_shape()))
}

/// `y = op(a, b)` on f32, i64 or i32. Either operand of the result's size may give its buffer.
pub(crate) fn lower(op: Binary, cx: &Lower) -> Result<Step, String> {
    match cx.input(0)?.dtype {
        DType::I64 => lower_integer::<i64>(op, cx),
        DType::I32 => lower_integer::<i32>(op, cx),
        _ => lower_float(op, cx),
    }
}

fn lower_float(op: Binary, cx: &Lower) -> Result<Step, String> {
    let (a, b) = (cx.typed::<f32>(0)?, cx.typed::<f32>(1)?);
    let forward = plan([a, b], &cx.outs[0])?;
    let commutes = matches!(op, Binary::Add | Binary::Mul | Binary::Max | Binary::Min);
    let (left, right) = (forward.is_full(0), forward.is_full(1) && commutes);
    let swapped = plan([b, a], &cx.outs[0])?;
    let run = move |io: &mut Io| {
        let mut parts = io.split();
        let y = parts.output(0);
        match (parts.optional(0), parts.optional(1)) {
            (None, b) => op.forward_in_place(&forward, y, b.unwrap_or_default()),
            (Some(a), None) => op.forward_in_place(&swapped, y, a),
            (Some(a), Some(b)) => op.forward(&forward, a, b, y),
        }
        Ok(())
    };
    let step = Step::new(run);
    let step = if left { step.in_place(0, 0) } else { step };
    Ok(if right { step.in_place(1, 0) } else { step })
}

fn lower_integer<T: Element + Integer>(op: Binary, cx: &Lower) -> Result<Step, String> {
    let plan = plan([cx.typed::<T>(0)?, cx.typed::<T>(1)?], &cx.outs[0])?;
    Ok(Step::new(move |io: &mut Io| {
        let mut parts = io.split();
        let (a, b) = (parts.input::<T>(0), parts.input::<T>(1));
        op.forward_integer(&plan, a, b, parts.output(0)).map_err(|e| e.to_string())
    }))
}

/// `y = op(a, b)` on numbers or booleans, as bytes 0 and 1.
pub(crate) fn lower_compare(op: Compare, cx: &Lower) -> Result<Step, String> {
    fn typed<T: Element>(op: Compare, cx: &Lower) -> Result<Step, String> {
        let plan = plan([cx.input(0)?, cx.input(1)?], &cx.outs[0])?;
        Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            op.forward(&plan, parts.input::<T>(0), parts.input::<T>(1), parts.output(0));
            Ok(())
        }))
    }
    match cx.input(0)?.dtype {
        DType::F32 => typed::<f32>(op, cx),
        DType::F64 => typed::<f64>(op, cx),
        DType::I64 => typed::<i64>(op, cx),
        DType::I32 => typed::<i32>(op, cx),
        DType::I8 => typed::<i8>(op, cx),
        DType::U8 | DType::Bool => typed::<u8>(op, cx),
        other => Err(format!("the executor does not compare elements of type {other}")),
    }
}

/// `y = f(a, b)` on elements of `A`, whatever integers of that width they stand for.
pub(crate) fn lower_map<A: Element>(
    cx: &Lower,
    f: impl Fn(A, A) -> Result<A, String> + Send + Sync + 'static,
) -> Result<Step, String> {
    let (a, b) = (cx.input(0)?, cx.input(1)?);
    if [a, b].iter().any(|x| x.dtype.bits() != A::DTYPE.bits()) {
        return Err(format!(
            "the operands should have one element type, but are {} and {}",
            a.dtype, b.dtype
        ));
    }
    let y = &cx.outs[0];
    let [a, b] =
        [a, b].map(|x| Broadcast::to(&x.memory_shape(), &y.memory_shape()).map_err(|e| e.to_string()));
    let ([a, b], len) = ([a?, b?], y.len());
    let run = move |io: &mut Io| {
        let mut parts = io.split();
        let (left, right) = parts.workspace::<A>()[..2 * len].split_at_mut(len);
        a.expand(parts.input(0), left);
        b.expand(parts.input(1), right);
        for ((y, &a), &b) in parts.output::<A>(0).iter_mut().zip(&*left).zip(&*right) {
            *y = f(a, b)?;
        }
        Ok(())
    };
    Ok(Step::new(run).workspace::<A>(2 * len))
}

/// Defines a bitwise operator of two operands of integers: its struct, its reader and its [`Op`].
macro_rules! bitwise {
    ($(#[$doc:meta])* pub struct $name:ident = $f:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name;

        /// Reads the operator: it has no attributes.
        pub fn parse(_: &ir::Parse) -> Result<ir::Parsed, String> {
            Ok($name.into())
        }

        impl ir::Op for $name {
            fn name(&self) -> &str {
                stringify!($name)
            }

            fn to_onnx(&self, opset: i64) -> Result<ir::OnnxForm, String> {
                crate::unary::since(self, opset, 18)
            }

            fn infer(&self, cx: &ir::Infer) -> Result<Vec<ir::Type>, String> {
                crate::binary::infer_integer(cx)
            }

            fn lower(&self, cx: &ir::Lower) -> Result<ir::Step, String> {
                crate::shapes::by_width!(cx.outs[0].dtype, T => crate::binary::lower_map::<T>(cx, |a, b| Ok($f(a, b))))
            }

            fn layouts(&self) -> ir::Layouts {
                ir::Layouts::Any
            }
        }
    };
}
pub(crate) use bitwise;

/// As [`infer`], for integers only.
pub(crate) fn infer_integer(cx: &Infer) -> Result<Vec<Type>, String> {
    match cx.ty(0)?.dtype {
        Some(d) if d.is_float() || d == DType::Bool => {
            Err(format!("the operands should be integers, but are {d}"))
        }
        _ => infer(cx),
    }
}

/// Gradients of both operands through [`BinaryGrad`].
pub(crate) fn vjp(of: Binary, cx: &mut Vjp) -> Option<()> {
    let (dy, a, b) = (cx.d_output(0)?, cx.input(0)?, cx.input(1)?);
    for (i, (wrt, operand)) in [(Side::Left, a), (Side::Right, b)].into_iter().enumerate() {
        if cx.wants(i) {
            let d = cx.add(BinaryGrad { of, wrt }, &[dy, a, b])?;
            let d = sum_to(cx, d, operand)?;
            cx.set(i, d);
        }
    }
    Some(())
}

/// `op` over any number of operands of f32, from the first to the last, then times `scale`: `Sum`, `Mean`, `Max`, `Min`.
pub(crate) fn lower_fold(op: Binary, scale: f32, cx: &Lower) -> Result<Step, String> {
    if cx.ins.len() == 2 && scale == 1.0 {
        return lower(op, cx);
    }
    let operands = (0..cx.ins.len()).map(|i| cx.typed::<f32>(i)).collect::<Result<Vec<_>, _>>()?;
    let result = &cx.outs[0];
    let first = operands.first().ok_or("an operator without operands")?;
    let expand = Broadcast::to(&first.memory_shape(), &result.memory_shape()).map_err(|e| e.to_string())?;
    let plans = operands[1..].iter().map(|&x| plan([result, x], result)).collect::<Result<Vec<_>, _>>()?;
    Ok(Step::new(move |io: &mut Io| {
        let mut parts = io.split();
        let y: &mut [f32] = parts.output(0);
        expand.expand(parts.input(0), y);
        for (i, plan) in plans.iter().enumerate() {
            op.forward_in_place(plan, y, parts.input(i + 1));
        }
        if scale != 1.0 {
            y.iter_mut().for_each(|y| *y *= scale);
        }
        Ok(())
    }))
}

/// The shape that all operands broadcast to, of their common element type.
pub(crate) fn infer_fold(cx: &Infer) -> Result<Vec<Type>, String> {
    let mut ty = cx.ty(0)?.clone();
    for i in 1..cx.len() {
        let next = cx.ty(i)?;
        ty = Type { dtype: same_dtype(&ty, next)?, shape: broadcast(&ty, next)? };
    }
    Ok(vec![ty])
}

/// Gradients of an operator that folds its operands: emits the partial results of the forward pass anew.
pub(crate) fn vjp_fold<T: Op>(of: Binary, pair: impl Fn() -> T, cx: &mut Vjp) -> Option<()> {
    let ins = (0..).map_while(|i| cx.input(i)).collect::<Vec<ValueId>>();
    if let [_, _] = ins[..] {
        return vjp(of, cx);
    }
    let mut sofar = vec![*ins.first()?];
    for &x in &ins[1..] {
        sofar.push(cx.add(pair(), &[*sofar.last()?, x])?);
    }
    let mut d = cx.d_output(0)?;
    for i in (1..ins.len()).rev() {
        let (a, b) = (sofar[i - 1], ins[i]);
        if cx.wants(i) {
            let right = cx.add(BinaryGrad { of, wrt: Side::Right }, &[d, a, b])?;
            let right = sum_to(cx, right, b)?;
            cx.set(i, right);
        }
        let left = cx.add(BinaryGrad { of, wrt: Side::Left }, &[d, a, b])?;
        d = sum_to(cx, left, a)?;
    }
    cx.set(0, d);
    Some(())
}

/// `BinaryGrad(dy, a, b)`: gradient of an element-wise function of `a` and `b` for one of them, in the shape of `dy`:
/// not yet summed over the dimensions in which the operand was repeated. All f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BinaryGrad {
    /// The function.
    pub of: Binary,
    /// The operand that the gradient is for.
    pub wrt: Side,
}

const NAMES: [(&str, Binary); 8] = [
    ("Add", Binary::Add),
    ("Div", Binary::Div),
    ("Max", Binary::Max),
    ("Min", Binary::Min),
    ("Mul", Binary::Mul),
    ("PRelu", Binary::PRelu),
    ("Pow", Binary::Pow),
    ("Sub", Binary::Sub),
];

/// Reads the gradient.
pub fn parse_grad(cx: &Parse) -> Result<Parsed, String> {
    let name = cx.attrs.str("of", "")?;
    let known = NAMES.iter().find(|(n, _)| *n == name);
    let (_, of) = known.ok_or_else(|| format!("attribute of names no function: \"{name}\""))?;
    let wrt = match cx.attrs.str("wrt", "")? {
        "a" => Side::Left,
        "b" => Side::Right,
        other => return Err(format!("attribute wrt should be a or b, but is \"{other}\"")),
    };
    Ok(BinaryGrad { of: *of, wrt }.into())
}

impl Op for BinaryGrad {
    fn name(&self) -> &str {
        "BinaryGrad"
    }

    fn domain(&self) -> &str {
        "qat"
    }

    fn attrs(&self) -> Attrs {
        let of = NAMES.iter().find(|(_, op)| *op == self.of).map_or("Add", |(name, _)| name);
        let wrt = if self.wrt == Side::Left { "a" } else { "b" };
        Attrs::new().with_str("of", of, "").with_str("wrt", wrt, "")
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let (dy, a, b) = (cx.float(0)?, cx.float(1)?, cx.float(2)?);
        let forward = Type { dtype: same_dtype(a, b)?, shape: broadcast(a, b)? };
        crate::shapes::gradient_of(dy, &forward)?;
        Ok(vec![dy.clone()])
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        cx.typed::<f32>(0)?;
        let plan = plan([cx.typed::<f32>(1)?, cx.typed::<f32>(2)?], &cx.outs[0])?;
        let BinaryGrad { of, wrt } = *self;
        Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            of.grad(wrt, &plan, parts.input(1), parts.input(2), parts.input(0), parts.output(0));
            Ok(())
        }))
    }

    fn layouts(&self) -> Layouts {
        Layouts::Any
    }
}

/// Defines an operator without attributes on two operands that broadcast: its struct, its reader and its [`Op`]. The
/// gradient rule is a function of the [`Vjp`]; `none` for a result of truth.
macro_rules! operator {
    ($(#[$doc:meta])* pub struct $name:ident: $role:ident, params $params:expr, gradient $vjp:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name;

        /// Reads the operator: it has no attributes.
        pub fn parse(_: &ir::Parse) -> Result<ir::Parsed, String> {
            Ok($name.into())
        }

        impl ir::Op for $name {
            fn name(&self) -> &str {
                stringify!($name)
            }

            fn infer(&self, cx: &ir::Infer) -> Result<Vec<ir::Type>, String> {
                crate::binary::infer(cx)
            }

            fn vjp(&self, cx: &mut ir::Vjp) -> Option<()> {
                $vjp(cx)
            }

            fn lower(&self, cx: &ir::Lower) -> Result<ir::Step, String> {
                crate::binary::lower(kernels::elementwise::Binary::$name, cx)
            }

            fn quant(&self) -> ir::QuantRole {
                ir::QuantRole::$role
            }

            fn layouts(&self) -> ir::Layouts {
                ir::Layouts::Any
            }

            fn params(&self) -> &'static [usize] {
                $params
            }
        }
    };
}
pub(crate) use operator;

/// As [`infer_bool`], for booleans only.
pub(crate) fn infer_logic(cx: &Infer) -> Result<Vec<Type>, String> {
    match cx.ty(0)?.dtype {
        Some(d) if d != DType::Bool => Err(format!("the operands should be booleans, but are {d}")),
        _ => infer_bool(cx),
    }
}

/// `y = op(a, b)` on booleans, bytes 0 and 1.
pub(crate) fn lower_logic(op: Logic, cx: &Lower) -> Result<Step, String> {
    let plan = plan([cx.input(0)?, cx.input(1)?], &cx.outs[0])?;
    Ok(Step::new(move |io: &mut Io| {
        let mut parts = io.split();
        op.forward(&plan, parts.input(0), parts.input(1), parts.output(0));
        Ok(())
    }))
}

/// Defines an operator whose result is truth, by how it is inferred and bound: its struct, its reader and its [`Op`].
macro_rules! truth {
    ($infer:ident, $lower:ident, $kernel:ident: $(#[$doc:meta])* pub struct $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name;

        /// Reads the operator: it has no attributes.
        pub fn parse(_: &ir::Parse) -> Result<ir::Parsed, String> {
            Ok($name.into())
        }

        impl ir::Op for $name {
            fn name(&self) -> &str {
                stringify!($name)
            }

            fn infer(&self, cx: &ir::Infer) -> Result<Vec<ir::Type>, String> {
                crate::binary::$infer(cx)
            }

            fn lower(&self, cx: &ir::Lower) -> Result<ir::Step, String> {
                crate::binary::$lower(kernels::elementwise::$kernel::$name, cx)
            }

            fn layouts(&self) -> ir::Layouts {
                ir::Layouts::Any
            }
        }
    };
}
pub(crate) use truth;

/// Defines a comparison, as [`truth`].
macro_rules! comparison {
    ($($definition:tt)*) => {
        crate::binary::truth! { infer_bool, lower_compare, Compare: $($definition)* }
    };
}
pub(crate) use comparison;

/// Defines a function of two booleans, as [`truth`].
macro_rules! logic {
    ($($definition:tt)*) => {
        crate::binary::truth! { infer_logic, lower_logic, Logic: $($definition)* }
    };
}
pub(crate) use logic;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{Draw, check_gradient, eval};
    use crate::*;
    use ir::{Arg, Dim};
    use tensor::Tensor;

    /// Pairs of shapes that broadcast in every way, and the operands' ranges.
    fn check(op: impl Op + Copy, a: (f32, f32), b: (f32, f32), apart: bool) {
        let mut draw = Draw::new(2);
        for case in 0..24 {
            let rank = [4, 0, 1, 2, 3, 5][case % 6];
            let full = draw.shape(rank, 3);
            let (mut x, mut y) = (full.clone(), draw.broadcast_operand(&full));
            if case % 4 == 1 {
                y = full.iter().enumerate().map(|(i, &d)| if i < 2 { d } else { 1 }).collect();
            }
            if case % 3 == 0 {
                std::mem::swap(&mut x, &mut y);
            }
            let x = draw.tensor(&x, a.0, a.1);
            // Maxima have a kink where the operands are equal: elements of `y` are between those of `x`.
            let y = if apart {
                draw.tensor_off(&y, b.0, b.1, &x.to_f32(), 0.021)
            } else {
                draw.tensor(&y, b.0, b.1)
            };
            check_gradient(op, &[&x, &y], 1, &[0, 1]);
            check_gradient(op, &[&x, &y], 1, &[1]);
        }
    }

    #[test]
    fn gradients() {
        check(Add, (-2.0, 2.0), (-2.0, 2.0), false);
        check(Sub, (-2.0, 2.0), (-2.0, 2.0), false);
        check(Mul, (-2.0, 2.0), (-2.0, 2.0), false);
        check(Div, (-2.0, 2.0), (0.6, 2.0), false);
        check(Max, (-9.0, 9.0), (-9.0, 9.0), true);
        check(Min, (-9.0, 9.0), (-9.0, 9.0), true);
        check(Pow, (0.5, 2.0), (-1.0, 2.0), false);
    }

    #[test]
    fn values_broadcast() {
        let a = Tensor::new(&[2, 1], vec![8.0f32, 2.0]);
        let b = Tensor::new(&[3], vec![1.0f32, 2.0, 4.0]);
        let value = |op: &dyn Op| eval(op, &[&a, &b]).unwrap().to_f32();
        assert_eq!(value(&Add), [9.0, 10.0, 12.0, 3.0, 4.0, 6.0]);
        assert_eq!(value(&Sub), [7.0, 6.0, 4.0, 1.0, 0.0, -2.0]);
        assert_eq!(value(&Mul), [8.0, 16.0, 32.0, 2.0, 4.0, 8.0]);
        assert_eq!(value(&Div), [8.0, 4.0, 2.0, 2.0, 1.0, 0.5]);
        assert_eq!(value(&Max), [8.0, 8.0, 8.0, 2.0, 2.0, 4.0]);
        assert_eq!(value(&Min), [1.0, 2.0, 4.0, 1.0, 2.0, 2.0]);
        assert_eq!(value(&Pow), [8.0, 64.0, 4096.0, 2.0, 4.0, 16.0]);
        assert_eq!(value(&Sum), value(&Add));
        assert_eq!(value(&Mean), [4.5, 5.0, 6.0, 1.5, 2.0, 3.0]);
    }

    #[test]
    fn integers_for_shapes() {
        let (a, b) = (Tensor::new(&[3], vec![7i64, -7, 4]), Tensor::scalar(2i64));
        let value = |op: &dyn Op| eval(op, &[&a, &b]).unwrap().to_i64();
        assert_eq!(value(&Add), [9, -5, 6]);
        assert_eq!(value(&Sub), [5, -9, 2]);
        assert_eq!(value(&Mul), [14, -14, 8]);
        assert_eq!(value(&Div), [3, -3, 2]);
        assert_eq!(value(&Max), [7, 2, 4]);
        let zero = Tensor::scalar(0i64);
        assert!(eval(&Div, &[&a, &zero]).unwrap_err().contains("divided by zero"));
        assert!(eval(&Add, &[&a, &Tensor::scalar(2f32)]).unwrap_err().contains("one element type"));
    }

    #[test]
    fn comparisons() {
        let (a, b) = (Tensor::new(&[3], vec![1.0f32, 2.0, 3.0]), Tensor::scalar(2f32));
        let value = |op: &dyn Op| {
            let y = eval(op, &[&a, &b]).unwrap();
            assert_eq!(y.dtype(), DType::Bool);
            y.to_i64()
        };
        assert_eq!(value(&Equal), [0, 1, 0]);
        assert_eq!(value(&Less), [1, 0, 0]);
        assert_eq!(value(&LessOrEqual), [1, 1, 0]);
        assert_eq!(value(&Greater), [0, 0, 1]);
        assert_eq!(value(&GreaterOrEqual), [0, 1, 1]);
        let (a, b) = (Tensor::bools(&[2], &[true, false]), Tensor::bools(&[2], &[true, true]));
        assert_eq!(eval(&Equal, &[&a, &b]).unwrap().to_i64(), [1, 0]);
    }

    #[test]
    fn folds_of_several_operands() {
        let mut draw = Draw::new(4);
        for n in 1..=4 {
            let shapes: [&[usize]; 4] = [&[3, 1], &[2, 3, 4], &[4], &[2, 1, 1]];
            let owned: Vec<Tensor> = (0..n).map(|i| draw.tensor(shapes[i], -9.0, 9.0)).collect();
            let ins: Vec<&Tensor> = owned.iter().collect();
            let wrt: Vec<usize> = (0..n).collect();
            check_gradient(Sum, &ins, 1, &wrt);
            check_gradient(Mean, &ins, 1, &wrt);
            check_gradient(Max, &ins, 1, &wrt);
            check_gradient(Min, &ins, 1, &wrt);
        }
    }

    #[test]
    fn symbolic_shapes() {
        let infer = |a: &[Dim], b: &[Dim]| {
            let (a, b) = (Type::new(DType::F32, a.to_vec()), Type::new(DType::F32, b.to_vec()));
            let args = [Some(Arg { ty: &a, value: None }), Some(Arg { ty: &b, value: None })];
            Add.infer(&Infer::new(&args, 1)).map(|t| t[0].to_string())
        };
        let n = || Dim::sym("N");
        assert_eq!(infer(&[n(), 8.into()], &[8.into()]).unwrap(), "float[N,8]");
        assert_eq!(infer(&[n(), 8.into()], &[n(), 1.into()]).unwrap(), "float[N,8]");
        assert_eq!(infer(&[n()], &[5.into()]).unwrap(), "float[5]");
        assert!(infer(&[n(), 8.into()], &[7.into()]).unwrap_err().contains("8 against 7"));
    }

    #[test]
    fn the_gradient_is_read_back() {
        let op = BinaryGrad { of: Binary::Pow, wrt: kernels::elementwise::Operand::Right };
        let parsed = parse_grad(&Parse { attrs: &op.attrs(), opset: 1, ins: 3, outs: 1 }).unwrap();
        assert_eq!(parsed.op.is::<BinaryGrad>(), Some(&op));
    }
}
