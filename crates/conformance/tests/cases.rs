//! The operator tests of ONNX in `fixtures/spec`, and the light models of the corpus.

#![allow(clippy::unwrap_used)]

use onnx_qat_conformance::{self as conformance, Case, DataSet, Verdict};
use prost::Message;
use std::path::{Path, PathBuf};
use tensor::Tensor;

fn archive() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/spec/cases.zip")
}

#[test]
fn every_packed_case_passes() {
    let report = conformance::run(archive()).unwrap();
    let [passed, one_by_one, failed, not_supported] = report.counts();
    assert!(passed + one_by_one > 500, "the archive holds {} cases", report.cases.len());
    assert_eq!((failed, not_supported), (0, 0), "{report}");
}

#[test]
fn a_wrong_result_is_found() {
    let mut cases = conformance::read_archive(&archive()).unwrap();
    let case = cases.iter_mut().find(|case| case.name == "test_add").unwrap();
    assert_eq!(case.run().verdict, Verdict::Passed);
    // Another operator on the same operands.
    let at = case.model.windows(3).position(|w| w == b"Add").unwrap();
    case.model[at..at + 3].copy_from_slice(b"Sub");
    assert!(matches!(case.run().verdict, Verdict::Failed(why) if why.contains("differ")));
}

/// What the runner of the `onnx` package feeds them: `0/n, 1/n, …, (n-1)/n`.
fn ramp(shape: &[usize]) -> Tensor {
    let n: usize = shape.iter().product();
    Tensor::new(shape, (0..n).map(|i| (i as f64 / n as f64) as f32).collect())
}

#[test]
fn light_models() {
    let Some(corpus) = std::env::var_os("ONNX_QAT_CORPUS") else {
        eprintln!("skipped: ONNX_QAT_CORPUS is not set");
        return;
    };
    let folder = Path::new(&corpus).join("models/light");
    let mut models: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    models.retain(|path| path.extension().is_some_and(|e| e == "onnx"));
    models.sort();
    assert_eq!(models.len(), 9);
    for path in models {
        let name = path.to_string_lossy().into_owned();
        let (graph, _) = onnx::load(&path, &ops::Ops).unwrap();
        let mut set = DataSet::default();
        for (i, &id) in graph.inputs().iter().enumerate() {
            let shape: Vec<usize> =
                graph.ty(id.into()).shape.iter().flatten().map(|d| d.fixed().unwrap_or(1)).collect();
            set.add(&format!("input_{i}.pb"), onnx::from_tensor("", &ramp(&shape)).encode_to_vec());
        }
        set.add("output_0.pb", std::fs::read(name.replace(".onnx", "_output_0.pb")).unwrap());
        let mut case = Case::new(&name);
        case.model = std::fs::read(&path).unwrap();
        case.sets.insert("test_data_set_0".into(), set);
        let verdict = case.run().verdict;
        assert!(matches!(verdict, Verdict::Passed | Verdict::OneByOne), "{name}: {verdict:?}");
    }
}
