//! Prints the speed of convolutions of 8-bit codes, shapes of MobileNetV3-Large and ResNet-18, on one thread.
//!
//! `cargo run --release -p onnx-qat-kernels --example integer_speed [batch]`. Columns: time and speed (a multiplication
//! and an addition are two operations) of each form of the kernel that this CPU has.

use onnx_qat_kernels::conv::{Axis, Conv, Rounding, Window};
use onnx_qat_kernels::integer::{self, Form};
use std::time::{Duration, Instant};

/// Input size, input channels, output channels, groups, kernel, stride.
const SHAPES: [(&str, [usize; 6]); 19] = [
    ("mobilenet stem", [224, 3, 16, 1, 3, 2]),
    ("mobilenet depthwise", [112, 16, 16, 16, 3, 1]),
    ("mobilenet pointwise", [112, 16, 64, 1, 1, 1]),
    ("mobilenet depthwise", [56, 72, 72, 72, 5, 2]),
    ("mobilenet pointwise", [28, 72, 40, 1, 1, 1]),
    ("mobilenet depthwise", [28, 120, 120, 120, 5, 1]),
    ("mobilenet pointwise", [14, 80, 480, 1, 1, 1]),
    ("mobilenet depthwise", [14, 672, 672, 672, 3, 1]),
    ("mobilenet pointwise", [14, 672, 112, 1, 1, 1]),
    ("mobilenet depthwise", [7, 960, 960, 960, 5, 1]),
    ("mobilenet pointwise", [7, 160, 960, 1, 1, 1]),
    ("mobilenet pointwise", [7, 960, 160, 1, 1, 1]),
    ("mobilenet head", [1, 960, 1280, 1, 1, 1]),
    ("resnet stem", [224, 3, 64, 1, 7, 2]),
    ("resnet", [56, 64, 64, 1, 3, 1]),
    ("resnet", [28, 128, 128, 1, 3, 1]),
    ("resnet", [14, 256, 256, 1, 3, 1]),
    ("resnet shortcut", [14, 256, 512, 1, 1, 2]),
    ("resnet", [7, 512, 512, 1, 3, 1]),
];

/// The best time of many runs.
fn time(mut f: impl FnMut()) -> Duration {
    f();
    let start = Instant::now();
    let mut best = Duration::MAX;
    while start.elapsed() < Duration::from_millis(200) {
        let start = Instant::now();
        f();
        best = best.min(start.elapsed());
    }
    best
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let batch = std::env::args().nth(1).map_or(Ok(8), |batch| batch.parse())?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
    pool.install(|| SHAPES.iter().try_for_each(|(name, shape)| measure(name, batch, *shape)))?;
    Ok(())
}

fn measure(
    name: &str,
    batch: usize,
    [size, inputs, outputs, groups, kernel, stride]: [usize; 6],
) -> Result<(), String> {
    let pad = kernel / 2;
    let axis = Axis::new(size, kernel, stride, 1, pad, pad, Rounding::Floor)?;
    let geometry = Conv::new(batch, inputs, outputs, groups, Window { height: axis, width: axis })?;
    let x: Vec<u8> = (0..geometry.input_len()).map(|i| (i % 251) as u8).collect();
    let w: Vec<i8> = (0..geometry.weight_len()).map(|i| (i % 255) as u8 as i8).collect();
    let mut y = vec![0; geometry.output_len()];
    let operations = 2.0 * y.len() as f64 * (w.len() / outputs) as f64;
    print!("{name:20} {size:3}² {inputs:4} -> {outputs:4}, {kernel}x{kernel}/{stride}");
    for form in Form::ALL.into_iter().filter(|form| form.available()) {
        let conv = integer::Conv::with_form(form, geometry, &w, 10, None);
        let (scale, mut workspace) = (vec![1e-3; outputs], vec![0; conv.workspace()]);
        let time = time(|| conv.codes(&x, &scale, 20, &mut y, &mut workspace)).as_secs_f64();
        print!("  | {form:?} {:8.3} ms {:6.1} GOP/s", time * 1e3, operations / time * 1e-9);
    }
    println!();
    Ok(())
}
