//! What the element-wise operators of one operand share: the step, and `qat.UnaryGrad`, the gradient of all of them.

use ir::{Attrs, Infer, Io, Layouts, Lower, OnnxForm, Op, Pair, Parse, Parsed, Step, Type, Vjp};
use kernels::elementwise::{Saved, Unary};
use std::sync::Arc;
use tensor::DType;

/// Defines an operator without attributes: its struct, its reader and its [`Op`].
macro_rules! operator {
    ($(#[$doc:meta])* pub struct $name:ident: $role:ident $(, since $since:literal)?) => {
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

            $(fn to_onnx(&self, opset: i64) -> Result<ir::OnnxForm, String> {
                crate::unary::since(self, opset, $since)
            })?

            fn infer(&self, cx: &ir::Infer) -> Result<Vec<ir::Type>, String> {
                crate::unary::infer(kernels::elementwise::Unary::$name, cx)
            }

            fn vjp(&self, cx: &mut ir::Vjp) -> Option<()> {
                crate::unary::vjp(kernels::elementwise::Unary::$name, cx)
            }

            fn lower(&self, cx: &ir::Lower) -> Result<ir::Step, String> {
                crate::unary::lower(kernels::elementwise::Unary::$name, cx)
            }

            fn quant(&self) -> ir::QuantRole {
                ir::QuantRole::$role
            }

            fn layouts(&self) -> ir::Layouts {
                ir::Layouts::Any
            }
        }
    };
}
pub(crate) use operator;

