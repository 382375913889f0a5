//! Gradients of a model file, for comparison with other frameworks (`tests/interop/gradients.py`).
//!
//! `cargo run --release --example gradients MODEL.onnx OPERANDS.npz GRADIENTS.npz NAME...`
//!
//! OPERANDS.npz holds the inputs by name, and an array `loss/Y` of the shape of output `Y` for some outputs: the loss is
//! the sum of all `loss/Y * Y`. GRADIENTS.npz gets its gradients with respect to the named inputs and weights, by name, and
//! the loss itself as `loss`. Batch norms compute as the file says; nothing is trained or rewritten.

use onnx_qat::data::npz;
use onnx_qat::exec::{Machine, Program};
use onnx_qat::ir::{self, Graph, Kind, Role, Type, ValueId};
use onnx_qat::ops::{Add, Mul, Ops, ReduceForm, ReduceSum};
use onnx_qat::passes::{FoldConstants, Pass, Report};
use std::collections::BTreeMap;
use std::sync::Arc;
use tensor::Tensor;

type Error = Box<dyn std::error::Error>;

fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, operands, result, names @ ..] = &arguments[..] else {
        return Err("usage: gradients MODEL.onnx OPERANDS.npz GRADIENTS.npz NAME...".into());
    };
    let (mut graph, _) = onnx::load(model, &Ops)?;
    let operands = npz::read(operands)?;
    let wrt = names.iter().map(|name| parameter(&mut graph, name)).collect::<Result<Vec<_>, _>>()?;
    for id in graph.inputs().to_vec() {
        if let Some(value) = operands.get(&graph.node(id).name) {
            graph.set_input_type(id, Type::new(value.dtype(), value.shape().iter().copied()));
        }
    }
    graph.infer()?;
    FoldConstants.run(&mut graph, &mut Report::default())?;
    let loss = add_loss(&mut graph, &operands)?;
    let gradients = ir::gradients(&mut graph, loss, &wrt, Arc::new(Add))?;

    let mut outputs = vec![("loss".to_string(), loss)];
    let mut zeros = BTreeMap::new();
    for ((name, &value), gradient) in names.iter().zip(&wrt).zip(gradients) {
        match (gradient, graph.ty(value).dims()) {
            (Some(gradient), _) => outputs.push((name.clone(), gradient)),
            (None, Some(dims)) => {
                zeros.insert(name.clone(), Tensor::zeros(tensor::DType::F32, &dims));
            }
            (None, None) => return Err(format!("the shape of \"{name}\" is not known").into()),
        }
    }
    graph.set_outputs(outputs);
    graph.sweep();
    let mut machine = Machine::new(Arc::new(Program::compile(&graph)?));
    for (name, value) in operands.iter().filter(|(name, _)| machine.has_input(name)).collect::<Vec<_>>() {
        machine.set_input(name, value)?;
    }
    machine.run()?;
    let mut arrays = zeros;
    for output in graph.outputs() {
        arrays.insert(output.name.clone(), machine.output(&output.name)?);
    }
    npz::write(result, &arrays)?;
    Ok(())
}

/// The input of this name, or the constant, made a parameter.
fn parameter(graph: &mut Graph, name: &str) -> Result<ValueId, Error> {
    let value = graph.find(name).ok_or_else(|| format!("the model has no value \"{name}\""))?;
    if let Some(constant) = graph.constant(value).cloned() {
        graph.set_leaf(value.node, Kind::Variable(constant, Role::Param("weights".into())))?;
    }
    Ok(value)
}

/// The sum of all outputs times their arrays `loss/…`.
fn add_loss(graph: &mut Graph, operands: &BTreeMap<String, Tensor>) -> Result<ValueId, Error> {
    let mut total = None;
    for output in graph.outputs().to_vec() {
        let Some(weight) = operands.get(&format!("loss/{}", output.name)) else { continue };
        let weight = graph.add_const("loss_weight", weight.clone());
        let product = graph.add(Mul, &[output.value, weight], "loss_product")?;
        let form = ReduceForm { keep_dims: false, noop: false };
        let sum = graph.add(ReduceSum { form }, &[product], "loss_sum")?;
        total = Some(match total {
            None => sum,
            Some(sofar) => graph.add(Add, &[sofar, sum], "loss_total")?,
        });
    }
    total.ok_or_else(|| "no output has an array loss/NAME in the operands".into())
}
