//! Operators of two operands that broadcast, comparisons, logic, and selection.

use super::math;
use crate::broadcast::{Broadcast, Tile};
use crate::simd::{Isa, dispatch};
use std::fmt;

/// An arithmetic operator of two operands. Formulas are those of the ONNX operators.
///
/// Gradients at kinks follow PyTorch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binary {
    /// `a + b`.
    Add,
    /// `a - b`.
    Sub,
    /// `a b`.
    Mul,
    /// `a / b`. Integers are truncated toward zero.
    Div,
    /// The larger one, NaN where there is one. Where both are equal, each gets half of the gradient.
    Max,
    /// The smaller one; otherwise as `Max`.
    Min,
    /// `a^b`. The gradient for `a` is 0 where `b` is 0; that for `b` is 0 where `a` is 0 and `b` is not negative.
    Pow,
    /// `a` above 0, else `a b`, where `b` is the slope. The gradient for `a` at 0 is `b`.
    PRelu,
}

/// One of the two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    /// The first one, `a`.
    Left,
    /// The second one, `b`.
    Right,
}

impl Binary {
    /// `y = op(a, b)`; the plan is for the shapes of `a` and `b`.
    ///
    /// # Panics
    /// When a slice has not the planned length.
    pub fn forward(self, plan: &Broadcast<2>, a: &[f32], b: &[f32], y: &mut [f32]) {
        check(plan, a, b);
        let isa = Isa::detect();
        plan.run(y, |tile, y| forward(isa, self, tile, a, b, y));
    }

    /// `a = op(a, b)`, for an `a` of the result's shape.
    ///
    /// # Panics
    /// When a slice has not the planned length, or `a` is broadcast.
    pub fn forward_in_place(self, plan: &Broadcast<2>, a: &mut [f32], b: &[f32]) {
        assert!(plan.is_full(0), "the operand that is overwritten has the shape of the result");
        check(plan, a, b);
        let isa = Isa::detect();
        plan.run(a, |tile, a| forward_in_place(isa, self, tile, b, a));
    }

    /// The gradient for one operand before it is summed over the dimensions that were broadcast: `out = d op / d operand
    /// * dy`, in the shape of the result. [`Reduction::to_shape`](crate::reduce::Reduction::to_shape) sums it.
    ///
    /// # Panics
    /// When a slice has not the planned length.
    pub fn grad(self, of: Operand, plan: &Broadcast<2>, a: &[f32], b: &[f32], dy: &[f32], out: &mut [f32]) {
        check(plan, a, b);
        assert_eq!(dy.len(), plan.len());
        let isa = Isa::detect();
        plan.run(out, |tile, out| {
            let dy = &dy[tile.start..][..out.len()];
            match of {
                Operand::Left => grad_left(isa, self, tile, a, b, dy, out),
                Operand::Right => grad_right(isa, self, tile, a, b, dy, out),
            }
        });
    }

    /// The operator on integers, wrapping on overflow. `PRelu` is not defined on them by ONNX; it is computed all the same.
    ///
    /// # Errors
    /// On a division by zero, and on zero to a negative power.
    ///
    /// # Panics
    /// When a slice has not the planned length.
    pub fn forward_integer<T: Integer>(
        self,
        plan: &Broadcast<2>,
        a: &[T],
        b: &[T],
        y: &mut [T],
    ) -> Result<(), DivisionByZero> {
        check(plan, a, b);
        let zero = T::default();
        let undefined = match self {
            Binary::Div => b.contains(&zero),
            Binary::Pow => a.contains(&zero) && b.iter().any(|&b| b < zero),
            _ => false,
        };
        if undefined && !plan.is_empty() {
            return Err(DivisionByZero);
        }
        plan.run(y, |tile, y| zip(tile, a, b, y, |a, b| T::apply(self, a, b)));
        Ok(())
    }
}

fn check<A, B>(plan: &Broadcast<2>, a: &[A], b: &[B]) {
    assert_eq!([a.len(), b.len()], [plan.operand_len(0), plan.operand_len(1)], "operands of a broadcast");
}

// The loops below are `for` loops because the methods of iterators are not sure to be inlined into the code for a wider
// instruction set.

