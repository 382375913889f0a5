//! Convolution in one and two spatial dimensions, and its gradients.
//!
//! Activations are channels-last, `(N, H, W, C)`; weights have the ONNX layout `(O, I / groups, kh, kw)`. A
//! one-dimensional convolution has height 1 ([`Window::flat`]). The maths is that of ONNX `Conv` (cross-correlation).
//! All functions overwrite their output and take their scratch memory from the caller; what it held does not matter.
//!
//! Four ways, chosen by shape:
//!
//! - depthwise convolutions (one input channel per group) gather directly, vectorized over channels;
//! - 1x1 convolutions of stride 1 without padding are matrix products over all `N * H * W` positions;
//! - gradients of 3x3 convolutions of stride 1 with many channels are Winograd's;
//! - the rest reads the inputs of an output position where they are, without a matrix of patches. The gradient by the input is
//!   itself such a convolution with the flipped kernel, one for each phase of the strides.
//!
//! # Transposed convolution
//!
//! ONNX `ConvTranspose` is the input gradient of a convolution whose input has the shape of its output, and takes the
//! weights as they are. Build the [`Conv`] of that convolution from [`Axis::transposed`] with the channels swapped: its
//! `in_channels` are those that the transposed convolution *produces*. [`transpose_forward`],
//! [`transpose_input_grad`] and [`transpose_weight_grad`] do the rest.

use crate::depthwise;
use crate::elementwise::Unary;
use crate::implicit::{self, Gather, Side};
use crate::parallel;
use crate::pointwise;
use crate::simd::{Isa, dispatch, load};
pub use crate::window::{Axis, Rounding, Window};
use crate::winograd;

/// A bound of what workspaces hold beside the weights, in channels and copies.
const PARTS: usize = 256;

/// A convolution of fixed shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conv {
    /// Number of images.
    pub batch: usize,
    /// Channels of the input, a multiple of `groups`.
    pub in_channels: usize,
    /// Channels of the output, a multiple of `groups`.
    pub out_channels: usize,
    /// Number of groups; group `g` connects the `g`-th share of the input channels to that of the output channels.
    pub groups: usize,
    /// The spatial axes.
    pub window: Window,
}

impl Conv {
    /// A convolution of the given shape.
    ///
    /// # Errors
    /// When the groups do not divide the channels, there are no channels, or a tensor has too many elements.
    pub fn new(
        batch: usize,
        in_channels: usize,
        out_channels: usize,
        groups: usize,
        window: Window,
    ) -> Result<Conv, String> {
        if groups == 0 || in_channels == 0 || out_channels == 0 {
            return Err(format!(
                "{in_channels} to {out_channels} channels in {groups} groups: all must be > 0"
            ));
        }
        if !in_channels.is_multiple_of(groups) || !out_channels.is_multiple_of(groups) {
            return Err(format!("{groups} groups do not divide {in_channels} and {out_channels} channels"));
        }
        let (h, w) = (window.height, window.width);
        let sizes = [
            [batch.max(1), h.input, w.input, in_channels, 1],
            [batch.max(1), h.output, w.output, out_channels, 1],
            [out_channels, in_channels / groups, h.kernel, w.kernel, 1],
            // The largest workspaces hold a few copies of the weights.
            [PARTS, in_channels / groups + PARTS, h.kernel, w.kernel, out_channels + PARTS],
        ];
        for size in sizes {
            size.iter()
                .try_fold(4usize, |bytes, &n| bytes.checked_mul(n))
                .filter(|&bytes| isize::try_from(bytes).is_ok())
                .ok_or_else(|| format!("a tensor of {size:?} elements is too large"))?;
        }
        Ok(Conv { batch, in_channels, out_channels, groups, window })
    }

    /// Number of elements of the input, `(N, H, W, C)`.
    pub fn input_len(&self) -> usize {
        self.batch * self.window.input_len() * self.in_channels
    }

