//! `GridSample` (ONNX 16, 20, 22): values of images at the positions of a grid (Jaderberg et al. 2015, arXiv 1506.02025); and
//! its gradient `qat.GridSampleGrad`.
//!
//! Opset 20 renamed `bilinear` and `bicubic`, and brought images of any number of axes.

use ir::{Attrs, Dim, Infer, Io, Lower, OnnxForm, Op, Parse, Parsed, Step, Type, Vjp};
use kernels::grid_sample::{Between, Outside, Sampling};
use std::sync::Arc;

/// `GridSample(x, grid)`: `x` f32 `(N, C, spatial...)`, `grid` f32 `(N, points..., axes)`; the value of `x` at each position,
/// `(N, C, points...)`. A position names the last axis first, and runs from -1 to 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GridSample {
    /// How values between elements are made up.
    pub mode: Between,
    /// What stands outside of the image.
    pub padding: Outside,
    /// -1 and 1 stand for the centers of the outermost elements, instead of their outer edges.
    pub align_corners: bool,
}

impl Default for GridSample {
    fn default() -> GridSample {
        GridSample { mode: Between::Linear, padding: Outside::Zeros, align_corners: false }
    }
}

/// Names of opset 20 and those before.
const MODES: [(&str, &str, Between); 3] = [
    ("linear", "bilinear", Between::Linear),
    ("nearest", "nearest", Between::Nearest),
    ("cubic", "bicubic", Between::Cubic),
];

const PADDINGS: [(&str, Outside); 3] =
    [("zeros", Outside::Zeros), ("border", Outside::Border), ("reflection", Outside::Reflection)];

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    Ok(GridSample::from_attrs(cx.attrs)?.into())
}

impl GridSample {
    fn from_attrs(attrs: &Attrs) -> Result<GridSample, String> {
        let (mode, padding) = (attrs.str("mode", "linear")?, attrs.str("padding_mode", "zeros")?);
        let known = MODES.iter().find(|(new, old, _)| [new, old].contains(&&mode));
        let outside = PADDINGS.iter().find(|(name, _)| *name == padding);
        Ok(GridSample {
            mode: known
                .ok_or_else(|| {
                    format!("attribute mode should be linear, nearest or cubic, but is \"{mode}\"")
                })?
                .2,
            padding: outside
                .ok_or_else(|| {
                    format!(
                        "attribute padding_mode should be zeros, border or reflection, but is \"{padding}\""
                    )
                })?
                .1,
            align_corners: attrs.int("align_corners", 0)? != 0,
        })
    }

    /// The attributes, with the name of the mode in the words of `opset`.
    fn attrs_at(&self, opset: i64) -> Attrs {
        let mode =
            MODES.iter().find(|m| m.2 == self.mode).map_or("linear", |m| if opset < 20 { m.1 } else { m.0 });
        let padding = PADDINGS.iter().find(|p| p.1 == self.padding).map_or("zeros", |p| p.0);
        let default = if opset < 20 { "bilinear" } else { "linear" };
        Attrs::new().with_str("mode", mode, default).with_str("padding_mode", padding, "zeros").with_int(
            "align_corners",
            self.align_corners.into(),
            0,
        )
    }

    /// The shape of the values of `x` at `grid`.
    fn values(x: &Type, grid: &Type) -> Result<Option<Vec<Dim>>, String> {
        let (Some(xs), Some(gs)) = (&x.shape, &grid.shape) else { return Ok(None) };
        let fits = xs.len() > 2 && gs.len() == xs.len();
        let coordinates = gs.last().is_some_and(|d| d.agrees(&Dim::Fixed(xs.len().saturating_sub(2))));
        if !fits || !coordinates || !gs[0].agrees(&xs[0]) {
            return Err(format!("the grid {grid} does not name positions in {x}"));
        }
        Ok(Some(xs[..2].iter().chain(&gs[1..gs.len() - 1]).cloned().collect()))
    }

