//! Graph text in, graph text out: every file `passes/PASS/CASE.onnxtxt` goes through the pass of its folder; the graph that
//! comes out and what the pass tells stand in the snapshot beside it.
//!
//! Comments at the top of a file set options: `# config KEY = VALUE` a key of the quantization configuration,
//! `# pact THRESHOLD` puts PACT in front of activation quantizers, `# fold_batch_norm` is the option of `normalize`.
//! `normalize`, `quant-aware` and `convert` are no passes, but flows of several.
//!
//! Beside the text, the verifier runs before and after, and both graphs run on drawn inputs (`N` = 2).

#![allow(clippy::unwrap_used)]

mod common;

use common::{check_emitted, run, update, without_quantizers};
use ir::Graph;
use ops::{Ops, QuantizeLinear};
use passes::{
    DropUpdates, DynamicQuantize, DynamicWeights, Equalize, EvalMode, FloatWeights, FoldBatchNorm, FoldBias,
    FoldConstants, FoldPad, Freeze, FuseActivation, FuseEpilogue, FuseHardSwish, FuseMatMulAdd, FuseQdq,
    Hooks, InsertFakeQuant, InsertPreprocess, LearnScales, LowerActivations, MeanToPool, Normalize,
    ObserveOutputs, OwnStatistics, Pass, Pipeline, QuantConfig, QuantizeActivations, QuantizeWeights,
    RemoveIdentity, Report, SoftmaxAxis, SpellOut, Thaw, TrainOnCodes, WidenHalves,
};
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;
use tensor::Tensor;

/// What a rewrite leaves as it is.
#[derive(Clone, Copy, PartialEq)]
enum Keeps {
    /// The results, up to rounding.
    Results,
    /// The results, once quantizers are taken out again.
    ResultsWithoutQuantizers,
    /// The results, up to one step of quantization, of the graph with its updates dropped.
    Codes,
    /// The results, up to one step of quantization, of both graphs with their updates dropped.
    CodesBeforeTraining,
    /// The results, up to the error of 8-bit quantization.
    Roughly,
    /// Nothing that could be compared.
    Nothing,
}

/// Options of one case.
#[derive(Default)]
struct Options {
    config: QuantConfig,
    pact: Option<f32>,
    fold_batch_norm: bool,
}

impl Options {
    fn of(text: &str) -> Options {
        let comments = || text.lines().map_while(|l| l.strip_prefix('#')).map(str::trim);
        let config: Vec<&str> = comments().filter_map(|l| l.strip_prefix("config ")).collect();
        let pact = comments().find_map(|l| l.strip_prefix("pact "));
        Options {
            config: QuantConfig::from_toml(&config.join("\n")).unwrap(),
            pact: pact.map(|p| p.parse().unwrap()),
            fold_batch_norm: comments().any(|l| l == "fold_batch_norm"),
        }
    }

    fn pact(&self) -> Option<passes::Pact> {
        self.pact.map(|initial| passes::Pact { initial, ..passes::Pact::default() })
    }

    fn hooks(&self) -> Hooks {
        Hooks { act_preprocess: self.pact().map(|p| Arc::new(p) as _), ..Hooks::default() }
    }
}

