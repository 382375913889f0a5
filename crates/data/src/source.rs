//! Where data lies, in the words of a command line.

use crate::listing::{Listing, entries};
use crate::npz::Archive;
use crate::{Dataset, Error, InputSpec, Place, Preprocess, cifar, idx, npy, test_data};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use tensor::Tensor;

/// What data is for, which decides between the parts of a source that holds both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Training and calibration: `x_train`, `train-images-…`.
    Train,
    /// Evaluation: `x_test`, `x_val`, `t10k-images-…`.
    Eval,
}

/// A place of data, parsed but not yet read.
///
/// | text | samples and labels |
/// |---|---|
/// | `digits.npz` | the archive's arrays, found by name: see below |
/// | `digits.npz#test` | the same, of that split only |
/// | `digits.npz#images,classes` | these arrays |
/// | `text.npz#ids=tokens,mask=attention,labels=y` | these arrays, for these inputs of the model |
/// | `x.npy`, `x.npy,y.npy`, `ids=a.npy,mask=b.npy,labels=c.npy` | one file each |
/// | `train-images-idx3-ubyte.gz` | MNIST's format, plain or gzipped; labels beside it are found by their name |
/// | `images.idx,labels.idx` | the same, both named |
/// | `data_batch_1.bin` | CIFAR's binary format |
/// | `val_list.txt` | picture files (JPEG, PNG, BMP, WebP): a path and a class number per line |
/// | `cat.jpg` | a single picture, without a label |
/// | a folder | what is in it, see below |
/// | a folder`#test` | the same, of that split only |
///
/// A folder is searched for, in this order: `train_list.txt`, `val_list.txt`; MNIST's files; CIFAR's `.bin` files;
/// `test_data_set_0/input_0.pb`, … of ONNX models; `.npy` files, one per array, named like arrays in an archive; a
/// sub-folder `train`, `val` or `test` with any of these; pictures in one sub-folder per class, whose sorted names are
/// numbered from 0; pictures alone, without labels. Of lists and folders of pictures, [`Role::Eval`] takes validation
/// before test, since ImageNet's test pictures have no labels.
///
/// In an archive an input is looked for under its name in the model, then (if it is the only one) under `x`,
/// `image`, `data`, `input`, …; labels under `y`, `label`, `target`, …; each with the name of a split before or after
/// it (`x_train`, `train_images`, `xtr`). [`Role::Train`] takes the training split, [`Role::Eval`] test before
/// validation; a name without a split comes last. The other role's split is never taken unless it is asked for.
///
/// Formats are told by the first bytes of a file, not by its name.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    spec: String,
    role: Role,
    files: Vec<Item>,
    /// What follows `#`.
    parts: Vec<Item>,
}

/// `value` or `key=value`.
#[derive(Clone, Debug, PartialEq)]
struct Item {
    key: Option<String>,
    value: String,
}

impl Item {
    fn parse(text: &str) -> Item {
        match text.split_once('=') {
            Some((key, value)) => Item { key: Some(key.trim().into()), value: value.trim().into() },
            None => Item { key: None, value: text.trim().into() },
        }
    }
}

/// An array together with where it comes from.
type Found = (Place, Tensor);

/// What a source holds.
enum Content {
    /// An array per input, and labels.
    Arrays(Vec<Found>, Option<Found>),
    /// Picture files for the only input.
    Pictures(Listing),
}

impl From<(Vec<Found>, Option<Found>)> for Content {
    fn from((arrays, labels): (Vec<Found>, Option<Found>)) -> Content {
        Content::Arrays(arrays, labels)
    }
}

/// What the items of a list stand for: one slot per input of the model, and the labels.
struct Slots<T> {
    inputs: Vec<Option<T>>,
    labels: Option<T>,
}

const INPUT_NAMES: &[&str] =
    &["x", "image", "images", "img", "imgs", "data", "input", "inputs", "feature", "features", "arr0"];
const LABEL_NAMES: &[&str] = &["y", "label", "labels", "target", "targets", "class", "classes", "arr1"];

const TRAIN: &[&str] = &["train", "tr", "training"];
const TEST: &[&str] = &["test", "te", "t10k"];
const VALIDATION: &[&str] = &["val", "valid", "validation", "dev", "eval"];
/// No split at all in the name.
const WHOLE: &[&str] = &[""];