    /// For the kernels, of images and grids of these shapes.
    fn plan(&self, x: &[usize], grid: &[usize]) -> Result<Sampling, String> {
        let ([_, channels, image @ ..], [_, points @ .., _]) = (x, grid) else {
            return Err(format!("shapes {x:?} and {grid:?} are none of an image and a grid"));
        };
        if image.contains(&0) {
            return Err(format!("images of shape {x:?} are empty"));
        }
        Ok(Sampling {
            between: self.mode,
            outside: self.padding,
            align_corners: self.align_corners,
            channels: *channels,
            image: image.to_vec(),
            points: points.iter().product(),
        })
    }
}

impl Op for GridSample {
    fn name(&self) -> &str {
        "GridSample"
    }

    fn attrs(&self) -> Attrs {
        self.attrs_at(20)
    }

    fn to_onnx(&self, opset: i64) -> Result<OnnxForm, String> {
        if opset < 16 {
            return Err("GridSample exists from opset 16 on".into());
        }
        Ok(OnnxForm { op_type: self.name().into(), attrs: self.attrs_at(opset), ..OnnxForm::default() })
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let (x, grid) = (cx.float(0)?, cx.float(1)?);
        Ok(vec![Type { dtype: x.dtype, shape: GridSample::values(x, grid)? }])
    }

    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        let ins = [cx.d_output(0), cx.input(0), cx.input(1)];
        let grads = cx.add_multi(Arc::new(GridSampleGrad(*self)), &ins, 2)?;
        for (i, &gradient) in grads.iter().enumerate() {
            if cx.wants(i) {
                cx.set(i, gradient);
            }
        }
        Some(())
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let plan = self.plan(&cx.typed::<f32>(0)?.shape, &cx.typed::<f32>(1)?.shape)?;
        Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            plan.forward(parts.input(0), parts.input(1), parts.output(0));
            Ok(())
        }))
    }

    fn flops(&self, cx: &Lower) -> Option<u64> {
        let plan = self.plan(&cx.optional(0)?.shape, &cx.optional(1)?.shape).ok()?;
        Some(plan.most_corners().saturating_mul(2 * cx.outs[0].len() as u64))
    }
}

/// `GridSampleGrad(dy, x, grid)`: the gradients of the images and of the positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GridSampleGrad(pub GridSample);

/// Reads the gradient.
pub fn parse_grad(cx: &Parse) -> Result<Parsed, String> {
    Ok(GridSampleGrad(GridSample::from_attrs(cx.attrs)?).into())
}

impl Op for GridSampleGrad {
    fn name(&self) -> &str {
        "GridSampleGrad"
    }

    fn domain(&self) -> &str {
        "qat"
    }

