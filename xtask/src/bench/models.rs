//! The networks that are measured, as an exporter would give them: inference form, batch norms apart, parameters drawn.
//!
//! They are those of torchvision with 1000 classes and without dropout; MobileNetV1, which torchvision does not have, is
//! that of Howard et al. 2017.

use onnx_qat::data::Rng;
use onnx_qat::ir::{Graph, GraphError, Op, Type, ValueId};
use onnx_qat::ops::{
    Add, BatchNormalization, Clip, Conv, Flatten, Gemm, GlobalAveragePool, HardSigmoid, HardSwish, MaxPool,
    Mul, Relu, Window,
};
use onnx_qat::tensor::{DType, Tensor};

/// Number of classes.
pub const CLASSES: usize = 1000;
/// Name of the input.
pub const INPUT: &str = "x";

/// A network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Network {
    MobilenetV1,
    MobilenetV2,
    #[value(name = "mobilenet-v3-large")]
    MobilenetV3Large,
    #[value(name = "resnet-18")]
    Resnet18,
    #[value(name = "resnet-50")]
    Resnet50,
    #[value(name = "vgg-16")]
    Vgg16,
}

impl Network {
    /// All of them.
    pub const ALL: [Network; 6] = [
        Network::MobilenetV1,
        Network::MobilenetV2,
        Network::MobilenetV3Large,
        Network::Resnet18,
        Network::Resnet50,
        Network::Vgg16,
    ];

    /// Name on the command line and in the protocol.
    pub fn name(self) -> &'static str {
        match self {
            Network::MobilenetV1 => "mobilenet-v1",
            Network::MobilenetV2 => "mobilenet-v2",
            Network::MobilenetV3Large => "mobilenet-v3-large",
            Network::Resnet18 => "resnet-18",
            Network::Resnet50 => "resnet-50",
            Network::Vgg16 => "vgg-16",
        }
    }

    /// Name for people.
    pub fn title(self) -> &'static str {
        match self {
            Network::MobilenetV1 => "MobileNetV1",
            Network::MobilenetV2 => "MobileNetV2",
            Network::MobilenetV3Large => "MobileNetV3-Large",
            Network::Resnet18 => "ResNet-18",
            Network::Resnet50 => "ResNet-50",
            Network::Vgg16 => "VGG-16",
        }
    }

    /// The network for images `size` by `size`, and its number of trained parameters.
    ///
    /// # Errors
    /// When the size does not fit the network.
    pub fn build(self, batch: usize, size: usize) -> Result<(Graph, usize), GraphError> {
        let mut graph = Graph::new(self.name());
        let x = graph.add_input(INPUT, Type::new(DType::F32, [batch, 3, size, size]));
        let mut b = Builder { graph, rng: Rng::new(1), parameters: 0, epsilon: 1e-5, momentum: 0.9 };
        let scores = match self {
            Network::MobilenetV1 => mobilenet_v1(&mut b, x),
            Network::MobilenetV2 => mobilenet_v2(&mut b, x),
            Network::MobilenetV3Large => mobilenet_v3_large(&mut b, x),
            Network::Resnet18 => resnet(&mut b, x, &[2, 2, 2, 2], false),
            Network::Resnet50 => resnet(&mut b, x, &[3, 4, 6, 3], true),
            Network::Vgg16 => vgg16(&mut b, x),
        }?;
        b.graph.add_output("scores", scores);
        Ok((b.graph, b.parameters))
    }
}

type Built = Result<ValueId, GraphError>;

/// What stands behind a convolution and its batch norm.
#[derive(Clone, Copy)]
enum Act {
    Linear,
    Relu,
    Relu6,
    HardSwish,
}

struct Builder {
    graph: Graph,
    rng: Rng,
    /// How many numbers are trained.
    parameters: usize,
    /// Of the batch norms.
    epsilon: f32,
    momentum: f32,
}

impl Builder {
    fn op(&mut self, op: impl Op, ins: &[ValueId]) -> Built {
        let name = op.name().to_lowercase();
        self.graph.add(op, ins, &name)
    }

    fn channels(&self, x: ValueId) -> usize {
        self.graph.ty(x).dims().and_then(|d| d.get(1).copied()).unwrap_or(0)
    }

    fn parameter(&mut self, name: &str, shape: &[usize], values: Vec<f32>) -> ValueId {
        self.parameters += values.len();
        self.graph.add_const(name, Tensor::new(shape, values))
    }