impl Source {
    /// Understands the words of a command line.
    ///
    /// # Errors
    /// When they are empty or an item of a list is.
    pub fn parse(spec: &str, role: Role) -> Result<Source, Error> {
        let spec = spec.trim();
        let exists = |text: &str| Path::new(text).exists();
        // A file whose name holds one of the separators is still that file.
        let (path, parts) = match spec.rsplit_once('#') {
            Some((path, parts)) if !exists(spec) => (path, parts.split(',').map(Item::parse).collect()),
            _ => (spec, Vec::new()),
        };
        let file = |text: &str| match exists(text) {
            true => Item { key: None, value: text.to_string() },
            false => Item::parse(text),
        };
        let files: Vec<Item> =
            if exists(path) { vec![file(path)] } else { path.split(',').map(file).collect() };
        let empty = |i: &Item| i.value.is_empty() || i.key.as_deref() == Some("");
        if files.iter().chain(&parts).any(empty) {
            let problem = "a name is missing; write FILE.npz, FILE.npz#SPLIT, FILE.npz#INPUT,LABELS, X.npy,Y.npy, \
                           a file, a list of pictures, or a folder";
            return Err(Error::Spec { spec: spec.into(), problem: problem.into() });
        }
        Ok(Source { spec: spec.into(), role, files, parts })
    }

    /// Reads what the inputs of a model need. With `preprocess.layout` and the model's shapes the samples must fit.
    ///
    /// # Errors
    /// When a file cannot be read, an array is not found, is empty, does not fit the model's shape or has another
    /// number of samples than the first, or labels are no class numbers.
    pub fn open(&self, inputs: &[InputSpec], preprocess: &Preprocess) -> Result<Dataset, Error> {
        match self.read(inputs)? {
            Content::Arrays(arrays, labels) => Dataset::of_arrays(inputs, arrays, labels, preprocess),
            Content::Pictures(listing) => Dataset::of_pictures(inputs, listing, preprocess),
        }
    }

    fn read(&self, inputs: &[InputSpec]) -> Result<Content, Error> {
        if let [Item { key: None, value }] = &self.files[..] {
            let path = Path::new(value);
            if path.is_dir() {
                return self.read_folder(path, inputs);
            }
            if self.parts.is_empty() && path.extension().is_some_and(|e| e == "txt") {
                return Ok(Content::Pictures(Listing::of_list(path)?));
            }
            if let (true, Some(picture)) = (self.parts.is_empty(), Listing::of_picture(path)) {
                return Ok(Content::Pictures(picture));
            }
            match sniff(path)? {
                Format::Npz => return self.read_archive(path, inputs).map(Content::from),
                Format::Cifar if self.parts.is_empty() => return read_cifar(path, vec![path.to_path_buf()]),
                _ => {}
            }
        }
        if !self.parts.is_empty() {
            return Err(self.error("only a .npz archive or a folder takes a part after '#'"));
        }
        let slots = self.assign(&self.files, inputs)?;
        let missing = slots.inputs.iter().position(Option::is_none);
        if let Some(i) = missing {
            let problem =
                format!("no file is given for the model's input '{0}'; add {0}=FILE", inputs[i].name);
            return Err(self.error(problem));
        }
        let beside = match &self.files[..] {
            [only] => labels_beside(Path::new(&only.value)),
            _ => None,
        };
        let labels = slots.labels.map(PathBuf::from).or(beside);
        let arrays = slots
            .inputs
            .into_iter()
            .flatten()
            .map(|p| read_array(Path::new(&p)))
            .collect::<Result<_, _>>()?;
        Ok(Content::Arrays(arrays, labels.map(|p| read_array(&p)).transpose()?))
    }

    /// Gives each item its slot: by its key, or the first to the only input and the second to the labels.
    fn assign(&self, items: &[Item], inputs: &[InputSpec]) -> Result<Slots<String>, Error> {
        let mut slots = Slots { inputs: vec![None; inputs.len()], labels: None };
        let mut unnamed = 0;
        for item in items {
            let slot = match &item.key {
                Some(key) => match inputs.iter().position(|i| i.name == *key) {
                    Some(i) => &mut slots.inputs[i],
                    None if matches!(key.as_str(), "label" | "labels") => &mut slots.labels,
                    None => {
                        let names: Vec<&str> = inputs.iter().map(|i| i.name.as_str()).collect();
                        let problem = format!(
                            "the model has no input '{key}'; it has {}, and there is labels",
                            names.join(", ")
                        );
                        return Err(self.error(problem));
                    }
                },
                None => {
                    unnamed += 1;
                    match (unnamed, inputs.len()) {
                        (1, 1) => &mut slots.inputs[0],
                        (2, 1) => &mut slots.labels,
                        (_, 1) => {
                            return Err(self.error("one input and the labels are all that is read here"));
                        }
                        (_, n) => {
                            let problem =
                                format!("the model has {n} inputs; write INPUT={} for one", item.value);
                            return Err(self.error(problem));
                        }
                    }
                }
            };
            if slot.replace(item.value.clone()).is_some() {
                return Err(
                    self.error(format!("'{}' is given for something that is given already", item.value))
                );
            }
        }
        Ok(slots)
    }

