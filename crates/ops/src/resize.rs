//! `Resize` (ONNX 10, 11, 13, 18, 19) and `Upsample` (ONNX 7, 9), which is read as a `Resize`.

use crate::shapes::{axes, check_table, integers};
use ir::{
    Attr, Attrs, Dim, Infer, Io, Layouts, Lower, OnnxForm, Op, Operand, Parse, Parsed, QuantRole, Step, Type,
    Vjp,
};
use kernels::resize::{Resample, Taps};
use std::sync::Arc;
use tensor::Tensor;

/// How values between elements are made up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Interpolation {
    /// The nearest element.
    #[default]
    Nearest,
    /// Between two neighbours per axis.
    Linear,
    /// Through four neighbours per axis (Keys 1981).
    Cubic,
}

/// Which position of the operand a position of the result stands for. Names and formulas are those of ONNX.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Coordinates {
    #[default]
    HalfPixel,
    /// Opset 19.
    HalfPixelSymmetric,
    PytorchHalfPixel,
    AlignCorners,
    Asymmetric,
    /// Opsets 11 and 12, nearest only.
    TfHalfPixelForNn,
    /// Within the part of the operand that `roi` names.
    TfCropAndResize,
}

/// Which element is the nearest one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Nearest {
    #[default]
    RoundPreferFloor,
    RoundPreferCeil,
    Floor,
    Ceil,
    /// Opset 10: on each axis the ceiling where the result is smaller, else the floor.
    ByScale,
}

/// What `sizes` mean when they would change the aspect ratio (opset 18).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum AspectRatio {
    #[default]
    Stretch,
    NotLarger,
    NotSmaller,
}

const MODES: [(&str, Interpolation); 3] =
    [("nearest", Interpolation::Nearest), ("linear", Interpolation::Linear), ("cubic", Interpolation::Cubic)];

const COORDINATES: [(&str, Coordinates); 7] = [
    ("half_pixel", Coordinates::HalfPixel),
    ("half_pixel_symmetric", Coordinates::HalfPixelSymmetric),
    ("pytorch_half_pixel", Coordinates::PytorchHalfPixel),
    ("align_corners", Coordinates::AlignCorners),
    ("asymmetric", Coordinates::Asymmetric),
    ("tf_half_pixel_for_nn", Coordinates::TfHalfPixelForNn),
    ("tf_crop_and_resize", Coordinates::TfCropAndResize),
];

const NEAREST: [(&str, Nearest); 5] = [
    ("round_prefer_floor", Nearest::RoundPreferFloor),
    ("round_prefer_ceil", Nearest::RoundPreferCeil),
    ("floor", Nearest::Floor),
    ("ceil", Nearest::Ceil),
    ("by_scale", Nearest::ByScale),
];

const ASPECT_RATIOS: [(&str, AspectRatio); 3] = [
    ("stretch", AspectRatio::Stretch),
    ("not_larger", AspectRatio::NotLarger),
    ("not_smaller", AspectRatio::NotSmaller),
];

