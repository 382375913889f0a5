//! Files written whole or not at all.

use crate::Error;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// Writes `path` through a temporary file in the same folder and a rename, so that no reader sees half a file
/// and an earlier file survives a failure.
pub(crate) fn write_atomic(
    path: &Path,
    fill: impl FnOnce(BufWriter<File>) -> io::Result<BufWriter<File>>,
) -> Result<(), Error> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temp = path.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
    let write = || {
        let mut out = fill(BufWriter::new(File::create(&temp)?))?;
        out.flush()?;
        out.get_ref().sync_all()?;
        fs::rename(&temp, path)
    };
    write().map_err(|cause| {
        // Only tidying up: the error worth telling is the first one.
        let _ = fs::remove_file(&temp);
        Error::Write { path: path.to_path_buf(), cause }
    })
}