/// `y = f(a, b)` over a tile.
#[inline(always)]
fn zip<A: Copy, B: Copy, Y>(tile: &Tile<2>, a: &[A], b: &[B], y: &mut [Y], f: impl Fn(A, B) -> Y) {
    for (row, y) in y.chunks_exact_mut(tile.inner).enumerate() {
        match (tile.row(0, a, row), tile.row(1, b, row), tile.inner_strides) {
            (a, b, [1, 1]) => {
                for ((y, &a), &b) in y.iter_mut().zip(a).zip(b) {
                    *y = f(a, b);
                }
            }
            (a, &[b], [1, _]) => {
                for (y, &a) in y.iter_mut().zip(a) {
                    *y = f(a, b);
                }
            }
            (&[a], b, [_, 1]) => {
                for (y, &b) in y.iter_mut().zip(b) {
                    *y = f(a, b);
                }
            }
            (a, b, _) => {
                for y in y {
                    *y = f(a[0], b[0]);
                }
            }
        }
    }
}

/// `y = f(y, b)` over a tile.
#[inline(always)]
fn zip_in_place(tile: &Tile<2>, b: &[f32], y: &mut [f32], f: impl Fn(f32, f32) -> f32) {
    for (row, y) in y.chunks_exact_mut(tile.inner).enumerate() {
        match (tile.row(1, b, row), tile.inner_strides[1]) {
            (b, 1) => {
                for (y, &b) in y.iter_mut().zip(b) {
                    *y = f(*y, b);
                }
            }
            (b, _) => {
                for y in y {
                    *y = f(*y, b[0]);
                }
            }
        }
    }
}

/// `out = f(a, b, dy)` over a tile.
#[inline(always)]
fn zip3(tile: &Tile<2>, a: &[f32], b: &[f32], dy: &[f32], out: &mut [f32], f: impl Fn(f32, f32, f32) -> f32) {
    for (row, (y, dy)) in out.chunks_exact_mut(tile.inner).zip(dy.chunks_exact(tile.inner)).enumerate() {
        let y = y.iter_mut().zip(dy);
        match (tile.row(0, a, row), tile.row(1, b, row), tile.inner_strides) {
            (a, b, [1, 1]) => {
                for (((y, &dy), &a), &b) in y.zip(a).zip(b) {
                    *y = f(a, b, dy);
                }
            }
            (a, &[b], [1, _]) => {
                for ((y, &dy), &a) in y.zip(a) {
                    *y = f(a, b, dy);
                }
            }
            (&[a], b, [_, 1]) => {
                for ((y, &dy), &b) in y.zip(b) {
                    *y = f(a, b, dy);
                }
            }
            (a, b, _) => {
                for (y, &dy) in y {
                    *y = f(a[0], b[0], dy);
                }
            }
        }
    }
}

/// The larger of two, NaN where there is one.
#[inline(always)]
pub(crate) fn max(a: f32, b: f32) -> f32 {
    // The first choice is one instruction, and yields `b` where either is NaN.
    let larger = if a > b { a } else { b };
    if a.is_nan() { a } else { larger }
}

/// The smaller of two, NaN where there is one.
#[inline(always)]
pub(crate) fn min(a: f32, b: f32) -> f32 {
    let smaller = if a < b { a } else { b };
    if a.is_nan() { a } else { smaller }
}

/// `a^b`. Squares and square roots, the powers that occur in models, do without the library.
#[inline(always)]
fn pow(a: f32, b: f32) -> f32 {
    if b == 2.0 { a * a } else { a.powf(b) }
}

/// `dy` for the operand that wins, half of it for one that ties.
#[inline(always)]
fn share(wins: bool, ties: bool, dy: f32) -> f32 {
    let losing = if ties { 0.5 * dy } else { 0.0 };
    if wins { dy } else { losing }
}

#[inline(always)]
fn pow_left(a: f32, b: f32, dy: f32) -> f32 {
    if b == 0.0 { 0.0 } else { dy * (b * pow(a, b - 1.0)) }
}

#[inline(always)]
fn pow_right(a: f32, b: f32, dy: f32) -> f32 {
    if a == 0.0 && b >= 0.0 { 0.0 } else { dy * (pow(a, b) * math::log(a)) }
}

