//! What stands behind a product in training, in one sweep over memory: normalization or a sum, an activation, learned
//! clipping, fake quantization. Nothing in between is written: backward sweeps compute it again from what they read.
//!
//! ```text
//! u = (x - mean) scale + beta   or   a + b   or   x      the source
//! r = activation(u)
//! p = min(max(r, low), high)                             PACT; unbounded without
//! y = value of the code of p                             ONNX arithmetic; p itself without a quantizer
//! ```
//!
//! The operations are those of [`batch_norm`](crate::batch_norm), [`Unary`], [`pact`](super::pact) and
//! [`fake_quantize`](super::fake_quantize), in their order: element for element the same bits.

use super::arithmetic::{Arithmetic, Bounds, Onnx, clip};
use super::sweep::low_byte;
use super::{Extremes, Grid, Pact};
use crate::batch_norm::Shape;
use crate::elementwise::{Unary, hard_sigmoid_grad, hard_swish_grad};
use crate::parallel::{self, CHUNK};
use crate::simd::{Isa, dispatch};

/// Which of the operations there are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Epilogue {
    /// One for which [`Epilogue::fuses`] holds.
    pub activation: Unary,
    /// The form of the clipping; `Symmetric` or `Relu`.
    pub pact: Option<Pact>,
    /// The codes, under the ONNX rule.
    pub grid: Option<Grid>,
    /// The gradient stops where the quantizer saturates.
    pub clipped: bool,
}

/// Numbers of one run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Threshold of PACT; not read without.
    pub threshold: f32,
    /// Scale of the quantizer; not read without.
    pub scale: f32,
    /// Zero point of the quantizer.
    pub zero_point: i32,
}

/// What the activation is applied to.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// `(x - mean) scale + beta` per channel, with `scale = gamma / std`.
    Norm {
        /// Of `x`.
        shape: Shape,
        /// Data.
        x: &'a [f32],
        /// Mean of each channel.
        mean: &'a [f32],
        /// Factor of each channel.
        scale: &'a [f32],
        /// Offset of each channel.
        beta: &'a [f32],
    },
    /// `a + b`.
    Sum(Operand<'a>, Operand<'a>),
    /// `x`.
    Plain(Operand<'a>),
}

/// A tensor as it lies in memory.
#[derive(Clone, Copy, Debug)]
pub enum Operand<'a> {
    /// Its values.
    Values(&'a [f32]),
    /// Codes under the ONNX rule.
    Codes {
        /// The codes.
        codes: &'a [u8],
        /// Width of a step.
        scale: f32,
        /// The code of 0.
        zero_point: i32,
    },
}

impl<'a> Operand<'a> {
    fn len(&self) -> usize {
        match self {
            Operand::Values(x) => x.len(),
            Operand::Codes { codes, .. } => codes.len(),
        }
    }

    fn piece(self, start: usize, len: usize) -> Operand<'a> {
        match self {
            Operand::Values(x) => Operand::Values(&x[start..][..len]),
            Operand::Codes { codes, scale, zero_point } => {
                Operand::Codes { codes: &codes[start..][..len], scale, zero_point }
            }
        }
    }
}

/// An [`Operand`] as a type, so that loops are compiled for it.
trait Read: Copy {
    fn at(self, i: usize) -> f32;
    /// The first `len` elements, said so that the loop needs no bounds checks.
    fn first(self, len: usize) -> Self;
}

#[derive(Clone, Copy)]
struct Values<'a>(&'a [f32]);

impl Read for Values<'_> {
    #[inline(always)]
    fn at(self, i: usize) -> f32 {
        self.0[i]
    }
    #[inline(always)]
    fn first(self, len: usize) -> Self {
        Values(&self.0[..len])
    }
}

#[derive(Clone, Copy)]
struct Coded<'a>(&'a [u8], f32, f32);

impl Read for Coded<'_> {
    #[inline(always)]
    fn at(self, i: usize) -> f32 {
        (f32::from(self.0[i]) - self.2) * self.1
    }
    #[inline(always)]
    fn first(self, len: usize) -> Self {
        Coded(&self.0[..len], self.1, self.2)
    }
}

/// Binds `$x` to the [`Read`] of an operand and evaluates `$body`, once per type.
macro_rules! with_operand {
    ($operand:expr, $x:ident => $body:expr) => {
        match $operand {
            Operand::Values(values) => {
                let $x = Values(values);
                $body
            }
            Operand::Codes { codes, scale, zero_point } => {
                let $x = Coded(codes, scale, zero_point as f32);
                $body
            }
        }
    };
}

