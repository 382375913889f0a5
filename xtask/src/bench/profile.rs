//! Where the time of a step goes.

use crate::bench::Setting;
use crate::bench::contender::{Contender, Runner, Side};
use crate::bench::models::Network;
use crate::bench::tables::median;
use crate::chore::Failure;
use onnx_qat::exec::Measured;
use onnx_qat::kernels::matmul::{Matrix, MatrixMut, multiply};
use onnx_qat::kernels::parallel::for_each_chunk;
use onnx_qat::report::{Table, percent};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What this machine reaches at best, on the threads of the current pool.
#[derive(Clone, Copy, Debug)]
struct Peak {
    /// Operations per second of a large product.
    flops: f64,
    /// Bytes per second, read and written, of a copy that no cache holds.
    bytes: f64,
}

impl Peak {
    fn measure() -> Peak {
        const SIDE: usize = 768;
        const LEN: usize = 1 << 25;
        let (a, b) = (vec![1f32; SIDE * SIDE], vec![1f32; SIDE * SIDE]);
        let mut c = vec![0f32; SIDE * SIDE];
        let product = fastest(|| {
            let (a, b) = (Matrix::new(&a, SIDE, SIDE), Matrix::new(&b, SIDE, SIDE));
            multiply(1.0, a, b, 0.0, MatrixMut::new(&mut c, SIDE, SIDE));
        });
        let (from, mut to) = (vec![1f32; LEN], vec![0f32; LEN]);
        let copy = fastest(|| {
            const CHUNK: usize = 1 << 16;
            for_each_chunk(&mut to, CHUNK, |i, chunk| {
                chunk.copy_from_slice(&from[i * CHUNK..][..chunk.len()]);
            });
        });
        Peak { flops: 2.0 * (SIDE * SIDE * SIDE) as f64 / product, bytes: 8.0 * LEN as f64 / copy }
    }

    /// The share of `seconds` that would do: of the arithmetic or of the traffic, whichever takes longer.
    fn share(self, flops: f64, bytes: f64, seconds: f64) -> f64 {
        (flops / self.flops).max(bytes / self.bytes) / seconds
    }
}

/// The shortest of several runs, in seconds.
fn fastest(mut work: impl FnMut()) -> f64 {
    let once = |_| {
        let start = Instant::now();
        work();
        start.elapsed().as_secs_f64()
    };
    (0..8).map(once).fold(f64::INFINITY, f64::min)
}

/// What several steps took together.
#[derive(Clone, Copy, Debug, Default)]
struct Total {
    count: usize,
    time: Duration,
    flops: u64,
    bytes: u64,
}

impl Total {
    fn add(&mut self, step: &Measured) {
        self.count += 1;
        self.time += step.time;
        self.flops += step.flops;
        self.bytes += step.bytes;
    }
}

/// Profiles `runs` steps and prints the slowest nodes and all operator types.
pub fn print(
    contender: Contender,
    network: Network,
    setting: Setting,
    runs: usize,
    top: usize,
) -> Result<(), Failure> {
    let Side::Own(form) = contender.side else {
        return Err(format!("{} is not one of ours", contender.name).into());
    };
    let mut runner = Runner::new(contender.task, form, network, setting, None)?;
    let peak = Peak::measure();
    (0..2).try_for_each(|_| runner.step())?;
    let mut profiles = Vec::new();
    for _ in 0..runs {
        runner.machine().start_profile();
        runner.step()?;
        profiles.extend(runner.machine().take_profile());
    }
    // The median of each step alone, so that what else the machine does falls out.
    let mut steps = profiles.first().map(|p| p.steps.clone()).unwrap_or_default();
    for (i, step) in steps.iter_mut().enumerate() {
        let times = profiles.iter().map(|p| p.steps[i].time.as_secs_f64());
        step.time = Duration::from_secs_f64(median(times));
    }

    let whole: Duration = steps.iter().map(|s| s.time).sum();
    let row = |name: String, total: &Total| -> Vec<String> {
        let seconds = total.time.as_secs_f64();
        let (flops, bytes) = (total.flops as f64, total.bytes as f64);
        vec![
            name,
            total.count.to_string(),
            format!("{:.2}", 1e3 * seconds),
            percent(seconds / whole.as_secs_f64()),
            if total.flops == 0 { "-".into() } else { format!("{:.1}", flops / seconds * 1e-9) },
            format!("{:.1}", bytes / seconds * 1e-9),
            percent(peak.share(flops, bytes, seconds)),
        ]
    };
    let head = |first| [first, "nodes", "ms", "of the step", "GFLOP/s", "GB/s", "of the peak"];

    let mut all = Total::default();
    let mut types: BTreeMap<&str, Total> = BTreeMap::new();
    for step in &steps {
        types.entry(&step.op).or_default().add(step);
        all.add(step);
    }
    let mut types: Vec<(String, Total)> =
        types.into_iter().map(|(op, total)| (op.to_string(), total)).collect();
    types.sort_by_key(|(_, total)| std::cmp::Reverse(total.time));
    steps.sort_by_key(|step| std::cmp::Reverse(step.time));

    println!(
        "{}, {}, batch {}, {}², threads: {}\n\
         peak: {:.1} GFLOP/s in a product of 768³, {:.1} GB/s in a copy; traffic that caches hold exceeds it, and so can \
         products of codes",
        network.title(),
        contender.name,
        setting.batch,
        setting.size,
        rayon::current_num_threads(),
        peak.flops * 1e-9,
        peak.bytes * 1e-9,
    );
    let mut table = Table::new(head("operator"));
    table.row(row("all".into(), &all));
    for (name, total) in types.iter().take(top) {
        table.row(row(name.clone(), total));
    }
    println!("\n{table}");
    let mut table = Table::new(head("node"));
    for step in steps.iter().take(top) {
        let mut one = Total::default();
        one.add(step);
        table.row(row(step.label.clone(), &one));
    }
    println!("{table}");
    Ok(())
}
