//! Files written whole or not at all.

use crate::{Error, Place};
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

/// Bytes of the largest array that is read into memory as a whole: a few bytes of a compressed file can hold a thousand
/// times as many.
const MOST_HELD: u64 = 4 << 30;

/// # Errors
/// When an array of that many bytes is too large to be read into memory.
pub(crate) fn check_held(place: &Place, bytes: usize) -> Result<(), Error> {
    match bytes as u64 {
        ..=MOST_HELD => Ok(()),
        _ => Err(Error::format(
            place,
            format!(
                "the array takes {bytes} bytes, and at most {MOST_HELD} are read into memory; store it as an .npy file, \
                 which is read piece by piece"
            ),
        )),
    }
}