impl<'a> Source<'a> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Source::Norm { x, .. } => x.len(),
            Source::Sum(x, _) | Source::Plain(x) => x.len(),
        }
    }

    /// There are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Length of a piece of work.
    fn piece_len(&self) -> usize {
        match self {
            Source::Norm { shape, .. } => shape.piece_len(),
            _ => CHUNK,
        }
    }

    /// The piece of `len` elements from `start` on; it starts with the first channel.
    fn piece(self, start: usize, len: usize) -> Source<'a> {
        match self {
            Source::Norm { shape, x, mean, scale, beta } => {
                Source::Norm { shape, x: &x[start..][..len], mean, scale, beta }
            }
            Source::Sum(a, b) => Source::Sum(a.piece(start, len), b.piece(start, len)),
            Source::Plain(x) => Source::Plain(x.piece(start, len)),
        }
    }

    /// At most `most` elements from `start` on, and their number. Blocks follow one another from 0 on.
    #[inline(always)]
    fn block(self, start: usize, most: usize) -> (Source<'a>, usize) {
        match self {
            Source::Norm { shape: Shape { channels, spatial: 1, .. }, x, mean, scale, beta }
                if channels <= most =>
            {
                let n = (most / channels * channels).min(x.len() - start);
                let shape = Shape::channels_last(n / channels, channels);
                (Source::Norm { shape, x: &x[start..][..n], mean, scale, beta }, n)
            }
            Source::Norm { shape: Shape { channels, spatial, .. }, x, mean, scale, beta } => {
                // A part of one row, or of one run: a row of the channels, or the one channel, that it covers.
                let (channel, left) = match spatial {
                    1 => (start % channels, channels - start % channels),
                    _ => (start / spatial % channels, spatial - start % spatial),
                };
                let n = left.min(most);
                let width = if spatial == 1 { n } else { 1 };
                let shape = Shape { batch: 1, channels: width, spatial: n / width };
                let of = |v: &'a [f32]| &v[channel..][..width];
                (
                    Source::Norm {
                        shape,
                        x: &x[start..][..n],
                        mean: of(mean),
                        scale: of(scale),
                        beta: of(beta),
                    },
                    n,
                )
            }
            source => {
                let n = most.min(source.len() - start);
                (source.piece(start, n), n)
            }
        }
    }

    fn check(&self, len: usize) {
        assert_eq!(self.len(), len, "source and result have one length");
        match self {
            Source::Norm { shape, mean, scale, beta, .. } => {
                assert_eq!(shape.len(), len, "activations of {shape:?}");
                let lens = [mean.len(), scale.len(), beta.len()];
                assert_eq!(lens, [shape.channels; 3], "parameters of {shape:?}");
            }
            Source::Sum(a, b) => assert_eq!(a.len(), b.len(), "both addends have one length"),
            Source::Plain(_) => {}
        }
    }
}

/// An activation as a type, so that loops are compiled for it.
trait Activation: Copy {
    fn value(self, u: f32) -> f32;
    /// Gradient of `u`, given that of the result.
    fn grad(self, u: f32, dy: f32) -> f32;
}

#[derive(Clone, Copy)]
struct Identity;

impl Activation for Identity {
    #[inline(always)]
    fn value(self, u: f32) -> f32 {
        u
    }
    #[inline(always)]
    fn grad(self, _: f32, dy: f32) -> f32 {
        dy
    }
}

#[derive(Clone, Copy)]
struct Relu;

impl Activation for Relu {
    #[inline(always)]
    fn value(self, u: f32) -> f32 {
        if u <= 0.0 { 0.0 } else { u }
    }
    #[inline(always)]
    fn grad(self, u: f32, dy: f32) -> f32 {
        if u > 0.0 { dy } else { 0.0 }
    }
}

#[derive(Clone, Copy)]
struct Clip(f32, f32);

impl Activation for Clip {
    #[inline(always)]
    fn value(self, u: f32) -> f32 {
        clip(u, self.0, self.1)
    }
    #[inline(always)]
    fn grad(self, u: f32, dy: f32) -> f32 {
        if u >= self.0 && u <= self.1 { dy } else { 0.0 }
    }
}

#[derive(Clone, Copy)]
struct HardSigmoid(f32, f32);

impl Activation for HardSigmoid {
    #[inline(always)]
    fn value(self, u: f32) -> f32 {
        clip(self.0 * u + self.1, 0.0, 1.0)
    }
    #[inline(always)]
    fn grad(self, u: f32, dy: f32) -> f32 {
        hard_sigmoid_grad(self.0, self.1, u, dy)
    }
}

#[derive(Clone, Copy)]
struct HardSwish;

impl Activation for HardSwish {
    #[inline(always)]
    fn value(self, u: f32) -> f32 {
        u * clip(u * (1.0 / 6.0) + 0.5, 0.0, 1.0)
    }
    #[inline(always)]
    fn grad(self, u: f32, dy: f32) -> f32 {
        hard_swish_grad(u, dy)
    }
}

/// Binds `$a` to the [`Activation`] of an epilogue and evaluates `$body`, once per type.
macro_rules! with_activation {
    ($epilogue:expr, $a:ident => $body:expr) => {
        match $epilogue.activation {
            Unary::Relu => {
                let $a = Relu;
                $body
            }
            Unary::Clip { lo, hi } => {
                let $a = Clip(lo, hi);
                $body
            }
            Unary::HardSigmoid { alpha, beta } => {
                let $a = HardSigmoid(alpha, beta);
                $body
            }
            Unary::HardSwish => {
                let $a = HardSwish;
                $body
            }
            _ => {
                let $a = Identity;
                $body
            }
        }
    };
}

/// [`with_activation!`], and `$grad` bound to the [`Grad`] of the epilogue.
macro_rules! with_grad {
    ($epilogue:expr, $settings:expr, $grad:ident, $a:ident => $body:expr) => {
        if $epilogue.clipped && $epilogue.grid.is_some() {
            let $grad = Grad::<true>::of($epilogue, $settings);
            with_activation!($epilogue, $a => $body)
        } else {
            let $grad = Grad::<false>::of($epilogue, $settings);
            with_activation!($epilogue, $a => $body)
        }
    };
}
/// Bounds of the clipping, and what an element below the lower one adds to the gradient of the threshold.
#[derive(Clone, Copy)]
struct Clipping {
    low: f32,
    high: f32,
    below: f32,
}

