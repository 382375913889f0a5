//! `RoiAlign` (ONNX 10, 16, 22): regions of images, resampled to one size (He et al. 2017, arXiv 1703.06870).
//!
//! Opset 16 shifted positions by half an element by default.

use ir::{Attrs, Dim, Infer, Io, Lower, OnnxForm, Op, Parse, Parsed, Step, Type};
use tensor::DType;

/// `RoiAlign(x, regions, batches)`: `x` f32 `(N, C, H, W)`, `regions` `(R, 4)`: left, top, right, bottom, `batches` i64
/// `(R)`: the image of each. The result is `(R, C, height, width)`: of each of so many cells of a region the mean, or the
/// largest, of interpolated values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RoiAlign {
    /// Cells of a region from top to bottom.
    pub height: usize,
    /// Cells from left to right.
    pub width: usize,
    /// Values in a cell along each axis; 0 for as many as it has elements.
    pub samples: usize,
    /// Elements of `x` per unit of `regions`.
    pub scale: f32,
    /// The largest of the weighted neighbours instead of the mean.
    pub max: bool,
    /// Positions count from the edges of elements.
    pub half_pixel: bool,
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    let size = |name: &str, default: i64, least: i64| {
        let n = cx.attrs.int(name, default)?;
        usize::try_from(n)
            .ok()
            .filter(|_| (least..1 << 20).contains(&n))
            .ok_or_else(|| format!("attribute {name} is {n}"))
    };
    let max = match cx.attrs.str("mode", "avg")? {
        "avg" => false,
        "max" => true,
        other => return Err(format!("attribute mode should be avg or max, but is \"{other}\"")),
    };
    let default = if cx.opset < 16 { "output_half_pixel" } else { "half_pixel" };
    let half_pixel = match cx.attrs.str("coordinate_transformation_mode", default)? {
        "half_pixel" => true,
        "output_half_pixel" => false,
        other => {
            return Err(format!(
                "attribute coordinate_transformation_mode should be half_pixel or output_half_pixel, but is \"{other}\""
            ));
        }
    };
    Ok(RoiAlign {
        height: size("output_height", 1, 1)?,
        width: size("output_width", 1, 1)?,
        samples: size("sampling_ratio", 0, 0)?,
        scale: cx.attrs.float("spatial_scale", 1.0)?,
        max,
        half_pixel,
    }
    .into())
}

/// More samples of a cell than this are no use.
const MOST_SAMPLES: usize = 1 << 10;

/// Elements around a position with their weights; none where it lies outside.
fn around(y: f32, x: f32, height: usize, width: usize) -> [(usize, f32); 4] {
    let outside = |at: f32, n: usize| !(-1.0..=n as f32).contains(&at);
    if outside(y, height) || outside(x, width) {
        return [(0, 0.0); 4];
    }
    let axis = |at: f32, n: usize| {
        let at = at.max(0.0);
        match at as usize {
            low if low + 1 >= n => ((n - 1, n - 1), 0.0),
            low => ((low, low + 1), at - low as f32),
        }
    };
    let ((top, bottom), dy) = axis(y, height);
    let ((left, right), dx) = axis(x, width);
    [
        (top * width + left, (1.0 - dy) * (1.0 - dx)),
        (top * width + right, (1.0 - dy) * dx),
        (bottom * width + left, dy * (1.0 - dx)),
        (bottom * width + right, dy * dx),
    ]
}

impl RoiAlign {
    /// Where a region begins, how large its cells are, and how many values each has; all from top to bottom, then from
    /// left to right.
    fn cells(&self, region: &[f32]) -> ([f32; 2], [f32; 2], [usize; 2]) {
        let offset = if self.half_pixel { 0.5 } else { 0.0 };
        let [left, top, right, bottom] = [0, 1, 2, 3].map(|i| region[i] * self.scale - offset);
        let size = |low: f32, high: f32| if self.half_pixel { high - low } else { (high - low).max(1.0) };
        let cell = [size(top, bottom) / self.height as f32, size(left, right) / self.width as f32];
        let samples = cell.map(|cell| match self.samples {
            0 => (cell.ceil().max(0.0) as usize).min(MOST_SAMPLES),
            n => n.min(MOST_SAMPLES),
        });
        ([top, left], cell, samples)
    }

