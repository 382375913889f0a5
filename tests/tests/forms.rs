//! Every form in which a file holds training: recognized, and trained with the losses of PyTorch (`fixtures/training`).

#![allow(clippy::unwrap_used)]

use exec::{Machine, Program};
use ir::{Graph, Kind};
use onnx_qat::data::{Dataset, Values};
use onnx_qat::prelude::{DataRole, Model, Optimizer, ParamGroup, Preprocess, Schedule, Source};
use onnx_qat::train::{StepConfig, training_step};
use onnx_qat::{Form, QuantizeOptions, RecipeRate, Run, quantize};
use ops::{DequantizeLinear, FakeQuant, QuantizeLinear};
use passes::{Normalize, Pass, QuantConfig, Report, Thaw};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tensor::Tensor;

const BATCH: usize = 16;

fn fixtures(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures").join(name)
}

fn load(name: &str) -> Model {
    Model::load(fixtures("training").join(name)).unwrap()
}

fn expected(name: &str) -> Vec<f64> {
    let text = std::fs::read_to_string(fixtures("training/expected.toml")).unwrap();
    let table: toml::Table = text.parse().unwrap();
    table[name].as_array().unwrap().iter().map(|x| x.as_float().unwrap()).collect()
}

fn digits() -> Dataset {
    let source =
        Source::parse(&fixtures("digits/digits.npz").display().to_string(), DataRole::Train).unwrap();
    load("inference.onnx").open_data(&source, &Preprocess::default()).unwrap()
}

/// The losses of the first three steps on the first digits, with the optimizer of the file or momentum 0.9.
fn losses(model: &Model, prepare: impl Fn(&mut Graph), mut config: StepConfig) -> Vec<f64> {
    let mut graph = model.graph.clone();
    passes::normalize(&mut graph, Normalize { fold_batch_norm: false }).unwrap();
    prepare(&mut graph);
    let group = match &model.recipe {
        Some(recipe) => {
            recipe.attach(&mut graph);
            recipe.group(None).unwrap()
        }
        None => ParamGroup::new(train_group(), Optimizer::MOMENTUM, Schedule::constant(0.1)),
    };
    let rate = (group.rate_input(), group.schedule.rate);
    config.groups = vec![group];
    let data = digits();
    let step = training_step(&graph, BATCH, &[], &config).unwrap();
    let mut machine = Machine::new(Arc::new(Program::compile(&step.graph).unwrap()));
    let mut found = Vec::new();
    for start in [0, 16, 32] {
        let batch = data.batch(&(start..start + BATCH).collect::<Vec<_>>()).unwrap();
        let Values::F32(pixels) = &batch.inputs[0] else { panic!("digits are floats") };
        machine.input_mut::<f32>("input").unwrap().copy_from_slice(pixels);
        if let Some(label) = &step.signature.label {
            machine.input_mut::<i64>(label).unwrap().copy_from_slice(&batch.labels);
        }
        if machine.has_input("target") {
            let target = machine.input_mut::<f32>("target").unwrap();
            target.fill(0.0);
            batch.labels.iter().enumerate().for_each(|(i, &class)| target[10 * i + class as usize] = 1.0);
        }
        machine.input_mut::<f32>(&rate.0).unwrap()[0] = rate.1;
        machine.run().unwrap();
        found.push(machine.output(step.signature.loss.as_ref().unwrap()).unwrap().to_f64()[0]);
    }
    found
}

fn train_group() -> &'static str {
    onnx_qat::train::WEIGHTS
}

fn check(name: &str, found: &[f64]) {
    let expected = expected(name);
    println!("{name}: {found:.6?}, PyTorch {expected:.6?}");
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        assert!((found - expected).abs() < 1e-3, "{name}: {found} instead of {expected}");
    }
}

