//! A user's own activation pre-process, without touching the crates of this project: clipping between two learned
//! bounds, where PACT learns one.
//!
//! `cargo run --release --example preprocess`

use onnx_qat::ir::{self, Graph, GraphError, Role, ValueId};
use onnx_qat::ops;
use onnx_qat::passes::{Preprocess, Site};
use onnx_qat::prelude::{
    DataRole, Event, FitOptions, Hooks, Model, Optimizer, ParamGroup, QuantConfig, Schedule,
};
use onnx_qat::prelude::{Source, calibrate, convert, fit, quant_aware};
use onnx_qat::tensor::Tensor;
use std::sync::Arc;

/// `y = min(max(x, low), high)` with `low` and `high` trained.
struct TwoSidedClip;

impl Preprocess for TwoSidedClip {
    fn insert(&self, graph: &mut Graph, site: &Site) -> Result<ValueId, GraphError> {
        let mut bound = |what: &str, value: f32| {
            let role = Role::Param("bounds".into());
            graph.add_variable(&format!("{}_{what}", site.name), Tensor::new(&[1], vec![value]), role)
        };
        let (low, high) = (bound("low", -4.0), bound("high", 8.0));
        let above = graph.add(ops::Max, &[site.value, low], &format!("{}_above", site.name))?;
        graph.add(ops::Min, &[above, high], &format!("{}_clipped", site.name))
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/digits");
    let mut model = Model::load(format!("{root}/digits_cnn.onnx"))?;
    let archive = format!("{root}/digits.npz");
    let data = |role| Ok::<_, Box<dyn std::error::Error>>(Source::parse(&archive, role)?);
    let train = model.open_data(&data(DataRole::Train)?, &Default::default())?;
    let test = model.open_data(&data(DataRole::Eval)?, &Default::default())?;

    let hooks = Hooks { act_preprocess: Some(Arc::new(TwoSidedClip)), ..Hooks::default() };
    quant_aware(&mut model, &QuantConfig::default(), &hooks)?;
    calibrate(&mut model, &train, 64, Some(8))?;
    let bounds = ParamGroup::new("bounds", Optimizer::MOMENTUM, Schedule::constant(1e-3));
    let weights = ParamGroup::weights(Optimizer::MOMENTUM, Schedule::constant(1e-2), 1e-4);
    let options = FitOptions { epochs: 2, groups: vec![weights, bounds], ..FitOptions::default() };
    fit(&mut model, &train, Some(&test), &options, &mut |event| {
        if let Event::Epoch { epoch, loss, .. } = event {
            println!("epoch {epoch}: loss {loss:.4}");
        }
    })?;
    let learned = model.graph.nodes().into_iter().filter(|&id| {
        matches!(&model.graph.node(id).kind, ir::Kind::Variable(_, Role::Param(group)) if **group == *"bounds")
    });
    for id in learned {
        println!("{} = {:?}", model.graph.node(id).name, model.graph.tensor(id.into()).map(Tensor::to_f32));
    }
    convert(&mut model)?;
    println!("int8 top-1: {:.2} %", 100.0 * model.evaluate(&test, 64)?.top1());
    Ok(())
}
