//! The page of a [`Comparison`].

use super::{decibel, number};
use crate::{Comparison, Layer};
use report::chart::{self, Line};
use report::html::{self, Column, Html, Tile};
use report::percent;
use train::Accuracy;

/// Differing samples that are listed.
const LISTED: usize = 200;

/// A float model beside its int8 model. `source` says what was compared on what.
pub fn comparison(comparison: &Comparison, source: &str) -> String {
    html::page("Float and int8", source, std::iter::once(tiles(comparison)).chain(sections(comparison)))
}

/// The sections of a comparison, for pages that hold more.
pub(super) fn sections(comparison: &Comparison) -> Vec<Html> {
    let mut sections = Vec::new();
    if !comparison.layers.is_empty() {
        let equalized = if comparison.equalized { EQUALIZED } else { "" };
        let note = format!("{LAYERS}{equalized}");
        let body = [
            html::card("Signal-to-noise ratio, in graph order", "", curves(&comparison.layers)),
            layers(comparison),
        ];
        sections.push(html::section("Layers", &note, body));
    }
    sections.push(html::section("Outputs", "", outputs(comparison)));
    sections.extend(differing(comparison));
    sections
}

const LAYERS: &str = "Signal-to-noise ratio (SQNR) of every quantized tensor of the int8 model against the same tensor of \
    the float model. Accumulated: with the errors of all layers before. Own: of rounding and clipping this tensor alone; where \
    it is low, its range is at fault, where only the accumulated one is low, an earlier layer or the weights are.";

const EQUALIZED: &str = " The float model was equalized across layers first, as the int8 model was.";

fn tiles(c: &Comparison) -> Html {
    let mut tiles = Vec::new();
    let mut tile =
        |label: &str, value: String, note: String| tiles.push(Tile { label: label.into(), value, note });
    if let Some(classes) = &c.classes {
        if let (Some(float), Some(int8)) = (classes.float, classes.int8) {
            for (label, share) in
                [("top-1", Accuracy::top1 as fn(&Accuracy) -> f64), ("top-5", Accuracy::top5)]
            {
                let change = 100.0 * (share(&int8) - share(&float));
                let note = format!("float {}, {change:+.2} points", percent(share(&float)));
                tile(&format!("int8 {label}"), percent(share(&int8)), note);
            }
        }
        let note = format!("same class, {} of {} samples differ", classes.differing.len(), c.samples);
        tile("agreement", percent(c.agreement().unwrap_or(1.0)), note);
    }
    if let Some(output) = c.outputs.iter().min_by(|a, b| a.sqnr.total_cmp(&b.sqnr)) {
        tile("output SQNR", decibel(output.sqnr), format!("{}, cosine {:.5}", output.name, output.cosine));
    }
    if let Some(worst) = c.worst_first().first() {
        tile("worst layer", decibel(worst.sqnr), worst.name.clone());
    }
    html::tiles(tiles)
}

fn curves(layers: &[Layer]) -> Html {
    let points = |of: fn(&Layer) -> f64| {
        layers.iter().enumerate().map(|(i, l)| (i as f64, of(l).min(70.0))).collect::<Vec<_>>()
    };
    let own = Line { series: 0, pale: false, points: points(|l| l.own) };
    let all = Line { series: 4, pale: false, points: points(|l| l.sqnr) };
    let legend = html::legend([(4, "accumulated".into()), (0, "own".into())]);
    [legend, chart::wide_lines(&[own, all], " dB")].into()
}

fn layers(c: &Comparison) -> Html {
    let columns = [
        Column::Text("tensor"),
        Column::Text("operator"),
        Column::Number("accumulated"),
        Column::Number("own"),
    ];
    let row = |l: &&Layer| {
        let ratio = |x: f64| html::meter(&decibel(x), x / 60.0);
        vec![html::code(&l.name), l.operator.clone().into(), ratio(l.sqnr), ratio(l.own)]
    };
    let worst = c.worst_first();
    let (first, rest) = worst.split_at(worst.len().min(20));
    let rest_of = |rest: &[&Layer]| match rest.is_empty() {
        true => Html::default(),
        false => {
            html::details(&format!("{} more layers", rest.len()), html::table(columns, rest.iter().map(row)))
        }
    };
    [html::table(columns, first.iter().map(row)), rest_of(rest)].into()
}

fn outputs(c: &Comparison) -> Html {
    let columns = [Column::Text("output"), Column::Number("SQNR"), Column::Number("cosine")];
    let row = |o: &crate::compare::Output| {
        vec![
            html::code(&o.name),
            html::meter(&decibel(o.sqnr), o.sqnr / 60.0),
            format!("{:.6}", o.cosine).into(),
        ]
    };
    html::table(columns, c.outputs.iter().map(row))
}

fn differing(c: &Comparison) -> Option<Html> {
    let classes = c.classes.as_ref().filter(|c| !c.differing.is_empty())?;
    let columns = ["sample", "label", "float says", "int8 says", "margin"].map(Column::Number);
    let row = |d: &crate::Difference| {
        let said = |class: usize| match d.label {
            Some(label) if label == class as i64 => html::element("span", "good", class.to_string()),
            _ => Html::from(class.to_string()),
        };
        let label = d.label.map_or("-".to_string(), |l| l.to_string());
        vec![
            d.sample.to_string().into(),
            label.into(),
            said(d.float),
            said(d.int8),
            number(d.margin.into()).into(),
        ]
    };
    let mut all = classes.differing.clone();
    all.sort_by(|a, b| b.margin.total_cmp(&a.margin));
    let note = format!(
        "{} samples get another class, the clearest change first; the right class in green. Margin: how far apart the two \
         classes are for the float model.",
        all.len()
    );
    Some(html::section("Differing samples", &note, html::table(columns, all.iter().take(LISTED).map(row))))
}
