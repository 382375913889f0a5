//! Model files as messages: recognised, decoded, encoded.

use crate::encode::encode;
use crate::file::{self, Draft};
use crate::proto::ModelProto;
use crate::{Error, external};
use bytes::Bytes;
use prost::Message;
use std::path::{Path, PathBuf};

/// Other readers of protobuf refuse a message beyond this size.
const MESSAGE_LIMIT: u64 = i32::MAX as u64;
/// What goes out when a model outgrows [`MESSAGE_LIMIT`].
const EXTERNAL_FROM: usize = 1024;

/// Reads a model file. Weights stay where they are in the mapped file, also those in files beside it.
///
/// # Errors
/// When the file is missing, is something else than an ONNX model (the message says what it looks like), is cut off or
/// damaged, or when external data is missing, too short, or outside the model's folder.
pub fn read_model(path: &Path) -> Result<ModelProto, Error> {
    decode_model(file::read(path)?, path)
}

/// Reads a model from the content of its file. `path` is where it lies, or would: for messages, and for weights in files
/// beside it.
///
/// # Errors
/// As [`read_model`].
pub fn decode_model(bytes: Bytes, path: &Path) -> Result<ModelProto, Error> {
    let mut model = message(bytes, path)?;
    external::resolve(&mut model, path)?;
    Ok(model)
}

/// The files of a model, each once: its own, and those beside it in which it says that weights lie. These need not be there.
///
/// # Errors
/// As [`read_model`], external data apart.
pub fn files(path: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut model = message(file::read(path)?, path)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let beside = external::locations(&mut model)?.into_iter().map(|location| folder.join(location));
    Ok(std::iter::once(path.to_path_buf()).chain(beside).collect())
}

/// The message in the content of a file, without the data that lies elsewhere.
fn message(bytes: Bytes, path: &Path) -> Result<ModelProto, Error> {
    if bytes.is_empty() {
        return Err(Error::Empty { path: path.to_path_buf() });
    }
    if let Some(found) = other_format(&bytes) {
        return Err(Error::NotOnnx { path: path.to_path_buf(), found: found.to_string() });
    }
    scan(&bytes).map_err(|e| e.at(path))?;
    let model = ModelProto::decode(bytes)
        .map_err(|e| Error::Damaged { path: path.to_path_buf(), what: e.to_string() })?;
    if model.graph.is_none() {
        let found = "the message has no graph".to_string();
        return Err(Error::NotOnnx { path: path.to_path_buf(), found });
    }
    Ok(model)
}

/// What else than a model a file is, by its first bytes: the usual mistakes.
fn other_format(bytes: &[u8]) -> Option<&'static str> {
    let head = &bytes[..bytes.len().min(512)];
    let text = String::from_utf8_lossy(head);
    let start = text.trim_start_matches('\u{feff}').trim_start();
    let starts = |prefix: &str| start.get(..prefix.len()).is_some_and(|s| s.eq_ignore_ascii_case(prefix));
    Some(match head {
        _ if starts("version https://git-lfs") => {
            "it is a Git LFS pointer, the model itself was not downloaded (git lfs pull)"
        }
        _ if starts("<!doctype html") || starts("<html") => "it is a web page, probably a failed download",
        _ if starts("<?xml") || starts("<net ") => "it is XML, perhaps the graph file of OpenVINO",
        _ if starts("{") || starts("[") => "it is JSON",
        [b'P', b'K', 3, 4, ..] if text.contains(".pkl") => {
            "it is a PyTorch checkpoint, which torch.onnx.export turns into a model"
        }
        [b'P', b'K', 3, 4, ..] => "it is a zip archive",
        [0x80, 2..=5, ..] => "it is a Python pickle, perhaps a PyTorch checkpoint",
        [0x1f, 0x8b, ..] => "it is compressed with gzip",
        [_, _, _, _, b'T', b'F', b'L', b'3', ..] => "it is a TensorFlow Lite model",
        [_, _, _, _, b'O', b'R', b'T', b'M', ..] => "it is a model in ONNX Runtime's own format (.ort)",
        [0x89, b'H', b'D', b'F', ..] => "it is an HDF5 file, perhaps a Keras model",
        [0x93, b'N', b'U', b'M', b'P', b'Y', ..] => "it is a NumPy array",
        [0x7f, b'E', b'L', b'F', ..] => "it is an executable",
        [_, _, _, _, _, _, _, 0, b'{', b'"', ..] => "it is a safetensors file: weights without a graph",
        _ => return None,
    })
}

