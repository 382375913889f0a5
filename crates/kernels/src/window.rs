//! Geometry of a sliding window: which inputs an output position of a convolution or pooling sees, and the reverse.

/// One spatial axis of a sliding window. Output position `o` and kernel position `k` meet input position
/// `o * stride + k * dilation - pad_begin`, where that is inside `0..input`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Axis {
    /// Length of the input.
    pub input: usize,
    /// Number of kernel positions.
    pub kernel: usize,
    /// Distance between windows, at least 1.
    pub stride: usize,
    /// Distance between kernel positions, at least 1.
    pub dilation: usize,
    /// Padding before the input.
    pub pad_begin: usize,
    /// Padding after the input.
    pub pad_end: usize,
    /// Length of the output.
    pub output: usize,
}

/// How the length of an output is rounded when the last window does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rounding {
    /// Drop what does not fill a window.
    Floor,
    /// Let the last window reach beyond the padded input (`ceil_mode` of the ONNX pooling operators), unless it would
    /// start in the padding at the end.
    Ceil,
}

impl Axis {
    /// An axis whose output length follows from the rest, as in ONNX `Conv`, `MaxPool` and `AveragePool`.
    ///
    /// # Errors
    /// When a length is zero, the padded input is shorter than the kernel, or a number overflows.
    pub fn new(
        input: usize,
        kernel: usize,
        stride: usize,
        dilation: usize,
        pad_begin: usize,
        pad_end: usize,
        rounding: Rounding,
    ) -> Result<Axis, String> {
        let span = Self::span(input, kernel, stride, dilation)?;
        let padded = input
            .checked_add(pad_begin)
            .and_then(|n| n.checked_add(pad_end))
            .filter(|&n| n <= MAX_LENGTH)
            .ok_or_else(|| format!("padding {pad_begin} + {pad_end} is too large"))?;
        if padded < span {
            return Err(format!("window of {span} exceeds padded input of {padded}"));
        }
        let mut output = (padded - span) / stride + 1;
        if rounding == Rounding::Ceil
            && !(padded - span).is_multiple_of(stride)
            && output * stride < input + pad_begin
        {
            output += 1;
        }
        Ok(Axis { input, kernel, stride, dilation, pad_begin, pad_end, output })
    }

    /// The axis of the convolution whose input gradient is a transposed convolution of an input of `length`, as in ONNX
    /// `ConvTranspose`: [`Axis::input`] is the output length of the transposed convolution,
    /// `(length - 1) * stride + output_padding + (kernel - 1) * dilation + 1 - pad_begin - pad_end`.
    ///
    /// # Errors
    /// When a length is zero, the output would be empty, or a number overflows.
    pub fn transposed(
        length: usize,
        kernel: usize,
        stride: usize,
        dilation: usize,
        pad_begin: usize,
        pad_end: usize,
        output_padding: usize,
    ) -> Result<Axis, String> {
        let span = Self::span(length, kernel, stride, dilation)?;
        let input = (length - 1)
            .checked_mul(stride)
            .and_then(|n| n.checked_add(span)?.checked_add(output_padding))
            .filter(|&n| n <= MAX_LENGTH)
            .ok_or_else(|| "output length overflows".to_string())?
            .checked_sub(pad_begin)
            .and_then(|n| n.checked_sub(pad_end))
            .filter(|&n| n > 0)
            .ok_or_else(|| format!("padding {pad_begin} + {pad_end} leaves no output"))?;
        Ok(Axis { input, kernel, stride, dilation, pad_begin, pad_end, output: length })
    }

    /// Number of input positions from the first to the last kernel position of a window.
    fn span(length: usize, kernel: usize, stride: usize, dilation: usize) -> Result<usize, String> {
        if length == 0 || kernel == 0 || stride == 0 || dilation == 0 {
            return Err(format!(
                "length {length}, kernel {kernel}, stride {stride}, dilation {dilation}: all must be > 0"
            ));
        }
        if length.max(stride) > MAX_LENGTH {
            return Err(format!("length {length} or stride {stride} is too large"));
        }
        (kernel - 1)
            .checked_mul(dilation)
            .map(|n| n.saturating_add(1))
            .filter(|&n| n <= MAX_LENGTH)
            .ok_or_else(|| format!("kernel {kernel} with dilation {dilation} is too large"))
    }

