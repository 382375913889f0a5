//! Sliding windows over the spatial axes: attributes and sizes that convolution and pooling share.

use ir::{Attrs, Dim};
use kernels::window::{Axis, Rounding, Window as Plane};

/// How ONNX's `auto_pad` chooses the padding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AutoPad {
    /// `pads` says it.
    #[default]
    NotSet,
    /// As many outputs as `ceil(input / stride)`; an odd element of padding goes to the end.
    SameUpper,
    /// As `SameUpper`, but an odd element goes to the beginning.
    SameLower,
    /// No padding.
    Valid,
}

const AUTO_PADS: [(AutoPad, &str); 4] = [
    (AutoPad::NotSet, "NOTSET"),
    (AutoPad::SameUpper, "SAME_UPPER"),
    (AutoPad::SameLower, "SAME_LOWER"),
    (AutoPad::Valid, "VALID"),
];

/// The window attributes of Conv, ConvTranspose and the pools, as in ONNX. An empty list stands for the default:
/// strides and dilations of 1, no padding, the kernel size of the weight.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// Kernel size per spatial axis; convolutions may leave it to the weight.
    pub kernel: Vec<usize>,
    /// Step between windows.
    pub strides: Vec<usize>,
    /// Step between the elements of one window.
    pub dilations: Vec<usize>,
    /// Padding at the beginning of each spatial axis, then at the end of each.
    pub pads: Vec<usize>,
    /// Padding chosen by the input size instead of `pads`.
    pub auto_pad: AutoPad,
}

/// Rounding of the number of windows: `ceil_mode` of the pools.
pub(crate) fn rounding(ceil: bool) -> Rounding {
    if ceil { Rounding::Ceil } else { Rounding::Floor }
}

impl Window {
    /// A window of this size, with `pads` on every side.
    pub fn new(kernel: &[usize], stride: usize, pad: usize) -> Window {
        let n = kernel.len();
        Window {
            kernel: kernel.to_vec(),
            strides: vec![stride; n],
            pads: vec![pad; 2 * n],
            ..Window::default()
        }
    }

    /// Reads the attributes `kernel_shape`, `strides`, `dilations`, `pads` and `auto_pad`.
    pub(crate) fn parse(attrs: &Attrs) -> Result<Window, String> {
        let list = |name| Ok::<_, String>(attrs.sizes(name)?.unwrap_or_default());
        let auto_pad = attrs.str("auto_pad", "NOTSET")?;
        let auto_pad = AUTO_PADS.iter().find(|a| a.1 == auto_pad);
        let auto_pad = auto_pad
            .ok_or_else(|| "auto_pad should be NOTSET, SAME_UPPER, SAME_LOWER or VALID".to_string())?;
        Ok(Window {
            kernel: list("kernel_shape")?,
            strides: list("strides")?,
            dilations: list("dilations")?,
            pads: list("pads")?,
            auto_pad: auto_pad.0,
        })
    }

    /// The window of a pool, which has no weight to take the kernel size from.
    pub(crate) fn with_kernel(self) -> Result<Window, String> {
        if self.kernel.is_empty() { Err("kernel_shape is missing".into()) } else { Ok(self) }
    }

    /// Adds the attributes that differ from their defaults.
    pub(crate) fn attrs(&self, attrs: Attrs) -> Attrs {
        let lists = [
            ("kernel_shape", &self.kernel, usize::MAX),
            ("strides", &self.strides, 1),
            ("dilations", &self.dilations, 1),
            ("pads", &self.pads, 0),
        ];
        let attrs = lists.into_iter().fold(attrs, |attrs, (name, list, default)| {
            let default = list.iter().all(|&x| x == default);
            if default { attrs } else { attrs.with_sizes(name, list, &[]) }
        });
        match AUTO_PADS.iter().find(|a| a.0 == self.auto_pad) {
            Some((_, name)) => attrs.with_str("auto_pad", name, "NOTSET"),
            None => attrs,
        }
    }