dispatch! {
    fn forward(op: Binary, tile: &Tile<2>, a: &[f32], b: &[f32], y: &mut [f32]) {
        match op {
            Binary::Add => zip(tile, a, b, y, |a, b| a + b),
            Binary::Sub => zip(tile, a, b, y, |a, b| a - b),
            Binary::Mul => zip(tile, a, b, y, |a, b| a * b),
            Binary::Div => zip(tile, a, b, y, |a, b| a / b),
            Binary::Max => zip(tile, a, b, y, max),
            Binary::Min => zip(tile, a, b, y, min),
            Binary::Pow => zip(tile, a, b, y, pow),
            Binary::PRelu => zip(tile, a, b, y, |a, b| if a > 0.0 { a } else { a * b }),
        }
    }

    fn forward_in_place(op: Binary, tile: &Tile<2>, b: &[f32], y: &mut [f32]) {
        match op {
            Binary::Add => zip_in_place(tile, b, y, |a, b| a + b),
            Binary::Sub => zip_in_place(tile, b, y, |a, b| a - b),
            Binary::Mul => zip_in_place(tile, b, y, |a, b| a * b),
            Binary::Div => zip_in_place(tile, b, y, |a, b| a / b),
            Binary::Max => zip_in_place(tile, b, y, max),
            Binary::Min => zip_in_place(tile, b, y, min),
            Binary::Pow => zip_in_place(tile, b, y, pow),
            Binary::PRelu => zip_in_place(tile, b, y, |a, b| if a > 0.0 { a } else { a * b }),
        }
    }

    fn grad_left(op: Binary, tile: &Tile<2>, a: &[f32], b: &[f32], dy: &[f32], out: &mut [f32]) {
        match op {
            Binary::Add | Binary::Sub => out.copy_from_slice(dy),
            Binary::Mul => zip3(tile, a, b, dy, out, |_, b, dy| dy * b),
            Binary::Div => zip3(tile, a, b, dy, out, |_, b, dy| dy / b),
            Binary::Max => zip3(tile, a, b, dy, out, |a, b, dy| share(a > b, a == b, dy)),
            Binary::Min => zip3(tile, a, b, dy, out, |a, b, dy| share(a < b, a == b, dy)),
            Binary::Pow => zip3(tile, a, b, dy, out, pow_left),
            Binary::PRelu => zip3(tile, a, b, dy, out, |a, b, dy| if a > 0.0 { dy } else { b * dy }),
        }
    }

    fn grad_right(op: Binary, tile: &Tile<2>, a: &[f32], b: &[f32], dy: &[f32], out: &mut [f32]) {
        match op {
            Binary::Add => out.copy_from_slice(dy),
            Binary::Sub => zip3(tile, a, b, dy, out, |_, _, dy| -dy),
            Binary::Mul => zip3(tile, a, b, dy, out, |a, _, dy| dy * a),
            Binary::Div => zip3(tile, a, b, dy, out, |a, b, dy| -dy * ((a / b) / b)),
            Binary::Max => zip3(tile, a, b, dy, out, |a, b, dy| share(b > a, a == b, dy)),
            Binary::Min => zip3(tile, a, b, dy, out, |a, b, dy| share(b < a, a == b, dy)),
            Binary::Pow => zip3(tile, a, b, dy, out, pow_right),
            Binary::PRelu => zip3(tile, a, b, dy, out, |a, _, dy| if a > 0.0 { 0.0 } else { a * dy }),
        }
    }
}

/// An integer division by zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DivisionByZero;

impl fmt::Display for DivisionByZero {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an integer is divided by zero")
    }
}

impl std::error::Error for DivisionByZero {}

/// The integers that [`Binary::forward_integer`] computes with.
pub trait Integer: Copy + Default + Ord + Send + Sync {
    /// `op(a, b)`, wrapping. A division by zero is excluded by the caller.
    #[doc(hidden)]
    fn apply(op: Binary, a: Self, b: Self) -> Self;
}

macro_rules! integers { ($($t:ty),*) => { $(
    impl Integer for $t {
        #[inline(always)]
        fn apply(op: Binary, a: $t, b: $t) -> $t {
            match op {
                Binary::Add => a.wrapping_add(b),
                Binary::Sub => a.wrapping_sub(b),
                Binary::Mul => a.wrapping_mul(b),
                Binary::Div => a.checked_div(b).unwrap_or(<$t>::MIN),
                Binary::Max => a.max(b),
                Binary::Min => a.min(b),
                Binary::Pow => match u32::try_from(b) {
                    Ok(b) => a.wrapping_pow(b),
                    // A negative power truncates to 0, except those of 1 and -1. (Powers beyond u32 come here too.)
                    Err(_) if a == 1 || a == 0 => a,
                    Err(_) if a == -1 => if b % 2 == 0 { 1 } else { -1 },
                    Err(_) => 0,
                },
                Binary::PRelu => if a > 0 { a } else { a.wrapping_mul(b) },
            }
        }
    }
)* } }
integers!(i32, i64);

