//! What is quantized: selectors, overrides of single tensors, the dry run; and batch norms in the int8 model.

#![allow(clippy::unwrap_used)]

use ir::{Graph, Kind};
use onnx_qat::data::Dataset;
use onnx_qat::prelude::{DataRole, Model, Preprocess, Source};
use onnx_qat::{Becomes, Decision, Quantized, Run, plan, quantize};
use ops::BatchNormalization;
use passes::{QuantConfig, TensorOverride, onnx_runtime_overrides};
use std::path::{Path, PathBuf};
use tensor::Tensor;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures").join(name)
}

fn run(config: QuantConfig, epochs: usize) -> Run {
    let mut run = Run::from_toml("model = ''\noutput = ''").unwrap();
    (run.quantization, run.training.epochs, run.equalize) = (config, epochs, false);
    run
}

fn digits() -> (Model, Dataset) {
    let model = Model::load(fixture("digits/digits_cnn.onnx")).unwrap();
    let source = Source::parse(&fixture("digits/digits.npz").display().to_string(), DataRole::Train).unwrap();
    let data = model.open_data(&source, &Preprocess::default()).unwrap();
    (model, data)
}

fn decisions(config: &str) -> Result<Vec<Decision>, String> {
    let config = QuantConfig::from_toml(config).map_err(|e| e.to_string())?;
    plan(&digits().0, &run(config, 1).options(), true).map_err(|e| e.to_string())
}

/// What becomes of a node, and why.
fn of<'a>(decisions: &'a [Decision], node: &str) -> (Becomes, &'a str) {
    let label = format!("node \"{node}\"");
    let found = decisions.iter().find(|d| d.node.ends_with(&label)).unwrap();
    (found.becomes, &found.why)
}

#[test]
fn the_dry_run_tells_of_each_node() {
    let plan = decisions("").unwrap();
    let nodes = plan.len();
    assert_eq!(nodes, 26, "every node of the model has its line");
    assert!(plan.iter().all(|d| d.becomes != Becomes::Float && !d.why.is_empty()), "{plan:#?}");
    assert_eq!(of(&plan, "/head/Gemm").0, Becomes::Integer);
    assert_eq!(of(&plan, "/block1/Add").0, Becomes::Codes);

    let plan =
        decisions("exclude = ['type:Add', 're:/down/.*', 'between /block2/Relu /block2/Add']").unwrap();
    assert_eq!(of(&plan, "/block1/Add"), (Becomes::Float, "\"type:Add\" excludes it"));
    assert_eq!(
        of(&plan, "/down/pointwise/pointwise.0/Conv"),
        (Becomes::Float, "\"re:/down/.*\" excludes it")
    );
    let between = "\"between /block2/Relu /block2/Add\" excludes it";
    assert_eq!(of(&plan, "/block2/pointwise/pointwise.0/Conv"), (Becomes::Float, between));
    assert_eq!(of(&plan, "/block2/depthwise/depthwise.0/Conv").0, Becomes::Integer);

    let plan = decisions("include = ['/head/*']").unwrap();
    assert_eq!(of(&plan, "/head/Gemm").0, Becomes::Integer);
    assert_eq!(of(&plan, "/stem/stem.0/Conv"), (Becomes::Float, "nothing includes it"));
    assert_eq!(of(&plan, "/pool/GlobalAveragePool").0, Becomes::Float);

    let message = decisions("exclude = ['head/Gemm']").unwrap_err();
    assert!(
        message.contains("selection \"head/Gemm\"") && message.contains("\"*head/Gemm*\" takes"),
        "{message}"
    );
    let message = decisions("exclude = ['re:(']").unwrap_err();
    assert!(message.contains("no regular expression"), "{message}");
}

#[test]
fn the_plan_is_what_quantization_does() {
    let (model, data) = digits();
    let config = QuantConfig::from_toml("exclude = ['/block1/*', 'type:Gemm']").unwrap();
    let options = run(config, 0).options();
    let plan = plan(&model, &options, true).unwrap();
    let done = quantize(&model, Some(&data), None, &options, &mut |_| {}).unwrap();
    for decision in plan.iter().filter(|d| d.node.starts_with("Conv") || d.node.starts_with("Gemm")) {
        let name = decision.node.split('"').nth(1).unwrap();
        let graph = &done.model.graph;
        let node = graph.node(graph.find_node(name).unwrap());
        let dequantized = graph.producer::<ops::DequantizeLinear>(node.ins[1].unwrap()).is_some();
        assert_eq!(dequantized, decision.becomes == Becomes::Integer, "{name}: {}", decision.why);
    }
}

/// Scale and zero point of the pair of a tensor.
fn pair(graph: &Graph, tensor: &str) -> (f32, i64) {
    let value = |what: &str| graph.constant(graph.find(&format!("{tensor}_{what}")).unwrap()).unwrap();
    (value("scale").to_f32()[0], value("zero_point").to_i64()[0])
}

fn quantized(config: QuantConfig, epochs: usize) -> Quantized {
    let (model, data) = digits();
    quantize(&model, Some(&data), None, &run(config, epochs).options(), &mut |_| {}).unwrap()
}