    /// Checks the lengths and values of the attributes against the number of spatial axes.
    pub(crate) fn check(&self, axes: usize) -> Result<(), String> {
        let lists = [
            ("kernel_shape", &self.kernel, axes),
            ("strides", &self.strides, axes),
            ("dilations", &self.dilations, axes),
            ("pads", &self.pads, 2 * axes),
        ];
        for (name, list, expected) in lists {
            if !list.is_empty() && list.len() != expected {
                return Err(format!(
                    "{name} {list:?} should have {expected} entries for {axes} spatial axes"
                ));
            }
            if name != "pads" && list.contains(&0) {
                return Err(format!("{name} {list:?} should be positive"));
            }
        }
        Ok(())
    }

    /// Stride of spatial axis `i`.
    pub(crate) fn stride(&self, i: usize) -> usize {
        self.strides.get(i).copied().unwrap_or(1)
    }

    /// Dilation of spatial axis `i`.
    pub(crate) fn dilation(&self, i: usize) -> usize {
        self.dilations.get(i).copied().unwrap_or(1)
    }

    /// Extent of a kernel of `kernel` elements along axis `i`, holes included.
    pub(crate) fn extent(&self, i: usize, kernel: usize) -> Result<usize, String> {
        let span = kernel.checked_sub(1).and_then(|k| k.checked_mul(self.dilation(i)));
        span.and_then(|s| s.checked_add(1))
            .ok_or_else(|| format!("a kernel of {kernel} elements has no extent"))
    }

    /// Explicit padding of axis `i` of `axes`.
    fn pad(&self, i: usize, axes: usize) -> (usize, usize) {
        let at = |i| self.pads.get(i).copied().unwrap_or(0);
        (at(i), at(i + axes))
    }

    /// Lays the window over axis `i` of `axes`, which has `input` elements.
    pub(crate) fn axis(
        &self,
        i: usize,
        axes: usize,
        input: usize,
        kernel: usize,
        rounding: Rounding,
    ) -> Result<Axis, String> {
        let (stride, dilation) = (self.stride(i), self.dilation(i));
        let ((begin, end), rounding) = match self.auto_pad {
            AutoPad::NotSet => (self.pad(i, axes), rounding),
            AutoPad::Valid => ((0, 0), rounding),
            AutoPad::SameUpper | AutoPad::SameLower => {
                let steps = input.div_ceil(stride).saturating_sub(1);
                let covered = steps.saturating_mul(stride).saturating_add(self.extent(i, kernel)?);
                let total = covered.saturating_sub(input);
                let (small, large) = (total / 2, total - total / 2);
                // `ceil(input / stride)` windows, whatever the rounding.
                (
                    if self.auto_pad == AutoPad::SameUpper { (small, large) } else { (large, small) },
                    Rounding::Floor,
                )
            }
        };
        Axis::new(input, kernel, stride, dilation, begin, end, rounding)
    }

    /// Lays the window over one or two spatial axes, for the kernels.
    pub(crate) fn plane(
        &self,
        input: &[usize],
        kernel: &[usize],
        rounding: Rounding,
    ) -> Result<Plane, String> {
        self.check(input.len())?;
        if kernel.len() != input.len() {
            return Err(format!("a kernel of {} axes lies over {} spatial axes", kernel.len(), input.len()));
        }
        let axis = |i: usize| self.axis(i, input.len(), input[i], kernel[i], rounding);
        match input.len() {
            1 => Ok(Plane::flat(axis(0)?)),
            2 => Ok(Plane { height: axis(0)?, width: axis(1)? }),
            n => Err(format!("the executor runs windows over one or two spatial axes, not {n}")),
        }
    }