/// As [`operator!`], for functions with parameters: each a float attribute with a default.
macro_rules! parametric {
    (
        $(#[$doc:meta])*
        pub struct $name:ident: $role:ident { $($(#[$what:meta])* $field:ident = $default:literal),* }
        $(since $since:literal)?
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub struct $name {
            $($(#[$what])* pub $field: f32),*
        }

        impl Default for $name {
            fn default() -> $name {
                $name { $($field: $default),* }
            }
        }

        /// Reads the operator.
        pub fn parse(cx: &ir::Parse) -> Result<ir::Parsed, String> {
            Ok($name { $($field: cx.attrs.float(stringify!($field), $default)?),* }.into())
        }

        impl $name {
            fn function(&self) -> kernels::elementwise::Unary {
                kernels::elementwise::Unary::$name { $($field: self.$field),* }
            }
        }

        impl ir::Op for $name {
            fn name(&self) -> &str {
                stringify!($name)
            }

            fn attrs(&self) -> ir::Attrs {
                ir::Attrs::new()$(.with_float(stringify!($field), self.$field, $default))*
            }

            $(fn to_onnx(&self, opset: i64) -> Result<ir::OnnxForm, String> {
                crate::unary::since(self, opset, $since)
            })?

            fn infer(&self, cx: &ir::Infer) -> Result<Vec<ir::Type>, String> {
                crate::unary::infer(self.function(), cx)
            }

            fn vjp(&self, cx: &mut ir::Vjp) -> Option<()> {
                crate::unary::vjp(self.function(), cx)
            }

            fn lower(&self, cx: &ir::Lower) -> Result<ir::Step, String> {
                crate::unary::lower(self.function(), cx)
            }

            fn quant(&self) -> ir::QuantRole {
                ir::QuantRole::$role
            }

            fn layouts(&self) -> ir::Layouts {
                ir::Layouts::Any
            }
        }
    };
}
pub(crate) use parametric;

/// The form of an operator that opsets before `since` lack.
pub(crate) fn since(op: &dyn Op, opset: i64, since: i64) -> Result<OnnxForm, String> {
    if opset < since {
        return Err(format!("{} exists from opset {since} on", op.name()));
    }
    Ok(OnnxForm { op_type: op.name().into(), attrs: op.attrs(), ..OnnxForm::default() })
}

/// The functions that ONNX defines on integers too.
fn on_integer(op: Unary, x: i64) -> Option<i64> {
    match op {
        Unary::Abs => Some(x.wrapping_abs()),
        Unary::Neg => Some(x.wrapping_neg()),
        Unary::Relu => Some(x.max(0)),
        Unary::Sign => Some(x.signum()),
        Unary::Shrink { .. } => {
            let mut y = [0.0];
            op.forward(&[x as f32], &mut y);
            Some(y[0] as i64)
        }
        _ => None,
    }
}

/// The type of the operand, a float unless the function is one for integers too.
pub(crate) fn infer(op: Unary, cx: &Infer) -> Result<Vec<Type>, String> {
    let x = if on_integer(op, 0).is_some() { cx.ty(0)? } else { cx.float(0)? };
    Ok(vec![x.clone()])
}

/// `y = op(x)` on f32, in place where the executor likes, or on i64.
pub(crate) fn lower(op: Unary, cx: &Lower) -> Result<Step, String> {
    if cx.input(0)?.dtype == DType::I64 && on_integer(op, 0).is_some() {
        return Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let (x, y): (&[i64], &mut [i64]) = (parts.input(0), parts.output(0));
            y.iter_mut().zip(x).for_each(|(y, &x)| *y = on_integer(op, x).unwrap_or(x));
            Ok(())
        }));
    }
    cx.typed::<f32>(0)?;
    let run = move |io: &mut Io| {
        match io.pair(0, 0) {
            Pair::InPlace(x) => op.forward_in_place(x),
            Pair::Apart(x, y) => op.forward(x, y),
        }
        Ok(())
    };
    Ok(Step::new(run).in_place(0, 0))
}

/// Emits [`UnaryGrad`] with the value of the forward pass that it reads.
pub(crate) fn vjp(op: Unary, cx: &mut Vjp) -> Option<()> {
    let saved = match op.saved() {
        Saved::Nothing => None,
        Saved::Input => cx.input(0),
        Saved::Output => Some(cx.output(0)),
    };
    let ins: Vec<_> = [cx.d_output(0), saved].into_iter().take(1 + usize::from(saved.is_some())).collect();
    let dx = cx.add_multi(Arc::new(UnaryGrad { of: op }), &ins, 1)?[0];
    cx.set(0, dx);
    Some(())
}

/// `UnaryGrad(dy, saved?)`: gradient of an element-wise function, `dx = of'(x) dy`. `saved` is the operand or the
/// result of the forward operation, whichever the function's derivative is computed from; none where it is constant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UnaryGrad {
    /// The function.
    pub of: Unary,
}

/// Functions by the names of their operators.
const NAMES: [(&str, Unary); 42] = [
    ("Abs", Unary::Abs),
    ("Acos", Unary::Acos),
    ("Acosh", Unary::Acosh),
    ("Asin", Unary::Asin),
    ("Asinh", Unary::Asinh),
    ("Atan", Unary::Atan),
    ("Atanh", Unary::Atanh),
    ("Ceil", Unary::Ceil),
    ("Celu", Unary::Celu { alpha: 1.0 }),
    ("Clip", Unary::Clip { lo: f32::NEG_INFINITY, hi: f32::INFINITY }),
    ("Cos", Unary::Cos),
    ("Cosh", Unary::Cosh),
    ("Elu", Unary::Elu { alpha: 1.0 }),
    ("Erf", Unary::Erf),
    ("Exp", Unary::Exp),
    ("Floor", Unary::Floor),
    ("Gelu", Unary::Gelu),
    ("GeluTanh", Unary::GeluTanh),
    ("HardSigmoid", Unary::HardSigmoid { alpha: 0.2, beta: 0.5 }),
    ("HardSwish", Unary::HardSwish),
    ("Identity", Unary::Identity),
    ("LeakyRelu", Unary::LeakyRelu { alpha: 0.01 }),
    ("Log", Unary::Log),
    ("Mish", Unary::Mish),
    ("Neg", Unary::Neg),
    ("Reciprocal", Unary::Reciprocal),
    ("Relu", Unary::Relu),
    ("Round", Unary::Round),
    ("Selu", Unary::Selu { alpha: 1.673_263_2, gamma: 1.050_701 }),
    ("Shrink", Unary::Shrink { bias: 0.0, lambd: 0.5 }),
    ("Sigmoid", Unary::Sigmoid),
    ("Sign", Unary::Sign),
    ("Silu", Unary::Silu),
    ("Sin", Unary::Sin),
    ("Sinh", Unary::Sinh),
    ("Softplus", Unary::Softplus),
    ("Softsign", Unary::Softsign),
    ("Sqrt", Unary::Sqrt),
    ("Swish", Unary::Swish { alpha: 1.0 }),
    ("Tan", Unary::Tan),
    ("Tanh", Unary::Tanh),
    ("ThresholdedRelu", Unary::ThresholdedRelu { alpha: 1.0 }),
];

/// The name of a function's operator.
pub(crate) fn name(op: Unary) -> &'static str {
    let same = |other: Unary| std::mem::discriminant(&other) == std::mem::discriminant(&op);
    NAMES.iter().find(|(_, other)| same(*other)).map_or("Identity", |(name, _)| name)
}

/// The function that attribute `key` names, with its parameters; `Identity` where there is none.
pub(crate) fn function(attrs: &Attrs, key: &str) -> Result<Unary, String> {
    let name = attrs.str(key, "Identity")?;
    let known = NAMES.iter().find(|(n, _)| *n == name);
    Ok(match known.ok_or_else(|| format!("attribute {key} names no function: \"{name}\""))?.1 {
        Unary::Elu { alpha } => Unary::Elu { alpha: attrs.float("alpha", alpha)? },
        Unary::LeakyRelu { alpha } => Unary::LeakyRelu { alpha: attrs.float("alpha", alpha)? },
        Unary::HardSigmoid { alpha, beta } => {
            Unary::HardSigmoid { alpha: attrs.float("alpha", alpha)?, beta: attrs.float("beta", beta)? }
        }
        Unary::Clip { lo, hi } => Unary::Clip { lo: attrs.float("lo", lo)?, hi: attrs.float("hi", hi)? },
        Unary::Celu { alpha } => Unary::Celu { alpha: attrs.float("alpha", alpha)? },
        Unary::Swish { alpha } => Unary::Swish { alpha: attrs.float("alpha", alpha)? },
        Unary::ThresholdedRelu { alpha } => Unary::ThresholdedRelu { alpha: attrs.float("alpha", alpha)? },
        Unary::Selu { alpha, gamma } => {
            Unary::Selu { alpha: attrs.float("alpha", alpha)?, gamma: attrs.float("gamma", gamma)? }
        }
        Unary::Shrink { bias, lambd } => {
            Unary::Shrink { bias: attrs.float("bias", bias)?, lambd: attrs.float("lambd", lambd)? }
        }
        plain => plain,
    })
}

/// What [`function`] reads.
pub(crate) fn attrs(function: Unary, key: &str) -> Attrs {
    let attrs = Attrs::new().with_str(key, name(function), "Identity");
    match function {
        Unary::Elu { alpha } => attrs.with_float("alpha", alpha, 1.0),
        Unary::LeakyRelu { alpha } => attrs.with_float("alpha", alpha, 0.01),
        Unary::Celu { alpha } | Unary::Swish { alpha } | Unary::ThresholdedRelu { alpha } => {
            attrs.with_float("alpha", alpha, 1.0)
        }
        Unary::Selu { alpha, gamma } => {
            attrs.with_float("alpha", alpha, 1.673_263_2).with_float("gamma", gamma, 1.050_701)
        }
        Unary::Shrink { bias, lambd } => attrs.with_float("bias", bias, 0.0).with_float("lambd", lambd, 0.5),
        Unary::HardSigmoid { alpha, beta } => {
            attrs.with_float("alpha", alpha, 0.2).with_float("beta", beta, 0.5)
        }
        Unary::Clip { lo, hi } => {
            attrs.with_float("lo", lo, f32::NEG_INFINITY).with_float("hi", hi, f32::INFINITY)
        }
        _ => attrs,
    }
}

/// Reads the gradient.
pub fn parse_grad(cx: &Parse) -> Result<Parsed, String> {
    Ok(UnaryGrad { of: function(cx.attrs, "of")? }.into())
}

impl Op for UnaryGrad {
    fn name(&self) -> &str {
        "UnaryGrad"
    }

    fn domain(&self) -> &str {
        "qat"
    }

    fn attrs(&self) -> Attrs {
        attrs(self.of, "of")
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let dy = cx.float(0)?;
        if self.of.saved() != Saved::Nothing {
            crate::shapes::gradient_of(dy, cx.ty(1)?)?;
        }
        Ok(vec![dy.clone()])
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        cx.typed::<f32>(0)?;
        cx.optional_typed::<f32>(1)?;
        let of = self.of;
        let run = move |io: &mut Io| {
            let mut parts = io.split();
            let saved = parts.input(1);
            let dx = parts.output(0);
            match parts.optional(0) {
                Some(dy) => of.grad(saved, saved, dy, dx),
                None => of.grad_in_place(saved, saved, dx),
            }
            Ok(())
        };
        Ok(Step::new(run).in_place(0, 0))
    }

    fn layouts(&self) -> Layouts {
        Layouts::Any
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{Draw, check_gradient, eval};
    use crate::*;
    use tensor::Tensor;

    #[test]
    fn values() {
        let at = |op: &dyn Op, x: f32| eval(op, &[&Tensor::new(&[2], vec![x; 2])]).unwrap().to_f64()[1];
        let near =
            |got: f64, want: f64| assert!((got - want).abs() < 1e-6 * (1.0 + want.abs()), "{got} {want}");
        near(at(&Sigmoid, 1.0), 1.0 / (1.0 + (-1f64).exp()));
        near(at(&Tanh, 0.5), 0.5f64.tanh());
        near(at(&Exp, 1.5), 1.5f64.exp());
        near(at(&Log, 3.0), 3f64.ln());
        near(at(&Softplus, 1.0), 1f64.exp().ln_1p());
        near(at(&Softsign, -3.0), -0.75);
        near(at(&Erf, 0.5), 0.520_499_877_813_046_5);
        near(at(&HardSwish, 1.0), 4.0 / 6.0);
        near(at(&Sin, 1.0), 1f64.sin());
        near(at(&Cos, 1.0), 1f64.cos());
        assert_eq!(
            [at(&Sqrt, 9.0), at(&Reciprocal, 4.0), at(&Neg, 2.0), at(&Abs, -2.0)],
            [3.0, 0.25, -2.0, 2.0]
        );
        assert_eq!(
            [at(&Floor, -0.5), at(&Ceil, 0.5), at(&Round, 2.5), at(&Sign, -7.0)],
            [-1.0, 1.0, 2.0, -1.0]
        );
        assert_eq!([at(&Relu, -1.0), at(&Relu, 2.0)], [0.0, 2.0]);
    }

    fn check(op: impl Op + Copy, lo: f32, hi: f32, kinks: &[f32]) {
        let mut draw = Draw::new(1);
        for rank in [0, 1, 2, 3, 4, 4, 5] {
            let shape = draw.shape(rank, 4);
            check_gradient(op, &[&draw.tensor_off(&shape, lo, hi, kinks, 0.02)], 1, &[0]);
        }
    }

    #[test]
    fn gradients() {
        check(Relu, -2.0, 2.0, &[0.0]);
        check(Sigmoid, -4.0, 4.0, &[]);
        check(HardSwish, -4.0, 4.0, &[-3.0, 3.0]);
        check(Tanh, -2.0, 2.0, &[]);
        check(Exp, -2.0, 2.0, &[]);
        check(Log, 0.4, 3.0, &[]);
        check(Sqrt, 0.4, 3.0, &[]);
        check(Reciprocal, 0.5, 3.0, &[]);
        check(Neg, -2.0, 2.0, &[]);
        check(Abs, -2.0, 2.0, &[0.0]);
        check(Sign, -2.0, 2.0, &[0.0]);
        check(Erf, -2.0, 2.0, &[]);
        check(Softplus, -3.0, 3.0, &[]);
        check(Softsign, -3.0, 3.0, &[0.0]);
        check(Floor, -0.9, 0.9, &[0.0]);
        check(Ceil, -0.9, 0.9, &[0.0]);
        check(Round, -0.4, 0.4, &[]);
        check(Sin, -3.0, 3.0, &[]);
        check(Cos, -3.0, 3.0, &[]);
        check(Tan, -1.0, 1.0, &[]);
        check(Asin, -0.8, 0.8, &[]);
        check(Acos, -0.8, 0.8, &[]);
        check(Atan, -3.0, 3.0, &[]);
        check(Sinh, -2.0, 2.0, &[]);
        check(Cosh, -2.0, 2.0, &[]);
        check(Asinh, -3.0, 3.0, &[]);
        check(Acosh, 1.3, 3.0, &[]);
        check(Atanh, -0.7, 0.7, &[]);
        check(Mish, -3.0, 3.0, &[]);
        check(Selu::default(), -2.0, 2.0, &[0.0]);
        check(Celu { alpha: 2.0 }, -2.0, 2.0, &[0.0]);
        check(Swish { alpha: 1.5 }, -2.0, 2.0, &[]);
        check(ThresholdedRelu { alpha: 0.5 }, -2.0, 2.0, &[0.5]);
        check(Shrink { bias: 0.25, lambd: 0.5 }, -2.0, 2.0, &[-0.5, 0.5]);
    }

    #[test]
    fn the_gradient_is_read_back() {
        for op in [Unary::HardSigmoid { alpha: 0.25, beta: 0.5 }, Unary::Elu { alpha: 2.0 }, Unary::Tanh] {
            let attrs = UnaryGrad { of: op }.attrs();
            let parsed = parse_grad(&Parse { attrs: &attrs, opset: 1, ins: 2, outs: 1 }).unwrap();
            assert_eq!(parsed.op.is::<UnaryGrad>(), Some(&UnaryGrad { of: op }));
        }
    }

    #[test]
    fn integers() {
        let x = Tensor::new(&[3], vec![-5i64, 0, 7]);
        let value = |op: &dyn Op| eval(op, &[&x]).unwrap().to_i64();
        assert_eq!([value(&Neg), value(&Abs)], [[5, 0, -7], [5, 0, 7]]);
        assert_eq!([value(&Sign), value(&Relu)], [[-1, 0, 1], [0, 0, 7]]);
        let shrunk = |bias| value(&Shrink { bias, lambd: 1.5 });
        assert_eq!([shrunk(0.0), shrunk(1.5)], [[-5, 0, 7], [-3, 0, 5]]);
        assert!(eval(&Exp, &[&x]).unwrap_err().contains("floating point"));
        assert!(eval(&Neg, &[&Tensor::scalar(1i8)]).unwrap_err().contains("the executor computes in float"));
    }
}
