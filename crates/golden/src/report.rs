//! What became of the cases, as a table.

use std::fmt;

/// What became of one case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All recorded outputs are met; or Paddle raises, and the operator is refused here too.
    Passed,
    /// Something else is computed on purpose, for this reason.
    Deviates(String),
    /// An output is not met, cannot be computed, or the case makes no sense.
    Failed(String),
    /// Counted only, for this reason.
    NotRun(String),
}

/// One case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaseReport {
    /// The name of the case in its file.
    pub id: String,
    /// The operator.
    pub op: String,
    /// What became of it.
    pub verdict: Verdict,
}

/// One file of cases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileReport {
    /// The name of the file in the folder's index.
    pub name: String,
    /// The cases in the order of the file.
    pub cases: Vec<CaseReport>,
}

impl FileReport {
    fn counts(&self) -> [usize; 5] {
        let mut counts = [self.cases.len(), 0, 0, 0, 0];
        for case in &self.cases {
            counts[match case.verdict {
                Verdict::Passed => 1,
                Verdict::Deviates(_) => 2,
                Verdict::Failed(_) => 3,
                Verdict::NotRun(_) => 4,
            }] += 1;
        }
        counts
    }
}

/// All files of a folder. Prints as a table, with every deviation and failure below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The files in the order of the index.
    pub files: Vec<FileReport>,
}

impl Report {
    /// `[cases, passed, deviating, failed, not run]` of all files.
    fn counts(&self) -> [usize; 5] {
        let add = |a: [usize; 5], b: [usize; 5]| std::array::from_fn(|i| a[i] + b[i]);
        self.files.iter().map(FileReport::counts).fold([0; 5], add)
    }

    /// Number of cases that passed.
    pub fn passed(&self) -> usize {
        self.counts()[1]
    }

    /// Number of cases that deviate on purpose.
    pub fn deviating(&self) -> usize {
        self.counts()[2]
    }

    /// Number of cases that failed.
    pub fn failed(&self) -> usize {
        self.counts()[3]
    }

    /// Number of cases that were only counted.
    pub fn not_run(&self) -> usize {
        self.counts()[4]
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.files.iter().map(|file| file.name.len()).max().unwrap_or(0).max("total".len());
        writeln!(f, "{:width$}     cases    passed deviating    failed   not run", "file")?;
        let files = self.files.iter().map(|file| (file.name.as_str(), file.counts()));
        for (name, counts) in files.chain([("total", self.counts())]) {
            write!(f, "{name:width$}")?;
            counts.iter().try_for_each(|n| write!(f, " {n:>9}"))?;
            writeln!(f)?;
        }
        for file in &self.files {
            for case in &file.cases {
                match &case.verdict {
                    Verdict::Deviates(why) => writeln!(f, "deviates: {}: {why}", case.id)?,
                    Verdict::Failed(why) => writeln!(f, "failed: {}: {why}", case.id)?,
                    Verdict::Passed | Verdict::NotRun(_) => {}
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_as_a_table() {
        let case = |id: &str, verdict| CaseReport { id: id.into(), op: "op".into(), verdict };
        let report = Report {
            files: vec![
                FileReport {
                    name: "ops".into(),
                    cases: vec![
                        case("a", Verdict::Passed),
                        case("b", Verdict::Failed("`out` is not computed".into())),
                        case("c", Verdict::Deviates("saturates".into())),
                    ],
                },
                FileReport {
                    name: "dygraph".into(),
                    cases: vec![case("d", Verdict::NotRun("later".into()))],
                },
            ],
        };
        let expected = "\
file        cases    passed deviating    failed   not run
ops             3         1         1         1         0
dygraph         1         0         0         0         1
total           4         1         1         1         1
failed: b: `out` is not computed
deviates: c: saturates
";
        assert_eq!(report.to_string(), expected);
        assert_eq!((report.passed(), report.deviating(), report.failed(), report.not_run()), (1, 1, 1, 1));
    }
}
