//! The commands of `onnx-qat`, and of `cargo xtask`, which is the same code.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage. Results go to the standard output, progress and errors to the standard
//! error.

mod analyze;
mod compare;
mod data_args;
mod evaluate;
mod inspect;
mod output;
mod predict;
mod quantize;
mod records;
mod run;
mod training_args;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use std::ffi::OsString;
use std::process::ExitCode;

/// Quantizes ONNX models for integer inference: quantization-aware training, static calibration, weight-only.
#[derive(Parser)]
#[command(version, arg_required_else_help = true, subcommand_required = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Quantize a float model to an int8 QDQ file.
    Quantize(Box<quantize::Args>),
    /// Quantize as a file says: the one that `quantize` writes next to its result gives the same bytes again.
    Run(run::Args),
    /// How activations are distributed, and what calibration methods make of them.
    Analyze(analyze::Args),
    /// Print a model as text: inputs, outputs, constants, operations, shapes.
    Inspect(inspect::Args),
    /// Top-1 and top-5 of a float or QDQ model on labelled data, in our own executor.
    Evaluate(evaluate::Args),
    /// What a float or QDQ model says about single samples.
    Predict(predict::Args),
    /// A float model beside its int8 model: accuracy, agreement, the loss of every layer.
    Compare(compare::Args),
}

/// Runs a command line, without the program's name, which is `program`.
pub fn run(program: &'static str, args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let all = std::iter::once(OsString::from(program)).chain(args);
    let command = Cli::command().name(program).bin_name(program);
    let parsed = command.try_get_matches_from(all).and_then(|m| Cli::from_arg_matches(&m));
    let result = match parsed {
        Ok(Cli { command: Command::Quantize(args) }) => quantize::run(&args),
        Ok(Cli { command: Command::Run(args) }) => run::run(&args),
        Ok(Cli { command: Command::Analyze(args) }) => analyze::run(&args),
        Ok(Cli { command: Command::Inspect(args) }) => inspect::run(&args),
        Ok(Cli { command: Command::Evaluate(args) }) => evaluate::run(&args),
        Ok(Cli { command: Command::Predict(args) }) => predict::run(&args),
        Ok(Cli { command: Command::Compare(args) }) => compare::run(&args),
        Err(e) => {
            // Help goes to the standard output with 0, mistakes to the standard error with 2.
            let code = e.exit_code();
            let _ = e.print();
            return ExitCode::from(u8::try_from(code).unwrap_or(2));
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(onnx_qat::Error::Usage(what)) => {
            eprintln!("error: {what}");
            ExitCode::from(2)
        }
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}
