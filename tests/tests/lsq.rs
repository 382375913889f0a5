//! The gradients of learned quantizers against those of PyTorch, recorded in `fixtures/lsq`.

#![allow(clippy::unwrap_used)]

use exec::{Machine, Program};
use ir::{Graph, Role, ValueId};
use onnx_qat::kernels::quant::{Grid, Quantizer};
use ops::{Add, FakeQuant, Mul, ReduceForm, ReduceSum, ZeroPoint};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use tensor::Tensor;

/// Result and gradients of a quantizer, by the names of the recorded arrays.
fn computed(
    recorded: &BTreeMap<String, Tensor>,
    case: &str,
    grid: Grid,
    axis: Option<usize>,
    zero_point: i32,
) -> Vec<(&'static str, Tensor)> {
    let of = |name: &str| recorded.get(&format!("{case}/{name}")).cloned();
    let mut graph = Graph::new(case);
    let mut parameter = |name: &str, value| graph.add_variable(name, value, Role::Param("lsq".into()));
    let (x, scale) = (parameter("x", of("x").unwrap()), parameter("scale", of("scale").unwrap()));
    let below = of("below").map(|below| parameter("below", below));
    let zero = match below {
        Some(below) => Some(graph.add(ZeroPoint { grid }, &[scale, below], "zero_point").unwrap()),
        None if grid.low < 0 => None,
        None => Some(graph.add_const("zero_point", Tensor::scalar(zero_point))),
    };
    let quant = FakeQuant { quantizer: Quantizer::onnx(grid), axis, clipped: true, learned: true };
    let ins = [Some(x), Some(scale), zero, below];
    let y: ValueId = graph.add_node(Arc::new(quant), &ins, "quant", &["y"]).unwrap().into();
    let dy = graph.add_const("dy", of("dy").unwrap());
    let product = graph.add(Mul, &[y, dy], "product").unwrap();
    let form = ReduceForm { keep_dims: false, noop: false };
    let loss = graph.add(ReduceSum { form }, &[product], "loss").unwrap();
    let wrt: Vec<ValueId> = [Some(x), Some(scale), below].into_iter().flatten().collect();
    let gradients = ir::gradients(&mut graph, loss, &wrt, Arc::new(Add)).unwrap();
    let names = ["dx", "dscale", "dbelow"];
    let gradients = names.into_iter().zip(gradients).map(|(name, g)| (name, g.unwrap()));
    let outputs: Vec<(&str, ValueId)> = std::iter::once(("y", y)).chain(gradients).collect();
    graph.set_outputs(outputs.iter().map(|(name, v)| (name.to_string(), *v)));
    let mut machine = Machine::new(Arc::new(Program::compile(&graph).unwrap()));
    machine.run().unwrap();
    outputs.into_iter().map(|(name, _)| (name, machine.output(name).unwrap())).collect()
}

#[test]
fn gradients_are_those_of_pytorch() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/lsq/lsq.npz");
    let recorded = onnx_qat::data::npz::read(path).unwrap();
    let cases = [
        ("weight", Grid::I8_NARROW, Some(0), 0),
        ("weight_of_one_scale", Grid::I8_NARROW, None, 0),
        ("positive", Grid::U8, None, 0),
        ("symmetric", Grid::U8, None, 128),
        ("both_ends", Grid::U8, None, 77),
    ];
    for (case, grid, axis, zero_point) in cases {
        for (name, found) in computed(&recorded, case, grid, axis, zero_point) {
            let want = recorded[&format!("{case}/{name}")].to_f32();
            let largest = want.iter().fold(0.0f32, |m, w| m.max(w.abs()));
            assert!(largest > 0.0, "{case}: {name}");
            for (found, want) in found.to_f32().iter().zip(&want) {
                assert!((found - want).abs() <= 2e-5 * largest, "{case}: {name} is {found}, not {want}");
            }
        }
    }
}
