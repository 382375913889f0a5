//! A process killed at any moment leaves a checkpoint from which the run ends with the same bytes.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const KILLS: usize = 10;

/// Begins, or goes on with, a run whose every part has a state.
fn start(folder: &Path, out: &Path) -> Child {
    let digits = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/digits").join(name);
    Command::new(env!("CARGO_BIN_EXE_onnx-qat"))
        .arg("quantize")
        .arg(digits("digits_cnn.onnx"))
        .arg("--train")
        .arg(digits("digits.npz"))
        .arg("--eval")
        .arg(digits("digits.npz"))
        .args(["--epochs", "6", "--batch", "32", "--lr", "0.003", "--optimizer", "adam", "--pact"])
        .args(["--distill", "--ema", "0.95", "--clip-norm", "1", "--keep", "last", "--quiet"])
        .args(["--checkpoint-every", "5", "--resume", "--checkpoint"])
        .arg(folder)
        .arg("-o")
        .arg(out)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn ten_kills_change_no_byte() {
    let dir = tempfile::tempdir().unwrap();
    let undisturbed = dir.path().join("undisturbed.onnx");
    assert!(start(&dir.path().join("first"), &undisturbed).wait().unwrap().success());
    let expected = fs::read(&undisturbed).unwrap();

    let (mut kills, mut draw) = (0, 12345u64);
    for run in 0.. {
        let (folder, out) = (dir.path().join(format!("run{run}")), dir.path().join(format!("{run}.onnx")));
        loop {
            let mut child = start(&folder, &out);
            if kills < KILLS {
                draw = draw.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                std::thread::sleep(Duration::from_millis(50 + (draw >> 33) % 500));
                if child.try_wait().unwrap().is_none() {
                    child.kill().unwrap();
                    child.wait().unwrap();
                    kills += 1;
                    continue;
                }
            }
            assert!(child.wait().unwrap().success());
            break;
        }
        assert!(fs::read(&out).unwrap() == expected, "run {run} differs after {kills} kills");
        if kills == KILLS {
            break;
        }
    }
}
