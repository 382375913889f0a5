//! `Range` (ONNX 11): an arithmetic sequence.

use crate::shapes::single;
use ir::{Dim, Infer, Io, Lower, Op, Parse, Parsed, Step, Type};
use tensor::{DType, Tensor};

/// `Range(start, limit, delta)`: scalars of one type, f32, i64 or i32; `start + i delta` as long as it is before `limit`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range;

/// Reads the operator: it has no attributes.
pub fn parse(_: &Parse) -> Result<Parsed, String> {
    Ok(Range.into())
}

/// `max(0, ceil((limit - start) / delta))`.
fn count(start: &Tensor, limit: &Tensor, delta: &Tensor) -> Result<usize, String> {
    let one = |t: &Tensor| match t.to_f64()[..] {
        [x] => Ok(x),
        _ => Err(format!("a bound of a range should be one number, but has shape {:?}", t.shape())),
    };
    let (a, b, step) = (one(start)?, one(limit)?, one(delta)?);
    let exact = if start.dtype().is_float() {
        ((b - a) / step).ceil()
    } else {
        // Exact where doubles are not.
        let (a, b, step) = (start.to_i64()[0] as i128, limit.to_i64()[0] as i128, delta.to_i64()[0] as i128);
        let span = if step < 0 { a - b } else { b - a };
        if step == 0 { f64::NAN } else { (span.max(0) as u128).div_ceil(step.unsigned_abs()) as f64 }
    };
    if exact.is_nan() || exact > (1u64 << 40) as f64 {
        return Err(format!("a range from {a} to {b} in steps of {step} has no end"));
    }
    Ok(exact.max(0.0) as usize)
}

impl Op for Range {
    fn name(&self) -> &str {
        "Range"
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let dtype = cx.ty(0)?.dtype;
        ["start", "limit", "delta"].iter().enumerate().try_for_each(|(i, what)| single(cx, i, what))?;
        let (limit, delta) = (cx.ty(1)?, cx.ty(2)?);
        if [limit, delta].iter().any(|t| t.dtype.zip(dtype).is_some_and(|(a, b)| a != b)) {
            return Err(format!("a range from {} to {limit} in steps of {delta} mixes types", cx.ty(0)?));
        }
        let dim = match (cx.value(0), cx.value(1), cx.value(2)) {
            (Some(a), Some(b), Some(step)) => Dim::Fixed(count(a, b, step)?),
            _ => Dim::Unknown,
        };
        Ok(vec![Type { dtype, shape: Some(vec![dim]) }])
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        match cx.outs[0].dtype {
            DType::F32 => Ok(Step::new(|io: &mut Io| {
                let (start, step) = (io.input::<f32>(0)[0], io.input::<f32>(2)[0]);
                io.output::<f32>(0).iter_mut().enumerate().for_each(|(i, y)| *y = start + i as f32 * step);
                Ok(())
            })),
            DType::I64 => Ok(Step::new(|io: &mut Io| {
                let (start, step) = (io.input::<i64>(0)[0], io.input::<i64>(2)[0]);
                let at = |i: usize| start.wrapping_add((i as i64).wrapping_mul(step));
                io.output::<i64>(0).iter_mut().enumerate().for_each(|(i, y)| *y = at(i));
                Ok(())
            })),
            DType::I32 => Ok(Step::new(|io: &mut Io| {
                let (start, step) = (io.input::<i32>(0)[0], io.input::<i32>(2)[0]);
                let at = |i: usize| start.wrapping_add((i as i32).wrapping_mul(step));
                io.output::<i32>(0).iter_mut().enumerate().for_each(|(i, y)| *y = at(i));
                Ok(())
            })),
            other => Err(format!("the executor makes no range of {other}")),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::eval;

    #[test]
    fn values() {
        let range = |a: i64, b: i64, step: i64| {
            eval(&Range, &[&Tensor::scalar(a), &Tensor::scalar(b), &Tensor::scalar(step)])
        };
        assert_eq!(range(1, 8, 3).unwrap().to_i64(), [1, 4, 7]);
        assert_eq!(range(3, 0, -2).unwrap().to_i64(), [3, 1]);
        assert!(range(3, 0, 1).unwrap().is_empty());
        assert!(range(0, 1, 0).unwrap_err().contains("no end"));
        assert!(range(i64::MIN, i64::MAX, 1).unwrap_err().contains("no end"));
        let floats = [0f32, 1.0, 0.4].map(Tensor::scalar);
        assert_eq!(eval(&Range, &[&floats[0], &floats[1], &floats[2]]).unwrap().to_f32(), [0.0, 0.4, 0.8]);
        assert!(
            eval(&Range, &[&floats[0], &Tensor::scalar(1i64), &floats[2]]).unwrap_err().contains("mixes")
        );
    }
}
