//! Numbers with units.

use std::time::Duration;

/// A share of 1 as percent with two decimals: `0.975` is `97.50 %`; what is not a number is `-`.
///
/// ```
/// assert_eq!(onnx_qat_report::percent(0.975), "97.50 %");
/// ```
pub fn percent(share: f64) -> String {
    if share.is_finite() { format!("{:.2} %", 100.0 * share) } else { "-".to_string() }
}

/// A size in decimal units (1 kB is 1000 bytes) with one decimal.
///
/// ```
/// assert_eq!(onnx_qat_report::bytes(12_400_000), "12.4 MB");
/// ```
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if count < 1000 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1e3;
    let mut unit = 0;
    // 999.95 would print as 1000.0 of the smaller unit.
    while value >= 999.95 {
        value /= 1e3;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A time at the precision that matters: `830 ms`, `12.4 s`, `3 min 05 s`, `2 h 07 min`.
///
/// ```
/// assert_eq!(onnx_qat_report::duration(std::time::Duration::from_secs(185)), "3 min 05 s");
/// ```
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    let whole = seconds.round() as u64;
    if seconds < 0.9995 {
        format!("{:.0} ms", 1e3 * seconds)
    } else if seconds < 59.95 {
        format!("{seconds:.1} s")
    } else if whole < 3600 {
        format!("{} min {:02} s", whole / 60, whole % 60)
    } else {
        let minutes = (seconds / 60.0).round() as u64;
        format!("{} h {:02} min", minutes / 60, minutes % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_change_unit_where_they_should() {
        for (count, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (999_949, "999.9 kB"),
            (999_950, "1.0 MB"),
            (1_250_000_000, "1.2 GB"),
            (u64::MAX, "18.4 EB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn shares() {
        assert_eq!([percent(0.0), percent(1.0), percent(0.123456)], ["0.00 %", "100.00 %", "12.35 %"]);
        assert_eq!([percent(-0.0125), percent(f64::NAN)], ["-1.25 %", "-"]);
    }

    #[test]
    fn times_change_unit_where_they_should() {
        for (ms, text) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (1000, "1.0 s"),
            (59_940, "59.9 s"),
            (59_960, "1 min 00 s"),
            (3_599_400, "59 min 59 s"),
            (3_599_600, "1 h 00 min"),
            (7_620_000, "2 h 07 min"),
        ] {
            assert_eq!(duration(Duration::from_millis(ms)), text);
        }
    }
}
