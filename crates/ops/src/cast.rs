//! `Cast` (ONNX 6, 9, 13, 19, 21): another element type.

use crate::shapes::untouched;
use half::{bf16, f16};
use ir::{Attr, Attrs, Infer, Io, Layout, Layouts, Lower, Op, Operand, Parse, Parsed, Step, Type, Vjp};
use tensor::{DType, Element};

/// `Cast(x)`: every element in the type `to`. A float becomes an integer by truncation (and saturates, where ONNX leaves it
/// open); everything but 0 becomes true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cast {
    /// The new element type.
    pub to: DType,
}

/// The last data type that ONNX has a number for.
const LAST: i64 = 26;

/// Reads the operator, where its type is one that a tensor stores here. `saturate` concerns types of 8-bit floats, which is
/// none of these.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    let number = cx.attrs.int("to", 0)?;
    match i32::try_from(number).ok().and_then(DType::from_onnx) {
        Some(to) => Ok(Cast { to }.into()),
        None if (1..=LAST).contains(&number) => Ok(untouched("Cast", cx)),
        None => Err(format!("attribute to is {number}, which is no data type")),
    }
}

/// A number on its way from one type to another, exact for all integers but the largest unsigned ones.
#[derive(Clone, Copy)]
enum Number {
    Int(i64),
    Float(f64),
}

trait Convert: Element {
    fn number(self) -> Number;
    fn from_number(n: Number) -> Self;
}

macro_rules! convert { ($($t:ty: $kind:ident($wide:ty)),*) => { $(
    impl Convert for $t {
        #[inline(always)]
        fn number(self) -> Number {
            Number::$kind(self as $wide)
        }
        #[inline(always)]
        fn from_number(n: Number) -> $t {
            match n {
                Number::Int(i) => i as $t,
                Number::Float(x) => x as $t,
            }
        }
    }
)* } }
convert!(f32: Float(f64), f64: Float(f64), i8: Int(i64), u8: Int(i64), i16: Int(i64), u16: Int(i64));
convert!(i32: Int(i64), u32: Int(i64), i64: Int(i64), u64: Int(i64));

macro_rules! convert_half { ($($t:ty),*) => { $(
    impl Convert for $t {
        #[inline(always)]
        fn number(self) -> Number {
            Number::Float(self.to_f64())
        }
        #[inline(always)]
        fn from_number(n: Number) -> $t {
            match n {
                Number::Int(i) => <$t>::from_f64(i as f64),
                Number::Float(x) => <$t>::from_f64(x),
            }
        }
    }
)* } }
convert_half!(f16, bf16);

/// A step from `T` to `U`; to truth where `truth`.
fn step<T: Convert, U: Convert>(truth: bool) -> Step {
    Step::new(move |io: &mut Io| {
        let mut parts = io.split();
        let (x, y): (&[T], &mut [U]) = (parts.input(0), parts.output(0));
        if truth {
            let holds = |n: Number| match n {
                Number::Int(i) => i != 0,
                Number::Float(x) => x != 0.0,
            };
            y.iter_mut().zip(x).for_each(|(y, x)| *y = U::from_number(Number::Int(holds(x.number()).into())));
        } else {
            y.iter_mut().zip(x).for_each(|(y, x)| *y = U::from_number(x.number()));
        }
        Ok(())
    })
}

/// Evaluates the expression with `$T` the Rust type of an element type.
macro_rules! with_type {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            DType::F32 => {
                type $T = f32;
                $body
            }
            DType::F64 => {
                type $T = f64;
                $body
            }
            DType::F16 => {
                type $T = f16;
                $body
            }
            DType::BF16 => {
                type $T = bf16;
                $body
            }
            DType::I8 => {
                type $T = i8;
                $body
            }
            DType::U8 | DType::Bool => {
                type $T = u8;
                $body
            }
            DType::I16 => {
                type $T = i16;
                $body
            }
            DType::U16 => {
                type $T = u16;
                $body
            }
            DType::I32 => {
                type $T = i32;
                $body
            }
            DType::U32 => {
                type $T = u32;
                $body
            }
            DType::I64 => {
                type $T = i64;
                $body
            }
            DType::U64 => {
                type $T = u64;
                $body
            }
            packed @ (DType::I4 | DType::U4) => {
                Err(format!("the executor does not cast packed elements of type {packed}"))
            }
        }
    };
}

fn from<T: Convert>(to: DType) -> Result<Step, String> {
    with_type!(to, U => Ok(step::<T, U>(to == DType::Bool)))
}

/// Whether elements lie two to a byte.
fn is_packed(d: DType) -> bool {
    matches!(d, DType::I4 | DType::U4)
}

/// Integers of 4 bits, two to a byte, as elements of `U`.
fn unpack<U: Convert>(from: DType, truth: bool) -> Step {
    Step::new(move |io: &mut Io| {
        let mut parts = io.split();
        let x: &[u8] = parts.input(0);
        for (i, y) in parts.output::<U>(0).iter_mut().enumerate() {
            let bits = x[i / 2] >> (4 * (i % 2)) & 0xf;
            let number = if from == DType::I4 { i64::from((bits << 4) as i8 >> 4) } else { bits.into() };
            *y = U::from_number(Number::Int(if truth { (number != 0).into() } else { number }));
        }
        Ok(())
    })
}

