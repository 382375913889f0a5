//! The command as a user runs it: exit codes, messages, files.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn digits(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/digits").join(name);
    path.display().to_string()
}

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_onnx-qat")).args(args).output().unwrap()
}

/// Runs a command that has to fail with 1; its message.
fn failure(args: &[&str]) -> String {
    let output = run(args);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{args:?}: {message}");
    assert!(message.starts_with("error: "), "{message}");
    message
}

fn file(dir: &Path, name: &str, bytes: &[u8]) -> String {
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    path.display().to_string()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect()
}

#[test]
fn quantizes_the_fixture_and_evaluates_the_result() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("int8.onnx").display().to_string();
    let (model, data) = (digits("digits_cnn.onnx"), digits("digits.npz"));
    let args = ["quantize", &model, "--train", &data, "--eval", &data, "--pact", "--lr", "0.01", "-o", &out];
    let output = run(&args);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    for part in ["quantized: ", "epoch 1 of 1", "top-1", "written: "] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    let output = run(&["evaluate", &out, "--eval", &data, "--json"]);
    let line: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(line["accuracy"]["top1"].as_f64().unwrap() > 0.97, "{line}");
    let output = run(&["inspect", &out]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("QuantizeLinear") && !text.contains("qat."), "{text}");
    assert_eq!(files(dir.path()).len(), 2, "nothing but the result and its run is left");

    // The file next to the result gives the same bytes again.
    let (beside, again) = (dir.path().join("int8.toml"), dir.path().join("again.onnx"));
    let output = run(&["run", beside.to_str().unwrap(), "-q", "-o", again.to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(std::fs::read(&out).unwrap() == std::fs::read(&again).unwrap());
    let unknown = file(dir.path(), "unknown.toml", b"model = 'a'\noutput = 'b'\n[training]\nepoch = 3\n");
    let e = failure(&["run", &unknown]);
    assert!(e.contains("unknown.toml") && e.contains("epoch"), "{e}");
}

/// Each way to learn clipping and scales ends in a model that is as good as the float one, and comes again from its file.
#[test]
fn learned_quantizers_from_flags_and_from_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let (model, data) = (digits("digits_cnn.onnx"), digits("digits.npz"));
    let (out, again) = (dir.path().join("out.onnx"), dir.path().join("again.onnx"));
    let args = ["quantize", &model, "--train", &data, "--eval", &data, "--keep", "last", "--lr", "0.003"];
    let learned = [
        (&["--pact=all"][..], "pact_weights = true"),
        (&["--lsq"][..], "weight_quantize_type = \"channel_wise_lsq_weight\""),
        (&["--lsq=activations", "--pact=weights", "--lsq-lr", "0.01"][..], "\"lsq_plus_act\""),
    ];
    for (flags, key) in learned {
        let output = ["-o", out.to_str().unwrap(), "--json"];
        let found = run(&[&args[..], flags, &output].concat());
        assert!(found.status.success(), "{flags:?}: {}", String::from_utf8_lossy(&found.stderr));
        let text = String::from_utf8(found.stdout).unwrap();
        let done: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        let top1 = |which: &str| done[which]["top1"].as_f64().unwrap();
        assert!(top1("int8") >= top1("float") - 0.01, "{flags:?}: {done}");
        let beside = std::fs::read_to_string(out.with_extension("toml")).unwrap();
        assert!(beside.contains(key), "{beside}");
        let file = out.with_extension("toml").display().to_string();
        assert!(run(&["run", &file, "-o", again.to_str().unwrap()]).status.success());
        assert!(std::fs::read(&out).unwrap() == std::fs::read(&again).unwrap(), "{flags:?}");
    }
    let both = run(&["quantize", &model, "--train", &data, "--pact", "--lsq", "-o", out.to_str().unwrap()]);
    let e = String::from_utf8_lossy(&both.stderr);
    assert!(both.status.code() == Some(2) && e.contains("choose one"), "{e}");
}

