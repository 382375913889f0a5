//! The whole flow: float model in, fine-tuned int8 model out.
//!
//! `cargo run --release --example qat`

use onnx_qat::passes::{InsertPreprocess, Pipeline};
use onnx_qat::prelude::*;
use std::sync::Arc;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/digits");
    let mut model = Model::load(format!("{root}/digits_cnn.onnx"))?;
    let archive = format!("{root}/digits.npz");
    let train = model.open_data(&Source::parse(&archive, DataRole::Train)?, &Preprocess::default())?;
    let test = model.open_data(&Source::parse(&archive, DataRole::Eval)?, &Preprocess::default())?;
    println!("float: {:.2} %", 100.0 * model.evaluate(&test, 64)?.top1());

    // Quantizers in, ranges from data, learned clipping in front of the activation quantizers.
    let config = QuantConfig::default();
    quant_aware(&mut model, &config, &Hooks::default())?;
    calibrate(&mut model, &train, 64, Some(8))?;
    let pact = InsertPreprocess { preprocess: Arc::new(Pact { initial: 8.0, ..Pact::default() }), config };
    model.run_passes(&Pipeline::new().then(pact))?;

    // Weights and thresholds have optimizers of their own.
    let schedule = |rate| Schedule { rate, decay: Decay::Cosine, warmup: 10 };
    let options = FitOptions {
        epochs: 3,
        groups: vec![
            ParamGroup::weights(Optimizer::MOMENTUM, schedule(0.01), 1e-4),
            ParamGroup::pact(Optimizer::ADAM, schedule(0.01), 1e-4),
        ],
        ..FitOptions::default()
    };
    fit(&mut model, &train, Some(&test), &options, &mut |event| {
        if let Event::Epoch { epoch, loss, eval: Some(int8), .. } = event {
            println!("epoch {epoch}: loss {loss:.4}, top-1 {:.2} % in int8", 100.0 * int8.score());
        }
    })?;

    convert(&mut model)?;
    println!("int8: {:.2} %", 100.0 * model.evaluate(&test, 64)?.top1());
    let out = std::env::temp_dir().join("digits_cnn.int8.onnx");
    model.save(&out)?;
    println!("written: {}", out.display());
    Ok(())
}
