//! One case: read, compiled, run.

use crate::report::{CaseReport, Verdict};
use crate::{Error, difference};
use exec::{Machine, Program};
use ir::{Graph, Type};
use onnx::proto::type_proto::Value as Kind;
use onnx::proto::{ModelProto, ValueInfoProto};
use ops::Ops;
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use tensor::Tensor;

/// A model with operands and the results that they should have.
#[derive(Clone, Debug, Default)]
pub struct Case {
    /// Name of its folder.
    pub name: String,
    /// The model file.
    pub model: Vec<u8>,
    /// Operands and results, by the name of their folder.
    pub sets: BTreeMap<String, DataSet>,
}

/// Operands and results in the order of the model's inputs and outputs, as encoded tensors.
#[derive(Clone, Debug, Default)]
pub struct DataSet {
    inputs: BTreeMap<usize, Vec<u8>>,
    outputs: BTreeMap<usize, Vec<u8>>,
}

impl DataSet {
    /// Takes a file, by its name: `input_3.pb`, `output_0.pb`. Other files are ignored.
    pub fn add(&mut self, name: &str, bytes: Vec<u8>) {
        let number = |prefix| name.strip_prefix(prefix)?.strip_suffix(".pb")?.parse().ok();
        if let Some(i) = number("input_") {
            self.inputs.insert(i, bytes);
        } else if let Some(i) = number("output_") {
            self.outputs.insert(i, bytes);
        }
    }
}

/// Why a case did not pass.
enum Fault {
    NotSupported(String),
    Failed(String),
}

impl Case {
    /// A case without anything.
    pub fn new(name: &str) -> Case {
        Case { name: name.to_string(), ..Case::default() }
    }

    /// Compiles and runs the model on each data set.
    pub fn run(&self) -> CaseReport {
        let model = ModelProto::decode(&self.model[..]);
        let op = model.as_ref().map_or_else(|_| String::new(), |m| self.operator(m));
        let verdict = match model {
            Err(e) => Verdict::Failed(format!("the model is damaged: {e}")),
            Ok(model) => match self.judge(model) {
                Ok(verdict) => verdict,
                Err(Fault::NotSupported(why)) => Verdict::NotSupported(why),
                Err(Fault::Failed(why)) => Verdict::Failed(why),
            },
        };
        CaseReport { name: self.name.clone(), op, verdict }
    }

    /// The operator that the case is about: that of its only node. A case that spells an operator out in others is named
    /// `test_…_expanded`, and is about the first of the others.
    fn operator(&self, model: &ModelProto) -> String {
        let node = model.graph.as_ref().and_then(|g| g.node.iter().find(|n| n.op_type() != "Constant"));
        let Some(node) = node.or(model.graph.as_ref().and_then(|g| g.node.first())) else {
            return String::new();
        };
        match node.domain() {
            "" | "ai.onnx" => node.op_type().to_string(),
            domain => format!("{domain}.{}", node.op_type()),
        }
    }

    fn judge(&self, model: ModelProto) -> Result<Verdict, Fault> {
        let graph = model.graph.as_ref();
        let declared = graph.map_or((&[][..], &[][..]), |g| (&g.input[..], &g.output[..]));
        let mut sets = Vec::new();
        for set in self.sets.values() {
            sets.push((read(&set.inputs, "input", declared.0)?, read(&set.outputs, "output", declared.1)?));
        }
        if sets.is_empty() {
            return Err(Fault::Failed("it has no data".into()));
        }
        let (graph, _) = onnx::import(model, &Ops).map_err(|e| Fault::Failed(e.to_string()))?;
        let unknown: BTreeSet<&str> = graph
            .nodes()
            .into_iter()
            .filter_map(|id| graph.node(id).is::<ir::Opaque>().map(|op| op.op_type.as_str()))
            .collect();
        if !unknown.is_empty() {
            let list: Vec<&str> = unknown.into_iter().collect();
            return Err(Fault::NotSupported(format!("operator {}", list.join(", "))));
        }
        let mut verdict = Verdict::Passed;
        for (inputs, expected) in &sets {
            let (outputs, how) = run(&graph, inputs).map_err(Fault::Failed)?;
            if how == Verdict::OneByOne {
                verdict = how;
            }
            if outputs.len() < expected.len() {
                return Err(Fault::Failed(format!(
                    "{} results instead of {}",
                    outputs.len(),
                    expected.len()
                )));
            }
            for (i, (got, want)) in outputs.iter().zip(expected).enumerate() {
                if let Some(what) = difference(got, want) {
                    return Err(Fault::Failed(format!("output {i}: {what}")));
                }
            }
        }
        Ok(verdict)
    }
}

