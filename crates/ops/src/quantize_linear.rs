//! `QuantizeLinear` (ONNX 10, 13, 19, 21): `saturate(round_half_even(x / scale) + zero_point)`, per tensor or per axis.

use crate::shapes::channel_scale;
use ir::{Attr, Attrs, Infer, Io, Layout, Layouts, Lower, OnnxForm, Op, Operand, Parse, Parsed, Step, Type};
use kernels::quant::{Axis, Grid, Quantizer, Scales, quantize_i8, quantize_u8};
use tensor::DType;

/// `QuantizeLinear(x, scale, zero_point?)`: the zero point's type, uint8 when it is omitted, is that of the result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuantizeLinear {
    /// Channel axis of a per-channel scale; negative counts from the end.
    pub axis: i64,
    /// Attributes of later opsets that differ from their defaults (`block_size`, `output_dtype`, `precision`,
    /// `saturate`).
    pub extra: Vec<(String, i64)>,
}

impl Default for QuantizeLinear {
    fn default() -> Self {
        QuantizeLinear { axis: 1, extra: Vec::new() }
    }
}

/// An attribute that came after opset 13: name, default, and since when there is one.
pub(crate) type Later = (&'static str, i64, i64);

const LATER: &[Later] =
    &[("block_size", 0, 21), ("output_dtype", 0, 21), ("precision", 0, 23), ("saturate", 1, 19)];

/// Those that are given and differ from their defaults.
pub(crate) fn extra(attrs: &Attrs, later: &[Later]) -> Vec<(String, i64)> {
    let given = |(name, default, _): &Later| match attrs.get(name) {
        Some(Attr::Int(x)) if x != default => Some((name.to_string(), *x)),
        _ => None,
    };
    later.iter().filter_map(given).collect()
}

/// The form at `opset` of an operator with these [`extra`] attributes.
pub(crate) fn to_onnx(
    op: &dyn Op,
    extra: &[(String, i64)],
    later: &[Later],
    opset: i64,
) -> Result<OnnxForm, String> {
    for &(name, _, since) in later {
        if opset < since && extra.iter().any(|(given, _)| given == name) {
            return Err(format!("{} has no {name} before opset {since}", op.name()));
        }
    }
    crate::unary::since(op, opset, 10)
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    Ok(QuantizeLinear { axis: cx.attrs.int("axis", 1)?, extra: extra(cx.attrs, LATER) }.into())
}

/// The rows that share a scale, for a scale of `scales` elements.
pub(crate) fn rows(x: &Operand, axis: i64, scales: usize) -> Result<Axis, String> {
    if scales == 1 {
        return Ok(Axis::whole(x.len()));
    }
    let at = if axis < 0 { axis + x.shape.len() as i64 } else { axis };
    let at = usize::try_from(at).ok().filter(|&at| at < x.shape.len());
    match at.and_then(|at| Axis::of(&x.memory_shape(), x.memory_axis(at))) {
        Some(rows) if rows.channels == scales => Ok(rows),
        _ => Err(format!("{scales} scales do not fit axis {axis} of shape {:?}", x.shape)),
    }
}

/// The codes of an element type.
pub(crate) fn grid(dtype: DType) -> Result<Grid, String> {
    match dtype {
        DType::U8 => Ok(Grid::U8),
        DType::I8 => Ok(Grid::I8),
        other => Err(format!("the executor quantizes to uint8 and int8, not to {other}")),
    }
}

/// Which scale an element has, where the kernels for whole channels do not serve: in blocks along the axis (opset 21), or
/// of codes that are not 8 bits wide.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scaling {
    /// Elements from one place of the axis to the next, and places.
    inner: usize,
    places: usize,
    /// Places that share a scale, of how many such blocks; 0 where each place has its own, and no blocks where all share one.
    block: usize,
    blocks: usize,
}

