//! Checkpoints: the state of a run in a folder of its own, `state.safetensors` and `state.toml`.
//!
//! A checkpoint appears whole or not at all: both files are written and synced in a folder `unfinished`, which then gets
//! its name. The one before it stays, so that a process that is killed at any moment leaves a good one. `state.toml` holds
//! the length and a digest of the tensors beside it; a damaged checkpoint is passed over.

use crate::Error;
use crate::options::{CheckpointOptions, FitOptions};
use crate::state::{Progress, State, Variables};
use bytes::Bytes;
use data::Dataset;
use ir::Graph;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use tensor::{DType, Tensor};

const TENSORS: &str = "state.safetensors";
const RECORD: &str = "state.toml";
const UNFINISHED: &str = "unfinished";
const NAME: &str = "checkpoint-";
/// In front of the names of the tensors: of all variables, and of the best state.
const PREFIXES: [&str; 2] = ["last/", "best/"];
/// How many checkpoints stay.
const KEPT: usize = 2;

/// What a run is about. It can go on only with the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Identity {
    /// Digest of the graph as it was before training.
    model: String,
    /// Size and digest of the labels of the training data.
    data: String,
    /// The options, those about checkpoints apart.
    options: toml::Table,
}

fn digest(bytes: &[u8]) -> String {
    format!("{:016x}", Tensor::new(&[bytes.len()], bytes.to_vec()).digest())
}

impl Identity {
    pub fn of(graph: &Graph, data: &Dataset, options: &FitOptions) -> Result<Identity, Error> {
        let labels: Vec<u8> =
            data.labels().unwrap_or_default().iter().flat_map(|l| l.to_le_bytes()).collect();
        let options = FitOptions { checkpoint: None, ..options.clone() };
        let error = |e: &dyn std::fmt::Display| Error::Options(format!("no checkpoint can hold them: {e}"));
        let options = toml::to_string(&options).map_err(|e| error(&e))?;
        let options = options.parse().map_err(|e| error(&e))?;
        Ok(Identity {
            model: digest(ir::text::print(graph).as_bytes()),
            data: format!("{} samples, labels {}", data.len(), digest(&labels)),
            options,
        })
    }

    /// What is different in another run, in words.
    fn difference(&self, other: &Identity) -> Option<String> {
        if self.model != other.model {
            return Some(
                "it is of another model, or of the model quantized or calibrated in another way".into(),
            );
        }
        if self.data != other.data {
            return Some(format!("its training data has {}, this run's {}", self.data, other.data));
        }
        let keys = self.options.keys().chain(other.options.keys().filter(|k| !self.options.contains_key(*k)));
        let show = |value: Option<&toml::Value>| value.map_or("absent".into(), |v| v.to_string());
        keys.filter(|&key| self.options.get(key) != other.options.get(key))
            .map(|key| {
                let (then, now) = (show(self.options.get(key)), show(other.options.get(key)));
                format!("its option {key} is {then}, this run's {now}")
            })
            .next()
    }
}

/// What stands in `state.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    /// Of this form of record.
    version: u32,
    /// Length of the file with the tensors.
    bytes: u64,
    /// Its digest.
    digest: String,
    progress: Progress,
    run: Identity,
}

const VERSION: u32 = 1;

/// The checkpoints of one run.
pub(crate) struct Checkpoints {
    folder: PathBuf,
    run: Identity,
    next: u64,
}

impl Checkpoints {
    /// Opens the folder. With `resume`, also gives the state of the last good checkpoint, where there is one.
    ///
    /// # Errors
    /// When the folder cannot be used; when it holds checkpoints and `resume` is not asked for; when they are of another run, or
    /// all damaged.
    pub fn open(options: &CheckpointOptions, run: Identity) -> Result<(Checkpoints, Option<State>), Error> {
        let folder = options.folder.clone();
        fs::create_dir_all(&folder).map_err(|e| at(&folder, "made", &e))?;
        let found = list(&folder)?;
        let next = found.last().map_or(1, |(number, _)| number + 1);
        let checkpoints = Checkpoints { folder, run, next };
        if found.is_empty() {
            return Ok((checkpoints, None));
        }
        if !options.resume {
            let what = "it holds checkpoints already; resume, or name another folder";
            return Err(Error::Checkpoint { path: checkpoints.folder, what: what.into() });
        }
        let mut damage = None;
        for (_, path) in found.into_iter().rev() {
            match checkpoints.read(&path) {
                Ok(state) => return Ok((checkpoints, Some(state))),
                Err(Failure::OtherRun(what)) => {
                    let what = format!("{what}; give the options of that run, or name another folder");
                    return Err(Error::Checkpoint { path, what });
                }
                Err(Failure::Damaged(what)) => damage = damage.or(Some((path, what))),
            }
        }
        let (path, what) = damage.unwrap_or_default();
        let what = format!("{what}; no other checkpoint is beside it, remove the folder to begin anew");
        Err(Error::Checkpoint { path, what })
    }