/// What is wrong with the outer structure of a message.
#[derive(Debug, PartialEq)]
enum Broken {
    Other(&'static str),
    CutOff { part: &'static str, needed: u64, found: u64 },
}

impl Broken {
    fn at(self, path: &Path) -> Error {
        let path = path.to_path_buf();
        match self {
            Broken::Other(found) => Error::NotOnnx { path, found: found.to_string() },
            Broken::CutOff { part, needed, found } => Error::Truncated { path, part, needed, found },
        }
    }
}

/// Walks the fields of the outermost message, to tell a truncated model from something that never was one.
fn scan(bytes: &[u8]) -> Result<(), Broken> {
    const NOT_ONE: Broken = Broken::Other("its bytes are not a protobuf message of this kind");
    let found = bytes.len() as u64;
    let mut at = 0u64;
    while at < found {
        let Some(key) = varint(bytes, &mut at) else {
            return Err(if at >= found && at > 10 { cut("the last field", at + 1, found) } else { NOT_ONE });
        };
        // Numbers and wire types of ModelProto.
        let part = match (key >> 3, key & 7) {
            (1 | 5, 0) => "a number",
            (2..=4 | 6, 2) => "a text",
            (7, 2) => "the graph",
            (8, 2) => "an operator set",
            (14 | 20 | 25 | 26, 2) => "a list",
            (0..=8 | 14 | 20 | 25 | 26, _) => return Err(NOT_ONE),
            _ => "an unknown field",
        };
        let size = match key & 7 {
            0 => varint(bytes, &mut at).map(|_| 0),
            1 => Some(8),
            2 => varint(bytes, &mut at),
            5 => Some(4),
            _ => return Err(NOT_ONE),
        };
        let Some(size) = size else { return Err(cut(part, found + 1, found)) };
        match at.checked_add(size) {
            Some(end) if end <= found => at = end,
            Some(end) if end < 1 << 48 => return Err(cut(part, end, found)),
            _ => return Err(NOT_ONE),
        }
    }
    Ok(())
}

fn cut(part: &'static str, needed: u64, found: u64) -> Broken {
    Broken::CutOff { part, needed, found }
}

/// A base-128 number of at most ten bytes.
fn varint(bytes: &[u8], at: &mut u64) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..70).step_by(7) {
        let byte = *bytes.get(*at as usize)?;
        *at += 1;
        value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// Where the weights go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Weights {
    /// Into the model file, or beside it where the file would pass the 2 GB that protobuf readers accept.
    #[default]
    Auto,
    /// Tensors of at least this many bytes into a file beside the model, named as the model with `.data` appended.
    Beside {
        /// Size of the smallest tensor that goes out.
        from: usize,
    },
}

/// Writes a model file and, where `weights` asks for it, its data file. Each appears complete under its name or not at
/// all. Returns the files: the model first.
///
/// # Errors
/// When a file cannot be written.
pub fn write_model(model: &ModelProto, path: &Path, weights: Weights) -> Result<Vec<PathBuf>, Error> {
    write_within(model, path, weights, MESSAGE_LIMIT)
}

fn write_within(
    model: &ModelProto,
    path: &Path,
    weights: Weights,
    limit: u64,
) -> Result<Vec<PathBuf>, Error> {
    let from = match weights {
        Weights::Beside { from } => Some(from),
        Weights::Auto => (model.encoded_len() as u64 > limit).then_some(EXTERNAL_FROM),
    };
    let Some(from) = from else {
        let mut draft = Draft::new(path)?;
        // Raw data is shared: the copy costs only the small parts.
        encode(model.clone(), &mut |piece| draft.write(piece))?;
        draft.sync()?;
        return Ok(vec![draft.publish()?]);
    };
    let Some(name) = path.file_name() else {
        let source = std::io::Error::other("the path does not name a file");
        return Err(Error::Io { path: path.to_path_buf(), action: "written", source });
    };
    // Raw data is shared: the copy costs only its small parts.
    let mut model = model.clone();
    let name = format!("{}.data", name.to_string_lossy());
    let mut data = Draft::new(&path.with_file_name(&name))?;
    let mut end = 0u64;
    for tensor in model.graph.iter_mut().flat_map(|g| &mut g.initializer) {
        let Some(raw) = tensor.raw_data.clone().filter(|raw| raw.len() >= from.max(1)) else { continue };
        let offset = end.next_multiple_of(alignment(&raw));
        data.write(&vec![0; (offset - end) as usize])?;
        data.write(&raw)?;
        external::reference(tensor, &name, offset, raw.len() as u64);
        end = offset + raw.len() as u64;
    }
    if end == 0 {
        return write_within(&model, path, Weights::Auto, u64::MAX);
    }
    let mut draft = Draft::new(path)?;
    draft.write(&model.encode_to_vec())?;
    // Both are on the disk before either gets its name.
    data.sync()?;
    draft.sync()?;
    let data = data.publish()?;
    Ok(vec![draft.publish()?, data])
}

/// Large tensors begin on a page, so that a reader can map them one by one; small ones on a cache line.
fn alignment(raw: &Bytes) -> u64 {
    if raw.len() >= 4096 { 4096 } else { 64 }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::proto::{GraphProto, OperatorSetIdProto};
    use crate::{from_tensor, to_tensor};
    use std::fs;
    use tensor::Tensor;

    fn model() -> ModelProto {
        let tensors = [
            ("large", Tensor::new(&[2000], (0..2000).map(|x| x as f32).collect())),
            ("small", Tensor::new(&[2], vec![1i64, 2])),
            ("middle", Tensor::new(&[30], vec![7u8; 30])),
            ("empty", Tensor::new(&[0], Vec::<f32>::new())),
        ];
        ModelProto {
            ir_version: Some(8),
            producer_name: Some("test".into()),
            graph: Some(GraphProto {
                name: Some("g".into()),
                initializer: tensors.iter().map(|(name, t)| from_tensor(name, t)).collect(),
                ..GraphProto::default()
            }),
            opset_import: vec![OperatorSetIdProto { domain: None, version: Some(17) }],
            ..ModelProto::default()
        }
    }

    #[test]
    fn weights_beside_the_model_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.onnx");
        let files = write_model(&model(), &path, Weights::Beside { from: 16 }).unwrap();
        assert_eq!(files, [path.clone(), dir.path().join("m.onnx.data")]);
        assert_eq!(
            fs::metadata(&files[1]).unwrap().len(),
            8064 + 30,
            "aligned to 64 after 8000 and 16 bytes"
        );
        assert!(fs::metadata(&path).unwrap().len() < 1000);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        assert_eq!(read_model(&path).unwrap(), model());
        // Again over itself, while its data is in use.
        let loaded = read_model(&path).unwrap();
        write_model(&loaded, &path, Weights::Beside { from: 16 }).unwrap();
        assert_eq!(loaded, model());
        assert_eq!(read_model(&path).unwrap(), model());
    }