/// What is learned needs training, and something that is not settled by the file.
#[test]
fn learning_without_effect_is_wrong_usage() {
    let dir = tempfile::tempdir().unwrap();
    let (model, data) = (digits("digits_cnn.onnx"), digits("digits.npz"));
    let int8 = dir.path().join("int8.onnx").display().to_string();
    let out = dir.path().join("out.onnx").display().to_string();
    let static_calibration = ["quantize", &model, "--train", &data, "--epochs", "0"];
    assert!(run(&[&static_calibration[..], &["-o", &int8]].concat()).status.success());
    let refused = |args: &[&str], flags: &[&str]| {
        let found = run(&[args, flags, &["-o", &out]].concat());
        assert_eq!(found.status.code(), Some(2), "{args:?} {flags:?}");
        assert!(!Path::new(&out).exists());
        String::from_utf8_lossy(&found.stderr).into_owned()
    };
    for flag in ["--lsq", "--pact=weights"] {
        for args in [&static_calibration[..], &["quantize", &model]] {
            let e = refused(args, &[flag]);
            assert!(e.contains(&flag[..5]) && e.contains("--epochs"), "{e}");
        }
        let e = refused(&["quantize", &int8, "--train", &data], &[flag]);
        assert!(e.contains("quantized already"), "{e}");
    }
}

#[test]
fn what_was_quantized_without_data_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("int8.onnx").display().to_string();
    let quantize = |more: &[&str]| {
        let model = digits("digits_cnn.onnx");
        let output = run(&[&["quantize", &model, "-o", &out], more].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let text = quantize(&[]);
    assert!(text.contains("quantized: Conv 4, Gemm 1\n") && text.contains("no data: "), "{text}");
    // Four of the seven convolutions got int8 weights: of the others, once each, why not.
    assert_eq!(text.matches("elements only").count(), 3, "{text}");
    assert_eq!(text.matches("only matrix products gain").count(), 3, "{text}");
    let text = quantize(&["--exclude", "*"]);
    assert!(text.contains("nothing was quantized") && !text.contains("no data: "), "{text}");
}

#[test]
fn the_bytes_do_not_depend_on_the_number_of_threads() {
    let dir = tempfile::tempdir().unwrap();
    let (model, data) = (digits("digits_cnn.onnx"), digits("digits.npz"));
    let bytes = ["1", "3"].map(|threads| {
        let out = dir.path().join(format!("{threads}.onnx"));
        let args = [
            "quantize",
            &model,
            "--train",
            &data,
            "--pact",
            "--limit",
            "256",
            "--threads",
            threads,
            "--quiet",
            "-o",
        ];
        assert!(run(&[&args[..], &[out.to_str().unwrap()]].concat()).status.success());
        std::fs::read(out).unwrap()
    });
    assert!(bytes[0] == bytes[1]);
}

#[test]
fn wrong_usage_is_2_and_help_is_0() {
    assert_eq!(run(&["quantize"]).status.code(), Some(2));
    assert_eq!(run(&["quantise", "x"]).status.code(), Some(2));
    assert_eq!(run(&["quantize", "x.onnx", "--epochs", "many"]).status.code(), Some(2));
    assert_eq!(run(&["--help"]).status.code(), Some(0));
    assert_eq!(run(&["quantize", "--help"]).status.code(), Some(0));
}

#[test]
fn bad_models_are_told_and_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.onnx").display().to_string();
    let quantize = |model: &str| failure(&["quantize", model, "-o", &out]);
    let missing = dir.path().join("none.onnx").display().to_string();
    assert!(quantize(&missing).contains("none.onnx"));
    let text = file(dir.path(), "text.onnx", b"not a model at all, only words");
    assert!(quantize(&text).contains("text.onnx"));
    let whole = std::fs::read(digits("digits_cnn.onnx")).unwrap();
    let cut = file(dir.path(), "cut.onnx", &whole[..whole.len() / 2]);
    assert!(quantize(&cut).contains("cut.onnx"));
    assert_eq!(files(dir.path()).len(), 2);
}