impl Scaling {
    /// For a scale of shape `scale`, in blocks of `block` along `axis`; 0 for no blocks.
    pub(crate) fn new(
        x: &Operand,
        scale: &Operand,
        axis: i64,
        extra: &[(String, i64)],
    ) -> Result<Scaling, String> {
        if x.layout != Layout::Plain {
            return Err("the executor keeps such codes row-major".into());
        }
        let block = extra.iter().find(|(name, _)| name == "block_size").map_or(0, |(_, n)| *n);
        let block = usize::try_from(block).map_err(|_| format!("attribute block_size is {block}"))?;
        if scale.len() == 1 && block == 0 {
            return Ok(Scaling { inner: x.len().max(1), places: 1, block: 0, blocks: 0 });
        }
        let at = crate::shapes::axis(axis, x.shape.len())?;
        let (places, inner) = (x.shape[at], x.shape[at + 1..].iter().product::<usize>().max(1));
        let blocks = if block == 0 { 0 } else { places.div_ceil(block) };
        let mut expected = x.shape.clone();
        expected[at] = blocks;
        let fits = if block == 0 { scale.shape == [places] } else { scale.shape == expected };
        match fits {
            true => Ok(Scaling { inner, places: places.max(1), block, blocks }),
            false => Err(format!(
                "scales of shape {:?} do not fit axis {axis} of shape {:?}",
                scale.shape, x.shape
            )),
        }
    }

    /// The number of the scale of element `i`.
    pub(crate) fn of(&self, i: usize) -> usize {
        let place = i / self.inner % self.places;
        match self.block {
            0 => place,
            block => {
                (i / self.inner / self.places * self.blocks + place / block) * self.inner + i % self.inner
            }
        }
    }
}

/// The smallest and the largest code of an element type.
fn range(dtype: DType) -> Result<(f32, f32), String> {
    Ok(match dtype {
        DType::U8 => (0.0, 255.0),
        DType::I8 => (-128.0, 127.0),
        DType::U16 => (0.0, 65535.0),
        DType::I16 => (-32768.0, 32767.0),
        DType::U4 => (0.0, 15.0),
        DType::I4 => (-8.0, 7.0),
        other => return Err(format!("the executor does not quantize to {other}")),
    })
}

/// Checks that zero points, operand 2, are of the type of the codes.
pub(crate) fn check_zero_point(cx: &Lower, codes: DType) -> Result<(), String> {
    match cx.optional(2) {
        Some(z) if z.dtype != codes => {
            Err(format!("zero points of type {} stand beside {codes} codes", z.dtype))
        }
        _ => Ok(()),
    }
}

/// Reads code `i` of packed or whole elements.
pub(crate) fn code(bytes: &[u8], dtype: DType, i: usize) -> i32 {
    let two = |i: usize| [bytes[2 * i], bytes[2 * i + 1]];
    let nibble = |i: usize| bytes[i / 2] >> (4 * (i % 2)) & 0xf;
    match dtype {
        DType::U8 => bytes[i].into(),
        DType::I8 => (bytes[i] as i8).into(),
        DType::U16 => u16::from_le_bytes(two(i)).into(),
        DType::I16 => i16::from_le_bytes(two(i)).into(),
        DType::U4 => nibble(i).into(),
        DType::I4 => ((nibble(i) << 4) as i8 >> 4).into(),
        _ => i32::from_le_bytes([bytes[4 * i], bytes[4 * i + 1], bytes[4 * i + 2], bytes[4 * i + 3]]),
    }
}

/// Writes code `i`; of packed elements in order.
fn set_code(bytes: &mut [u8], dtype: DType, i: usize, code: i32) {
    match dtype.bits() {
        4 if i.is_multiple_of(2) => bytes[i / 2] = code as u8 & 0xf,
        4 => bytes[i / 2] |= (code as u8 & 0xf) << 4,
        8 => bytes[i] = code as u8,
        _ => bytes[2 * i..][..2].copy_from_slice(&(code as u16).to_le_bytes()),
    }
}

