//! `DeformConv` (ONNX 19, 22): a convolution whose taps lie where the data say (Dai et al. 2017, arXiv 1703.06211), each with
//! its own factor (Zhu et al. 2019, arXiv 1811.11168).

use crate::conv::{kernel_sizes, parse_group, ranks};
use crate::parts::{cast, floats, reshape, resized, transpose};
use crate::window::Window;
use crate::{Add, GridSample, MatMul, Mul, unary};
use ir::{Attrs, Compose, Infer, OnnxForm, Op, Parse, Parsed, Type, ValueId};
use kernels::conv::Rounding;
use tensor::{DType, element_count};

/// `DeformConv(x, w, offset, bias?, mask?)`: `x` float `(N, C, H, W)`, `w` `(O, C / group, kh, kw)`, `offset`
/// `(N, offset_group kh kw 2, oh, ow)`: how far down and to the right each tap is moved, `mask`
/// `(N, offset_group kh kw, oh, ow)`: its factor. Between elements values are interpolated; outside they are zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeformConv {
    /// Kernel size, strides, dilations, padding.
    pub window: Window,
    /// Number of groups into which the channels are split.
    pub group: usize,
    /// Number of groups of channels that share their offsets.
    pub offset_group: usize,
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    let offset_group = cx.attrs.int("offset_group", 1)?;
    let offset_group = usize::try_from(offset_group).ok().filter(|&g| g > 0);
    Ok(DeformConv {
        window: Window::parse(cx.attrs)?,
        group: parse_group(cx.attrs)?,
        offset_group: offset_group.ok_or("offset_group should be positive")?,
    }
    .into())
}

impl Op for DeformConv {
    fn name(&self) -> &str {
        "DeformConv"
    }

    fn attrs(&self) -> Attrs {
        self.window.attrs(Attrs::new()).with_int("group", self.group as i64, 1).with_int(
            "offset_group",
            self.offset_group as i64,
            1,
        )
    }

    fn to_onnx(&self, opset: i64) -> Result<OnnxForm, String> {
        unary::since(self, opset, 19)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let (x, w, offset) = (cx.float(0)?, cx.float(1)?, cx.float(2)?);
        let Some((xs, ws)) = ranks(x, w)? else { return Ok(vec![Type { dtype: x.dtype, shape: None }]) };
        if let (Some(c), Some(i)) = (xs[1].fixed(), ws[1].fixed())
            && i.checked_mul(self.group) != Some(c)
        {
            return Err(format!("{x} and the weight {w} in {} group(s) do not fit", self.group));
        }
        let spatial = self.window.outputs(&xs[2..], &kernel_sizes(&self.window, ws)?, Rounding::Floor)?;
        if let Some(shape) = &offset.shape
            && (shape.len() != xs.len() || !shape[2..].iter().zip(&spatial).all(|(a, b)| a.agrees(b)))
        {
            return Err(format!("the offsets {offset} are not those of a result of size {spatial:?}"));
        }
        let shape = [xs[0].clone(), ws[0].clone()].into_iter().chain(spatial).collect();
        Ok(vec![Type { dtype: x.dtype, shape: Some(shape) }])
    }

