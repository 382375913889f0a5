//! `FusedConv` (com.microsoft 1): a convolution, an addition and an activation in one, as ONNX Runtime's optimizer writes it.

use crate::conv::step;
use crate::q_linear::MICROSOFT;
use crate::{Conv, unary};
use ir::{Attr, Attrs, Infer, Layouts, Lower, Op, Parse, Parsed, Step, Type};
use kernels::elementwise::Unary;

/// `FusedConv(x, w, bias?, z?)`: `activation(conv(x, w) + bias + z)`, `z` of the shape of the result. For inference.
#[derive(Clone, Debug, PartialEq)]
pub struct FusedConv {
    /// The convolution.
    pub conv: Conv,
    /// The activation: `Identity`, `Relu`, `Clip`, `LeakyRelu`, `HardSigmoid`, `Sigmoid` or `Tanh`.
    pub activation: Unary,
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    let params = cx.attrs.floats("activation_params")?.unwrap_or_default();
    let param = |i: usize, default: f32| params.get(i).copied().unwrap_or(default);
    let activation = match cx.attrs.str("activation", "")? {
        "" => Unary::Identity,
        "Relu" => Unary::Relu,
        "Sigmoid" => Unary::Sigmoid,
        "Tanh" => Unary::Tanh,
        "Clip" => Unary::Clip { lo: param(0, f32::MIN), hi: param(1, f32::MAX) },
        "LeakyRelu" => Unary::LeakyRelu { alpha: param(0, 0.01) },
        "HardSigmoid" => Unary::HardSigmoid { alpha: param(0, 0.2), beta: param(1, 0.5) },
        other => {
            return Err(format!("attribute activation names no activation that is known here: \"{other}\""));
        }
    };
    Ok(FusedConv { conv: Conv::from_attrs(cx.attrs)?, activation }.into())
}

impl Op for FusedConv {
    fn name(&self) -> &str {
        "FusedConv"
    }

    fn domain(&self) -> &str {
        MICROSOFT
    }

    fn attrs(&self) -> Attrs {
        let attrs = self.conv.attrs();
        if self.activation == Unary::Identity {
            return attrs;
        }
        let params = match self.activation {
            Unary::Clip { lo, hi } => vec![lo, hi],
            Unary::LeakyRelu { alpha } => vec![alpha],
            Unary::HardSigmoid { alpha, beta } => vec![alpha, beta],
            _ => Vec::new(),
        };
        let attrs = attrs.with("activation", Attr::Str(unary::name(self.activation).into()));
        if params.is_empty() { attrs } else { attrs.with("activation_params", Attr::Floats(params)) }
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let y = self.conv.infer(cx)?;
        if cx.has(3) && !cx.float(3)?.agrees(&y[0]) {
            return Err(format!("the addend {} should have the type of the result, {}", cx.float(3)?, y[0]));
        }
        Ok(y)
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        step(self.conv.plan(cx)?, cx, Some(self.activation))
    }

    fn layouts(&self) -> Layouts {
        Layouts::ChannelsLast { ins: 0b1001, outs: 1 }
    }

    fn flops(&self, cx: &Lower) -> Option<u64> {
        self.conv.flops(cx)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::Window;
    use crate::testing::{Draw, eval, run};

    fn op(activation: Unary) -> FusedConv {
        FusedConv { conv: Conv { window: Window::new(&[3, 3], 1, 1), group: 1 }, activation }
    }

    #[test]
    fn is_its_parts_one_after_another() {
        let mut draw = Draw::new(5);
        let (x, w) = (draw.tensor(&[2, 3, 5, 4], -1.0, 1.0), draw.tensor(&[4, 3, 3, 3], -1.0, 1.0));
        let (b, z) = (draw.tensor(&[4], -1.0, 1.0), draw.tensor(&[2, 4, 5, 4], -1.0, 1.0));
        let plain = eval(&op(Unary::Identity).conv, &[&x, &w, &b]).unwrap();
        for activation in [Unary::Identity, Unary::Relu, Unary::Clip { lo: -0.5, hi: 0.5 }, Unary::Tanh] {
            for z in [None, Some(&z)] {
                let got = run(&op(activation), &[Some(&x), Some(&w), Some(&b), z], 1).unwrap().remove(0);
                let sum: Vec<f32> = match z {
                    Some(z) => plain.to_f32().iter().zip(z.to_f32()).map(|(y, z)| y + z).collect(),
                    None => plain.to_f32(),
                };
                let mut want = vec![0.0; sum.len()];
                activation.forward(&sum, &mut want);
                assert_eq!(got.to_f32(), want);
            }
        }
    }

    #[test]
    fn attributes_survive_their_text() {
        for activation in [Unary::Identity, Unary::Relu, Unary::Clip { lo: 0.0, hi: 6.0 }] {
            let op = FusedConv { conv: Conv { window: Window::new(&[3, 3], 2, 1), group: 2 }, activation };
            let attrs = op.attrs();
            let parsed = parse(&Parse { attrs: &attrs, opset: 1, ins: 3, outs: 1 }).unwrap();
            assert_eq!(parsed.op.is::<FusedConv>(), Some(&op));
        }
        let attrs = Attrs::new().with("activation", Attr::Str("Mish".into()));
        let error = parse(&Parse { attrs: &attrs, opset: 1, ins: 3, outs: 1 }).unwrap_err();
        assert!(error.contains("Mish"), "{error}");
    }
}