impl QuantizeLinear {
    /// The definition, element by element.
    fn lower_any(&self, cx: &Lower) -> Result<Step, String> {
        let (x, y) = (cx.typed::<f32>(0)?, &cx.outs[0]);
        let scaling = Scaling::new(x, cx.typed::<f32>(1)?, self.axis, &self.extra)?;
        let (dtype, (lo, hi)) = (y.dtype, range(y.dtype)?);
        let with_zero = cx.optional(2).is_some();
        if with_zero && cx.input(2)?.len() != cx.input(1)?.len() {
            return Err("there should be as many zero points as scales".into());
        }
        check_zero_point(cx, dtype)?;
        Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let (x, scale): (&[f32], &[f32]) = (parts.input(0), parts.input(1));
            let (zero, y): (&[u8], &mut [u8]) = (parts.input(2), parts.output(0));
            for (i, x) in x.iter().enumerate() {
                let at = scaling.of(i);
                let zero = if with_zero { code(zero, dtype, at) } else { 0 };
                let q = ((x / scale[at]).round_ties_even() + zero as f32).clamp(lo, hi);
                set_code(y, dtype, i, q as i32);
            }
            Ok(())
        }))
    }
}

impl Op for QuantizeLinear {
    fn name(&self) -> &str {
        "QuantizeLinear"
    }

    fn attrs(&self) -> Attrs {
        let attrs = Attrs::new().with_int("axis", self.axis, 1);
        self.extra.iter().fold(attrs, |a, (name, value)| a.with(name, Attr::Int(*value)))
    }

