//! `qat.FakeQuant`: quantizes and dequantizes, so that training sees what the integer model will compute.
//!
//! With the rule `onnx` it is ONNX `QuantizeLinear` followed by `DequantizeLinear`, bit for bit; with the rules
//! `paddle` and `paddle-even` it is Paddle's `fake_*` operators and its `quantize_linear` pair. The gradient is the
//! straight-through estimator (Bengio et al. 2013, arXiv 1308.3432), optionally clipped to the representable range. The scale may
//! be learned (LSQ, Esser et al. 2020, arXiv 1902.08153), and with it an offset (LSQ+, Bhalgat et al. 2020, arXiv 2004.09576).

use crate::shapes::{channel_scale, gradient_of};
use ir::{Attr, Attrs, Infer, Io, Layouts, Lower, Op, Operand, Parse, Parsed, Step, Type, Vjp};
use kernels::quant::{
    Anchor, Axis, Grid, Quantizer, Round, Rule, Scales, fake_quantize, scale_gradients,
    straight_through_clipped,
};
use std::sync::Arc;
use tensor::DType;

/// `FakeQuant(x, scale, zero_point?, below?)`: `x` f32 of any shape, `scale` f32 and `zero_point` int32, both scalar or one
/// per channel of `axis`. The lowest code stands for `-below`, of which [`ZeroPoint`](crate::ZeroPoint) makes the zero point: an
/// operand that changes no result, and receives the gradient of LSQ+'s offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FakeQuant {
    /// Arithmetic and codes.
    pub quantizer: Quantizer,
    /// Channel axis of a per-channel scale.
    pub axis: Option<usize>,
    /// Whether the gradient stops outside of the representable range.
    pub clipped: bool,
    /// Whether `scale` and `below` have gradients. Their gradients are those of LSQ and LSQ+ times `1 / sqrt(elements * high)`, so
    /// that scales of large tensors do not learn faster than those of small ones.
    pub learned: bool,
}

const RULES: [(&str, Rule); 3] = [
    ("onnx", Rule::Onnx),
    ("paddle", Rule::Paddle(Round::HalfAway)),
    ("paddle-even", Rule::Paddle(Round::HalfEven)),
];

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    Ok(FakeQuant::from_attrs(cx.attrs)?.into())
}

/// Reads the gradient.
pub fn parse_grad(cx: &Parse) -> Result<Parsed, String> {
    Ok(FakeQuantGrad(FakeQuant::from_attrs(cx.attrs)?).into())
}

/// The codes from `low` to `high`, of 16 bits at most; those of uint8 where nothing is said.
pub(crate) fn grid(attrs: &Attrs) -> Result<Grid, String> {
    let (low, high) = (attrs.int("low", 0)?, attrs.int("high", 255)?);
    let code = |n| i32::try_from(n).ok().filter(|n| (i16::MIN.into()..=u16::MAX.into()).contains(n));
    match (code(low), code(high)) {
        (Some(low), Some(high)) if low < high => Ok(Grid { low, high }),
        _ => Err(format!("codes should go up and have at most 16 bits, but are {low} to {high}")),
    }
}

impl FakeQuant {
    pub(crate) fn from_attrs(attrs: &Attrs) -> Result<FakeQuant, String> {
        let rule = attrs.str("rule", "onnx")?;
        let known = RULES.iter().find(|(name, _)| *name == rule);
        let (_, rule) = known
            .ok_or_else(|| format!("attribute rule is \"{rule}\"; known are onnx, paddle, paddle-even"))?;
        let grid = grid(attrs)?;
        let axis = match attrs.int("axis", -1)? {
            -1 => None,
            axis => Some(usize::try_from(axis).map_err(|_| format!("attribute axis is {axis}"))?),
        };
        let clipped = attrs.int("clipped", 0)? != 0;
        let learned = attrs.int("learned", 0)? != 0;
        if learned && *rule != Rule::Onnx {
            return Err("a scale can be learned with the rule onnx alone".into());
        }
        Ok(FakeQuant { quantizer: Quantizer { rule: *rule, grid }, axis, clipped, learned })
    }

    /// The rows of the tensor that share a scale.
    fn rows(&self, x: &Operand) -> Result<Axis, String> {
        match self.axis {
            None => Ok(Axis::whole(x.len())),
            Some(axis) if axis < x.shape.len() => Ok(Axis::of(&x.memory_shape(), x.memory_axis(axis)))
                .and_then(|rows| {
                    rows.ok_or_else(|| format!("axis {axis} of a tensor of shape {:?}", x.shape))
                }),
            Some(axis) => Err(format!("axis {axis} of a tensor of shape {:?}", x.shape)),
        }
    }
}

