//! Prints the speed of convolutions of MobileNetV3-Large, ResNet-18, ResNet-50 and VGG-16, forward, forward with weights
//! packed before, and both gradients.
//!
//! `cargo run --release -p onnx-qat-kernels --example conv_speed [batch [threads [part of a name]]]`, by default with 8
//! images on one thread. Columns: time and GFLOP/s of each pass, and the memory that the pass cannot avoid to move, in
//! GB/s (input, weights and output, once each). The last line is the sum of all dense convolutions as a share of the peak
//! of multiply-adds of one core, measured in the same run, times the threads.

#![allow(unsafe_code)]

use onnx_qat_kernels::conv::{self, Axis, Conv, Finish, Rounding, Window};
use onnx_qat_kernels::simd::Isa;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Input size, input channels, output channels, groups, kernel, stride.
const SHAPES: [(&str, [usize; 6]); 53] = [
    ("mobilenet stem", [224, 3, 16, 1, 3, 2]),
    ("mobilenet pointwise", [112, 32, 16, 1, 1, 1]),
    ("mobilenet pointwise", [112, 16, 96, 1, 1, 1]),
    ("mobilenet pointwise", [56, 24, 144, 1, 1, 1]),
    ("mobilenet pointwise", [56, 144, 24, 1, 1, 1]),
    ("mobilenet pointwise", [28, 32, 192, 1, 1, 1]),
    ("mobilenet pointwise", [14, 96, 576, 1, 1, 1]),
    ("mobilenet pointwise", [14, 576, 96, 1, 1, 1]),
    ("mobilenet pointwise", [14, 112, 672, 1, 1, 1]),
    ("mobilenet pointwise", [7, 320, 1280, 1, 1, 1]),
    ("mobilenet depthwise", [112, 96, 96, 96, 3, 2]),
    ("mobilenet depthwise", [112, 32, 32, 32, 3, 1]),
    ("mobilenet depthwise", [56, 144, 144, 144, 3, 2]),
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
    ("resnet50", [56, 64, 64, 1, 1, 1]),
    ("resnet50", [56, 64, 256, 1, 1, 1]),
    ("resnet50", [56, 256, 64, 1, 1, 1]),
    ("resnet50", [56, 128, 128, 1, 3, 2]),
    ("resnet50", [28, 128, 512, 1, 1, 1]),
    ("resnet50", [28, 512, 128, 1, 1, 1]),
    ("resnet50", [28, 512, 1024, 1, 1, 2]),
    ("resnet50", [14, 1024, 256, 1, 1, 1]),
    ("resnet50", [14, 256, 1024, 1, 1, 1]),
    ("resnet50", [14, 512, 512, 1, 3, 2]),
    ("resnet50", [7, 512, 2048, 1, 1, 1]),
    ("resnet50", [7, 2048, 512, 1, 1, 1]),
    ("vgg", [224, 3, 64, 1, 3, 1]),
    ("vgg", [56, 256, 256, 1, 3, 1]),
];

/// The best time of many runs.
fn time(mut f: impl FnMut()) -> f64 {
    f();
    let (start, mut best, mut runs) = (Instant::now(), Duration::MAX, 0);
    while runs < 5 || start.elapsed() < Duration::from_millis(200) {
        let start = Instant::now();
        f();
        best = best.min(start.elapsed());
        runs += 1;
    }
    best.as_secs_f64()
}

/// GFLOP/s of multiply-adds on values in registers, with the vectors that the kernels use.
fn peak() -> f64 {
    const STEPS: usize = 20_000;
    const SUMS: usize = 12;

    #[inline(always)]
    fn sums<const LANES: usize>(mul_add: impl Fn(f32, f32, f32) -> f32) -> f32 {
        let mut sums = [[1.0f32; LANES]; SUMS];
        let (factor, addend) = (black_box(0.999), black_box(0.001));
        for _ in 0..STEPS {
            for sum in sums.as_flattened_mut() {
                *sum = mul_add(*sum, factor, addend);
            }
        }
        sums.as_flattened().iter().sum()
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn avx2() -> f32 {
        sums::<8>(f32::mul_add)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    fn avx512() -> f32 {
        sums::<16>(f32::mul_add)
    }

    let (lanes, run): (usize, fn() -> f32) = match Isa::detect() {
        // SAFETY: the CPU has the instructions, as `Isa::detect` found.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => (16, || unsafe { avx512() }),
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => (8, || unsafe { avx2() }),
        _ => (4, || sums::<4>(|a, b, c| a * b + c)),
    };
    let best = time(|| {
        black_box(run());
    });
    2.0 * (STEPS * SUMS * lanes) as f64 / best * 1e-9
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let batch = arguments.first().map_or(Ok(8), |batch| batch.parse())?;
    let threads = arguments.get(1).map_or(Ok(1), |threads| threads.parse())?;
    let wanted = arguments.get(2).map_or("", String::as_str);
    let peak = peak() * threads as f64;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    let mut totals = [(0.0, 0.0); 4];
    for (name, shape) in SHAPES {
        if !name.contains(wanted) {
            continue;
        }
        let (flops, times) = pool.install(|| measure(name, batch, shape))?;
        let dense = shape[3] == 1;
        for (total, time) in totals.iter_mut().zip(times).filter(|_| dense) {
            *total = (total.0 + flops, total.1 + time);
        }
    }
    print!("{:46}", format!("dense, of a peak of {peak:.1} GF/s"));
    for (flops, time) in totals {
        let rate = flops / time * 1e-9;
        print!("  |{:8.1} ms {rate:6.1} GF/s {:6.1} %  ", time * 1e3, 100.0 * rate / peak);
    }
    println!();
    Ok(())
}

fn measure(
    name: &str,
    batch: usize,
    [size, inputs, outputs, groups, kernel, stride]: [usize; 6],
) -> Result<(f64, [f64; 4]), String> {
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
    let mut packed = vec![0.0; conv::packed_len(&conv)];
    conv::pack_weights(&conv, &w, &mut packed);
    let times = [
        time(|| conv::forward(&conv, &x, &w, Finish::bias(None), &mut y, &mut workspace)),
        time(|| conv::forward_packed(&conv, &x, &packed, Finish::bias(None), &mut y)),
        time(|| conv::input_grad(&conv, &dy, &w, &mut dx, &mut workspace)),
        time(|| conv::weight_grad(&conv, &x, &dy, &mut dw, &mut workspace)),
    ];
    let flops = 2.0 * dy.len() as f64 * (w.len() / outputs) as f64;
    let bytes = 4.0 * (x.len() + w.len() + dy.len()) as f64;
    print!("{name:20} {size:3}² {inputs:4} -> {outputs:4}, {kernel}x{kernel}/{stride}");
    for time in times {
        print!("  |{:8.3} ms {:6.1} GF/s {:5.1} GB/s", time * 1e3, flops / time * 1e-9, bytes / time * 1e-9);
    }
    println!("  | {:.1} MiB workspace", longest as f64 * 4.0 / f64::from(1 << 20));
    Ok((flops, times))
}