    fn to_onnx(&self, opset: i64) -> Result<OnnxForm, String> {
        to_onnx(self, &self.extra, LATER, opset)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        // int32 is read and written; only floats are quantized here.
        let x = cx.ty(0)?;
        let scale = cx.float(1)?;
        let dtype = if cx.has(2) {
            cx.ty(2)?.dtype
        } else {
            let out = self.extra.iter().find(|(name, _)| name == "output_dtype").map(|(_, n)| *n as i32);
            out.map_or(Some(DType::U8), DType::from_onnx)
        };
        if let (Some(dims), Some(rank)) = (scale.dims(), x.rank())
            && dims.iter().product::<usize>() != 1
            && self.extra.iter().all(|(name, _)| name != "block_size")
        {
            let axis = if self.axis < 0 { self.axis + rank as i64 } else { self.axis };
            channel_scale(x, scale, usize::try_from(axis).ok().or(Some(usize::MAX)), "scale")?;
        }
        Ok(vec![Type { dtype, shape: x.shape.clone() }])
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let x = cx.typed::<f32>(0)?;
        let scales = cx.typed::<f32>(1)?.len();
        let dtype = cx.outs[0].dtype;
        let blocked = self.extra.iter().any(|(name, n)| name == "block_size" && *n != 0);
        if blocked || !matches!(dtype, DType::U8 | DType::I8) {
            return self.lower_any(cx);
        }
        let rows = rows(x, self.axis, scales)?;
        let quantizer = Quantizer::onnx(grid(dtype)?);
        let zero_point: Vec<i32> = match cx.optional(2) {
            None => vec![0; scales],
            Some(_) => cx.constant(2)?.to_i64().into_iter().map(|z| z as i32).collect(),
        };
        if zero_point.len() != scales {
            return Err(format!("{} zero points stand beside {scales} scales", zero_point.len()));
        }
        Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let scales = Scales::affine(parts.input(1), &zero_point);
            if dtype == DType::U8 {
                quantize_u8(quantizer, rows, scales, parts.input(0), parts.output(0));
            } else {
                quantize_i8(quantizer, rows, scales, parts.input(0), parts.output(0));
            }
            Ok(())
        }))
    }

    fn layouts(&self) -> Layouts {
        Layouts::Same { ins: 1, outs: 1 }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::dequantize_linear;
    use tensor::Tensor;

    #[test]
    fn saturates_to_the_type_of_the_zero_point() {
        let x = Tensor::new(&[4], vec![-1.0f32, 0.25, 0.75, 1000.0]);
        let zp = Tensor::new(&[], vec![1u8]);
        let y =
            ir::eval(&QuantizeLinear::default(), &[Some(&x), Some(&Tensor::scalar(0.5f32)), Some(&zp)], 1)
                .unwrap();
        assert_eq!(y[0], Tensor::new(&[4], vec![0u8, 1, 3, 255]));
    }

    #[test]
    fn attributes_of_later_opsets() {
        type Read = fn(&Parse) -> Result<Parsed, String>;
        let all: [(Read, &[Later]); 2] =
            [(parse, LATER), (dequantize_linear::parse, dequantize_linear::LATER)];
        for (parse, later) in all {
            for &(name, default, since) in later {
                let op = |value: i64| {
                    let attrs = Attrs::new().with(name, Attr::Int(value));
                    parse(&Parse { attrs: &attrs, opset: 23, ins: 3, outs: 1 }).unwrap().op
                };
                assert!(op(default).to_onnx(13).unwrap().attrs.is_empty());
                let given = op(default ^ 1);
                assert_eq!(given.to_onnx(since).unwrap().attrs.int(name, default), Ok(default ^ 1));
                let e = given.to_onnx(since - 1).unwrap_err();
                assert_eq!(e, format!("{} has no {name} before opset {since}", given.name()));
            }
        }
    }

    #[test]
    fn integers_have_a_type_of_codes() {
        let (x, scale) = (Type::new(DType::I32, [3usize]), Type::new(DType::F32, [0usize; 0]));
        let args = [&x, &scale].map(|ty| Some(ir::Arg { ty, value: None }));
        let y = QuantizeLinear::default().infer(&Infer::new(&args, 1)).unwrap();
        assert_eq!(y, [Type::new(DType::U8, [3usize])]);
    }

    #[test]
    fn wide_and_narrow_codes_in_blocks() {
        let x = Tensor::new(&[1, 4], vec![1.0f32, -3.0, 90000.0, 2.5]);
        let scale = Tensor::new(&[1, 2], vec![1.0f32, 0.5]);
        let op = QuantizeLinear { axis: 1, extra: vec![("block_size".into(), 2)] };
        for (dtype, want) in
            [(tensor::DType::I16, [1.0, -3.0, 32767.0, 5.0]), (tensor::DType::I4, [1.0, -3.0, 7.0, 5.0])]
        {
            let zero = Tensor::zeros(dtype, &[1, 2]);
            let y = ir::eval(&op, &[Some(&x), Some(&scale), Some(&zero)], 1).unwrap();
            assert_eq!(y[0].to_f64(), want);
            let back = crate::DequantizeLinear { axis: 1, extra: op.extra.clone() };
            let back = ir::eval(&back, &[Some(&y[0]), Some(&scale), Some(&zero)], 1).unwrap();
            assert_eq!(back[0].to_f64(), [want[0], want[1], want[2] * 0.5, want[3] * 0.5]);
        }
        let wrong = Tensor::new(&[1, 3], vec![1.0f32; 3]);
        let zero = Tensor::zeros(tensor::DType::I4, &[1, 3]);
        let e = ir::eval(&op, &[Some(&x), Some(&wrong), Some(&zero)], 1).unwrap_err();
        assert!(e.to_string().contains("do not fit axis 1"));
    }

    #[test]
    fn a_scale_per_channel() {
        let x = Tensor::new(&[2, 2], vec![1.0f32, 1.0, 1.0, 1.0]);
        let scale = Tensor::new(&[2], vec![1.0f32, 0.5]);
        let zp = Tensor::new(&[2], vec![0i8, 0]);
        let op = QuantizeLinear { axis: 0, extra: vec![] };
        let y = ir::eval(&op, &[Some(&x), Some(&scale), Some(&zp)], 1).unwrap();
        assert_eq!(y[0], Tensor::new(&[2, 2], vec![1i8, 1, 2, 2]));
    }
}