    /// Evenly distributed with the variance `2 / fan_in` (He et al. 2015).
    fn weight(&mut self, shape: &[usize]) -> ValueId {
        let fan_in: usize = shape[1..].iter().product();
        let bound = (6.0 / fan_in as f32).sqrt();
        let unit = |bits: u64| (bits >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
        let values = (0..shape.iter().product()).map(|_| bound * unit(self.rng.next_u64())).collect();
        self.parameter("weight", shape, values)
    }

    /// A square convolution with "same" padding.
    fn conv(&mut self, x: ValueId, outputs: usize, [kernel, stride, group]: [usize; 3], bias: bool) -> Built {
        let w = self.weight(&[outputs, self.channels(x) / group, kernel, kernel]);
        let mut ins = vec![x, w];
        if bias {
            ins.push(self.parameter("bias", &[outputs], vec![0.0; outputs]));
        }
        let window = Window::new(&[kernel, kernel], stride, kernel / 2);
        self.op(Conv { window, group }, &ins)
    }

    fn batch_norm(&mut self, x: ValueId) -> Built {
        let c = self.channels(x);
        let scale = self.parameter("scale", &[c], vec![1.0; c]);
        let shift = self.parameter("shift", &[c], vec![0.0; c]);
        let mean = self.graph.add_const("mean", Tensor::new(&[c], vec![0f32; c]));
        let var = self.graph.add_const("var", Tensor::new(&[c], vec![1f32; c]));
        let op = BatchNormalization { epsilon: self.epsilon, momentum: self.momentum, training: false };
        self.op(op, &[x, scale, shift, mean, var])
    }

    fn act(&mut self, x: ValueId, act: Act) -> Built {
        match act {
            Act::Linear => Ok(x),
            Act::Relu => self.op(Relu, &[x]),
            Act::Relu6 => {
                let bounds = [0f32, 6.0].map(|b| self.graph.add_const("bound", Tensor::scalar(b)));
                self.op(Clip, &[x, bounds[0], bounds[1]])
            }
            Act::HardSwish => self.op(HardSwish, &[x]),
        }
    }

    /// Convolution, batch norm, activation.
    fn layer(&mut self, x: ValueId, outputs: usize, shape: [usize; 3], act: Act) -> Built {
        let y = self.conv(x, outputs, shape, false)?;
        let y = self.batch_norm(y)?;
        self.act(y, act)
    }

    fn linear(&mut self, x: ValueId, outputs: usize) -> Built {
        let w = self.weight(&[outputs, self.channels(x)]);
        let b = self.parameter("bias", &[outputs], vec![0.0; outputs]);
        self.op(Gemm { trans_b: true, ..Gemm::default() }, &[x, w, b])
    }

    fn max_pool(&mut self, x: ValueId, kernel: usize, pad: usize) -> Built {
        let window = Window::new(&[kernel, kernel], 2, pad);
        self.op(MaxPool { window, ceil: false, column_major: false }, &[x])
    }

    /// One value per channel, as a matrix.
    fn pooled(&mut self, x: ValueId) -> Built {
        let x = self.op(GlobalAveragePool, &[x])?;
        self.op(Flatten::default(), &[x])
    }
}

fn mobilenet_v1(b: &mut Builder, x: ValueId) -> Built {
    let mut x = b.layer(x, 32, [3, 2, 1], Act::Relu)?;
    let blocks = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)];
    let blocks = blocks.into_iter().chain([(512, 1); 5]).chain([(1024, 2), (1024, 1)]);
    for (outputs, stride) in blocks {
        let c = b.channels(x);
        x = b.layer(x, c, [3, stride, c], Act::Relu)?;
        x = b.layer(x, outputs, [1, 1, 1], Act::Relu)?;
    }
    let x = b.pooled(x)?;
    b.linear(x, CLASSES)
}

fn mobilenet_v2(b: &mut Builder, x: ValueId) -> Built {
    let mut x = b.layer(x, 32, [3, 2, 1], Act::Relu6)?;
    // Expansion, output channels, repetitions, first stride.
    let stages = [
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ];
    for (expand, outputs, repeat, stride) in stages {
        for i in 0..repeat {
            let (c, stride) = (b.channels(x), if i == 0 { stride } else { 1 });
            let inner = c * expand;
            let y = if expand == 1 { x } else { b.layer(x, inner, [1, 1, 1], Act::Relu6)? };
            let y = b.layer(y, inner, [3, stride, inner], Act::Relu6)?;
            let y = b.layer(y, outputs, [1, 1, 1], Act::Linear)?;
            x = if stride == 1 && c == outputs { b.op(Add, &[x, y])? } else { y };
        }
    }
    let x = b.layer(x, 1280, [1, 1, 1], Act::Relu6)?;
    let x = b.pooled(x)?;
    b.linear(x, CLASSES)
}

