//! The recorded vectors of the repository, as they are and spoilt.

#![allow(clippy::unwrap_used)]

use onnx_qat_golden::{Report, Verdict, run_folder};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tensor::Tensor;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden")
}

fn read_json(path: impl AsRef<Path>) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Runs one file of cases in a folder of its own.
fn run(cases: &[Value], arrays: &BTreeMap<String, Tensor>) -> Report {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let file = json!({"name": "f", "arrays": "f.npz", "index": "f.index.json"});
    std::fs::write(at("index.json"), json!({ "files": [file] }).to_string()).unwrap();
    std::fs::write(at("f.index.json"), json!({ "cases": cases }).to_string()).unwrap();
    data::npz::write(at("f.npz"), arrays).unwrap();
    run_folder(folder.path()).unwrap()
}

fn verdict(case: Value, arrays: &BTreeMap<String, Tensor>) -> Verdict {
    run(&[case], arrays).files.remove(0).cases.remove(0).verdict
}

#[test]
fn every_case_is_met() {
    let report = run_folder(fixtures()).unwrap();
    println!("{report}");
    assert_eq!(report.failed(), 0, "{report}");
    for (file, cases) in [("ops", 177), ("sequences", 42), ("pact", 39), ("freeze", 72), ("e2e", 8)] {
        let report = report.files.iter().find(|f| f.name == file).unwrap();
        let passed = report.cases.iter().filter(|c| c.verdict == Verdict::Passed).count();
        let deviating = report.cases.iter().filter(|c| matches!(c.verdict, Verdict::Deviates(_))).count();
        // Where the logits are codes themselves, a code that sits on a rounding boundary may be another one.
        let deviating = if file == "e2e" { deviating.min(1) } else { 0 };
        assert_eq!((report.cases.len(), passed + deviating), (cases, cases), "{file}");
    }
}

/// Every single output is looked at: the case fails when one element of that output, and nothing else, is spoilt.
#[test]
fn no_output_can_be_wrong_unnoticed() {
    for file in ["ops", "sequences", "pact", "freeze"] {
        let index = read_json(fixtures().join(format!("{file}.index.json")));
        let cases = index["cases"].as_array().unwrap();
        let good = data::npz::read(fixtures().join(format!("{file}.npz"))).unwrap();
        let most = cases.iter().map(|c| c["outputs"].as_object().unwrap().len()).max().unwrap();
        for nth in 0..most {
            let (mut spoilt, mut arrays) = (vec![], good.clone());
            for case in cases {
                let Some(key) = case["outputs"].as_object().unwrap().values().nth(nth) else { continue };
                let array = &good[key.as_str().unwrap()];
                let mut values = array.to_f32();
                let middle = values.len() / 2;
                let x = &mut values[middle];
                *x = if x.is_finite() { *x + x.abs().max(1.0) * 0.01 } else { 0.0 };
                arrays.insert(key.as_str().unwrap().into(), Tensor::new(array.shape(), values));
                spoilt.push(case.clone());
            }
            let report = run(&spoilt, &arrays);
            let passed: Vec<&str> = report.files[0]
                .cases
                .iter()
                .filter(|c| !matches!(c.verdict, Verdict::Failed(_)))
                .map(|c| c.id.as_str())
                .collect();
            assert!(passed.is_empty(), "spoilt output {nth} of {file} went unnoticed: {passed:?}");
        }
    }
}

#[test]
fn cases_that_make_no_sense_fail_with_a_reason() {
    let arrays = BTreeMap::from([
        ("x".to_string(), Tensor::new(&[2], vec![1.0f32, -2.0])),
        ("s".to_string(), Tensor::new(&[1], vec![2.0f32])),
    ]);
    let good = json!({
        "id": "a", "op": "fake_quantize_abs_max", "attrs": {"bit_length": 8},
        "inputs": {"x": "x"}, "outputs": {"scale": "s"}, "tolerance": {"abs": 0.0, "rel": 0.0, "note": "exact"},
    });
    assert_eq!(verdict(good.clone(), &arrays), Verdict::Passed);

    let failures = [
        ("/op", json!("fake_quantize_magic"), "there is nothing that computes `fake_quantize_magic`"),
        ("/inputs/x", json!("y"), "the archive has no array `y`"),
        ("/inputs", json!({}), "the case has no input `x`"),
        ("/outputs/scale", json!("x"), "`scale` has shape [1], recorded is [2]"),
        ("/outputs", json!({}), "the case records no output"),
        ("/outputs", json!({"y": "s"}), "`y` is not computed"),
        ("/attrs/bit_length", json!(17), "refused: 17 bits"),
        ("/attrs/bit_length", json!("8"), "attribute `bit_length` is \"8\""),
        ("/tolerance/abs", json!({"rel": 1}), "tolerance `abs` is {\"rel\":1}"),
        ("/inputs/x", json!(7), "not a valid case: invalid type: integer `7`, expected a string"),
    ];
    for (place, value, why) in failures {
        let mut case = good.clone();
        *case.pointer_mut(place).unwrap() = value;
        assert_eq!(verdict(case, &arrays), Verdict::Failed(why.into()));
    }
}

#[test]
fn what_paddle_refuses_is_refused() {
    let arrays = BTreeMap::from([("x".to_string(), Tensor::new(&[2], vec![1.0f32, -2.0]))]);
    let case = |bits: i64| {
        json!({
            "id": "a", "op": "fake_quantize_abs_max", "attrs": {"bit_length": bits}, "inputs": {"x": "x"},
            "error": "ValueError",
        })
    };
    assert_eq!(verdict(case(17), &arrays), Verdict::Passed);
    let why = "Paddle raises ValueError, here it is computed";
    assert_eq!(verdict(case(8), &arrays), Verdict::Failed(why.into()));
}

#[test]
fn files_for_later_are_counted_and_missing_cases_are_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, count: usize| json!({"name": name, "arrays": "none.npz", "index": "cases.json", "case_count": count});
    let index = json!({"files": [file("dygraph", 1), file("calibration", 2)]});
    std::fs::write(folder.path().join("index.json"), index.to_string()).unwrap();
    std::fs::write(folder.path().join("cases.json"), json!({"cases": [{"id": "a", "op": "b"}]}).to_string())
        .unwrap();
    let report = run_folder(folder.path()).unwrap();
    assert_eq!((report.passed(), report.failed(), report.not_run()), (0, 1, 2), "{report}");
    assert!(report.to_string().contains("failed: cases.json: the index announces 2 cases, 1 are there"));
    assert!(run_folder(folder.path().join("nowhere")).is_err());
}
