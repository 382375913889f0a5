//! Real files: untouched they stay the same byte by byte, and graphs come back. `ONNX_QAT_CORPUS` names a folder of
//! more models.
#![allow(clippy::unwrap_used)]

mod common;

use onnx_qat_onnx as onnx;

use common::{Nothing, text};
use onnx::{Error, ModelError, SaveOptions, Weights, export, import, load, read_model, save, write_model};
use prost::Message;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn models(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        match path.is_dir() {
            true => models(&path, found),
            false if path.extension().is_some_and(|e| e == "onnx") => found.push(path),
            false => {}
        }
    }
}

fn all() -> Vec<PathBuf> {
    let mut found = Vec::new();
    models(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures"), &mut found);
    assert!(!found.is_empty());
    match env::var_os("ONNX_QAT_CORPUS") {
        Some(corpus) => models(Path::new(&corpus), &mut found),
        None => println!("skipping the corpus: ONNX_QAT_CORPUS is not set"),
    }
    found
}

#[test]
fn untouched_files_stay_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("copy.onnx");
    for path in all() {
        write_model(&read_model(&path).unwrap(), &copy, Weights::Auto).unwrap();
        assert!(fs::read(&path).unwrap() == fs::read(&copy).unwrap(), "{} changed", path.display());
    }
}

#[test]
fn graphs_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("copy.onnx");
    for path in all() {
        let (g, meta) = match load(&path, &Nothing) {
            Err(Error::Model { source: ModelError::Opset { .. }, .. }) => {
                println!("skipping {}: its opset is not read", path.display());
                continue;
            }
            loaded => loaded.unwrap(),
        };
        g.check().unwrap();
        // Without operators nothing can be converted.
        let opset = meta.opset();
        if !(13..=28).contains(&opset) {
            println!("skipping {}: opset {opset} is not written", path.display());
            continue;
        }
        let opset = Some(opset);
        save(&g, &meta, &copy, &SaveOptions { opset, weights: Weights::Auto }).unwrap();
        let (again, meta_again) = load(&copy, &Nothing).unwrap();
        let (before, after) = (text(&g), text(&again));
        let difference = before.lines().zip(after.lines()).find(|(a, b)| a != b);
        assert!(before == after, "{}: {difference:?}", path.display());

        // Every node that is not a constant is there as it was, but for its name where that was empty or repeated,
        // and for omitted operands at the end. Calls of functions are replaced.
        let calls = !read_model(&path).unwrap().functions.is_empty();
        let nodes = |path: &Path| {
            let mut nodes = read_model(path).unwrap().graph.unwrap().node;
            nodes.retain(|n| n.op_type() != "Constant");
            for n in &mut nodes {
                n.name = None;
                for names in [&mut n.input, &mut n.output] {
                    let len = names.iter().rposition(|name| !name.is_empty()).map_or(0, |i| i + 1);
                    names.truncate(len);
                }
                n.domain = n.domain.take().filter(|d| !d.is_empty());
                n.attribute.sort_by(|a, b| a.name().cmp(b.name()));
            }
            // Bytes, because NaN is not equal to itself.
            nodes.iter().map(Message::encode_to_vec).collect::<Vec<_>>()
        };
        assert!(calls || nodes(&path) == nodes(&copy), "{}: nodes changed", path.display());

        // From then on nothing changes at all.
        let (model, _) = export(&again, &meta_again, opset).unwrap();
        let (third, meta_third) = import(model.clone(), &Nothing).unwrap();
        let again = export(&third, &meta_third, opset).unwrap().0;
        assert!(again.encode_to_vec() == model.encode_to_vec(), "{}", path.display());
    }
}