/// The pass of a folder, by the name that the pass has itself.
fn pipeline(folder: &str, options: &Options) -> (Pipeline, Keeps) {
    let (config, hooks) = (options.config.clone(), options.hooks());
    let one = |pass: Pipeline, keeps| (pass, keeps);
    let results = |pass: Pipeline| (pass, Keeps::Results);
    let of = Pipeline::new;
    match folder {
        "fold-constants" => results(of().then(FoldConstants)),
        "remove-identity" => results(of().then(RemoveIdentity)),
        "mean-to-pool" => results(of().then(MeanToPool)),
        "fold-pad" => results(of().then(FoldPad)),
        "fuse-matmul-add" => results(of().then(FuseMatMulAdd)),
        "fold-bias" => results(of().then(FoldBias)),
        "fold-batch-norm" => results(of().then(FoldBatchNorm)),
        "float-weights" => results(of().then(FloatWeights)),
        "softmax-axis" => results(of().then(SoftmaxAxis)),
        "spell-out" => results(of().then(SpellOut)),
        "equalize" => results(of().then(Equalize)),
        "fuse-activation" => results(of().then(FuseActivation)),
        "fuse-epilogue" => results(of().then(FuseEpilogue)),
        "train-on-codes" => results(of().then(TrainOnCodes)),
        "widen-halves" => one(of().then(WidenHalves), Keeps::Nothing),
        "thaw-quant" => one(of().then(Thaw { config }), Keeps::CodesBeforeTraining),
        "fuse-hard-swish" => results(of().then(FuseHardSwish)),
        "lower-activations" => one(of().then(LowerActivations), Keeps::Roughly),
        "fuse-qdq" => one(of().then(FuseQdq), Keeps::Codes),
        "dynamic-quantize" => {
            one(of().then(DynamicQuantize { config, weights: DynamicWeights::Int8 }), Keeps::Roughly)
        }
        "own-statistics" => results(of().then(OwnStatistics)),
        "eval-mode" => one(of().then(EvalMode), Keeps::Nothing),
        "drop-updates" => one(of().then(DropUpdates), Keeps::Nothing),
        "insert-fake-quant" => {
            one(of().then(InsertFakeQuant { config, hooks }), Keeps::ResultsWithoutQuantizers)
        }
        "quantize-activations" => {
            one(of().then(QuantizeActivations { config, hooks }), Keeps::ResultsWithoutQuantizers)
        }
        "insert-pact" => {
            let preprocess = Arc::new(options.pact().unwrap_or_default());
            one(of().then(InsertPreprocess { preprocess, config }), Keeps::ResultsWithoutQuantizers)
        }
        "learn-scales" => one(of().then(LearnScales), Keeps::Codes),
        "observe-outputs" => {
            one(of().then(ObserveOutputs { moving_rate: config.moving_rate }), Keeps::Results)
        }
        "quantize-weights" => one(of().then(QuantizeWeights { config }), Keeps::ResultsWithoutQuantizers),
        "freeze-quant" => one(of().then(Freeze), Keeps::Codes),
        other => panic!("no pass is called {other}"),
    }
}

/// Runs what a folder stands for: a pass, or one of the flows. Returns the graph with which the result is compared.
fn rewrite(folder: &str, options: &Options, graph: &mut Graph) -> (Graph, Report, Keeps) {
    let before = graph.clone();
    match folder {
        "normalize" => {
            let normalize = Normalize { fold_batch_norm: options.fold_batch_norm };
            (before, passes::normalize(graph, normalize).unwrap(), Keeps::Results)
        }
        "quant-aware" => {
            let report = passes::quant_aware(graph, &options.config, &options.hooks()).unwrap();
            (before, report, Keeps::ResultsWithoutQuantizers)
        }
        "convert" => {
            passes::quant_aware(graph, &options.config, &options.hooks()).unwrap();
            // Each step settles the ranges behind those that are settled.
            let untrained = graph.clone();
            update(graph, &untrained, untrained.updates().len());
            let quantized = graph.clone();
            let mut frozen = graph.clone();
            Pipeline::new().then(DropUpdates).then(Freeze).run(&mut frozen).unwrap();
            check_results(&quantized, &frozen, Keeps::Codes);
            (quantized, passes::convert(graph).unwrap(), Keeps::Roughly)
        }
        _ => {
            let (pipeline, keeps) = pipeline(folder, options);
            // A folder bears the name that the pass tells the user.
            assert_eq!(pipeline.to_string(), folder);
            (before, pipeline.run(graph).unwrap(), keeps)
        }
    }
}