impl Clipping {
    fn of(pact: Option<Pact>, threshold: f32) -> Clipping {
        let u = if threshold > 0.0 { threshold } else { 0.0 };
        match pact {
            None => Clipping { low: f32::NEG_INFINITY, high: f32::INFINITY, below: 0.0 },
            Some(Pact::Relu) => Clipping { low: 0.0, high: u, below: 0.0 },
            Some(_) => Clipping { low: -u, high: u, below: 1.0 },
        }
    }

    #[inline(always)]
    fn value(self, r: f32) -> f32 {
        let p = if r > self.high { self.high } else { r };
        if p < self.low { self.low } else { p }
    }

    /// Gradients of `r` and of the threshold.
    #[inline(always)]
    fn grad(self, r: f32, dp: f32) -> (f32, f32) {
        let (above, below) = (r > self.high, r < self.low);
        let inside = if above || below { 0.0 } else { dp };
        let threshold = if above { dp } else { 0.0 };
        (inside, if below { threshold - self.below * dp } else { threshold })
    }
}

/// The quantizer, for all elements the same.
#[derive(Clone, Copy)]
struct Codes {
    onnx: Onnx,
    scale: f32,
    zero: f32,
}

impl Codes {
    fn of(grid: Grid, settings: Settings) -> Codes {
        Codes { onnx: Onnx(Bounds::of(grid)), scale: settings.scale, zero: settings.zero_point as f32 }
    }
}

/// What becomes of the operand of the activation, as a type: a closure that several loops call is not sure to be inlined into
/// code for a wider instruction set.
trait Finish<T>: Copy {
    fn of(self, u: f32) -> T;
}

/// `p`: activation and clipping.
#[derive(Clone, Copy)]
struct Clipped<A>(A, Clipping);

impl<A: Activation> Finish<f32> for Clipped<A> {
    #[inline(always)]
    fn of(self, u: f32) -> f32 {
        self.1.value(self.0.value(u))
    }
}

/// The code of `p`, as such or as its value.
#[derive(Clone, Copy)]
struct Quantized<A>(Clipped<A>, Codes);

impl<A: Activation> Finish<f32> for Quantized<A> {
    #[inline(always)]
    fn of(self, u: f32) -> f32 {
        let Codes { onnx, scale, zero } = self.1;
        onnx.value(scale, zero, onnx.code(scale, zero, self.0.of(u)))
    }
}

impl<A: Activation> Finish<u8> for Quantized<A> {
    #[inline(always)]
    fn of(self, u: f32) -> u8 {
        let Codes { onnx, scale, zero } = self.1;
        low_byte(onnx.code(scale, zero, self.0.of(u)))
    }
}

/// `y[i] = finish(u)` for every element of a source.
#[inline(always)]
fn map<T>(source: Source<'_>, y: &mut [T], finish: impl Finish<T>) {
    let len = y.len();
    match source {
        Source::Norm { shape: Shape { channels, spatial: 1, .. }, x, mean, scale, beta } => {
            let (mean, scale, beta) = (&mean[..channels], &scale[..channels], &beta[..channels]);
            for (x, y) in x.chunks_exact(channels).zip(y.chunks_exact_mut(channels)) {
                let (x, y) = (&x[..channels], &mut y[..channels]);
                for c in 0..channels {
                    y[c] = finish.of((x[c] - mean[c]) * scale[c] + beta[c]);
                }
            }
        }
        Source::Norm { shape: Shape { channels, spatial, .. }, x, mean, scale, beta } => {
            for (run, (x, y)) in x.chunks_exact(spatial).zip(y.chunks_exact_mut(spatial)).enumerate() {
                let c = run % channels;
                let (mean, scale, beta) = (mean[c], scale[c], beta[c]);
                y.iter_mut().zip(x).for_each(|(y, x)| *y = finish.of((x - mean) * scale + beta));
            }
        }
        Source::Sum(a, b) => with_operand!(a, a => with_operand!(b, b => {
            let (a, b) = (a.first(len), b.first(len));
            for (i, y) in y.iter_mut().enumerate() {
                *y = finish.of(a.at(i) + b.at(i));
            }
        })),
        Source::Plain(x) => with_operand!(x, x => {
            let x = x.first(len);
            for (i, y) in y.iter_mut().enumerate() {
                *y = finish.of(x.at(i));
            }
        }),
    }
}