    fn read_archive(&self, path: &Path, inputs: &[InputSpec]) -> Result<(Vec<Found>, Option<Found>), Error> {
        let mut archive = Archive::open(path)?;
        let names = archive.names();
        let (chosen, labels) = self.choose(path, &names, inputs)?;
        let mut read = |name: &String| archive.read(name).map(|array| (Place::entry(path, name), array));
        let arrays = chosen.iter().map(&mut read).collect::<Result<_, _>>()?;
        Ok((arrays, labels.as_ref().map(read).transpose()?))
    }

    /// The names of the arrays for the inputs and for the labels, out of those that `path` holds.
    fn choose(
        &self,
        path: &Path,
        names: &[String],
        inputs: &[InputSpec],
    ) -> Result<(Vec<String>, Option<String>), Error> {
        let one = match &self.parts[..] {
            [Item { key: None, value }] if !names.contains(value) => Some(value.as_str()),
            _ => None,
        };
        let splits = match one {
            Some(split) => vec![split_named(split)],
            None => match self.role {
                Role::Train => vec![TRAIN.to_vec(), WHOLE.to_vec()],
                Role::Eval => vec![TEST.to_vec(), VALIDATION.to_vec(), WHOLE.to_vec()],
            },
        };
        let named = match one {
            Some(_) => self.assign(&[], inputs)?,
            None => self.assign(&self.parts, inputs)?,
        };
        choose(names, inputs, &named, &splits).ok_or_else(|| {
            let wanted = match inputs {
                [_] => "the samples".to_string(),
                all => {
                    format!("inputs {}", all.iter().map(|i| i.name.as_str()).collect::<Vec<_>>().join(", "))
                }
            };
            let which = match (one, self.role) {
                (Some(split), _) => format!(" of split '{split}'"),
                (None, Role::Train) => " for training".to_string(),
                (None, Role::Eval) => " for evaluation".to_string(),
            };
            let file = path.display();
            let problem = format!(
                "cannot tell which array holds {wanted}{which}; write {file}#INPUT,LABELS or {file}#SPLIT"
            );
            Error::Entries { path: path.to_path_buf(), problem, entries: names.to_vec() }
        })
    }

    /// The splits that are looked for in a folder of pictures, best first, each with all its names.
    fn splits(&self) -> Result<Vec<Vec<&str>>, Error> {
        match (&self.parts[..], self.role) {
            ([Item { key: None, value }], _) => Ok(vec![split_named(value)]),
            ([], Role::Train) => Ok(vec![TRAIN.to_vec()]),
            ([], Role::Eval) => Ok(vec![VALIDATION.to_vec(), TEST.to_vec()]),
            _ => Err(self.error("a folder takes one split after '#', such as #train or #test")),
        }
    }