/// Checks that scales stand at an operand slot, and as many zero points behind it, if any.
fn check_scales(cx: &Lower, at: usize) -> Result<(), String> {
    let scales = cx.typed::<f32>(at)?.len();
    match cx.optional_typed::<i32>(at + 1)? {
        Some(z) if z.len() != scales => Err(format!("{} zero points stand beside {scales} scales", z.len())),
        _ => Ok(()),
    }
}

/// Scales and zero points at operand slots 1 and 2 after `x`, for tensors with or without zero points.
fn scales<'a>(scale: &'a [f32], zero_point: Option<&'a [i32]>) -> Scales<'a> {
    match zero_point {
        Some(z) => Scales::affine(scale, z),
        None => Scales::symmetric(scale),
    }
}

impl Op for FakeQuant {
    fn name(&self) -> &str {
        "FakeQuant"
    }

    fn domain(&self) -> &str {
        "qat"
    }

    fn attrs(&self) -> Attrs {
        let rule = RULES.iter().find(|(_, r)| *r == self.quantizer.rule).map_or("onnx", |(name, _)| name);
        Attrs::new()
            .with_int("axis", self.axis.map_or(-1, |a| a as i64), -1)
            .with_int("clipped", self.clipped as i64, 0)
            .with_int("learned", self.learned as i64, 0)
            .with_str("rule", rule, "onnx")
            .with("low", Attr::Int(self.quantizer.grid.low.into()))
            .with("high", Attr::Int(self.quantizer.grid.high.into()))
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let x = cx.float(0)?;
        channel_scale(x, cx.float(1)?, self.axis, "scale")?;
        if cx.has(2) {
            channel_scale(x, cx.ty(2)?, self.axis, "zero point")?;
        }
        if cx.has(3) {
            channel_scale(x, cx.float(3)?, self.axis, "end of the range")?;
        }
        Ok(vec![x.clone()])
    }

    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        let dy = cx.d_output(0)?;
        let dx = if self.clipped {
            let ins = [Some(dy), cx.input(0), cx.input(1), cx.input(2)];
            cx.add_multi(Arc::new(FakeQuantGrad(*self)), &ins, 1)?[0]
        } else {
            dy
        };
        cx.set(0, dx);
        if self.learned && (cx.wants(1) || cx.wants(3)) {
            let ins = [Some(dy), cx.input(0), cx.input(1), cx.input(2), cx.input(3)];
            let slots: &[usize] = if cx.input(3).is_some() { &[1, 3] } else { &[1] };
            let gradients = cx.add_multi(Arc::new(FakeQuantScaleGrad(*self)), &ins, slots.len())?;
            slots.iter().zip(gradients).for_each(|(&slot, gradient)| cx.set(slot, gradient));
        }
        Some(())
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let rows = self.rows(cx.typed::<f32>(0)?)?;
        check_scales(cx, 1)?;
        let quantizer = self.quantizer;
        Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let scales = scales(parts.input(1), parts.optional(2));
            fake_quantize(quantizer, rows, scales, parts.input(0), parts.output(0));
            Ok(())
        }))
    }

    fn layouts(&self) -> Layouts {
        Layouts::Same { ins: 1, outs: 1 }
    }
}

/// `FakeQuantGrad(dy, x, scale, zero_point?)`: `dy` where `x` is representable, 0 elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FakeQuantGrad(FakeQuant);

impl Op for FakeQuantGrad {
    fn name(&self) -> &str {
        "FakeQuantGrad"
    }

    fn domain(&self) -> &str {
        "qat"
    }

    fn attrs(&self) -> Attrs {
        self.0.attrs()
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let (dy, x) = (cx.float(0)?, cx.float(1)?);
        gradient_of(dy, x)?;
        channel_scale(x, cx.float(2)?, self.0.axis, "scale")?;
        Ok(vec![dy.clone()])
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        cx.typed::<f32>(0)?;
        let rows = self.0.rows(cx.typed::<f32>(1)?)?;
        check_scales(cx, 2)?;
        let quantizer = self.0.quantizer;
        Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let scales = scales(parts.input(2), parts.optional(3));
            straight_through_clipped(
                quantizer,
                rows,
                scales,
                parts.input(1),
                parts.input(0),
                parts.output(0),
            );
            Ok(())
        }))
    }

    fn layouts(&self) -> Layouts {
        Layouts::Same { ins: 0b11, outs: 1 }
    }
}

/// Reads the gradient of the scale.
pub fn parse_scale_grad(cx: &Parse) -> Result<Parsed, String> {
    Ok(FakeQuantScaleGrad(FakeQuant::from_attrs(cx.attrs)?).into())
}

/// `FakeQuantScaleGrad(dy, x, scale, zero_point?, below?)`: the gradients of `scale` and, where it is there, of `below`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FakeQuantScaleGrad(FakeQuant);