    /// Values of one region of an image of shape `(C, height, width)`.
    fn region(&self, image: &[f32], [height, width]: [usize; 2], region: &[f32], y: &mut [f32]) {
        let ([top, left], cell, [rows, columns]) = self.cells(region);
        let area = height * width;
        for at in 0..self.height * self.width {
            let (row, column) = ((at / self.width) as f32, (at % self.width) as f32);
            let places = (0..rows).flat_map(|i| (0..columns).map(move |j| (i as f32, j as f32)));
            let taps: Vec<[(usize, f32); 4]> = places
                .map(|(i, j)| {
                    let y = top + row * cell[0] + (i + 0.5) * cell[0] / rows as f32;
                    let x = left + column * cell[1] + (j + 0.5) * cell[1] / columns as f32;
                    around(y, x, height, width)
                })
                .collect();
            for (image, y) in image.chunks_exact(area).zip(y.chunks_exact_mut(self.height * self.width)) {
                let values = taps.iter().flatten().map(|&(at, w)| w * image[at]);
                y[at] = match self.max {
                    _ if taps.is_empty() => 0.0,
                    true => values.fold(f32::NEG_INFINITY, f32::max),
                    false => values.sum::<f32>() / taps.len() as f32,
                };
            }
        }
    }
}

impl Op for RoiAlign {
    fn name(&self) -> &str {
        "RoiAlign"
    }

    fn attrs(&self) -> Attrs {
        let mode = if self.half_pixel { "half_pixel" } else { "output_half_pixel" };
        Attrs::new()
            .with_int("output_height", self.height as i64, 1)
            .with_int("output_width", self.width as i64, 1)
            .with_int("sampling_ratio", self.samples as i64, 0)
            .with_float("spatial_scale", self.scale, 1.0)
            .with_str("mode", if self.max { "max" } else { "avg" }, "avg")
            .with_str("coordinate_transformation_mode", mode, "half_pixel")
    }

    fn to_onnx(&self, opset: i64) -> Result<OnnxForm, String> {
        let mut attrs = self.attrs();
        if opset < 16 {
            if self.half_pixel {
                return Err("RoiAlign has no half_pixel before opset 16".into());
            }
            attrs = attrs
                .iter()
                .filter(|(n, _)| *n != "coordinate_transformation_mode")
                .map(|(n, a)| (n.into(), a.clone()))
                .collect();
        }
        Ok(OnnxForm { op_type: self.name().into(), attrs, ..OnnxForm::default() })
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let (x, regions, batches) = (cx.float(0)?, cx.float(1)?, cx.ty(2)?);
        let want = |ty: &Type, dims: [Dim; 2], rank: usize| {
            let want = Type { dtype: ty.dtype, shape: Some(dims[..rank].to_vec()) };
            if ty.agrees(&want) { Ok(()) } else { Err(format!("{ty} should be {want}")) }
        };
        want(regions, [Dim::Unknown, Dim::Fixed(4)], 2)?;
        let count = regions.shape.as_ref().map_or(Dim::Unknown, |s| s[0].clone());
        want(batches, [count.clone(), Dim::Unknown], 1)?;
        let shape = match x.shape.as_deref() {
            Some([_, channels, _, _]) => {
                Some(vec![count, channels.clone(), self.height.into(), self.width.into()])
            }
            None => None,
            Some(_) => return Err(format!("images should have the shape (N, C, H, W), but are {x}")),
        };
        Ok(vec![Type { dtype: x.dtype, shape }])
    }