/// The data of the inputs or outputs `declared`. There are types that have no tensor here: strings, sequences, optional values,
/// 8-bit floats.
fn read(
    files: &BTreeMap<usize, Vec<u8>>,
    what: &str,
    declared: &[ValueInfoProto],
) -> Result<Vec<Tensor>, Fault> {
    let tensor = |(&i, bytes): (&usize, &Vec<u8>)| {
        let ty = declared.get(i).and_then(|info| info.r#type.as_ref()?.value.as_ref());
        match ty {
            Some(Kind::SequenceType(_)) => Err(format!("{what} {i} is a sequence")),
            Some(Kind::OptionalType(_)) => Err(format!("{what} {i} is an optional value")),
            _ => {
                onnx::decode_tensor(bytes).map_err(|e| format!("{what} {i} is not a tensor of numbers: {e}"))
            }
        }
    };
    files.iter().map(|file| tensor(file).map_err(Fault::NotSupported)).collect()
}

/// Compiles and runs a graph.
fn run(graph: &Graph, inputs: &[Tensor]) -> Result<(Vec<Tensor>, Verdict), String> {
    if inputs.len() > graph.inputs().len() {
        return Err(format!("{} operands for {} inputs", inputs.len(), graph.inputs().len()));
    }
    let mut graph = graph.clone();
    let ids = graph.inputs().to_vec();
    for (&id, value) in ids.iter().zip(inputs) {
        graph.set_input_type(id, Type::new(value.dtype(), value.shape().iter().copied()));
    }
    graph.infer().map_err(|e| e.to_string())?;
    let program = Program::compile(&graph).map_err(|e| e.to_string())?;
    let how = if program.late() > 0 { Verdict::OneByOne } else { Verdict::Passed };
    let mut machine = Machine::new(Arc::new(program));
    for (&id, value) in ids.iter().zip(inputs) {
        let name = &graph.value(id.into()).name;
        if machine.has_input(name) {
            machine.set_input(name, value).map_err(|e| e.to_string())?;
        }
    }
    machine.run().map_err(|e| e.to_string())?;
    let outputs = graph.outputs().iter().map(|o| machine.output(&o.name).map_err(|e| e.to_string()));
    Ok((outputs.collect::<Result<_, _>>()?, how))
}

/// Every folder below `root` that holds a `model.onnx`, in order of name.
pub(crate) fn read_folder(root: &Path) -> Result<Vec<Case>, Error> {
    let io = |path: &Path| {
        let path = path.to_path_buf();
        move |source| Error::Io { path, source }
    };
    let entries = |path: &Path| -> Result<Vec<std::path::PathBuf>, Error> {
        let listed = std::fs::read_dir(path).map_err(io(path))?;
        let mut paths =
            listed.map(|e| e.map(|e| e.path())).collect::<Result<Vec<_>, _>>().map_err(io(path))?;
        paths.sort();
        Ok(paths)
    };
    let name = |path: &Path| path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    let mut cases = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let model = folder.join("model.onnx");
        if !model.is_file() {
            folders.extend(entries(&folder)?.into_iter().filter(|p| p.is_dir()));
            continue;
        }
        let mut case = Case::new(&name(&folder));
        case.model = std::fs::read(&model).map_err(io(&model))?;
        for set in entries(&folder)?.iter().filter(|p| p.is_dir() && name(p).starts_with("test_data_set_")) {
            let mut data = DataSet::default();
            for file in entries(set)? {
                data.add(&name(&file), std::fs::read(&file).map_err(io(&file))?);
            }
            case.sets.insert(name(set), data);
        }
        cases.push(case);
    }
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(cases)
}
