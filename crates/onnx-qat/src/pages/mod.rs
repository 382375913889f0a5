//! What was found, as HTML pages: one file each, without scripts, that need nothing from elsewhere.

mod analysis;
mod comparison;
mod quantization;

pub use analysis::analysis;
pub use comparison::comparison;
pub use quantization::{Quantization, quantization};

/// A number with about three digits that matter, in plain decimals where those are short: `0.00123`, `12.3`, `1.2e-7`.
fn number(x: f64) -> String {
    let magnitude = x.abs();
    match magnitude {
        m if !m.is_finite() => format!("{x}"),
        0.0 => "0".into(),
        m if !(1e-4..1e6).contains(&m) => format!("{x:.1e}"),
        m => format!("{x:.0$}", (2 - m.log10().floor() as i32).clamp(0, 6) as usize),
    }
}

/// A signal-to-noise ratio.
fn decibel(x: f64) -> String {
    if x.is_finite() { format!("{x:.1} dB") } else { "exact".into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (x, text) in
            [(0.0, "0"), (1234.5, "1234"), (-12.345, "-12.3"), (0.001234, "0.00123"), (1.2e-7, "1.2e-7")]
        {
            assert_eq!(number(x), text);
        }
        assert_eq!((decibel(12.34), decibel(f64::INFINITY)), ("12.3 dB".into(), "exact".into()));
    }
}