#[test]
fn single_tensors_are_quantized_as_said() {
    let text = "
        [tensor_overrides.'/Relu_output_0']
        range = [0.0, 5.1]
        [tensor_overrides.'/block1/Add_output_0']
        symmetric = true
        [tensor_overrides.input]
        range = [-1.27, 0.5]
        symmetric = true
        [tensor_overrides.'head.weight']
        range = [-2.54, 1.0]
        [tensor_overrides.'stem.0.weight']
        bits = 4";
    // Training follows the data; what is fixed stays fixed.
    for epochs in [0, 1] {
        let graph = quantized(QuantConfig::from_toml(text).unwrap(), epochs).model.graph;
        let close = |found: (f32, i64), scale: f32, zero: i64| {
            assert!(
                (found.0 - scale).abs() < 1e-6 && found.1 == zero,
                "{found:?} instead of {scale}, {zero}"
            );
        };
        close(pair(&graph, "/Relu_output_0"), 5.1 / 255.0, 0);
        close(pair(&graph, "input"), 0.01, 128);
        let scales = graph.constant(graph.find("head.weight_scale").unwrap()).unwrap().to_f32();
        assert!(scales.iter().all(|s| (s - 0.02).abs() < 1e-6), "{scales:?}");
        let codes = graph.constant(graph.find("stem.0.weight_quantized").unwrap()).unwrap().to_i64();
        assert!(codes.iter().all(|q| (-7..=7).contains(q)) && codes.contains(&7), "4 bits");
    }
    let unknown = QuantConfig::from_toml("[tensor_overrides.nothing]\nbits = 4").unwrap();
    let (model, data) = digits();
    let options = run(unknown, 0).options();
    let message = quantize(&model, Some(&data), None, &options, &mut |_| {}).unwrap_err().to_string();
    assert!(message.contains("override of tensor \"nothing\": no tensor"), "{message}");
    assert!(
        QuantConfig::from_toml("[tensor_overrides.a]\nbits = 1").unwrap_err().to_string().contains("2 to 16")
    );
}

#[test]
fn overrides_of_onnx_runtime_are_taken() {
    let json = r#"{"input": [{"quant_type": "QUInt8", "scale": 0.0078125, "zero_point": 3}]}"#;
    let tensor_overrides = onnx_runtime_overrides(json).unwrap();
    let range = Some([-3.0 * 0.0078125, 252.0 * 0.0078125]);
    assert_eq!(tensor_overrides["input"], TensorOverride { bits: Some(8), range, symmetric: None });
    let config = QuantConfig { tensor_overrides, ..QuantConfig::default() };
    assert_eq!(pair(&quantized(config, 0).model.graph, "input"), (0.0078125, 3));
}

/// Whatever training does with batch norms, the int8 model has none, and folding changes of a code no more than its sign.
#[test]
fn batch_norms_are_folded_behind_the_codes() {
    let source = Source::parse(&fixture("digits/digits.npz").display().to_string(), DataRole::Train).unwrap();
    let mut model = Model::load(fixture("training/training_mode.onnx")).unwrap();
    let data = model.open_data(&source, &Preprocess::default()).unwrap();
    let leaf =
        |model: &Model, name: &str| model.graph.tensor(model.graph.find(name).unwrap()).unwrap().to_f32();
    // A channel whose sign the batch norm turns.
    let mut gamma = leaf(&model, "bn.weight");
    gamma[2] = -gamma[2];
    let id = model.graph.find("bn.weight").unwrap().node;
    model.graph.set_leaf(id, Kind::Const(Tensor::new(&[4], gamma))).unwrap();
    let mut codes = Vec::new();
    for (freeze, fold) in [(None, false), (Some(0), false), (Some(0), true)] {
        let mut run = run(QuantConfig::default(), 1);
        (run.training.freeze_batch_norm_after, run.fold_batch_norm, run.training.batch) = (freeze, fold, 32);
        let done = quantize(&model, Some(&data), None, &run.options(), &mut |_| {}).unwrap();
        let graph = &done.model.graph;
        assert!(!graph.nodes().iter().any(|&id| graph.node(id).is::<BatchNormalization>().is_some()));
        let found = graph.constant(graph.find("conv.weight_quantized").unwrap()).unwrap().to_i64();
        codes.push(found.clone());
        let trained = done.trained.unwrap();
        let kept = trained.graph.find("bn.weight").is_some();
        assert_eq!(kept, !fold);
        if fold {
            continue;
        }
        let (w, gamma) = (leaf(&trained, "conv.weight"), leaf(&trained, "bn.weight"));
        assert!(gamma[2] < 0.0 && gamma[0] > 0.0, "{gamma:?}");
        for (channel, w) in w.chunks(9).enumerate() {
            let scale = w.iter().fold(0f32, |m, x| m.max(x.abs())) / 127.0;
            for (i, x) in w.iter().enumerate() {
                let code = (x / scale).round_ties_even() as i64 * gamma[channel].signum() as i64;
                assert_eq!(found[9 * channel + i], code, "channel {channel}");
            }
        }
    }
    assert_ne!(codes[0], codes[1], "the statistics of the batch train otherwise than the running ones");
}
