//! The page of a run of [`quantize`](crate::quantize).

use super::comparison;
use crate::{Comparison, EpochRecord, History, Outcome, Quantized};
use passes::{Line, Verdict};
use report::chart::{self, Line as Curve};
use report::html::{self, Column, Html, Tile};
use report::{bytes, duration, percent};
use std::time::Duration;
use train::{Accuracy, Quality};

/// What the page tells of.
pub struct Quantization<'a> {
    /// Name of the int8 model.
    pub title: &'a str,
    /// What it was made of, and with what.
    pub source: &'a str,
    /// The result.
    pub result: &'a Quantized,
    /// What happened on the way.
    pub history: &'a History,
    /// Float and int8 model side by side, where there was data for it.
    pub comparison: Option<&'a Comparison>,
    /// Sizes of the float and the int8 model in bytes.
    pub sizes: (u64, u64),
    /// How long all of it took.
    pub took: Duration,
}

/// A whole run: accuracy, size, curves of training, loss of the layers, decisions and their reasons.
pub fn quantization(run: &Quantization) -> String {
    let mut sections = vec![tiles(run)];
    sections.extend(training(run.history, run.result.float));
    if let Some(comparison) = run.comparison {
        sections.extend(comparison::sections(comparison));
    }
    sections.push(decisions(&run.history.decisions));
    html::page(run.title, run.source, sections)
}

fn tiles(run: &Quantization) -> Html {
    let mut tiles = Vec::new();
    let mut tile =
        |label: &str, value: String, note: String| tiles.push(Tile { label: label.into(), value, note });
    if let (Some(float), Some(int8)) = (run.result.float, run.result.int8) {
        for (label, share) in [("top-1", Accuracy::top1 as fn(&Accuracy) -> f64), ("top-5", Accuracy::top5)] {
            let change = 100.0 * (share(&int8) - share(&float));
            tile(
                label,
                percent(share(&int8)),
                format!("float {}, {change:+.2} points", percent(share(&float))),
            );
        }
    }
    let (before, after) = run.sizes;
    let times = before as f64 / after.max(1) as f64;
    tile("size", bytes(after), format!("float {}, {times:.1} × smaller", bytes(before)));
    if let Some(agreement) = run.comparison.and_then(Comparison::agreement) {
        let samples = run.comparison.map_or(0, |c| c.samples);
        tile("agreement", percent(agreement), format!("same class as float, of {samples} samples"));
    }
    let how = match run.result.outcome {
        Outcome::QuantizationAwareTraining => "quantization-aware training",
        Outcome::StaticCalibration => "static calibration",
        Outcome::WeightOnly => "without data",
    };
    tile("time", duration(run.took), how.into());
    html::tiles(tiles)
}

fn training(history: &History, float: Option<Accuracy>) -> Option<Html> {
    let (first, last) = (history.steps.first()?.steps as f64, history.steps.last()?.steps as f64);
    let curve = |series, pale, points| Curve { series, pale, points };
    let of_steps = |values: &[f64]| {
        let place = history.steps.iter().map(|s| s.steps as f64);
        place.zip(values.iter().copied()).collect::<Vec<_>>()
    };
    let losses: Vec<f64> = history.steps.iter().map(|s| s.loss as f64).collect();
    let rates: Vec<f64> = history.steps.iter().map(|s| s.rate as f64).collect();
    let loss = [curve(4, true, of_steps(&losses)), curve(4, false, of_steps(&smooth(&losses)))];
    let mut cards = vec![html::card("Loss", "per step, and its running mean", chart::lines(&loss, ""))];
    cards.extend(quality(history, float, (first, last)));
    let rates = [curve(4, false, of_steps(&rates))];
    cards.push(html::card("Learning rate", "of the weights, per step", chart::lines(&rates, "")));
    cards.extend(thresholds(history));
    let columns = ["epoch", "loss", "training top-1", "int8 on evaluation data"].map(Column::Number);
    let row = |e: &EpochRecord| {
        let train = if e.train.samples > 0 { percent(e.train.top1()) } else { "-".into() };
        let eval = match e.eval {
            None => "-".into(),
            Some(Quality::Accuracy(a)) => format!("top-1 {}, top-5 {}", percent(a.top1()), percent(a.top5())),
            Some(Quality::Fidelity(f)) => format!("SQNR {}", super::decibel(f.sqnr())),
        };
        [e.epochs.to_string(), format!("{:.4}", e.loss), train, eval].map(Html::from).to_vec()
    };
    let epochs = html::details(
        &format!("{} epochs, {last} steps", history.epochs.len()),
        html::table(columns, history.epochs.iter().map(row)),
    );
    Some(html::section("Training", &kept(history), [html::halves(cards), epochs]))
}