#[test]
fn an_output_that_cannot_be_written_is_told() {
    let data = digits("digits.npz");
    let dir = tempfile::tempdir().unwrap();
    let nowhere = dir.path().join("no/such/folder/out.onnx").display().to_string();
    let e = failure(&["quantize", &digits("digits_cnn.onnx"), "--eval", &data, "-o", &nowhere]);
    assert!(e.contains("out.onnx"), "{e}");
}

#[test]
fn bad_data_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let model = digits("digits_cnn.onnx");
    let out = dir.path().join("out.onnx").display().to_string();
    let train = |data: &str| failure(&["quantize", &model, "--train", data, "-o", &out]);

    use onnx_qat::tensor::Tensor;
    use std::collections::BTreeMap;
    let npz = |name: &str, x: Tensor, y: Vec<i64>| {
        let path = dir.path().join(name);
        let arrays = BTreeMap::from([("x".to_string(), x), ("y".to_string(), Tensor::new(&[y.len()], y))]);
        onnx_qat::data::npz::write(&path, &arrays).unwrap();
        path.display().to_string()
    };
    let images = |shape: &[usize], value: f32| Tensor::new(shape, vec![value; shape.iter().product()]);

    let e = train(&npz("shape.npz", images(&[64, 1, 9, 8], 0.5), vec![0; 64]));
    assert!(e.contains("shape.npz") && e.contains('9'), "{e}");
    let e = train(&npz("labels.npz", images(&[64, 1, 8, 8], 0.5), vec![11; 64]));
    assert!(e.contains("labels.npz") && e.contains("11"), "{e}");
    let e = train(&npz("nan.npz", images(&[64, 1, 8, 8], f32::NAN), vec![0; 64]));
    assert!(e.contains("nan.npz") && e.contains("NaN"), "{e}");
    let e = train(&npz("few.npz", images(&[3, 1, 8, 8], 0.5), vec![0; 3]));
    assert!(e.contains("batch"), "{e}");
    assert!(!Path::new(&out).exists());
}

#[test]
fn an_unknown_configuration_key_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let config = file(dir.path(), "quant.toml", b"weight_bit = 8\n");
    let e = failure(&["quantize", &digits("digits_cnn.onnx"), "--config", &config]);
    assert!(e.contains("quant.toml") && e.contains("weight_bit"), "{e}");
}

#[test]
fn analyzes_the_fixture() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (toml, html) = (path("a.toml"), path("a.html"));
    let args = [
        "analyze",
        &digits("digits_cnn.onnx"),
        "--data",
        &digits("digits.npz"),
        "-o",
        &toml,
        "--report",
        &html,
    ];
    let output = run(&args);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let found =
        onnx_qat::observe::Distributions::from_toml(&std::fs::read_to_string(&toml).unwrap()).unwrap();
    let input = &found.tensors["input"];
    assert_eq!((input.min, input.max), (0.0, 1.0));
    assert!(found.tensors.len() > 8 && found.tensors.values().all(|d| d.min <= d.max && d.zeros <= 1.0));
    // Thresholds start where the file says, so training takes another way.
    let train = |init: &str| {
        let (model, data, out) = (digits("digits_cnn.onnx"), digits("digits.npz"), path("int8.onnx"));
        let args = [
            "quantize",
            &model,
            "--train",
            &data,
            "--limit",
            "128",
            "--pact",
            "--pact-init",
            init,
            "-q",
            "-o",
            &out,
        ];
        assert!(run(&args).status.success());
        let bytes = std::fs::read(&out).unwrap();
        std::fs::remove_file(&out).unwrap();
        std::fs::remove_file(Path::new(&out).with_extension("toml")).unwrap();
        bytes
    };
    assert!(train(&toml) != train("calibrated"));
    let wrong = file(dir.path(), "wrong.toml", b"[tensors.x]\nmin = 0\n");
    let output = run(&["quantize", "m.onnx", "--pact", "--pact-init", &wrong]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("wrong.toml"));
    std::fs::remove_file(&wrong).unwrap();

    let html = std::fs::read_to_string(&html).unwrap();
    assert_eq!(html.matches("<svg").count(), found.tensors.len());
    assert!(!html.contains("NaN") && !html.contains("http"), "{html}");
    assert_eq!(files(dir.path()).len(), 2);

    let nowhere = path("none/a.toml");
    let e =
        failure(&["analyze", &digits("digits_cnn.onnx"), "--data", &digits("digits.npz"), "-o", &nowhere]);
    assert!(e.contains("a.toml"), "{e}");
}

