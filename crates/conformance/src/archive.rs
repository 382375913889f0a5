//! Many cases in one zip archive.

use crate::Error;
use crate::case::Case;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The largest file that is unpacked.
const LARGEST: u64 = 64 << 20;

/// The cases of a zip archive whose entries are `case/model.onnx` and `case/test_data_set_0/input_0.pb`.
///
/// # Errors
/// When the file cannot be read or is no such archive.
pub fn read_archive(path: &Path) -> Result<Vec<Case>, Error> {
    let archive_error = |what: String| Error::Archive { path: path.to_path_buf(), what };
    let file = File::open(path).map_err(|source| Error::Io { path: path.to_path_buf(), source })?;
    let mut archive = zip::ZipArchive::new(file).map_err(|e| archive_error(e.to_string()))?;
    let mut cases: BTreeMap<String, Case> = BTreeMap::new();
    for i in 0..archive.len() {
        let entry = archive.by_index(i).map_err(|e| archive_error(e.to_string()))?;
        let name = entry.name().to_string();
        if entry.is_dir() {
            continue;
        }
        let mut bytes = Vec::new();
        entry.take(LARGEST).read_to_end(&mut bytes).map_err(|e| archive_error(format!("{name}: {e}")))?;
        let parts: Vec<&str> = name.split('/').collect();
        match parts[..] {
            [.., case, "model.onnx"] => {
                cases.entry(case.into()).or_insert_with(|| Case::new(case)).model = bytes
            }
            [.., case, set, file] if set.starts_with("test_data_set_") => {
                let case = cases.entry(case.into()).or_insert_with(|| Case::new(case));
                case.sets.entry(set.into()).or_default().add(file, bytes);
            }
            _ => {}
        }
    }
    Ok(cases.into_values().collect())
}
