//! What the measurements say, as tables.

use crate::bench::Setting;
use crate::bench::contender::{Contender, Side, Task};
use crate::bench::process::{Results, Subject};
use onnx_qat::report::{Table, bytes};

/// Contenders that ran in turns.
pub struct Comparison {
    pub task: Task,
    pub subject: Subject,
    pub contenders: Vec<Contender>,
    pub results: Vec<Results>,
}

/// The middle one, or the mean of the two in the middle; not a number where there is none.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    match (sorted.len(), sorted.len() / 2) {
        (0, _) => f64::NAN,
        (n, half) if n % 2 == 0 => (sorted[half - 1] + sorted[half]) / 2.0,
        (_, half) => sorted[half],
    }
}

impl Results {
    /// Milliseconds per step.
    fn time(&self) -> f64 {
        median(self.rounds.iter().flatten().copied())
    }

    /// How many times longer than another: the median over the rounds, in each of which the two ran close together.
    fn ratio(&self, other: &Results) -> f64 {
        let rounds = self.rounds.iter().zip(&other.rounds);
        median(rounds.map(|(a, b)| median(a.iter().copied()) / median(b.iter().copied())))
    }
}

fn number(value: f64, digits: usize) -> String {
    if value.is_finite() { format!("{value:.digits$}") } else { "-".to_string() }
}

fn size(value: u64) -> String {
    if value == 0 { "-".to_string() } else { bytes(value) }
}

impl Comparison {
    fn pairs(&self) -> impl Iterator<Item = (&Contender, &Results)> {
        self.contenders.iter().zip(&self.results)
    }

    fn named(&self, name: &str) -> Option<&Results> {
        self.pairs().find(|(c, _)| c.name == name).map(|(_, r)| r)
    }

    /// The fastest of a side, of those that run operation by operation.
    fn best(&self, side: Side, quantized: bool) -> Option<&Results> {
        let fit = |c: &Contender| c.side == side && c.quantized == quantized && !c.compiled;
        let timed = self.pairs().filter(|(c, r)| fit(c) && r.time().is_finite()).map(|(_, r)| r);
        timed.min_by(|a, b| a.time().total_cmp(&b.time()))
    }

    /// The peer against which this task is compared, and the headings of the two ratios.
    fn peer(&self) -> (Side, [&'static str; 2]) {
        match self.task {
            Task::Training => (Side::Torch, ["/ torch float", "/ torch QAT"]),
            Task::Evaluation => (Side::OnnxRuntime, ["/ ORT float", "/ ORT int8"]),
        }
    }

    /// One row per contender.
    pub fn table(&self, setting: Setting) -> Table {
        let Subject { network, threads, .. } = self.subject;
        let (side, [over_float, over_quantized]) = self.peer();
        let (float, quantized) = (self.best(side, false), self.best(side, true));
        let what = if self.task == Task::Training { "training step" } else { "evaluation" };
        let (batch, size_) = (setting.batch, setting.size);
        let s = if threads == 1 { "" } else { "s" };
        let title = format!("{}, {what}, batch {batch}, {size_}², {threads} thread{s}", network.title());
        let head = ["", "ms/step", "fastest", over_float, over_quantized, "peak memory", "before", ""];
        let mut table = Table::new(head).title(title);
        for (contender, r) in self.pairs() {
            let against = |other: Option<&Results>| number(other.map_or(f64::NAN, |o| r.ratio(o)), 2);
            let fastest = r.rounds.iter().flatten().copied().fold(f64::NAN, f64::min);
            table.row([
                contender.name.to_string(),
                number(r.time(), 1),
                number(fastest, 1),
                against(float),
                against(quantized),
                size(r.peak),
                size(r.before),
                r.failure.clone().unwrap_or_default(),
            ]);
        }
        table
    }
}

/// One ratio of the summary: its heading, and how to find it.
type Goal = (&'static str, fn(&Comparison) -> Option<f64>);

const TRAINING: [Goal; 5] = [
    ("QAT+PACT / torch QAT", |c| Some(c.named("qat-pact")?.ratio(c.best(Side::Torch, true)?))),
    ("QAT+PACT / torch float", |c| Some(c.named("qat-pact")?.ratio(c.best(Side::Torch, false)?))),
    ("float / torch float", |c| Some(c.named("float")?.ratio(c.best(Side::Torch, false)?))),
    ("QAT+PACT / float", |c| Some(c.named("qat-pact")?.ratio(c.named("float")?))),
    ("memory QAT+PACT / torch QAT", |c| {
        let (own, peer) = (c.named("qat-pact")?.peak, c.best(Side::Torch, true)?.peak);
        (own > 0 && peer > 0).then(|| own as f64 / peer as f64)
    }),
];

const EVALUATION: [Goal; 3] = [
    ("int8 / ORT int8", |c| Some(c.named("eval-int8")?.ratio(c.named("ort-int8")?))),
    ("float / ORT float", |c| Some(c.named("eval-float")?.ratio(c.named("ort-float")?))),
    ("int8 / float", |c| Some(c.named("eval-int8")?.ratio(c.named("eval-float")?))),
];

/// The ratios that matter, over all networks: below 1 is faster, or smaller.
pub fn summary(comparisons: &[Comparison]) -> String {
    let mut tables: Vec<Table> = Vec::new();
    let tasks: [(Task, &str, &[Goal]); 2] = [
        (Task::Training, "Training: time or memory as a multiple", &TRAINING),
        (Task::Evaluation, "Evaluation: time as a multiple", &EVALUATION),
    ];
    for (task, title, goals) in tasks {
        let head = ["", "threads"].into_iter().chain(goals.iter().map(|g| g.0));
        let mut table = Table::new(head).title(title);
        for c in comparisons.iter().filter(|c| c.task == task) {
            let ratios = goals.iter().map(|(_, find)| number(find(c).unwrap_or(f64::NAN), 2));
            let row = [c.subject.network.title().to_string(), c.subject.threads.to_string()];
            table.row(row.into_iter().chain(ratios));
        }
        tables.push(table);
    }
    tables.push(scaling(comparisons));
    let texts = tables.iter().filter(|t| !t.is_empty()).map(Table::to_string);
    texts.collect::<Vec<_>>().join("\n")
}

/// How much longer one thread takes than more of them.
fn scaling(comparisons: &[Comparison]) -> Table {
    let mut table = Table::new(["", "step", "threads", "speed-up"]).title("Threads: speed-up against one");
    for many in comparisons.iter().filter(|c| c.subject.threads > 1) {
        let one = comparisons.iter().find(|c| {
            c.task == many.task && c.subject.network == many.subject.network && c.subject.threads == 1
        });
        let Some(one) = one else { continue };
        for (contender, r) in many.pairs() {
            let ratio = one.named(contender.name).map_or(f64::NAN, |o| o.time() / r.time());
            table.row([
                many.subject.network.title().to_string(),
                contender.name.to_string(),
                many.subject.threads.to_string(),
                number(ratio, 2),
            ]);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!([median([3.0, 1.0, 2.0]), median([4.0, 1.0, 3.0, 2.0])], [2.0, 2.5]);
        assert!(median([]).is_nan());
    }

    #[test]
    fn ratios_are_within_rounds() {
        // The machine was twice as slow in the second round.
        let results = |rounds: &[f64]| Results {
            rounds: rounds.iter().map(|&t| vec![t]).collect(),
            ..Results::default()
        };
        assert_eq!(results(&[2.0, 4.0, 2.0]).ratio(&results(&[1.0, 2.0, 1.0])), 2.0);
        assert!(results(&[]).ratio(&results(&[1.0])).is_nan());
    }
}
