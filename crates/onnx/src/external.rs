//! Tensor data in files beside the model.
//!
//! A model comes from anywhere, so its `location` is untrusted: only files inside the model's folder are read, whatever
//! absolute paths, `..` or links it names.

use crate::proto::tensor_proto::DataLocation;
use crate::proto::{AttributeProto, GraphProto, ModelProto, NodeProto, StringStringEntryProto, TensorProto};
use crate::sha1::sha1_hex;
use crate::{Error, file, tensors};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

/// Puts the data of every external tensor of the model (those of sub-graphs, functions and training steps included)
/// into the message, as a slice of the mapped file: each file is opened once, nothing is copied.
pub(crate) fn resolve(model: &mut ModelProto, path: &Path) -> Result<(), Error> {
    let mut files = Files { model: path, folder: None, files: BTreeMap::new() };
    each_tensor(model, &mut |tensor| {
        if tensor.data_location() != DataLocation::External {
            return Ok(());
        }
        tensor.raw_data = Some(files.data(tensor)?);
        tensor.data_location = None;
        tensor.external_data.clear();
        Ok(())
    })
}

/// The files that the tensors of a model name, in ascending order.
pub(crate) fn locations(model: &mut ModelProto) -> Result<BTreeSet<String>, Error> {
    let mut found = BTreeSet::new();
    each_tensor(model, &mut |tensor| {
        if tensor.data_location() == DataLocation::External {
            let location = tensor.external_data.iter().find(|e| e.key() == "location");
            found.extend(location.map(|e| e.value().to_string()));
        }
        Ok(())
    })?;
    Ok(found)
}

struct Files<'a> {
    model: &'a Path,
    folder: Option<PathBuf>,
    files: BTreeMap<String, (Bytes, Option<String>)>,
}

impl Files<'_> {
    fn data(&mut self, tensor: &TensorProto) -> Result<Bytes, Error> {
        let entry = |key: &str| tensor.external_data.iter().find(|e| e.key() == key).map(|e| e.value());
        let location = entry("location").unwrap_or_default();
        self.slice(tensor, location, &entry).map_err(|what| Error::External {
            path: self.model.to_path_buf(),
            tensor: tensor.name().to_string(),
            file: location.to_string(),
            what,
        })
    }

    fn slice<'t>(
        &mut self,
        tensor: &TensorProto,
        location: &str,
        entry: &dyn Fn(&str) -> Option<&'t str>,
    ) -> Result<Bytes, String> {
        let number = |key: &str| match entry(key) {
            Some(text) => {
                text.trim().parse::<u64>().map(Some).map_err(|_| format!("{key} is \"{text}\", not a size"))
            }
            None => Ok(None),
        };
        let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?);
        if !self.files.contains_key(location) {
            let opened = (self.open(location)?, None);
            self.files.insert(location.to_string(), opened);
        }
        let (data, digest) = self.files.get_mut(location).ok_or("the file was not opened")?;
        if let Some(expected) = entry("checksum") {
            let found = digest.get_or_insert_with(|| sha1_hex(data));
            if !found.eq_ignore_ascii_case(expected.trim()) {
                return Err(format!("its SHA-1 is {found}, but the model says {expected}"));
            }
        }
        let size = data.len() as u64;
        // Without a length the data reaches to the end of the file; of a known type we know how much we need.
        let length = length.or(tensors::byte_count(tensor)).unwrap_or(size.saturating_sub(offset));
        match offset.checked_add(length) {
            Some(end) if end <= size => Ok(data.slice(offset as usize..end as usize)),
            _ => Err(format!("it needs {length} bytes from byte {offset}, but the file has {size}")),
        }
    }

    fn open(&mut self, location: &str) -> Result<Bytes, String> {
        let relative = Path::new(location);
        let inside = relative.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
        if location.is_empty() {
            return Err("the model names no file".into());
        }
        if !inside {
            return Err("the path leaves the model's folder".into());
        }
        let message = |e: std::io::Error| match e.kind() {
            std::io::ErrorKind::NotFound => "there is no such file in the model's folder".to_string(),
            _ => e.to_string(),
        };
        let folder = match &self.folder {
            Some(folder) => folder,
            None => {
                let folder = match self.model.parent() {
                    Some(folder) if folder != Path::new("") => folder,
                    _ => Path::new("."),
                };
                self.folder.insert(folder.canonicalize().map_err(message)?)
            }
        };
        let path = folder.join(relative).canonicalize().map_err(message)?;
        if !path.starts_with(folder) {
            return Err("a link in the path leaves the model's folder".into());
        }
        if !path.is_file() {
            return Err("it is not a file".into());
        }
        file::read(&path).map_err(|e| e.to_string())
    }
}

/// The message for data that lies in another file.
pub(crate) fn reference(tensor: &mut TensorProto, location: &str, offset: u64, length: u64) {
    let entry =
        |key: &str, value: String| StringStringEntryProto { key: Some(key.to_string()), value: Some(value) };
    tensor.raw_data = None;
    tensor.data_location = Some(DataLocation::External as i32);
    tensor.external_data = vec![
        entry("location", location.to_string()),
        entry("offset", offset.to_string()),
        entry("length", length.to_string()),
    ];
}

type Visit<'a> = dyn FnMut(&mut TensorProto) -> Result<(), Error> + 'a;

/// Visits every tensor of the model, in order of the file.
fn each_tensor(model: &mut ModelProto, visit: &mut Visit) -> Result<(), Error> {
    let training = model.training_info.iter_mut().flat_map(|t| [&mut t.initialization, &mut t.algorithm]);
    for graph in std::iter::once(&mut model.graph).chain(training).flatten() {
        each_in_graph(graph, visit)?;
    }
    for function in &mut model.functions {
        each_in_nodes(&mut function.node, visit)?;
        each_in_attributes(&mut function.attribute_proto, visit)?;
    }
    Ok(())
}

fn each_in_graph(graph: &mut GraphProto, visit: &mut Visit) -> Result<(), Error> {
    graph.initializer.iter_mut().try_for_each(&mut *visit)?;
    let sparse = graph.sparse_initializer.iter_mut().flat_map(|s| [&mut s.values, &mut s.indices]);
    sparse.flatten().try_for_each(&mut *visit)?;
    each_in_nodes(&mut graph.node, visit)
}

fn each_in_nodes(nodes: &mut [NodeProto], visit: &mut Visit) -> Result<(), Error> {
    nodes.iter_mut().try_for_each(|node| each_in_attributes(&mut node.attribute, visit))
}

fn each_in_attributes(attributes: &mut [AttributeProto], visit: &mut Visit) -> Result<(), Error> {
    for a in attributes {
        a.t.iter_mut().chain(&mut a.tensors).try_for_each(&mut *visit)?;
        let sparse = a.sparse_tensor.iter_mut().chain(&mut a.sparse_tensors);
        sparse.flat_map(|s| [&mut s.values, &mut s.indices]).flatten().try_for_each(&mut *visit)?;
        a.g.iter_mut().chain(&mut a.graphs).try_for_each(|g| each_in_graph(g, visit))?;
    }
    Ok(())
}