/// A comparison. Its result is 1 for true and 0 for false; NaN differs from everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Compare {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Compare {
    /// `y = op(a, b)` for operands of any ordered type.
    ///
    /// # Panics
    /// When a slice has not the planned length.
    pub fn forward<T: Copy + PartialOrd + Sync>(self, plan: &Broadcast<2>, a: &[T], b: &[T], y: &mut [u8]) {
        check(plan, a, b);
        plan.run(y, |tile, y| match self {
            Compare::Equal => zip(tile, a, b, y, |a, b| u8::from(a == b)),
            Compare::NotEqual => zip(tile, a, b, y, |a, b| u8::from(a != b)),
            Compare::Less => zip(tile, a, b, y, |a, b| u8::from(a < b)),
            Compare::LessOrEqual => zip(tile, a, b, y, |a, b| u8::from(a <= b)),
            Compare::Greater => zip(tile, a, b, y, |a, b| u8::from(a > b)),
            Compare::GreaterOrEqual => zip(tile, a, b, y, |a, b| u8::from(a >= b)),
        });
    }
}

/// A logical operator on booleans stored as bytes; every byte but 0 counts as true, results are 0 or 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Logic {
    And,
    Or,
    Xor,
}

impl Logic {
    /// `y = op(a, b)`.
    ///
    /// # Panics
    /// When a slice has not the planned length.
    pub fn forward(self, plan: &Broadcast<2>, a: &[u8], b: &[u8], y: &mut [u8]) {
        check(plan, a, b);
        plan.run(y, |tile, y| match self {
            Logic::And => zip(tile, a, b, y, |a, b| u8::from(a != 0 && b != 0)),
            Logic::Or => zip(tile, a, b, y, |a, b| u8::from(a | b != 0)),
            Logic::Xor => zip(tile, a, b, y, |a, b| u8::from((a != 0) != (b != 0))),
        });
    }
}

/// `y = !x` on booleans stored as bytes.
///
/// # Panics
/// When the lengths differ.
pub fn not(x: &[u8], y: &mut [u8]) {
    assert_eq!(x.len(), y.len());
    y.iter_mut().zip(x).for_each(|(y, &x)| *y = u8::from(x == 0));
}

