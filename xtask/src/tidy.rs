//! Checks that the compiler does not make: which crate may depend on which, the form of texts, sizes of files.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Crate and the crates of this project that it may use. The order is that of the layers.
const EDGES: &[(&str, &[&str])] = &[
    ("tensor", &[]),
    ("kernels", &["tensor"]),
    ("observe", &["kernels", "tensor"]),
    ("ir", &["tensor"]),
    ("ops", &["ir", "kernels", "observe", "tensor"]),
    ("onnx", &["ir", "tensor"]),
    ("exec", &["ir", "kernels", "tensor"]),
    ("passes", &["ir", "kernels", "observe", "ops", "tensor"]),
    ("data", &["kernels", "onnx", "tensor"]),
    ("train", &["data", "exec", "ir", "observe", "ops", "passes", "tensor"]),
    ("report", &["tensor"]),
];

/// Crates that may use any library crate.
const TOPS: &[&str] = &["onnx-qat", "cli", "conformance", "golden"];

/// Largest file to keep in the repository.
const LARGEST: u64 = 2_000_000;

/// Macros that mark unfinished code.
const UNFINISHED: [&str; 2] = ["todo", "unimplemented"];

pub fn run() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut problems = edges(&root);
    problems.extend(files(&root));
    for p in &problems {
        eprintln!("tidy: {p}");
    }
    if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The `[dependencies]` of each crate against the table.
fn edges(root: &Path) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, allowed) in EDGES {
        let path = root.join("crates").join(name).join("Cargo.toml");
        let Ok(text) = std::fs::read_to_string(&path) else {
            problems.push(format!("{} cannot be read", path.display()));
            continue;
        };
        let section =
            text.split("[dependencies]").nth(1).unwrap_or_default().split("\n[").next().unwrap_or_default();
        for line in section.lines() {
            let used = line.split(['.', ' ', '=']).next().unwrap_or_default();
            let ours = EDGES.iter().any(|(n, _)| *n == used) || TOPS.contains(&used);
            if ours && !allowed.contains(&used) {
                problems.push(format!("crates/{name} must not depend on {used}: see ARCHITECTURE.md"));
            }
        }
    }
    problems
}

/// Tracked files: size, trailing blanks, the newline at the end.
fn files(root: &Path) -> Vec<String> {
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(root).output();
    let Ok(listed) = listed else { return vec!["git ls-files cannot be run".into()] };
    let names = String::from_utf8_lossy(&listed.stdout).into_owned();
    let mut problems = Vec::new();
    for name in names.split('\0').filter(|n| !n.is_empty()) {
        let path: PathBuf = root.join(name);
        let Ok(meta) = std::fs::metadata(&path) else { continue };
        if meta.len() > LARGEST {
            problems.push(format!("{name} has {} bytes, more than {LARGEST}", meta.len()));
        }
        if !name.ends_with(".rs") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        if !text.is_empty() && !text.ends_with('\n') {
            problems.push(format!("{name} does not end with a newline"));
        }
        if let Some(n) = text.lines().position(|l| l.ends_with([' ', '\t'])) {
            problems.push(format!("{name}:{} ends with blanks", n + 1));
        }
        if let Some(n) =
            text.lines().position(|l| UNFINISHED.iter().any(|mark| l.contains(&format!("{mark}!("))))
        {
            // This line is the check itself.
            if !name.ends_with("tidy.rs") {
                problems.push(format!("{name}:{} is unfinished", n + 1));
            }
        }
    }
    problems
}