    #[test]
    fn a_model_past_the_limit_keeps_its_weights_beside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.onnx");
        for (limit, expected) in [(9000, 1), (8000, 2)] {
            let written = write_within(&model(), &path, Weights::Auto, limit).unwrap();
            assert_eq!((written.len(), files(&path).unwrap()), (expected, written));
        }
        assert_eq!(read_model(&path).unwrap(), model());
        // Nothing is large enough: no data file.
        assert_eq!(write_model(&model(), &path, Weights::Beside { from: 9000 }).unwrap().len(), 1);
    }

    #[test]
    fn files_in_external_data_stay_in_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let (outside, folder) = (dir.path().join("secret"), dir.path().join("models"));
        fs::create_dir(&folder).unwrap();
        fs::write(&outside, [0; 64]).unwrap();
        fs::write(folder.join("short"), [0; 7]).unwrap();
        fs::create_dir(folder.join("sub")).unwrap();
        fs::write(folder.join("sub/ok"), [1; 8]).unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink(&outside, folder.join("link")).unwrap();
        let path = folder.join("m.onnx");
        let read = |location: &str, edit: &dyn Fn(&mut crate::proto::TensorProto)| {
            let mut m = model();
            let tensor = &mut m.graph.as_mut().unwrap().initializer[1];
            tensor.dims = vec![1];
            external::reference(tensor, location, 0, 8);
            edit(tensor);
            write_model(&m, &path, Weights::Auto).unwrap();
            read_model(&path)
        };
        let entry = |key: &str, value: &str| crate::proto::StringStringEntryProto {
            key: Some(key.into()),
            value: Some(value.into()),
        };
        let secret = outside.to_string_lossy().to_string();
        let cases = [
            (secret.as_str(), "leaves the model's folder"),
            ("../secret", "leaves the model's folder"),
            ("sub/../../secret", "leaves the model's folder"),
            #[cfg(unix)]
            ("link", "a link in the path leaves the model's folder"),
            ("none.bin", "no such file"),
            ("sub", "it is not a file"),
            ("short", "it needs 8 bytes from byte 0, but the file has 7"),
            ("", "names no file"),
        ];
        for (location, expected) in cases {
            let message = read(location, &|_| ()).unwrap_err().to_string();
            let named = message.contains("tensor \"small\"") && message.contains(&format!("\"{location}\""));
            assert!(named && message.contains(expected), "{message}");
        }
        assert!(read("./sub/ok", &|_| ()).is_ok());
        let no_length = |t: &mut crate::proto::TensorProto| t.external_data.truncate(1);
        let loaded = read("sub/ok", &no_length).unwrap();
        assert_eq!(
            to_tensor(&loaded.graph.unwrap().initializer[1]).unwrap().to_i64(),
            [0x0101_0101_0101_0101]
        );
        let offset = |text: &'static str| {
            move |t: &mut crate::proto::TensorProto| t.external_data[1].value = Some(text.into())
        };
        for (text, expected) in
            [("-1", "offset is \"-1\""), ("18446744073709551615", "from byte 18446744073709551615")]
        {
            let message = read("sub/ok", &offset(text)).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
        let checksum = |text: String| {
            move |t: &mut crate::proto::TensorProto| t.external_data.push(entry("checksum", &text))
        };
        assert!(read("sub/ok", &checksum(crate::sha1::sha1_hex(&[1; 8]))).is_ok());
        let message = read("sub/ok", &checksum("0123".into())).unwrap_err().to_string();
        assert!(message.contains("SHA-1"), "{message}");
    }

    #[test]
    fn usual_mistakes_are_recognised() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.onnx");
        let mut zip = b"PK\x03\x04................archive/data.pkl".to_vec();
        zip.resize(600, 0);
        let cases: [(&[u8], &str); 9] = [
            (b"", "the file is empty"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
            (&zip, "PyTorch checkpoint"),
            (b"PK\x03\x04.........", "zip archive"),
            (b"\x1c\0\0\0TFL3....", "TensorFlow Lite"),
            (b"<!DOCTYPE html><html>", "web page"),
            (b"\x93NUMPY\x01\0", "NumPy"),
            (b"Hello, this is some text that nobody would take for a model", "not a protobuf message"),
            (b"\x08\x08", "no graph"),
        ];
        for (content, expected) in cases {
            fs::write(&path, content).unwrap();
            let message = read_model(&path).unwrap_err().to_string();
            assert!(message.contains("m.onnx: ") && message.contains(expected), "{message}");
        }
        let message = read_model(&dir.path().join("none")).unwrap_err().to_string();
        assert!(message.contains("no such file"), "{message}");
        let message = read_model(dir.path()).unwrap_err().to_string();
        assert!(message.contains("it is a folder"), "{message}");
    }

    #[test]
    fn a_cut_off_model_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.onnx");
        let whole = model().encode_to_vec();
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        let message = read_model(&path).unwrap_err().to_string();
        let end = whole.len() - 4;
        let expected = format!(
            "cut off: the graph should end at byte {end}, but the file has {} bytes",
            whole.len() / 2
        );
        assert!(message.contains(&expected), "{message}");
        // The structure is whole, what is in it is not.
        let mut damaged = whole.clone();
        let at = whole.windows(5).position(|w| w == b"large").unwrap();
        damaged[at - 1] = 0x7f;
        fs::write(&path, &damaged).unwrap();
        let message = read_model(&path).unwrap_err().to_string();
        assert!(message.contains("damaged"), "{message}");
    }

    #[test]
    fn what_cannot_be_written_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("m.onnx");
        fs::create_dir(&folder).unwrap();
        for weights in [Weights::Auto, Weights::Beside { from: 1 }] {
            let message = write_model(&model(), &folder, weights).unwrap_err().to_string();
            assert!(message.contains("cannot be written"), "{message}");
            let message =
                write_model(&model(), &dir.path().join("none/m.onnx"), weights).unwrap_err().to_string();
            assert!(message.contains("none/m.onnx") && message.contains("cannot be written"), "{message}");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
