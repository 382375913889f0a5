//! Binds an operator to a kernel, in a wider element type where it has none for the one at hand: half and double
//! precision are computed in f32, integers in i64.

use crate::{Io, Lower, Op, Operand, Step};
use half::{bf16, f16};
use smallvec::SmallVec;
use tensor::{DType, Element, Tensor};

/// Scratch tensors begin on a cache line.
const LINE: usize = 64;

/// Binds `op` to its kernel. Where it has none for these element types but one for wider ones, operands are converted
/// before and results behind it: f16, bf16 and f64 to f32, integers to i64 and back by wrapping around.
///
/// # Errors
/// What the operator says when it can run neither way.
pub fn lower(op: &dyn Op, cx: &Lower) -> Result<Step, String> {
    let refused = match op.lower(cx) {
        Ok(step) => return Ok(step),
        Err(refused) => refused,
    };
    let ways: [fn(DType) -> DType; 3] = [float, integer, |d| integer(float(d))];
    let attempt = ways.iter().find_map(|way| {
        let wide = widened(cx, way)?;
        let step = op.lower(&wide).ok().filter(|step| !step.view)?;
        Some(converted(cx, &wide, step))
    });
    attempt.ok_or(refused)
}

fn float(d: DType) -> DType {
    if d.is_float() { DType::F32 } else { d }
}

fn integer(d: DType) -> DType {
    match d {
        DType::I8 | DType::U8 | DType::I16 | DType::U16 | DType::I32 | DType::U32 | DType::U64 => DType::I64,
        other => other,
    }
}

/// The same question for other element types; `None` where nothing changes.
fn widened(cx: &Lower, way: &fn(DType) -> DType) -> Option<Lower> {
    let wide = |o: &Operand| {
        let dtype = way(o.dtype);
        let value =
            o.value.as_ref().map(|v| if dtype == o.dtype { Some(v.clone()) } else { tensor(v, dtype) });
        Operand { dtype, value: value.flatten(), ..o.clone() }
    };
    let changes = cx.ins.iter().flatten().chain(&cx.outs).any(|o| way(o.dtype) != o.dtype);
    changes.then(|| Lower {
        ins: cx.ins.iter().map(|o| o.as_ref().map(wide)).collect(),
        outs: cx.outs.iter().map(wide).collect(),
    })
}

/// A constant in a wider type; `None` where it does not fit.
fn tensor(value: &Tensor, to: DType) -> Option<Tensor> {
    let exact = value.dtype() != DType::U64 || value.to_f64().iter().all(|&x| x < (1u64 << 53) as f64);
    exact.then(|| match to {
        DType::F32 => Tensor::new(value.shape(), value.to_f32()),
        _ => Tensor::new(value.shape(), value.to_i64()),
    })
}

/// One operand or result: bytes in scratch memory where it is converted.
type Scratch = Option<(DType, usize)>;

/// `step` with conversions around it.
fn converted(cx: &Lower, wide: &Lower, step: Step) -> Step {
    let scratch = |narrow: &Operand, wide: &Operand| -> Scratch {
        (narrow.dtype != wide.dtype).then(|| (narrow.dtype, wide.dtype.bytes(wide.len())))
    };
    let ins: Vec<Scratch> = cx
        .ins
        .iter()
        .zip(&wide.ins)
        .map(|(n, w)| n.as_ref().zip(w.as_ref()).and_then(|(n, w)| scratch(n, w)))
        .collect();
    let outs: Vec<Scratch> = cx.outs.iter().zip(&wide.outs).map(|(n, w)| scratch(n, w)).collect();
    let inner = step.workspace.next_multiple_of(LINE);
    let extra: usize = ins.iter().chain(&outs).flatten().map(|s| s.1.next_multiple_of(LINE)).sum();
    let run = move |io: &mut Io| {
        let mut parts = io.split();
        let (workspace, mut rest) = parts.workspace::<u8>().split_at_mut(inner);
        let mut take = |bytes: usize| {
            let (head, tail) = std::mem::take(&mut rest).split_at_mut(bytes.next_multiple_of(LINE));
            rest = tail;
            &mut head[..bytes]
        };
        let mut operands: SmallVec<[Option<&[u8]>; 8]> = SmallVec::new();
        for (i, scratch) in ins.iter().enumerate() {
            operands.push(match scratch {
                None => parts.optional(i),
                Some((dtype, bytes)) => {
                    let wide = take(*bytes);
                    widen(*dtype, parts.input(i), wide)?;
                    Some(wide)
                }
            });
        }
        let mut results: SmallVec<[&mut [u8]; 4]> = SmallVec::new();
        let mut narrow: SmallVec<[&mut [u8]; 4]> = SmallVec::new();
        for (i, scratch) in outs.iter().enumerate() {
            match scratch {
                None => {
                    results.push(parts.output(i));
                    narrow.push(&mut []);
                }
                Some((_, bytes)) => {
                    results.push(take(*bytes));
                    narrow.push(parts.output(i));
                }
            }
        }
        let given = operands.iter().copied().collect();
        let shared = operands.iter().map(|_| None).collect();
        let borrowed = results.iter_mut().map(|r| &mut **r).collect();
        (step.run)(&mut Io::new(given, borrowed, &mut workspace[..step.workspace], shared))?;
        for ((scratch, wide), narrow) in outs.iter().zip(&results).zip(narrow) {
            if let Some((dtype, _)) = scratch {
                self::narrow(*dtype, wide, narrow);
            }
        }
        Ok(())
    };
    Step::new(run).workspace::<u8>(inner + extra)
}