fn mobilenet_v3_large(b: &mut Builder, x: ValueId) -> Built {
    use Act::{HardSwish, Relu};
    (b.epsilon, b.momentum) = (1e-3, 0.99);
    let mut x = b.layer(x, 16, [3, 2, 1], HardSwish)?;
    // Kernel, expanded channels, output channels, channels of the squeeze (0: none), activation, stride.
    let blocks = [
        (3, 16, 16, 0, Relu, 1),
        (3, 64, 24, 0, Relu, 2),
        (3, 72, 24, 0, Relu, 1),
        (5, 72, 40, 24, Relu, 2),
        (5, 120, 40, 32, Relu, 1),
        (5, 120, 40, 32, Relu, 1),
        (3, 240, 80, 0, HardSwish, 2),
        (3, 200, 80, 0, HardSwish, 1),
        (3, 184, 80, 0, HardSwish, 1),
        (3, 184, 80, 0, HardSwish, 1),
        (3, 480, 112, 120, HardSwish, 1),
        (3, 672, 112, 168, HardSwish, 1),
        (5, 672, 160, 168, HardSwish, 2),
        (5, 960, 160, 240, HardSwish, 1),
        (5, 960, 160, 240, HardSwish, 1),
    ];
    for (kernel, inner, outputs, squeeze, act, stride) in blocks {
        let c = b.channels(x);
        let mut y = if inner == c { x } else { b.layer(x, inner, [1, 1, 1], act)? };
        y = b.layer(y, inner, [kernel, stride, inner], act)?;
        if squeeze > 0 {
            let s = b.op(GlobalAveragePool, &[y])?;
            let s = b.conv(s, squeeze, [1, 1, 1], true)?;
            let s = b.op(onnx_qat::ops::Relu, &[s])?;
            let s = b.conv(s, inner, [1, 1, 1], true)?;
            let s = b.op(HardSigmoid { alpha: 1.0 / 6.0, beta: 0.5 }, &[s])?;
            y = b.op(Mul, &[s, y])?;
        }
        y = b.layer(y, outputs, [1, 1, 1], Act::Linear)?;
        x = if stride == 1 && c == outputs { b.op(Add, &[x, y])? } else { y };
    }
    let x = b.layer(x, 960, [1, 1, 1], HardSwish)?;
    let x = b.pooled(x)?;
    let x = b.linear(x, 1280)?;
    let x = b.op(onnx_qat::ops::HardSwish, &[x])?;
    b.linear(x, CLASSES)
}

fn resnet(b: &mut Builder, x: ValueId, stages: &[usize], bottleneck: bool) -> Built {
    let x = b.layer(x, 64, [7, 2, 1], Act::Relu)?;
    let mut x = b.max_pool(x, 3, 1)?;
    for (stage, &repeat) in stages.iter().enumerate() {
        let inner = 64 << stage;
        let outputs = if bottleneck { 4 * inner } else { inner };
        for i in 0..repeat {
            let stride = if i == 0 && stage > 0 { 2 } else { 1 };
            let mut y = x;
            if bottleneck {
                y = b.layer(y, inner, [1, 1, 1], Act::Relu)?;
                y = b.layer(y, inner, [3, stride, 1], Act::Relu)?;
                y = b.layer(y, outputs, [1, 1, 1], Act::Linear)?;
            } else {
                y = b.layer(y, inner, [3, stride, 1], Act::Relu)?;
                y = b.layer(y, outputs, [3, 1, 1], Act::Linear)?;
            }
            if stride != 1 || b.channels(x) != outputs {
                x = b.layer(x, outputs, [1, stride, 1], Act::Linear)?;
            }
            x = b.op(Add, &[y, x])?;
            x = b.op(Relu, &[x])?;
        }
    }
    let x = b.pooled(x)?;
    b.linear(x, CLASSES)
}

/// The pool in front of the classifier is nothing at the usual size, and only that is taken.
fn vgg16(b: &mut Builder, x: ValueId) -> Built {
    if b.graph.ty(x).dims().is_none_or(|d| d[2] / 32 != 7) {
        let what = "takes images of 224 by 224".to_string();
        return Err(GraphError { place: Network::Vgg16.title().into(), what });
    }
    let mut x = x;
    for (channels, repeat) in [(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)] {
        for _ in 0..repeat {
            x = b.conv(x, channels, [3, 1, 1], true)?;
            x = b.op(Relu, &[x])?;
        }
        x = b.max_pool(x, 2, 0)?;
    }
    x = b.op(Flatten::default(), &[x])?;
    for _ in 0..2 {
        x = b.linear(x, 4096)?;
        x = b.op(Relu, &[x])?;
    }
    b.linear(x, CLASSES)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_as_many_as_in_torchvision() {
        let expected = [4_231_976, 3_504_872, 5_483_032, 11_689_512, 25_557_032, 138_357_544];
        for (network, expected) in Network::ALL.into_iter().zip(expected) {
            let (graph, parameters) = network.build(2, 224).unwrap();
            assert_eq!(parameters, expected, "{}", network.title());
            let scores = graph.outputs()[0].value;
            assert_eq!(graph.ty(scores).dims(), Some(vec![2, CLASSES]));
        }
    }

    #[test]
    fn sizes_that_do_not_fit_are_told() {
        assert!(Network::Vgg16.build(1, 96).unwrap_err().to_string().contains("224"));
    }
}
