//! Damaged files are refused or read, never a panic.
#![allow(clippy::unwrap_used)]

mod common;

use onnx_qat_onnx as onnx;

use common::*;
use onnx::proto::attribute_proto::AttributeType;
use onnx::proto::*;
use onnx::{Error, export, import};
use prost::Message;
use std::fs;
use tensor::{DType, Tensor};

/// A model with a bit of everything.
fn small_model() -> ModelProto {
    let body = GraphProto {
        node: vec![node("Neg", "n", &["w"], &["inner"])],
        output: vec![info("inner", DType::F32, &[4])],
        ..GraphProto::default()
    };
    let mut choose = node("If", "if", &["cond"], &["z"]);
    choose.attribute =
        vec![AttributeProto { g: Some(body), ..attribute("then_branch", AttributeType::Graph) }];
    let mut clip = node("Clip", "clip", &["x"], &["t"]);
    clip.attribute = vec![float("min", 0.0), float("max", 6.0)];
    let mut constant = node("Constant", "", &[], &["c"]);
    let value = TensorProto {
        int64_data: vec![1, 2],
        raw_data: None,
        ..onnx::from_tensor("", &Tensor::new(&[2], vec![1i64, 2]))
    };
    constant.attribute = vec![AttributeProto { t: Some(value), ..attribute("value", AttributeType::Tensor) }];
    let add = node("Add", "", &["t", "w", "c"], &["y"]);
    let cond = onnx::from_tensor("cond", &Tensor::bools(&[], &[true]));
    let mut file = graph(vec![clip, constant, add, choose], vec![weights("w", &[1.0; 4]), cond], &["y", "z"]);
    file.value_info = vec![info("t", DType::F32, &[-1, 4])];
    model(file, 9)
}

/// Reads and, where that succeeds, writes.
fn survive(bytes: &[u8]) -> bool {
    let Ok(model) = ModelProto::decode(bytes) else { return false };
    let Ok((g, meta)) = import(model, &Ops) else { return false };
    g.check().unwrap();
    if let Ok((written, _)) = export(&g, &meta, None) {
        import(written, &Ops).unwrap();
    }
    true
}

/// A generator of pseudo-random numbers (xorshift64).
fn random(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state as usize
}

#[test]
fn every_truncation_is_refused() {
    let whole = small_model().encode_to_vec();
    assert!(survive(&whole));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.onnx");
    for len in 0..whole.len() {
        fs::write(&path, &whole[..len]).unwrap();
        let error = onnx::load(&path, &Ops).unwrap_err();
        if len > 20 {
            let cut = matches!(error, Error::Truncated { .. }) || error.to_string().contains("cut off");
            assert!(cut, "{len} of {} bytes: {error}", whole.len());
        }
    }
}

#[test]
fn flipped_bytes_do_not_panic() {
    let whole = small_model().encode_to_vec();
    let mut state = 0x9e37_79b9_7f4a_7c15;
    let mut read = 0;
    for round in 0..20_000 {
        let mut bytes = whole.clone();
        for _ in 0..1 + round % 4 {
            let at = random(&mut state) % bytes.len();
            bytes[at] = match round % 3 {
                0 => bytes[at] ^ (1 << (random(&mut state) % 8)),
                1 => random(&mut state) as u8,
                _ => [0, 0x7f, 0x80, 0xff][random(&mut state) % 4],
            };
        }
        read += survive(&bytes) as usize;
    }
    assert!((100..19_900).contains(&read), "{read} of 20000 damaged models were read");
}

#[test]
fn exchanged_pieces_do_not_panic() {
    let whole = small_model().encode_to_vec();
    let mut state = 0x1234_5678_9abc_def1;
    for _ in 0..5_000 {
        let mut bytes = whole.clone();
        let (from, to) = (random(&mut state) % bytes.len(), random(&mut state) % bytes.len());
        let len = random(&mut state) % 24;
        let piece: Vec<u8> = whole[from..].iter().copied().take(len).collect();
        let end = (to + random(&mut state) % 24).min(bytes.len());
        bytes.splice(to..end, piece);
        survive(&bytes);
    }
}
