//! Runs recorded vectors of the reference implementation, Paddle and PaddleSlim, through this project's kernels and passes.
//!
//! A folder of vectors holds `index.json`, which lists the files, and for each file `<name>.index.json`, which describes
//! its cases, and `<name>.npz`, which holds their arrays. A case names an operator, attributes, input arrays, output
//! arrays and a tolerance; one of `e2e` is a training run, with the programs in `<name>.graphs.json`. What a case asks for
//! is computed from these alone: any folder of the same format runs, with other shapes, attributes and values.
//!
//! ```no_run
//! let report = onnx_qat_golden::run_folder("fixtures/golden")?;
//! println!("{report}");
//! assert_eq!(report.failed(), 0);
//! # Ok::<(), onnx_qat_golden::Error>(())
//! ```

mod case;
mod compare;
mod e2e;
mod freeze;
mod operators;
mod pact;
mod program;
mod report;
mod sequences;

pub use report::{CaseReport, FileReport, Report, Verdict};

use case::{Case, Fault, Inputs, Outputs};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tensor::Tensor;

/// Why a folder of vectors cannot be run at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// An index is not what the format asks for.
    #[error("{} is not a valid index: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and what.
        source: serde_json::Error,
    },
    /// The arrays of a file cannot be read.
    #[error(transparent)]
    Arrays(#[from] data::Error),
}

/// `index.json`; other keys are for readers.
#[derive(Deserialize)]
struct Index {
    files: Vec<FileEntry>,
}

#[derive(Deserialize)]
struct FileEntry {
    name: String,
    arrays: String,
    index: String,
    case_count: Option<usize>,
    /// Recorded programs, by variant and stage.
    graphs: Option<String>,
}

/// `<name>.index.json`. Cases stay JSON here, so that a case that makes no sense fails alone.
#[derive(Deserialize)]
struct FileIndex {
    cases: Vec<serde_json::Value>,
}