    /// Whether no position computed from the fields overflows, which the constructors make sure of.
    pub(crate) fn is_sound(&self) -> bool {
        let reach = || {
            let last_window = self.output.checked_sub(1)?.checked_mul(self.stride)?;
            last_window.checked_add(self.kernel.checked_sub(1)?.checked_mul(self.dilation)?)
        };
        let padded = || self.input.checked_add(self.pad_begin)?.checked_add(self.pad_end);
        let fits = |length: usize| isize::try_from(length).is_ok();
        self.input > 0
            && self.stride > 0
            && self.dilation > 0
            && reach().is_some_and(fits)
            && padded().is_some_and(fits)
    }

    /// Whether input and output positions are the same.
    pub(crate) fn is_identity(&self) -> bool {
        self.kernel == 1 && self.stride == 1 && self.pad_begin == 0 && self.output == self.input
    }

    /// The kernel and input positions that output position `o` sees.
    #[inline]
    pub(crate) fn taps(&self, o: usize) -> Taps {
        let start = o * self.stride;
        let first = self.pad_begin.saturating_sub(start).div_ceil(self.dilation);
        let end =
            (self.input + self.pad_begin).saturating_sub(start).div_ceil(self.dilation).min(self.kernel);
        if end <= first {
            return Taps::NONE;
        }
        Taps {
            count: end - first,
            kernel: first,
            kernel_step: 1,
            source: start + first * self.dilation - self.pad_begin,
            source_step: self.dilation as isize,
        }
    }

    /// The kernel and output positions that see input position `i`, by ascending kernel position.
    #[inline]
    pub(crate) fn grad_taps(&self, i: usize) -> Taps {
        let common = gcd(self.stride, self.dilation);
        // Kernel positions that meet `i` lie `kernel_step` apart, their outputs `source_step` apart, backwards.
        let (kernel_step, source_step) = (self.stride / common, self.dilation / common);
        let place = i + self.pad_begin;
        for kernel in 0..kernel_step.min(self.kernel) {
            let Some(distance) = place.checked_sub(kernel * self.dilation) else { break };
            if !distance.is_multiple_of(self.stride) {
                continue;
            }
            let output = distance / self.stride;
            let skip = (output + 1).saturating_sub(self.output).div_ceil(source_step);
            let kernel = kernel + skip * kernel_step;
            if kernel >= self.kernel || skip * source_step > output {
                return Taps::NONE;
            }
            let source = output - skip * source_step;
            let count = ((self.kernel - kernel).div_ceil(kernel_step)).min(source / source_step + 1);
            return Taps { count, kernel, kernel_step, source, source_step: -(source_step as isize) };
        }
        Taps::NONE
    }

    /// The output positions for which kernel position `k` meets an input.
    #[inline]
    pub(crate) fn outputs(&self, k: usize) -> std::ops::Range<usize> {
        let place = k * self.dilation;
        let first = self.pad_begin.saturating_sub(place).div_ceil(self.stride);
        let end = (self.input + self.pad_begin).saturating_sub(place).div_ceil(self.stride).min(self.output);
        first.min(end)..end
    }

    /// How many kernel positions of output position `o` meet the input or its padding.
    #[inline]
    pub(crate) fn padded_count(&self, o: usize) -> usize {
        let padded = self.pad_begin + self.input + self.pad_end;
        padded.saturating_sub(o * self.stride).div_ceil(self.dilation).min(self.kernel)
    }
}

/// Longest axis: sums and products of few lengths stay far from overflow, and offsets fit `i32`.
const MAX_LENGTH: usize = i32::MAX as usize;

