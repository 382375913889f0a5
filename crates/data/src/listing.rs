//! Picture files and their class numbers: a list file, or a folder with a sub-folder per class.

use crate::{Error, Place};
use std::fs;
use std::path::{Path, PathBuf};

/// Files below a root, in the order of their sample numbers.
#[derive(Debug, PartialEq)]
pub(crate) struct Listing {
    /// Where the listing comes from.
    pub place: Place,
    pub root: PathBuf,
    pub files: Vec<Box<str>>,
    pub labels: Option<Vec<i64>>,
}

/// Endings of files that are taken for pictures, in small letters.
const ENDINGS: [&str; 5] = ["jpg", "jpeg", "png", "bmp", "webp"];

/// Folders deeper than this below a class are a mistake, or a link that leads in a circle.
const DEEPEST: usize = 8;

impl Listing {
    /// A text file with a path and a class number per line, as PaddleSlim's `train_list.txt` and `val_list.txt`. Paths begin
    /// at the folder of the list, or at `train` or `val` in it. Lines without a number make a list without labels.
    ///
    /// # Errors
    /// When the file cannot be read, is empty, or a line differs from the others.
    pub fn of_list(list: &Path) -> Result<Listing, Error> {
        let place = Place::file(list);
        let text = fs::read_to_string(list).map_err(|e| Error::read(&place, e))?;
        let (mut files, mut labels) = (Vec::<Box<str>>::new(), Vec::new());
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() {
                continue;
            }
            let labelled = line
                .rsplit_once([' ', '\t'])
                .and_then(|(file, label)| Some((file, label.parse::<i64>().ok()?)));
            let (file, label) = labelled.map_or((line, None), |(file, label)| (file.trim_end(), Some(label)));
            files.push(Box::from(file));
            labels.extend(label);
            if !labels.is_empty() && labels.len() != files.len() {
                let problem =
                    format!("line {}: a path and a class number were expected, found '{line}'", number + 1);
                return Err(Error::format(&place, problem));
            }
        }
        let folder = list.parent().unwrap_or(Path::new(""));
        let there = |root: &PathBuf| files.iter().take(10).any(|f| root.join(&**f).is_file());
        let roots = ["", "train", "val", "test"].map(|part| folder.join(part));
        let Some(root) = roots.into_iter().find(there) else {
            let problem = match files.first() {
                None => "the list is empty".to_string(),
                Some(file) => format!(
                    "none of the first files is there, for instance {}",
                    folder.join(&**file).display()
                ),
            };
            return Err(Error::format(&place, problem));
        };
        Ok(Listing { place, root, files, labels: (!labels.is_empty()).then_some(labels) })
    }

    /// One picture; `None` when the name is not that of a picture.
    pub fn of_picture(file: &Path) -> Option<Listing> {
        let name = file.file_name()?.to_str().filter(|name| is_picture(name))?;
        let root = file.parent().unwrap_or(Path::new("")).to_path_buf();
        Some(Listing { place: Place::file(file), root, files: vec![name.into()], labels: None })
    }

    /// A folder with one sub-folder per class, whose sorted names are numbered from 0, as torchvision's `ImageFolder`; or
    /// one with pictures, which have no labels then. `None` when it holds no pictures at all.
    ///
    /// # Errors
    /// When a folder cannot be read, or some classes have pictures and others have none.
    pub fn of_folder(folder: &Path) -> Result<Option<Listing>, Error> {
        let (mut files, mut labels, mut empty) = (Vec::new(), Vec::new(), Vec::new());
        let classes = entries(folder)?.into_iter().filter(|name| folder.join(name).is_dir());
        for (label, class) in classes.enumerate() {
            let before = files.len();
            collect(folder, &class, 0, &mut files)?;
            labels.resize(files.len(), label as i64);
            if files.len() == before {
                empty.push(class);
            }
        }
        let place = Place::file(folder);
        if files.is_empty() {
            let alone: Vec<Box<str>> =
                entries(folder)?.into_iter().filter(|n| is_picture(n)).map(Box::from).collect();
            let listing = Listing { place, root: folder.to_path_buf(), files: alone, labels: None };
            return Ok((!listing.files.is_empty()).then_some(listing));
        }
        if !empty.is_empty() {
            let problem = format!(
                "each sub-folder is a class, but there are no pictures in {}; remove what is no class",
                empty.join(", ")
            );
            return Err(Error::format(&place, problem));
        }
        Ok(Some(Listing { place, root: folder.to_path_buf(), files, labels: Some(labels) }))
    }
}

fn is_picture(name: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, ending)| ENDINGS.contains(&&*ending.to_ascii_lowercase()))
}

