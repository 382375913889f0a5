//! `cargo xtask bench-input`: how fast do pictures come, and in how much memory?
//!
//! JPEG files, a random resized crop to 224x224, a flip and normalization: what training on ImageNet reads. Ours runs in this
//! process, PyTorch's DataLoader with torchvision in one of its own (`tests/interop/bench_input.py`); they take turns.

use crate::chore::{self, Failure, root};
use clap::Parser;
use onnx_qat::data::{Batches, Dataset, InputSpec, Last, Loader, Order, Preprocess, Role, Source, View};
use onnx_qat::report::Table;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::time::Instant;

/// Measures images per second: read, decoded, cut, flipped, normalized, in batches; ours and those of PyTorch.
#[derive(Parser)]
#[command(name = "cargo xtask bench-input")]
struct Args {
    /// A folder of pictures, one sub-folder per class; drawn by default.
    #[arg(long, value_name = "FOLDER")]
    images: Option<PathBuf>,
    /// Threads of ours, worker processes of PyTorch's.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: u16,
    /// Images in a batch.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,
    /// How often each goes through all images.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Ours alone.
    #[arg(long)]
    alone: bool,
    /// Instead, read this many images and print the resident memory along the way.
    #[arg(long, value_name = "IMAGES")]
    memory: Option<usize>,
    /// The interpreter with torch and torchvision (tests/interop/bench_setup.sh makes it); it also draws the pictures.
    #[arg(long, default_value = "target/bench-venv/bin/python", value_name = "FILE")]
    python: PathBuf,
}

/// Runs the command with these arguments.
pub fn run(args: &[OsString]) -> ExitCode {
    chore::run(args, |args: Args| measure(&args).map(|()| ExitCode::SUCCESS))
}

fn measure(args: &Args) -> Result<(), Failure> {
    let script = root().join("tests/interop/bench_input.py");
    let images = match &args.images {
        Some(folder) => folder.clone(),
        None => {
            let folder = root().join("target/bench/pictures");
            if !folder.is_dir() {
                let made = Command::new(&args.python).arg(&script).arg("--make").arg(&folder).status();
                if !made.map_err(|e| cannot_start(&args.python, &e))?.success() {
                    return Err("the pictures could not be drawn".into());
                }
            }
            folder
        }
    };
    let input = InputSpec::float("image", &[None, Some(3), Some(224), Some(224)]);
    let source = Source::parse(&images.display().to_string(), Role::Train)?;
    let data = source.open(&[input], &Preprocess::preset("imagenet")?)?.with_workers(args.workers.into());
    if let Some(wanted) = args.memory {
        return memory(&data, args.batch.into(), wanted);
    }
    let mut peer = match args.alone {
        true => None,
        false => Some(Peer::start(&args.python, &script, &images, args)?),
    };
    epoch(&data, args.batch.into(), 0)?;
    let mut table = Table::new(["round", "ours, images/s", "PyTorch, images/s", "ratio"]);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 1..=args.rounds {
        let start = Instant::now();
        let count = epoch(&data, args.batch.into(), round.into())?;
        ours.push(count as f64 / start.elapsed().as_secs_f64());
        if let Some(peer) = &mut peer {
            theirs.push(peer.epoch()?);
        }
        table.row(row(&round.to_string(), ours.last(), theirs.last()));
    }
    table.row(row(
        "median",
        Some(&median(&mut ours)),
        (!theirs.is_empty()).then(|| median(&mut theirs)).as_ref(),
    ));
    println!("{} images, batches of {}, {} workers", data.len(), args.batch, args.workers);
    if let Some(peer) = &peer {
        println!("PyTorch: {}", peer.version);
    }
    println!("{table}");
    Ok(())
}

fn row(name: &str, ours: Option<&f64>, theirs: Option<&f64>) -> [String; 4] {
    let text = |x: Option<&f64>| x.map_or("-".to_string(), |x| format!("{x:.0}"));
    let ratio = ours.zip(theirs).map_or("-".to_string(), |(a, b)| format!("{:.2}", a / b));
    [name.to_string(), text(ours), text(theirs), ratio]
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Goes once through all images as training does; how many there were.
fn epoch(data: &Dataset, batch: usize, epoch: u64) -> Result<usize, Failure> {
    let batches = Batches::new(data.len(), batch, Order::Shuffled { seed: 1, epoch }, Last::Keep)?;
    let mut count = 0;
    for loaded in Loader::new(data, batches, View::Augmented { seed: 1, epoch }) {
        count += loaded?.samples.len();
    }
    Ok(count)
}

/// Prints the memory after every thousand images: now, and the most so far.
fn memory(data: &Dataset, batch: usize, wanted: usize) -> Result<(), Failure> {
    let (mut count, mut next, start) = (0, 1000, Instant::now());
    for epoch in 0.. {
        let batches = Batches::new(data.len(), batch, Order::Shuffled { seed: 1, epoch }, Last::Keep)?;
        for loaded in Loader::new(data, batches, View::Augmented { seed: 1, epoch }) {
            count += loaded?.samples.len();
            if count >= next {
                let mebibytes = |key| {
                    let size = chore::memory("self/status", key);
                    size.map(|size| size >> 20).ok_or("/proc/self/status tells no memory")
                };
                let (now, most) = (mebibytes("VmRSS")?, mebibytes("VmHWM")?);
                let seconds = start.elapsed().as_secs_f64();
                println!("{count} images: {now} MiB resident, at most {most} MiB so far, {seconds:.0} s");
                next += 1000;
            }
            if count >= wanted {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn cannot_start(python: &Path, e: &std::io::Error) -> String {
    chore::cannot_start(python, e, "bench_setup.sh")
}

/// PyTorch's side: `run` on a line makes it go through all images once and answer with their number and the seconds.
struct Peer {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    version: String,
}

impl Peer {
    fn start(python: &Path, script: &Path, images: &Path, args: &Args) -> Result<Peer, Failure> {
        let mut child = Command::new(python)
            .arg(script)
            .arg(images)
            .args(["--workers", &args.workers.to_string(), "--batch", &args.batch.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| cannot_start(python, &e))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("PyTorch's process has no pipes".into());
        };
        let mut peer = Peer { child, input, output: BufReader::new(output), version: String::new() };
        let ready = peer.line()?;
        peer.version = ready.strip_prefix("ready ").ok_or_else(|| format!("PyTorch: {ready}"))?.to_string();
        Ok(peer)
    }

    fn line(&mut self) -> Result<String, Failure> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        match line.trim() {
            "" => Err("PyTorch's process ended".into()),
            line => Ok(line.to_string()),
        }
    }

    /// Images per second.
    fn epoch(&mut self) -> Result<f64, Failure> {
        writeln!(self.input, "run")?;
        let line = self.line()?;
        let (images, seconds) = line.split_once(' ').ok_or_else(|| format!("PyTorch: {line}"))?;
        Ok(images.parse::<f64>()? / seconds.parse::<f64>()?)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = writeln!(self.input, "quit");
        let _ = self.child.wait();
    }
}