    fn flops(&self, cx: &Lower) -> Option<u64> {
        let &[_, channels, height, width] = &cx.optional(0)?.shape[..] else { return None };
        let regions = cx.optional(1)?;
        let values = |region: &[f32]| self.cells(region).2.iter().product::<usize>();
        let values: usize = match &regions.value {
            Some(known) => known.to_f32().chunks_exact(4).map(values).sum(),
            // Each may be as large as its image.
            None => {
                let whole = [0.0, 0.0, width as f32, height as f32].map(|at| at / self.scale);
                (regions.len() / 4).saturating_mul(values(&whole))
            }
        };
        crate::shapes::products(4 * channels * self.height * self.width, values)
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let &[batch, channels, height, width] = &cx.typed::<f32>(0)?.shape[..] else {
            return Err("images should have the shape (N, C, H, W)".into());
        };
        cx.typed::<f32>(1)?;
        if cx.input(2)?.dtype != DType::I64 {
            return Err("batches should be int64".into());
        }
        if height == 0 || width == 0 {
            return Err("images are empty".into());
        }
        let (op, image) = (*self, channels * height * width);
        let size = channels * self.height * self.width;
        Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let (x, regions): (&[f32], &[f32]) = (parts.input(0), parts.input(1));
            let batches: &[i64] = parts.input(2);
            let y: &mut [f32] = parts.output(0);
            for (i, &n) in batches.iter().enumerate() {
                let n = usize::try_from(n).ok().filter(|&n| n < batch);
                let n =
                    n.ok_or_else(|| format!("region {i} is of image {}, but there are {batch}", batches[i]))?;
                op.region(
                    &x[n * image..][..image],
                    [height, width],
                    &regions[4 * i..][..4],
                    &mut y[i * size..][..size],
                );
            }
            Ok(())
        }))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::eval;
    use tensor::Tensor;

    #[test]
    fn means_of_a_ramp() {
        let x = Tensor::new(&[1, 1, 4, 4], (0..16).map(|i| i as f32).collect());
        let region = Tensor::new(&[1, 4], vec![0.0f32, 0.0, 4.0, 4.0]);
        let op = RoiAlign { height: 2, width: 2, samples: 2, scale: 1.0, max: false, half_pixel: true };
        let batches = |n: i64| Tensor::new(&[1], vec![n]);
        let y = eval(&op, &[&x, &region, &batches(0)]).unwrap();
        assert_eq!(y.to_f32(), [2.5, 4.5, 10.5, 12.5]);
        assert!(eval(&op, &[&x, &region, &batches(1)]).unwrap_err().contains("there are 1"));
        let endless = Tensor::new(&[1, 4], vec![f32::NEG_INFINITY, 0.0, f32::NAN, f32::INFINITY]);
        assert!(eval(&RoiAlign { samples: 0, ..op }, &[&x, &endless, &batches(0)]).is_ok());
    }

    #[test]
    fn work_is_that_of_the_regions() {
        let operand = |shape: &[usize], value| ir::Operand {
            dtype: DType::F32,
            shape: shape.to_vec(),
            layout: ir::Layout::Plain,
            value,
        };
        let flops = |samples, regions| {
            let op = RoiAlign { height: 2, width: 2, samples, scale: 0.5, max: false, half_pixel: true };
            let ins = vec![Some(operand(&[1, 3, 16, 8], None)), Some(operand(&[1, 4], regions)), None];
            op.flops(&Lower { ins, outs: vec![operand(&[1, 3, 2, 2], None)] })
        };
        // Cells of 8 by 4 elements, of 2 by 1, and of 5 by 5 values; four neighbours each, in 3 * 2 * 2 cells.
        assert_eq!(flops(0, None), Some(2 * 12 * 4 * 32));
        let region = Tensor::new(&[1, 4], vec![0f32, 0.0, 4.0, 8.0]);
        assert_eq!(flops(0, Some(region)), Some(2 * 12 * 4 * 2));
        assert_eq!(flops(5, None), Some(2 * 12 * 4 * 25));
    }
}
