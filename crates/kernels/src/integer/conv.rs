//! Convolution of codes, and the matrix product, which is a convolution of one position.
#![allow(unsafe_code)]

use super::depthwise::{Filters, Results};
use super::product::{Columns, MAX_ROWS, Target, multiply};
use super::{Form, Store};
use crate::conv::Conv as Geometry;
use crate::parallel;
use crate::window::{Taps, runs};

/// Words of the packed rows of one block, about: half of a second-level cache.
const BLOCK_WORDS: usize = 1 << 15;
/// Most rows of a block.
const BLOCK_ROWS: usize = 20 * MAX_ROWS;
/// Most parts, which run in parallel, each with a block of its own.
const PARTS: usize = 64;

/// A shape with what is known of it before any run.
#[derive(Clone, Debug)]
struct Plan {
    geometry: Geometry,
    form: Form,
    /// What each output column meets.
    columns: Vec<Taps>,
}

/// A division of the output positions into parts, which run in parallel, and those into blocks, one after another.
#[derive(Clone, Copy)]
struct Blocks {
    rows: usize,
    part_rows: usize,
    parts: usize,
}

/// What the sums of a product are made into.
#[derive(Clone, Copy)]
struct Output<'a> {
    /// Added to the sum of each output channel; makes up for the zero point of the activations.
    bias: &'a [i32],
    /// Factor of each output channel.
    scale: &'a [f32],
    /// Of the result.
    zero_point: f32,
}

impl Plan {
    fn new(form: Form, geometry: Geometry) -> Plan {
        let width = geometry.window.width;
        Plan { geometry, form, columns: (0..width.output).map(|column| width.taps(column)).collect() }
    }

    /// Input and output channels of a group.
    fn group(&self) -> (usize, usize) {
        let Geometry { in_channels, out_channels, groups, .. } = self.geometry;
        (in_channels / groups, out_channels / groups)
    }

    /// Weights of an output channel, and codes of a patch.
    fn patch_len(&self) -> usize {
        self.group().0 * self.geometry.window.kernel_len()
    }

    /// Words of the packed weights of a group.
    fn group_words(&self) -> usize {
        Columns::packed_len(self.form, self.group().1, self.patch_len())
    }

    /// Packs weights `(O, C / groups, kh, kw)`, group after group, in the order of memory of a patch of the input.
    fn pack_weights(&self, weights: &[i8], panels: &mut [u32]) {
        let ((inputs, outputs), len) = (self.group(), self.patch_len());
        let kernel = self.geometry.window.kernel_len();
        for (group, panels) in panels.chunks_exact_mut(self.group_words().max(1)).enumerate() {
            let weights = &weights[group * outputs * len..][..outputs * len];
            let at = |i: usize| i % inputs * kernel + i / inputs;
            if kernel == 1 {
                Columns::pack(self.form, outputs, len, |column, i| weights[column * len + i], panels);
            } else {
                Columns::pack(self.form, outputs, len, |column, i| weights[column * len + at(i)], panels);
            }
        }
    }

    /// Takes `zero_point` times the sum of the weights of each output channel from `bias`.
    fn offset_bias(&self, weights: &[i8], zero_point: u8, bias: &mut [i32]) {
        for (bias, weights) in bias.iter_mut().zip(weights.chunks_exact(self.patch_len())) {
            let sum = weights.iter().fold(0i32, |sum, &w| sum.wrapping_add(w.into()));
            *bias = bias.wrapping_sub(sum.wrapping_mul(zero_point.into()));
        }
    }

    fn blocks(&self) -> Blocks {
        let rows = self.geometry.batch * self.geometry.window.output_len();
        let words = self.form.words(self.patch_len());
        let block = (BLOCK_WORDS / words / MAX_ROWS * MAX_ROWS).clamp(MAX_ROWS, BLOCK_ROWS).min(rows.max(1));
        let blocks = rows.div_ceil(block);
        let part_rows = blocks.div_ceil(PARTS).max(1) * block;
        Blocks { rows: block, part_rows, parts: rows.div_ceil(part_rows) }
    }

    /// Length of the workspace of [`Plan::run`], in `u32`.
    fn workspace(&self) -> usize {
        let blocks = self.blocks();
        blocks.parts * blocks.rows * self.form.words(self.patch_len())
    }