    /// Writes a checkpoint; returns its folder.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&mut self, state: &State) -> Result<PathBuf, Error> {
        let unfinished = self.folder.join(UNFINISHED);
        let error = |e: &io::Error| at(&unfinished, "written", e);
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished).map_err(|e| error(&e))?;
        }
        fs::create_dir(&unfinished).map_err(|e| error(&e))?;
        let tensors = encode(state)?;
        let record = Record {
            version: VERSION,
            bytes: tensors.len() as u64,
            digest: digest(&tensors),
            progress: state.progress.clone(),
            run: self.run.clone(),
        };
        let text = toml::to_string(&record)
            .map_err(|e| Error::Checkpoint { path: unfinished.clone(), what: e.to_string() })?;
        write_synced(&unfinished.join(TENSORS), &tensors).map_err(|e| error(&e))?;
        write_synced(&unfinished.join(RECORD), text.as_bytes()).map_err(|e| error(&e))?;
        sync_folder(&unfinished);
        let path = self.folder.join(format!("{NAME}{:06}", self.next));
        fs::rename(&unfinished, &path).map_err(|e| at(&path, "written", &e))?;
        sync_folder(&self.folder);
        self.next += 1;
        let found = list(&self.folder)?;
        for (_, old) in found.iter().rev().skip(KEPT) {
            fs::remove_dir_all(old).map_err(|e| at(old, "removed", &e))?;
        }
        Ok(path)
    }

    fn read(&self, path: &Path) -> Result<State, Failure> {
        let text = fs::read_to_string(path.join(RECORD)).map_err(|e| damaged(RECORD, &e))?;
        let record: Record = toml::from_str(&text).map_err(|e| damaged(RECORD, &e.message()))?;
        if record.version != VERSION {
            let what = format!("it has version {}, this program reads {VERSION}", record.version);
            return Err(Failure::OtherRun(what));
        }
        if let Some(what) = record.run.difference(&self.run) {
            return Err(Failure::OtherRun(what));
        }
        let length = fs::metadata(path.join(TENSORS)).map_err(|e| damaged(TENSORS, &e))?.len();
        if length != record.bytes {
            return Err(damaged(TENSORS, &format!("it has {length} bytes, not {}", record.bytes)));
        }
        let tensors = fs::read(path.join(TENSORS)).map_err(|e| damaged(TENSORS, &e))?;
        if digest(&tensors) != record.digest {
            return Err(damaged(TENSORS, &"its bytes have changed"));
        }
        let (variables, best) = decode(&tensors).map_err(|e| damaged(TENSORS, &e))?;
        Ok(State { progress: record.progress, variables, best })
    }
}

/// Why a checkpoint cannot be used.
enum Failure {
    OtherRun(String),
    Damaged(String),
}

fn damaged(file: &str, what: &dyn std::fmt::Display) -> Failure {
    Failure::Damaged(format!("{file} is damaged: {what}"))
}

fn at(path: &Path, done: &str, e: &io::Error) -> Error {
    Error::Checkpoint { path: path.to_path_buf(), what: format!("cannot be {done}: {e}") }
}

/// Numbers and folders of the checkpoints, oldest first.
fn list(folder: &Path) -> Result<Vec<(u64, PathBuf)>, Error> {
    let entries = fs::read_dir(folder).map_err(|e| at(folder, "read", &e))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| at(folder, "read", &e))?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if let Some(number) = name.strip_prefix(NAME).and_then(|n| n.parse().ok()) {
            found.push((number, path));
        }
    }
    found.sort();
    Ok(found)
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// So that a new name survives a power loss; a file system that cannot promise that is no error.
fn sync_folder(folder: &Path) {
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
}

/// Element types of variables, here and in the file.
const TYPES: [(DType, Dtype); 5] = [
    (DType::F32, Dtype::F32),
    (DType::F64, Dtype::F64),
    (DType::I32, Dtype::I32),
    (DType::I64, Dtype::I64),
    (DType::U8, Dtype::U8),
];

fn encode(state: &State) -> Result<Vec<u8>, Error> {
    let named = |i: usize, values: &'_ Variables| {
        values.iter().map(|(name, value)| (format!("{}{name}", PREFIXES[i]), value.clone())).collect()
    };
    let all: [Variables; 2] = [named(0, &state.variables), named(1, &state.best)];
    let mut views = Vec::new();
    for (name, value) in all.iter().flatten() {
        let error =
            |what: String| Error::Checkpoint { path: TENSORS.into(), what: format!("\"{name}\": {what}") };
        let dtype = TYPES.iter().find(|(ours, _)| *ours == value.dtype()).map(|t| t.1);
        let dtype = dtype.ok_or_else(|| error(format!("{} cannot be stored", value.dtype())))?;
        let view = TensorView::new(dtype, value.shape().to_vec(), value.bytes());
        let view = view.map_err(|e| error(e.to_string()))?;
        views.push((name, view));
    }
    safetensors::serialize(views, None)
        .map_err(|e| Error::Checkpoint { path: TENSORS.into(), what: e.to_string() })
}

/// All variables, and those of the best state.
fn decode(bytes: &[u8]) -> Result<(Variables, Variables), String> {
    let file = SafeTensors::deserialize(bytes).map_err(|e| e.to_string())?;
    let (mut variables, mut best) = (Vec::new(), Vec::new());
    for (name, view) in file.iter() {
        let dtype = TYPES.iter().find(|(_, theirs)| *theirs == view.dtype()).map(|t| t.0);
        let dtype = dtype.ok_or_else(|| format!("\"{name}\" has the type {:?}", view.dtype()))?;
        let value = Tensor::from_bytes(dtype, view.shape(), Bytes::copy_from_slice(view.data()));
        let value = value.map_err(|e| format!("\"{name}\": {e}"))?;
        match (name.strip_prefix(PREFIXES[0]), name.strip_prefix(PREFIXES[1])) {
            (Some(name), _) => variables.push((name.to_string(), value)),
            (_, Some(name)) => best.push((name.to_string(), value)),
            _ => return Err(format!("nothing is known of \"{name}\"")),
        }
    }
    Ok((variables, best))
}