dispatch! {
    fn forward_piece(e: Epilogue, settings: Settings, source: Source<'_>, y: &mut [f32]) {
        let clipping = Clipping::of(e.pact, settings.threshold);
        match e.grid {
            Some(grid) => {
                let codes = Codes::of(grid, settings);
                with_activation!(e, a => map(source, y, Quantized(Clipped(a, clipping), codes)))
            }
            None => with_activation!(e, a => map(source, y, Clipped(a, clipping))),
        }
    }

    fn codes_piece(e: Epilogue, settings: Settings, source: Source<'_>, y: &mut [u8]) {
        let clipping = Clipping::of(e.pact, settings.threshold);
        let codes = Codes::of(e.grid.unwrap_or(Grid::U8), settings);
        with_activation!(e, a => map(source, y, Quantized(Clipped(a, clipping), codes)))
    }

    fn range_piece(e: Epilogue, settings: Settings, source: Source<'_>) -> Extremes {
        let clipping = Clipping::of(e.pact, settings.threshold);
        with_activation!(e, a => {
            // Element `i` goes to lane `i % LANES`: independent sums that vectorize.
            let mut block = [0f32; BLOCK];
            let (mut min, mut max, mut poison) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES], [0f32; LANES]);
            let mut start = 0;
            while start < source.len() {
                let (piece, n) = source.block(start, BLOCK);
                map(piece, &mut block[..n], Clipped(a, clipping));
                // The rest of the last lanes repeats an element.
                let (full, first) = (n.next_multiple_of(LANES), block[0]);
                block[n..full].fill(first);
                for p in block[..full].chunks_exact(LANES) {
                    for lane in 0..LANES {
                        min[lane] = if p[lane] < min[lane] { p[lane] } else { min[lane] };
                        max[lane] = if p[lane] > max[lane] { p[lane] } else { max[lane] };
                        poison[lane] += p[lane] * 0.0;
                    }
                }
                start += n;
            }
            (0..LANES).fold(Extremes::EMPTY, |all, lane| {
                all.merge(Extremes { min: min[lane], max: max[lane], finite: poison[lane] == 0.0 })
            })
        })
    }

    /// Sums over a piece, per channel: of the gradient `g` of `u`, of `g (x - mean)`, and of the threshold's. Three slices, of
    /// which the compiler then knows that they do not overlap.
    fn sums_piece(
        e: Epilogue,
        settings: Settings,
        source: Source<'_>,
        dy: &[f32],
        of_g: &mut [f32],
        of_products: &mut [f32],
        of_threshold: &mut [f32],
    ) {
        let Source::Norm { shape: Shape { channels, spatial, .. }, x, mean, scale, beta } = source else { return };
        of_g.fill(0.0);
        of_products.fill(0.0);
        of_threshold.fill(0.0);
        with_grad!(e, settings, grad, a => if spatial == 1 {
            let (mean, scale, beta) = (&mean[..channels], &scale[..channels], &beta[..channels]);
            let (of_g, of_products) = (&mut of_g[..channels], &mut of_products[..channels]);
            let of_threshold = &mut of_threshold[..channels];
            let (x, dy) = (x.chunks_exact(4 * channels), dy.chunks_exact(4 * channels));
            let (x_rest, dy_rest) = (x.remainder(), dy.remainder());
            for (x, dy) in x.zip(dy) {
                let row = |r: usize| (&x[r * channels..][..channels], &dy[r * channels..][..channels]);
                let ((x0, d0), (x1, d1), (x2, d2), (x3, d3)) = (row(0), row(1), row(2), row(3));
                for c in 0..channels {
                    let (g0, centred0, t0) = grad.normalized(a, x0[c], mean[c], scale[c], beta[c], d0[c]);
                    let (g1, centred1, t1) = grad.normalized(a, x1[c], mean[c], scale[c], beta[c], d1[c]);
                    let (g2, centred2, t2) = grad.normalized(a, x2[c], mean[c], scale[c], beta[c], d2[c]);
                    let (g3, centred3, t3) = grad.normalized(a, x3[c], mean[c], scale[c], beta[c], d3[c]);
                    of_g[c] += (g0 + g1) + (g2 + g3);
                    of_products[c] += (g0 * centred0 + g1 * centred1) + (g2 * centred2 + g3 * centred3);
                    of_threshold[c] += (t0 + t1) + (t2 + t3);
                }
            }
            for (x, dy) in x_rest.chunks_exact(channels).zip(dy_rest.chunks_exact(channels)) {
                for c in 0..channels {
                    let (g, centred, t) = grad.normalized(a, x[c], mean[c], scale[c], beta[c], dy[c]);
                    of_g[c] += g;
                    of_products[c] += g * centred;
                    of_threshold[c] += t;
                }
            }
        } else {
            for (run, (x, dy)) in x.chunks_exact(spatial).zip(dy.chunks_exact(spatial)).enumerate() {
                let c = run % channels;
                for (x, dy) in x.iter().zip(dy) {
                    let (g, centred, t) = grad.normalized(a, *x, mean[c], scale[c], beta[c], *dy);
                    of_g[c] += g;
                    of_products[c] += g * centred;
                    of_threshold[c] += t;
                }
            }
        })
    }

    /// `dx = a g + b (x - mean) + c`, in place of `dy`.
    fn norm_grad_piece(e: Epilogue, settings: Settings, source: Source<'_>, abc: [&[f32]; 3], dy: &mut [f32]) {
        let Source::Norm { shape: Shape { channels, spatial, .. }, x, mean, scale, beta } = source else { return };
        let [a, b, c] = abc.map(|v| &v[..channels]);
        let (mean, scale, beta) = (&mean[..channels], &scale[..channels], &beta[..channels]);
        with_grad!(e, settings, grad, activation => if spatial == 1 {
            for (x, dy) in x.chunks_exact(channels).zip(dy.chunks_exact_mut(channels)) {
                let (x, dy) = (&x[..channels], &mut dy[..channels]);
                for i in 0..channels {
                    let (g, centred, _) = grad.normalized(activation, x[i], mean[i], scale[i], beta[i], dy[i]);
                    dy[i] = a[i] * g + centred * b[i] + c[i];
                }
            }
        } else {
            for (run, (x, dy)) in x.chunks_exact(spatial).zip(dy.chunks_exact_mut(spatial)).enumerate() {
                let i = run % channels;
                for (x, dy) in x.iter().zip(dy) {
                    let (g, centred, _) = grad.normalized(activation, *x, mean[i], scale[i], beta[i], *dy);
                    *dy = a[i] * g + centred * b[i] + c[i];
                }
            }
        })
    }

    /// The gradient of `u` in place of `dy`, without a normalization; returns that of the threshold.
    fn grad_piece(e: Epilogue, settings: Settings, source: Source<'_>, dy: &mut [f32]) -> f32 {
        let mut sums = [0f32; LANES];
        with_grad!(e, settings, grad, a => match source {
            Source::Sum(x, y) => with_operand!(x, x => with_operand!(y, y => {
                let (x, y) = (x.first(dy.len()), y.first(dy.len()));
                lanes(dy, &mut sums, |i, dy| grad.at(a, x.at(i) + y.at(i), dy));
            })),
            Source::Plain(x) => with_operand!(x, x => {
                let x = x.first(dy.len());
                lanes(dy, &mut sums, |i, dy| grad.at(a, x.at(i), dy));
            }),
            Source::Norm { .. } => {}
        });
        sums.iter().map(|&s| f64::from(s)).sum::<f64>() as f32
    }
}