#[test]
fn a_graph_for_inference_gets_a_loss() {
    let model = load("inference.onnx");
    assert_eq!(model.forms, [Form::Inference]);
    check("inference", &losses(&model, |_| {}, StepConfig::default()));
    let frozen = StepConfig { freeze_batch_norm: true, ..StepConfig::default() };
    check("frozen", &losses(&model, |_| {}, frozen));
}

#[test]
fn training_mode_is_recognized() {
    let model = load("training_mode.onnx");
    assert_eq!(model.forms, [Form::TrainingMode { batch_norms: 1, dropouts: 1 }]);
    assert_eq!(model.signature().data, ["input"], "the mode of the dropout is no data");
    check("inference", &losses(&model, |_| {}, StepConfig::default()));
    let frozen = StepConfig { freeze_batch_norm: true, ..StepConfig::default() };
    check("frozen", &losses(&model, |_| {}, frozen));
}

#[test]
fn a_loss_inside_is_recognized() {
    for (file, output, op) in
        [("loss.onnx", "loss", "SoftmaxCrossEntropyLoss"), ("nll.onnx", "nll", "NegativeLogLikelihoodLoss")]
    {
        let model = load(file);
        let loss = Form::Loss { output: output.into(), op: op.into(), label: Some("label".into()) };
        assert_eq!(model.forms, [Form::TrainingMode { batch_norms: 1, dropouts: 0 }, loss]);
        assert!(model.signature().scores.is_some(), "{file}: what the loss compares is an output");
        check("inference", &losses(&model, |_| {}, StepConfig::default()));
    }
    let model = load("scalar.onnx");
    let loss = Form::Loss { output: "objective".into(), op: "ReduceMean".into(), label: None };
    assert_eq!(model.forms[1], loss);
    assert_eq!(model.signature().scores.as_deref(), Some("logits"));
    check("scalar", &losses(&model, |_| {}, StepConfig::default()));
}

#[test]
fn the_optimizer_of_the_file_is_followed() {
    for name in ["momentum", "adam", "adagrad"] {
        let model = load(&format!("training_info_{name}.onnx"));
        let Form::TrainingInfo(Ok(words)) = &model.forms[0] else { panic!("{:?}", model.forms) };
        assert!(words.to_lowercase().starts_with(name) && words.ends_with("5 parameters"), "{words}");
        let form = format!("training_info_{name}");
        check(&form, &losses(&model, |_| {}, StepConfig::default()));
    }
}

#[test]
fn the_forward_pass_of_runtime_artifacts_is_recovered() {
    for (file, gradients) in [("training_model.onnx", 3), ("eval_model.onnx", 0)] {
        let model = load(&format!("runtime/{file}"));
        assert_eq!(model.forms[0], Form::RuntimeTraining { gradients, parameters: 4 });
        let signature = model.signature();
        assert_eq!((signature.data, signature.label), (vec!["input".to_string()], Some("labels".into())));
        check("runtime", &losses(&model, |_| {}, StepConfig::default()));
    }
}

/// Training goes on from a quantized file with its scales.
#[test]
fn a_quantized_file_is_trained_on() {
    let model = load("quantized.onnx");
    assert_eq!(model.forms, [Form::Quantized { pairs: 3, constants: 4 }]);
    let thaw = |graph: &mut Graph| {
        let mut report = Report::default();
        Thaw { config: QuantConfig::default() }.run(graph, &mut report).unwrap();
        graph.sweep();
        graph.check().unwrap();
    };
    let frozen = StepConfig { freeze_observers: true, ..StepConfig::default() };
    check("quantized", &losses(&model, thaw, frozen));

    // Without training, the same codes and scales come out again.
    let mut again = model.clone();
    thaw(&mut again.graph);
    let quantizers =
        again.graph.nodes().iter().filter(|&&id| again.graph.node(id).is::<FakeQuant>().is_some()).count();
    assert_eq!(quantizers, 4, "the pair behind the pool repeats that in front of it");
    onnx_qat::convert(&mut again).unwrap();
    let (found, expected) = (pairs(&again.graph), pairs(&model.graph));
    assert_eq!(found[..3], expected[..]);
    assert!(found[3..].iter().all(|pair| *pair == expected[2]), "one more behind the Flatten: {found:?}");
    for name in ["conv.weight_quantized", "fc.weight_quantized", "conv.bias_quantized", "fc.bias_quantized"] {
        let codes = |graph: &Graph| graph.constant(graph.find(name).unwrap()).unwrap().to_i64();
        assert_eq!(codes(&again.graph), codes(&model.graph), "{name}");
    }
}

