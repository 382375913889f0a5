//! Reads a model and writes it untouched: what the graph form keeps of a file.
//!
//! `cargo run --release --example resave MODEL.onnx COPY.onnx`

use onnx_qat::Model;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let paths: Vec<String> = std::env::args().skip(1).collect();
    let [model, copy] = &paths[..] else { return Err("usage: resave MODEL.onnx COPY.onnx".into()) };
    Model::load(model)?.save(copy)?;
    Ok(())
}
