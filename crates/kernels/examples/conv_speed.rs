//! Prints the speed of convolutions of MobileNetV3-Large, ResNet-18, ResNet-50 and VGG-16, forward, forward with weights
//! packed before, and both gradients.
//!
//! `cargo run --release -p onnx-qat-kernels --example conv_speed [batch [threads [part of a name]]]`, by default with 8
//! images on one thread. Columns: time and GFLOP/s of each pass, and the memory that the pass cannot avoid to move, in
//! GB/s (input, weights and output, once each). The last line is the sum of all dense convolutions as a share of the peak
//! of multiply-adds of one core, measured in the same run, times the threads.

#![allow(unsafe_code)]

mod shapes;

use onnx_qat_kernels::conv::{self, Finish};
use onnx_qat_kernels::simd::Isa;
use shapes::{SHAPES, time};
use std::hint::black_box;

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

fn measure(name: &str, batch: usize, shape: [usize; 6]) -> Result<(f64, [f64; 4]), String> {
    let conv = shapes::conv(batch, shape)?;
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
    let flops = 2.0 * dy.len() as f64 * (w.len() / conv.out_channels) as f64;
    let bytes = 4.0 * (x.len() + w.len() + dy.len()) as f64;
    print!("{}", shapes::describe(name, shape));
    for time in times {
        print!("  |{:8.3} ms {:6.1} GF/s {:5.1} GB/s", time * 1e3, flops / time * 1e-9, bytes / time * 1e-9);
    }
    println!("  | {:.1} MiB workspace", longest as f64 * 4.0 / f64::from(1 << 20));
    Ok((flops, times))
}