    fn read_folder(&self, folder: &Path, inputs: &[InputSpec]) -> Result<Content, Error> {
        let names = entries(folder)?;
        let arrays: Vec<String> =
            names.iter().filter_map(|n| n.strip_suffix(".npy")).map(String::from).collect();
        // Array names may stand after '#' here, as in an archive.
        if arrays.is_empty() || self.parts.is_empty() {
            self.splits()?;
        }
        let there = |name: String| names.contains(&name).then(|| folder.join(name));
        let each =
            |form: &dyn Fn(&str) -> Option<PathBuf>| self.splits().ok()?.into_iter().flatten().find_map(form);
        if let Some(list) = each(&|split| there(format!("{split}_list.txt"))) {
            return Ok(Content::Pictures(Listing::of_list(&list)?));
        }
        if names.iter().any(|n| is_idx(n)) {
            return self.read_idx(folder, names, inputs);
        }
        if names.iter().any(|n| ["train", "test"].iter().any(|split| cifar::is_batch(n, split))) {
            let wanted = self.splits()?.concat();
            let split = if wanted.contains(&"train") { "train" } else { "test" };
            let files: Vec<PathBuf> =
                names.iter().filter(|n| cifar::is_batch(n, split)).map(|n| folder.join(n)).collect();
            if files.is_empty() || !wanted.contains(&split) {
                let problem = format!("no CIFAR file of {} pictures", wanted[0]);
                return Err(Error::Entries { path: folder.to_path_buf(), problem, entries: names });
            }
            return read_cifar(folder, files);
        }
        if let Some(sets) = test_data::sets(folder, &names) {
            return Ok(Content::Arrays(test_data::read(&sets, inputs)?, None));
        }
        if !arrays.is_empty() {
            let (chosen, labels) = self.choose(folder, &arrays, inputs)?;
            let read = |name: &String| read_array(&folder.join(format!("{name}.npy")));
            let labels = labels.as_ref().map(read).transpose()?;
            return Ok(Content::Arrays(chosen.iter().map(read).collect::<Result<_, _>>()?, labels));
        }
        if let Some(part) = each(&|split| there(split.to_string()).filter(|p| p.is_dir())) {
            // What is asked for was found; what is below has no splits.
            let below = Source { parts: Vec::new(), ..self.clone() };
            return below.read_folder(&part, inputs);
        }
        // With other splits beside it, this would be all of them, as if they were classes.
        let known = |n: &String| [TRAIN, TEST, VALIDATION].iter().any(|group| group.contains(&n.as_str()));
        let listing = match self.parts.is_empty() && !names.iter().any(known) {
            true => Listing::of_folder(folder)?,
            false => None,
        };
        listing.map(Content::Pictures).ok_or_else(|| {
            let role = self.splits().map_or("such", |s| s[0][0]);
            let problem = format!(
                "no data of {role} samples was found: a list such as {role}_list.txt, idx files, CIFAR's .bin files, \
                 test_data_set_0, .npy files, or pictures in one folder per class are read"
            );
            let some: Vec<String> = names.iter().take(20).cloned().collect();
            let entries = if some.is_empty() { vec!["nothing".to_string()] } else { some };
            Error::Entries { path: folder.to_path_buf(), problem, entries }
        })
    }

    /// MNIST's four files in one folder, or any two of one split.
    fn read_idx(
        &self,
        folder: &Path,
        mut names: Vec<String>,
        inputs: &[InputSpec],
    ) -> Result<Content, Error> {
        let split = match self.parts.is_empty() && self.role == Role::Eval {
            true => TEST.to_vec(),
            false => self.splits()?.concat(),
        };
        if inputs.len() != 1 {
            return Err(self.error(format!("a folder holds one input, the model has {}", inputs.len())));
        }
        names.retain(|n| is_idx(n));
        // The same file plain and gzipped is one file; the plain one sorts first.
        names.dedup_by(|b, a| b.strip_suffix(".gz") == Some(a.as_str()));
        let fits = |name: &&String| name.split(['-', '_', '.']).any(|word| split.contains(&word));
        let found: Vec<&String> = names.iter().filter(fits).collect();
        let [images] = found[..] else {
            let problem = match found.len() {
                0 => format!("no idx file of {} images", split[0]),
                n => format!("{n} idx files of {} images; name one of them", split[0]),
            };
            return Err(Error::Entries { path: folder.to_path_buf(), problem, entries: names });
        };
        let images = folder.join(images);
        let labels = labels_beside(&images).map(|p| read_array(&p)).transpose()?;
        Ok(Content::Arrays(vec![read_array(&images)?], labels))
    }

    fn error(&self, problem: impl Into<String>) -> Error {
        Error::Spec { spec: self.spec.clone(), problem: problem.into() }
    }
}

/// All names of a split that the user calls `name`.
fn split_named(name: &str) -> Vec<&str> {
    let known = [TRAIN, TEST, VALIDATION].into_iter().find(|group| group.contains(&name));
    known.map_or_else(|| vec![name], <[_]>::to_vec)
}

