//! Quantization-aware training of recurrent networks.

#![allow(clippy::unwrap_used)]

use exec::{Machine, Program};
use ir::{Dim, Graph, Type, ValueId};
use onnx_qat::data::npz;
use onnx_qat::passes::{Hooks, QuantConfig};
use onnx_qat::prelude::{DataRole, FitOptions, Model, Optimizer, ParamGroup, Preprocess, Schedule, Source};
use onnx_qat::train::{Distill, LossConfig, StepConfig, training_step};
use onnx_qat::{calibrate, fit, quant_aware};
use ops::Activation::{self, Sigmoid, Tanh};
use ops::{Direction, Flatten, GRU, Gemm, LSTM, Recurrence, Reshape};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use tensor::{DType, Tensor};

const TIME: usize = 6;
const WIDTH: usize = 3;
const HIDDEN: usize = 5;

/// Numbers in `-1..1`, a function of the seed.
fn draw(shape: &[usize], seed: u64) -> Tensor {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((state >> 33) as f32 / (1u64 << 30) as f32) - 1.0
    };
    Tensor::new(shape, (0..shape.iter().product()).map(|_| next()).collect())
}

/// A constant of weights in the range that PyTorch draws them from.
fn weight(graph: &mut Graph, name: &str, shape: &[usize]) -> ValueId {
    let values = draw(shape, name.bytes().map(u64::from).sum());
    let scale = 1.0 / (HIDDEN as f32).sqrt();
    graph.add_const(name, Tensor::new(shape, values.to_f32().iter().map(|x| x * scale).collect()))
}

/// Classifies sequences of shape `(batch, 6, 3)`: an LSTM and a GRU in both directions, and a product.
fn classifier() -> Model {
    let mut graph = Graph::new("sequences");
    let x = graph.add_input("input", Type::new(DType::F32, [Dim::sym("N"), TIME.into(), WIDTH.into()]));
    let form = |activations: &[Activation]| Recurrence {
        direction: Direction::Bidirectional,
        hidden: HIDDEN,
        batch_first: true,
        clip: None,
        activations: activations.repeat(2),
        linear_before_reset: false,
    };
    let layer = |graph: &mut Graph, x, name: &str, gates: usize, width: usize| {
        let rows = gates * HIDDEN;
        let shapes = [("w", vec![2, rows, width]), ("r", vec![2, rows, HIDDEN]), ("b", vec![2, 2 * rows])];
        let weights = shapes.map(|(part, shape)| weight(graph, &format!("{name}_{part}"), &shape));
        let ins: Vec<_> = [x].into_iter().chain(weights).map(Some).collect();
        let op: Arc<dyn ir::Op> = match gates {
            4 => Arc::new(LSTM { form: form(&[Sigmoid, Tanh, Tanh]) }),
            _ => Arc::new(GRU { form: form(&[Sigmoid, Tanh]) }),
        };
        let results = ["sequence", "last"].map(|what| format!("{name}_{what}"));
        graph.add_node(op, &ins, name, &[results[0].as_str(), results[1].as_str()]).unwrap()
    };
    let lstm = layer(&mut graph, x, "lstm", 4, WIDTH);
    let shape = graph.add_const("joined", Tensor::new(&[3], vec![0i64, TIME as i64, 2 * HIDDEN as i64]));
    let both = graph.add(Reshape::default(), &[lstm.into(), shape], "both").unwrap();
    let gru = layer(&mut graph, both, "gru", 3, 2 * HIDDEN);
    let last = graph.add(Flatten { axis: 1 }, &[ValueId { node: gru, out: 1 }], "state").unwrap();
    let w = weight(&mut graph, "out_w", &[2 * HIDDEN, WIDTH]);
    let b = weight(&mut graph, "out_b", &[WIDTH]);
    let scores = graph.add(Gemm::default(), &[last, w, b], "scores").unwrap();
    graph.add_output("scores", scores);
    Model::new(graph)
}

