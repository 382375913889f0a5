//! Found against recorded values.

use crate::case::{Array, Case, Outputs};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt::Write;
use tensor::Tensor;

/// `|got - want| <= abs + rel * |want| + rel_to_max * max|want|`, element by element. All zero means bit-exact, apart
/// from the sign of zero.
#[derive(Default)]
pub(crate) struct Tolerance {
    pub abs: f64,
    pub rel: f64,
    pub rel_to_max: f64,
}

impl Tolerance {
    /// Reads the tolerance of a case.
    pub fn parse(keys: &Map<String, Value>) -> Result<Tolerance, String> {
        let mut tolerance = Tolerance::default();
        for (key, value) in keys {
            let field = match key.as_str() {
                "abs" => &mut tolerance.abs,
                "rel" => &mut tolerance.rel,
                "rel_to_max" => &mut tolerance.rel_to_max,
                "note" => continue,
                _ => return Err(format!("tolerance `{key}` is not understood")),
            };
            *field = Value::as_f64(value).ok_or_else(|| format!("tolerance `{key}` is {value}"))?;
        }
        Ok(tolerance)
    }
}

fn agrees(got: f64, want: f64, bound: f64) -> bool {
    got == want || (got.is_nan() && want.is_nan()) || (got - want).abs() <= bound
}

/// Compares all recorded outputs; the error says where they differ.
pub(crate) fn outputs(case: &Case, arrays: &BTreeMap<String, Tensor>, found: &Outputs) -> Result<(), String> {
    let tolerance = Tolerance::parse(&case.tolerance)?;
    if case.outputs.is_empty() {
        return Err("the case records no output".into());
    }
    let mut problems = String::new();
    for (slot, key) in &case.outputs {
        if let Err(why) = output(&tolerance, arrays, found, slot, key) {
            let separator = if problems.is_empty() { "" } else { "; " };
            let _ = write!(problems, "{separator}`{slot}` {why}");
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

fn output(
    tolerance: &Tolerance,
    arrays: &BTreeMap<String, Tensor>,
    found: &Outputs,
    slot: &str,
    key: &str,
) -> Result<(), String> {
    let want = arrays.get(key).ok_or_else(|| format!("is recorded as `{key}`, which the archive lacks"))?;
    let got = found.arrays.get(slot).ok_or("is not computed")?;
    // Integers are as uncertain as what they are rounded from: by one, and only where that is beside a tie.
    let rounded_from = found.rounded.get(slot).and_then(|of| found.arrays.get(of));
    array(tolerance, got, want, rounded_from)
}

/// Compares one array; the error says where it differs. Where `rounded_from` has the real numbers that `got` is rounded
/// from, integers may differ by one beside a tie.
pub(crate) fn array(
    tolerance: &Tolerance,
    got: &Array,
    want: &Tensor,
    rounded_from: Option<&Array>,
) -> Result<(), String> {
    if got.shape != want.shape() {
        return Err(format!("has shape {:?}, recorded is {:?}", got.shape, want.shape()));
    }
    let want = want.to_f64();
    let largest = want.iter().map(|w| w.abs()).fold(0.0, f64::max);
    let bound = |want: f64| tolerance.abs + tolerance.rel * want.abs() + tolerance.rel_to_max * largest;
    let tied = |i: usize| {
        rounded_from.is_some_and(|real| {
            let real = real.values[i] as f64;
            let from_tie = (real - real.floor() - 0.5).abs();
            (got.values[i] as f64 - want[i]).abs() == 1.0 && from_tie <= bound(real)
        })
    };
    let agrees = |i: usize| agrees(got.values[i] as f64, want[i], bound(want[i])) || tied(i);
    let differs: Vec<usize> = (0..want.len()).filter(|&i| !agrees(i)).collect();
    let Some(&first) = differs.first() else { return Ok(()) };
    Err(format!(
        "differs in {} of {} elements, first at {first}: {:e} instead of {:e}",
        differs.len(),
        want.len(),
        got.values[first],
        want[first],
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agreement() {
        assert!(agrees(0.0, -0.0, 0.0));
        assert!(agrees(f64::NAN, f64::NAN, 0.0));
        assert!(agrees(f64::INFINITY, f64::INFINITY, 0.0));
        assert!(!agrees(f64::NAN, 1.0, 1e9));
        assert!(!agrees(1.0, f64::NAN, 1e9));
        assert!(!agrees(f64::INFINITY, f64::NEG_INFINITY, 1.0));
        assert!(agrees(1.0, 1.5, 0.5) && !agrees(1.0, 1.5, 0.4));
    }
}
