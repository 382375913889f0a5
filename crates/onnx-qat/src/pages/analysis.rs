//! The page of an [`Analysis`].

use super::{decibel, number};
use crate::Analysis;
use report::chart::{self, Mark};
use report::html::{self, Column, Html, Tile};
use train::Observed;

/// What the methods of [`observe::Thresholds::named`] are called, in the order of their colors.
const METHODS: [&str; 4] = ["abs max", "hist 99.99 %", "KL", "MSE"];

/// A tensor with less than this in 8 bits is worth a look.
const LOW: f32 = 25.0;

/// Cards that are shown at once.
const OPEN: usize = 24;

/// The distributions of all tensors, those first that lose most in 8 bits. `source` says what was analyzed.
pub fn analysis(analysis: &Analysis, source: &str) -> String {
    let worst = analysis.worst_first();
    let (open, more) = worst.split_at(OPEN.min(worst.len()));
    let legend = html::legend(METHODS.into_iter().map(Html::from).enumerate());
    let mut pictures = vec![legend, html::grid(open.iter().map(|t| card(t)))];
    if !more.is_empty() {
        let rest = html::grid(more.iter().map(|t| card(t)));
        pictures.push(html::details(&format!("{} more tensors", more.len()), rest));
    }
    html::page(
        "Activation distributions",
        source,
        [
            tiles(&worst),
            html::section(
                "Histograms",
                "Worst first: by the signal-to-noise ratio (SQNR) of the tensor in 8 bits over its whole range. Heights \
                 are logarithmic, so that single values stay visible. Dashed lines are the thresholds that calibration \
                 methods choose; what lies outside is clipped.",
                pictures.into_iter().collect::<Html>(),
            ),
            html::section("All tensors", TABLE_NOTE, table(&worst)),
        ],
    )
}

const TABLE_NOTE: &str = "Percentiles are magnitudes. Outliers lie further than six standard deviations from the mean. Spread \
    is the largest magnitude of a channel over that of the median channel: one scale per tensor wastes that factor on most \
    channels. SQNR is that of the tensor in 8 bits, per method.";

fn tiles(worst: &[&Observed]) -> Html {
    let low = worst.iter().filter(|t| t.distribution.thresholds.abs_max.sqnr < LOW).count();
    let gain = |t: &&&Observed| {
        t.distribution.thresholds.best().1.sqnr > t.distribution.thresholds.abs_max.sqnr + 3.0
    };
    let clipped = worst.iter().filter(gain).count();
    let spread =
        worst.iter().max_by(|a, b| a.distribution.channel_spread.total_cmp(&b.distribution.channel_spread));
    let tile = |label: &str, value: String, note: String| Tile { label: label.into(), value, note };
    let first = worst.first().map(|t| {
        tile("worst tensor", decibel(t.distribution.thresholds.abs_max.sqnr.into()), t.name.clone())
    });
    let spread = spread.map(|t| {
        let value = format!("{} ×", number(t.distribution.channel_spread.into()));
        tile("largest channel spread", value, t.name.clone())
    });
    let all = [
        Some(tile("tensors", worst.len().to_string(), "activations that are quantized".into())),
        first,
        Some(tile("low precision", low.to_string(), format!("tensors below {LOW} dB in 8 bits"))),
        Some(tile("gain by clipping", clipped.to_string(), "tensors that gain more than 3 dB".into())),
        spread,
    ];
    html::tiles(all.into_iter().flatten())
}

fn card(t: &Observed) -> Html {
    let d = &t.distribution;
    let bins: Vec<(f64, f64, u64)> = t.histogram.bins().map(|b| (b.low, b.high, b.count)).collect();
    let mut marks = Vec::new();
    for (series, (_, threshold)) in d.thresholds.named().into_iter().enumerate() {
        let at = threshold.magnitude as f64;
        for (at, reached) in [(at, d.max > 0.0), (-at, d.min < 0.0)] {
            if reached && at >= d.min as f64 && at <= d.max as f64 {
                marks.push(Mark { at, series });
            }
        }
    }
    let zeros = if d.zeros < 0.005 { String::new() } else { format!(" · {:.0} % zeros", 100.0 * d.zeros) };
    let subtitle = format!(
        "{} to {} · 99.9 % ≤ {}{zeros} · spread {:.1}",
        number(d.min.into()),
        number(d.max.into()),
        number(d.percentile_99_9.into()),
        d.channel_spread,
    );
    let best = d.thresholds.best().0;
    let ratio = |(series, (method, t)): (usize, (&str, observe::Threshold))| {
        let text = decibel(t.sqnr.into());
        (series, if method == best { html::element("b", "", text) } else { text.into() })
    };
    let legend = html::legend(d.thresholds.named().into_iter().enumerate().map(ratio));
    html::card(html::code(&t.name), &subtitle, [legend, chart::histogram(&bins, &marks)])
}

fn table(worst: &[&Observed]) -> Html {
    let columns = ["min", "max", "99 %", "99.9 %", "99.99 %", "zeros", "outliers", "spread"];
    let columns = std::iter::once(Column::Text("tensor"))
        .chain(columns.into_iter().map(Column::Number))
        .chain(METHODS.into_iter().map(Column::Number));
    let row = |t: &&Observed| {
        let d = &t.distribution;
        let magnitudes = [d.min, d.max, d.percentile_99, d.percentile_99_9, d.percentile_99_99];
        let mut cells = vec![html::code(&t.name)];
        cells.extend(magnitudes.map(|x| number(x.into()).into()));
        cells.extend([d.zeros, d.outliers].map(|x| share(x.into()).into()));
        cells.push(number(d.channel_spread.into()).into());
        cells.extend(
            d.thresholds.named().map(|(_, t)| html::meter(&decibel(t.sqnr.into()), t.sqnr as f64 / 60.0)),
        );
        cells
    };
    html::table(columns, worst.iter().map(row))
}

/// A share, in percent where it is no tiny one.
fn share(x: f64) -> String {
    if x == 0.0 || x >= 5e-5 { report::percent(x) } else { format!("{x:.0e}") }
}
