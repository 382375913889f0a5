//! Whole models through the passes: those of `fixtures`, and of the folder that `ONNX_QAT_CORPUS` names.

#![allow(clippy::unwrap_used)]

mod common;

use common::{check_emitted, machine, run, update, without_quantizers};
use ir::Graph;
use ops::{DequantizeLinear, FakeQuant, Ops};
use passes::{
    ActivationQuantizeType, DropUpdates, EvalMode, Hooks, Normalize, Pass, Pipeline, QuantConfig, Report,
    Thaw,
};
use std::path::{Path, PathBuf};

/// Larger files take minutes here.
const LARGEST: u64 = 16 << 20;

fn models(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            models(&path, found);
        } else if path.extension().is_some_and(|e| e == "onnx") && path.metadata().unwrap().len() <= LARGEST {
            found.push(path);
        }
    }
}

/// Signal to noise of the worst output, in dB.
fn likeness(before: &Graph, after: &Graph) -> f64 {
    let mut worst = f64::INFINITY;
    for ((name, a), (other, b)) in run(before).iter().zip(&run(after)) {
        assert_eq!((name, a.dtype(), a.shape()), (other, b.dtype(), b.shape()));
        let (a, b) = (a.to_f64(), b.to_f64());
        let signal: f64 = a.iter().map(|x| x * x).sum();
        let noise: f64 = a.iter().zip(&b).map(|(a, b)| (a - b) * (a - b)).sum();
        let noise = noise.max(signal * 1e-20).max(f64::MIN_POSITIVE);
        worst = worst.min(10.0 * (signal.max(f64::MIN_POSITIVE) / noise).log10());
    }
    worst
}

/// Static calibration: the observers see the tensors of the float graph.
fn calibrate(graph: &mut Graph) {
    let mut float = graph.clone();
    for id in float.order().unwrap() {
        if float.node(id).is::<FakeQuant>().is_some() {
            let x = float.node(id).ins[0].unwrap();
            float.replace(id.into(), x).unwrap();
        }
    }
    float.sweep();
    update(graph, &float, 1);
}

/// Nodes with an int8 weight, and nodes that could have one.
fn weighted(graph: &Graph) -> (usize, usize) {
    let mut count = (0, 0);
    for id in graph.nodes() {
        let node = graph.node(id);
        if let Some(ir::QuantRole::Weighted { weight, .. }) = node.op().map(|op| op.quant()) {
            count.0 += usize::from(
                node.ins[weight].is_some_and(|w| graph.producer::<DequantizeLinear>(w).is_some()),
            );
            count.1 += 1;
        }
    }
    count
}

fn check(path: &Path) -> String {
    let (mut original, _) = match onnx::load(path, &Ops) {
        Ok(loaded) => loaded,
        Err(e) => return format!("not read: {e}"),
    };
    if let Err(e) = original.bind(|_, _| None) {
        return format!("not inferred: {e}");
    }
    let mut folded = original.clone();
    passes::normalize(&mut folded, Normalize { fold_batch_norm: true }).unwrap();
    let mut graph = original.clone();
    passes::normalize(&mut graph, Normalize { fold_batch_norm: false }).unwrap();
    folded.check().unwrap();
    // Some operators stand in the corpus to be carried through only.
    if let Err(e) = machine(&graph) {
        return format!("not run: {e}");
    }
    let mut inference = original.clone();
    Pipeline::new().then(EvalMode).run(&mut inference).unwrap();
    let normalized = likeness(&inference, &folded);
    assert!(normalized > 80.0, "normalized: {normalized} dB");

    let mut quantized = graph.clone();
    let config =
        QuantConfig { activation_quantize_type: ActivationQuantizeType::MinMax, ..QuantConfig::default() };
    let mut report = Report::default();
    Thaw { config: config.clone() }.run(&mut quantized, &mut report).unwrap();
    quantized.sweep();
    // A file that is quantized already is taken on from its own scales.
    if report.lines.is_empty() {
        passes::quant_aware(&mut quantized, &config, &Hooks::default()).unwrap();
        let placed = likeness(&graph, &without_quantizers(&quantized));
        assert!(placed > 120.0, "with quantizers taken out again: {placed} dB");
    }
    quantized.check().unwrap();

    calibrate(&mut quantized);
    let mut evaluated = quantized.clone();
    DropUpdates.run(&mut evaluated, &mut Report::default()).unwrap();
    passes::convert(&mut quantized).unwrap();
    quantized.check().unwrap();
    check_emitted(&quantized);
    let frozen = likeness(&evaluated, &quantized);
    let accuracy = likeness(&graph, &quantized);
    let (integer, all) = weighted(&quantized);
    format!(
        "normalized {normalized:.0} dB, frozen {frozen:.0} dB, int8 {accuracy:.0} dB, {integer}/{all} int8 weights"
    )
}

#[test]
fn models_keep_their_results() {
    let mut found = Vec::new();
    models(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures"), &mut found);
    match std::env::var("ONNX_QAT_CORPUS") {
        Ok(corpus) => models(&Path::new(&corpus).join("models"), &mut found),
        Err(_) => println!("ONNX_QAT_CORPUS is not set: fixtures only"),
    }
    let mut failures = Vec::new();
    for path in found {
        match std::panic::catch_unwind(|| check(&path)) {
            Ok(line) => println!("{}: {line}", path.display()),
            Err(_) => failures.push(path.display().to_string()),
        }
    }
    assert!(failures.is_empty(), "failed:\n{}", failures.join("\n"));
}