/// `y = a` where the condition holds, else `b`: the `Where` operator. The plan is for condition, `a` and `b`.
///
/// The gradient for `a` is `select(condition, dy, 0)`, summed over the broadcast dimensions; that for `b` likewise.
///
/// # Panics
/// When a slice has not the planned length.
pub fn select<T: Copy + Send + Sync>(plan: &Broadcast<3>, condition: &[u8], a: &[T], b: &[T], y: &mut [T]) {
    let lens = [condition.len(), a.len(), b.len()];
    assert_eq!(lens, [0, 1, 2].map(|k| plan.operand_len(k)), "operands of a broadcast");
    plan.run(y, |tile, y| {
        let [c_step, a_step, b_step] = tile.inner_strides;
        for (row, y) in y.chunks_exact_mut(tile.inner).enumerate() {
            let (condition, a, b) = (tile.row(0, condition, row), tile.row(1, a, row), tile.row(2, b, row));
            for (i, y) in y.iter_mut().enumerate() {
                *y = if condition[i * c_step] != 0 { a[i * a_step] } else { b[i * b_step] };
            }
        }
    });
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::elementwise::testing::{bits, close, drawn, on_any_pool, slope, wide};
    use crate::reduce::Reduction;

    const ALL: [Binary; 8] = [
        Binary::Add,
        Binary::Sub,
        Binary::Mul,
        Binary::Div,
        Binary::Max,
        Binary::Min,
        Binary::Pow,
        Binary::PRelu,
    ];

    fn reference(op: Binary, a: f64, b: f64) -> f64 {
        match op {
            Binary::Add => a + b,
            Binary::Sub => a - b,
            Binary::Mul => a * b,
            Binary::Div => a / b,
            Binary::Max => a.max(b),
            Binary::Min => a.min(b),
            Binary::Pow => a.powf(b),
            Binary::PRelu => {
                if a > 0.0 {
                    a
                } else {
                    a * b
                }
            }
        }
    }

    /// Shapes that reach every form of a tile.
    const SHAPES: [[&[usize]; 2]; 6] = [
        [&[3, 2, 5], &[3, 2, 5]],
        [&[3, 2, 5], &[5]],
        [&[3, 2, 5], &[3, 1, 5]],
        [&[3, 2, 5], &[2, 1]],
        [&[1], &[4, 3]],
        [&[], &[]],
    ];

    fn operands(op: Binary, plan: &Broadcast<2>) -> [Vec<f32>; 2] {
        let (mut a, mut b) = (drawn(1, plan.operand_len(0), 2.0), drawn(2, plan.operand_len(1), 2.0));
        if op == Binary::Pow {
            a.iter_mut().for_each(|a| *a = a.abs() + 0.1);
        }
        if op == Binary::Div {
            b.iter_mut().for_each(|b| *b += 0.5f32.copysign(*b));
        }
        [a, b]
    }

    /// The result in double precision.
    fn wide_forward(op: Binary, plan: &Broadcast<2>, a: &[f64], b: &[f64]) -> Vec<f64> {
        let mut y = vec![0.0; plan.len()];
        plan.run(&mut y, |tile, y| zip(tile, a, b, y, |a, b| reference(op, a, b)));
        y
    }

    #[test]
    fn forward_and_gradients_against_double_precision() {
        for (op, [a_shape, b_shape]) in ALL.into_iter().flat_map(|op| SHAPES.map(|s| (op, s))) {
            let plan = Broadcast::new([a_shape, b_shape]).unwrap();
            let [a, b] = operands(op, &plan);
            let dy = drawn(3, plan.len(), 1.0);
            let mut y = vec![0.0; plan.len()];
            op.forward(&plan, &a, &b, &mut y);
            close(&y, &wide_forward(op, &plan, &wide(&a), &wide(&b)), 1e-6);
            if plan.is_full(0) {
                let mut z = a.clone();
                op.forward_in_place(&plan, &mut z, &b);
                assert_eq!(bits(&z), bits(&y));
            }
            let loss = |a: &[f64], b: &[f64]| -> f64 {
                wide_forward(op, &plan, a, b).iter().zip(&dy).map(|(y, &dy)| y * dy as f64).sum()
            };
            for of in [Operand::Left, Operand::Right] {
                let (shape, x) = if of == Operand::Left { (a_shape, wide(&a)) } else { (b_shape, wide(&b)) };
                let sum = Reduction::to_shape(plan.shape(), shape).unwrap();
                let (mut full, mut dx) = (vec![0.0; plan.len()], vec![0.0; x.len()]);
                op.grad(of, &plan, &a, &b, &dy, &mut full);
                sum.run(crate::reduce::Reduce::Sum, &full, &mut dx, &mut vec![0.0; sum.workspace()]);
                let f = |x: &[f64]| if of == Operand::Left { loss(x, &wide(&b)) } else { loss(&wide(&a), x) };
                let want: Vec<f64> = (0..x.len()).map(|i| slope(f, &x, i)).collect();
                close(&dx, &want, 1e-5);
            }
        }
    }

    #[test]
    fn all_instruction_sets_give_the_same_bits() {
        for (op, [a_shape, b_shape]) in ALL.into_iter().flat_map(|op| SHAPES.map(|s| (op, s))) {
            let plan = Broadcast::new([a_shape, b_shape]).unwrap();
            let [mut a, b] = operands(op, &plan);
            a[0] = f32::NAN;
            let dy = drawn(3, plan.len(), 1.0);
            let run = |isa| {
                let mut all = vec![vec![0.0; plan.len()]; 3];
                plan.run(&mut all[0], |tile, y| forward(isa, op, tile, &a, &b, y));
                plan.run(&mut all[1], |tile, y| {
                    grad_left(isa, op, tile, &a, &b, &dy[tile.start..][..y.len()], y)
                });
                plan.run(&mut all[2], |tile, y| {
                    grad_right(isa, op, tile, &a, &b, &dy[tile.start..][..y.len()], y)
                });
                all.iter().map(|x| bits(x)).collect::<Vec<_>>()
            };
            let scalar = run(Isa::Scalar);
            Isa::ALL.iter().for_each(|&isa| assert_eq!(run(isa), scalar, "{op:?} on {isa:?}"));
        }
    }

    #[test]
    fn threads_change_nothing() {
        let plan = Broadcast::new([&[2, 100, 30, 8], &[2, 1, 1, 8]]).unwrap();
        let [a, b] = operands(Binary::Mul, &plan);
        on_any_pool(|| {
            let mut y = vec![0.0; plan.len()];
            Binary::Mul.forward(&plan, &a, &b, &mut y);
            y
        });
    }

    #[test]
    fn ties_and_kinks() {
        let plan = Broadcast::new([&[], &[]]).unwrap();
        let at = |op: Binary, of, a, b| {
            let mut out = [0.0];
            op.grad(of, &plan, &[a], &[b], &[1.0], &mut out);
            out[0]
        };
        use Operand::{Left, Right};
        assert_eq!([at(Binary::Max, Left, 2.0, 2.0), at(Binary::Min, Right, 2.0, 2.0)], [0.5, 0.5]);
        assert_eq!([at(Binary::Pow, Left, 0.0, 0.0), at(Binary::Pow, Right, 0.0, 0.0)], [0.0, 0.0]);
        assert_eq!([at(Binary::PRelu, Left, 0.0, 0.25), at(Binary::PRelu, Right, 0.0, 0.25)], [0.25, 0.0]);
        let mut y = [0.0];
        Binary::Max.forward(&plan, &[f32::NAN], &[1.0], &mut y);
        assert!(y[0].is_nan());
        Binary::Min.forward(&plan, &[1.0], &[f32::NAN], &mut y);
        assert!(y[0].is_nan());
    }

    #[test]
    fn integers() {
        let plan = Broadcast::new([&[4], &[4]]).unwrap();
        let mut y = [0i64; 4];
        Binary::Div.forward_integer(&plan, &[7, -7, i64::MIN, 0], &[2, 2, -1, 5], &mut y).unwrap();
        assert_eq!(y, [3, -3, i64::MIN, 0]);
        assert_eq!(Binary::Div.forward_integer(&plan, &[1; 4], &[1, 0, 1, 1], &mut y), Err(DivisionByZero));
        Binary::Pow.forward_integer(&plan, &[2, -1, 3, 1], &[10, -3, -1, -5], &mut y).unwrap();
        assert_eq!(y, [1024, -1, 0, 1]);
        assert_eq!(Binary::Pow.forward_integer(&plan, &[0; 4], &[-1; 4], &mut y), Err(DivisionByZero));
        let mut y = [0i32; 4];
        let scalar = Broadcast::new([&[4], &[]]).unwrap();
        Binary::Add.forward_integer(&scalar, &[1, 2, 3, i32::MAX], &[1], &mut y).unwrap();
        assert_eq!(y, [2, 3, 4, i32::MIN]);
    }

    #[test]
    fn comparisons_logic_and_selection() {
        let plan = Broadcast::new([&[3], &[]]).unwrap();
        let mut y = [9; 3];
        Compare::Less.forward(&plan, &[1.0, 2.0, f32::NAN], &[2.0], &mut y);
        assert_eq!(y, [1, 0, 0]);
        Compare::NotEqual.forward(&plan, &[1.0, 2.0, f32::NAN], &[2.0], &mut y);
        assert_eq!(y, [1, 0, 1]);
        Compare::GreaterOrEqual.forward(&plan, &[1i64, 2, 3], &[2], &mut y);
        assert_eq!(y, [0, 1, 1]);
        let both = Broadcast::new([&[4], &[4]]).unwrap();
        let (a, b) = ([0, 0, 1, 2], [0, 1, 0, 1]);
        let mut y = [9; 4];
        for (op, want) in [(Logic::And, [0, 0, 0, 1]), (Logic::Or, [0, 1, 1, 1]), (Logic::Xor, [0, 1, 1, 0])]
        {
            op.forward(&both, &a, &b, &mut y);
            assert_eq!(y, want);
        }
        not(&a, &mut y);
        assert_eq!(y, [1, 1, 0, 0]);
        let plan = Broadcast::new([&[2, 1], &[3], &[]]).unwrap();
        let mut y = [0.0; 6];
        select(&plan, &[1, 0], &[1.0, 2.0, 3.0], &[-1.0], &mut y);
        assert_eq!(y, [1.0, 2.0, 3.0, -1.0, -1.0, -1.0]);
    }
}
