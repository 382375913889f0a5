//! `cargo xtask scale`: do time and memory grow with the model, and no faster?
//!
//! Graphs of residual blocks of 1000, 5000 and 20000 nodes go through all passes of quantization; and a model of several GB
//! with its weights in external data is loaded, quantized and saved by a process of its own, whose peak memory is told.

use crate::chore::{self, Failure};
use clap::Parser;
use onnx_qat::ir::{Graph, GraphError, Type};
use onnx_qat::onnx::proto::{
    GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto, TypeProto,
    ValueInfoProto, tensor_proto, tensor_shape_proto, type_proto,
};
use onnx_qat::ops::{Add, BatchNormalization, Conv, GlobalAveragePool, Relu};
use onnx_qat::passes::{Equalize, Hooks, Normalize, Pipeline, QuantConfig};
use onnx_qat::report::{Table, bytes};
use onnx_qat::tensor::{DType, Tensor};
use onnx_qat::{Model, Run};
use std::ffi::OsString;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

/// Measures how time and memory grow with the size of a model.
#[derive(Parser)]
#[command(name = "cargo xtask scale")]
struct Args {
    /// Nodes of the graphs that go through the passes.
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [1000, 5000, 20000])]
    nodes: Vec<usize>,
    /// Instead, make a model with this many GB of weights in external data, and quantize it without data.
    #[arg(long, value_name = "GB")]
    weights: Option<f64>,
    /// Where that model is made; it is removed afterwards.
    #[arg(long, value_name = "FOLDER", default_value = "target/scale")]
    folder: PathBuf,
    /// Quantize this model and print the peak memory of the process: what the other form starts.
    #[arg(long, value_name = "MODEL", hide = true)]
    measured: Option<PathBuf>,
}

/// Runs the command with these arguments.
pub fn run(args: &[OsString]) -> ExitCode {
    chore::run(args, |args: Args| {
        match (&args.measured, args.weights) {
            (Some(model), _) => quantize(model)?,
            (None, Some(gb)) => weights(gb, &args.folder)?,
            (None, None) => nodes(&args.nodes)?,
        }
        Ok(ExitCode::SUCCESS)
    })
}

// ---- many nodes ----

fn nodes(sizes: &[usize]) -> Result<(), Failure> {
    let head = [
        "nodes",
        "normalize",
        "equalize",
        "insert quantizers",
        "convert",
        "all passes",
        "per node",
        "save",
        "load",
    ];
    let mut table = Table::new(head);
    for &size in sizes {
        let mut model = Model::new(blocks(size)?);
        let count = model.graph.nodes().iter().filter(|&&id| model.graph.node(id).op().is_some()).count();
        let folder = std::env::temp_dir();
        let path = folder.join(format!("onnx-qat-scale-{}.onnx", std::process::id()));
        let (save, _) = timed(|| model.save(&path))?;
        let (load, _) = timed(|| Model::load(&path))?;
        std::fs::remove_file(&path)?;
        let (normalize, _) =
            timed(|| onnx_qat::passes::normalize(&mut model.graph, Normalize { fold_batch_norm: false }))?;
        let (equalize, _) = timed(|| Pipeline::new().then(Equalize).run(&mut model.graph))?;
        let (insert, _) = timed(|| {
            onnx_qat::passes::quant_aware(&mut model.graph, &QuantConfig::default(), &Hooks::default())
        })?;
        let (convert, _) = timed(|| onnx_qat::passes::convert(&mut model.graph))?;
        let all = normalize + equalize + insert + convert;
        let seconds = |s: f64| format!("{s:.3} s");
        table.row([
            count.to_string(),
            seconds(normalize),
            seconds(equalize),
            seconds(insert),
            seconds(convert),
            seconds(all),
            format!("{:.1} µs", all / count as f64 * 1e6),
            seconds(save),
            seconds(load),
        ]);
    }
    print!("{table}");
    Ok(())
}

fn timed<T, E>(work: impl FnOnce() -> Result<T, E>) -> Result<(f64, T), E> {
    let start = Instant::now();
    let done = work()?;
    Ok((start.elapsed().as_secs_f64(), done))
}

/// A network of residual blocks of two convolutions each, with about so many nodes.
fn blocks(nodes: usize) -> Result<Graph, GraphError> {
    const CHANNELS: usize = 4;
    let mut graph = Graph::new("blocks");
    let mut x = graph.add_input("x", Type::new(DType::F32, [1, CHANNELS, 8, 8]));
    for block in 0..nodes.div_ceil(7) {
        let entry = x;
        for layer in ["a", "b"] {
            let name = format!("block{block}/{layer}");
            let mut constant = |what: &str, value: f32, shape: &[usize]| {
                let values = (0..shape.iter().product()).map(|i| value + (i % 7) as f32 * 0.01).collect();
                graph.add_const(&format!("{name}.{what}"), Tensor::new(shape, values))
            };
            let w = constant("weight", 0.1, &[CHANNELS, CHANNELS, 1, 1]);
            let [gamma, beta, mean, var] = [("gamma", 1.0), ("beta", 0.0), ("mean", 0.0), ("var", 1.0)]
                .map(|(n, v)| constant(n, v, &[CHANNELS]));
            x = graph.add(Conv::default(), &[x, w], &format!("{name}/conv"))?;
            x = graph.add(
                BatchNormalization::default(),
                &[x, gamma, beta, mean, var],
                &format!("{name}/bn"),
            )?;
            if layer == "a" {
                x = graph.add(Relu, &[x], &format!("{name}/relu"))?;
            }
        }
        x = graph.add(Add, &[entry, x], &format!("block{block}/add"))?;
        x = graph.add(Relu, &[x], &format!("block{block}/relu"))?;
    }
    let y = graph.add(GlobalAveragePool, &[x], "y")?;
    graph.add_output("y", y);
    Ok(graph)
}

