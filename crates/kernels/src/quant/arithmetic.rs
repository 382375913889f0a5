//! What one element goes through: rounding, saturation, and the order of the operations.

/// How a real number becomes an integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// To the nearest integer, ties to the even one: IEEE 754, ONNX QuantizeLinear, NumPy.
    HalfEven,
    /// To the nearest integer, ties away from zero: C's `round`, the `fake_*` operators of Paddle.
    HalfAway,
}

/// The integers that a code may take: `low..=high`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// The smallest code.
    pub low: i32,
    /// The largest code.
    pub high: i32,
}

impl Grid {
    /// `-128..=127`
    pub const I8: Grid = Grid { low: -128, high: 127 };
    /// `-127..=127`: the codes of symmetric weights, where negation never overflows.
    pub const I8_NARROW: Grid = Grid { low: -127, high: 127 };
    /// `0..=255`
    pub const U8: Grid = Grid { low: 0, high: 255 };

    /// Two's complement of `bits` bits, `-2^(bits-1) ..= 2^(bits-1) - 1`. `None` outside 1 to 16 bits.
    pub fn signed(bits: u32) -> Option<Grid> {
        (1..=16).contains(&bits).then(|| Grid { low: -(1 << (bits - 1)), high: (1 << (bits - 1)) - 1 })
    }

    /// [`Grid::signed`] without its smallest code, so that it is symmetric. `None` outside 2 to 16 bits.
    pub fn narrow(bits: u32) -> Option<Grid> {
        Grid::signed(bits).filter(|_| bits > 1).map(|grid| Grid { low: -grid.high, ..grid })
    }

    /// `0 ..= 2^bits - 1`. `None` outside 1 to 16 bits.
    pub fn unsigned(bits: u32) -> Option<Grid> {
        (1..=16).contains(&bits).then(|| Grid { low: 0, high: (1 << bits) - 1 })
    }
}

/// The order of operations between a real number and its code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// ONNX QuantizeLinear and DequantizeLinear (opset 10 on), as ONNX Runtime computes them.
    Onnx,
    /// Paddle's `fake_*` operators and `quantize_linear` / `dequantize_linear`, with `round_type` 1 (half away, the
    /// default of the former) or 0 (half even, the default of the latter).
    Paddle(Round),
    /// What Paddle's NumPy code does to weights when it freezes a model: `QuantizationFreezePass` clips first,
    /// `QuantWeightPass` (its ONNX format) saturates afterwards. A scale of 0 becomes 1e-8.
    PaddleFreeze {
        /// Clip to `-s..=s` before scaling.
        clip: bool,
    },
}

/// Maps reals to codes and back. See the table of the [module](super).
///
/// ```
/// use onnx_qat_kernels::quant::{Grid, Quantizer, Round};
///
/// let onnx = Quantizer::onnx(Grid::U8);
/// assert_eq!(onnx.code(0.5, 128, 1.25), 130.0); // 2.5 is a tie: to even
/// assert_eq!(onnx.value(0.5, 128, 130.0), 1.0);
///
/// let paddle = Quantizer::paddle(8, Round::HalfAway).unwrap();
/// assert_eq!(paddle.code(127.0, 0, 2.5), 3.0);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantizer {
    /// The order of operations.
    pub rule: Rule,
    /// The codes. For the Paddle rules its upper end is also `R`, the code of the scale.
    pub grid: Grid,
}

impl Quantizer {
    /// ONNX arithmetic.
    pub const fn onnx(grid: Grid) -> Quantizer {
        Quantizer { rule: Rule::Onnx, grid }
    }

    /// Paddle's operators. `None` outside the 1 to 16 bits that these accept.
    pub fn paddle(bits: u32, round: Round) -> Option<Quantizer> {
        Grid::signed(bits).map(|grid| Quantizer { rule: Rule::Paddle(round), grid })
    }

    /// Paddle's weight freeze; `clip` for `QuantizationFreezePass`. `None` outside 1 to 16 bits.
    pub fn paddle_freeze(bits: u32, clip: bool) -> Option<Quantizer> {
        Grid::signed(bits).map(|grid| Quantizer { rule: Rule::PaddleFreeze { clip }, grid })
    }

    /// The code of `x` under scale `s` and zero point `z`; NaN for NaN.
    pub fn code(self, s: f32, z: i32, x: f32) -> f32 {
        with_arithmetic!(self, a => a.code(s, z as f32, x))
    }

    /// The real number that a code stands for.
    pub fn value(self, s: f32, z: i32, code: f32) -> f32 {
        with_arithmetic!(self, a => a.value(s, z as f32, code))
    }
}