    /// Output sizes where known. A named size that the window does not change keeps its name.
    pub(crate) fn outputs(
        &self,
        input: &[Dim],
        kernel: &[Option<usize>],
        rounding: Rounding,
    ) -> Result<Vec<Dim>, String> {
        self.check(input.len())?;
        let axes = input.len();
        let size = |(i, (dim, kernel)): (usize, (&Dim, &Option<usize>))| {
            let Some(kernel) = *kernel else { return Ok(Dim::Unknown) };
            let (stride, extent, pads) = (self.stride(i), self.extent(i, kernel)?, self.pad(i, axes));
            let same = matches!(self.auto_pad, AutoPad::SameUpper | AutoPad::SameLower);
            let valid = self.auto_pad == AutoPad::Valid;
            let padding = if valid { Some(0) } else { pads.0.checked_add(pads.1) };
            match dim {
                Dim::Fixed(n) => Ok(Dim::Fixed(self.axis(i, axes, *n, kernel, rounding)?.output)),
                unchanged if stride == 1 && (same || padding == Some(extent - 1)) => Ok(unchanged.clone()),
                _ => Ok(Dim::Unknown),
            }
        };
        input.iter().zip(kernel).enumerate().map(size).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use ir::Attr;

    fn outputs(w: &Window, input: &[usize], kernel: &[usize], rounding: Rounding) -> Vec<usize> {
        let dims: Vec<Dim> = input.iter().map(|&n| Dim::Fixed(n)).collect();
        let sizes: Vec<Option<usize>> = kernel.iter().map(|&k| Some(k)).collect();
        let outputs = w.outputs(&dims, &sizes, rounding).unwrap();
        outputs.iter().map(|d| d.fixed().unwrap()).collect()
    }

    #[test]
    fn sizes_follow_the_onnx_formulas() {
        use Rounding::{Ceil, Floor};
        assert_eq!(outputs(&Window::new(&[3, 3], 2, 1), &[7, 8], &[3, 3], Floor), [4, 4]);
        assert_eq!(outputs(&Window::new(&[2], 2, 0), &[5], &[2], Floor), [2]);
        assert_eq!(outputs(&Window::new(&[2], 2, 0), &[5], &[2], Ceil), [3]);
        // The window that would begin in the trailing padding is dropped.
        assert_eq!(outputs(&Window::new(&[2], 2, 1), &[3], &[2], Ceil), [2]);
        for (auto_pad, pads) in
            [(AutoPad::SameLower, (1, 0)), (AutoPad::SameUpper, (0, 1)), (AutoPad::Valid, (0, 0))]
        {
            let same = Window { strides: vec![2], auto_pad, ..Window::default() };
            let axis = same.plane(&[6], &[3], Ceil).unwrap().width;
            assert_eq!((axis.pad_begin, axis.pad_end), pads);
            assert_eq!(axis.output, 3);
        }
    }

    #[test]
    fn names_survive_where_the_size_does() {
        let w = Window::new(&[3, 3], 1, 1);
        let dims = [Dim::sym("H"), Dim::Unknown];
        let outputs = |kernel| w.outputs(&dims, kernel, Rounding::Floor).unwrap();
        assert_eq!(outputs(&[Some(3), Some(1)]), [Dim::sym("H"), Dim::Unknown]);
        assert_eq!(outputs(&[Some(5), None])[0], Dim::Unknown);
    }

    #[test]
    fn nonsense_is_told() {
        let fail = |w: &Window, input: &[usize], kernel: &[usize]| {
            w.plane(input, kernel, Rounding::Floor).unwrap_err()
        };
        let zero = Window { strides: vec![0], ..Window::default() };
        assert_eq!(fail(&zero, &[4], &[2]), "strides [0] should be positive");
        assert_eq!(fail(&Window::new(&[3], 1, 0), &[2], &[3]), "window of 3 exceeds padded input of 2");
        assert!(fail(&Window::new(&[3], 1, 0), &[2, 2], &[3, 3]).contains("should have 2 entries"));
        assert!(fail(&Window::default(), &[2, 2, 2], &[1, 1, 1]).contains("not 3"));
        let huge = Window { dilations: vec![usize::MAX], auto_pad: AutoPad::SameUpper, ..Window::default() };
        assert!(
            fail(&huge, &[4], &[3]).contains("extent") && !fail(&Window::default(), &[4], &[0]).is_empty()
        );
        let attrs = Attrs::new().with_str("auto_pad", "SAME", "");
        assert!(Window::parse(&attrs).unwrap_err().contains("SAME_UPPER"));
        let attrs = Attrs::new().with("pads", Attr::Ints(vec![-1, 0]));
        assert!(Window::parse(&attrs).unwrap_err().contains("negative"));
    }
}