/// Replaces each element by the first result of `f`, and adds the second one to its lane.
#[inline(always)]
fn lanes(dy: &mut [f32], sums: &mut [f32; LANES], f: impl Fn(usize, f32) -> (f32, f32)) {
    let (blocks, rest) = dy.as_chunks_mut::<LANES>();
    let done = blocks.len() * LANES;
    for (block, dy) in blocks.iter_mut().enumerate() {
        for lane in 0..LANES {
            let (g, t) = f(block * LANES + lane, dy[lane]);
            dy[lane] = g;
            sums[lane] += t;
        }
    }
    for (lane, dy) in rest.iter_mut().enumerate() {
        let (g, t) = f(done + lane, *dy);
        *dy = g;
        sums[lane] += t;
    }
}

/// Independent accumulators of a reduction.
const LANES: usize = 32;
/// Channels whose sums over pieces are joined at a time.
const JOINED: usize = 16;
/// Elements that are held between two loops over them.
const BLOCK: usize = 2048;

/// The way back from `y` to `u`. With `CLIPPED`, the gradient stops at the range of the quantizer.
#[derive(Clone, Copy)]
struct Grad<const CLIPPED: bool> {
    clipping: Clipping,
    codes: Codes,
}

impl<const CLIPPED: bool> Grad<CLIPPED> {
    fn of(e: Epilogue, settings: Settings) -> Self {
        let codes = Codes::of(e.grid.unwrap_or(Grid::U8), settings);
        Grad { clipping: Clipping::of(e.pact, settings.threshold), codes }
    }

    /// Gradients of `u` and of the threshold.
    #[inline(always)]
    fn at(self, a: impl Activation, u: f32, dy: f32) -> (f32, f32) {
        let r = a.value(u);
        let dp = if CLIPPED {
            let Codes { onnx, scale, zero } = self.codes;
            if onnx.inside(scale, zero, self.clipping.value(r)) { dy } else { 0.0 }
        } else {
            dy
        };
        let (dr, threshold) = self.clipping.grad(r, dp);
        (a.grad(u, dr), threshold)
    }

    /// Behind a normalization: gradient of `u`, `x - mean`, and gradient of the threshold.
    #[inline(always)]
    fn normalized(
        self,
        a: impl Activation,
        x: f32,
        mean: f32,
        scale: f32,
        beta: f32,
        dy: f32,
    ) -> (f32, f32, f32) {
        let centred = x - mean;
        let (g, threshold) = self.at(a, centred * scale + beta, dy);
        (g, centred, threshold)
    }
}

impl Epilogue {
    /// Whether an activation is one of those that can be fused.
    pub fn fuses(activation: Unary) -> bool {
        use Unary::{Clip, HardSigmoid, HardSwish, Identity, Relu};
        matches!(activation, Identity | Relu | Clip { .. } | HardSigmoid { .. } | HardSwish)
    }

    /// `y` of a source.
    ///
    /// # Panics
    /// When lengths differ.
    pub fn forward(self, settings: Settings, source: Source<'_>, y: &mut [f32]) {
        source.check(y.len());
        let (isa, len) = (Isa::detect(), source.piece_len());
        parallel::for_each_chunk(y, len, |i, y| {
            forward_piece(isa, self, settings, source.piece(i * len, y.len()), y);
        });
    }

    /// The codes of a source instead of their values. Needs a grid of uint8; NaN gets the code 0.
    ///
    /// # Panics
    /// When lengths differ.
    pub fn codes(self, settings: Settings, source: Source<'_>, y: &mut [u8]) {
        source.check(y.len());
        let (isa, len) = (Isa::detect(), source.piece_len());
        parallel::for_each_chunk(y, len, |i, y| {
            codes_piece(isa, self, settings, source.piece(i * len, y.len()), y);
        });
    }

    /// The range of `p`, which an observer sees.
    ///
    /// # Panics
    /// When lengths differ.
    pub fn range(self, settings: Settings, source: Source<'_>) -> Extremes {
        source.check(source.len());
        let isa = Isa::detect();
        let piece = |range: std::ops::Range<usize>| {
            range_piece(isa, self, settings, source.piece(range.start, range.len()))
        };
        parallel::reduce(source.len(), source.piece_len(), piece, Extremes::merge).unwrap_or(Extremes::EMPTY)
    }