fn each<A: Element, B: Element>(from: &[u8], to: &mut [u8], f: impl Fn(A) -> B) {
    let (from, to): (&[A], &mut [B]) = (bytemuck::cast_slice(from), bytemuck::cast_slice_mut(to));
    to.iter_mut().zip(from).for_each(|(to, from)| *to = f(*from));
}

/// Elements of type `from` as f32 or i64.
fn widen(from: DType, x: &[u8], y: &mut [u8]) -> Result<(), String> {
    match from {
        DType::F16 => each(x, y, f16::to_f32),
        DType::BF16 => each(x, y, bf16::to_f32),
        DType::F64 => each(x, y, |x: f64| x as f32),
        DType::I8 => each(x, y, |x: i8| i64::from(x)),
        DType::U8 => each(x, y, |x: u8| i64::from(x)),
        DType::I16 => each(x, y, |x: i16| i64::from(x)),
        DType::U16 => each(x, y, |x: u16| i64::from(x)),
        DType::I32 => each(x, y, |x: i32| i64::from(x)),
        DType::U32 => each(x, y, |x: u32| i64::from(x)),
        DType::U64 => {
            let large = bytemuck::cast_slice::<u8, u64>(x).iter().find(|x| i64::try_from(**x).is_err());
            if let Some(large) = large {
                return Err(format!("{large} is beyond the integers that the executor computes with here"));
            }
            each(x, y, |x: u64| x as i64);
        }
        other => return Err(format!("elements of type {other} are not widened")),
    }
    Ok(())
}

/// Elements of f32 or i64 as those of type `to`.
fn narrow(to: DType, x: &[u8], y: &mut [u8]) {
    match to {
        DType::F16 => each(x, y, f16::from_f32),
        DType::BF16 => each(x, y, bf16::from_f32),
        DType::F64 => each(x, y, |x: f32| f64::from(x)),
        DType::I8 => each(x, y, |x: i64| x as i8),
        DType::U8 => each(x, y, |x: i64| x as u8),
        DType::I16 => each(x, y, |x: i64| x as i16),
        DType::U16 => each(x, y, |x: i64| x as u16),
        DType::I32 => each(x, y, |x: i64| x as i32),
        DType::U32 => each(x, y, |x: i64| x as u32),
        _ => each(x, y, |x: i64| x as u64),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{Infer, Type, eval};

    /// `a + b` in f32 or i64.
    #[derive(Debug)]
    struct Plus;

    impl Op for Plus {
        fn name(&self) -> &str {
            "Plus"
        }

        fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
            Ok(vec![cx.ty(0)?.clone()])
        }

        fn lower(&self, cx: &Lower) -> Result<Step, String> {
            fn step<T: Element + std::ops::Add<Output = T>>() -> Result<Step, String> {
                Ok(Step::new(|io: &mut Io| {
                    let mut parts = io.split();
                    let (a, b): (&[T], &[T]) = (parts.input(0), parts.input(1));
                    parts.output(0).iter_mut().zip(a.iter().zip(b)).for_each(|(y, (a, b))| *y = *a + *b);
                    Ok(())
                }))
            }
            match cx.input(0)?.dtype {
                DType::F32 => step::<f32>(),
                DType::I64 => step::<i64>(),
                other => Err(format!("no sums of {other}")),
            }
        }
    }

    fn sum(a: Tensor, b: Tensor) -> Result<Tensor, String> {
        eval::eval(&Plus, &[Some(&a), Some(&b)], 1).map(|mut y| y.remove(0)).map_err(|e| e.to_string())
    }

    #[test]
    fn in_a_wider_type() {
        let halves = |x: &[f32]| Tensor::new(&[x.len()], x.iter().map(|&x| f16::from_f32(x)).collect());
        assert_eq!(
            sum(halves(&[1.0, 2.5, -3.0]), halves(&[0.5, 1.0, 1.0])).unwrap(),
            halves(&[1.5, 3.5, -2.0])
        );
        let doubles = |x: &[f64]| Tensor::new(&[x.len()], x.to_vec());
        assert_eq!(sum(doubles(&[1.0]), doubles(&[0.5])).unwrap(), doubles(&[1.5]));
        let bytes = |x: &[u8]| Tensor::new(&[x.len()], x.to_vec());
        assert_eq!(sum(bytes(&[250, 3]), bytes(&[10, 4])).unwrap(), bytes(&[4, 7]));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let large = Tensor::new(&[1], vec![u64::MAX]);
        assert!(sum(large.clone(), large).unwrap_err().contains("beyond the integers"));
        let truth = Tensor::bools(&[1], &[true]);
        assert_eq!(sum(truth.clone(), truth).unwrap_err(), "no sums of bool");
    }
}
