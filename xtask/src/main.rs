//! `cargo xtask`: the commands of `onnx-qat`, and the chores of this repository.

mod bench;
mod bench_input;
mod chore;
mod conformance;
mod corpus;
mod scale;
mod tidy;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

const CHORES: &str = "\
Chores of this repository:
  bench            Measure training and evaluation steps, ours and of other frameworks; see --help
  bench-input      Measure reading, decoding and augmenting pictures, ours and PyTorch's; see --help
  conformance      Run the operator tests of ONNX and write docs/conformance.md; see --help
  corpus FOLDER    Try every model of a folder and write docs/corpus.md; see --help
  golden [FOLDER]  Run recorded vectors of PaddlePaddle (default fixtures/golden)
  scale            Measure how time and memory grow with the size of a model; see --help
  tidy             Check dependencies between crates, file sizes and texts
";

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    match args.first().and_then(|a| a.to_str()) {
        Some("bench") => bench::run(&args[1..]),
        Some("bench-input") => bench_input::run(&args[1..]),
        Some("conformance") => conformance::run(&args[1..]),
        Some("corpus") => corpus::run(&args[1..]),
        Some("golden") => golden(&args[1..]),
        Some("scale") => scale::run(&args[1..]),
        Some("tidy") => tidy::run(),
        first => {
            let help = matches!(first, None | Some("help" | "--help" | "-h"));
            let code = onnx_qat_cli::run("cargo xtask", args.clone());
            if help && args.len() < 2 {
                println!("\n{CHORES}");
            }
            code
        }
    }
}

/// Runs the cases of a folder of recorded vectors and prints passed, deviating and failed per file.
fn golden(args: &[OsString]) -> ExitCode {
    let folder = match args {
        [] => PathBuf::from("fixtures/golden"),
        [folder] if !folder.to_string_lossy().starts_with('-') => PathBuf::from(folder),
        _ => {
            eprintln!("usage: cargo xtask golden [FOLDER]");
            return ExitCode::from(2);
        }
    };
    match golden::run_folder(&folder) {
        Ok(report) => {
            print!("{report}");
            if report.failed() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}
