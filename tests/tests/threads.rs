//! The emitted bytes do not depend on the number of threads.

#![allow(clippy::unwrap_used)]

use onnx_qat::passes::{Hooks, QuantConfig};
use onnx_qat::prelude::{
    DataRole, Decay, FitOptions, Model, Optimizer, ParamGroup, Preprocess, Schedule, Source,
};
use onnx_qat::{PactInit, QuantizeOptions};
use std::path::Path;

/// Trains a fixture with PACT on a pool of `threads` threads. Returns the file.
fn trained(model: &str, threads: usize) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/digits");
    let model = Model::load(folder.join(model)).unwrap();
    let data = folder.join("digits.npz").display().to_string();
    let source = Source::parse(&data, DataRole::Train).unwrap();
    let data = model.open_data(&source, &Preprocess::default()).unwrap();
    let schedule = Schedule { rate: 0.01, decay: Decay::Cosine, warmup: 0 };
    let groups = vec![
        ParamGroup::weights(Optimizer::MOMENTUM, schedule.clone(), 1e-4),
        ParamGroup::pact(Optimizer::ADAM, schedule, 1e-4),
    ];
    let options = QuantizeOptions {
        config: QuantConfig::default(),
        hooks: Hooks::default(),
        equalize: true,
        fold_batch_norm: false,
        recipe: None,
        pact: Some(PactInit::Value(4.0)),
        pact_weights: true,
        calibration_samples: 128,
        fit: FitOptions { epochs: 1, batch: 96, seed: 3, groups, ..FitOptions::default() },
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let done = pool.install(|| onnx_qat::quantize(&model, Some(&data), None, &options, &mut |_| {})).unwrap();
    let out = std::env::temp_dir().join(format!("onnx-qat-threads-{}-{threads}.onnx", std::process::id()));
    done.model.save(&out).unwrap();
    let bytes = std::fs::read(&out).unwrap();
    std::fs::remove_file(&out).unwrap();
    bytes
}

#[test]
fn the_same_bytes_on_any_number_of_threads() {
    for model in ["digits_cnn.onnx", "digits_cnn.train.onnx"] {
        let one = trained(model, 1);
        for threads in [2, 4] {
            assert!(trained(model, threads) == one, "{model} differs on {threads} threads");
        }
    }
}