/// Scale and zero point, as uint8, of each quantized activation, in order.
fn pairs(graph: &Graph) -> Vec<(f32, i64)> {
    let mut found = Vec::new();
    for id in graph.order().unwrap() {
        let node = graph.node(id);
        if node.is::<QuantizeLinear>().is_some() {
            let [Some(_), Some(scale), Some(zero)] = node.ins[..] else { panic!("{}", node.label()) };
            let (scale, zero) = (graph.constant(scale).unwrap(), graph.constant(zero).unwrap());
            let offset = if zero.dtype() == tensor::DType::I8 { 128 } else { 0 };
            // Two steps of rounding lie between a scale and the scale of its range.
            found.push(((scale.to_f32()[0] * 1e6).round() / 1e6, zero.to_i64()[0] + offset));
        }
    }
    found
}

/// The whole way: the optimizer of the file trains, and its states go back into the float model.
#[test]
fn states_are_written_back() {
    let folder = tempfile::tempdir().unwrap();
    let model = load("training_info_adam.onnx");
    let data = digits();
    let mut run = Run::from_toml("model = 'a'\noutput = 'b'").unwrap();
    (run.training.batch, run.recipe) = (BATCH, Some(RecipeRate::Own));
    let options: QuantizeOptions = run.options();
    let done = quantize(&model, Some(&data), None, &options, &mut |_| {}).unwrap();

    let int8 = folder.path().join("int8.onnx");
    done.model.save(&int8).unwrap();
    let int8 = Model::load(int8).unwrap();
    assert!(int8.recipe.is_none() && int8.graph.find("label").is_none());
    let dequantized = |id| int8.graph.node(id).is::<DequantizeLinear>().is_some();
    assert!(int8.graph.nodes().into_iter().any(dequantized));

    let trained = folder.path().join("trained.onnx");
    done.trained.unwrap().save(&trained).unwrap();
    let trained = Model::load(trained).unwrap();
    let held = |model: &Model, name: &str| {
        let states = model.recipe.as_ref().unwrap().states(&Graph::new("none"));
        states.into_iter().find(|(n, _)| n == name).unwrap().1
    };
    let steps = data.len() / BATCH;
    assert_eq!(held(&trained, "T"), Tensor::scalar(steps as i64));
    for name in ["conv.weight.state0", "fc.bias.state1"] {
        assert!(held(&model, name).to_f32().iter().all(|&x| x == 0.0));
        assert!(held(&trained, name).to_f32().iter().any(|&x| x != 0.0), "{name}");
    }
    let weight =
        |model: &Model| model.graph.tensor(model.graph.find("conv.weight").unwrap()).cloned().unwrap();
    assert_ne!(weight(&trained), weight(&model));
    assert!(
        !trained.graph.nodes().iter().any(|&id| matches!(trained.graph.node(id).kind, Kind::Variable(..)))
    );
}

