//! The test data of ONNX models: folders `test_data_set_0`, `test_data_set_1`, … with a tensor per input, `input_0.pb`, ….

use crate::{Error, InputSpec, Place};
use std::path::{Path, PathBuf};
use tensor::Tensor;

/// The sets in a folder, or the folder itself when it is one; by number.
pub(crate) fn sets(folder: &Path, names: &[String]) -> Option<Vec<PathBuf>> {
    if names.iter().any(|n| n == "input_0.pb") {
        return Some(vec![folder.to_path_buf()]);
    }
    let number = |name: &String| name.strip_prefix("test_data_set_")?.parse::<u64>().ok();
    let mut found: Vec<(u64, PathBuf)> =
        names.iter().filter_map(|name| Some((number(name)?, folder.join(name)))).collect();
    found.sort();
    (!found.is_empty()).then(|| found.into_iter().map(|(_, path)| path).collect())
}

/// One array per input: the tensors of all sets one behind the other. A tensor belongs to the input of its name, or, where
/// it has none that the model knows, to the input of its number.
///
/// # Errors
/// When a file is missing or damaged, or the sets differ in type or shape.
pub(crate) fn read(sets: &[PathBuf], inputs: &[InputSpec]) -> Result<Vec<(Place, Tensor)>, Error> {
    let mut parts: Vec<Vec<(PathBuf, Tensor)>> = vec![Vec::new(); inputs.len()];
    for (k, set) in sets.iter().enumerate() {
        for number in 0.. {
            let path = set.join(format!("input_{number}.pb"));
            if !path.is_file() {
                break;
            }
            let (name, tensor) = onnx::read_tensor(&path)?;
            let input = inputs.iter().position(|i| i.name == name).unwrap_or(number);
            if let Some(parts) = parts.get_mut(input) {
                parts.push((path, tensor));
            }
        }
        if let Some(missing) = parts.iter().position(|p| p.len() != k + 1) {
            let problem = format!("one tensor was expected for the model's input '{}'", inputs[missing].name);
            return Err(Error::format(&Place::file(set), problem));
        }
    }
    parts.into_iter().map(join).collect()
}

/// The tensors one behind the other along the first dimension.
fn join(parts: Vec<(PathBuf, Tensor)>) -> Result<(Place, Tensor), Error> {
    let [(first, one), rest @ ..] = &parts[..] else {
        return Err(Error::Spec { spec: String::new(), problem: "the model has no inputs".into() });
    };
    let place = Place::file(first);
    let row = |t: &Tensor| (t.dtype(), t.shape().get(1..).map(<[_]>::to_vec));
    if row(one).1.is_none() {
        return Err(Error::format(&place, "the tensor has no dimension that counts samples"));
    }
    if rest.is_empty() {
        return Ok((place, one.clone()));
    }
    if let Some((path, other)) = rest.iter().find(|(_, t)| row(t) != row(one)) {
        let problem = format!(
            "a {} tensor of shape {:?}, but {} holds a {} tensor of shape {:?}; sets have to agree in all but the first \
             dimension",
            other.dtype(),
            other.shape(),
            first.display(),
            one.dtype(),
            one.shape()
        );
        return Err(Error::format(&Place::file(path), problem));
    }
    let samples = parts.iter().map(|(_, t)| t.shape()[0]).sum();
    let shape = [&[samples], &one.shape()[1..]].concat();
    let bytes: Vec<u8> = parts.iter().flat_map(|(_, t)| t.bytes().iter().copied()).collect();
    let joined = Tensor::from_bytes(one.dtype(), &shape, bytes.into());
    Ok((place.clone(), joined.map_err(|e| Error::format(&place, e.to_string()))?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::fs;

    /// A `TensorProto` of bytes, written by hand: dims, data_type uint8, name, raw_data.
    fn proto(name: &str, shape: [u8; 2], bytes: &[u8]) -> Vec<u8> {
        let dims = [8, shape[0], 8, shape[1], 16, 2];
        let text = |tag: u8, b: &[u8]| [&[tag, b.len() as u8], b].concat();
        [&dims[..], &text(0x42, name.as_bytes()), &text(0x4a, bytes)].concat()
    }

    fn inputs() -> Vec<InputSpec> {
        ["a", "b"].map(|name| InputSpec::float(name, &[None, Some(2)])).to_vec()
    }

    #[test]
    fn sets_are_joined_and_tensors_found_by_name_or_number() {
        let dir = tempfile::tempdir().unwrap();
        let put = |path: &str, content: Vec<u8>| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        };
        put("test_data_set_0/input_0.pb", proto("b", [1, 2], &[1, 2]));
        put("test_data_set_0/input_1.pb", proto("a", [1, 2], &[3, 4]));
        put("test_data_set_10/input_0.pb", proto("", [2, 2], &[5, 6, 7, 8]));
        put("test_data_set_10/input_1.pb", proto("", [2, 2], &[9, 10, 11, 12]));
        let names = crate::listing::entries(dir.path()).unwrap();
        let sets = sets(dir.path(), &names).unwrap();
        let arrays = read(&sets, &inputs()).unwrap();
        assert_eq!(arrays[0].1, Tensor::new(&[3, 2], vec![3u8, 4, 5, 6, 7, 8]));
        assert_eq!(arrays[1].1, Tensor::new(&[3, 2], vec![1u8, 2, 9, 10, 11, 12]));
        let one = super::sets(&sets[0], &["input_0.pb".into()]).unwrap();
        assert_eq!(read(&one, &inputs()).unwrap()[0].1.shape(), [1, 2]);

        put("test_data_set_10/input_1.pb", proto("", [1, 3], &[9, 10, 11]));
        let e = read(&sets, &inputs()).unwrap_err().to_string();
        assert!(e.contains("test_data_set_10/input_1.pb: a uint8 tensor of shape [1, 3]"), "{e}");
        put("test_data_set_10/input_1.pb", vec![0xff; 9]);
        assert!(read(&sets, &inputs()).unwrap_err().to_string().contains("input_1.pb"));
        fs::remove_file(dir.path().join("test_data_set_10/input_1.pb")).unwrap();
        assert!(read(&sets, &inputs()).unwrap_err().to_string().contains("for the model's input 'b'"));
    }
}