    /// Whether [`Epilogue::range_of_channels`] knows the range.
    pub fn is_monotone(self) -> bool {
        match self.activation {
            Unary::HardSwish => false,
            Unary::HardSigmoid { alpha, .. } => alpha >= 0.0,
            _ => true,
        }
    }

    /// [`Epilogue::range`] of a normalization from the extremes of the channels of `x`: all operations are monotone, rounding
    /// included, so that extremes become extremes. The values are finite when mean and `scale` are.
    ///
    /// # Panics
    /// When the activation is not monotone ([`Epilogue::is_monotone`]), or the source is none of a normalization.
    pub fn range_of_channels(
        self,
        settings: Settings,
        source: Source<'_>,
        [min, max]: [&[f32]; 2],
    ) -> Extremes {
        assert!(self.is_monotone(), "{:?} is not monotone", self.activation);
        let Source::Norm { mean, scale, beta, .. } = source else { panic!("a source without normalization") };
        let clipping = Clipping::of(self.pact, settings.threshold);
        let mut range = Extremes::EMPTY;
        with_activation!(self, a => for c in 0..mean.len() {
            for x in [min[c], max[c]] {
                let p = Clipped(a, clipping).of((x - mean[c]) * scale[c] + beta[c]);
                range = range.merge(Extremes { min: p, max: p, finite: p.is_finite() && mean[c].is_finite() });
            }
        });
        range
    }

    /// Workspace of [`Epilogue::backward_norm`], in elements.
    pub fn backward_norm_workspace(shape: Shape) -> usize {
        shape.channels * (4 + 3 * shape.batch.div_ceil(shape.piece()))
    }

    /// Gradients behind a normalization over a batch: that of `x` in place of `dy`, of `gamma` and `beta`; returns that of the
    /// threshold. `source` is that of the forward pass, `inv_std` is `1 / std`.
    ///
    /// # Panics
    /// When lengths differ, or the source is none of a normalization.
    #[allow(clippy::too_many_arguments)]
    pub fn backward_norm(
        self,
        settings: Settings,
        source: Source<'_>,
        inv_std: &[f32],
        dy: &mut [f32],
        dgamma: &mut [f32],
        dbeta: &mut [f32],
        workspace: &mut [f32],
    ) -> f32 {
        source.check(dy.len());
        let Source::Norm { shape, scale, .. } = source else { panic!("a source without normalization") };
        let channels = shape.channels;
        assert_eq!([inv_std.len(), dgamma.len(), dbeta.len()], [channels; 3], "parameters of {shape:?}");
        assert_eq!(workspace.len(), Self::backward_norm_workspace(shape), "workspace of {shape:?}");
        if channels == 0 {
            return 0.0;
        }
        let (abc, pieces) = workspace.split_at_mut(4 * channels);
        let (isa, len) = (Isa::detect(), shape.piece_len());
        let of_dy = &*dy;
        parallel::for_each_chunk(pieces, 3 * channels, |i, sums| {
            let dy = &of_dy[i * len..];
            let dy = &dy[..dy.len().min(len)];
            let (of_g, rest) = sums.split_at_mut(channels);
            let (of_products, of_threshold) = rest.split_at_mut(channels);
            let source = source.piece(i * len, dy.len());
            sums_piece(isa, self, settings, source, dy, of_g, of_products, of_threshold);
        });
        let mut threshold = 0f64;
        for start in (0..channels).step_by(JOINED) {
            let len = JOINED.min(channels - start);
            let mut sums = [[0f64; JOINED]; 3];
            for piece in pieces.chunks_exact(3 * channels) {
                for (k, sums) in sums.iter_mut().enumerate() {
                    let piece = &piece[k * channels + start..][..len];
                    sums.iter_mut().zip(piece).for_each(|(sum, &x)| *sum += f64::from(x));
                }
            }
            let [of_g, of_products, of_threshold] = sums;
            for (c, ((g, product), t)) in
                (start..start + len).zip(of_g.iter().zip(&of_products).zip(&of_threshold))
            {
                dbeta[c] = *g as f32;
                dgamma[c] = (product * f64::from(inv_std[c])) as f32;
                threshold += t;
            }
        }
        let n = shape.count().max(1) as f32;
        let (a, rest) = abc.split_at_mut(channels);
        let (b, rest) = rest.split_at_mut(channels);
        let c = &mut rest[..channels];
        for i in 0..channels {
            a[i] = scale[i];
            b[i] = -a[i] * inv_std[i] * dgamma[i] / n;
            c[i] = -a[i] * dbeta[i] / n;
        }
        let abc = [&*a, &*b, &*c];
        parallel::for_each_chunk(dy, len, |i, dy| {
            norm_grad_piece(isa, self, settings, source.piece(i * len, dy.len()), abc, dy);
        });
        threshold as f32
    }

    /// Workspace of [`Epilogue::backward`], in elements.
    pub fn backward_workspace(len: usize) -> usize {
        len.div_ceil(CHUNK)
    }

