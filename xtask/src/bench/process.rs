//! Contenders as processes: a line in, a line out.
//!
//! A contender sets up, makes two steps, and prints `ready PARAMETERS VERSION…` (`-` where it cannot know how many
//! parameters the network has). On `run K` it makes `K` steps and prints their times in milliseconds; on `quit` it prints
//! its peak resident memory and that before it built the network, both in KiB, and ends. What goes wrong is a line
//! `error …`.

use crate::bench::contender::{Contender, Runner, Side, Task};
use crate::bench::models::Network;
use crate::bench::{Bench, Setting};
use crate::chore::{Failure, memory};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

/// Steps before the first that counts: they allocate, fault pages in and tune.
const WARM_UP: usize = 2;

/// The side of the contender, for our own.
pub fn serve(
    contender: Contender,
    network: Network,
    setting: Setting,
    file: Option<&Path>,
) -> Result<(), Failure> {
    let Side::Own(form) = contender.side else {
        return Err(format!("{} is not one of ours", contender.name).into());
    };
    let before = status("VmRSS");
    let mut runner = Runner::new(contender.task, form, network, setting, file)?;
    (0..WARM_UP).try_for_each(|_| runner.step())?;
    println!("ready {} onnx-qat {}", runner.parameters, env!("CARGO_PKG_VERSION"));
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        match line.split_once(' ') {
            Some(("run", count)) => {
                let mut times = Vec::new();
                for _ in 0..count.trim().parse::<usize>()? {
                    let start = Instant::now();
                    runner.step()?;
                    times.push(format!("{:.4}", 1e3 * start.elapsed().as_secs_f64()));
                }
                println!("{}", times.join(" "));
            }
            _ => {
                println!("{} {before}", status("VmHWM"));
                break;
            }
        }
    }
    Ok(())
}

/// A size of this process in KiB; 0 where nobody tells it.
fn status(key: &str) -> u64 {
    memory("self/status", key).unwrap_or(0) / 1024
}

/// What the contenders of one comparison compute.
#[derive(Clone, Copy, Debug)]
pub struct Subject {
    pub network: Network,
    /// How many parameters our form of it has: a peer with another number computes something else.
    pub parameters: usize,
    pub threads: usize,
}

/// What a contender has shown.
#[derive(Clone, Debug, Default)]
pub struct Results {
    /// Milliseconds of each step, by round.
    pub rounds: Vec<Vec<f64>>,
    /// Largest resident memory of the process, in bytes: code, libraries and everything else.
    pub peak: u64,
    /// Resident memory before the network was built.
    pub before: u64,
    /// Program and version.
    pub version: String,
    /// Why there is nothing, or not all.
    pub failure: Option<String>,
}

impl Results {
    fn fail(&mut self, what: impl ToString) {
        self.failure = Some(what.to_string());
    }
}

/// A running contender.
struct Process {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Process {
    fn say(&mut self, line: &str) -> Result<String, String> {
        writeln!(self.stdin, "{line}").and_then(|()| self.stdin.flush()).map_err(|e| e.to_string())?;
        self.answer()
    }

    fn answer(&mut self) -> Result<String, String> {
        let mut line = String::new();
        self.stdout.read_line(&mut line).map_err(|e| e.to_string())?;
        match line.trim() {
            "" => Err("the process ended without an answer".into()),
            line => match line.strip_prefix("error ") {
                Some(what) => Err(what.to_string()),
                None => Ok(line.to_string()),
            },
        }
    }

    /// Its largest resident memory so far, in bytes.
    fn peak(&self) -> u64 {
        memory(&format!("{}/status", self.child.id()), "VmHWM").unwrap_or(0)
    }