/// Names in a folder, sorted, without hidden ones.
pub(crate) fn entries(folder: &Path) -> Result<Vec<String>, Error> {
    let read = |e| Error::read(&Place::file(folder), e);
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(read)? {
        // A name that is no Unicode could not be told to anyone either.
        if let Ok(name) = entry.map_err(read)?.file_name().into_string()
            && !name.starts_with('.')
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// The pictures below `root/part`, by their paths from `root`, folder by folder in sorted order.
fn collect(root: &Path, part: &str, depth: usize, files: &mut Vec<Box<str>>) -> Result<(), Error> {
    let folder = root.join(part);
    if depth > DEEPEST {
        let problem = format!("folders are nested deeper than {DEEPEST} below a class");
        return Err(Error::format(&Place::file(&folder), problem));
    }
    for name in entries(&folder)? {
        let path = format!("{part}/{name}");
        if is_picture(&name) {
            files.push(path.into());
        } else if folder.join(&name).is_dir() {
            collect(root, &path, depth + 1, files)?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn touch(root: &Path, names: &[&str]) {
        for name in names {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
    }

    fn files(listing: &Listing) -> Vec<&str> {
        listing.files.iter().map(|f| &**f).collect()
    }

    #[test]
    fn a_picture_alone() {
        let listing = Listing::of_picture(Path::new("some/cat.JPG")).unwrap();
        assert_eq!((listing.root.as_path(), &*listing.files[0]), (Path::new("some"), "cat.JPG"));
        assert!(Listing::of_picture(Path::new("some/cat.txt")).is_none());
    }

    #[test]
    fn a_sub_folder_is_a_class() {
        let dir = tempfile::tempdir().unwrap();
        touch(
            dir.path(),
            &[
                "dog/b.JPEG",
                "dog/a.png",
                "dog/notes.txt",
                "cat/x/1.webp",
                "cat/0.bmp",
                ".hidden/h.png",
                "loose.jpg",
            ],
        );
        let listing = Listing::of_folder(dir.path()).unwrap().unwrap();
        assert_eq!(files(&listing), ["cat/0.bmp", "cat/x/1.webp", "dog/a.png", "dog/b.JPEG"]);
        assert_eq!(listing.labels.unwrap(), [0, 0, 1, 1]);
        fs::create_dir(dir.path().join("bird")).unwrap();
        let e = Listing::of_folder(dir.path()).unwrap_err().to_string();
        assert!(e.contains("no pictures in bird"), "{e}");
    }

    #[test]
    fn pictures_alone_have_no_labels() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Listing::of_folder(dir.path()).unwrap(), None);
        touch(dir.path(), &["2.jpg", "1.jpg"]);
        let listing = Listing::of_folder(dir.path()).unwrap().unwrap();
        assert_eq!((files(&listing), listing.labels.clone()), (vec!["1.jpg", "2.jpg"], None));
    }

    #[test]
    fn lists_of_paths_and_labels() {
        let dir = tempfile::tempdir().unwrap();
        touch(dir.path(), &["train/a/1.jpg", "val/with blank.jpg"]);
        let list = dir.path().join("list.txt");
        let read = |text: &str| {
            fs::write(&list, text).unwrap();
            Listing::of_list(&list).map_err(|e| e.to_string())
        };
        let listing = read("train/a/1.jpg 3\n\nmissing.jpg\t0\r\n").unwrap();
        assert_eq!(
            (files(&listing), listing.labels.clone()),
            (vec!["train/a/1.jpg", "missing.jpg"], Some(vec![3, 0]))
        );
        let listing = read("with blank.jpg 7").unwrap();
        assert_eq!((listing.root, listing.labels), (dir.path().join("val"), Some(vec![7])));
        assert_eq!(read("a/1.jpg\na/2.jpg\n").unwrap().labels, None);
        assert!(read("a/1.jpg 0\na/2.jpg\n").unwrap_err().contains("line 2: a path and a class number"));
        assert!(read("a/1.jpg\na/2.jpg 0\n").unwrap_err().contains("line 2"));
        assert!(read("\n").unwrap_err().contains("list.txt: the list is empty"));
        assert!(read("b.jpg 0").unwrap_err().contains("b.jpg"));
    }

    #[test]
    #[cfg(unix)]
    fn a_circle_of_links_ends() {
        let dir = tempfile::tempdir().unwrap();
        touch(dir.path(), &["a/1.jpg"]);
        std::os::unix::fs::symlink(dir.path(), dir.path().join("a/again")).unwrap();
        assert!(Listing::of_folder(dir.path()).unwrap_err().to_string().contains("nested deeper"));
    }
}