/// Training graphs of real exporters beside PyTorch's losses for as many steps as were recorded.
#[test]
fn losses_of_the_corpus() {
    let Ok(corpus) = std::env::var("ONNX_QAT_CORPUS") else {
        println!("ONNX_QAT_CORPUS is not set: skipped");
        return;
    };
    for name in [
        "digits_lenet/lenet",
        "digits_lenet/lenet_untrained",
        "fsdd_dscnn/dscnn",
        "sms_transformer/transformer",
    ] {
        let path = Path::new(&corpus).join("models").join(name);
        let with = |end: &str| PathBuf::from(format!("{}{end}", path.display()));
        let model = Model::load(with(".train.onnx")).unwrap();
        let recorded = onnx_qat::data::npz::read(with(".train_ref.npz")).unwrap();
        let recorded = |name: &str| recorded[name].clone();
        let (xs, ys, expected) = (recorded("xs"), recorded("ys"), recorded("losses").to_f64());
        let [steps, batch, sample @ ..] = xs.shape() else { panic!("{:?}", xs.shape()) };
        let mut graph = model.graph.clone();
        passes::normalize(&mut graph, Normalize { fold_batch_norm: false }).unwrap();
        let rate = recorded("lr").to_f32()[0];
        let group = ParamGroup::new(train_group(), Optimizer::MOMENTUM, Schedule::constant(rate));
        let config = StepConfig { groups: vec![group.clone()], ..StepConfig::default() };
        let signature = model.signature();
        let samples = [(signature.data[0].clone(), sample.to_vec())];
        let step = training_step(&graph, *batch, &samples, &config).unwrap();
        let mut machine = Machine::new(Arc::new(Program::compile(&step.graph).unwrap()));
        machine.input_mut::<f32>(&group.rate_input()).unwrap()[0] = rate;
        let mut worst = 0f64;
        for (k, expected) in expected.iter().enumerate() {
            let of_step = |t: &Tensor| {
                let bytes = t.bytes().len() / steps;
                let shape = &t.shape()[1..];
                Tensor::from_bytes(t.dtype(), shape, t.bytes().slice(k * bytes..(k + 1) * bytes)).unwrap()
            };
            machine.set_input(&signature.data[0], &of_step(&xs)).unwrap();
            machine.set_input(step.signature.label.as_ref().unwrap(), &of_step(&ys)).unwrap();
            machine.run().unwrap();
            let loss = machine.output(step.signature.loss.as_ref().unwrap()).unwrap().to_f64()[0];
            worst = worst.max((loss - expected).abs());
        }
        println!("{name}: {steps} steps, largest difference from PyTorch's loss {worst:.1e}");
        assert!(worst < 1e-3, "{name}: {worst}");
    }
}

/// The corpus: files of real exporters.
#[test]
fn forms_of_the_corpus() {
    let Ok(corpus) = std::env::var("ONNX_QAT_CORPUS") else {
        println!("ONNX_QAT_CORPUS is not set: skipped");
        return;
    };
    let digits = Path::new(&corpus).join("models/digits_lenet");
    let forms = |name: &str| {
        Model::load(digits.join(name)).unwrap().forms.iter().map(Form::to_string).collect::<Vec<_>>()
    };
    let words = [
        ("lenet.eval.onnx", "inference"),
        (
            "lenet.train.onnx",
            "training mode: 2 batch norms, 0 dropouts; loss inside: \"loss\" of SoftmaxCrossEntropyLoss, labels go to \"label\"",
        ),
        (
            "lenet.training_info_momentum.onnx",
            "training step in the file: Momentum (alpha 0.9, beta 1.0, mode standard, norm_coefficient 0.0), learning rate 0.05, 10 parameters; loss inside: \"loss\" of SoftmaxCrossEntropyLoss, labels go to \"label\"",
        ),
        (
            "ort_artifacts/training_model.onnx",
            "ONNX Runtime training: 16 gradient nodes left out, 8 parameters from \"checkpoint\"; loss inside: \"onnx::loss::2\" of SoftmaxCrossEntropyLoss, labels go to \"labels\"",
        ),
        (
            "ort_artifacts/eval_model.onnx",
            "ONNX Runtime training: 0 gradient nodes left out, 8 parameters from \"checkpoint\"; loss inside: \"onnx::loss::2\" of SoftmaxCrossEntropyLoss, labels go to \"labels\"",
        ),
    ];
    for (name, expected) in words {
        assert_eq!(forms(name).join("; "), expected, "{name}");
    }
}
