//! `cargo xtask conformance`: the operator tests of ONNX, run by our executor.

use crate::chore::{self, Failure};
use clap::Parser;
use conformance::Report;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Runs the operator tests of ONNX: prints a table of operators and the failures, and writes a page with both.
#[derive(Parser)]
#[command(name = "cargo xtask conformance")]
struct Args {
    /// Cases that are there already, a folder or a zip archive, instead of those of the onnx package.
    #[arg(long, value_name = "PATH")]
    cases: Option<PathBuf>,
    /// The page to write.
    #[arg(long, default_value = "docs/conformance.md", value_name = "FILE")]
    output: PathBuf,
    /// Also write the names of the cases that pass, one per line.
    #[arg(long, value_name = "FILE")]
    list: Option<PathBuf>,
    /// The interpreter with which an environment for the onnx package is made.
    #[arg(long, default_value = "python3", value_name = "FILE")]
    python: PathBuf,
}

/// Runs the command with these arguments.
pub fn run(args: &[OsString]) -> ExitCode {
    chore::run(args, |args: Args| match measure(&args)?.failures().next() {
        None => Ok(ExitCode::SUCCESS),
        Some(_) => Ok(ExitCode::FAILURE),
    })
}

fn measure(args: &Args) -> Result<Report, Failure> {
    let cases = match &args.cases {
        Some(path) => path.clone(),
        None => exported(&args.python)?,
    };
    let report = conformance::run(&cases)?;
    print!("{report}");
    let write = |path: &Path, text: String| onnx_qat::onnx::write_file(path, text.as_bytes());
    write(&args.output, report.markdown())?;
    if let Some(path) = &args.list {
        let names: String = report.passed().map(|name| format!("{name}\n")).collect();
        write(path, names)?;
    }
    Ok(report)
}

/// The cases of the onnx package, exported to a folder under `target` the first time.
fn exported(python: &Path) -> Result<PathBuf, Failure> {
    let folder = PathBuf::from("target/onnx-cases");
    if folder.join("complete").is_file() {
        return Ok(folder);
    }
    let start = |program: &Path, args: &[&str]| {
        let status = Command::new(program).args(args).status();
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(Failure::from(format!("{} {}: {status}", program.display(), args.join(" ")))),
            Err(e) => {
                let what =
                    format!("{} cannot be started: {e}; --cases PATH needs no Python", program.display());
                Err(what.into())
            }
        }
    };
    let environment = Path::new("target/conformance-venv");
    let interpreter = environment.join("bin/python");
    if !interpreter.is_file() {
        start(python, &["-m", "venv", "target/conformance-venv"])?;
        let requirements = "tests/interop/conformance_requirements.txt";
        start(&interpreter, &["-m", "pip", "install", "--quiet", "--requirement", requirements])?;
    }
    start(&interpreter, &["tests/interop/export_cases.py", "target/onnx-cases"])?;
    Ok(folder)
}