    /// The gradient of `x`, or of both addends, in place of `dy`; returns that of the threshold.
    ///
    /// # Panics
    /// When lengths differ, or the source is a normalization.
    pub fn backward(
        self,
        settings: Settings,
        source: Source<'_>,
        dy: &mut [f32],
        workspace: &mut [f32],
    ) -> f32 {
        source.check(dy.len());
        assert!(!matches!(source, Source::Norm { .. }), "a normalization has gradients of its own");
        assert_eq!(workspace.len(), Self::backward_workspace(dy.len()), "workspace of {} elements", dy.len());
        let isa = Isa::detect();
        parallel::for_each_chunk2(dy, CHUNK, workspace, 1, |i, dy, sum| {
            sum[0] = grad_piece(isa, self, settings, source.piece(i * CHUNK, dy.len()), dy);
        });
        workspace.iter().map(|&s| f64::from(s)).sum::<f64>() as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch_norm;
    use crate::elementwise::testing::{bits, drawn, on_any_pool};
    use crate::quant::{
        Axis, Quantizer, Scales, extremes, fake_quantize, pact, pact_grad, straight_through_clipped,
    };

    const ACTIVATIONS: [Unary; 5] = [
        Unary::Identity,
        Unary::Relu,
        Unary::Clip { lo: 0.0, hi: 1.5 },
        Unary::HardSigmoid { alpha: 0.2, beta: 0.5 },
        Unary::HardSwish,
    ];
    const SETTINGS: Settings = Settings { threshold: 1.1, scale: 0.013, zero_point: 70 };

    fn all() -> Vec<Epilogue> {
        let mut all = Vec::new();
        for activation in ACTIVATIONS {
            for pact in [None, Some(Pact::Symmetric), Some(Pact::Relu)] {
                for (grid, clipped) in [(None, false), (Some(Grid::U8), false), (Some(Grid::U8), true)] {
                    all.push(Epilogue { activation, pact, grid, clipped });
                }
            }
        }
        all
    }

    /// `r`, `p` and `y` of `u`, one kernel after the other.
    fn apart(e: Epilogue, u: &[f32]) -> [Vec<f32>; 3] {
        let (mut r, mut p, mut y) = (vec![0.0; u.len()], vec![0.0; u.len()], vec![0.0; u.len()]);
        e.activation.forward(u, &mut r);
        match e.pact {
            Some(form) => pact(form, SETTINGS.threshold, &r, &mut p),
            None => p.copy_from_slice(&r),
        }
        match e.grid {
            Some(grid) => {
                let scales = Scales::affine(&[SETTINGS.scale], &[SETTINGS.zero_point]);
                fake_quantize(Quantizer::onnx(grid), Axis::whole(u.len()), scales, &p, &mut y);
            }
            None => y.copy_from_slice(&p),
        }
        [r, p, y]
    }

    /// The gradients of `u` and of the threshold, one kernel after the other.
    fn apart_grad(e: Epilogue, u: &[f32], dy: &[f32]) -> (Vec<f32>, f32) {
        let [r, p, _] = apart(e, u);
        let mut dp = dy.to_vec();
        if let (Some(grid), true) = (e.grid, e.clipped) {
            let scales = Scales::affine(&[SETTINGS.scale], &[SETTINGS.zero_point]);
            straight_through_clipped(Quantizer::onnx(grid), Axis::whole(u.len()), scales, &p, dy, &mut dp);
        }
        let (mut dr, mut du) = (dp.clone(), vec![0.0; u.len()]);
        let threshold = match e.pact {
            Some(form) => pact_grad(form, SETTINGS.threshold, &r, &dp, &mut dr),
            None => 0.0,
        };
        e.activation.grad(u, &r, &dr, &mut du);
        (du, threshold)
    }

    /// -0 is 0.
    fn unsigned(x: &[f32]) -> Vec<u32> {
        bits(&x.iter().map(|x| x + 0.0).collect::<Vec<_>>())
    }

    fn close(a: &[f32], b: &[f32], what: &str) {
        let largest = b.iter().fold(1f32, |m, x| m.max(x.abs()));
        for (a, b) in a.iter().zip(b) {
            assert!((a - b).abs() <= 1e-5 * largest, "{what}: {a} against {b}");
        }
    }

    #[test]
    fn sums_and_single_tensors_are_what_the_kernels_give_one_by_one() {
        for len in [0, 5, 33, 40_000] {
            let (a, b, dy) = (drawn(1, len, 2.0), drawn(2, len, 2.0), drawn(3, len, 1.0));
            let sum: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
            for e in all() {
                for (source, u) in [
                    (Source::Sum(Operand::Values(&a), Operand::Values(&b)), &sum),
                    (Source::Plain(Operand::Values(&a)), &a),
                ] {
                    let [_, p, y] = apart(e, u);
                    let got = on_any_pool(|| {
                        let (mut got, mut dx) = (vec![0.0; len], dy.clone());
                        e.forward(SETTINGS, source, &mut got);
                        let mut workspace = vec![0.0; Epilogue::backward_workspace(len)];
                        let threshold = e.backward(SETTINGS, source, &mut dx, &mut workspace);
                        (got, dx, threshold, e.range(SETTINGS, source))
                    });
                    assert_eq!(unsigned(&got.0), unsigned(&y), "{e:?}");
                    let (dx, threshold) = apart_grad(e, u, &dy);
                    assert_eq!(unsigned(&got.1), unsigned(&dx), "{e:?}");
                    close(&[got.2], &[threshold], "threshold");
                    assert_eq!(got.3, extremes(&p), "{e:?}");
                }
            }
        }
    }

    #[test]
    fn codes_are_read_and_written_as_their_values() {
        let e = Epilogue { activation: Unary::Relu, pact: None, grid: Some(Grid::U8), clipped: false };
        let coded: Vec<u8> = (0..1000).map(|i| (i * 7 % 256) as u8).collect();
        let b = drawn(2, 1000, 2.0);
        let of = |scale: f32, zero_point: i32| Operand::Codes { codes: &coded, scale, zero_point };
        let value = |q: u8, scale: f32, zero: i32| (f32::from(q) - zero as f32) * scale;
        let first: Vec<f32> = coded.iter().map(|&q| value(q, 0.02, 100)).collect();
        let second: Vec<f32> = coded.iter().map(|&q| value(q, 0.01, 7)).collect();
        for (sums, same) in [
            ((of(0.02, 100), of(0.01, 7)), (&first, &second)),
            ((of(0.02, 100), Operand::Values(&b)), (&first, &b)),
            ((Operand::Values(&b), of(0.01, 7)), (&b, &second)),
        ] {
            let values = Source::Sum(Operand::Values(same.0), Operand::Values(same.1));
            let (mut y, mut want) = (vec![0u8; 1000], vec![0.0; 1000]);
            e.codes(SETTINGS, Source::Sum(sums.0, sums.1), &mut y);
            e.forward(SETTINGS, values, &mut want);
            let got: Vec<f32> = y.iter().map(|&q| value(q, SETTINGS.scale, SETTINGS.zero_point)).collect();
            assert_eq!(bits(&got), bits(&want));
            assert_eq!(e.range(SETTINGS, Source::Sum(sums.0, sums.1)), e.range(SETTINGS, values));
        }
    }

    #[test]
    fn normalization_is_what_the_kernels_give_one_by_one() {
        for shape in [
            Shape::channels_last(301, 5),
            Shape::channels_last(37, 3000),
            Shape { batch: 3, channels: 5, spatial: 49 },
        ] {
            let channels = shape.channels;
            let (x, dy) = (drawn(1, shape.len(), 2.0), drawn(3, shape.len(), 1.0));
            let gamma: Vec<f32> = drawn(4, channels, 0.5).iter().map(|g| g + 1.0).collect();
            let beta = drawn(5, channels, 0.5);
            let (mut low, mut high) = (vec![0.0; channels], vec![0.0; channels]);
            let (mut mean, mut variance, mut inv_std) =
                (vec![0.0; channels], vec![0.0; channels], vec![0.0; channels]);
            let mut u = vec![0.0; x.len()];
            let mut workspace = vec![0.0; shape.workspace()];
            let stats =
                batch_norm::Statistics { mean: &mut mean, variance: &mut variance, inv_std: &mut inv_std };
            batch_norm::forward_training(shape, &x, &gamma, &beta, 1e-3, &mut u, stats, &mut workspace);
            let scale: Vec<f32> = gamma.iter().zip(&inv_std).map(|(g, s)| g * s).collect();
            let source = Source::Norm { shape, x: &x, mean: &mean, scale: &scale, beta: &beta };
            let mut of_extremes = [vec![0.0; channels], vec![0.0; channels], vec![0.0; channels]];
            let [a, b, c] = &mut of_extremes;
            let stats = batch_norm::Statistics { mean: a, variance: b, inv_std: c };
            let mut more = vec![0.0; shape.extremes_workspace()];
            batch_norm::statistics_and_extremes(shape, &x, 1e-3, stats, [&mut low, &mut high], &mut more);
            assert_eq!(of_extremes, [mean.clone(), variance.clone(), inv_std.clone()]);
            for e in all() {
                if e.is_monotone() {
                    assert_eq!(
                        e.range_of_channels(SETTINGS, source, [&low, &high]),
                        e.range(SETTINGS, source)
                    );
                }
                let [_, p, y] = apart(e, &u);
                let (du, threshold) = apart_grad(e, &u, &dy);
                let (mut dgamma, mut dbeta, mut dx) =
                    (vec![0.0; channels], vec![0.0; channels], vec![0.0; x.len()]);
                batch_norm::grad_parameters(
                    shape,
                    &x,
                    &du,
                    &mean,
                    &inv_std,
                    &mut dgamma,
                    &mut dbeta,
                    &mut workspace,
                );
                batch_norm::grad_input(
                    shape,
                    &x,
                    &du,
                    &gamma,
                    &mean,
                    &inv_std,
                    &dgamma,
                    &dbeta,
                    &mut dx,
                    &mut workspace,
                );
                let got = on_any_pool(|| {
                    let (mut got, mut grad) = (vec![0.0; x.len()], dy.clone());
                    let (mut of_gamma, mut of_beta) = (vec![0.0; channels], vec![0.0; channels]);
                    let mut workspace = vec![0.0; Epilogue::backward_norm_workspace(shape)];
                    e.forward(SETTINGS, source, &mut got);
                    let threshold = e.backward_norm(
                        SETTINGS,
                        source,
                        &inv_std,
                        &mut grad,
                        &mut of_gamma,
                        &mut of_beta,
                        &mut workspace,
                    );
                    (got, grad, of_gamma, of_beta, threshold, e.range(SETTINGS, source))
                });
                assert_eq!(unsigned(&got.0), unsigned(&y), "{e:?}");
                close(&got.1, &dx, "dx");
                close(&got.2, &dgamma, "dgamma");
                close(&got.3, &dbeta, "dbeta");
                close(&[got.4], &[threshold], "threshold");
                assert_eq!(got.5, extremes(&p), "{e:?}");
            }
        }
    }
}