#[test]
fn compares_and_predicts() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (model, data) = (digits("digits_cnn.onnx"), digits("digits.npz"));
    let (int8, html) = (path("int8.onnx"), path("c.html"));
    assert!(
        run(&["quantize", &model, "--train", &data, "--epochs", "0", "-q", "-o", &int8]).status.success()
    );
    let output = run(&["compare", &model, &int8, "--data", &data, "--json", "--report", &html]);
    let line: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(line["agreement"].as_f64().unwrap() > 0.97, "{line}");
    assert_eq!(line["int8"]["samples"], line["samples"]);
    let layers = line["layers"].as_array().unwrap();
    assert!(layers.len() > 8, "{line}");
    // Nothing accumulates to less than a few dB of signal, nor is own noise larger than the accumulated one by much.
    assert!(
        layers.iter().all(|l| l["sqnr"].as_f64().unwrap() > 15.0 && l["own"].as_f64().unwrap() > 25.0),
        "{line}"
    );
    let differing = line["differing"].as_array().unwrap().len() as f64;
    assert!((line["agreement"].as_f64().unwrap() - (1.0 - differing / 360.0)).abs() < 1e-12);
    assert!(std::fs::read_to_string(&html).unwrap().contains("SQNR"));
    // A model is itself.
    let output = run(&["compare", &model, &model, "--data", &data, "--limit", "16"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("agreement: 100.00 %, 0 of 16") && text.contains("exact"), "{text}");

    let names =
        file(dir.path(), "names.txt", b"zero\none\ntwo\nthree\nfour\nfive\nsix\nseven\neight\nnine\n");
    let output = run(&["predict", &int8, &data, "--sample", "3", "--labels", &names]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("sample 3, labelled eight") && text.lines().count() >= 8, "{text}");
    assert_eq!(run(&["predict", &int8, &data, "--sample", "360"]).status.code(), Some(2));
}

#[test]
fn a_run_leaves_a_page_and_curves() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (model, data) = (digits("digits_cnn.onnx"), digits("digits.npz"));
    let (int8, html, curves) = (path("int8.onnx"), path("run.html"), path("curves"));
    let args =
        ["quantize", &model, "--train", &data, "--eval", &data, "--pact", "--epochs", "2", "-o", &int8];
    let output = run(&[&args[..], &["--report", &html, "--tensorboard", &curves]].concat());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let logged = text.lines().filter(|l| l.starts_with("epoch[") && l.contains("]-batch[")).count();
    // 22 batches in an epoch, a line for each tenth.
    assert_eq!(logged, 2 * 3, "{text}");
    assert!(text.contains("epoch[1]-batch[20] loss "), "{text}");
    let page = std::fs::read_to_string(&html).unwrap();
    for part in ["Training", "Layers", "Decisions", "Thresholds", "Learning rate"] {
        assert!(page.contains(&format!("{part}</h")), "{part}");
    }
    assert!(!page.contains("NaN") && !page.contains("http"));
    let events = files(Path::new(&curves));
    assert_eq!(events.len(), 1);
    assert!(
        events[0].display().to_string().contains("tfevents")
            && std::fs::metadata(&events[0]).unwrap().len() > 2000
    );
}