/// The names of the arrays for the inputs and for the labels: as `named`, or of the first split that has all inputs.
fn choose(
    names: &[String],
    inputs: &[InputSpec],
    named: &Slots<String>,
    splits: &[Vec<&str>],
) -> Option<(Vec<String>, Option<String>)> {
    let find = |bases: &[&str], split: &[&str]| {
        bases.iter().find_map(|base| names.iter().find(|name| is_named(name, base, split))).cloned()
    };
    for split in splits {
        let input = |(spec, named): (&InputSpec, &Option<String>)| {
            let general = if inputs.len() == 1 { INPUT_NAMES } else { &[] };
            named.clone().or_else(|| find(&[&[spec.name.as_str()], general].concat(), split))
        };
        let found: Option<Vec<String>> = inputs.iter().zip(&named.inputs).map(input).collect();
        if let Some(found) = found {
            // Who names the input but no labels may well have none: another array's labels would be worse.
            let guess =
                || named.inputs.iter().all(Option::is_none).then(|| find(LABEL_NAMES, split)).flatten();
            let labels = named.labels.clone().or_else(guess).filter(|l| !found.contains(l));
            return Some((found, labels));
        }
    }
    match (names, inputs, splits) {
        // An archive of one array leaves no choice, unless a split was asked for.
        ([only], [_], [_, _, ..]) => Some((vec![only.clone()], named.labels.clone())),
        _ => None,
    }
}

/// Whether `name` is `base` with one of these splits before or after it: `x_train`, `train/images`, `xtr`.
fn is_named(name: &str, base: &str, split: &[&str]) -> bool {
    let plain = |s: &str| s.replace(['_', '-', '.', '/', ' '], "").to_lowercase();
    let (name, base) = (plain(name), plain(base));
    split.iter().map(|s| plain(s)).any(|s| name == format!("{base}{s}") || name == format!("{s}{base}"))
}

/// Whether a file is one of MNIST's images, by its name.
fn is_idx(name: &str) -> bool {
    name.contains("images") && name.contains("idx")
}

fn read_cifar(path: &Path, files: Vec<PathBuf>) -> Result<Content, Error> {
    let (pictures, labels) = cifar::read(&files)?;
    let place = || Place::file(path);
    Ok(Content::Arrays(vec![(place(), pictures)], Some((place(), labels))))
}

/// The labels file that belongs to an images file of MNIST, if it is there.
fn labels_beside(images: &Path) -> Option<PathBuf> {
    let name = images.file_name()?.to_str()?;
    if !is_idx(name) {
        return None;
    }
    let labels = name.replace("images", "labels").replace("idx3", "idx1").replace("idx4", "idx1");
    let other = labels.strip_suffix(".gz").map_or_else(|| format!("{labels}.gz"), String::from);
    [labels, other].into_iter().map(|n| images.with_file_name(n)).find(|p| p.is_file())
}

#[derive(Debug, PartialEq)]
enum Format {
    Npz,
    Npy,
    Idx,
    Cifar,
}

/// The format of a file, by its first bytes.
fn sniff(path: &Path) -> Result<Format, Error> {
    let place = Place::file(path);
    let mut start = Vec::new();
    let file = File::open(path).map_err(|e| Error::read(&place, e))?;
    file.take(4).read_to_end(&mut start).map_err(|e| Error::read(&place, e))?;
    match &start[..] {
        [b'P', b'K', ..] => Ok(Format::Npz),
        b"\x93NUM" => Ok(Format::Npy),
        // CIFAR's format has no mark at its beginning.
        _ if path.extension().is_some_and(|e| e == "bin") => Ok(Format::Cifar),
        [0, 0, ..] => Ok(Format::Idx),
        [a, b, ..] if [*a, *b] == idx::GZIP => Ok(Format::Idx),
        _ => Err(Error::format(
            &place,
            "not data that is read here: .npz, .npy, MNIST idx files (plain or gzip), CIFAR .bin files, pictures, lists \
             of pictures (.txt) and folders are",
        )),
    }
}