/// Binds `$a` to the [`Arithmetic`] of a quantizer and evaluates `$body`, once per type, so that the choice is made
/// outside of the loops.
macro_rules! with_arithmetic {
    ($quantizer:expr, $a:ident => $body:expr) => {{
        use $crate::quant::arithmetic::{Arithmetic, Bounds, Onnx, Paddle, PaddleFreeze};
        use $crate::quant::{Round, Rule};
        let bounds = Bounds::of($quantizer.grid);
        match $quantizer.rule {
            Rule::Onnx => {
                let $a = Onnx(bounds);
                $body
            }
            Rule::Paddle(Round::HalfAway) => {
                let $a = Paddle::<true>(bounds);
                $body
            }
            Rule::Paddle(Round::HalfEven) => {
                let $a = Paddle::<false>(bounds);
                $body
            }
            Rule::PaddleFreeze { clip: true } => {
                let $a = PaddleFreeze::<true>(bounds);
                $body
            }
            Rule::PaddleFreeze { clip: false } => {
                let $a = PaddleFreeze::<false>(bounds);
                $body
            }
        }
    }};
}
pub(super) use with_arithmetic;

/// One row of the module's table, as a type, so that loops over it are compiled for it.
pub(super) trait Arithmetic: Copy + Sync {
    /// `x` in steps of the grid, before rounding and before the zero point.
    fn steps(self, s: f32, x: f32) -> f32;
    /// The code of `x`.
    fn code(self, s: f32, z: f32, x: f32) -> f32;
    /// The real number of code `q`.
    fn value(self, s: f32, z: f32, q: f32) -> f32;
    /// Whether `x` has a code without being saturated or clipped. False for NaN.
    fn inside(self, s: f32, z: f32, x: f32) -> bool;
}

/// A [`Grid`] in `f32`.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    low: f32,
    high: f32,
}

impl Bounds {
    #[inline(always)]
    pub(super) fn of(grid: Grid) -> Bounds {
        Bounds { low: grid.low as f32, high: grid.high as f32 }
    }

    #[inline(always)]
    fn saturate(self, q: f32) -> f32 {
        clip(q, self.low, self.high)
    }

    #[inline(always)]
    fn holds(self, q: f32) -> bool {
        self.low <= q && q <= self.high
    }
}

/// `x` moved into `low..=high`; NaN stays, whichever of the three is NaN (`f32::clamp` would panic on the bounds).
#[inline(always)]
pub(super) fn clip(x: f32, low: f32, high: f32) -> f32 {
    let x = if x < low { low } else { x };
    if x > high { high } else { x }
}

/// `f32::round`, ties away from zero, in a form that vectorizes. The addend is the largest `f32` below 0.5: with 0.5
/// itself, 0.49999997 would round up.
#[inline(always)]
pub(super) fn half_away(x: f32) -> f32 {
    (x + 0.49999997f32.copysign(x)).trunc()
}

#[derive(Clone, Copy)]
pub(super) struct Onnx(pub Bounds);

impl Arithmetic for Onnx {
    #[inline(always)]
    fn steps(self, s: f32, x: f32) -> f32 {
        x / s
    }

    #[inline(always)]
    fn code(self, s: f32, z: f32, x: f32) -> f32 {
        self.0.saturate(self.steps(s, x).round_ties_even() + z)
    }

    #[inline(always)]
    fn value(self, s: f32, z: f32, q: f32) -> f32 {
        (q - z) * s
    }

    #[inline(always)]
    fn inside(self, s: f32, z: f32, x: f32) -> bool {
        self.0.holds(self.steps(s, x).round_ties_even() + z)
    }
}

/// Paddle's `inverse`, which keeps a zero scale finite.
#[inline(always)]
fn inverse(s: f32) -> f32 {
    1.0 / if s <= 1e-30 { s + 1e-6 } else { s }
}

#[derive(Clone, Copy)]
pub(super) struct Paddle<const HALF_AWAY: bool>(pub Bounds);

impl<const HALF_AWAY: bool> Arithmetic for Paddle<HALF_AWAY> {
    #[inline(always)]
    fn steps(self, s: f32, x: f32) -> f32 {
        self.0.high * inverse(s) * if HALF_AWAY { clip(x, -s, s) } else { x }
    }

    #[inline(always)]
    fn code(self, s: f32, _: f32, x: f32) -> f32 {
        let steps = self.steps(s, x);
        if HALF_AWAY { half_away(steps) } else { self.0.saturate(steps.round_ties_even()) }
    }

    #[inline(always)]
    fn value(self, s: f32, _: f32, q: f32) -> f32 {
        q * s / self.0.high
    }

