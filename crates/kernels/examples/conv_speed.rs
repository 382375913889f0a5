//! Prints the speed of convolutions of MobileNetV3-Large and ResNet-18, forward and both gradients, on one thread.
//!
//! `cargo run --release -p onnx-qat-kernels --example conv_speed [batch]`. Columns: time and GFLOP/s of each pass, and
//! the memory that the pass cannot avoid to move, in GB/s (input, weights and output, once each).

use onnx_qat_kernels::conv::{self, Axis, Conv, Rounding, Window};
use std::time::{Duration, Instant};

/// Input size, input channels, output channels, groups, kernel, stride.
const SHAPES: [(&str, [usize; 6]); 27] = [
    ("mobilenet stem", [224, 3, 16, 1, 3, 2]),
    ("mobilenet depthwise", [112, 16, 16, 16, 3, 1]),
    ("mobilenet pointwise", [112, 16, 64, 1, 1, 1]),
    ("mobilenet depthwise", [112, 64, 64, 64, 3, 2]),
    ("mobilenet pointwise", [56, 64, 24, 1, 1, 1]),
    ("mobilenet pointwise", [56, 24, 72, 1, 1, 1]),
    ("mobilenet depthwise", [56, 72, 72, 72, 5, 2]),
    ("mobilenet pointwise", [28, 72, 40, 1, 1, 1]),
    ("mobilenet depthwise", [28, 120, 120, 120, 5, 1]),
    ("mobilenet squeeze", [1, 120, 32, 1, 1, 1]),
    ("mobilenet depthwise", [28, 240, 240, 240, 3, 2]),
    ("mobilenet pointwise", [14, 80, 480, 1, 1, 1]),
    ("mobilenet depthwise", [14, 672, 672, 672, 3, 1]),
    ("mobilenet pointwise", [14, 672, 112, 1, 1, 1]),
    ("mobilenet depthwise", [14, 672, 672, 672, 5, 2]),
    ("mobilenet depthwise", [7, 960, 960, 960, 5, 1]),
    ("mobilenet pointwise", [7, 160, 960, 1, 1, 1]),
    ("mobilenet pointwise", [7, 960, 160, 1, 1, 1]),
    ("mobilenet head", [1, 960, 1280, 1, 1, 1]),
    ("resnet stem", [224, 3, 64, 1, 7, 2]),
    ("resnet", [56, 64, 64, 1, 3, 1]),
    ("resnet", [56, 64, 128, 1, 3, 2]),
    ("resnet", [28, 128, 128, 1, 3, 1]),
    ("resnet", [28, 128, 256, 1, 3, 2]),
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
    let conv = Conv::new(batch, inputs, outputs, groups, Window { height: axis, width: axis })?;
    let values = |len: usize| -> Vec<f32> { (0..len).map(|i| (i % 13) as f32 * 0.1 - 0.6).collect() };
    let (x, w, dy) = (values(conv.input_len()), values(conv.weight_len()), values(conv.output_len()));
    let (mut y, mut dx, mut dw) = (vec![0.0; dy.len()], vec![0.0; x.len()], vec![0.0; w.len()]);
    let longest = conv::forward_workspace(&conv)
        .max(conv::input_grad_workspace(&conv))
        .max(conv::weight_grad_workspace(&conv));
    let mut workspace = vec![0.0; longest];
    let times = [
        time(|| conv::forward(&conv, &x, &w, None, &mut y, &mut workspace)),
        time(|| conv::input_grad(&conv, &dy, &w, &mut dx, &mut workspace)),
        time(|| conv::weight_grad(&conv, &x, &dy, &mut dw, &mut workspace)),
    ];
    let flops = 2.0 * dy.len() as f64 * (w.len() / outputs) as f64;
    let bytes = 4.0 * (x.len() + w.len() + dy.len()) as f64;
    print!("{name:20} {size:3}² {inputs:4} -> {outputs:4}, {kernel}x{kernel}/{stride}");
    for time in times.map(|time| time.as_secs_f64()) {
        print!("  |{:8.3} ms {:6.1} GF/s {:5.1} GB/s", time * 1e3, flops / time * 1e-9, bytes / time * 1e-9);
    }
    println!("  | {:.1} MiB workspace", longest as f64 * 4.0 / f64::from(1 << 20));
    Ok(())
}