fn read_array(path: &Path) -> Result<Found, Error> {
    let place = Place::file(path);
    match sniff(path)? {
        Format::Npy => Ok((place, npy::read(path)?)),
        Format::Idx => Ok((place, idx::read(path)?)),
        Format::Cifar => Err(Error::format(
            &place,
            "CIFAR's files hold pictures and labels; name one of them alone, or their folder",
        )),
        Format::Npz => {
            Err(Error::format(&place, "an archive cannot be one of several files; name its arrays after '#'"))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::fs;
    use std::io::Write;
    use tempfile::TempDir;
    use tensor::DType;

    /// Three samples of two values, which are all `tag`.
    fn samples(tag: u8) -> Tensor {
        Tensor::new(&[3, 2], vec![tag; 6])
    }

    fn labels(tag: u8) -> Tensor {
        Tensor::new(&[3], vec![tag; 3])
    }

    fn x() -> Vec<InputSpec> {
        vec![InputSpec::float("pixel_values", &[None, Some(2)])]
    }

    struct Folder(TempDir);

    impl Folder {
        fn new() -> Folder {
            Folder(tempfile::tempdir().unwrap())
        }

        fn path(&self, name: &str) -> String {
            self.0.path().join(name).to_str().unwrap().to_string()
        }

        fn npz(&self, arrays: &[(&str, Tensor)]) -> String {
            let path = self.path("a.npz");
            let arrays: BTreeMap<String, Tensor> =
                arrays.iter().map(|(n, t)| (n.to_string(), t.clone())).collect();
            crate::npz::write(&path, &arrays).unwrap();
            path
        }

        fn npy(&self, name: &str, array: Tensor) -> String {
            let path = self.path(name);
            npy::write(&path, &array).unwrap();
            path
        }

        /// An idx file of three samples with the value `tag`.
        fn idx(&self, name: &str, images: bool, tag: u8) -> String {
            let mut bytes = vec![0, 0, 8, if images { 3 } else { 1 }, 0, 0, 0, 3];
            if images {
                bytes.extend([0, 0, 0, 1, 0, 0, 0, 2]);
            }
            bytes.extend(vec![tag; if images { 6 } else { 3 }]);
            let path = self.path(name);
            let file = File::create(&path).unwrap();
            if name.ends_with(".gz") {
                let mut gzip = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
                gzip.write_all(&bytes).unwrap();
                gzip.finish().unwrap();
            } else {
                (&file).write_all(&bytes).unwrap();
            }
            path
        }
    }

    /// The tags of the first input and of the labels that were found.
    fn found(spec: &str, role: Role, inputs: &[InputSpec]) -> Result<(u8, Option<u8>), String> {
        let data = Source::parse(spec, role)
            .and_then(|s| s.open(inputs, &Preprocess::default()))
            .map_err(|e| e.to_string())?;
        let mut row = [0.0; 2];
        data.read_f32(0, &[2], &mut row).unwrap();
        Ok((row[0] as u8, data.labels().map(|l| l[2] as u8)))
    }

    #[test]
    fn splits_are_found_by_role() {
        let f = Folder::new();
        for [xt, yt, xe, ye] in [
            ["x_train", "y_train", "x_test", "y_test"],
            ["xtr", "ytr", "xte", "yte"],
            ["train_images", "train_labels", "test_images", "test_labels"],
            ["train/data", "train/target", "val/data", "val/target"],
            ["X_train", "Y_train", "X_val", "Y_val"],
            ["pixel_values_train", "label_train", "pixel_values_test", "label_test"],
            ["train_images", "train_labels", "images", "labels"],
        ] {
            let arrays = [(xt, samples(1)), (yt, labels(2)), (xe, samples(3)), (ye, labels(4))];
            let path = f.npz(&arrays);
            assert_eq!(found(&path, Role::Train, &x()), Ok((1, Some(2))), "{xt}");
            assert_eq!(found(&path, Role::Eval, &x()), Ok((3, Some(4))), "{xe}");
            assert_eq!(found(&format!("{path}#train"), Role::Eval, &x()), Ok((1, Some(2))), "{xt}");
            if xe != "images" {
                let split =
                    if xe.to_lowercase().contains("val") && !xe.contains("values") { "val" } else { "test" };
                assert_eq!(found(&format!("{path}#{split}"), Role::Train, &x()), Ok((3, Some(4))), "{xe}");
            }
        }
    }

    #[test]
    fn test_comes_before_validation_and_either_before_no_split() {
        let f = Folder::new();
        let path = f.npz(&[
            ("x_val", samples(1)),
            ("x_test", samples(2)),
            ("x", samples(3)),
            ("x_extra", samples(4)),
        ]);
        assert_eq!(found(&path, Role::Eval, &x()), Ok((2, None)));
        assert_eq!(found(&path, Role::Train, &x()), Ok((3, None)));
        assert_eq!(found(&format!("{path}#val"), Role::Train, &x()), Ok((1, None)));
        assert_eq!(found(&format!("{path}#extra"), Role::Train, &x()), Ok((4, None)));
    }

    #[test]
    fn the_other_split_is_never_taken_by_itself() {
        let f = Folder::new();
        let path = f.npz(&[("x_test", samples(2)), ("y_test", labels(1))]);
        let e = found(&path, Role::Train, &x()).unwrap_err();
        assert!(
            e.contains("which array holds the samples for training")
                && e.ends_with("it holds: x_test, y_test"),
            "{e}"
        );
        let e = found(&format!("{path}#train"), Role::Eval, &x()).unwrap_err();
        assert!(e.contains("of split 'train'"), "{e}");
        let path = f.npz(&[("x_train", samples(2)), ("y_train", labels(1))]);
        assert!(found(&path, Role::Eval, &x()).unwrap_err().contains("for evaluation"));
    }

    #[test]
    fn arrays_are_found_by_name() {
        let f = Folder::new();
        let path = f.npz(&[("faces", samples(1)), ("who", labels(2)), ("x", samples(3)), ("y", labels(4))]);
        let at = |parts: &str| found(&format!("{path}#{parts}"), Role::Train, &x());
        assert_eq!(found(&path, Role::Train, &x()), Ok((3, Some(4))));
        assert_eq!(at("faces,who"), Ok((1, Some(2))));
        assert_eq!(at("faces"), Ok((1, None)));
        assert_eq!(at("pixel_values=faces,labels=who"), Ok((1, Some(2))));
        assert_eq!(at("labels=who"), Ok((3, Some(2))));
        assert!(
            at("faces,whom").unwrap_err().ends_with("there is no array 'whom'; it holds: faces, who, x, y")
        );
        assert!(at("face").unwrap_err().contains("split 'face'"));
        assert!(
            at("image=faces").unwrap_err().contains("the model has no input 'image'; it has pixel_values")
        );
        assert!(at("faces,who,x").unwrap_err().contains("one input and the labels"));
        assert!(at("faces,pixel_values=x").unwrap_err().contains("given already"));
        // The name in the model comes before the general ones.
        let path = f.npz(&[("pixel_values", samples(1)), ("images", samples(2)), ("arr_1", labels(5))]);
        assert_eq!(found(&path, Role::Eval, &x()), Ok((1, Some(5))));
        // One array leaves no choice.
        let path = f.npz(&[("whatever", samples(6))]);
        assert_eq!(found(&path, Role::Eval, &x()), Ok((6, None)));
    }

    #[test]
    fn several_inputs_go_by_their_names() {
        let f = Folder::new();
        let inputs = [InputSpec::float("ids", &[None, Some(2)]), InputSpec::float("mask", &[None, Some(2)])];
        let path = f.npz(&[("ids_train", samples(1)), ("mask_train", samples(2)), ("y_train", labels(3))]);
        let data = Source::parse(&path, Role::Train).unwrap().open(&inputs, &Preprocess::default()).unwrap();
        assert_eq!(data.place(1).entry.as_deref(), Some("mask_train"));
        assert_eq!(data.labels().unwrap(), [3; 3]);
        let e = found(&path, Role::Eval, &inputs).unwrap_err();
        assert!(e.contains("which array holds inputs ids, mask for evaluation"), "{e}");
        let (a, b, c) = (f.npy("a", samples(4)), f.npy("b", samples(5)), f.npy("c", labels(6)));
        assert_eq!(found(&format!("mask={b},ids={a},labels={c}"), Role::Eval, &inputs), Ok((4, Some(6))));
        let e = found(&format!("ids={a}"), Role::Eval, &inputs).unwrap_err();
        assert!(e.contains("no file is given for the model's input 'mask'; add mask=FILE"), "{e}");
        let e = found(&format!("{a},{b}"), Role::Eval, &inputs).unwrap_err();
        assert!(e.contains("the model has 2 inputs; write INPUT="), "{e}");
    }

    #[test]
    fn single_files() {
        let f = Folder::new();
        let (x3, y4) = (f.npy("x,1#a=b.npy", samples(3)), f.npy("y.npy", labels(4)));
        assert_eq!(found(&x3, Role::Train, &x()), Ok((3, None)), "a file whose name looks like a list");
        let x3 = f.npy("x.npy", samples(3));
        assert_eq!(found(&format!("{x3},{y4}"), Role::Train, &x()), Ok((3, Some(4))));
        assert_eq!(found(&format!("{x3} , labels={y4}"), Role::Train, &x()), Ok((3, Some(4))));
        let images = f.idx("faces.idx", true, 5);
        assert_eq!(found(&format!("{images},{y4}"), Role::Train, &x()), Ok((5, Some(4))));
        let short = f.npy("short.npy", Tensor::new(&[2], vec![0u8; 2]));
        let e = found(&format!("{x3},{short}"), Role::Train, &x()).unwrap_err();
        assert!(e.contains("x.npy has 3 samples, but ") && e.contains("short.npy has 2"), "{e}");
    }

    #[test]
    fn mnist_files() {
        let f = Folder::new();
        let train = f.idx("train-images-idx3-ubyte.gz", true, 1);
        f.idx("train-labels-idx1-ubyte.gz", false, 2);
        let test = f.idx("t10k-images.idx3-ubyte", true, 3);
        f.idx("t10k-labels.idx1-ubyte.gz", false, 4);
        let folder = f.0.path().to_str().unwrap();
        assert_eq!(found(&train, Role::Eval, &x()), Ok((1, Some(2))));
        assert_eq!(found(&test, Role::Train, &x()), Ok((3, Some(4))));
        assert_eq!(found(folder, Role::Train, &x()), Ok((1, Some(2))));
        assert_eq!(found(folder, Role::Eval, &x()), Ok((3, Some(4))));
        assert_eq!(found(&format!("{folder}#train"), Role::Eval, &x()), Ok((1, Some(2))));
        // The same images unpacked are not another set.
        f.idx("train-images-idx3-ubyte", true, 1);
        assert_eq!(found(folder, Role::Train, &x()), Ok((1, Some(2))));
        f.idx("emnist-train-images-idx3-ubyte", true, 1);
        let e = found(folder, Role::Train, &x()).unwrap_err();
        assert!(e.contains("2 idx files of train images; name one"), "{e}");
        let e = found(&format!("{folder}#val"), Role::Train, &x()).unwrap_err();
        assert!(e.contains("no idx file of val images; it holds: emnist-train"), "{e}");
        let e = found(&format!("{folder}#a,b"), Role::Train, &x()).unwrap_err();
        assert!(e.contains("one split after '#'"), "{e}");
        let empty = Folder::new();
        let e = found(empty.0.path().to_str().unwrap(), Role::Eval, &x()).unwrap_err();
        assert!(e.contains("no data of val samples was found") && e.ends_with("it holds: nothing"), "{e}");
        // Images alone are a data set without labels.
        let alone = empty.idx("train-images-idx3-ubyte", true, 7);
        assert_eq!(found(&alone, Role::Train, &x()), Ok((7, None)));
    }

    #[test]
    fn what_cannot_be_understood() {
        let f = Folder::new();
        for spec in ["", " ", "#train", "x.npy,", "x.npz#", "x.npz#a,,b", "x.npz#=a", "=x.npy"] {
            let e = Source::parse(spec, Role::Train).unwrap_err().to_string();
            assert!(e.contains("a name is missing"), "{spec}: {e}");
        }
        let missing = f.path("no.npz");
        assert!(
            found(&missing, Role::Train, &x()).unwrap_err().starts_with(&format!("cannot read {missing}: "))
        );
        let text = f.path("x.csv");
        fs::write(&text, "1,2,3").unwrap();
        assert!(found(&text, Role::Train, &x()).unwrap_err().contains("x.csv: not data that is read here"));
        fs::write(&text, "").unwrap();
        assert!(found(&text, Role::Train, &x()).unwrap_err().contains("not data that is read here"));
        let (array, archive) = (f.npy("x.npy", samples(0)), f.npz(&[("x", samples(0))]));
        assert!(found(&format!("{array}#train"), Role::Train, &x()).unwrap_err().contains("after '#'"));
        assert!(
            found(&format!("{archive},{array}"), Role::Train, &x())
                .unwrap_err()
                .contains("one of several files")
        );
    }

    #[test]
    fn errors_of_a_batch_name_file_entry_and_sample() {
        let f = Folder::new();
        let path =
            f.npz(&[("x", Tensor::new(&[2, 2], vec![0.0, 1.0, 2.0, f32::INFINITY])), ("y", labels(1))]);
        let e = found(&path, Role::Train, &x()).unwrap_err();
        assert!(
            e.contains("a.npz, entry 'x' has 2 samples, but ") && e.contains("a.npz, entry 'y' has 3"),
            "{e}"
        );
        let data = Source::parse(&format!("{path}#x"), Role::Train)
            .unwrap()
            .open(&x(), &Preprocess::default())
            .unwrap();
        let e = data.read_f32(0, &[0, 1], &mut [0.0; 4]).unwrap_err().to_string();
        assert!(e.contains("a.npz, entry 'x', sample 1: the value inf at position 1"), "{e}");
        let tokens = [InputSpec { dtype: DType::I64, ..x().remove(0) }];
        let data = Source::parse(&format!("{path}#x"), Role::Train)
            .unwrap()
            .open(&tokens, &Preprocess::default())
            .unwrap();
        assert!(
            data.read_i64(0, &[1], &mut [0; 2]).unwrap_err().to_string().contains("is not a whole number")
        );
    }
}