    /// Number of elements of the output, `(N, H', W', O)`.
    pub fn output_len(&self) -> usize {
        self.batch * self.window.output_len() * self.out_channels
    }

    /// Number of elements of the weights, `(O, C / groups, kh, kw)`.
    pub fn weight_len(&self) -> usize {
        self.out_channels * self.patch_len()
    }

    /// Number of inputs of one output, which is the width of the patch matrix of a group.
    fn patch_len(&self) -> usize {
        self.group_inputs() * self.window.kernel_len()
    }

    pub(crate) fn group_inputs(&self) -> usize {
        self.in_channels / self.groups
    }

    pub(crate) fn group_outputs(&self) -> usize {
        self.out_channels / self.groups
    }

    /// Number of output positions of all images.
    pub(crate) fn rows(&self) -> usize {
        self.batch * self.window.output_len()
    }

    fn is_depthwise(&self) -> bool {
        self.groups > 1 && self.groups == self.in_channels
    }

    /// Whether the patch matrix is the input itself.
    pub(crate) fn is_pointwise(&self) -> bool {
        self.window.height.is_identity() && self.window.width.is_identity()
    }
}

/// What becomes of the sums of a convolution, while they are in the cache: `activation(sums + bias + addend)`.
#[derive(Clone, Copy, Debug)]
pub struct Finish<'a> {
    /// One value per output channel.
    pub bias: Option<&'a [f32]>,
    /// Values of the shape of the output, such as those that a residual connection brings.
    pub addend: Option<&'a [f32]>,
    /// Applied last.
    pub activation: Unary,
}

