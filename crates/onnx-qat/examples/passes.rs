//! A pass pipeline alone: the graph as text before and after each pass, and what was left and why.
//!
//! `cargo run --release --example passes`

use onnx_qat::Model;
use onnx_qat::passes::{FoldBatchNorm, FoldConstants, Hooks, InsertFakeQuant, Pipeline, QuantConfig};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/digits/digits_cnn.onnx");
    let mut graph = Model::load(path)?.graph;
    let config = QuantConfig::builder().not_quant_pattern(["fc"]).build()?;
    let pipeline = Pipeline::new()
        .then(FoldConstants)
        .then(FoldBatchNorm)
        .then(InsertFakeQuant { config, hooks: Hooks::default() });
    println!("{pipeline}\n");
    let report = pipeline.run_with(&mut graph, |pass, graph| {
        println!("# after {}\n{}", pass.name(), onnx_qat::ir::text::print(graph));
    })?;
    for line in &report.lines {
        println!("{line}");
    }
    Ok(())
}
