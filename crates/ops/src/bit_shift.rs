//! `BitShift` (ONNX 11, 28): bits moved to the left or to the right.

use crate::binary::{infer_integer, lower_map};
use ir::{Attr, Attrs, Infer, Layouts, Lower, Op, Parse, Parsed, Step, Type};
use tensor::DType;

/// `BitShift(a, b)`: `a` moved by `b` bits; integers of one type that broadcast. What is moved out is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BitShift {
    /// To the left, that is to higher bits.
    pub left: bool,
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    match cx.attrs.str("direction", "")? {
        "LEFT" => Ok(BitShift { left: true }.into()),
        "RIGHT" => Ok(BitShift { left: false }.into()),
        other => Err(format!("attribute direction should be LEFT or RIGHT, but is \"{other}\"")),
    }
}

impl Op for BitShift {
    fn name(&self) -> &str {
        "BitShift"
    }

    fn attrs(&self) -> Attrs {
        Attrs::new().with("direction", Attr::Str(if self.left { "LEFT" } else { "RIGHT" }.into()))
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        infer_integer(cx)
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let left = self.left;
        macro_rules! shift {
            ($t:ty) => {
                lower_map::<$t>(cx, move |a, b| {
                    // Beyond the width only the sign is left, and so for a negative number of bits.
                    let by = u32::try_from(i128::from(b)).unwrap_or(u32::MAX);
                    Ok(match left {
                        true => a.checked_shl(by).unwrap_or(0),
                        false => {
                            a.checked_shr(by).unwrap_or(if i128::from(a) < 0 { !<$t>::default() } else { 0 })
                        }
                    })
                })
            };
        }
        match cx.outs[0].dtype {
            DType::U8 => shift!(u8),
            DType::U16 => shift!(u16),
            DType::U32 => shift!(u32),
            DType::U64 => shift!(u64),
            DType::I8 => shift!(i8),
            DType::I16 => shift!(i16),
            DType::I32 => shift!(i32),
            DType::I64 => shift!(i64),
            other => Err(format!("the executor shifts no elements of type {other}")),
        }
    }

    fn layouts(&self) -> Layouts {
        Layouts::Any
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::eval;
    use tensor::Tensor;

    #[test]
    fn shifts() {
        let (a, b) = (Tensor::new(&[3], vec![16u8, 255, 1]), Tensor::new(&[3], vec![1u8, 7, 9]));
        assert_eq!(eval(&BitShift { left: true }, &[&a, &b]).unwrap().to_i64(), [32, 128, 0]);
        assert_eq!(eval(&BitShift { left: false }, &[&a, &b]).unwrap().to_i64(), [8, 1, 0]);
        let signed = eval(&BitShift { left: false }, &[&Tensor::scalar(-8i32), &Tensor::scalar(40i32)]);
        assert_eq!(signed.unwrap().to_i64(), [-1]);
        for (left, want) in [(true, 0), (false, -1)] {
            let y = eval(&BitShift { left }, &[&Tensor::scalar(-8i32), &Tensor::scalar(-1i32)]);
            assert_eq!(y.unwrap().to_i64(), [want]);
        }
    }
}