impl<'a> Finish<'a> {
    /// Adds a bias, if there is one.
    pub fn bias(bias: Option<&'a [f32]>) -> Finish<'a> {
        Finish { bias, addend: None, activation: Unary::Identity }
    }

    /// Whether there is something to do beside the bias.
    pub(crate) fn is_more(&self) -> bool {
        self.addend.is_some() || self.activation != Unary::Identity
    }

    /// All but the bias, on the part of the output from element `at` on.
    pub(crate) fn rest(&self, isa: Isa, at: usize, y: &mut [f32]) {
        if let Some(addend) = self.addend {
            add_values(isa, &addend[at..][..y.len()], y);
        }
        if self.activation != Unary::Identity {
            self.activation.forward_in_place(y);
        }
    }
}

/// Length of what [`pack_weights`] makes, in `f32`.
pub fn packed_len(conv: &Conv) -> usize {
    if conv.is_depthwise() {
        return depthwise::packed_len(conv);
    }
    implicit::panels_len(conv, conv.group_outputs())
}

/// Puts weights `(O, C / groups, kh, kw)` in the order in which [`forward_packed`] reads them. Another CPU may want another
/// order.
///
/// # Panics
/// When `w` does not have the length of its shape, or `packed` not [`packed_len`].
pub fn pack_weights(conv: &Conv, w: &[f32], packed: &mut [f32]) {
    assert!(w.len() == conv.weight_len() && packed.len() == packed_len(conv), "weights do not fit {conv:?}");
    if conv.is_depthwise() {
        return depthwise::pack(conv, w, packed);
    }
    let (inputs, outputs, kernel) = (conv.group_inputs(), conv.group_outputs(), conv.window.kernel_len());
    let weights = implicit::Weights {
        data: w,
        input_stride: kernel,
        output_stride: inputs * kernel,
        group_stride: outputs * inputs * kernel,
        kernel_width: conv.window.width.kernel,
    };
    let (height, width) = sides(conv);
    gather(conv, &[], Finish::bias(None)).pack(Isa::detect(), height, width, &weights, packed);
}

/// [`forward`] with weights from [`pack_weights`], for those that stay the same.
///
/// # Panics
/// When a slice does not have the length of its shape.
pub fn forward_packed(conv: &Conv, x: &[f32], packed: &[f32], finish: Finish<'_>, y: &mut [f32]) {
    check(conv, x.len(), conv.weight_len(), y.len());
    assert!(packed.len() == packed_len(conv), "weights are not packed for {conv:?}");
    assert!(
        finish.bias.is_none_or(|bias| bias.len() == conv.out_channels),
        "bias is not of one value per output channel"
    );
    assert!(
        finish.addend.is_none_or(|addend| addend.len() == y.len()),
        "addend is not of the shape of the output"
    );
    if conv.is_depthwise() {
        return depthwise::forward(Isa::detect(), conv, x, packed, finish, y);
    }
    let (height, width) = sides(conv);
    gather(conv, x, finish).run(Isa::detect(), height, width, packed, y);
}

fn sides(conv: &Conv) -> (Side, Side) {
    (Side::forward(&conv.window.height), Side::forward(&conv.window.width))
}

fn gather<'a>(conv: &Conv, x: &'a [f32], finish: Finish<'a>) -> Gather<'a> {
    Gather {
        batch: conv.batch,
        groups: conv.groups,
        inputs: conv.group_inputs(),
        outputs: conv.group_outputs(),
        source: x,
        finish,
        target_size: (conv.window.height.output, conv.window.width.output),
    }
}

/// Length of the workspace of [`forward`], in `f32`.
pub fn forward_workspace(conv: &Conv) -> usize {
    if conv.is_pointwise() && !conv.is_depthwise() {
        return pointwise::forward_workspace(conv);
    }
    packed_len(conv)
}

/// `y = activation(conv(x, w) + bias + addend)`: the ONNX operator `Conv`, and what `finish` adds to it.
///
/// `x` is `(N, H, W, C)`, `w` is `(O, C / groups, kh, kw)`, `y` is `(N, H', W', O)`.
///
/// # Panics
/// When a slice does not have the length of its shape, or `workspace` is shorter than [`forward_workspace`].
pub fn forward(conv: &Conv, x: &[f32], w: &[f32], finish: Finish<'_>, y: &mut [f32], workspace: &mut [f32]) {
    if conv.is_pointwise() && !conv.is_depthwise() {
        check(conv, x.len(), w.len(), y.len());
        return pointwise::forward(conv, x, w, finish, y, workspace);
    }
    let packed = &mut workspace[..packed_len(conv)];
    pack_weights(conv, w, packed);
    forward_packed(conv, x, packed, finish, y);
}

/// Length of the workspace of [`input_grad`], in `f32`.
pub fn input_grad_workspace(conv: &Conv) -> usize {
    if winograd::applies(conv) {
        return winograd::input_grad_workspace(conv);
    }
    transpose_forward_workspace(conv)
}

/// Gradient of [`forward`] by its input: `dx = conv^T(dy, w)`.
///
/// `dy` is `(N, H', W', O)`, `w` is `(O, C / groups, kh, kw)`, `dx` is `(N, H, W, C)`.
///
/// # Panics
/// When a slice does not have the length of its shape, or `workspace` is shorter than [`input_grad_workspace`].
pub fn input_grad(conv: &Conv, dy: &[f32], w: &[f32], dx: &mut [f32], workspace: &mut [f32]) {
    if winograd::applies(conv) {
        check(conv, dx.len(), w.len(), dy.len());
        return winograd::input_grad(Isa::detect(), conv, dy, w, dx, workspace);
    }
    transpose_forward(conv, dy, w, None, dx, workspace);
}

/// Length of the workspace of [`weight_grad`], in `f32`.
pub fn weight_grad_workspace(conv: &Conv) -> usize {
    if conv.is_depthwise() {
        return depthwise::weight_grad_workspace(conv);
    }
    if conv.is_pointwise() {
        return pointwise::weight_grad_workspace(conv);
    }
    if winograd::applies(conv) {
        return winograd::weight_grad_workspace(conv);
    }
    implicit::weight_grad_workspace(conv)
}

/// Gradient of [`forward`] by its weights, summed over the batch.
///
/// `x` is `(N, H, W, C)`, `dy` is `(N, H', W', O)`, `dw` is `(O, C / groups, kh, kw)`.
///
/// # Panics
/// When a slice does not have the length of its shape, or `workspace` is shorter than [`weight_grad_workspace`].
pub fn weight_grad(conv: &Conv, x: &[f32], dy: &[f32], dw: &mut [f32], workspace: &mut [f32]) {
    check(conv, x.len(), dw.len(), dy.len());
    if conv.is_depthwise() {
        return depthwise::weight_grad(Isa::detect(), conv, x, dy, dw, workspace);
    }
    if conv.is_pointwise() {
        return pointwise::weight_grad(conv, x, dy, dw, workspace);
    }
    if winograd::applies(conv) {
        return winograd::weight_grad(Isa::detect(), conv, x, dy, dw, workspace);
    }
    implicit::weight_grad(Isa::detect(), conv, x, dy, dw, workspace);
}

/// Gradient of a convolution by its bias: the sum of `dy`, `(rows, channels)`, over the rows, to `db`, `(channels)`.
///
/// # Panics
/// When `db` is not of `channels` elements, or `dy` not of whole rows.
pub fn bias_grad(dy: &[f32], channels: usize, db: &mut [f32]) {
    assert!(db.len() == channels, "bias gradient of {} elements for {channels} channels", db.len());
    assert!(channels > 0 && dy.len().is_multiple_of(channels), "gradient is not rows of {channels} channels");
    let isa = Isa::detect();
    let chunk = (parallel::CHUNK / COLUMNS).max(1);
    parallel::for_each_chunk(db, COLUMNS, |i, db| {
        let sum = |rows: std::ops::Range<usize>| {
            let mut sums = [0.0; COLUMNS];
            add_columns(
                isa,
                &dy[rows.start * channels..rows.end * channels],
                channels,
                i * COLUMNS,
                &mut sums[..db.len()],
            );
            sums
        };
        let add = |a: [f32; COLUMNS], b: [f32; COLUMNS]| std::array::from_fn(|i| a[i] + b[i]);
        let sums = parallel::reduce(dy.len() / channels, chunk, sum, add).unwrap_or([0.0; COLUMNS]);
        db.copy_from_slice(&sums[..db.len()]);
    });
}

/// Columns that [`bias_grad`] sums up at a time.
const COLUMNS: usize = 64;

/// Length of the workspace of [`transpose_forward`], in `f32`.
pub fn transpose_forward_workspace(conv: &Conv) -> usize {
    if conv.is_depthwise() {
        return depthwise::packed_len(conv);
    }
    if conv.is_pointwise() {
        return 0;
    }
    implicit::panels_len(conv, conv.group_inputs())
}

/// `y = conv_transpose(x, w) + bias`, the ONNX `ConvTranspose` operator.
///
/// `conv` describes the convolution of which this is the input gradient. `x` is `(N, H', W', O)`, `w` is
/// `(O, C / groups, kh, kw)`, which ONNX calls `(C, M / group, kh, kw)`; `bias` is `(C)`, `y` is `(N, H, W, C)`.
///
/// # Panics
/// When a slice does not have the length of its shape, or `workspace` is shorter than [`transpose_forward_workspace`].
pub fn transpose_forward(
    conv: &Conv,
    x: &[f32],
    w: &[f32],
    bias: Option<&[f32]>,
    y: &mut [f32],
    workspace: &mut [f32],
) {
    check(conv, y.len(), w.len(), x.len());
    spread(conv, x, w, y, workspace);
    if let Some(bias) = bias {
        assert!(bias.len() == conv.in_channels, "bias is not of one value per channel");
        let isa = Isa::detect();
        let rows = (parallel::CHUNK / bias.len()).max(1);
        parallel::for_each_chunk(y, rows * bias.len(), |_, y| add_bias(isa, bias, y));
    }
}

/// The adjoint of [`forward`] by its input, as direct sums.
fn spread(conv: &Conv, dy: &[f32], w: &[f32], dx: &mut [f32], workspace: &mut [f32]) {
    if conv.is_depthwise() {
        return depthwise::input_grad(Isa::detect(), conv, dy, w, dx, workspace);
    }
    let (inputs, outputs, kernel) = (conv.group_inputs(), conv.group_outputs(), conv.window.kernel_len());
    if conv.is_pointwise() {
        return pointwise::input_grad(conv, dy, w, dx);
    }
    let gather = Gather {
        batch: conv.batch,
        groups: conv.groups,
        inputs: outputs,
        outputs: inputs,
        source: dy,
        finish: Finish::bias(None),
        target_size: (conv.window.height.input, conv.window.width.input),
    };
    let weights = implicit::Weights {
        data: w,
        input_stride: inputs * kernel,
        output_stride: kernel,
        group_stride: outputs * inputs * kernel,
        kernel_width: conv.window.width.kernel,
    };
    let panels = &mut workspace[..implicit::panels_len(conv, inputs)];
    let (isa, height, width) = (Isa::detect(), conv.window.height, conv.window.width);
    for row in 0..height.stride.min(height.input) {
        for column in 0..width.stride.min(width.input) {
            let (height, width) = (Side::backward(&height, row), Side::backward(&width, column));
            gather.pack(isa, height, width, &weights, panels);
            gather.run(isa, height, width, panels, dx);
        }
    }
}

/// Length of the workspace of [`transpose_input_grad`], in `f32`.
pub fn transpose_input_grad_workspace(conv: &Conv) -> usize {
    forward_workspace(conv)
}

/// Gradient of [`transpose_forward`] by its input. Shapes as there, `dx` like `x` and `dy` like `y`.
///
/// # Panics
/// When a slice does not have the length of its shape, or `workspace` is shorter than
/// [`transpose_input_grad_workspace`].
pub fn transpose_input_grad(conv: &Conv, dy: &[f32], w: &[f32], dx: &mut [f32], workspace: &mut [f32]) {
    forward(conv, dy, w, Finish::bias(None), dx, workspace);
}

/// Length of the workspace of [`transpose_weight_grad`], in `f32`.
pub fn transpose_weight_grad_workspace(conv: &Conv) -> usize {
    weight_grad_workspace(conv)
}

/// Gradient of [`transpose_forward`] by its weights. Shapes as there, `dw` like `w` and `dy` like `y`.
///
/// # Panics
/// When a slice does not have the length of its shape, or `workspace` is shorter than
/// [`transpose_weight_grad_workspace`].
pub fn transpose_weight_grad(conv: &Conv, x: &[f32], dy: &[f32], dw: &mut [f32], workspace: &mut [f32]) {
    weight_grad(conv, dy, x, dw, workspace);
}

/// # Panics
/// When a length is not that of its shape, or the geometry was not made by the constructors and is impossible.
fn check(conv: &Conv, x: usize, w: usize, y: usize) {
    assert!(
        x == conv.input_len() && w == conv.weight_len() && y == conv.output_len(),
        "slices of {x}, {w} and {y} elements do not fit {conv:?}"
    );
    assert!(conv.window.height.is_sound() && conv.window.width.is_sound(), "impossible window of {conv:?}");
}

dispatch! {
    /// `y += addend`.
    fn add_values(addend: &[f32], y: &mut [f32]) {
        for (y, &addend) in y.iter_mut().zip(addend) {
            *y += addend;
        }
    }

    /// `y[row, c] += bias[c]`.
    pub(crate) fn add_bias(bias: &[f32], y: &mut [f32]) {
        for row in y.chunks_exact_mut(bias.len()) {
            for (y, &bias) in row.iter_mut().zip(bias) {
                *y += bias;
            }
        }
    }

    /// Adds the columns from `first` on of all rows of `dy`, `(rows, channels)`, to `sums`.
    fn add_columns(dy: &[f32], channels: usize, first: usize, sums: &mut [f32]) {
        if let Ok(all) = <&mut [f32; COLUMNS]>::try_from(&mut *sums) {
            let mut local = *all;
            for row in dy.chunks_exact(channels) {
                let row: &[f32; COLUMNS] = load(row, first);
                for l in 0..COLUMNS {
                    local[l] += row[l];
                }
            }
            *all = local;
            return;
        }
        for row in dy.chunks_exact(channels) {
            for (sum, &dy) in sums.iter_mut().zip(&row[first..]) {
                *sum += dy;
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::reference::{self, Draw, assert_all_close, on_threads};
    use crate::window::tests::draw_axis;

    fn dot(a: &[f32], b: &[f32]) -> f64 {
        a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
    }

    fn run(len: usize, workspace: usize, f: impl FnOnce(&mut [f32], &mut [f32])) -> Vec<f32> {
        // What the memory held must not matter.
        let (mut out, mut workspace) = (vec![f32::NAN; len], vec![f32::NAN; workspace]);
        f(&mut out, &mut workspace);
        out
    }

    /// Output, input gradient, weight gradient and bias gradient.
    fn all(conv: &Conv, x: &[f32], w: &[f32], bias: Option<&[f32]>, dy: &[f32]) -> [Vec<f32>; 4] {
        [
            run(dy.len(), forward_workspace(conv), |y, ws| forward(conv, x, w, Finish::bias(bias), y, ws)),
            run(x.len(), input_grad_workspace(conv), |dx, ws| input_grad(conv, dy, w, dx, ws)),
            run(w.len(), weight_grad_workspace(conv), |dw, ws| weight_grad(conv, x, dy, dw, ws)),
            run(conv.out_channels, 0, |db, _| bias_grad(dy, conv.out_channels, db)),
        ]
    }

    fn check_conv(conv: &Conv, draw: &mut Draw) {
        let (x, w) = (draw.values(conv.input_len()), draw.values(conv.weight_len()));
        let (dy, bias) = (draw.values(conv.output_len()), draw.values(conv.out_channels));
        let [y, dx, dw, db] = on_threads(1, || all(conv, &x, &w, Some(&bias), &dy));
        let mut packed = vec![f32::NAN; packed_len(conv)];
        pack_weights(conv, &w, &mut packed);
        let again = run(y.len(), 0, |y, _| forward_packed(conv, &x, &packed, Finish::bias(Some(&bias)), y));
        assert_all_close(&again, &reference::conv_forward(conv, &x, &w, Some(&bias)), conv.patch_len());
        assert_all_close(&y, &reference::conv_forward(conv, &x, &w, Some(&bias)), conv.patch_len());
        assert_all_close(
            &dx,
            &reference::conv_input_grad(conv, &dy, &w),
            conv.weight_len() / conv.group_inputs(),
        );
        assert_all_close(&dw, &reference::conv_weight_grad(conv, &x, &dy), conv.rows());
        let sum = |c: usize| dy.iter().skip(c).step_by(conv.out_channels).map(|&dy| f64::from(dy)).sum();
        assert_all_close(&db, &(0..conv.out_channels).map(sum).collect::<Vec<f64>>(), conv.rows());

        let again = on_threads(3, || all(conv, &x, &w, Some(&bias), &dy));
        assert!(
            [y, dx.clone(), dw.clone(), db] == again,
            "results depend on the number of threads: {conv:?}"
        );

        // The gradients are the adjoints of the linear maps.
        let y = all(conv, &x, &w, None, &dy)[0].clone();
        let size = conv.output_len() as f64 * conv.patch_len() as f64 * 1e-6;
        assert!((dot(&y, &dy) - dot(&x, &dx)).abs() < size + 1e-4, "{conv:?}");
        assert!((dot(&y, &dy) - dot(&w, &dw)).abs() < size + 1e-4, "{conv:?}");
    }

    #[test]
    fn drawn_shapes_match_the_reference() {
        let mut draw = Draw::new(11);
        for round in 0..300 {
            let width = draw_axis(&mut draw, Rounding::Floor);
            let mut window = Window::flat(width);
            if round % 3 != 0 {
                window.height = draw_axis(&mut draw, Rounding::Floor);
            }
            let groups = [1, 1, 2, 3][draw.below(4)];
            let (inputs, outputs) = (groups * (1 + draw.below(5)), groups * (1 + draw.below(5)));
            check_conv(&Conv::new(1 + draw.below(3), inputs, outputs, groups, window).unwrap(), &mut draw);
        }
    }

    #[test]
    fn drawn_depthwise_shapes_match_the_reference() {
        let mut draw = Draw::new(12);
        for _ in 0..150 {
            let (height, width) =
                (draw_axis(&mut draw, Rounding::Floor), draw_axis(&mut draw, Rounding::Floor));
            let channels = [2, 3, 8, 15, 32, 50][draw.below(6)];
            let outputs = channels * [1, 1, 2, 3][draw.below(4)];
            let conv =
                Conv::new(1 + draw.below(3), channels, outputs, channels, Window { height, width }).unwrap();
            assert!(conv.is_depthwise());
            check_conv(&conv, &mut draw);
        }
    }

    fn square(size: usize, kernel: usize, stride: usize, pad: usize) -> Window {
        let axis = Axis::new(size, kernel, stride, 1, pad, pad, Rounding::Floor).unwrap();
        Window { height: axis, width: axis }
    }

    #[test]
    fn shapes_of_several_tiles_match_the_reference() {
        let mut draw = Draw::new(13);
        for (batch, inputs, outputs, groups, window) in [
            (3, 16, 24, 1, square(40, 1, 1, 0)),
            (3, 16, 24, 2, square(20, 1, 1, 0)),
            (2, 3, 16, 1, square(80, 3, 2, 1)),
            (5, 64, 16, 1, square(14, 3, 1, 1)),
            (6, 32, 48, 1, square(13, 3, 1, 1)),
            (64, 48, 160, 1, square(6, 3, 1, 0)),
            (3, 128, 32, 1, square(41, 3, 1, 1)),
            (16, 320, 32, 1, square(6, 3, 1, 2)),
            (5, 40, 36, 1, square(16, 5, 2, 2)),
            (5, 24, 24, 24, square(30, 3, 1, 1)),
            (2, 40, 40, 40, square(33, 5, 2, 2)),
            (2, 16, 8, 4, square(40, 3, 2, 1)),
            (1, 700, 30, 1, square(1, 1, 1, 0)),
            (2, 12, 30, 3, square(2, 1, 1, 0)),
            (70, 700, 30, 1, square(1, 1, 1, 0)),
        ] {
            check_conv(&Conv::new(batch, inputs, outputs, groups, window).unwrap(), &mut draw);
        }
    }

    #[test]
    fn sums_are_finished_as_they_would_be_afterwards() {
        let mut draw = Draw::new(15);
        for (batch, inputs, outputs, groups, window) in [
            (3, 16, 24, 1, square(40, 1, 1, 0)),
            (1, 16, 24, 2, square(3, 1, 1, 0)),
            (2, 24, 24, 24, square(30, 3, 1, 1)),
            (2, 3, 600, 1, square(8, 3, 2, 1)),
            (2, 16, 80, 2, square(20, 3, 1, 1)),
        ] {
            let conv = Conv::new(batch, inputs, outputs, groups, window).unwrap();
            let (x, w) = (draw.values(conv.input_len()), draw.values(conv.weight_len()));
            let (bias, addend) = (draw.values(conv.out_channels), draw.values(conv.output_len()));
            let forward = |finish: Finish<'_>| {
                let workspace = forward_workspace(&conv);
                run(conv.output_len(), workspace, |y, ws| forward(&conv, &x, &w, finish, y, ws))
            };
            let plain = forward(Finish::bias(Some(&bias)));
            for activation in [Unary::Relu, Unary::HardSwish] {
                let finish = Finish { bias: Some(&bias), addend: Some(&addend), activation };
                let mut expected: Vec<f32> = plain.iter().zip(&addend).map(|(y, z)| y + z).collect();
                activation.forward_in_place(&mut expected);
                assert_eq!(forward(finish), expected, "{conv:?}");
            }
        }
    }

    #[test]
    fn an_empty_batch_has_zero_gradients() {
        let windows = [square(5, 3, 2, 1), square(5, 1, 1, 0)];
        for (groups, window) in [1, 2, 4].into_iter().flat_map(|groups| windows.map(|w| (groups, w))) {
            let conv = Conv::new(0, 4, 4, groups, window).unwrap();
            let w = vec![1.0; conv.weight_len()];
            let [y, dx, dw, db] = all(&conv, &[], &w, None, &[]);
            assert!(y.is_empty() && dx.is_empty());
            assert!(dw.iter().chain(&db).all(|&x| x == 0.0));
        }
    }

    #[test]
    fn transposed_convolutions() {
        let mut draw = Draw::new(14);
        for _ in 0..60 {
            // An output padding beyond the stride, which a dilation allows, leaves inputs that no window reaches.
            let axis = |draw: &mut Draw| {
                let (kernel, stride, dilation) = (1 + draw.below(3), 1 + draw.below(3), 1 + draw.below(3));
                let padding = draw.below(stride.max(dilation));
                Axis::transposed(1 + draw.below(5), kernel, stride, dilation, draw.below(2), 0, padding)
            };
            let (Ok(height), Ok(width)) = (axis(&mut draw), axis(&mut draw)) else { continue };
            let groups = 1 + draw.below(2);
            let conv = Conv::new(2, 3 * groups, 2 * groups, groups, Window { height, width }).unwrap();
            check_conv(&conv, &mut draw);

            let (x, w) = (draw.values(conv.output_len()), draw.values(conv.weight_len()));
            let (bias, dy) = (draw.values(conv.in_channels), draw.values(conv.input_len()));
            let y = run(conv.input_len(), transpose_forward_workspace(&conv), |y, ws| {
                transpose_forward(&conv, &x, &w, Some(&bias), y, ws);
            });
            let mut expected = reference::conv_input_grad(&conv, &x, &w);
            expected.iter_mut().enumerate().for_each(|(at, y)| *y += f64::from(bias[at % bias.len()]));
            assert_all_close(&y, &expected, conv.weight_len());
            let dx = run(x.len(), transpose_input_grad_workspace(&conv), |dx, ws| {
                transpose_input_grad(&conv, &dy, &w, dx, ws);
            });
            assert_all_close(&dx, &reference::conv_forward(&conv, &dy, &w, None), conv.patch_len());
            let dw = run(w.len(), transpose_weight_grad_workspace(&conv), |dw, ws| {
                transpose_weight_grad(&conv, &x, &dy, dw, ws);
            });
            assert_all_close(&dw, &reference::conv_weight_grad(&conv, &dy, &x), conv.rows());
        }
    }

    #[test]
    fn impossible_shapes_are_errors() {
        let window = square(5, 3, 1, 1);
        assert!(Conv::new(1, 3, 4, 2, window).is_err());
        assert!(Conv::new(1, 0, 4, 1, window).is_err());
        assert!(Conv::new(1, 4, 4, 0, window).is_err());
        assert!(Conv::new(usize::MAX / 8, 4, 4, 1, window).is_err());
    }
}
