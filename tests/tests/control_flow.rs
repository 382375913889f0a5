//! Sub-graphs, functions, and shapes that the data decide: run with the results of ONNX Runtime (`fixtures/control-flow`),
//! rewritten without changing them, and trained.

#![allow(clippy::unwrap_used)]

use exec::{Machine, Program};
use ir::{Graph, Opaque, Type};
use onnx_qat::prelude::{DataRole, Model, Preprocess, Source};
use onnx_qat::{Run, quantize};
use ops::{If, Loop, Scan};
use passes::{InlineBranches, Normalize, Pass, Report, UnrollLoops};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tensor::Tensor;

fn fixtures(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/control-flow").join(name)
}

fn load(name: &str) -> Model {
    Model::load(fixtures(&format!("{name}.onnx"))).unwrap()
}

fn expected() -> BTreeMap<String, Tensor> {
    onnx_qat::data::npz::read(fixtures("expected.npz")).unwrap()
}

/// Runs a graph on both recorded inputs and compares all outputs; says how many operations ran late.
fn check(name: &str, graph: &Graph) -> usize {
    let expected = expected();
    let mut late = 0;
    for sign in ["1", "-1"] {
        let x = &expected[&format!("{name}/{sign}/x")];
        let mut graph = graph.clone();
        let id = graph.inputs()[0];
        graph.set_input_type(id, Type::new(x.dtype(), x.shape().iter().copied()));
        graph.infer().unwrap();
        let mut machine = Machine::new(Arc::new(Program::compile(&graph).unwrap()));
        late = machine.program().late();
        machine.set_input("x", x).unwrap();
        machine.run().unwrap();
        for output in graph.outputs() {
            let (found, want) =
                (machine.output(&output.name).unwrap(), &expected[&format!("{name}/{sign}/{}", output.name)]);
            assert_eq!(
                (found.dtype(), found.shape()),
                (want.dtype(), want.shape()),
                "{name} {sign} {}",
                output.name
            );
            for (a, b) in found.to_f64().iter().zip(want.to_f64()) {
                assert!(
                    (a - b).abs() <= 1e-5 * b.abs().max(1.0),
                    "{name} {sign} {}: {a} instead of {b}",
                    output.name
                );
            }
        }
    }
    late
}

fn count<T: ir::Op>(graph: &Graph) -> usize {
    graph.nodes().into_iter().filter(|&id| graph.node(id).is::<T>().is_some()).count()
}

#[test]
fn files_run_as_in_onnx_runtime_before_and_after_normalizing() {
    for name in ["branch", "rounds", "recurrent", "detect", "functions"] {
        let model = load(name);
        assert!(model.meta.notes().is_empty(), "{name}: {:?}", model.meta.notes());
        check(name, &model.graph);
        let mut graph = model.graph.clone();
        passes::normalize(&mut graph, Normalize::default()).unwrap();
        check(name, &graph);
        passes::unroll(&mut graph).unwrap();
        check(name, &graph);
    }
}

#[test]
fn saved_files_are_the_same() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["branch", "rounds", "recurrent", "detect", "functions"] {
        let path = folder.path().join("model.onnx");
        let mut model = load(name);
        model.save(&path).unwrap();
        let mut again = Model::load(&path).unwrap();
        check(name, &again.graph);
        assert_eq!(again.text(), model.text(), "{name}");
        // What a branch reads from around it bears another name now.
        passes::normalize(&mut model.graph, Normalize::default()).unwrap();
        for id in model.graph.nodes() {
            if model.graph.node(id).op().is_some() && !model.graph.is_output(id.into()) {
                model.graph.rename(id.into(), "renamed");
            }
        }
        model.save(&path).unwrap();
        again = Model::load(&path).unwrap();
        check(name, &again.graph);
    }
}

#[test]
fn what_the_data_decides_runs_behind_the_rest() {
    let model = load("detect");
    // Greater is bound beforehand, as the convolution is.
    assert_eq!(check("detect", &model.graph), 4);
    let mut graph = load("branch").graph;
    passes::normalize(&mut graph, Normalize::default()).unwrap();
    assert_eq!((count::<If>(&graph), check("branch", &graph)), (1, 1));
}

