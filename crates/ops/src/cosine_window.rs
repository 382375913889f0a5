//! What `HannWindow`, `HammingWindow` and `BlackmanWindow` (ONNX 17) share: sums of cosines (Harris 1978,
//! doi 10.1109/PROC.1978.10837).

use crate::shapes::integers;
use ir::{Attrs, Dim, Infer, Io, Lower, Step, Type};
use tensor::{DType, Element};

/// The attributes, and the coefficients of the cosines of 0, 1 and 2 turns over the window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct CosineWindow {
    pub coefficients: [f64; 3],
    pub periodic: bool,
    pub dtype: DType,
}

/// Whether the window is periodic, and its element type.
pub(crate) fn parse(attrs: &Attrs) -> Result<(bool, DType), String> {
    let code = attrs.int("output_datatype", 1)?;
    let dtype = i32::try_from(code).ok().and_then(DType::from_onnx);
    let dtype =
        dtype.ok_or_else(|| format!("attribute output_datatype names no type that is known here: {code}"))?;
    Ok((attrs.int("periodic", 1)? != 0, dtype))
}

/// What [`parse`] reads.
pub(crate) fn attrs(periodic: bool, dtype: DType) -> Attrs {
    Attrs::new().with_int("periodic", periodic.into(), 1).with_int("output_datatype", dtype.onnx().into(), 1)
}

impl CosineWindow {
    /// Operand 0 is the size.
    pub(crate) fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        if cx.ty(0)?.dims().is_some_and(|d| d.iter().product::<usize>() != 1) {
            return Err(format!("the size of a window should be one number, but is {}", cx.ty(0)?));
        }
        let size = match integers(cx, 0)?.as_deref() {
            Some(&[n]) => Dim::Fixed(
                usize::try_from(n)
                    .ok()
                    .filter(|n| *n < 1 << 40)
                    .ok_or_else(|| format!("{n} is no size of a window"))?,
            ),
            _ => Dim::Unknown,
        };
        Ok(vec![Type { dtype: Some(self.dtype), shape: Some(vec![size]) }])
    }

    pub(crate) fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let CosineWindow { coefficients: [a, b, c], periodic, .. } = *self;
        let turn = 2.0 * std::f64::consts::PI;
        let at = move |i: usize, n: usize| {
            let x = turn * i as f64 / if periodic { n } else { (n - 1).max(1) } as f64;
            a - b * x.cos() + c * (2.0 * x).cos()
        };
        fn step<T: Element>(f: impl Fn(usize, usize) -> T + Send + Sync + 'static) -> Result<Step, String> {
            Ok(Step::new(move |io: &mut Io| {
                let y = io.output::<T>(0);
                let n = y.len();
                y.iter_mut().enumerate().for_each(|(i, y)| *y = f(i, n));
                Ok(())
            }))
        }
        match cx.outs[0].dtype {
            DType::F32 => step(move |i, n| at(i, n) as f32),
            DType::F64 => step(at),
            DType::F16 => step(move |i, n| half::f16::from_f64(at(i, n))),
            DType::BF16 => step(move |i, n| half::bf16::from_f64(at(i, n))),
            DType::I64 => step(move |i, n| at(i, n) as i64),
            other => Err(format!("the executor makes no window of {other}")),
        }
    }
}

/// Defines a window: its struct, its reader and its [`Op`](ir::Op).
macro_rules! window {
    ($(#[$doc:meta])* pub struct $name:ident = $coefficients:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name {
            /// The window repeats after `size` elements, instead of ending where it began.
            pub periodic: bool,
            /// Element type of the result.
            pub dtype: tensor::DType,
        }

        /// Reads the operator.
        pub fn parse(cx: &ir::Parse) -> Result<ir::Parsed, String> {
            let (periodic, dtype) = crate::cosine_window::parse(cx.attrs)?;
            Ok($name { periodic, dtype }.into())
        }

        impl $name {
            fn window(&self) -> crate::cosine_window::CosineWindow {
                crate::cosine_window::CosineWindow {
                    coefficients: $coefficients,
                    periodic: self.periodic,
                    dtype: self.dtype,
                }
            }
        }

        impl ir::Op for $name {
            fn name(&self) -> &str {
                stringify!($name)
            }

            fn attrs(&self) -> ir::Attrs {
                crate::cosine_window::attrs(self.periodic, self.dtype)
            }

            fn to_onnx(&self, opset: i64) -> Result<ir::OnnxForm, String> {
                crate::unary::since(self, opset, 17)
            }

            fn infer(&self, cx: &ir::Infer) -> Result<Vec<ir::Type>, String> {
                self.window().infer(cx)
            }

            fn lower(&self, cx: &ir::Lower) -> Result<ir::Step, String> {
                self.window().lower(cx)
            }
        }
    };
}
pub(crate) use window;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use crate::testing::eval;
    use crate::{BlackmanWindow, HammingWindow, HannWindow};
    use ir::Op;
    use tensor::{DType, Tensor};

    #[test]
    fn values() {
        let near = |op: &dyn Op, n: i64, want: &[f64]| {
            let y = eval(op, &[&Tensor::scalar(n)]).unwrap().to_f64();
            assert!(y.len() == want.len() && y.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6), "{y:?}");
        };
        let dtype = DType::F32;
        near(&HannWindow { periodic: true, dtype }, 4, &[0.0, 0.5, 1.0, 0.5]);
        near(&HannWindow { periodic: false, dtype }, 3, &[0.0, 1.0, 0.0]);
        near(&HammingWindow { periodic: true, dtype: DType::F64 }, 2, &[4.0 / 46.0, 1.0]);
        near(&BlackmanWindow { periodic: true, dtype: DType::F16 }, 1, &[0.0]);
        let e = eval(&HannWindow { periodic: true, dtype }, &[&Tensor::scalar(-1i64)]).unwrap_err();
        assert_eq!(e, "-1 is no size of a window");
    }
}