pub(crate) fn gcd(mut a: usize, mut b: usize) -> usize {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// The pairs of positions along one axis that contribute to one result: for `i` in `0..count`, kernel position
/// `kernel + i * kernel_step` with source position `source + i * source_step`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taps {
    pub count: usize,
    pub kernel: usize,
    pub kernel_step: usize,
    pub source: usize,
    pub source_step: isize,
}

impl Taps {
    /// No contribution.
    pub const NONE: Taps = Taps { count: 0, kernel: 0, kernel_step: 1, source: 0, source_step: 1 };

    /// Whether all positions are below the given ones.
    #[inline]
    pub fn fits(&self, sources: usize, kernels: usize) -> bool {
        // Positions change in even steps, so the ends bound them.
        let in_range = |i: usize| self.source_at(i) < sources && self.kernel_at(i) < kernels;
        self.count == 0 || (in_range(0) && in_range(self.count - 1))
    }

    /// Whether both see the same kernel positions, given that they lie on the same axis.
    #[inline(always)]
    pub fn has_kernel_of(&self, other: &Taps) -> bool {
        self.count == other.count && self.kernel == other.kernel
    }

    /// Source position of pair `i`, which is below `count`.
    #[inline(always)]
    pub fn source_at(&self, i: usize) -> usize {
        self.source.wrapping_add_signed(i as isize * self.source_step)
    }

    /// Kernel position of pair `i`.
    #[inline(always)]
    pub fn kernel_at(&self, i: usize) -> usize {
        self.kernel + i * self.kernel_step
    }
}

/// A sliding window over two spatial axes. A one-dimensional one has the height [`Window::flat`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    /// The first spatial axis.
    pub height: Axis,
    /// The second spatial axis, the faster one in memory.
    pub width: Axis,
}

impl Window {
    /// A window over one spatial axis, seen as an image of height 1.
    pub fn flat(width: Axis) -> Window {
        let height =
            Axis { input: 1, kernel: 1, stride: 1, dilation: 1, pad_begin: 0, pad_end: 0, output: 1 };
        Window { height, width }
    }

    /// Number of input positions.
    pub fn input_len(&self) -> usize {
        self.height.input * self.width.input
    }

    /// Number of output positions.
    pub fn output_len(&self) -> usize {
        self.height.output * self.width.output
    }

    /// Number of kernel positions.
    pub fn kernel_len(&self) -> usize {
        self.height.kernel * self.width.kernel
    }
}

/// Most positions of a [`runs`] item.
pub(crate) const RUN: usize = 128;

/// How many neighbouring positions of `channels` values a task handles, in an image of the given width: whole rows where
/// rows are short, so that all tasks see the same columns.
pub(crate) fn chunk_positions(channels: usize, width: usize) -> usize {
    let positions = (crate::parallel::CHUNK / channels).max(1);
    (positions / width.max(1) * width).max(positions.min(width)).max(1)
}