fn named<T: Copy>(attrs: &Attrs, name: &str, table: &[(&'static str, T)]) -> Result<T, String> {
    let value = attrs.str(name, table[0].0)?;
    table.iter().find(|(n, _)| *n == value).map(|(_, t)| *t).ok_or_else(|| {
        let known: Vec<&str> = table.iter().map(|(n, _)| *n).collect();
        format!("attribute {name} is \"{value}\"; known are {}", known.join(", "))
    })
}

fn name<T: Copy + PartialEq>(table: &[(&'static str, T)], value: T) -> &'static str {
    table.iter().find(|(_, t)| *t == value).map_or(table[0].0, |(n, _)| n)
}

/// `Resize(x, roi?, scales?, sizes?)`: `x` f32; either `scales` f32 or `sizes` i64, one per axis. `roi` is for
/// cropping only: where the part begins on each axis and then where it ends on each, as fractions of the axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Resize {
    /// How values are made up.
    pub mode: Interpolation,
    /// How positions correspond.
    pub coordinates: Coordinates,
    /// Which element is the nearest.
    pub nearest: Nearest,
    /// Coefficient of the cubic kernel.
    pub cubic_a: f32,
    /// Taps outside of the operand have no weight, instead of that of the border (cubic).
    pub exclude_outside: bool,
    /// Wider kernels for smaller results (opset 18).
    pub antialias: bool,
    /// The axes that scales and sizes are for, all where `None` (opset 18).
    pub axes: Option<Vec<i64>>,
    /// What sizes mean.
    pub aspect_ratio: AspectRatio,
    /// Value outside of the operand, where `roi` reaches there.
    pub extrapolation: f32,
}

impl Default for Resize {
    fn default() -> Resize {
        Resize {
            mode: Interpolation::default(),
            coordinates: Coordinates::default(),
            nearest: Nearest::default(),
            cubic_a: -0.75,
            exclude_outside: false,
            antialias: false,
            axes: None,
            aspect_ratio: AspectRatio::default(),
            extrapolation: 0.0,
        }
    }
}

/// Reads `Resize`. Opset 10 had only the scales, at slot 1, and the coordinates of `Upsample`.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    let op = Resize::from_attrs(cx.attrs)?;
    if cx.opset > 10 {
        return Ok(op.into());
    }
    let nearest = if op.mode == Interpolation::Nearest { Nearest::ByScale } else { Nearest::default() };
    let op = Resize { coordinates: Coordinates::Asymmetric, nearest, ..op };
    Ok(Parsed { moved: vec![(1, 2)], ..op.into() })
}

/// Reads `Upsample`, whose scales were an attribute in opset 7.
pub fn parse_upsample(cx: &Parse) -> Result<Parsed, String> {
    let mode = match cx.attrs.str("mode", "nearest")? {
        "bilinear" => Interpolation::Linear,
        _ => named(cx.attrs, "mode", &MODES)?,
    };
    let op =
        Resize { mode, coordinates: Coordinates::Asymmetric, nearest: Nearest::Floor, ..Resize::default() };
    match cx.attrs.floats("scales")? {
        Some(scales) if cx.ins < 2 => {
            let n = scales.len();
            Ok(Parsed { inputs: vec![(2, Tensor::new(&[n], scales))], ..op.into() })
        }
        _ => Ok(Parsed { moved: vec![(1, 2)], ..op.into() }),
    }
}

/// Reads the gradient.
pub fn parse_grad(cx: &Parse) -> Result<Parsed, String> {
    let shape = cx.attrs.sizes("shape")?.ok_or("attribute shape is missing")?;
    Ok(ResizeGrad { of: Resize::from_attrs(cx.attrs)?, shape }.into())
}

/// Size and scale of each axis of the result.
type Target = Vec<(usize, f32)>;

impl Resize {
    fn from_attrs(attrs: &Attrs) -> Result<Resize, String> {
        let flag = |name| Ok::<_, String>(attrs.int(name, 0)? != 0);
        Ok(Resize {
            mode: named(attrs, "mode", &MODES)?,
            coordinates: named(attrs, "coordinate_transformation_mode", &COORDINATES)?,
            nearest: named(attrs, "nearest_mode", &NEAREST)?,
            cubic_a: attrs.float("cubic_coeff_a", -0.75)?,
            exclude_outside: flag("exclude_outside")?,
            antialias: flag("antialias")?,
            axes: attrs.ints("axes")?,
            aspect_ratio: named(attrs, "keep_aspect_ratio_policy", &ASPECT_RATIOS)?,
            extrapolation: attrs.float("extrapolation_value", 0.0)?,
        })
    }

    /// Sizes and scales of the result, axis by axis; `None` for an axis of unknown size.
    fn target(
        &self,
        dims: &[Option<usize>],
        scales: Option<&[f32]>,
        sizes: Option<&[i64]>,
    ) -> Result<Vec<Option<(usize, f32)>>, String> {
        let rank = dims.len();
        let all: Vec<usize> = match &self.axes {
            None => (0..rank).collect(),
            Some(list) => {
                axes(list, rank)?;
                list.iter().map(|&a| crate::shapes::axis(a, rank)).collect::<Result<_, _>>()?
            }
        };
        let given = scales.map_or(sizes.map_or(0, <[_]>::len), <[_]>::len);
        if given != all.len() {
            return Err(format!("{given} scales or sizes are given for {} axes", all.len()));
        }
        let mut target: Vec<Option<(usize, f32)>> = dims.iter().map(|d| d.map(|n| (n, 1.0))).collect();
        if let Some(scales) = scales {
            for (&axis, &scale) in all.iter().zip(scales) {
                if !(scale > 0.0 && scale.is_finite()) {
                    return Err(format!("scales should be positive, but are {scales:?}"));
                }
                let size = |n: usize| (n as f64 * scale as f64).floor();
                if dims[axis].is_some_and(|n| size(n) > (1u64 << 40) as f64) {
                    return Err(format!("scales {scales:?} are too large"));
                }
                target[axis] = dims[axis].map(|n| (size(n) as usize, scale));
            }
        } else if let Some(sizes) = sizes {
            let wanted = sizes
                .iter()
                .map(|&s| usize::try_from(s).ok().filter(|s| *s < 1 << 40))
                .collect::<Option<Vec<_>>>();
            let wanted = wanted.ok_or_else(|| format!("sizes {sizes:?} are not sizes"))?;
            let ratio = |(&axis, &m): (&usize, &usize)| dims[axis].map(|n| m as f32 / n as f32);
            let ratios: Option<Vec<f32>> = all.iter().zip(&wanted).map(ratio).collect();
            let common = match (self.aspect_ratio, &ratios) {
                (AspectRatio::Stretch, _) => None,
                (_, None) => return Ok(vec![None; rank]),
                (AspectRatio::NotLarger, Some(r)) => Some(r.iter().copied().fold(f32::INFINITY, f32::min)),
                (AspectRatio::NotSmaller, Some(r)) => Some(r.iter().copied().fold(0.0, f32::max)),
            };
            for (&axis, &m) in all.iter().zip(&wanted) {
                target[axis] = match (common, dims[axis]) {
                    (Some(r), Some(n)) => Some(((r as f64 * n as f64 + 0.5).floor() as usize, r)),
                    (None, Some(n)) => Some((m, m as f32 / n as f32)),
                    // The size is known even where the scale is not.
                    (_, None) => Some((m, f32::NAN)),
                };
            }
        }
        Ok(target)
    }

    /// As [`Resize::target`], of constant operands 2 and 3, for a tensor of `shape`.
    fn constant_target(&self, cx: &Lower, shape: &[usize]) -> Result<Target, String> {
        let given = |i: usize| cx.optional(i).filter(|o| !o.is_empty()).map(|_| cx.constant(i)).transpose();
        let (scales, sizes) = (given(2)?.map(Tensor::to_f32), given(3)?.map(Tensor::to_i64));
        let dims: Vec<Option<usize>> = shape.iter().copied().map(Some).collect();
        let target = self.target(&dims, scales.as_deref(), sizes.as_deref())?;
        target.into_iter().collect::<Option<Target>>().ok_or_else(|| "the size of the result is open".into())
    }

    /// Where on each axis the part that is resized begins and ends, of constant operand 1; all of it where there is none.
    fn parts(&self, cx: &Lower, rank: usize) -> Result<Vec<[f32; 2]>, String> {
        let mut parts = vec![[0.0, 1.0]; rank];
        if self.coordinates != Coordinates::TfCropAndResize {
            return Ok(parts);
        }
        let roi = cx.constant(1)?.to_f32();
        let named = match &self.axes {
            None => (0..rank).collect(),
            Some(list) => {
                list.iter().map(|&a| crate::shapes::axis(a, rank)).collect::<Result<Vec<_>, _>>()?
            }
        };
        if roi.len() != 2 * named.len() {
            return Err(format!("the region {roi:?} should have {} entries", 2 * named.len()));
        }
        for (i, &axis) in named.iter().enumerate() {
            parts[axis] = [roi[i], roi[named.len() + i]];
        }
        Ok(parts)
    }

    /// Where element `i` of `m` lies among `n` elements, of which `part` is resized.
    fn position(&self, i: usize, n: usize, m: usize, scale: f32, part: [f32; 2]) -> f32 {
        let x = i as f32;
        // Scales that are not a ratio of sizes leave the result shorter than what they ask for.
        let wanted = scale * n as f32;
        let wanted = if (wanted - m as f32).abs() < 1e-3 { m as f32 } else { wanted };
        match self.coordinates {
            Coordinates::Asymmetric => x / scale,
            Coordinates::AlignCorners if wanted == 1.0 => 0.0,
            Coordinates::AlignCorners => x * (n - 1) as f32 / (wanted - 1.0),
            Coordinates::TfCropAndResize => {
                let (last, [from, to]) = ((n - 1) as f32, part);
                let along = if wanted == 1.0 { last / 2.0 } else { x * last / (wanted - 1.0) };
                along * (to - from) + from * last
            }
            Coordinates::PytorchHalfPixel if m == 1 => 0.0,
            Coordinates::TfHalfPixelForNn => (x + 0.5) / scale,
            Coordinates::HalfPixelSymmetric => {
                let center = n as f32 / 2.0;
                let offset = center * (1.0 - m as f32 / (n as f32 * scale));
                offset + (x + 0.5) / scale - 0.5
            }
            _ => (x + 0.5) / scale - 0.5,
        }
    }

    /// Elements and weights for position `x` among `n` elements, for a result of `scale` times their number.
    fn taps(&self, x: f32, n: usize, scale: f32) -> Vec<(usize, f32)> {
        let last = (n - 1) as f32;
        let (x, reach) = match self.mode {
            Interpolation::Nearest => {
                let nearest = match self.nearest {
                    Nearest::RoundPreferFloor => (x - 0.5).ceil(),
                    Nearest::RoundPreferCeil => (x + 0.5).floor(),
                    Nearest::ByScale if scale < 1.0 => x.ceil(),
                    Nearest::Floor | Nearest::ByScale => x.floor(),
                    Nearest::Ceil => x.ceil(),
                };
                return vec![(nearest.clamp(0.0, last) as usize, 1.0)];
            }
            // Beyond the border linear interpolation has the border's value, as taps there do.
            Interpolation::Linear => (if self.antialias { x } else { x.clamp(0.0, last) }, 1.0),
            Interpolation::Cubic => (x, 2.0),
        };
        // Antialiasing lets a kernel reach over all elements that a smaller result stands for.
        let shrink = if self.antialias { scale.min(1.0) } else { 1.0 };
        let (from, to) = ((x - reach / shrink).floor() + 1.0, (x + reach / shrink).ceil() - 1.0);
        let count = (to - from).max(0.0) as usize + 1;
        let mut taps: Vec<(usize, f32)> = Vec::with_capacity(count);
        for at in (0..count).map(|i| from + i as f32) {
            if (0.0..=last).contains(&at) || !self.exclude_outside {
                taps.push((at.clamp(0.0, last) as usize, self.weight((at - x).abs() * shrink)));
            }
        }
        let total: f32 = taps.iter().map(|t| t.1).sum();
        if (self.exclude_outside || self.antialias) && total != 0.0 {
            taps.iter_mut().for_each(|t| t.1 /= total);
        }
        taps
    }

    /// The weight of an element at a distance.
    fn weight(&self, d: f32) -> f32 {
        let a = self.cubic_a;
        match self.mode {
            Interpolation::Cubic if d <= 1.0 => ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0,
            Interpolation::Cubic if d < 2.0 => ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a,
            Interpolation::Cubic => 0.0,
            _ => (1.0 - d).max(0.0),
        }
    }

    /// The plan to resize `x`, given by its memory; and for each axis of the memory which places of the result lie outside of
    /// `x`.
    fn plan(
        &self,
        x: &Operand,
        target: &Target,
        parts: &[[f32; 2]],
    ) -> Result<(Resample, Vec<Vec<bool>>), String> {
        let mut steps = Vec::new();
        let mut outside = vec![Vec::new(); x.shape.len()];
        let crops = self.coordinates == Coordinates::TfCropAndResize;
        for (axis, (&n, &(m, scale))) in x.shape.iter().zip(target).enumerate() {
            if n == m && scale == 1.0 && parts[axis] == [0.0, 1.0] {
                continue;
            }
            if n == 0 {
                return Err(format!("axis {axis} has no elements to resize"));
            }
            check_table(m)?;
            let positions: Vec<f32> = (0..m).map(|i| self.position(i, n, m, scale, parts[axis])).collect();
            let is_outside = |x: f32| crops && !(0.0..=(n - 1) as f32).contains(&x);
            let rows =
                positions.iter().map(|&x| if is_outside(x) { Vec::new() } else { self.taps(x, n, scale) });
            steps.push((x.memory_axis(axis), Taps::new(n, rows)));
            if positions.iter().any(|&x| is_outside(x)) {
                outside[x.memory_axis(axis)] = positions.into_iter().map(is_outside).collect();
            }
        }
        Ok((Resample::new(&x.memory_shape(), steps), outside))
    }
}

/// Writes `value` where any axis is outside.
fn fill_outside(y: &mut [f32], shape: &[usize], outside: &[Vec<bool>], value: f32) {
    for (i, y) in y.iter_mut().enumerate() {
        let mut left = i;
        for (&n, flags) in shape.iter().zip(outside).rev() {
            if flags.get(left % n) == Some(&true) {
                *y = value;
            }
            left /= n;
        }
    }
}

/// The step of a plan.
fn step(plan: Resample) -> Step {
    let workspace = plan.workspace();
    let run = move |io: &mut Io| {
        let mut parts = io.split();
        plan.run(parts.input(0), parts.output(0), &mut parts.workspace()[..workspace]);
        Ok(())
    };
    Step::new(run).workspace::<f32>(workspace)
}

impl Op for Resize {
    fn name(&self) -> &str {
        "Resize"
    }

    fn attrs(&self) -> Attrs {
        let attrs = Attrs::new()
            .with_str("mode", name(&MODES, self.mode), MODES[0].0)
            .with_str(
                "coordinate_transformation_mode",
                name(&COORDINATES, self.coordinates),
                COORDINATES[0].0,
            )
            .with_str("nearest_mode", name(&NEAREST, self.nearest), NEAREST[0].0)
            .with_float("cubic_coeff_a", self.cubic_a, -0.75)
            .with_int("exclude_outside", self.exclude_outside.into(), 0)
            .with_int("antialias", self.antialias.into(), 0)
            .with_str("keep_aspect_ratio_policy", name(&ASPECT_RATIOS, self.aspect_ratio), ASPECT_RATIOS[0].0)
            .with_float("extrapolation_value", self.extrapolation, 0.0);
        match &self.axes {
            Some(axes) => attrs.with("axes", Attr::Ints(axes.clone())),
            None => attrs,
        }
    }

    fn to_onnx(&self, opset: i64) -> Result<OnnxForm, String> {
        let new = self.antialias || self.axes.is_some() || self.aspect_ratio != AspectRatio::Stretch;
        if opset < 18 && new {
            return Err("Resize has no antialias, axes and aspect ratio before opset 18".into());
        }
        if opset < 19 && self.coordinates == Coordinates::HalfPixelSymmetric {
            return Err("Resize has no half_pixel_symmetric before opset 19".into());
        }
        if self.coordinates == Coordinates::TfHalfPixelForNn {
            return Err("Resize has no tf_half_pixel_for_nn from opset 13 on".into());
        }
        if self.nearest == Nearest::ByScale {
            return Err(
                "Resize has one nearest_mode for all axes, larger or smaller, from opset 11 on".into()
            );
        }
        Ok(OnnxForm { op_type: self.name().into(), attrs: self.attrs(), ..OnnxForm::default() })
    }

    fn settled(&self, cx: &Infer) -> Option<Arc<dyn Op>> {
        let scales = cx.value(2).filter(|_| self.nearest == Nearest::ByScale)?.to_f32();
        let nearest = if scales.iter().all(|&s| s >= 1.0) {
            Nearest::Floor
        } else if scales.iter().all(|&s| s <= 1.0) {
            Nearest::Ceil
        } else {
            return None;
        };
        Some(Arc::new(Resize { nearest, ..self.clone() }))
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let x = cx.ty(0)?;
        let Some(dims) = &x.shape else { return Ok(vec![Type { dtype: x.dtype, shape: None }]) };
        // An empty tensor stands for an omitted operand, too.
        let empty = |i: usize| cx.ty(i).is_ok_and(|t| t.dims().is_some_and(|d| d.contains(&0)));
        let given = |i: usize| cx.has(i) && !empty(i);
        let (scales, sizes) = (cx.value(2).filter(|_| given(2)), integers(cx, 3)?.filter(|_| given(3)));
        let computed = (given(2) && scales.is_none()) || (given(3) && sizes.is_none());
        let shape = if computed {
            crate::shapes::unknown(dims.len())
        } else {
            if given(2) == given(3) {
                return Err("either scales or sizes should be given".into());
            }
            let known: Vec<Option<usize>> = dims.iter().map(Dim::fixed).collect();
            let target = self.target(&known, scales.map(Tensor::to_f32).as_deref(), sizes.as_deref())?;
            let unscaled = |axis: usize| {
                let at = match &self.axes {
                    None => Some(axis),
                    Some(a) => a.iter().position(|&a| crate::shapes::axis(a, dims.len()) == Ok(axis)),
                };
                at.is_none_or(|at| scales.is_some_and(|s| s.to_f32().get(at) == Some(&1.0)))
            };
            let mut shape = Vec::with_capacity(dims.len());
            for (axis, (dim, size)) in dims.iter().zip(target).enumerate() {
                shape.push(match size {
                    Some((m, _)) => Dim::Fixed(m),
                    None if unscaled(axis) => dim.clone(),
                    None => Dim::Unknown,
                });
            }
            shape
        };
        Ok(vec![Type { dtype: x.dtype, shape: Some(shape) }])
    }

    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        let grad = ResizeGrad { of: self.clone(), shape: cx.dims(cx.input(0)?)? };
        let ins = [cx.d_output(0), cx.input(1), cx.input(2), cx.input(3)];
        let ins = &ins[..if ins[3].is_some() { 4 } else { 3 }];
        let d = cx.add_multi(Arc::new(grad), ins, 1)?[0];
        cx.set(0, d);
        Some(())
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let x = cx.typed::<f32>(0)?;
        let target = self.constant_target(cx, &x.shape)?;
        let (plan, outside) = self.plan(x, &target, &self.parts(cx, x.shape.len())?)?;
        let step = step(plan);
        let value = self.extrapolation;
        if value == 0.0 || outside.iter().all(Vec::is_empty) {
            return Ok(step);
        }
        let shape = cx.outs[0].memory_shape();
        let (workspace, inner) = (step.workspace, step.run);
        let run = move |io: &mut Io| {
            inner(io)?;
            fill_outside(io.output(0), &shape, &outside, value);
            Ok(())
        };
        Ok(Step::new(run).workspace::<u8>(workspace))
    }

    fn quant(&self) -> QuantRole {
        if self.mode == Interpolation::Nearest { QuantRole::SameScale } else { QuantRole::Float }
    }

    fn layouts(&self) -> Layouts {
        Layouts::ChannelsLast { ins: 1, outs: 1 }
    }
}

/// `ResizeGrad(dy, roi?, scales?, sizes?)`: gives each element the gradients of its taps.
#[derive(Clone, Debug, PartialEq)]
pub struct ResizeGrad {
    /// The forward operator.
    pub of: Resize,
    /// Shape of the tensor that was resized.
    pub shape: Vec<usize>,
}

impl Op for ResizeGrad {
    fn name(&self) -> &str {
        "ResizeGrad"
    }

    fn domain(&self) -> &str {
        "qat"
    }

    fn attrs(&self) -> Attrs {
        self.of.attrs().with("shape", Attr::Ints(self.shape.iter().map(|&n| n as i64).collect()))
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let shape = Some(self.shape.iter().map(|&n| n.into()).collect());
        Ok(vec![Type { dtype: cx.float(0)?.dtype, shape }])
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let (dy, dx) = (cx.typed::<f32>(0)?, &cx.outs[0]);
        let target = self.of.constant_target(cx, &self.shape)?;
        let (plan, _) = self.of.plan(dx, &target, &self.of.parts(cx, self.shape.len())?)?;
        if plan.lens()[1] != dy.len() {
            return Err(format!("the gradient {:?} is not that of a resized {:?}", dy.shape, self.shape));
        }
        Ok(step(plan.transposed()))
    }

    fn layouts(&self) -> Layouts {
        Layouts::ChannelsLast { ins: 1, outs: 1 }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::shapes::list;
    use crate::testing::{Draw, check_gradient_within, run};
    use ir::Arg;
    use tensor::DType;

    fn op(mode: Interpolation, coordinates: Coordinates) -> Resize {
        Resize { mode, coordinates, ..Resize::default() }
    }

    fn by_scales(op: &Resize, x: &Tensor, scales: &[f32]) -> Result<Tensor, String> {
        let scales = Tensor::new(&[scales.len()], scales.to_vec());
        run(op, &[Some(x), None, Some(&scales)], 1).map(|mut y| y.remove(0))
    }

    fn by_sizes(op: &Resize, x: &Tensor, sizes: &[i64]) -> Result<Tensor, String> {
        run(op, &[Some(x), None, None, Some(&list(sizes))], 1).map(|mut y| y.remove(0))
    }

    fn image() -> Tensor {
        Tensor::new(&[1, 1, 2, 2], vec![1.0f32, 2.0, 3.0, 4.0])
    }

    fn close(got: &Tensor, want: &[f64]) {
        assert_eq!(got.len(), want.len());
        let near = got.to_f64().iter().zip(want).all(|(g, w)| (g - w).abs() < 1e-5);
        assert!(near, "{:?} {want:?}", got.to_f64());
    }

    // Numbers of the ONNX node tests of the same names.
    #[test]
    fn upsample_scales_linear() {
        let want = [1.0, 1.25, 1.75, 2.0, 1.5, 1.75, 2.25, 2.5, 2.5, 2.75, 3.25, 3.5, 3.0, 3.25, 3.75, 4.0];
        close(
            &by_scales(&op(Interpolation::Linear, Coordinates::HalfPixel), &image(), &[1.0, 1.0, 2.0, 2.0])
                .unwrap(),
            &want,
        );
        let want = [
            1.0,
            1.333_333_33,
            1.666_666_67,
            2.0,
            1.666_666_67,
            2.0,
            2.333_333_33,
            2.666_666_67,
            2.333_333_33,
            2.666_666_67,
            3.0,
            3.333_333_33,
            3.0,
            3.333_333_33,
            3.666_666_67,
            4.0,
        ];
        close(
            &by_scales(
                &op(Interpolation::Linear, Coordinates::AlignCorners),
                &image(),
                &[1.0, 1.0, 2.0, 2.0],
            )
            .unwrap(),
            &want,
        );
    }

    #[test]
    fn downsample_scales() {
        let x = Tensor::new(&[1, 1, 2, 4], vec![1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
        let linear = op(Interpolation::Linear, Coordinates::HalfPixel);
        close(&by_scales(&linear, &x, &[1.0, 1.0, 0.6, 0.6]).unwrap(), &[2.666_666_5, 4.333_333_1]);
        let nearest = op(Interpolation::Nearest, Coordinates::HalfPixel);
        close(&by_scales(&nearest, &x, &[1.0, 1.0, 0.6, 0.6]).unwrap(), &[1.0, 3.0]);
    }

    #[test]
    fn upsample_nearest() {
        let nearest = op(Interpolation::Nearest, Coordinates::HalfPixel);
        let want = [1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 3.0, 3.0, 3.0, 4.0, 4.0, 4.0];
        let want: Vec<f64> = want.into_iter().chain([3.0, 3.0, 3.0, 4.0, 4.0, 4.0]).collect();
        close(&by_scales(&nearest, &image(), &[1.0, 1.0, 2.0, 3.0]).unwrap(), &want);
        let x = Tensor::new(&[1, 1, 1, 4], vec![1.0f32, 2.0, 3.0, 4.0]);
        let floor =
            Resize { nearest: Nearest::Floor, ..op(Interpolation::Nearest, Coordinates::AlignCorners) };
        close(&by_sizes(&floor, &x, &[1, 1, 1, 8]).unwrap(), &[1.0, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0]);
        let ceil = Resize { nearest: Nearest::Ceil, ..nearest.clone() };
        close(&by_sizes(&ceil, &x, &[1, 1, 1, 8]).unwrap(), &[1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0, 4.0]);
        let up = Resize {
            nearest: Nearest::RoundPreferCeil,
            ..op(Interpolation::Nearest, Coordinates::Asymmetric)
        };
        close(&by_sizes(&up, &x, &[1, 1, 1, 8]).unwrap(), &[1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0, 4.0]);
        let symmetric = op(Interpolation::Linear, Coordinates::HalfPixelSymmetric);
        close(
            &by_scales(&symmetric, &image(), &[1.0, 1.0, 2.3, 2.94]).unwrap().reshape(&[20]).unwrap(),
            &[
                1.0,
                1.159_863_9,
                1.5,
                1.840_136_1,
                2.0,
                1.565_217_39,
                1.725_081_34,
                2.065_217_39,
                2.405_353_44,
                2.565_217_39,
                2.434_782_61,
                2.594_646_55,
                2.934_782_61,
                3.274_918_66,
                3.434_782_61,
                3.0,
                3.159_863_95,
                3.5,
                3.840_136_05,
                4.0,
            ],
        );
    }

    #[test]
    fn upsample_cubic() {
        let x = Tensor::new(&[1, 1, 1, 4], vec![1.0f32, 2.0, 3.0, 4.0]);
        let cubic = op(Interpolation::Cubic, Coordinates::HalfPixel);
        // By hand from the weights of Keys' kernel; the steps between are those of the first row of the ONNX node test.
        let want = [
            0.894_531_25,
            1.191_406_25,
            1.667_968_75,
            2.296_875,
            2.703_125,
            3.332_031_25,
            3.808_593_75,
            4.105_468_75,
        ];
        close(&by_scales(&cubic, &x, &[1.0, 1.0, 1.0, 2.0]).unwrap(), &want);
        let excluding = Resize { exclude_outside: true, ..cubic };
        let y = by_scales(&excluding, &x, &[1.0, 1.0, 1.0, 2.0]).unwrap();
        let ones = by_scales(&excluding, &Tensor::new(&[1, 1, 1, 4], vec![1.0f32; 4]), &[1.0, 1.0, 1.0, 2.0])
            .unwrap();
        close(&ones, &[1.0; 8]);
        assert_eq!(y.shape(), [1, 1, 1, 8]);
    }

    #[test]
    fn sizes_of_some_axes() {
        let keep = |aspect_ratio| Resize { axes: Some(vec![2, 3]), aspect_ratio, ..Resize::default() };
        let x = Tensor::zeros(DType::F32, &[1, 1, 2, 4]);
        let shape = |op: &Resize| by_sizes(op, &x, &[7, 8]).unwrap().shape().to_vec();
        assert_eq!(shape(&keep(AspectRatio::Stretch)), [1, 1, 7, 8]);
        assert_eq!(shape(&keep(AspectRatio::NotLarger)), [1, 1, 4, 8]);
        assert_eq!(shape(&keep(AspectRatio::NotSmaller)), [1, 1, 7, 14]);
        assert!(keep(AspectRatio::Stretch).to_onnx(17).is_err());
    }

    #[test]
    fn nonsense_is_told() {
        let op = Resize::default();
        assert!(
            by_scales(&op, &image(), &[1.0, 2.0])
                .unwrap_err()
                .contains("2 scales or sizes are given for 4 axes")
        );
        assert!(by_scales(&op, &image(), &[1.0, 1.0, -1.0, 1.0]).unwrap_err().contains("positive"));
        assert!(by_scales(&op, &image(), &[1.0, 1.0, 1e30, 1.0]).unwrap_err().contains("too large"));
        assert!(by_sizes(&op, &image(), &[1, 1, -2, 1]).unwrap_err().contains("not sizes"));
        assert!(run(&op, &[Some(&image())], 1).unwrap_err().contains("either scales or sizes"));
        let attrs = Attrs::new().with_str("mode", "area", "");
        assert!(parse(&Parse { attrs: &attrs, opset: 13, ins: 3, outs: 1 }).unwrap_err().contains("area"));
    }

    #[test]
    fn antialiasing_takes_the_mean_of_what_a_place_stands_for() {
        let x = Tensor::new(&[1, 1, 1, 8], (0..8).map(|i| i as f32).collect());
        let smooth = |mode| Resize { antialias: true, ..op(mode, Coordinates::HalfPixel) };
        let y = by_scales(&smooth(Interpolation::Linear), &x, &[1.0, 1.0, 1.0, 0.25]).unwrap();
        // Triangles over eight elements, those beyond the border standing for it.
        close(&y, &[1.65625, 5.34375]);
        for mode in [Interpolation::Linear, Interpolation::Cubic] {
            // A larger result is what it is without.
            let larger = by_scales(&op(mode, Coordinates::HalfPixel), &x, &[1.0, 1.0, 1.0, 2.0]).unwrap();
            let same = by_scales(&smooth(mode), &x, &[1.0, 1.0, 1.0, 2.0]).unwrap();
            close(&same, &larger.to_f64());
            let ins = [Some(&x), None, Some(&Tensor::new(&[4], vec![1.0f32, 1.0, 1.0, 0.4]))];
            check_gradient_within(Arc::new(smooth(mode)), &ins, 1, &[0], Default::default());
        }
    }

    #[test]
    fn crops() {
        let x = Tensor::new(&[1, 1, 1, 5], (0..5).map(|i| i as f32).collect());
        let crop = |extrapolation| Resize {
            extrapolation,
            ..op(Interpolation::Linear, Coordinates::TfCropAndResize)
        };
        let at = |op: &Resize, from: f32, to: f32| {
            let roi = Tensor::new(&[8], vec![0.0, 0.0, 0.0, from, 1.0, 1.0, 1.0, to]);
            run(op, &[Some(&x), Some(&roi), None, Some(&list(&[1, 1, 1, 3]))], 1).unwrap()[0].to_f32()
        };
        assert_eq!(at(&crop(9.0), 0.25, 0.75), [1.0, 2.0, 3.0]);
        assert_eq!(at(&crop(9.0), 0.5, 1.5), [2.0, 4.0, 9.0]);
        assert_eq!(at(&crop(0.0), 0.5, 1.5), [2.0, 4.0, 0.0]);
        let none = run(&crop(0.0), &[Some(&x), None, None, Some(&list(&[1, 1, 1, 3]))], 1);
        assert!(none.unwrap_err().contains("input 1 is missing"));
    }

    #[test]
    fn aligned_corners_go_by_the_scale() {
        // 0.6 of 4 elements would be 2.4: the corner lies beyond the two that there are.
        let x = Tensor::new(&[1, 1, 1, 4], vec![1.0f32, 2.0, 3.0, 4.0]);
        let op = op(Interpolation::Linear, Coordinates::AlignCorners);
        close(&by_scales(&op, &x, &[1.0, 1.0, 1.0, 0.6]).unwrap(), &[1.0, 1.0 + 3.0 / 1.4]);
        close(&by_sizes(&op, &x, &[1, 1, 1, 2]).unwrap(), &[1.0, 4.0]);
    }

    #[test]
    fn older_forms() {
        let scales = Attrs::new().with("scales", Attr::Floats(vec![1.0, 1.0, 2.0, 2.0]));
        let seven = parse_upsample(&Parse { attrs: &scales, opset: 7, ins: 1, outs: 1 }).unwrap();
        assert_eq!(seven.inputs, [(2, Tensor::new(&[4], vec![1.0f32, 1.0, 2.0, 2.0]))]);
        let nine = parse_upsample(&Parse { attrs: &Attrs::new(), opset: 9, ins: 2, outs: 1 }).unwrap();
        assert_eq!(nine.moved, [(1, 2)]);
        assert_eq!(nine.op.name(), "Resize");
        let ten = parse(&Parse { attrs: &Attrs::new(), opset: 10, ins: 2, outs: 1 }).unwrap();
        assert_eq!(ten.moved, [(1, 2)]);
        assert_eq!(ten.op.is::<Resize>().unwrap().coordinates, Coordinates::Asymmetric);
    }

    // Numbers of ONNX Runtime.
    #[test]
    fn nearest_of_opset_10() {
        let op = parse(&Parse { attrs: &Attrs::new(), opset: 10, ins: 2, outs: 1 }).unwrap().op;
        let resize = op.is::<Resize>().unwrap();
        let x = Tensor::new(&[1, 1, 2, 4], (1..9).map(|i| i as f32).collect());
        let mixed = [1.0, 1.0, 2.0, 0.6];
        close(&by_scales(resize, &x, &[1.0, 1.0, 0.6, 0.6]).unwrap(), &[1.0, 3.0]);
        close(&by_scales(resize, &x, &mixed).unwrap(), &[1.0, 3.0, 1.0, 3.0, 5.0, 7.0, 5.0, 7.0]);
        let (ty, list) = (Type::new(DType::F32, [1usize, 1, 2, 4]), Type::new(DType::F32, [4usize]));
        let written = |scales: &[f32]| {
            let scales = Tensor::new(&[4], scales.to_vec());
            let args =
                [Some(Arg { ty: &ty, value: None }), None, Some(Arg { ty: &list, value: Some(&scales) })];
            let settled = op.settled(&Infer::new(&args, 1)).unwrap_or(op.clone());
            settled.to_onnx(17).map(|form| form.attrs.str("nearest_mode", "").unwrap().to_string())
        };
        assert_eq!(written(&[1.0, 1.0, 2.0, 1.5]).unwrap(), "floor");
        assert_eq!(written(&[1.0, 1.0, 0.5, 0.6]).unwrap(), "ceil");
        assert!(written(&mixed).unwrap_err().contains("one nearest_mode"));
    }

    #[test]
    fn open_sizes() {
        let ty = Type::new(DType::F32, [Dim::sym("N"), 3.into(), Dim::sym("H"), 4.into()]);
        let scales = Tensor::new(&[4], vec![1.0f32, 1.0, 2.0, 2.0]);
        let list = Type::new(DType::F32, [4usize]);
        let args = [Some(Arg { ty: &ty, value: None }), None, Some(Arg { ty: &list, value: Some(&scales) })];
        assert_eq!(Resize::default().infer(&Infer::new(&args, 1)).unwrap()[0].to_string(), "float[N,3,?,8]");
    }

    #[test]
    fn gradient() {
        let mut draw = Draw::new(1);
        let x = draw.tensor(&[2, 3, 3, 4], -1.0, 1.0);
        let modes = [Interpolation::Nearest, Interpolation::Linear, Interpolation::Cubic];
        let coordinates = [Coordinates::HalfPixel, Coordinates::Asymmetric, Coordinates::AlignCorners];
        for (mode, coordinates) in modes.into_iter().flat_map(|m| coordinates.map(|c| (m, c))) {
            for scales in [[1.0f32, 1.0, 2.0, 1.5], [1.0, 1.0, 0.7, 2.0]] {
                let scales = Tensor::new(&[4], scales.to_vec());
                let op = Arc::new(op(mode, coordinates));
                check_gradient_within(op, &[Some(&x), None, Some(&scales)], 1, &[0], Default::default());
            }
            let sizes = list(&[2, 3, 6, 5]);
            let op = Arc::new(op(mode, coordinates));
            check_gradient_within(op, &[Some(&x), None, None, Some(&sizes)], 1, &[0], Default::default());
        }
    }
}