    /// The values at all taps by `GridSample`, then one product of matrices.
    fn compose(&self, cx: &mut Compose) -> Option<Vec<ValueId>> {
        let [x, w, offset] = [cx.input(0)?, cx.input(1)?, cx.input(2)?];
        let (xs, ws) = (cx.dims(x)?, cx.dims(w)?);
        let (&[n, channels, height, width], &[outputs, inputs, kh, kw]) = (&xs[..], &ws[..]) else {
            return None;
        };
        let axis = |i: usize| self.window.axis(i, 2, xs[2 + i], ws[2 + i], Rounding::Floor).ok();
        let (down, right) = (axis(0)?, axis(1)?);
        let (oh, ow, taps, groups) = (down.output, right.output, kh * kw, self.offset_group);
        cx.claim(element_count(&[taps, 2, oh, ow])?)?;
        // Where each tap would lie, and then its place between -1 and 1: `(2 x + 1) / size - 1`.
        let place = |at: usize, tap: usize, a: &kernels::window::Axis| {
            (at * a.stride + tap * a.dilation) as f64 - a.pad_begin as f64
        };
        let mut places = Vec::with_capacity(taps * 2 * oh * ow);
        for (ky, kx) in (0..kh).flat_map(|ky| (0..kw).map(move |kx| (ky, kx))) {
            places.extend((0..oh * ow).map(|i| place(i / ow, ky, &down)));
            places.extend((0..oh * ow).map(|i| place(i % ow, kx, &right)));
        }
        // In 16 bits, places between -1 and 1 would lie between the elements.
        let dtype = cx.ty(x).dtype.filter(|d| d.bits() > 16).unwrap_or(DType::F32);
        let places = floats(dtype, &[taps, 2, oh * ow], &places)?;
        let sizes = [height as f64, width as f64];
        let factor = floats(dtype, &[2, 1], &sizes.map(|n| 2.0 / n))?;
        let shift = floats(dtype, &[2, 1], &sizes.map(|n| 1.0 / n - 1.0))?;
        let [places, factor, shift] = [places, factor, shift].map(|t| cx.constant_value(t));
        let offset = cast(cx, offset, dtype)?;
        let offset = resized(cx, offset, &[n * groups, taps, 2, oh * ow])?;
        let grid = cx.add(Add, &[offset, places])?;
        let grid = cx.add(Mul, &[grid, factor])?;
        let grid = cx.add(Add, &[grid, shift])?;
        // `GridSample` names the last axis first.
        let grid = crate::parts::gather(cx, grid, 2, &[2], |i| 1 - i)?;
        let grid = transpose(cx, grid, &[0, 1, 3, 2])?;
        let images = resized(cx, x, &[n * groups, channels / groups, height, width])?;
        let mut values = cx.add(GridSample::default(), &[images, grid])?;
        if let Some(mask) = cx.input(4) {
            let mask = resized(cx, mask, &[n * groups, 1, taps, oh * ow])?;
            values = cx.add(Mul, &[values, mask])?;
        }
        let values = resized(cx, values, &[n, self.group, inputs * taps, oh * ow])?;
        let w = resized(cx, w, &[self.group, outputs / self.group, inputs * taps])?;
        let y = cx.add(MatMul, &[w, values])?;
        let mut y = resized(cx, y, &[n, outputs, oh, ow])?;
        if let Some(bias) = cx.input(3) {
            let bias = reshape(cx, bias, &[-1, 1, 1])?;
            y = cx.add(Add, &[y, bias])?;
        }
        Some(vec![y])
    }

    fn params(&self) -> &'static [usize] {
        &[1, 3]
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::Conv;
    use crate::testing::{Draw, check_gradient, eval};
    use tensor::{DType, Tensor};

    #[test]
    fn without_offsets_it_is_a_convolution() {
        let mut draw = Draw::new(1);
        let (x, w) = (draw.tensor(&[2, 4, 5, 6], -1.0, 1.0), draw.tensor(&[4, 2, 3, 2], -1.0, 1.0));
        let window = Window { dilations: vec![1, 2], ..Window::new(&[3, 2], 2, 1) };
        let want = eval(&Conv { window: window.clone(), group: 2 }, &[&x, &w]).unwrap();
        let offset = Tensor::zeros(DType::F32, &[&[2, 2 * 6 * 2], &want.shape()[2..]].concat());
        let y = eval(&DeformConv { window, group: 2, offset_group: 2 }, &[&x, &w, &offset]).unwrap();
        assert!(y.to_f64().iter().zip(want.to_f64()).all(|(a, b)| (a - b).abs() < 1e-5));
    }

    #[test]
    fn gradients_against_differences() {
        let mut draw = Draw::new(2);
        let (x, w) = (draw.tensor(&[1, 2, 3, 3], -1.0, 1.0), draw.tensor(&[2, 2, 2, 2], -1.0, 1.0));
        // Taps stay between elements, away from the kinks.
        let offset = draw.tensor(&[1, 8, 2, 2], 0.2, 0.8);
        let (bias, mask) = (draw.tensor(&[2], -1.0, 1.0), draw.tensor(&[1, 4, 2, 2], 0.5, 1.0));
        let op = DeformConv { window: Window::new(&[2, 2], 1, 0), group: 1, offset_group: 1 };
        check_gradient(op, &[&x, &w, &offset, &bias, &mask], 1, &[0, 1, 2, 3, 4]);
    }
}
