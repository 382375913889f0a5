//! Sums, products and functions of codes.

use super::code;
use crate::broadcast::{Broadcast, Tile};
use crate::parallel::{self, CHUNK};
use crate::simd::{Isa, dispatch};

/// Scale and zero point of a tensor of codes.
pub type Affine = (f32, u8);

/// `y = a + b` on codes of three scales, with broadcasting. ONNX Runtime's `QLinearAdd`.
#[derive(Clone, Debug)]
pub struct Add {
    plan: Broadcast<2>,
    a: f32,
    b: f32,
    fixed: f32,
}

impl Add {
    /// A sum of operands with the given scales and zero points.
    pub fn new(plan: Broadcast<2>, a: Affine, b: Affine, y: Affine) -> Add {
        let (ratio_a, ratio_b) = (a.0 / y.0, b.0 / y.0);
        let fixed = f32::from(y.1) - ratio_a.mul_add(a.1.into(), ratio_b * f32::from(b.1));
        Add { plan, a: ratio_a, b: ratio_b, fixed }
    }

    /// Computes the sum.
    ///
    /// # Panics
    /// When a slice has not the length of its shape.
    pub fn run(&self, a: &[u8], b: &[u8], y: &mut [u8]) {
        let isa = Isa::detect();
        run(&self.plan, a, b, y, |a, b, y| add_row(isa, [self.a, self.b], self.fixed, a, b, y));
    }
}

/// `y = a b` on codes of three scales, with broadcasting. ONNX Runtime's `QLinearMul`.
#[derive(Clone, Debug)]
pub struct Mul {
    plan: Broadcast<2>,
    zero_points: [i32; 2],
    scale: f32,
    y_zero_point: f32,
}

impl Mul {
    /// A product of operands with the given scales and zero points.
    pub fn new(plan: Broadcast<2>, a: Affine, b: Affine, y: Affine) -> Mul {
        let scale = (a.0 * b.0) / y.0;
        Mul { plan, zero_points: [a.1.into(), b.1.into()], scale, y_zero_point: y.1.into() }
    }

    /// Computes the product.
    ///
    /// # Panics
    /// When a slice has not the length of its shape.
    pub fn run(&self, a: &[u8], b: &[u8], y: &mut [u8]) {
        let isa = Isa::detect();
        let zero = self.y_zero_point;
        run(&self.plan, a, b, y, |a, b, y| mul_row(isa, self.zero_points, self.scale, zero, a, b, y));
    }
}

/// Calls `f` for each row of the result, with as many codes of each operand, or one that repeats.
fn run(
    plan: &Broadcast<2>,
    a: &[u8],
    b: &[u8],
    y: &mut [u8],
    f: impl Fn(&[u8], &[u8], &mut [u8]) + Sync + Send,
) {
    assert_eq!(
        [a.len(), b.len()],
        [plan.operand_len(0), plan.operand_len(1)],
        "operands of {:?}",
        plan.shape()
    );
    plan.run(y, |tile: &Tile<2>, y| {
        for (row, y) in y.chunks_exact_mut(tile.inner).enumerate() {
            f(tile.row(0, a, row), tile.row(1, b, row), y);
        }
    });
}

/// `y[i] = f(a[i], b[i])`, where an operand of one element repeats.
#[inline(always)]
fn zip(a: &[u8], b: &[u8], y: &mut [u8], f: impl Fn(u8, u8) -> u8) {
    match (a, b) {
        (&[a], b) if b.len() == y.len() => y.iter_mut().zip(b).for_each(|(y, &b)| *y = f(a, b)),
        (a, &[b]) if a.len() == y.len() => y.iter_mut().zip(a).for_each(|(y, &a)| *y = f(a, b)),
        (&[a], &[b]) => y.fill(f(a, b)),
        (a, b) => y.iter_mut().zip(a.iter().zip(b)).for_each(|(y, (&a, &b))| *y = f(a, b)),
    }
}

dispatch! {
    fn add_row(ratios: [f32; 2], fixed: f32, a: &[u8], b: &[u8], y: &mut [u8]) {
        let [ratio_a, ratio_b] = ratios;
        zip(a, b, y, |a, b| code(f32::from(a).mul_add(ratio_a, f32::from(b).mul_add(ratio_b, fixed))));
    }

    fn mul_row(zero_points: [i32; 2], scale: f32, zero_point: f32, a: &[u8], b: &[u8], y: &mut [u8]) {
        let [zero_a, zero_b] = zero_points;
        let product = |a: u8, b: u8| (i32::from(a) - zero_a) * (i32::from(b) - zero_b);
        zip(a, b, y, |a, b| code(product(a, b) as f32 * scale + zero_point));
    }
}

