//! `widen-halves`: a model in 16-bit floats computes in 32 bits, which is what can be trained and quantized.
//!
//! ```text
//! conv1 = Conv (x, w)                                   # x: float16, w: float16
//! ->
//! x_wide = Cast <to=float> (x)
//! conv1_wide = Conv (x_wide, w)                         # w: float
//! conv1 = Cast <to=float16> (conv1_wide)
//! ```
//!
//! Inputs and outputs keep their types. A model stays as it is where something that is not understood works on halves.

use crate::pass::{Pass, Report, operations};
use ir::{Graph, GraphError, NodeId, ValueId};
use ops::Cast;
use std::sync::Arc;
use tensor::{DType, Tensor};

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct WidenHalves;

fn is_half(dtype: Option<DType>) -> bool {
    matches!(dtype, Some(DType::F16 | DType::BF16))
}

impl Pass for WidenHalves {
    fn name(&self) -> &'static str {
        "widen-halves"
    }

    fn run(&self, graph: &mut Graph, report: &mut Report) -> Result<(), GraphError> {
        let half = |graph: &Graph| {
            graph.nodes().into_iter().find(|&id| graph.node(id).outs.iter().any(|v| is_half(v.ty.dtype)))
        };
        if half(graph).is_none() {
            return Ok(());
        }
        let mut wide = graph.clone();
        let constants = widen(&mut wide)?;
        if let Err(e) = wide.infer() {
            report.skip(self.name(), "the model", format!("it would not compute in 32 bits: {e}"));
            return Ok(());
        }
        wide.sweep();
        let casts_back = |id: NodeId| wide.node(id).is::<Cast>().is_some() && wide.is_output(id.into());
        let left = wide.nodes().into_iter().find(|&id| {
            let node = wide.node(id);
            node.op().is_some() && !casts_back(id) && node.outs.iter().any(|v| is_half(v.ty.dtype))
        });
        if let Some(id) = left {
            let why = format!("{} has a 16-bit result whatever its operands are", wide.node(id).label());
            report.skip(self.name(), "the model", why);
            return Ok(());
        }
        *graph = wide;
        report.done(self.name(), "the model", format!("computes in 32 bits, {constants} constants with it"));
        Ok(())
    }
}

/// Widens constants, casts and what comes in, and narrows what goes out. Returns how many constants there were.
fn widen(graph: &mut Graph) -> Result<usize, GraphError> {
    let outputs: Vec<(String, ValueId, Option<DType>)> =
        graph.outputs().iter().map(|o| (o.name.clone(), o.value, graph.ty(o.value).dtype)).collect();
    let mut constants = 0;
    for id in graph.nodes() {
        let v = ValueId::from(id);
        if graph.node(id).outs.len() != 1 || !is_half(graph.ty(v).dtype) {
            continue;
        }
        let name = graph.value(v).name.clone();
        let wide = match graph.tensor(v) {
            Some(value) => {
                constants += 1;
                let wide = graph.add_const(&name, Tensor::new(value.shape(), value.to_f32()));
                graph.swap_names(v, wide);
                wide
            }
            None if graph.inputs().contains(&id) => {
                let readers = graph.consumers(v);
                let wide = graph.add(Cast { to: DType::F32 }, &[v], &format!("{name}_wide"))?;
                redirect(graph, &readers, wide);
                continue;
            }
            None => continue,
        };
        let readers = graph.consumers(v);
        redirect(graph, &readers, wide);
    }
    for id in operations(graph)? {
        if graph.node(id).is::<Cast>().is_some_and(|op| is_half(Some(op.to))) {
            let ins = graph.node(id).ins.clone();
            graph.set_op(id, Arc::new(Cast { to: DType::F32 }), &ins)?;
        }
    }
    graph.infer()?;
    let mut declared = Vec::new();
    for (name, v, dtype) in outputs {
        let value = match dtype.filter(|d| is_half(Some(*d)) && graph.ty(v).dtype == Some(DType::F32)) {
            None => v,
            Some(to) => {
                let narrow = graph.add(Cast { to }, &[v], &format!("{name}_narrow"))?;
                if graph.value(v).name == name {
                    graph.swap_names(v, narrow);
                }
                narrow
            }
        };
        declared.push((name, value));
    }
    graph.set_outputs(declared);
    Ok(constants)
}

fn redirect(graph: &mut Graph, readers: &[(NodeId, usize)], value: ValueId) {
    for &(reader, slot) in readers {
        graph.set_input(reader, slot, Some(value));
    }
}