    fn run<T: Store>(
        &self,
        x: &[u8],
        x_zero_point: u8,
        panels: &[u32],
        output: Output<'_>,
        y: &mut [T],
        workspace: &mut [u32],
    ) {
        let (channels, blocks) = (self.geometry.out_channels, self.blocks());
        let ((_, outputs), len) = (self.group(), self.patch_len());
        let words = blocks.rows * self.form.words(len);
        let workspace = &mut workspace[..blocks.parts * words];
        let part_len = blocks.part_rows * channels;
        parallel::for_each_chunk2(y, part_len, workspace, words, |part, y, workspace| {
            for (i, y) in y.chunks_mut(blocks.rows * channels).enumerate() {
                let first = part * blocks.part_rows + i * blocks.rows;
                for (group, panels) in panels.chunks_exact(self.group_words()).enumerate() {
                    let columns = Columns::packed(self.form, outputs, len, panels);
                    self.block(x, x_zero_point, first, group, columns, output, y, workspace);
                }
            }
        });
    }

    /// The results of one group at the output positions from `first` on that `y` has room for.
    #[allow(clippy::too_many_arguments)]
    fn block<T: Store>(
        &self,
        x: &[u8],
        x_zero_point: u8,
        first: usize,
        group: usize,
        columns: Columns<'_>,
        output: Output<'_>,
        y: &mut [T],
        workspace: &mut [u32],
    ) {
        let (stride, (_, outputs)) = (self.geometry.out_channels, self.group());
        let rows = y.len() / stride;
        let packed = &mut workspace[..rows * columns.words()];
        match self.form {
            Form::Scalar => self.pack(x, x_zero_point, first, group, columns.words(), packed),
            // SAFETY: every other form implies AVX2, and `Columns` are multiplied on CPUs that have the form only.
            #[cfg(target_arch = "x86_64")]
            _ if Form::Avx2.available() => unsafe {
                pack_avx2(self, x, x_zero_point, first, group, columns.words(), packed);
            },
            _ => self.pack(x, x_zero_point, first, group, columns.words(), packed),
        }
        let first = group * outputs;
        let Output { bias, scale, zero_point } = output;
        let (bias, scale) = (&bias[first..][..outputs], &scale[first..][..outputs]);
        multiply(packed, columns, Target { y, rows, stride, first, bias, scale, zero_point });
    }

