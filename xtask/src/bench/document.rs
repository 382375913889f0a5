//! `docs/benchmarks.md`: the tables of one run, with what is needed to judge and to repeat it.

use crate::bench::Setting;
use crate::bench::tables::{Comparison, summary};
use crate::chore::{Failure, root};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::process::Command;

const READING: &str = "\
A step of training is forward, softmax cross-entropy, backward and momentum, with batch norms on the statistics of the
batch; a step of evaluation is forward alone. `ms/step` is the median of all steps, and a ratio the median over the
rounds of ratios within a round: all contenders of a table are processes that run in turns. Peak memory is the largest
resident set of the process, code and libraries included; `before` is what it had before the network was built.

- `float`, `qat`, `qat-pact`, `eval-float`, `eval-int8`: ours, with the defaults of `quantize`.
- `torch-*`: torchvision's networks, operation by operation; `qat` is FX graph mode with the default mapping of the engine
  x86; `compile` is `torch.compile` with its defaults. Comparisons are with the faster memory layout and without the
  compiler.
- `paddle-*`: static programs, PaddleSlim's `quant_aware` with the options of its demo.
- `ort-*`: ONNX Runtime on the files that we wrote, default options but for the number of threads.
";

/// Writes the file.
pub fn write(comparisons: &[Comparison], setting: Setting) -> Result<(), Failure> {
    let mut text = format!("# Benchmarks\n\nWritten by `{}`; not to be edited.\n\n", command());
    let versions: BTreeSet<&str> = comparisons.iter().flat_map(|c| &c.results).map(|r| &*r.version).collect();
    let versions: Vec<&str> = versions.into_iter().filter(|v| !v.is_empty()).collect();
    writeln!(text, "- {}, commit {}", output("date", &["-u", "+%Y-%m-%d"]), commit())?;
    writeln!(text, "- {}", machine())?;
    writeln!(text, "- {}\n\n{READING}", versions.join(", "))?;
    writeln!(text, "## Ratios\n\nBelow 1 is faster, or smaller.\n\n```\n{}```\n", summary(comparisons))?;
    writeln!(text, "## Times and memory")?;
    for comparison in comparisons {
        write!(text, "\n```\n{}```\n", comparison.table(setting))?;
    }
    let path = root().join("docs/benchmarks.md");
    std::fs::create_dir_all(root().join("docs"))?;
    std::fs::write(&path, text)?;
    eprintln!("written: docs/benchmarks.md");
    Ok(())
}

/// The command line, without the places of interpreters on this machine.
fn command() -> String {
    let mut words = vec!["cargo xtask bench".to_string()];
    let mut args = std::env::args().skip(2);
    while let Some(arg) = args.next() {
        match arg.starts_with("--python") {
            true if !arg.contains('=') => drop(args.next()),
            true => {}
            false => words.push(arg),
        }
    }
    words.join(" ")
}

/// What a program says, or `unknown`.
fn output(program: &str, args: &[&str]) -> String {
    let out = Command::new(program).args(args).current_dir(root()).output();
    let text = out.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_string()).unwrap_or_default();
    if text.is_empty() { "unknown".into() } else { text }
}

fn commit() -> String {
    let changed = output("git", &["status", "--porcelain", "--untracked-files=no", "--", "crates", "xtask"]);
    let id = output("git", &["rev-parse", "--short", "HEAD"]);
    if changed == "unknown" { id } else { format!("{id} and changes") }
}

/// Processor, cores, instruction sets.
fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|l| l.strip_prefix("model name")?.split_once(": "));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let model = model.map_or("processor unknown", |(_, name)| name);
    format!("{model}, {cores} cores, {}", instruction_sets())
}

#[cfg(target_arch = "x86_64")]
fn instruction_sets() -> String {
    use std::is_x86_feature_detected as has;
    let sets = [
        ("AVX2", has!("avx2")),
        ("FMA", has!("fma")),
        ("AVX-512", has!("avx512f")),
        ("AVX-VNNI", has!("avxvnni")),
        ("AVX-512 VNNI", has!("avx512vnni")),
    ];
    let of = |there: bool| sets.iter().filter(|s| s.1 == there).map(|s| s.0).collect::<Vec<_>>().join(", ");
    format!("has {}; has not {}", of(true), of(false))
}

#[cfg(not(target_arch = "x86_64"))]
fn instruction_sets() -> String {
    std::env::consts::ARCH.to_string()
}