/// Splits `count` positions from position `first` on, in an array of images of `(height, width)`, into runs that lie in
/// one image row and are at most [`RUN`] long. Items are `(image, row, column, length)`.
#[inline(always)]
pub(crate) fn runs(
    first: usize,
    count: usize,
    height: usize,
    width: usize,
) -> impl Iterator<Item = (usize, usize, usize, usize)> {
    let (mut at, end) = (first, first + count);
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let (row, column) = (at / width, at % width);
        let length = (end - at).min(width - column).min(RUN);
        at += length;
        Some((row / height, row % height, column, length))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;
    use crate::reference::Draw;

    /// A drawn axis, with every kind of stride, dilation and padding.
    pub(crate) fn draw_axis(draw: &mut Draw, rounding: Rounding) -> Axis {
        loop {
            let kernel = 1 + draw.below(4);
            let (stride, dilation) = (1 + draw.below(3), 1 + draw.below(3));
            let (before, after) = (draw.below(kernel * dilation + 1), draw.below(kernel * dilation + 1));
            if let Ok(axis) = Axis::new(1 + draw.below(10), kernel, stride, dilation, before, after, rounding)
            {
                return axis;
            }
        }
    }

    #[test]
    fn taps_match_their_definition() {
        let mut draw = Draw::new(5);
        for _ in 0..2000 {
            let mut axis = draw_axis(&mut draw, Rounding::Ceil);
            // A transposed convolution may leave out the last outputs.
            axis.output -= draw.below(axis.output);
            let mut pairs = Vec::new();
            for o in 0..axis.output {
                for k in 0..axis.kernel {
                    let place = o * axis.stride + k * axis.dilation;
                    if place >= axis.pad_begin && place < axis.pad_begin + axis.input {
                        pairs.push((o, k, place - axis.pad_begin));
                    }
                }
            }
            let list = |taps: Taps| {
                (0..taps.count).map(|i| (taps.kernel_at(i), taps.source_at(i))).collect::<Vec<_>>()
            };
            for o in 0..axis.output {
                let expected: Vec<_> = pairs.iter().filter(|p| p.0 == o).map(|p| (p.1, p.2)).collect();
                assert_eq!(list(axis.taps(o)), expected, "{axis:?} {o}");
            }
            for i in 0..axis.input {
                let mut expected: Vec<_> = pairs.iter().filter(|p| p.2 == i).map(|p| (p.1, p.0)).collect();
                expected.sort_unstable();
                assert_eq!(list(axis.grad_taps(i)), expected, "{axis:?} {i}");
            }
            for k in 0..axis.kernel {
                let expected: Vec<_> = pairs.iter().filter(|p| p.1 == k).map(|p| p.0).collect();
                assert_eq!(axis.outputs(k).collect::<Vec<_>>(), expected, "{axis:?} {k}");
            }
            assert!(axis.is_sound());
            assert!(!Axis { stride: 0, ..axis }.is_sound());
            assert!(!Axis { pad_begin: usize::MAX, ..axis }.is_sound());
            assert!(!Axis { output: usize::MAX, stride: 2, ..axis }.is_sound());
        }
    }

    #[test]
    fn output_lengths() {
        let output = |input, kernel, stride, dilation, begin, end, rounding| {
            Axis::new(input, kernel, stride, dilation, begin, end, rounding).map(|axis| axis.output)
        };
        assert_eq!(output(224, 7, 2, 1, 3, 3, Rounding::Floor), Ok(112));
        assert_eq!(output(112, 3, 2, 1, 0, 0, Rounding::Floor), Ok(55));
        assert_eq!(output(112, 3, 2, 1, 0, 0, Rounding::Ceil), Ok(56));
        // The second window would start in the padding at the end.
        assert_eq!(output(2, 2, 3, 1, 0, 2, Rounding::Ceil), Ok(1));
        assert_eq!(output(10, 3, 1, 4, 0, 0, Rounding::Floor), Ok(2));
        assert!(output(2, 3, 1, 1, 0, 0, Rounding::Floor).is_err());
        assert!(output(2, 1, 0, 1, 0, 0, Rounding::Floor).is_err());
        assert!(output(2, usize::MAX, 1, 3, 0, 0, Rounding::Floor).is_err());
        assert!(output(2, 1, 1, 1, usize::MAX, 9, Rounding::Floor).is_err());
        assert_eq!(Axis::transposed(7, 4, 2, 1, 1, 1, 0).map(|axis| axis.input), Ok(14));
        assert_eq!(Axis::transposed(5, 3, 3, 2, 0, 1, 2).map(|axis| axis.input), Ok(18));
        assert!(Axis::transposed(1, 2, 1, 1, 1, 1, 0).is_err());
    }

    #[test]
    fn runs_cover_positions_in_order() {
        let (height, width) = (3, 300);
        let mut at = 350;
        for (image, row, column, length) in runs(350, 1000, height, width) {
            assert_eq!((image * height + row) * width + column, at);
            assert!((1..=RUN).contains(&length) && column + length <= width);
            at += length;
        }
        assert_eq!(at, 1350);
    }
}
