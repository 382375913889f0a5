//! The generated Rust code is that of `proto/onnx.proto`. Made here, so that neither a build nor a user needs `protoc`.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::{env, fs};

#[test]
fn generated_code_is_fresh() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let proto = root.join("../../proto");
    let committed = root.join("src/generated/onnx.rs");

    let out = tempfile::tempdir().unwrap();
    let descriptors = protox::compile(["onnx.proto"], [proto]).unwrap();
    prost_build::Config::new().bytes(["."]).out_dir(out.path()).compile_fds(descriptors).unwrap();
    let fresh = fs::read_to_string(out.path().join("onnx.rs")).unwrap();

    if env::var_os("UPDATE_SCHEMA").is_some_and(|v| v == "1") {
        fs::write(&committed, &fresh).unwrap();
    }
    let committed = fs::read_to_string(committed).unwrap_or_default();
    assert!(committed == fresh, "stale: run UPDATE_SCHEMA=1 cargo test -p onnx-qat-onnx --test schema");
}