impl Op for FakeQuantScaleGrad {
    fn name(&self) -> &str {
        "FakeQuantScaleGrad"
    }

    fn domain(&self) -> &str {
        "qat"
    }

    fn attrs(&self) -> Attrs {
        self.0.attrs()
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        gradient_of(cx.float(0)?, cx.float(1)?)?;
        channel_scale(cx.float(1)?, cx.float(2)?, self.0.axis, "scale")?;
        Ok(vec![cx.ty(2)?.clone(); if cx.has(4) { 2 } else { 1 }])
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        cx.typed::<f32>(0)?;
        let rows = self.0.rows(cx.typed::<f32>(1)?)?;
        check_scales(cx, 2)?;
        let grid = self.0.quantizer.grid;
        let factor = 1.0 / (rows.len().max(1) as f32 * grid.high as f32).sqrt();
        Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let scales = scales(parts.input(2), parts.optional(3));
            let with_offset = parts.optional::<f32>(4).is_some();
            let anchor = if with_offset { Anchor::LowestCode } else { Anchor::ZeroPoint };
            let gradients = scale_gradients(grid, anchor, rows, scales, parts.input(1), parts.input(0));
            let scaled = |i: usize| gradients.iter().map(move |of| of[i] * factor);
            parts.output::<f32>(0).iter_mut().zip(scaled(0)).for_each(|(to, d)| *to = d);
            if with_offset {
                // An offset is the negative of `below`.
                parts.output::<f32>(1).iter_mut().zip(scaled(1)).for_each(|(to, d)| *to = -d);
            }
            Ok(())
        }))
    }

    fn layouts(&self) -> Layouts {
        Layouts::Same { ins: 0b11, outs: 0 }
    }
}

/// The element type that holds the codes of `grid`, if one does: what the emitted pair stores.
pub fn code_type(grid: Grid) -> Option<DType> {
    match (grid.low, grid.high) {
        (0.., ..=255) => Some(DType::U8),
        (-128.., ..=127) => Some(DType::I8),
        (0.., ..=65535) => Some(DType::U16),
        (-32768.., ..=32767) => Some(DType::I16),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use tensor::Tensor;

    fn quant(clipped: bool) -> FakeQuant {
        FakeQuant { quantizer: Quantizer::onnx(Grid::U8), axis: None, clipped, learned: false }
    }

    #[test]
    fn rounds_half_to_even_and_saturates() {
        let x = Tensor::new(&[5], vec![0.25f32, 0.75, -1000.0, 1000.0, 0.0]);
        let (scale, zp) = (Tensor::scalar(0.5f32), Tensor::scalar(10i32));
        let y = ir::eval(&quant(false), &[Some(&x), Some(&scale), Some(&zp)], 1).unwrap();
        assert_eq!(y[0].to_f32(), [0.0, 1.0, -5.0, 122.5, 0.0]);
    }

    #[test]
    fn the_clipped_gradient_stops_outside_of_the_range() {
        let x = Tensor::new(&[4], vec![1.0f32, -6.0, 300.0, 122.0]);
        let dy = Tensor::new(&[4], vec![1.0f32, 2.0, 3.0, 4.0]);
        let (scale, zp) = (Tensor::scalar(0.5f32), Tensor::scalar(10i32));
        let ins = [Some(&dy), Some(&x), Some(&scale), Some(&zp)];
        let dx = ir::eval(&FakeQuantGrad(quant(true)), &ins, 1).unwrap();
        assert_eq!(dx[0].to_f32(), [1.0, 0.0, 0.0, 4.0]);
    }

    #[test]
    fn a_scale_must_fit_its_axis() {
        let per_channel = FakeQuant { axis: Some(0), ..quant(false) };
        let x = Tensor::new(&[2, 2], vec![1.0f32; 4]);
        let e =
            ir::eval(&per_channel, &[Some(&x), Some(&Tensor::new(&[3], vec![1.0f32; 3]))], 1).unwrap_err();
        assert!(e.to_string().contains("scale"), "{e}");
    }

    #[test]
    fn attributes_survive_their_text() {
        let op = FakeQuant {
            quantizer: Quantizer::paddle(8, Round::HalfAway).unwrap(),
            axis: Some(1),
            clipped: true,
            learned: false,
        };
        assert_eq!(FakeQuant::from_attrs(&op.attrs()).unwrap(), op);
        let learned = FakeQuant { learned: true, ..quant(true) };
        assert_eq!(FakeQuant::from_attrs(&learned.attrs()).unwrap(), learned);
        assert!(FakeQuant::from_attrs(&FakeQuant { learned: true, ..op }.attrs()).is_err());
    }
}
