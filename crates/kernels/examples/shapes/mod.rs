//! Shapes of convolutions in known networks, and how long a run takes: shared by the examples that measure speed.

use onnx_qat_kernels::conv::{Axis, Conv, Rounding, Window};
use std::time::{Duration, Instant};

/// Input size, input channels, output channels, groups, kernel, stride.
pub const SHAPES: [(&str, [usize; 6]); 53] = [
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

/// One of the shapes, padded so that stride 1 keeps the size.
pub fn conv(
    batch: usize,
    [size, inputs, outputs, groups, kernel, stride]: [usize; 6],
) -> Result<Conv, String> {
    let pad = kernel / 2;
    let axis = Axis::new(size, kernel, stride, 1, pad, pad, Rounding::Floor)?;
    Conv::new(batch, inputs, outputs, groups, Window { height: axis, width: axis })
}

/// A shape in words.
pub fn describe(name: &str, [size, inputs, outputs, _, kernel, stride]: [usize; 6]) -> String {
    format!("{name:20} {size:3}² {inputs:4} -> {outputs:4}, {kernel}x{kernel}/{stride}")
}

/// The best time of many runs, in seconds.
pub fn time(mut f: impl FnMut()) -> f64 {
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
