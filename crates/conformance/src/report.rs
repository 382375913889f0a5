//! What became of the cases, as a table.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

/// What became of one case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Compiled and run, with the expected results.
    Passed,
    /// The same, but some operations could not be bound to their shapes beforehand, which depend on the data.
    OneByOne,
    /// Other results, or none.
    Failed(String),
    /// It needs an operator or an element type that is not there.
    NotSupported(String),
}

/// One case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaseReport {
    /// Its name.
    pub name: String,
    /// The operator that it is about.
    pub op: String,
    /// What became of it.
    pub verdict: Verdict,
}

/// All cases, in order of name. Prints as a table of operators, with every failure below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The cases.
    pub cases: Vec<CaseReport>,
}

/// Passed, passed one by one, failed, not supported.
type Counts = [usize; 4];

impl Report {
    /// The report on cases. One that spells out another (`test_relu_expanded`) counts for the operator of that.
    pub fn new(mut cases: Vec<CaseReport>) -> Report {
        let ops: BTreeMap<String, String> = cases.iter().map(|c| (c.name.clone(), c.op.clone())).collect();
        for case in &mut cases {
            let whole = case.name.split("_expanded").next().and_then(|name| ops.get(name));
            if let Some(op) = whole {
                case.op.clone_from(op);
            }
        }
        Report { cases }
    }

    fn column(verdict: &Verdict) -> usize {
        match verdict {
            Verdict::Passed => 0,
            Verdict::OneByOne => 1,
            Verdict::Failed(_) => 2,
            Verdict::NotSupported(_) => 3,
        }
    }

    /// Cases by what became of them: passed, passed one by one, failed, not supported.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        self.cases.iter().for_each(|c| counts[Report::column(&c.verdict)] += 1);
        counts
    }

    fn by_operator(&self) -> BTreeMap<&str, Counts> {
        let mut table: BTreeMap<&str, Counts> = BTreeMap::new();
        for case in &self.cases {
            table.entry(&case.op).or_default()[Report::column(&case.verdict)] += 1;
        }
        table
    }

    /// The failed cases and why.
    pub fn failures(&self) -> impl Iterator<Item = (&str, &str)> {
        self.cases.iter().filter_map(|c| match &c.verdict {
            Verdict::Failed(why) => Some((c.name.as_str(), why.as_str())),
            _ => None,
        })
    }

    /// The names of the cases that pass, in either way.
    pub fn passed(&self) -> impl Iterator<Item = &str> {
        let passed = |c: &&CaseReport| matches!(c.verdict, Verdict::Passed | Verdict::OneByOne);
        self.cases.iter().filter(passed).map(|c| c.name.as_str())
    }

    /// The report as a page of Markdown: totals, the table of operators, and every case that does not pass.
    pub fn markdown(&self) -> String {
        let [passed, late, failed, missing] = self.counts();
        let mut s = String::new();
        let _ = writeln!(s, "# Conformance\n");
        let _ = writeln!(
            s,
            "The operator tests of the `onnx` package, run by `cargo xtask conformance`. Of {} cases {} pass, {failed} fail, \
             and {missing} need an operator or an element type that is not supported. In {late} of those that pass, operations \
             cannot be bound to their shapes beforehand, which depend on the data, and are bound one by one as they run \
             (*one by one*). A case that spells an operator out in others counts for that operator.\n",
            self.cases.len(),
            passed + late,
        );
        let _ = writeln!(s, "| operator | passed | one by one | failed | not supported |");
        let _ = writeln!(s, "|---|---|---|---|---|");
        for (op, counts) in self.by_operator() {
            let cell = |n: usize| if n == 0 { String::new() } else { n.to_string() };
            let cells: Vec<String> = counts.iter().map(|&n| cell(n)).collect();
            let _ = writeln!(s, "| {op} | {} |", cells.join(" | "));
        }
        let mut list = |title: &str, wanted: fn(&Verdict) -> Option<&str>| {
            let found: Vec<String> = self
                .cases
                .iter()
                .filter_map(|c| wanted(&c.verdict).map(|why| format!("- `{}`: {why}", c.name)))
                .collect();
            if !found.is_empty() {
                let _ = writeln!(s, "\n## {title}\n\n{}", found.join("\n"));
            }
        };
        list("Failed", |v| if let Verdict::Failed(why) = v { Some(why) } else { None });
        list("Not supported", |v| if let Verdict::NotSupported(why) = v { Some(why) } else { None });
        s
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:32} {:>7} {:>12} {:>7} {:>14}",
            "operator", "passed", "one by one", "failed", "not supported"
        )?;
        let row = |f: &mut fmt::Formatter<'_>, name: &str, [a, b, c, d]: Counts| {
            writeln!(f, "{name:32} {a:7} {b:12} {c:7} {d:14}")
        };
        for (op, counts) in self.by_operator() {
            row(f, op, counts)?;
        }
        row(f, "all", self.counts())?;
        for (name, why) in self.failures() {
            writeln!(f, "failed: {name}: {why}")?;
        }
        Ok(())
    }
}
