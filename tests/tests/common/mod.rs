//! Running graphs on drawn inputs, and what holds for every quantized graph.

#![allow(clippy::unwrap_used)]

use exec::{Machine, Program};
use ir::{Graph, Kind, QuantRole};
use ops::{FakeQuant, Pact, Processed, QuantizeLinear};
use passes::{FoldConstants, Pass, Report};
use std::sync::Arc;
use tensor::{DType, Tensor};

/// Takes quantizers, and what was put in front of them, out of a graph.
pub fn without_quantizers(graph: &Graph) -> Graph {
    let mut float = graph.clone();
    for id in float.order().unwrap() {
        let node = float.node(id);
        let slot = if node.is::<Processed>().is_some() { 1 } else { 0 };
        if node.is::<FakeQuant>().is_some() || node.is::<Pact>().is_some() || node.is::<Processed>().is_some()
        {
            let x = node.ins[slot].unwrap();
            float.replace(id.into(), x).unwrap();
        }
    }
    float.clear_updates();
    float.sweep();
    float.check().unwrap();
    float
}

/// Numbers for an input: the same in every run.
fn draw(dtype: DType, shape: &[usize]) -> Result<Tensor, String> {
    let mut seed = 1u64;
    let mut next = || {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 11) as f64 / (1u64 << 53) as f64
    };
    let len = shape.iter().product();
    match dtype {
        DType::F32 => Ok(Tensor::new(shape, (0..len).map(|_| (next() * 4.0 - 2.0) as f32).collect())),
        // Labels of two classes, too.
        DType::I64 => Ok(Tensor::new(shape, (0..len).map(|_| (next() * 2.0) as i64).collect())),
        other => Err(format!("no input of type {other} is drawn")),
    }
}

/// A machine for a graph, fed with drawn inputs. Unnamed and named sizes are 2.
///
/// # Errors
/// When the executor does not run the graph.
pub fn machine(graph: &Graph) -> Result<Machine, String> {
    let mut graph = graph.clone();
    graph.bind(|_, _| Some(2)).map_err(|e| e.to_string())?;
    FoldConstants.run(&mut graph, &mut Report::default()).map_err(|e| e.to_string())?;
    graph.sweep();
    let mut machine = Machine::new(Arc::new(Program::compile(&graph).map_err(|e| e.to_string())?));
    for &id in graph.inputs() {
        let (name, ty) = (&graph.node(id).name, graph.ty(id.into()));
        if machine.has_input(name)
            && let (Some(dtype), Some(shape)) = (ty.dtype, ty.dims())
        {
            machine.set_input(name, &draw(dtype, &shape)?).map_err(|e| e.to_string())?;
        }
    }
    Ok(machine)
}

/// The outputs of a graph, by name.
pub fn run(graph: &Graph) -> Vec<(String, Tensor)> {
    let mut machine = machine(graph).unwrap();
    machine.run().unwrap();
    graph.outputs().iter().map(|o| (o.name.clone(), machine.output(&o.name).unwrap())).collect()
}

/// Runs a graph on drawn inputs and keeps what its variables become after `steps` steps.
pub fn update(graph: &mut Graph, running: &Graph, steps: usize) {
    let mut machine = machine(running).unwrap();
    for _ in 0..steps {
        machine.run().unwrap();
    }
    for (name, value) in machine.variables() {
        let v = graph.find(&name).unwrap();
        let Kind::Variable(_, role) = &graph.node(v.node).kind else { panic!("{name} is no variable") };
        let kind = Kind::Variable(value, role.clone());
        graph.set_leaf(v.node, kind).unwrap();
    }
}

/// What holds for every emitted graph: pairs with constant scale and zero point, one quantizer per tensor, and a bias in the
/// scale of the products that it is added to.
pub fn check_emitted(graph: &Graph) {
    let is_quantizer = |id| graph.node(id).is::<QuantizeLinear>().is_some();
    for id in graph.nodes() {
        let node = graph.node(id);
        for out in 0..node.outs.len() {
            let v = ir::ValueId { node: id, out: out as u16 };
            let quantizers: Vec<_> =
                graph.consumers(v).into_iter().filter(|&(n, slot)| slot == 0 && is_quantizer(n)).collect();
            assert!(quantizers.len() <= 1, "\"{}\" has {} quantizers", graph.value(v).name, quantizers.len());
        }
        let Some(op) = node.op() else { continue };
        if ["QuantizeLinear", "DequantizeLinear"].contains(&op.name()) {
            for v in [node.ins[1].unwrap(), node.ins[2].unwrap()] {
                assert!(graph.constant(v).is_some(), "{}", node.label());
            }
        }
        if let QuantRole::Weighted { data, weight, bias, .. } = op.quant()
            && let [Some(x), Some(w)] = [node.ins[data], node.ins[weight]]
            && let Some(b) = node.ins.get(bias).copied().flatten()
            && let [Some(x), Some(w), Some(b)] = [x, w, b].map(|v| {
                let pair = graph.producer::<ops::DequantizeLinear>(v);
                pair.and_then(|_| graph.constant(graph.node(v.node).ins[1]?)).map(Tensor::to_f32)
            })
        {
            let product: Vec<f32> = (0..b.len()).map(|c| x[0] * w[c % w.len()]).collect();
            assert_eq!(b, product, "{}: the bias has the scale of the products", node.label());
        }
    }
}