/// Results agree to `tolerance` of the largest, save a tenth of them, which may be `step` apart.
fn compare(before: &Graph, after: &Graph, tolerance: f32, step: f32) {
    for ((name, a), (other, b)) in run(before).iter().zip(&run(after)) {
        assert_eq!((name, a.dtype(), a.shape()), (other, b.dtype(), b.shape()));
        let (a, b) = (a.to_f32(), b.to_f32());
        let largest = a.iter().fold(1f32, |m, x| m.max(x.abs()));
        let differences: Vec<f32> = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).collect();
        // NaN is not close to anything.
        let apart = differences.iter().filter(|&&d| d.is_nan() || d > tolerance * largest).count();
        let most = differences.iter().copied().fold(0.0, f32::max);
        assert!(apart == 0 || (most <= 1.01 * step && apart * 10 <= a.len()), "{name}: {a:?} became {b:?}");
    }
}

/// The widest step of the quantized tensors of two graphs.
fn widest_step(before: &Graph, after: &Graph) -> f32 {
    let widest = |graph: &Graph| {
        let scale =
            |id| graph.node(id).is::<QuantizeLinear>().and_then(|_| graph.constant(graph.node(id).ins[1]?));
        let scales = graph.nodes().into_iter().filter_map(scale);
        scales.map(|s: &Tensor| s.to_f32()[0]).fold(0.0, f32::max)
    };
    widest(before).max(widest(after))
}

fn check_results(before: &Graph, after: &Graph, keeps: Keeps) {
    match keeps {
        Keeps::Results => compare(before, after, 1e-5, 0.0),
        Keeps::ResultsWithoutQuantizers => {
            compare(&without_quantizers(before), &without_quantizers(after), 1e-5, 0.0)
        }
        Keeps::Codes => {
            let mut before = before.clone();
            DropUpdates.run(&mut before, &mut Report::default()).unwrap();
            // Biases are rounded to int32.
            compare(&before, after, 1e-4, widest_step(&before, after));
        }
        Keeps::CodesBeforeTraining => {
            let mut after = after.clone();
            DropUpdates.run(&mut after, &mut Report::default()).unwrap();
            compare(before, &after, 1e-4, widest_step(before, &after));
        }
        Keeps::Roughly => {
            let mut before = before.clone();
            DropUpdates.run(&mut before, &mut Report::default()).unwrap();
            compare(&before, after, 0.03, 0.0);
        }
        Keeps::Nothing => {}
    }
}

fn case(path: &Path) {
    let text = std::fs::read_to_string(path).unwrap();
    let options = Options::of(&text);
    let folder = path.parent().unwrap();
    let name = path.file_stem().unwrap().to_string_lossy().into_owned();
    let before = ir::text::parse(&text, &Ops).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    before.check().unwrap();
    let mut after = before.clone();
    let folder_name = folder.file_name().unwrap().to_str().unwrap();
    let (before, report, keeps) = rewrite(folder_name, &options, &mut after);
    after.sweep();
    after.check().unwrap();
    check_results(&before, &after, keeps);
    if ["freeze-quant", "convert"].contains(&folder_name) {
        check_emitted(&after);
    }
    let mut snapshot = ir::text::print(&after);
    for line in &report.lines {
        write!(snapshot, "\n{line}").unwrap();
    }
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(std::fs::canonicalize(folder).unwrap());
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.remove_snapshot_suffix();
    settings.remove_input_file();
    settings.bind(|| insta::assert_snapshot!(name, snapshot));
}

#[test]
fn every_pass_does_what_its_snapshots_say() {
    let mut failures = Vec::new();
    insta::glob!("../passes", "*/*.onnxtxt", |path| {
        if std::panic::catch_unwind(|| case(path)).is_err() {
            failures.push(path.display().to_string());
        }
    });
    assert!(failures.is_empty(), "failed:\n{}", failures.join("\n"));
}
