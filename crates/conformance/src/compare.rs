//! Whether a result is the expected one.

use tensor::{DType, Tensor};

/// How far a number may be off, relative to the expected one: that of the runner in the `onnx` package.
const RELATIVE: f64 = 1e-3;
/// The same for bfloat16, whose numbers are themselves further apart.
const RELATIVE_BF16: f64 = 1.0 / 64.0;
/// How far any number may be off.
const ABSOLUTE: f64 = 1e-7;

/// What is wrong with `got`, if anything: another element type, another shape, or a number further than
/// `1e-7 + 1e-3 |want|` from the expected one, in bfloat16 `1e-7 + |want| / 64`.
pub fn difference(got: &Tensor, want: &Tensor) -> Option<String> {
    if got.dtype() != want.dtype() || got.shape() != want.shape() {
        let ty = |t: &Tensor| format!("{}{:?}", t.dtype(), t.shape());
        return Some(format!("{} instead of {}", ty(got), ty(want)));
    }
    let relative = if want.dtype() == DType::BF16 { RELATIVE_BF16 } else { RELATIVE };
    let near = |a: f64, b: f64| {
        a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= ABSOLUTE + relative * b.abs()
    };
    let (a, b) = (got.to_f64(), want.to_f64());
    let off: Vec<usize> = (0..a.len()).filter(|&i| !near(a[i], b[i])).collect();
    let &first = off.first()?;
    Some(format!(
        "{} of {} elements differ, the first at {first}: {} instead of {}",
        off.len(),
        a.len(),
        a[first],
        b[first]
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_told() {
        let t = |x: &[f32]| Tensor::new(&[x.len()], x.to_vec());
        assert_eq!(
            difference(&t(&[1.0, f32::NAN, f32::INFINITY]), &t(&[1.0005, f32::NAN, f32::INFINITY])),
            None
        );
        assert!(difference(&t(&[1.0]), &t(&[1.01])).unwrap().contains("1 of 1 elements"));
        assert!(difference(&t(&[1.0]), &t(&[f32::NAN])).is_some());
        assert!(difference(&t(&[1.0]), &t(&[1.0, 1.0])).unwrap().contains("instead of float[2]"));
        assert!(difference(&t(&[1.0]), &Tensor::new(&[1], vec![1i64])).is_some());
    }
}
