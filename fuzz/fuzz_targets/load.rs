//! Any bytes are read as a model, or refused.

#![no_main]

include!("mutator.rs");

use onnx_qat_tests::hostile;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| drop(hostile::load(bytes)));