/// Which epoch the int8 model is made of.
fn kept(history: &History) -> String {
    match history.kept {
        None => String::new(),
        Some(0) => "Training made the model no better: weights and ranges are those before it.".into(),
        Some(epochs) => format!("Weights and ranges are those after epoch {epochs}, the best."),
    }
}

/// How good the int8 form was at the end of each epoch: top-1, or decibels where there are no labels.
fn quality(history: &History, float: Option<Accuracy>, (first, last): (f64, f64)) -> Option<Html> {
    let of_epochs = |value: &dyn Fn(&EpochRecord) -> Option<f64>| {
        history.epochs.iter().filter_map(|e| Some((e.steps as f64, value(e)?))).collect::<Vec<_>>()
    };
    let train = of_epochs(&|e| (e.train.samples > 0).then(|| 100.0 * e.train.top1()));
    let int8 = of_epochs(&|e| Some(100.0 * e.eval?.accuracy()?.top1()));
    let fidelity = of_epochs(&|e| e.eval.filter(|q| q.accuracy().is_none()).map(|q| q.score()));
    let curve = |series, points| Curve { series, pale: false, points };
    if !fidelity.is_empty() {
        let plot = chart::lines(&[curve(3, fidelity)], " dB");
        return Some(html::card("SQNR", "of the int8 outputs, at the end of each epoch", plot));
    }
    let mut all = vec![(4, "training", train), (3, "evaluation, int8", int8)];
    all.extend(
        float.map(|f| (0, "evaluation, float", vec![(first, 100.0 * f.top1()), (last, 100.0 * f.top1())])),
    );
    all.retain(|c| !c.2.is_empty());
    let legend = html::legend(all.iter().map(|c| (c.0, c.1.into())));
    let curves: Vec<Curve> = all.into_iter().map(|(series, _, points)| curve(series, points)).collect();
    let plot = chart::lines(&curves, " %");
    (!plot.is_empty()).then(|| html::card("Top-1", "at the end of each epoch", [legend, plot]))
}

/// How far trained thresholds moved, where there is more than one epoch.
fn thresholds(history: &History) -> Option<Html> {
    let start =
        &history.epochs.first().filter(|e| !e.thresholds.is_empty() && history.epochs.len() > 1)?.thresholds;
    let curve = |(i, (name, start)): (usize, &(String, f32))| {
        let value = |e: &EpochRecord| {
            let now = e.thresholds.iter().find(|(n, _)| n == name)?.1;
            Some((e.epochs as f64, 100.0 * (now / start - 1.0) as f64))
        };
        Curve { series: i % 6, pale: false, points: history.epochs.iter().filter_map(value).collect() }
    };
    let curves: Vec<Curve> = start.iter().enumerate().map(curve).collect();
    let note = format!("change of each of {} since the end of the first epoch, by epoch", curves.len());
    Some(html::card("Thresholds", &note, chart::lines(&curves, " %")))
}

/// Running mean with weights that decay by 0.95, without a pull towards a start value.
fn smooth(values: &[f64]) -> Vec<f64> {
    let (mut sum, mut weight) = (0.0, 0.0);
    let next = |v: &f64| {
        (sum, weight) = (0.95 * sum + v, 0.95 * weight + 1.0);
        sum / weight
    };
    values.iter().map(next).collect()
}

fn decisions(lines: &[Line]) -> Html {
    let columns = [Column::Text("node"), Column::Text("pass"), Column::Text("what happened")];
    let table = |lines: &[&Line]| {
        let row = |l: &&Line| {
            let (Verdict::Done(what) | Verdict::Skip(what)) = &l.verdict;
            vec![html::code(&l.node), l.pass.clone().into(), what.clone().into()]
        };
        html::table(columns, lines.iter().map(row))
    };
    let (left, done): (Vec<&Line>, Vec<&Line>) =
        lines.iter().partition(|l| matches!(l.verdict, Verdict::Skip(_)));
    let left_of = match left.is_empty() {
        true => html::element("p", "note", "No pass left anything that looked fit for it."),
        false => [html::element("p", "note", "Left as it was, and why:"), table(&left)].into(),
    };
    let done_of = match done.is_empty() {
        true => Html::default(),
        false => html::details(&format!("{} rewrites", done.len()), table(&done)),
    };
    html::section("Decisions", "", [left_of, done_of])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_stays_one_when_smoothed() {
        assert!(smooth(&[2.0; 50]).iter().all(|v| (v - 2.0).abs() < 1e-12));
        assert_eq!(smooth(&[1.0, 3.0])[1], (0.95 + 3.0) / 1.95);
    }
}
