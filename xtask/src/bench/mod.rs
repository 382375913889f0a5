//! `cargo xtask bench`: how fast are our steps, and those of others?
//!
//! Each contender is a process of its own ([`process`]); all that compute the same task on one network run in turns.

mod contender;
mod document;
mod models;
mod process;
mod profile;
mod tables;

use crate::chore::{self, Failure, root};
use clap::Parser;
use contender::{CONTENDERS, Contender, Side, Task};
use models::Network;
use process::Subject;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

/// Measures steps of training and evaluation on well-known networks: ours, and those of other frameworks.
#[derive(Parser)]
#[command(name = "cargo xtask bench")]
struct Args {
    /// Networks; all by default.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "NAME,…")]
    model: Vec<Network>,
    /// Images per step.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,
    /// Height and width of the images.
    #[arg(long, default_value_t = 224, value_parser = clap::value_parser!(u16).range(32..))]
    size: u16,
    /// Numbers of threads, one comparison for each.
    #[arg(long, value_delimiter = ',', default_value = "1,2", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Vec<u16>,
    /// How often every contender has its turn.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Steps in a turn.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    steps: u16,
    /// Compare with other frameworks: all, or those named.
    #[arg(long, value_delimiter = ',', num_args = 0.., require_equals = true, value_name = "NAME,…",
          value_parser = peer)]
    peers: Option<Vec<Contender>>,
    /// Numbers of threads on which peers run, too; those of --threads by default.
    #[arg(long, value_delimiter = ',', value_name = "NUMBER,…")]
    peer_threads: Option<Vec<u16>>,
    /// These of our own steps only.
    #[arg(long, value_delimiter = ',', value_name = "NAME,…", value_parser = own)]
    own: Vec<Contender>,
    /// One step per turn, two turns, one thread.
    #[arg(long)]
    quick: bool,
    /// Write docs/benchmarks.md.
    #[arg(long)]
    write: bool,
    /// Profile one of our steps by operator instead, over as many steps as all rounds have.
    #[arg(long, num_args = 0..=1, default_missing_value = "qat-pact", value_name = "NAME", value_parser = own)]
    profile: Option<Contender>,
    /// How many rows the tables of the profile have.
    #[arg(long, default_value_t = 15)]
    top: usize,
    /// The interpreter with torch, torchvision and onnxruntime (tests/interop/bench_setup.sh makes both).
    #[arg(long, default_value = "target/bench-venv/bin/python", value_name = "FILE")]
    python: PathBuf,
    /// The interpreter with paddlepaddle and paddleslim.
    #[arg(long, default_value = "target/bench-paddle-venv/bin/python", value_name = "FILE")]
    python_paddle: PathBuf,
    /// Be this contender: see `process`.
    #[arg(long, hide = true, value_parser = own)]
    contender: Option<Contender>,
    /// Where the contender writes its network.
    #[arg(long, hide = true)]
    file: Option<PathBuf>,
}

/// Sizes of the input.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    pub batch: usize,
    pub size: usize,
}

/// Everything that is the same for all comparisons.
pub struct Bench {
    pub setting: Setting,
    pub rounds: usize,
    pub steps: usize,
    /// Where models and logs go.
    pub folder: PathBuf,
    pub python: PathBuf,
    pub python_paddle: PathBuf,
}

impl Bench {
    /// The program of the peers.
    pub fn script(&self) -> PathBuf {
        root().join("tests/interop/bench_peers.py")
    }
}

fn own(name: &str) -> Result<Contender, String> {
    named(name, false)
}

fn peer(name: &str) -> Result<Contender, String> {
    named(name, true)
}

fn named(name: &str, peer: bool) -> Result<Contender, String> {
    let mut among = CONTENDERS.into_iter().filter(|c| c.is_peer() == peer);
    let names: Vec<&str> = among.clone().map(|c| c.name).collect();
    among.find(|c| c.name == name).ok_or_else(|| format!("expected one of {}", names.join(", ")))
}

/// Runs the command with these arguments.
pub fn run(args: &[OsString]) -> ExitCode {
    chore::run(args, |args: Args| {
        let is_contender = args.contender.is_some();
        let done = measure(args);
        if let (true, Err(e)) = (is_contender, &done) {
            println!("error {e}");
        }
        done.map(|()| ExitCode::SUCCESS)
    })
}

fn measure(args: Args) -> Result<(), Failure> {
    let setting = Setting { batch: args.batch.into(), size: args.size.into() };
    let networks = if args.model.is_empty() { Network::ALL.to_vec() } else { args.model };
    let threads = args.threads;
    let peer_threads = args.peer_threads;
    if let Some(contender) = args.contender {
        let file = args.file.as_deref();
        return on_threads(threads[0].into(), || process::serve(contender, networks[0], setting, file));
    }
    let (rounds, steps) = if args.quick { (2, 1) } else { (args.rounds.into(), args.steps.into()) };
    if let Some(contender) = args.profile {
        let runs = rounds * steps;
        return networks.iter().try_for_each(|&network| {
            on_threads(threads[0].into(), || profile::print(contender, network, setting, runs, args.top))
        });
    }
    let folder = root().join("target/bench");
    std::fs::create_dir_all(&folder)?;
    let threads = if args.quick { vec![threads[0]] } else { threads };
    let bench =
        Bench { setting, rounds, steps, folder, python: args.python, python_paddle: args.python_paddle };
    let contenders: Vec<Contender> = CONTENDERS
        .into_iter()
        .filter(|c| match (&args.peers, c.is_peer()) {
            (_, false) => args.own.is_empty() || args.own.contains(c),
            (Some(peers), true) => peers.is_empty() || peers.contains(c),
            (None, true) => false,
        })
        .collect();

    let mut comparisons = Vec::new();
    for &network in &networks {
        let parameters = network.build(setting.batch, setting.size)?.1;
        for &threads in &threads {
            let subject = Subject { network, parameters, threads: threads.into() };
            for task in [Task::Training, Task::Evaluation] {
                let peers = peer_threads.as_ref().is_none_or(|on| on.contains(&threads));
                let here = |c: &Contender| c.task == task && (peers || !c.is_peer());
                let contenders: Vec<Contender> = contenders.iter().copied().filter(here).collect();
                if contenders.is_empty() {
                    continue;
                }
                let results = process::compare(&bench, &contenders, subject);
                let comparison = tables::Comparison { task, subject, contenders, results };
                println!("{}", comparison.table(setting));
                comparisons.push(comparison);
            }
        }
    }
    println!("{}", tables::summary(&comparisons));
    if args.write {
        document::write(&comparisons, setting)?;
    }
    let failed = comparisons.iter().flat_map(|c| c.contenders.iter().zip(&c.results));
    match failed.filter(|(c, r)| matches!(c.side, Side::Own(_)) && r.failure.is_some()).count() {
        0 => Ok(()),
        n => Err(format!("{n} of our own contenders failed").into()),
    }
}

/// Runs `work` on a pool of that many threads.
fn on_threads(threads: usize, work: impl FnOnce() -> Result<(), Failure> + Send) -> Result<(), Failure> {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build()?.install(work)
}
