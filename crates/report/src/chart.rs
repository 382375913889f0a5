//! Pictures in SVG, in the colors of the page that they stand in.

use crate::html::Html;
use std::fmt::Write;

/// The drawing area, in SVG units, that the page scales to the space there is.
const WIDTH: f64 = 420.0;

/// Space below a plot for the numbers of its axis.
const FOOT: f64 = 18.0;

/// A vertical line at a value, in the color of a series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mark {
    /// Where.
    pub at: f64,
    /// The color: 0 to 5.
    pub series: usize,
}

/// Counts over an axis, of which the heights are logarithmic so that single values stay visible, with marks.
///
/// `bins` are lower edge, upper edge, count, in order; neighbours are joined until there are about as many as can be seen.
pub fn histogram(bins: &[(f64, f64, u64)], marks: &[Mark]) -> Html {
    const HEIGHT: f64 = 120.0;
    const BARS: usize = 140;
    let (Some(first), Some(last)) = (bins.first(), bins.last()) else { return Html::default() };
    let ends = marks.iter().map(|m| m.at).fold((first.0, last.1), |(a, b), x| (a.min(x), b.max(x)));
    let x = |v: f64| WIDTH * (v - ends.0) / (ends.1 - ends.0);
    let joined: Vec<(f64, f64, u64)> = bins
        .chunks(bins.len().div_ceil(BARS))
        .map(|c| (c[0].0, c[c.len() - 1].1, c.iter().map(|b| b.2).sum()))
        .collect();
    let top = joined.iter().map(|b| b.2).max().unwrap_or(0).max(1) as f64;
    let y = |n: u64| HEIGHT * (1.0 - (n as f64 + 1.0).ln() / (top + 1.0).ln());
    let mut path = String::new();
    for &(low, high, n) in joined.iter().filter(|b| b.2 > 0) {
        let _ = write!(path, "M{:.1} {HEIGHT}V{:.1}H{:.1}V{HEIGHT}Z", x(low), y(n), x(high));
    }
    let mut svg = format!("<path class=\"bars\" d=\"{path}\"/>");
    for m in marks {
        let _ = write!(svg, "<path class=\"mark s{}\" d=\"M{:.1} -2V{HEIGHT}\"/>", m.series, x(m.at));
    }
    axis_below(&mut svg, ends, 0.0, (WIDTH, HEIGHT), &x);
    frame(WIDTH, HEIGHT, &svg)
}

/// A curve.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// The color: 0 to 5.
    pub series: usize,
    /// Drawn faintly, as the background of another curve.
    pub pale: bool,
    /// Points in order of their first coordinate. Points that are not finite are left out.
    pub points: Vec<(f64, f64)>,
}

/// Curves over a common axis of whole numbers, for a card. `unit` stands behind the numbers of the vertical axis.
pub fn lines(lines: &[Line], unit: &str) -> Html {
    plot(WIDTH, lines, unit)
}

/// As [`lines`], as wide as a page.
pub fn wide_lines(lines: &[Line], unit: &str) -> Html {
    plot(2.6 * WIDTH, lines, unit)
}

fn plot(width: f64, lines: &[Line], unit: &str) -> Html {
    const HEIGHT: f64 = 160.0;
    const LEFT: f64 = 48.0;
    let finite = |p: &&(f64, f64)| p.0.is_finite() && p.1.is_finite();
    let all: Vec<(f64, f64)> = lines.iter().flat_map(|l| l.points.iter().filter(finite).copied()).collect();
    let span = |of: fn(&(f64, f64)) -> f64| {
        let ends =
            all.iter().map(of).fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)));
        // A single value lies in the middle of something.
        if ends.0 < ends.1 {
            ends
        } else {
            (ends.0 - 0.5 * ends.0.abs().max(1e-9), ends.1 + 0.5 * ends.1.abs().max(1e-9))
        }
    };
    if all.is_empty() {
        return Html::default();
    }
    let (ends, (low, high)) = (span(|p| p.0), span(|p| p.1));
    let step = nice_step(high - low, 4);
    let (low, high) = ((low / step).floor() * step, (high / step).ceil() * step);
    let x = |v: f64| LEFT + (width - LEFT) * (v - ends.0) / (ends.1 - ends.0);
    let y = |v: f64| HEIGHT * (1.0 - (v - low) / (high - low));
    let mut svg = String::new();
    for k in 0..=((high - low) / step).round() as usize {
        let v = low + k as f64 * step;
        let (at, text) = (y(v), Html::from(format!("{}{unit}", tick(v, step))));
        let _ = write!(svg, "<path class=\"axis\" d=\"M{LEFT} {at:.1}H{width}\"/>");
        let _ =
            write!(svg, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>", LEFT - 6.0, at + 3.5);
    }
    for l in lines {
        let mut path = String::new();
        for (i, p) in thinned(&l.points, 600).iter().filter(finite).enumerate() {
            let _ = write!(path, "{}{:.1} {:.1}", if i == 0 { "M" } else { "L" }, x(p.0), y(p.1));
        }
        let pale = if l.pale { " pale" } else { "" };
        let _ = write!(svg, "<path class=\"line s{}{pale}\" d=\"{path}\"/>", l.series);
    }
    axis_below(&mut svg, ends, 1.0, (width, HEIGHT), &x);
    frame(width, HEIGHT, &svg)
}

