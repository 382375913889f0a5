//! What can go wrong with data, each told with the file, the entry and the sample where it happened.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Where data comes from: a file, and inside an archive an entry of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub path: PathBuf,
    /// The array inside an archive; none where the file holds one array.
    pub entry: Option<String>,
}

impl Place {
    /// A file that holds one array.
    pub fn file(path: &Path) -> Place {
        Place { path: path.to_path_buf(), entry: None }
    }

    /// An array of an archive.
    pub fn entry(path: &Path, entry: &str) -> Place {
        Place { path: path.to_path_buf(), entry: Some(entry.to_string()) }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        match &self.entry {
            Some(entry) => write!(f, ", entry '{entry}'"),
            None => Ok(()),
        }
    }
}

/// Everything that reading data can meet. The message is complete in itself: it holds the cause as well.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error("cannot read {place}: {cause}")]
    Read { place: Place, cause: io::Error },
    #[error("cannot write {}: {cause}", path.display())]
    Write { path: PathBuf, cause: io::Error },
    #[error("{place}: {problem}")]
    Format { place: Place, problem: String },
}

impl Error {
    pub(crate) fn format(place: &Place, problem: impl Into<String>) -> Error {
        Error::Format { place: place.clone(), problem: problem.into() }
    }

    pub(crate) fn read(place: &Place, cause: io::Error) -> Error {
        Error::Read { place: place.clone(), cause }
    }
}