/// Elements of `T` as integers of 4 bits, two to a byte: the lowest bits of what is left of the point.
fn pack<T: Convert>() -> Step {
    Step::new(|io: &mut Io| {
        let mut parts = io.split();
        let x: &[T] = parts.input(0);
        let bits = |x: &T| match x.number() {
            Number::Int(i) => i as u8 & 0xf,
            Number::Float(x) => x as i64 as u8 & 0xf,
        };
        for (y, pair) in parts.output::<u8>(0).iter_mut().zip(x.chunks(2)) {
            *y = bits(&pair[0]) | pair.get(1).map_or(0, bits) << 4;
        }
        Ok(())
    })
}

/// Binds a conversion of `x` to type `to`.
pub(crate) fn lower(x: &Operand, to: DType) -> Result<Step, String> {
    let from = x.dtype;
    if is_packed(from) && x.layout != Layout::Plain {
        return Err(format!("the executor keeps packed elements of type {from} row-major"));
    }
    match (is_packed(from), is_packed(to)) {
        _ if from == to => Ok(Step::view()),
        (true, false) => with_type!(to, U => Ok(unpack::<U>(from, to == DType::Bool))),
        (false, true) => with_type!(from, T => Ok(pack::<T>())),
        _ => with_type!(from, T => self::from::<T>(to)),
    }
}

/// The gradient of operand 0, in its element type.
pub(crate) fn vjp(cx: &mut Vjp) -> Option<()> {
    let (dy, back) = (cx.d_output(0)?, cx.ty(cx.input(0)?).dtype?);
    let d = if cx.ty(dy).dtype == Some(back) { dy } else { cx.add(Cast { to: back }, &[dy])? };
    cx.set(0, d);
    Some(())
}

impl Op for Cast {
    fn name(&self) -> &str {
        "Cast"
    }

    fn attrs(&self) -> Attrs {
        Attrs::new().with("to", Attr::Int(self.to.onnx().into()))
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        Ok(vec![Type { dtype: Some(self.to), shape: cx.ty(0)?.shape.clone() }])
    }

    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        vjp(cx)
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        lower(cx.input(0)?, self.to)
    }

    fn layouts(&self) -> Layouts {
        if is_packed(self.to) { Layouts::Plain } else { Layouts::Any }
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
        let x = Tensor::new(&[4], vec![-1.7f32, 0.0, 0.5, 300.0]);
        let cast = |x: &Tensor, to| eval(&Cast { to }, &[x]).unwrap();
        assert_eq!(cast(&x, DType::I64).to_i64(), [-1, 0, 0, 300]);
        assert_eq!(cast(&x, DType::U8).to_i64(), [0, 0, 0, 255]);
        assert_eq!(cast(&x, DType::Bool), Tensor::bools(&[4], &[true, false, true, true]));
        assert_eq!(cast(&cast(&x, DType::F16), DType::F32).to_f32()[2..], [0.5, 300.0]);
        assert_eq!(cast(&Tensor::bools(&[2], &[true, false]), DType::F32).to_f32(), [1.0, 0.0]);
        let large = Tensor::scalar((1i64 << 53) + 1);
        assert_eq!(cast(&large, DType::I64), large);
        assert_eq!(cast(&Tensor::scalar(-1i32), DType::I64), Tensor::scalar(-1i64));
        assert_eq!(cast(&Tensor::scalar(0.1f64), DType::F32), Tensor::scalar(0.1f32));
        let small = Tensor::new(&[3], vec![-8.0f32, 3.7, -1.2]);
        assert_eq!(cast(&small, DType::I4).to_i64(), [-8, 3, -1]);
        assert_eq!(cast(&cast(&small, DType::I4), DType::I16).to_i64(), [-8, 3, -1]);
        assert_eq!(cast(&cast(&small, DType::U4), DType::F32).to_f32(), [8.0, 3.0, 15.0]);
        assert!(eval(&Cast { to: DType::U4 }, &[&cast(&small, DType::I4)]).unwrap_err().contains("packed"));
        let attrs = Attrs::new().with("to", Attr::Int(99));
        assert!(parse(&Parse { attrs: &attrs, opset: 13, ins: 1, outs: 1 }).unwrap_err().contains("99"));
    }

    #[test]
    fn types_that_are_not_stored_are_carried_through() {
        for number in [8, 17] {
            let attrs = Attrs::new().with("to", Attr::Int(number));
            let parsed = parse(&Parse { attrs: &attrs, opset: 19, ins: 1, outs: 1 }).unwrap();
            assert_eq!(parsed.op.is::<ir::Opaque>().unwrap().attrs, attrs);
        }
    }

    #[test]
    fn gradient() {
        check_gradient(Cast { to: DType::F32 }, &[&Draw::new(1).tensor(&[2, 3, 2], -1.0, 1.0)], 1, &[0]);
    }
}
