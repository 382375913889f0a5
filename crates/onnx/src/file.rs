//! Files as bytes: mapped when large, written whole or not at all.
#![allow(unsafe_code)]

use crate::Error;
use bytes::Bytes;
use std::fs::{self, File, Permissions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use tempfile::{Builder, NamedTempFile};

/// Smaller files are read: a page of a map costs more than a copy, and a copy cannot change under us.
const MAP_FROM: u64 = 1 << 20;

fn io_error(path: &Path, action: &'static str) -> impl Fn(io::Error) -> Error + use<> {
    let path = path.to_path_buf();
    move |source| match source.kind() {
        io::ErrorKind::NotFound if action == "read" => Error::NotFound { path: path.clone() },
        _ => Error::Io { path: path.clone(), action, source },
    }
}

/// The content of a file, without copying it where it is large.
pub(crate) fn read(path: &Path) -> Result<Bytes, Error> {
    read_bytes(path).map_err(io_error(path, "read"))
}

/// The bytes of a file: read where it is small, mapped where it is large, so that only what is looked at is in memory.
///
/// # Errors
/// When it is missing, is a folder, or cannot be read.
pub fn read_bytes(path: &Path) -> io::Result<Bytes> {
    let file = File::open(path)?;
    let meta = file.metadata()?;
    if meta.is_dir() {
        return Err(io::Error::other("it is a folder"));
    }
    if !meta.is_file() || meta.len() < MAP_FROM {
        return Ok(Bytes::from(fs::read(path)?));
    }
    // SAFETY: the map is read-only and private to this process. It stays valid as long as nobody shortens the file in
    // place; we never do (writers here replace a file by renaming, which keeps the old content alive for the map).
    // Another program that truncates a file which is in use would end this process with a bus error, as with every
    // reader that maps its files; it cannot make us read memory that is not the file's.
    let map = unsafe { memmap2::Mmap::map(&file) }?;
    Ok(Bytes::from_owner(map))
}

/// A file that appears under its name only when it is complete.
pub(crate) struct Draft {
    file: BufWriter<NamedTempFile>,
    target: PathBuf,
}

impl Draft {
    /// Begins to write beside `path`.
    pub(crate) fn new(path: &Path) -> Result<Draft, Error> {
        let error = io_error(path, "written");
        // A link stays a link: what it points to is replaced.
        let target = if path.exists() { path.canonicalize().map_err(&error)? } else { path.to_path_buf() };
        if target.exists() && !target.is_file() {
            return Err(error(io::Error::other("something else than a file has this name")));
        }
        if target.file_name().is_none() {
            return Err(error(io::Error::other("the path does not name a file")));
        }
        let folder = match target.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        let mut builder = Builder::new();
        builder.prefix(".onnx-qat-");
        #[cfg(unix)]
        builder.permissions(<Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o666));
        let file = builder.tempfile_in(folder).map_err(&error)?;
        Ok(Draft { file: BufWriter::new(file), target })
    }

    /// Appends.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let target = &self.target;
        self.file.write_all(bytes).map_err(|e| io_error(target, "written")(e))
    }

    /// Forces the content to the disk.
    pub(crate) fn sync(&mut self) -> Result<(), Error> {
        let target = &self.target;
        let done = self.file.flush().and_then(|()| self.file.get_ref().as_file().sync_all());
        done.map_err(|e| io_error(target, "written")(e))
    }

    /// Gives the file its name, replacing what had it. A draft that is dropped instead leaves nothing.
    pub(crate) fn publish(self) -> Result<PathBuf, Error> {
        let target = self.target;
        let error = io_error(&target, "written");
        let file = self.file.into_inner().map_err(|e| error(e.into_error()))?;
        file.persist(&target).map_err(|e| error(e.error))?;
        // The new name should survive a power loss too; a file system that cannot promise that is no error.
        if let Some(folder) = target.parent().and_then(|p| File::open(p).ok()) {
            let _ = folder.sync_all();
        }
        Ok(target)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn large_files_are_mapped_small_ones_read() {
        let dir = tempfile::tempdir().unwrap();
        for size in [3, MAP_FROM as usize + 5] {
            let path = dir.path().join("f");
            let content: Vec<u8> = (0..size).map(|i| i as u8).collect();
            fs::write(&path, &content).unwrap();
            assert!(read(&path).unwrap() == content);
        }
    }

    #[test]
    fn a_draft_appears_when_published() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, "old").unwrap();

        let mut dropped = Draft::new(&path).unwrap();
        dropped.write(b"half").unwrap();
        drop(dropped);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);

        let mut draft = Draft::new(&path).unwrap();
        draft.write(b"new").unwrap();
        draft.sync().unwrap();
        draft.publish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    #[cfg(unix)]
    fn a_link_stays_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("real"), dir.path().join("link"));
        fs::write(&real, "old").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let mut draft = Draft::new(&link).unwrap();
        draft.write(b"new").unwrap();
        draft.publish().unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&real).unwrap(), b"new");
    }

    #[test]
    fn bad_targets_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "x").unwrap();
        let refused =
            [dir.path().to_path_buf(), dir.path().join("none/f"), file.join("f"), PathBuf::from("/")];
        for path in refused {
            let message = crate::check_writable(&path).unwrap_err().to_string();
            assert!(message.contains("cannot be written"), "{message}");
        }
        crate::check_writable(dir.path().join("new")).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        #[cfg(unix)]
        assert!(Draft::new(Path::new("/dev/null")).is_err(), "a device must not be replaced by a file");
    }
}