/// `y[i] = table[x[i]]`: any function of codes. ONNX Runtime's `QLinearSigmoid`, `QLinearLeakyRelu` and the change of
/// scale in `QLinearConcat`.
///
/// # Panics
/// When the lengths differ.
pub fn lookup(table: &[u8; 256], x: &[u8], y: &mut [u8]) {
    assert_eq!(x.len(), y.len());
    parallel::for_each_chunk(y, CHUNK, |i, y| {
        let x = &x[i * CHUNK..][..y.len()];
        y.iter_mut().zip(x).for_each(|(y, &x)| *y = table[usize::from(x)]);
    });
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const PAIRS: [usize; 2] = [256, 256];

    /// All pairs of codes.
    fn pairs(f: impl Fn(&Broadcast<2>, &[u8], &[u8], &mut [u8])) -> Vec<(u8, u8, u8)> {
        let codes: Vec<u8> = (0..=255).collect();
        let plan = Broadcast::new([&[256, 1], &[256]]).unwrap();
        let mut y = vec![0; plan.len()];
        f(&plan, &codes, &codes, &mut y);
        y.iter().enumerate().map(|(i, &y)| ((i / PAIRS[1]) as u8, (i % PAIRS[1]) as u8, y)).collect()
    }

    #[test]
    fn results_are_within_a_step_of_the_real_ones() {
        let scales = [(0.02, 0u8), (0.013, 128), (0.1, 7), (1.0 / 255.0, 0)];
        for (i, a) in scales.into_iter().enumerate() {
            let (b, y) = (scales[(i + 1) % 4], scales[(i + 2) % 4]);
            let value = |(s, z): Affine, q: u8| f64::from(s) * (f64::from(q) - f64::from(z));
            let check = |pairs: Vec<(u8, u8, u8)>, f: fn(f64, f64) -> f64| {
                for (p, q, got) in pairs {
                    let exact = f(value(a, p), value(b, q)) / f64::from(y.0) + f64::from(y.1);
                    let off = f64::from(got) - exact.clamp(0.0, 255.0);
                    assert!(off.abs() <= 0.5 + 1e-3, "{p} {q}: {got} for {exact}");
                }
            };
            check(pairs(|plan, p, q, out| Add::new(plan.clone(), a, b, y).run(p, q, out)), |a, b| a + b);
            check(pairs(|plan, p, q, out| Mul::new(plan.clone(), a, b, y).run(p, q, out)), |a, b| a * b);
        }
    }

    #[test]
    fn operands_repeat() {
        let unit = (1.0, 0);
        for (a, b, want) in [
            (vec![1, 2, 3, 4, 5, 6], vec![10, 20, 30], [11, 22, 33, 14, 25, 36]),
            (vec![1, 2, 3, 4, 5, 6], vec![10, 20], [11, 12, 13, 24, 25, 26]),
            (vec![7], vec![1, 2, 3, 4, 5, 6], [8, 9, 10, 11, 12, 13]),
        ] {
            let shape = |x: &[u8]| match x.len() {
                6 => vec![2, 3],
                3 => vec![3],
                2 => vec![2, 1],
                _ => vec![],
            };
            let plan = Broadcast::new([&shape(&a), &shape(&b)]).unwrap();
            let mut y = [0; 6];
            Add::new(plan, unit, unit, unit).run(&a, &b, &mut y);
            assert_eq!(y, want);
        }
    }

    #[test]
    fn all_instruction_sets_give_the_same_codes() {
        let a: Vec<u8> = (0..1003).map(|i| (i * 37 % 256) as u8).collect();
        let b: Vec<u8> = (0..1003).map(|i| (i * 91 % 256) as u8).collect();
        let run = |isa: Isa| {
            let (mut sum, mut product) = (vec![0; a.len()], vec![0; a.len()]);
            add_row(isa, [0.37, 0.77], 3.1, &a, &b, &mut sum);
            mul_row(isa, [3, 128], 0.0071, 99.0, &a, &b, &mut product);
            (sum, product)
        };
        assert_eq!(run(Isa::Scalar), run(Isa::detect()));
    }

    #[test]
    fn tables() {
        let table: [u8; 256] = std::array::from_fn(|i| 255 - i as u8);
        let x: Vec<u8> = (0..40_000).map(|i| (i % 256) as u8).collect();
        let mut y = vec![0; x.len()];
        lookup(&table, &x, &mut y);
        assert!(x.iter().zip(&y).all(|(&x, &y)| y == 255 - x));
    }
}
