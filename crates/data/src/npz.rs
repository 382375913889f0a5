//! NumPy's `.npz` archives: a zip file with one `.npy` file per array, stored or deflated.

use crate::file::write_atomic;
use crate::{Error, Place, npy};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Write};
use std::path::{Path, PathBuf};
use tensor::Tensor;
use zip::result::ZipError;
use zip::write::SimpleFileOptions;
use zip::{ZipArchive, ZipWriter};

/// Reads all arrays of an archive.
///
/// # Errors
/// When the file is no zip archive, or one of its arrays cannot be read (see [`npy::read`]).
pub fn read(path: impl AsRef<Path>) -> Result<BTreeMap<String, Tensor>, Error> {
    let mut archive = Archive::open(path)?;
    let names = archive.names();
    names.into_iter().map(|name| archive.read(&name).map(|array| (name, array))).collect()
}

/// Writes arrays as a deflated archive, through a temporary file and a rename. The same arrays give the same
/// bytes.
///
/// # Errors
/// When the file cannot be written, or NumPy lacks the element type of an array (bfloat16, int4, uint4).
pub fn write(path: impl AsRef<Path>, arrays: &BTreeMap<String, Tensor>) -> Result<(), Error> {
    let path = path.as_ref();
    let headers: Vec<Vec<u8>> = arrays
        .iter()
        .map(|(name, array)| npy::header(array, &Place::entry(path, name)))
        .collect::<Result<_, _>>()?;
    write_atomic(path, |out| {
        let mut zip = ZipWriter::new(out);
        for ((name, array), header) in arrays.iter().zip(headers) {
            let options = SimpleFileOptions::default()
                .compression_method(zip::CompressionMethod::Deflated)
                .large_file(array.bytes().len() > u32::MAX as usize / 2);
            zip.start_file(format!("{name}.npy"), options)?;
            zip.write_all(&header)?;
            zip.write_all(array.bytes())?;
        }
        Ok(zip.finish()?)
    })
}

/// An open archive, from which single arrays are read.
pub struct Archive {
    path: PathBuf,
    zip: ZipArchive<BufReader<File>>,
}

impl Archive {
    /// Opens an archive and reads its table of contents.
    ///
    /// # Errors
    /// When the file cannot be read or is no zip archive.
    pub fn open(path: impl AsRef<Path>) -> Result<Archive, Error> {
        let path = path.as_ref().to_path_buf();
        let place = Place::file(&path);
        let file = File::open(&path).map_err(|e| Error::read(&place, e))?;
        let zip = ZipArchive::new(BufReader::new(file)).map_err(|e| zip_error(&place, e))?;
        Ok(Archive { path, zip })
    }

    /// The names of the arrays, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            self.zip.file_names().filter_map(|n| n.strip_suffix(".npy")).map(String::from).collect();
        names.sort();
        names
    }

    /// Reads one array.
    ///
    /// # Errors
    /// When there is no such array, or it cannot be read (see [`npy::read`]).
    pub fn read(&mut self, name: &str) -> Result<Tensor, Error> {
        let place = Place::entry(&self.path, name);
        let names = self.names();
        if !names.iter().any(|n| n == name) {
            let problem = format!("there is no array '{name}'");
            return Err(Error::Entries { path: self.path.clone(), problem, entries: names });
        }
        let entry = self.zip.by_name(&format!("{name}.npy")).map_err(|e| zip_error(&place, e))?;
        let size = entry.size();
        npy::read_from(entry, size, &place)
    }
}