/// Computes the outputs of a case.
type Run = fn(&Inputs<'_>) -> Result<Outputs, Fault>;

/// Operator of a case, and what computes it.
const OPERATORS: &[(&str, Run)] = &[
    ("bias_correction[channel_wise]", freeze::bias_correction),
    ("bias_correction[per_tensor]", freeze::bias_correction),
    ("conv_bn_fold", freeze::conv_bn_fold),
    ("dequantize_linear[int8 weight]", operators::dequantize_linear),
    ("fake_channel_wise_dequantize_max_abs[one_scale]", operators::dequantize_one_scale),
    ("fake_channel_wise_dequantize_max_abs[two_scales]", operators::dequantize_two_scales),
    ("fake_channel_wise_quantize_abs_max", operators::channel_wise_quantize),
    ("fake_channel_wise_quantize_dequantize_abs_max", operators::channel_wise_quantize_dequantize),
    ("fake_dequantize_max_abs", operators::dequantize_max_abs),
    ("fake_quantize_abs_max", operators::quantize),
    ("fake_quantize_dequantize_abs_max", operators::quantize_dequantize),
    ("fake_quantize_dequantize_moving_average_abs_max", sequences::quantize_dequantize),
    ("fake_quantize_dequantize_moving_average_abs_max[is_test]", operators::quantize_dequantize_stored),
    ("fake_quantize_moving_average_abs_max", sequences::quantize),
    ("fake_quantize_moving_average_abs_max[is_test]", operators::quantize_stored),
    ("fake_quantize_range_abs_max", sequences::range_abs_max),
    ("moving_average_abs_max_scale", sequences::observe),
    ("pact[demo]", pact::demo),
    ("pact[layer]", pact::demo),
    ("pact[slim]", pact::slim),
    ("pact_threshold_update", pact::threshold_update),
    ("quant_post_dynamic", freeze::quant_post_dynamic),
    ("quantize_linear+dequantize_linear", operators::linear),
    ("quantize_linear+dequantize_linear[channel]", operators::linear),
    ("quantize_linear[train]", sequences::quantize_linear),
    ("special_values", operators::quantize_dequantize),
    ("weight_to_int[freeze_pass]", freeze::weight_freeze),
    ("weight_to_int[onnx_format]", freeze::weight_onnx),
    ("weight_to_int[per_tensor]", freeze::weight_freeze),
];

/// Files whose cases are counted but not run, and why.
const NOT_RUN: &[(&str, &str)] = &[
    ("calibration", "threshold searches are not implemented"),
    ("dygraph", "dygraph quantization is not implemented"),
    ("ptq_static", "static post-training quantization is not implemented"),
];

/// Runs every case of every file that `index.json` in `folder` lists.
///
/// # Errors
/// When an index or an archive cannot be read. What is wrong with a single case is part of the report.
pub fn run_folder(folder: impl AsRef<Path>) -> Result<Report, Error> {
    let folder = folder.as_ref();
    let index: Index = read_json(&folder.join("index.json"))?;
    let files = index.files.iter().map(|file| run_file(folder, file)).collect::<Result<_, _>>()?;
    Ok(Report { files })
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let text = std::fs::read(path).map_err(|source| Error::Io { path: path.to_path_buf(), source })?;
    serde_json::from_slice(&text).map_err(|source| Error::Json { path: path.to_path_buf(), source })
}

fn run_file(folder: &Path, file: &FileEntry) -> Result<FileReport, Error> {
    let index: FileIndex = read_json(&folder.join(&file.index))?;
    let not_run = NOT_RUN.iter().find(|(name, _)| *name == file.name);
    let arrays =
        if not_run.is_some() { BTreeMap::new() } else { data::npz::read(folder.join(&file.arrays))? };
    let programs = match &file.graphs {
        Some(graphs) if not_run.is_none() => read_json(&folder.join(graphs))?,
        _ => BTreeMap::new(),
    };
    let mut cases: Vec<CaseReport> = index
        .cases
        .into_iter()
        .enumerate()
        .map(|(at, value)| {
            let name = |key: &str| value.get(key).and_then(|v| v.as_str()).map(String::from);
            let id = name("id").unwrap_or_else(|| format!("case {at}"));
            let op = name("op").unwrap_or_default();
            let verdict = match not_run {
                Some((_, why)) => Verdict::NotRun((*why).into()),
                None if op == "e2e" => match e2e::run(value, &arrays, &programs) {
                    Ok(None) => Verdict::Passed,
                    Ok(Some(why)) => Verdict::Deviates(why),
                    Err(Fault::Malformed(why) | Fault::Refused(why)) => Verdict::Failed(why),
                },
                None => match serde_json::from_value(value) {
                    Ok(case) => run_case(&case, &arrays),
                    Err(e) => Verdict::Failed(format!("not a valid case: {e}")),
                },
            };
            CaseReport { id, op, verdict }
        })
        .collect();
    if let Some(expected) = file.case_count.filter(|&n| n != cases.len()) {
        let verdict =
            Verdict::Failed(format!("the index announces {expected} cases, {} are there", cases.len()));
        cases.push(CaseReport { id: file.index.clone(), op: String::new(), verdict });
    }
    Ok(FileReport { name: file.name.clone(), cases })
}

fn run_case(case: &Case, arrays: &BTreeMap<String, Tensor>) -> Verdict {
    let Some((_, run)) = OPERATORS.iter().find(|(op, _)| *op == case.op) else {
        return Verdict::Failed(format!("there is nothing that computes `{}`", case.op));
    };
    match (run(&Inputs::new(case, arrays)), &case.error) {
        (Err(Fault::Refused(_)), Some(_)) => Verdict::Passed,
        (Ok(_), Some(error)) => Verdict::Failed(format!("Paddle raises {error}, here it is computed")),
        (Err(Fault::Refused(why)), None) => Verdict::Failed(format!("refused: {why}")),
        (Err(Fault::Malformed(why)), _) => Verdict::Failed(why),
        (Ok(outputs), None) => match compare::outputs(case, arrays, &outputs) {
            Ok(()) => Verdict::Passed,
            Err(why) => Verdict::Failed(why),
        },
    }
}
