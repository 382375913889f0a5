//! What the chores share: their arguments and exit codes, where the repository lies, what a process takes.

use clap::Parser;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What can go wrong here is told and nothing else.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Runs a chore with these arguments. Exit codes: what the chore says, 1 where it failed, 2 for wrong usage.
pub fn run<A: Parser>(args: &[OsString], chore: impl FnOnce(A) -> Result<ExitCode, Failure>) -> ExitCode {
    let name = OsString::from(A::command().get_name());
    match A::try_parse_from(std::iter::once(&name).chain(args)) {
        Ok(args) => chore(args).unwrap_or_else(|e| {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }),
        Err(e) => {
            let _ = e.print();
            ExitCode::from(u8::try_from(e.exit_code()).unwrap_or(2))
        }
    }
}

/// The repository.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Why an interpreter did not start, and which script makes it.
pub fn cannot_start(python: &Path, e: &std::io::Error, setup: &str) -> String {
    format!(
        "{} cannot be started: {e}; tests/interop/{setup} makes it, or name another with --python",
        python.display()
    )
}

/// A size in bytes that Linux tells in a file of `/proc`: `VmRSS` (resident now) and `VmHWM` (at most so far) in `self/status`,
/// `MemAvailable` in `meminfo`. `None` elsewhere.
pub fn memory(file: &str, key: &str) -> Option<u64> {
    let text = std::fs::read_to_string(Path::new("/proc").join(file)).ok()?;
    kibibytes(&text, key).map(|size| 1024 * size)
}

/// The number behind `key:` at the beginning of a line.
fn kibibytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_by_its_whole_key() {
        let status = "VmHWMs:\t1 kB\nVmHWM:\t  2048 kB\nVmRSS:\t 1024 kB\n";
        assert_eq!(kibibytes(status, "VmHWM"), Some(2048));
        assert_eq!(kibibytes(status, "VmRSS"), Some(1024));
        assert_eq!(kibibytes(status, "Vm"), None);
    }
}
