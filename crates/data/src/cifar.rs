//! The binary form of CIFAR-10 and CIFAR-100 (<https://www.cs.toronto.edu/~kriz/cifar.html>): records of one label
//! (CIFAR-10) or a coarse and a fine one (CIFAR-100), then 32 x 32 pixels, red, green and blue plane by plane.

use crate::{Error, Place};
use std::path::{Path, PathBuf};
use tensor::Tensor;

const PIXELS: usize = 3 * 32 * 32;

/// Names of the files of a split, without their numbers.
pub(crate) fn is_batch(name: &str, split: &str) -> bool {
    let Some(stem) = name.strip_suffix(".bin") else { return false };
    match split {
        "train" => {
            stem == "train" || stem.strip_prefix("data_batch_").is_some_and(|n| n.parse::<u8>().is_ok())
        }
        _ => stem == "test" || stem == "test_batch",
    }
}

/// Pictures `[N, 3, 32, 32]` and labels (the fine ones of CIFAR-100) of files of one split.
///
/// # Errors
/// When a file cannot be read or its size is not that of whole records.
pub(crate) fn read(files: &[PathBuf]) -> Result<(Tensor, Tensor), Error> {
    let (mut pictures, mut labels) = (Vec::new(), Vec::new());
    for path in files {
        let place = Place::file(path);
        let bytes = onnx::read_bytes(path).map_err(|e| Error::read(&place, e))?;
        let count = labels_per_record(path, bytes.len()).ok_or_else(|| {
            let problem =
                format!("{} bytes are no whole number of CIFAR records of 3073 or 3074 bytes", bytes.len());
            Error::format(&place, problem)
        })?;
        for record in bytes.chunks_exact(count + PIXELS) {
            let (label, picture) = record.split_at(count);
            labels.push(label[count - 1]);
            pictures.extend_from_slice(picture);
        }
    }
    Ok((Tensor::new(&[labels.len(), 3, 32, 32], pictures), Tensor::new(&[labels.len()], labels)))
}

/// One label or two. The files of both sets have names of their own; only where a name says nothing does the size decide.
fn labels_per_record(path: &Path, bytes: usize) -> Option<usize> {
    let name = path.file_stem()?.to_str()?;
    let fits = |labels: usize| bytes > 0 && bytes.is_multiple_of(PIXELS + labels);
    let order = if matches!(name, "train" | "test") { [2, 1] } else { [1, 2] };
    order.into_iter().find(|&labels| fits(labels))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn both_sets() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, records: &[&[u8]]| {
            let path = dir.path().join(name);
            let bytes: Vec<u8> = records
                .iter()
                .flat_map(|labels| [labels.to_vec(), vec![labels[0] + 100; PIXELS]].concat())
                .collect();
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let (x, y) =
            read(&[file("data_batch_1.bin", &[&[3], &[4]]), file("data_batch_2.bin", &[&[5]])]).unwrap();
        assert_eq!((x.shape(), y.to_i64()), (&[3, 3, 32, 32][..], vec![3, 4, 5]));
        assert_eq!((x.bytes()[0], x.bytes()[2 * PIXELS], x.bytes()[3 * PIXELS - 1]), (103, 105, 105));
        let (x, y) = read(&[file("test.bin", &[&[1, 99], &[2, 98]])]).unwrap();
        assert_eq!((x.shape()[0], y.to_i64(), x.bytes()[PIXELS]), (2, vec![99, 98], 102));
        let path = dir.path().join("x.bin");
        for size in [0, 1, 3072, 5000] {
            std::fs::write(&path, vec![0; size]).unwrap();
            assert!(read(std::slice::from_ref(&path)).unwrap_err().to_string().contains("x.bin: "), "{size}");
        }
    }

    #[test]
    fn names_of_splits() {
        for (name, train, test) in [
            ("data_batch_1.bin", true, false),
            ("test_batch.bin", false, true),
            ("train.bin", true, false),
            ("test.bin", false, true),
            ("data_batch_x.bin", false, false),
            ("batches.meta.txt", false, false),
        ] {
            assert_eq!((is_batch(name, "train"), is_batch(name, "test")), (train, test), "{name}");
        }
    }
}