    /// Ends it, and notes what memory it had.
    fn quit(mut self, results: &mut Results) {
        if let Ok(line) = self.say("quit") {
            let mut sizes = line.split_whitespace().filter_map(|n| n.parse::<u64>().ok());
            results.peak = results.peak.max(1024 * sizes.next().unwrap_or(0));
            results.before = 1024 * sizes.next().unwrap_or(0);
        }
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that has ended is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the contenders in turns, so that whatever else the machine does meets all of them. Results in their order.
pub fn compare(bench: &Bench, contenders: &[Contender], subject: Subject) -> Vec<Results> {
    let mut results = vec![Results::default(); contenders.len()];
    let mut running: Vec<Option<Process>> = contenders.iter().map(|_| None).collect();
    for round in 0..bench.rounds {
        for (i, contender) in contenders.iter().enumerate() {
            if results[i].failure.is_some() {
                continue;
            }
            if running[i].is_none() {
                make_room(&mut running, &mut results);
                eprintln!("round {}: {} starts", round + 1, contender.name);
                match start(bench, *contender, subject, &mut results[i]) {
                    Ok(process) => running[i] = Some(process),
                    Err(what) => results[i].fail(what),
                }
            }
            let Some(process) = &mut running[i] else { continue };
            let times = process.say(&format!("run {}", bench.steps)).and_then(|line| {
                let times = line.split_whitespace().map(str::parse).collect::<Result<Vec<f64>, _>>();
                times.map_err(|_| format!("answered {line:?} to run"))
            });
            match times {
                Ok(times) => results[i].rounds.push(times),
                Err(what) => results[i].fail(what),
            }
        }
    }
    for (process, results) in running.into_iter().zip(&mut results) {
        if let Some(process) = process {
            process.quit(results);
        }
    }
    results
}

/// Ends waiting contenders until there is memory for another as large as the largest: they start again when it is their
/// turn.
fn make_room(running: &mut [Option<Process>], results: &mut [Results]) {
    let peaks = running.iter().flatten().map(Process::peak).chain(results.iter().map(|r| r.peak));
    let wanted = peaks.max().unwrap_or(0).max(1 << 30) / 2 * 3;
    for (process, results) in running.iter_mut().zip(results) {
        if available() >= wanted {
            return;
        }
        if let Some(process) = process.take() {
            process.quit(results);
        }
    }
}

/// Memory that Linux can give without swapping.
fn available() -> u64 {
    memory("meminfo", "MemAvailable").unwrap_or(u64::MAX)
}

fn start(
    bench: &Bench,
    contender: Contender,
    subject: Subject,
    results: &mut Results,
) -> Result<Process, String> {
    let Subject { network, threads, parameters: expected } = subject;
    let (batch, size) = (bench.setting.batch.to_string(), bench.setting.size.to_string());
    let kind = if contender.quantized { "int8" } else { "float" };
    let file = bench.folder.join(format!("{}-{batch}x{size}.{kind}.onnx", network.name()));
    let threads = threads.to_string();
    let mut command = match contender.side {
        Side::Own(_) => {
            let mut command = Command::new(std::env::current_exe().map_err(|e| e.to_string())?);
            command.args(["bench", "--contender", contender.name, "--model", network.name()]);
            command.args(["--batch", &batch, "--size", &size, "--threads", &threads]);
            if contender.task == Task::Evaluation {
                command.arg("--file").arg(&file);
            }
            command
        }
        side => {
            let python = if side == Side::Paddle { &bench.python_paddle } else { &bench.python };
            let mut command = Command::new(python);
            command.arg(bench.script()).args([contender.name, network.name(), &batch, &size, &threads]);
            command.arg(&file);
            command
        }
    };
    let log = bench.folder.join(format!("{}.log", contender.name));
    let stderr = std::fs::File::create(&log).map_err(|e| format!("{}: {e}", log.display()))?;
    let mut child = command
        .env("OMP_NUM_THREADS", &threads)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(stderr)
        .spawn()
        .map_err(|e| format!("{}: {e}", command.get_program().display()))?;
    let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err("the process has no pipes".into());
    };
    let mut process = Process { child, stdin, stdout: BufReader::new(stdout) };
    let line = process.answer().map_err(|e| format!("{e} (see {})", log.display()))?;
    let mut words = line.splitn(3, ' ');
    let (Some("ready"), Some(parameters)) = (words.next(), words.next()) else {
        return Err(format!("said {line:?} instead of ready"));
    };
    if parameters != "-" && parameters != expected.to_string() {
        return Err(format!("its {} has {parameters} parameters, ours {expected}", network.title()));
    }
    results.version = words.next().unwrap_or_default().to_string();
    Ok(process)
}
