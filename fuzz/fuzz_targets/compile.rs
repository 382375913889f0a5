//! Any model goes through the passes, or is refused.

#![no_main]

include!("mutator.rs");

use onnx_qat_tests::hostile;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hostile::compile(bytes));
