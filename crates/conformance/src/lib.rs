//! Runs test cases in the form of ONNX: a model, operands, and the results that they should have.
//!
//! A case is a folder with `model.onnx` and folders `test_data_set_*` of `input_*.pb` and `output_*.pb`, as the `onnx`
//! package exports them; many cases also come in one zip archive. Each is compiled and run by the executor. Where a
//! shape depends on operands (the axes of a reduction, the number of elements that are not zero), which no program for
//! fixed shapes can know, the operands become constants and the operations are evaluated one by one.

mod archive;
mod case;
mod compare;
mod report;

pub use archive::read_archive;
pub use case::{Case, DataSet};
pub use compare::difference;
pub use report::{CaseReport, Report, Verdict};

use std::path::{Path, PathBuf};

/// Why cases cannot be read.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error("{} cannot be read: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{} is no archive of cases: {what}", path.display())]
    Archive { path: PathBuf, what: String },
    #[error("{} has no cases: no folder in it contains a model.onnx", path.display())]
    None { path: PathBuf },
}

/// Runs every case in `path`: a folder of cases, at any depth, or a zip archive of them. In order of name.
///
/// # Errors
/// When the folder or the archive cannot be read or holds no case. What is wrong with a single case is part of the
/// report.
pub fn run(path: impl AsRef<Path>) -> Result<Report, Error> {
    let path = path.as_ref();
    let cases = if path.is_dir() { case::read_folder(path)? } else { read_archive(path)? };
    if cases.is_empty() {
        return Err(Error::None { path: path.to_path_buf() });
    }
    Ok(Report::new(cases.iter().map(|case| apart(case.run())).collect()))
}

/// Cases that are refused on purpose, and why.
const APART: [(&[&str], &str); 1] = [(
    &["test_not_2d", "test_not_3d", "test_not_4d"],
    "the model is of opset 1; those of opset 7 and later are read",
)];

/// A case that failed, as one that is not supported where that is on purpose.
fn apart(mut case: CaseReport) -> CaseReport {
    let reason = APART.iter().find(|(names, _)| names.contains(&case.name.as_str()));
    if let (Verdict::Failed(_), Some((_, why))) = (&case.verdict, reason) {
        case.verdict = Verdict::NotSupported(why.to_string());
    }
    case
}