fn zip_error(place: &Place, error: ZipError) -> Error {
    match error {
        ZipError::Io(e) if e.kind() != io::ErrorKind::UnexpectedEof => Error::read(place, e),
        e => Error::format(place, format!("not a readable .npz archive: {e}")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use ndarray::Array2;
    use ndarray_npy::{NpzReader, NpzWriter};
    use tempfile::TempDir;

    fn sample() -> BTreeMap<String, Tensor> {
        let x: Vec<f32> = (0..600).map(|i| i as f32 / 7.0).collect();
        BTreeMap::from([
            ("in/x".to_string(), Tensor::new(&[20, 30], x)),
            ("y".to_string(), Tensor::new(&[3], vec![1i64, -2, 3])),
            ("ok".to_string(), Tensor::bools(&[2], &[true, false])),
            ("s".to_string(), Tensor::scalar(half::f16::from_f32(0.5))),
        ])
    }

    fn saved() -> (TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.npz");
        write(&path, &sample()).unwrap();
        (dir, path)
    }

    #[test]
    fn what_is_written_is_read() {
        let (_dir, path) = saved();
        assert_eq!(read(&path).unwrap(), sample());
        assert_eq!(Archive::open(&path).unwrap().names(), ["in/x", "ok", "s", "y"]);
        let first = std::fs::read(&path).unwrap();
        write(&path, &sample()).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), first, "the same arrays give the same bytes");
    }

    #[test]
    fn archives_of_another_implementation() {
        let (_dir, path) = saved();
        let x: Array2<f32> = NpzReader::new(File::open(&path).unwrap()).unwrap().by_name("in/x").unwrap();
        assert_eq!(x[[19, 29]], 599.0 / 7.0);
        for stored in [true, false] {
            let file = File::create(&path).unwrap();
            let mut npz = if stored { NpzWriter::new(file) } else { NpzWriter::new_compressed(file) };
            npz.add_array("a", &x).unwrap();
            npz.finish().unwrap();
            let arrays = read(&path).unwrap();
            assert_eq!(arrays["a"], sample()["in/x"]);
        }
    }

    #[test]
    fn text_beside_numbers_does_not_disturb() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.npz");
        let mut zip = ZipWriter::new(File::create(&path).unwrap());
        let text = npy::header(&Tensor::new(&[1], vec![0u32]), &Place::file(&path)).unwrap();
        let text: Vec<u8> = String::from_utf8_lossy(&text[6..]).replace("<u4", "<U1").into_bytes();
        zip.start_file("vocab.npy", SimpleFileOptions::default()).unwrap();
        zip.write_all(&[b"\x93NUMPY", &text[..], &[65, 0, 0, 0]].concat()).unwrap();
        zip.start_file("x.npy", SimpleFileOptions::default()).unwrap();
        zip.write_all(&npy::header(&Tensor::scalar(3i32), &Place::file(&path)).unwrap()).unwrap();
        zip.write_all(&[3, 0, 0, 0]).unwrap();
        zip.finish().unwrap();
        assert_eq!(Archive::open(&path).unwrap().read("x").unwrap(), Tensor::scalar(3i32));
        let e = read(&path).unwrap_err().to_string();
        assert!(e.contains("x.npz, entry 'vocab': the array holds text (<U1)"), "{e}");
        let e = Archive::open(&path).unwrap().read("z").unwrap_err().to_string();
        assert!(e.ends_with("x.npz: there is no array 'z'; it holds: vocab, x"), "{e}");
    }

    /// Truncated and damaged archives give errors (or, where only unused bytes changed, the arrays).
    #[test]
    fn damaged_archives_never_panic() {
        let (dir, path) = saved();
        let good = std::fs::read(&path).unwrap();
        let bad_path = dir.path().join("bad.npz");
        for i in (0..good.len()).step_by(11) {
            std::fs::write(&bad_path, &good[..i]).unwrap();
            let e = read(&bad_path).unwrap_err().to_string();
            assert!(e.contains("bad.npz"), "{e}");
            let mut flipped = good.clone();
            flipped[i] ^= 0x55;
            std::fs::write(&bad_path, &flipped).unwrap();
            if let Ok(arrays) = read(&bad_path) {
                // A name or a flag may have changed, but never a value: the checksum covers those.
                let expected = sample();
                assert!(arrays.values().all(|a| expected.values().any(|b| a == b)));
            }
        }
    }
}
