//! The shapes of any model are found, or it is refused.

#![no_main]

include!("mutator.rs");

use onnx_qat_tests::hostile;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hostile::infer(bytes, 2));