// ---- many bytes ----

/// Rows and columns of each weight: 64 MB.
const SIDE: usize = 4096;

fn weights(gb: f64, folder: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(folder)?;
    let each = SIDE * SIDE * 4;
    let layers = ((gb * 1e9) / each as f64).ceil().max(1.0) as usize;
    let path = folder.join("large.onnx");
    large(&path, layers)?;
    let total = (layers * each) as u64;
    println!("{}: {layers} weights, {} in external data", path.display(), bytes(total));
    let own = std::env::current_exe()?;
    let status = Command::new(own).args(["scale", "--measured"]).arg(&path).status();
    std::fs::remove_dir_all(folder)?;
    match status?.success() {
        true => Ok(()),
        false => Err("the large model could not be quantized".into()),
    }
}

/// Loads, quantizes without data and saves; tells time and peak memory.
fn quantize(path: &Path) -> Result<(), Failure> {
    let start = Instant::now();
    let model = Model::load(path)?;
    let size: u64 = std::fs::metadata(path.with_extension("onnx.data"))?.len();
    let run = Run::from_toml("model = ''\noutput = ''")?;
    let done = onnx_qat::quantize(&model, None, None, &run.options(), &mut |_| {})?;
    drop(model);
    let saved = done.model.save(path.with_extension("int8.onnx"))?;
    let int8: u64 = saved.files.iter().filter_map(|f| std::fs::metadata(f).ok()).map(|m| m.len()).sum();
    let peak = chore::memory("self/status", "VmHWM").unwrap_or(0);
    println!(
        "quantized to {} in {:.0} s; peak memory {} = {:.2} times the model",
        bytes(int8),
        start.elapsed().as_secs_f64(),
        bytes(peak),
        peak as f64 / size as f64
    );
    Ok(())
}

/// A chain of matrix products. The weights are written block by block: no more than one is in memory.
fn large(path: &Path, layers: usize) -> Result<(), Failure> {
    let data = path.with_extension("onnx.data");
    let mut file = BufWriter::new(std::fs::File::create(&data)?);
    let location = data.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let each = (SIDE * SIDE * 4) as u64;
    let (mut node, mut initializer) = (Vec::new(), Vec::new());
    for layer in 0..layers {
        let mut row = vec![0u8; SIDE * 4];
        for r in 0..SIDE {
            for (c, bytes) in row.chunks_exact_mut(4).enumerate() {
                let value = ((r * 31 + c * 17 + layer) % 255) as f32 / 255.0 - 0.5;
                bytes.copy_from_slice(&value.to_le_bytes());
            }
            file.write_all(&row)?;
        }
        let entry =
            |key: &str, value: String| StringStringEntryProto { key: Some(key.into()), value: Some(value) };
        initializer.push(TensorProto {
            dims: vec![SIDE as i64; 2],
            data_type: Some(tensor_proto::DataType::Float as i32),
            name: Some(format!("w{layer}")),
            external_data: vec![
                entry("location", location.clone()),
                entry("offset", (layer as u64 * each).to_string()),
                entry("length", each.to_string()),
            ],
            data_location: Some(tensor_proto::DataLocation::External as i32),
            ..TensorProto::default()
        });
        node.push(NodeProto {
            input: vec![format!("x{layer}"), format!("w{layer}")],
            output: vec![format!("x{}", layer + 1)],
            name: Some(format!("product{layer}")),
            op_type: Some("MatMul".into()),
            ..NodeProto::default()
        });
    }
    file.flush()?;
    let graph = GraphProto {
        node,
        name: Some("large".into()),
        initializer,
        input: vec![declared("x0")],
        output: vec![declared(&format!("x{layers}"))],
        ..GraphProto::default()
    };
    let model = ModelProto {
        ir_version: Some(8),
        graph: Some(graph),
        opset_import: vec![OperatorSetIdProto { domain: None, version: Some(17) }],
        ..ModelProto::default()
    };
    onnx_qat::onnx::write_model(&model, path, onnx_qat::onnx::Weights::Auto)?;
    Ok(())
}

fn declared(name: &str) -> ValueInfoProto {
    let dim = |value| tensor_shape_proto::Dimension { value: Some(value), ..Default::default() };
    let dims = vec![
        dim(tensor_shape_proto::dimension::Value::DimParam("N".into())),
        dim(tensor_shape_proto::dimension::Value::DimValue(SIDE as i64)),
    ];
    let tensor = type_proto::Tensor {
        elem_type: Some(tensor_proto::DataType::Float as i32),
        shape: Some(onnx_qat::onnx::proto::TensorShapeProto { dim: dims }),
    };
    let value = type_proto::Value::TensorType(tensor);
    ValueInfoProto {
        name: Some(name.into()),
        r#type: Some(TypeProto { value: Some(value), ..TypeProto::default() }),
        ..ValueInfoProto::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use onnx_qat::ir::ValueId;

    #[test]
    fn the_graph_has_about_as_many_nodes() {
        let graph = blocks(100).expect("the blocks fit together");
        graph.check().expect("the graph is sound");
        let operations = graph.nodes().iter().filter(|&&id| graph.node(id).op().is_some()).count();
        assert!((100..120).contains(&operations), "{operations}");
        let _: Option<ValueId> = graph.find("y");
    }
}