#[test]
fn calls_are_replaced_by_what_functions_do() {
    let model = load("functions");
    assert_eq!(count::<Opaque>(&model.graph), 0);
    assert!(model.graph.find_node("block1/Act").is_none());
    let names: Vec<String> =
        model.graph.order().unwrap().into_iter().map(|id| model.graph.node(id).name.clone()).collect();
    assert!(names.iter().any(|n| n.starts_with("block2/")), "{names:?}");
    // A branch, which is written as it was read, still calls one of them.
    assert!(model.meta.has_functions());
}

/// The picture of a pass: before, after, and what it tells.
fn picture(graph: &mut Graph, pass: &dyn Pass) -> String {
    let mut report = Report::default();
    let before = ir::text::print(graph);
    pass.run(graph, &mut report).unwrap();
    graph.sweep();
    graph.check().unwrap();
    let mut s = format!("{before}\n->\n\n{}\n", ir::text::print(graph));
    report.lines.iter().for_each(|line| writeln!(s, "{line}").unwrap());
    s
}

#[test]
fn branches_are_inlined() {
    let mut graph = load("branch").graph;
    passes::FoldConstants.run(&mut graph, &mut Report::default()).unwrap();
    graph.sweep();
    insta::assert_snapshot!(picture(&mut graph, &InlineBranches));
}

#[test]
fn loops_are_unrolled() {
    for (name, loops) in [("rounds", count::<Loop> as fn(&Graph) -> usize), ("recurrent", count::<Scan>)] {
        let mut graph = load(name).graph;
        assert_eq!(loops(&graph), 1);
        insta::assert_snapshot!(name, picture(&mut graph, &UnrollLoops));
        assert_eq!(loops(&graph), 0);
        assert_eq!(check(name, &graph), 0);
    }
}

/// Five classes of sequences would be as good: here the class is where the largest mean of three columns is.
fn sequences(folder: &Path) -> Source {
    let mut x = Vec::new();
    let mut labels = Vec::new();
    let mut seed = 1u64;
    for _ in 0..96 {
        let mut means = [0.0f32; 4];
        for _ in 0..5 {
            for mean in &mut means {
                seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let value = (seed >> 40) as f32 / (1 << 24) as f32 * 2.0 - 1.0;
                *mean += value;
                x.push(value);
            }
        }
        labels.push((0..3).max_by(|&a, &b| means[a].total_cmp(&means[b])).unwrap() as i64);
    }
    let path = folder.join("sequences.npz");
    let arrays = [
        ("x_train".to_string(), Tensor::new(&[96, 5, 4], x)),
        ("y_train".to_string(), Tensor::new(&[96], labels)),
    ];
    onnx_qat::data::npz::write(&path, &arrays.into()).unwrap();
    Source::parse(&path.display().to_string(), DataRole::Train).unwrap()
}

#[test]
fn a_recurrent_network_in_a_scan_is_trained() {
    let folder = tempfile::tempdir().unwrap();
    let model = load("recurrent");
    let data = model.open_data(&sequences(folder.path()), &Preprocess::default()).unwrap();
    let run = Run::from_toml("model = ''\noutput = ''\n[training]\nepochs = 3\nbatch = 16").unwrap();
    let done = quantize(&model, Some(&data), Some(&data), &run.options(), &mut |_| {}).unwrap();
    let trained = done.trained.unwrap();
    for weight in ["recurrent_weight", "input_weight", "first_weight", "head_weight"] {
        let value = |model: &Model| {
            let ids = model.graph.nodes().into_iter();
            let id = ids.clone().find(|&id| {
                model.graph.tensor(id.into()).is_some() && model.graph.node(id).name.ends_with(weight)
            });
            id.map(|id| model.graph.tensor(id.into()).unwrap().to_f32())
        };
        let before = value(&model).or_else(|| {
            let mut graph = model.graph.clone();
            passes::unroll(&mut graph).unwrap();
            value(&Model::new(graph))
        });
        let (before, after) = (before.unwrap(), value(&trained).unwrap());
        assert!(after.iter().all(|x| x.is_finite()) && before != after, "{weight} was not trained");
    }
    let path = folder.path().join("int8.onnx");
    done.model.save(&path).unwrap();
    assert!(Model::load(&path).unwrap().evaluate(&data, 16).is_ok());
}