/// At most about `most` of the points, the last among them.
fn thinned(points: &[(f64, f64)], most: usize) -> Vec<(f64, f64)> {
    let every = points.len().div_ceil(most).max(1);
    let last = points.len().saturating_sub(1);
    points.iter().enumerate().filter(|(i, _)| i % every == 0 || *i == last).map(|(_, p)| *p).collect()
}

/// The line and the numbers below a plot, which are at least `least` apart.
fn axis_below(
    svg: &mut String,
    (low, high): (f64, f64),
    least: f64,
    (width, height): (f64, f64),
    x: &dyn Fn(f64) -> f64,
) {
    let _ = write!(svg, "<path class=\"axis\" d=\"M{:.1} {height}H{width}\"/>", x(low));
    let step = nice_step(high - low, 5).max(least);
    let mut v = (low / step).ceil() * step;
    while v <= high {
        let at = x(v);
        let anchor = if at > width - 12.0 {
            "end"
        } else if at < 8.0 {
            "start"
        } else {
            "middle"
        };
        let text = tick(v, step);
        let _ = write!(
            svg,
            "<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{text}</text>",
            height + 14.0
        );
        v += step;
    }
}

/// The number of a tick, with the decimals that its step has.
fn tick(v: f64, step: f64) -> String {
    let v = if v.abs() < 1e-9 * step { 0.0 } else { v };
    match step.log10().floor() {
        e if (-6.0..0.0).contains(&e) => format!("{v:.0$}", -e as usize),
        e if (0.0..6.0).contains(&e) => format!("{v:.0}"),
        _ => format!("{v:.0e}"),
    }
}

/// A step of 1, 2 or 5 times a power of ten with which at most about `count` fit into `span`.
fn nice_step(span: f64, count: usize) -> f64 {
    let rough = (span / count as f64).max(f64::MIN_POSITIVE);
    let power = 10f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|f| f * power >= rough * 0.999).unwrap_or(10.0);
    factor * power
}

fn frame(width: f64, height: f64, svg: &str) -> Html {
    Html::raw(format!("<svg viewBox=\"0 -6 {width} {}\" role=\"img\">{svg}</svg>", height + FOOT + 6.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round() {
        for (span, step) in
            [(10.0, 5.0), (7.0, 2.0), (4.0, 1.0), (0.03, 0.01), (1e-7, 5e-8), (9000.0, 5000.0)]
        {
            let found = nice_step(span, 4);
            assert!((found / step - 1.0).abs() < 1e-9, "{span}: {found}, not {step}");
        }
        assert_eq!(
            (tick(0.3, 0.1), tick(-2.0, 2.0), tick(1e-17, 0.1)),
            ("0.3".into(), "-2".into(), "0.0".into())
        );
        assert_eq!((tick(5e-8, 5e-8), tick(2e7, 1e7)), ("5e-8".into(), "2e7".into()));
    }

    #[test]
    fn bars_are_few_and_marks_are_inside() {
        let bins: Vec<(f64, f64, u64)> = (0..4096).map(|i| (i as f64, i as f64 + 1.0, 4096 - i)).collect();
        let svg = histogram(&bins, &[Mark { at: 5000.0, series: 2 }]).to_string();
        assert!(svg.matches('Z').count() <= 140 && svg.matches('Z').count() > 100);
        assert!(svg.contains("class=\"mark s2\" d=\"M420.0"), "{svg}");
        assert!(histogram(&[], &[]).is_empty());
    }

    #[test]
    fn curves_of_any_length_and_without_points() {
        let line = |points| Line { series: 0, pale: false, points };
        let svg = lines(&[line((0..100_000).map(|i| (i as f64, 1.0)).collect())], "").to_string();
        assert!(svg.len() < 20_000 && !svg.contains("NaN") && !svg.contains("inf"));
        assert!(lines(&[line(vec![])], "").is_empty());
        assert!(lines(&[line(vec![(0.0, f64::NAN)])], "").is_empty());
        let one = lines(&[line(vec![(0.0, 0.0)])], "").to_string();
        assert!(!one.contains("NaN"), "{one}");
    }
}
