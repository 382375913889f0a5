//! The `onnx-qat` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    onnx_qat_cli::run("onnx-qat", std::env::args_os().skip(1))
}