    /// Packs the patches of a group at the output positions from `first` on, one to each row of `words` words. What is
    /// behind the last code of a row meets zeros and does not matter.
    #[inline(always)]
    fn pack(&self, x: &[u8], zero_point: u8, first: usize, group: usize, words: usize, packed: &mut [u32]) {
        let Geometry { in_channels, groups, window, .. } = self.geometry;
        let (h, w) = (&window.height, &window.width);
        let inputs = in_channels / groups;
        // Neighbouring positions of the kernel meet neighbouring inputs: one run of memory.
        let joined = groups == 1 && w.dilation == 1;
        let mut packed = packed.chunks_exact_mut(words);
        if h.is_identity() && w.is_identity() {
            let pixels = x[first * in_channels..].chunks_exact(in_channels);
            packed
                .zip(pixels)
                .for_each(|(packed, x)| self.form.put(packed, 0, &x[group * inputs..][..inputs]));
            return;
        }
        for (image, row, column, length) in runs(first, packed.len(), h.output, w.output) {
            let image = &x[image * window.input_len() * in_channels..];
            let row = h.taps(row);
            for (column, packed) in self.columns[column..][..length].iter().zip(&mut packed) {
                let (runs, run) = if joined { (1, column.count * inputs) } else { (column.count, inputs) };
                if row.count * column.count < window.kernel_len() {
                    self.form.fill(packed, zero_point);
                }
                for i in 0..row.count {
                    let (source, tap) = (row.source_at(i) * w.input, row.kernel_at(i) * w.kernel);
                    for j in 0..runs.min(column.count) {
                        let source = (source + column.source_at(j)) * in_channels + group * inputs;
                        let tap = tap + column.kernel_at(j);
                        self.form.put(packed, tap * inputs, &image[source..][..run]);
                    }
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn pack_avx2(
    plan: &Plan,
    x: &[u8],
    zero_point: u8,
    first: usize,
    group: usize,
    words: usize,
    packed: &mut [u32],
) {
    plan.pack(x, zero_point, first, group, words, packed);
}

/// A convolution of uint8 activations with constant int8 weights, summed in int32. ONNX `QLinearConv` and `ConvInteger`.
///
/// `x` is `(N, H, W, C)`, results are `(N, H', W', O)`. Padding stands for the value 0, which is the code `zero_point`.
#[derive(Clone, Debug)]
pub struct Conv {
    plan: Plan,
    zero_point: u8,
    /// One per output channel; makes up for the zero point of the activations.
    bias: Vec<i32>,
    weights: Weights,
}

#[derive(Clone, Debug)]
enum Weights {
    /// One filter per channel.
    Depthwise(Filters),
    /// As [`Plan::pack_weights`] packs them.
    Packed(Vec<u32>),
}

impl Conv {
    /// Packs weights `(O, C / groups, kh, kw)` for the best form of this CPU. `bias` is one per output channel, in steps
    /// of `s_x s_w`.
    ///
    /// # Panics
    /// When `weights` or `bias` have not the length of the shape.
    pub fn new(geometry: Geometry, weights: &[i8], zero_point: u8, bias: Option<&[i32]>) -> Conv {
        Conv::with_form(Form::detect(), geometry, weights, zero_point, bias)
    }

    /// The matrix product of rows of `inner` activations with `columns` columns; `weights` is `(columns, inner)`.
    ///
    /// # Errors
    /// When there are no columns or no rows, or too many of them.
    ///
    /// # Panics
    /// As [`Conv::new`].
    pub fn product(
        rows: usize,
        columns: usize,
        inner: usize,
        weights: &[i8],
        zero_point: u8,
        bias: Option<&[i32]>,
    ) -> Result<Conv, String> {
        use crate::window::{Axis, Rounding, Window};
        let point = Axis::new(1, 1, 1, 1, 0, 0, Rounding::Floor)?;
        let geometry = Geometry::new(rows, inner, columns, 1, Window::flat(point))?;
        Ok(Conv::new(geometry, weights, zero_point, bias))
    }

    /// [`Conv::new`] for a given form.
    ///
    /// # Panics
    /// As [`Conv::new`].
    pub fn with_form(
        form: Form,
        geometry: Geometry,
        weights: &[i8],
        zero_point: u8,
        bias: Option<&[i32]>,
    ) -> Conv {
        let out_channels = geometry.out_channels;
        assert_eq!(weights.len(), geometry.weight_len(), "weights of {geometry:?}");
        assert!(bias.is_none_or(|bias| bias.len() == out_channels), "bias of {geometry:?}");
        let plan = Plan::new(form, geometry);
        let mut bias = bias.map_or_else(|| vec![0; out_channels], <[i32]>::to_vec);
        plan.offset_bias(weights, zero_point, &mut bias);
        let weights = if Filters::fit(&geometry) {
            Weights::Depthwise(Filters::new(form, geometry, weights, zero_point))
        } else {
            let mut panels = vec![0; geometry.groups * plan.group_words()];
            plan.pack_weights(weights, &mut panels);
            Weights::Packed(panels)
        };
        Conv { plan, zero_point, bias, weights }
    }

    /// The shape.
    pub fn geometry(&self) -> &Geometry {
        &self.plan.geometry
    }

    /// Length of the workspace, in `u32`.
    pub fn workspace(&self) -> usize {
        match &self.weights {
            Weights::Depthwise(_) => 0,
            Weights::Packed(_) => self.plan.workspace(),
        }
    }

    /// The codes of the result: `round(f32(sum) * scale[o]) + y_zero_point`, saturated. `scale` is `(s_x s_w) / s_y` per
    /// output channel.
    ///
    /// # Panics
    /// When a slice has not the length of its shape, or `workspace` is shorter than [`Conv::workspace`].
    pub fn codes(&self, x: &[u8], scale: &[f32], y_zero_point: u8, y: &mut [u8], workspace: &mut [u32]) {
        self.run(x, scale, y_zero_point.into(), y, workspace);
    }

    /// The values of the result, `f32(sum) * scale[o]` with `s_x s_w` as scale.
    ///
    /// # Panics
    /// As [`Conv::codes`].
    pub fn values(&self, x: &[u8], scale: &[f32], y: &mut [f32], workspace: &mut [u32]) {
        self.run(x, scale, 0.0, y, workspace);
    }

    /// The sums themselves, bias included.
    #[cfg(test)]
    fn sums(&self, x: &[u8], y: &mut [i32], workspace: &mut [u32]) {
        self.run(x, &vec![1.0; self.plan.geometry.out_channels], 0.0, y, workspace);
    }

    fn run<T: Store>(&self, x: &[u8], scale: &[f32], zero_point: f32, y: &mut [T], workspace: &mut [u32]) {
        check(&self.plan.geometry, x.len(), y.len(), scale.len());
        let bias = &self.bias;
        match &self.weights {
            Weights::Depthwise(filters) => {
                filters.run(x, &self.plan.columns, &Results { bias, scale, zero_point }, y);
            }
            Weights::Packed(panels) => {
                let output = Output { bias, scale, zero_point };
                self.plan.run(x, self.zero_point, panels, output, y, workspace);
            }
        }
    }
}

fn check(geometry: &Geometry, x: usize, y: usize, scale: usize) {
    assert_eq!((x, y), (geometry.input_len(), geometry.output_len()), "slices of {geometry:?}");
    assert_eq!(scale, geometry.out_channels, "scales of {geometry:?}");
}

/// A convolution of uint8 activations with int8 weights that are known at run time only, as in training: the forward product
/// of quantization-aware training, on the codes that will be deployed.
#[derive(Clone, Debug)]
pub struct TrainedConv {
    plan: Plan,
}

impl TrainedConv {
    /// For the best form of this CPU. Any number of groups, but meant for few.
    pub fn new(geometry: Geometry) -> TrainedConv {
        TrainedConv::with_form(Form::detect(), geometry)
    }

    /// [`TrainedConv::new`] for a given form.
    pub fn with_form(form: Form, geometry: Geometry) -> TrainedConv {
        TrainedConv { plan: Plan::new(form, geometry) }
    }

    /// Length of the workspace, in `u32`.
    pub fn workspace(&self) -> usize {
        let geometry = &self.plan.geometry;
        geometry.groups * self.plan.group_words() + geometry.out_channels + self.plan.workspace()
    }

    /// `y = f32(sum of (x - zero_point) w) * scale[o] + bias[o]` with `s_x s_w` as scale.
    ///
    /// # Panics
    /// When a slice has not the length of its shape, or `workspace` is shorter than [`TrainedConv::workspace`].
    #[allow(clippy::too_many_arguments)]
    pub fn values(
        &self,
        x: &[u8],
        zero_point: u8,
        weights: &[i8],
        scale: &[f32],
        bias: Option<&[f32]>,
        y: &mut [f32],
        workspace: &mut [u32],
    ) {
        let geometry = &self.plan.geometry;
        check(geometry, x.len(), y.len(), scale.len());
        assert_eq!(weights.len(), geometry.weight_len(), "weights of {geometry:?}");
        let (panels, workspace) = workspace.split_at_mut(geometry.groups * self.plan.group_words());
        let (offset, workspace) = workspace.split_at_mut(geometry.out_channels);
        self.plan.pack_weights(weights, panels);
        let offset: &mut [i32] = bytemuck::cast_slice_mut(offset);
        offset.fill(0);
        self.plan.offset_bias(weights, zero_point, offset);
        let output = Output { bias: offset, scale, zero_point: 0.0 };
        self.plan.run(x, zero_point, panels, output, y, workspace);
        if let Some(bias) = bias {
            add_rows(bias, y);
        }
    }
}

/// Adds `bias` to every row of `y`.
fn add_rows(bias: &[f32], y: &mut [f32]) {
    let rows = (parallel::CHUNK / bias.len().max(1)).max(1);
    parallel::for_each_chunk(y, (rows * bias.len()).max(1), |_, y| {
        for y in y.chunks_exact_mut(bias.len()) {
            y.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
        }
    });
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::reference::{Draw, conv_forward, on_threads};
    use crate::window::tests::draw_axis;
    use crate::window::{Axis, Rounding, Window};

    fn draw_conv(draw: &mut Draw) -> Geometry {
        let mut window = Window::flat(draw_axis(draw, Rounding::Floor));
        if draw.below(3) > 0 {
            window.height = draw_axis(draw, Rounding::Floor);
        }
        let groups = [1, 1, 2, 5, 40][draw.below(5)];
        let (inputs, outputs) = match draw.below(2) {
            0 if groups > 1 => (1, 1),
            _ => (1 + draw.below(5), 1 + draw.below(20)),
        };
        Geometry::new(1 + draw.below(2), groups * inputs, groups * outputs, groups, window).unwrap()
    }

    /// Exact sums from the definition. Padding has the value 0.
    fn expected(geometry: &Geometry, x: &[u8], w: &[i8], zero_point: u8, bias: &[i32]) -> Vec<i32> {
        let x: Vec<f32> = x.iter().map(|&x| f32::from(x) - f32::from(zero_point)).collect();
        let w: Vec<f32> = w.iter().map(|&w| f32::from(w)).collect();
        let bias: Vec<f32> = bias.iter().map(|&b| b as f32).collect();
        conv_forward(geometry, &x, &w, Some(&bias)).into_iter().map(|y| y as i32).collect()
    }

    #[test]
    fn sums_are_exact_in_every_form() {
        let mut draw = Draw::new(11);
        for round in 0..250 {
            let geometry = draw_conv(&mut draw);
            let x: Vec<u8> =
                (0..geometry.input_len()).map(|_| [0, 255, draw.below(256) as u8][draw.below(3)]).collect();
            let w: Vec<i8> = (0..geometry.weight_len())
                .map(|_| [-128, 127, draw.below(256) as u8 as i8][draw.below(3)])
                .collect();
            let bias: Vec<i32> = (0..geometry.out_channels).map(|_| draw.below(9999) as i32 - 5000).collect();
            let zero_point = [0, 128, 255, draw.below(256) as u8][round % 4];
            let expected = expected(&geometry, &x, &w, zero_point, &bias);
            for form in Form::ALL.into_iter().filter(|form| form.available()) {
                let conv = Conv::with_form(form, geometry, &w, zero_point, Some(&bias));
                let run = || {
                    let mut y = vec![7; geometry.output_len()];
                    conv.sums(&x, &mut y, &mut vec![u32::MAX; conv.workspace()]);
                    y
                };
                let y = on_threads(1, run);
                assert_eq!(y, expected, "{form:?} {geometry:?}");
                assert_eq!(y, on_threads(3, run));

                let conv = TrainedConv::with_form(form, geometry);
                let (scale, bias) = (vec![1.0; geometry.out_channels], bias.iter().map(|&b| b as f32));
                let (mut y, bias) = (vec![7.0; geometry.output_len()], bias.collect::<Vec<_>>());
                let mut workspace = vec![u32::MAX; conv.workspace()];
                conv.values(&x, zero_point, &w, &scale, Some(&bias), &mut y, &mut workspace);
                assert!(y.iter().zip(&expected).all(|(y, e)| *y == *e as f32), "{form:?} {geometry:?}");
            }
        }
    }

    #[test]
    fn many_blocks_and_parts() {
        let axis = Axis::new(60, 3, 1, 1, 1, 1, Rounding::Floor).unwrap();
        let window = Window { height: axis, width: axis };
        let mut draw = Draw::new(12);
        for (channels, outputs, groups) in [(4, 5, 1), (24, 24, 24)] {
            let geometry = Geometry::new(6, channels, outputs, groups, window).unwrap();
            let x: Vec<u8> = (0..geometry.input_len()).map(|_| draw.below(256) as u8).collect();
            let w: Vec<i8> = (0..geometry.weight_len()).map(|_| draw.below(256) as u8 as i8).collect();
            let conv = Conv::new(geometry, &w, 3, None);
            if groups == 1 {
                assert!(
                    conv.plan.blocks().parts > 10 && conv.plan.blocks().part_rows > conv.plan.blocks().rows
                );
            }
            let run = || {
                let mut y = vec![7; geometry.output_len()];
                conv.sums(&x, &mut y, &mut vec![u32::MAX; conv.workspace()]);
                y
            };
            let y = on_threads(3, run);
            assert_eq!(y, expected(&geometry, &x, &w, 3, &vec![0; outputs]));
            assert_eq!(y, on_threads(1, run));
        }
    }

    #[test]
    fn results_are_rounded_once() {
        let (rows, columns, inner) = (5, 19, 33);
        let mut draw = Draw::new(13);
        let x: Vec<u8> = (0..rows * inner).map(|_| draw.below(256) as u8).collect();
        let w: Vec<i8> = (0..columns * inner).map(|_| draw.below(256) as u8 as i8).collect();
        let bias: Vec<i32> = (0..columns).map(|_| draw.below(9999) as i32).collect();
        let scale: Vec<f32> = (0..columns).map(|c| 0.5f32.powi(8 + c as i32 % 5)).collect();
        let conv = Conv::product(rows, columns, inner, &w, 100, Some(&bias)).unwrap();
        let mut workspace = vec![0; conv.workspace()];
        let mut sums = vec![0; rows * columns];
        conv.sums(&x, &mut sums, &mut workspace);
        for (i, &sum) in sums.iter().enumerate() {
            let (x, w) = (&x[i / columns * inner..][..inner], &w[i % columns * inner..][..inner]);
            let products = x.iter().zip(w).map(|(&x, &w)| (i32::from(x) - 100) * i32::from(w));
            assert_eq!(sum, bias[i % columns] + products.sum::<i32>());
        }
        let (mut codes, mut values) = (vec![0; sums.len()], vec![0.0; sums.len()]);
        conv.codes(&x, &scale, 7, &mut codes, &mut workspace);
        conv.values(&x, &scale, &mut values, &mut workspace);
        for (i, (&code, &value)) in codes.iter().zip(&values).enumerate() {
            assert_eq!(value, sums[i] as f32 * scale[i % columns]);
            assert_eq!(f32::from(code), (value.round_ties_even() + 7.0).clamp(0.0, 255.0));
        }
        assert!(codes.contains(&0) && codes.contains(&255));
    }
}