    fn attrs(&self) -> Attrs {
        self.0.attrs()
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let (dy, x, grid) = (cx.float(0)?, cx.float(1)?, cx.float(2)?);
        let y = Type { dtype: x.dtype, shape: GridSample::values(x, grid)? };
        crate::shapes::gradient_of(dy, &y)?;
        Ok(vec![x.clone(), grid.clone()])
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        cx.typed::<f32>(0)?;
        let plan = self.0.plan(&cx.typed::<f32>(1)?.shape, &cx.typed::<f32>(2)?.shape)?;
        Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let (dx, dgrid) = (parts.output(0), parts.output(1));
            plan.gradients(parts.input(0), parts.input(1), parts.input(2), dx, dgrid);
            Ok(())
        }))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{Draw, Tolerance, check_gradient_within, eval};
    use tensor::Tensor;

    const ALL: [Outside; 3] = [Outside::Zeros, Outside::Border, Outside::Reflection];

    #[test]
    fn values() {
        let x = Tensor::new(&[1, 1, 1, 4], vec![0.0f32, 1.0, 2.0, 3.0]);
        let at = |mode, padding, x_at: f32| {
            let op = GridSample { mode, padding, align_corners: true };
            let grid = Tensor::new(&[1, 1, 1, 2], vec![x_at, 0.0]);
            eval(&op, &[&x, &grid]).unwrap().to_f32()[0]
        };
        assert_eq!(at(Between::Linear, Outside::Zeros, 0.0), 1.5);
        assert_eq!(at(Between::Nearest, Outside::Zeros, 0.5), 2.0);
        assert_eq!(ALL.map(|p| at(Between::Linear, p, 2.0)), [0.0, 3.0, 1.5]);
        assert!(ALL.iter().all(|&p| at(Between::Cubic, p, f32::NAN).is_finite()));
        assert!(ALL.iter().all(|&p| at(Between::Linear, p, f32::INFINITY).is_finite()));
    }

    /// Every neighbour is the one element that there is.
    #[test]
    fn axes_of_one_element() {
        let axes = 30;
        let shape: Vec<usize> = vec![1; axes + 2];
        let grid: Vec<usize> = vec![1; axes + 1].into_iter().chain([axes]).collect();
        let (x, grid) = (Tensor::new(&shape, vec![3f32]), Draw::new(1).tensor(&grid, -1.0, 1.0));
        for mode in [Between::Linear, Between::Cubic] {
            let op = GridSample { mode, padding: Outside::Border, ..GridSample::default() };
            assert!((eval(&op, &[&x, &grid]).unwrap().to_f32()[0] - 3.0).abs() < 1e-4);
        }
    }

    #[test]
    fn gradients_against_differences() {
        let mut draw = Draw::new(1);
        for mode in [Between::Linear, Between::Cubic, Between::Nearest] {
            for padding in ALL {
                for align_corners in [false, true] {
                    let op = Arc::new(GridSample { mode, padding, align_corners });
                    let x = draw.tensor(&[2, 2, 3, 4], -1.0, 1.0);
                    let grid = draw.tensor(&[2, 2, 3, 2], -1.3, 1.3);
                    // Where a neighbour changes, linear interpolation has a kink, hence the small step for positions.
                    let tolerance = Tolerance { step: 1e-2, relative: 1e-2 };
                    check_gradient_within(op.clone(), &[Some(&x), Some(&grid)], 1, &[0], tolerance);
                    if mode == Between::Cubic && padding == Outside::Reflection && !align_corners {
                        let tolerance = Tolerance { step: 2e-3, relative: 3e-2 };
                        check_gradient_within(op, &[Some(&x), Some(&grid)], 1, &[1], tolerance);
                    }
                }
            }
        }
        let volume = draw.tensor(&[1, 2, 2, 3, 2], -1.0, 1.0);
        // Positions away from the kinks at the centers of elements.
        let grid = Tensor::new(&[1, 1, 1, 2, 3], vec![0.1f32, 0.3, -0.2, -0.25, -0.4, 0.15]);
        let ins = [Some(&volume), Some(&grid)];
        check_gradient_within(Arc::new(GridSample::default()), &ins, 1, &[0, 1], Tolerance::default());
    }

    #[test]
    fn names_of_the_modes() {
        let op = GridSample { mode: Between::Cubic, ..GridSample::default() };
        assert_eq!(op.to_onnx(16).unwrap().attrs, Attrs::new().with_str("mode", "bicubic", ""));
        assert_eq!(op.to_onnx(20).unwrap().attrs, Attrs::new().with_str("mode", "cubic", ""));
        assert_eq!(GridSample::from_attrs(&op.to_onnx(16).unwrap().attrs).unwrap(), op);
        let t = |shape: &[usize]| Tensor::zeros(tensor::DType::F32, shape);
        let e = eval(&op, &[&t(&[1, 1, 2, 2]), &t(&[1, 2, 2, 3])]).unwrap_err();
        assert!(e.contains("does not name positions"), "{e}");
    }
}