/// Sequences, and which of their three channels has the largest sum.
fn data(path: &Path) {
    let samples = 192;
    let x = draw(&[samples, TIME, WIDTH], 1);
    let values = x.to_f32();
    let largest = |sample: &[f32]| {
        let sum = |c: usize| sample.iter().skip(c).step_by(WIDTH).sum::<f32>();
        (0..WIDTH).max_by(|&a, &b| sum(a).total_cmp(&sum(b))).unwrap() as i64
    };
    let y = Tensor::new(&[samples], values.chunks(TIME * WIDTH).map(largest).collect());
    let arrays = [("x_train", x.clone()), ("y_train", y.clone()), ("x_test", x), ("y_test", y)];
    npz::write(path, &arrays.map(|(name, array)| (name.to_string(), array)).into()).unwrap();
}

#[test]
fn a_quantized_classifier_of_sequences_learns() {
    let folder = tempfile::tempdir().unwrap();
    let (file, sequences) = (folder.path().join("m.onnx"), folder.path().join("sequences.npz"));
    classifier().save(&file).unwrap();
    data(&sequences);
    let mut model = Model::load(&file).unwrap();
    let source = Source::parse(&sequences.display().to_string(), DataRole::Train).unwrap();
    let train = model.open_data(&source, &Preprocess::default()).unwrap();
    quant_aware(&mut model, &QuantConfig::default(), &Hooks::default()).unwrap();
    calibrate(&mut model, &train, 32, None).unwrap();

    let before = model.clone();
    let groups = vec![ParamGroup::weights(Optimizer::MOMENTUM, Schedule::constant(0.2), 0.0)];
    let options = FitOptions { epochs: 30, batch: 32, groups, ..FitOptions::default() };
    fit(&mut model, &train, None, &options, &mut |_| {}).unwrap();
    let top1 = [&before, &model].map(|model| model.evaluate(&train, 64).unwrap().top1());
    assert!(top1[0] < 0.6 && top1[1] > 0.9, "{top1:?}");
    for name in ["lstm_w", "lstm_r", "lstm_b", "gru_w", "gru_r", "gru_b", "out_w", "out_b"] {
        let value = |model: &Model| model.graph.tensor(model.graph.find(name).unwrap()).unwrap().to_f32();
        assert!(value(&before).iter().zip(value(&model)).any(|(a, b)| (a - b).abs() > 1e-3), "{name} stays");
    }
}

/// A bidirectional LSTM over bytes, as PyTorch 1.5 exported it: one step towards its own float form.
#[test]
fn a_model_of_the_corpus_takes_a_step() {
    let Some(corpus) = std::env::var_os("ONNX_QAT_CORPUS") else {
        eprintln!("skipped: ONNX_QAT_CORPUS is not set");
        return;
    };
    let mut model = Model::load(Path::new(&corpus).join("models/byte_sb_bidi_lstm.onnx")).unwrap();
    quant_aware(&mut model, &QuantConfig::default(), &Hooks::default()).unwrap();
    let group = ParamGroup::weights(Optimizer::MOMENTUM, Schedule::constant(0.01), 0.0);
    let loss = LossConfig { label_weight: 0.0, distill: Some(Distill::default()) };
    let config = StepConfig { loss, ..StepConfig::new(std::slice::from_ref(&group)) };
    let samples = [("input".to_string(), vec![12])];
    let step = training_step(&model.graph, 2, &samples, &config).unwrap();
    let mut machine = Machine::new(Arc::new(Program::compile(&step.graph).unwrap()));
    let text = b"It rains. It pours, does it not?"[..24].to_vec();
    machine.set_input("input", &Tensor::new(&[2, 12], text)).unwrap();
    machine.input_mut::<f32>(&group.rate_input()).unwrap()[0] = 0.01;
    let before: BTreeMap<String, Tensor> = machine.variables().into_iter().collect();
    // Ranges move in the first step, so that the quantized network differs from its float form in the second.
    for _ in 0..2 {
        machine.run().unwrap();
    }
    let loss = machine.output(step.signature.loss.as_ref().unwrap()).unwrap().to_f64()[0];
    assert!(loss.is_finite() && loss > 0.0, "{loss}");
    assert!(step.parameters.len() >= 8, "{:?}", step.parameters);
    for name in &step.parameters {
        let after = machine.variable(name).unwrap().to_f32();
        assert!(after.iter().all(|x| x.is_finite()), "{name}");
        assert!(before[name].to_f32() != after, "{name} gets no gradient");
    }
}