    #[inline(always)]
    fn inside(self, s: f32, _: f32, x: f32) -> bool {
        if HALF_AWAY { x.abs() <= s } else { self.0.holds(self.steps(s, x).round_ties_even()) }
    }
}

#[derive(Clone, Copy)]
pub(super) struct PaddleFreeze<const CLIP: bool>(pub Bounds);

impl<const CLIP: bool> Arithmetic for PaddleFreeze<CLIP> {
    #[inline(always)]
    fn steps(self, s: f32, x: f32) -> f32 {
        let s = if s == 0.0 { 1e-8 } else { s };
        (if CLIP { clip(x, -s, s) } else { x }) / s * self.0.high
    }

    #[inline(always)]
    fn code(self, s: f32, _: f32, x: f32) -> f32 {
        let code = self.steps(s, x).round_ties_even();
        if CLIP { code } else { self.0.saturate(code) }
    }

    #[inline(always)]
    fn value(self, s: f32, _: f32, q: f32) -> f32 {
        q * s / self.0.high
    }

    #[inline(always)]
    fn inside(self, s: f32, _: f32, x: f32) -> bool {
        if CLIP { x.abs() <= s } else { self.0.holds(self.steps(s, x).round_ties_even()) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn half_away_is_round() {
        // All signs and exponents with mantissas spread over their range, and the neighbours of every tie up to 2^12.
        let spread = (0..=u32::MAX).step_by(9973).map(f32::from_bits);
        let ties = (0..1 << 13).flat_map(|i| {
            let bits = (i as f32 * 0.5).to_bits();
            [bits.saturating_sub(1), bits, bits + 1].map(f32::from_bits)
        });
        for x in spread.chain(ties).flat_map(|x| [x, -x]).filter(|x| !x.is_nan()) {
            assert_eq!(half_away(x).to_bits(), x.round().to_bits(), "{x:e}");
        }
    }

    #[test]
    fn grids() {
        assert_eq!(Grid::signed(8), Some(Grid::I8));
        assert_eq!(Grid::narrow(8), Some(Grid::I8_NARROW));
        assert_eq!(Grid::unsigned(8), Some(Grid::U8));
        assert_eq!(Grid::signed(2), Some(Grid { low: -2, high: 1 }));
        assert_eq!((Grid::signed(0), Grid::signed(17), Grid::narrow(1)), (None, None, None));
    }

    #[test]
    fn onnx_rounds_half_even_and_saturates_after_the_zero_point() {
        let q = Quantizer::onnx(Grid::U8);
        let codes: Vec<f32> =
            [-1.0, -0.25, 0.25, 0.75, 1.25, 1e9, f32::INFINITY].iter().map(|&x| q.code(0.5, 3, x)).collect();
        assert_eq!(codes, [1.0, 3.0, 3.0, 5.0, 5.0, 255.0, 255.0]);
        assert!(q.code(0.5, 3, f32::NAN).is_nan());
        assert_eq!(q.value(0.5, 3, 1.0), -1.0);
        // 0.1 * 127 steps: division and multiplication with the reciprocal differ here.
        assert_eq!(Quantizer::onnx(Grid::I8).code(0.1, 0, 12.7), 127.0);
    }

    #[test]
    fn paddle_ties() {
        let x = [-2.5, -1.5, -0.5, 0.5, 1.5, 2.5];
        let codes = |round| x.map(|x| Quantizer::paddle(8, round).unwrap().code(127.0, 0, x));
        assert_eq!(codes(Round::HalfAway), [-3.0, -2.0, -1.0, 1.0, 2.0, 3.0]);
        assert_eq!(codes(Round::HalfEven), [-2.0, -2.0, 0.0, 0.0, 2.0, 2.0]);
    }

    #[test]
    fn paddle_clips_before_or_saturates_after() {
        assert_eq!(Quantizer::paddle(8, Round::HalfAway).unwrap().code(1.0, 0, -2.0), -127.0);
        assert_eq!(Quantizer::paddle(8, Round::HalfEven).unwrap().code(1.0, 0, -2.0), -128.0);
        assert_eq!(Quantizer::paddle_freeze(8, true).unwrap().code(1.0, 0, -2.0), -127.0);
        assert_eq!(Quantizer::paddle_freeze(8, false).unwrap().code(1.0, 0, -2.0), -128.0);
        assert_eq!(Quantizer::paddle_freeze(8, true).unwrap().code(0.0, 0, 0.0), 0.0);
        assert_eq!(Quantizer::paddle(8, Round::HalfAway).unwrap().code(0.0, 0, 0.0), 0.0);
    }
}
