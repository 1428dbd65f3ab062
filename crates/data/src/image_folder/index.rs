//! Which image files a folder of classes holds, and how they are split. Names decide here: a subfolder is a class, a
//! file with the extension of an image is an example. It refuses to open an image.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::Error;
use crate::dataset::held_out_share;

const EXPECTED: &str = "train/<class>/<image> with an optional val/ and test/, or <class>/<image>";
const EXTENSIONS: [&str; 4] = ["jpg", "jpeg", "png", "webp"];
/// Folders below a class's own that are followed: deeper ones are a loop of links, or no dataset.
const MAX_DEPTH: usize = 8;

/// One image file.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) path: PathBuf,
    pub(crate) label: u32,
    /// Its place in the dataset's order: SHA-256 of the seed and of its name below the split's folder.
    order: [u8; 32],
}

impl Entry {
    /// The file at `path`, which is called `relative` (`class/…/file`) within its split.
    pub(crate) fn new(path: PathBuf, relative: &str, label: u32, seed: u64) -> Self {
        Self { path, label, order: order(seed, relative) }
    }
}

/// The place of an image in the order of its split: a hash of the seed and of its name.
pub(crate) fn order(seed: u64, relative: &str) -> [u8; 32] {
    Sha256::new_with_prefix(seed.to_le_bytes()).chain_update(relative).finalize().into()
}

/// Entries in the dataset's order.
pub(crate) fn in_order(mut entries: Vec<Entry>) -> Vec<Entry> {
    entries.sort_by(|a, b| a.order.cmp(&b.order).then_with(|| a.path.cmp(&b.path)));
    entries
}

/// The files of a dataset.
#[derive(Debug)]
pub(crate) struct Index {
    pub(crate) class_names: Vec<String>,
    pub(crate) train: Vec<Entry>,
    pub(crate) valid: Vec<Entry>,
    pub(crate) test: Option<Vec<Entry>>,
    /// True where `valid` was held out of the training images, false where it has a folder of its own.
    pub(crate) held_out: bool,
}

impl Index {
    /// Lists a dataset's files and splits them.
    pub(crate) fn new(dir: &Path, held_out: f64, seed: u64) -> Result<Self, Error> {
        if !dir.is_dir() {
            return Err(problem(dir, "it is not a folder"));
        }
        let has_train = dir.join("train").is_dir();
        let train_dir = if has_train { dir.join("train") } else { dir.to_path_buf() };
        let class_names = classes(&train_dir)?;
        let looks_split = |name: &String| matches!(name.as_str(), "val" | "valid" | "validation" | "test");
        if !has_train && let Some(split) = class_names.iter().find(|name| looks_split(name)) {
            return Err(problem(dir, &format!("it has {split}/ and no train/")));
        }
        if class_names.len() < 2 {
            let names = if class_names.is_empty() { "none".to_owned() } else { class_names.join(", ") };
            return Err(problem(&train_dir, &format!("at least 2 class folders are needed, found {names}")));
        }
        let mut train = entries(&train_dir, &class_names, seed)?;
        for (label, name) in class_names.iter().enumerate() {
            if !train.iter().any(|entry| entry.label as usize == label) {
                let accepted = EXTENSIONS.join(", ");
                return Err(problem(&train_dir.join(name), &format!("the class has no image ({accepted})")));
            }
        }
        let split = |names: &[&str]| -> Result<Option<Vec<Entry>>, Error> {
            let folder = names.iter().map(|name| dir.join(name)).find(|path| has_train && path.is_dir());
            folder.map(|folder| other_split(&folder, &class_names, seed)).transpose()
        };
        let (test, valid) = (split(&["test"])?, split(&["val", "valid", "validation"])?);
        let is_held_out = valid.is_none();
        let valid = valid.unwrap_or_else(|| hold_out(&mut train, class_names.len(), held_out));
        Ok(Self { class_names, train, valid, test, held_out: is_held_out })
    }
}

/// Moves the first share of each class's entries, in the dataset's order, out of `train`.
fn hold_out(train: &mut Vec<Entry>, classes: usize, fraction: f64) -> Vec<Entry> {
    let mut left = vec![0; classes];
    train.iter().for_each(|entry| left[entry.label as usize] += 1);
    left.iter_mut().for_each(|count| *count = held_out_share(*count, fraction));
    let is_held = |entry: &Entry| {
        let left = &mut left[entry.label as usize];
        let held = *left > 0;
        *left -= usize::from(held);
        held
    };
    let (held, kept) = std::mem::take(train).into_iter().partition(is_held);
    *train = kept;
    held
}

/// Names of the class folders, sorted.
pub(crate) fn classes(dir: &Path) -> Result<Vec<String>, Error> {
    let mut names = Vec::new();
    for path in children(dir)? {
        if path.is_dir() {
            let name = path.file_name().and_then(OsStr::to_str);
            names.push(name.ok_or_else(|| problem(&path, "the class's name is not UTF-8"))?.to_owned());
        }
    }
    Ok(names)
}

/// The entries of a split beside `train/`, whose classes must be among the training classes.
pub(crate) fn other_split(dir: &Path, class_names: &[String], seed: u64) -> Result<Vec<Entry>, Error> {
    if let Some(stranger) = classes(dir)?.iter().find(|name| class_names.binary_search(name).is_err()) {
        return Err(problem(&dir.join(stranger), "train/ has no class of this name"));
    }
    entries(dir, class_names, seed)
}

/// Every image below the class folders of `dir`, in the dataset's order.
pub(crate) fn entries(dir: &Path, class_names: &[String], seed: u64) -> Result<Vec<Entry>, Error> {
    let mut entries = Vec::new();
    for (label, name) in class_names.iter().enumerate() {
        let class = dir.join(name);
        if class.is_dir() {
            let mut relative = name.clone();
            collect(&class, &mut relative, MAX_DEPTH, &mut |path, relative| {
                entries.push(Entry::new(path, relative, label as u32, seed));
            })?;
        }
    }
    Ok(in_order(entries))
}

/// Calls `found` with each image file below `dir` and its name relative to the split, with `/` between parts.
fn collect(
    dir: &Path,
    relative: &mut String,
    depth: usize,
    found: &mut impl FnMut(PathBuf, &str),
) -> Result<(), Error> {
    if depth == 0 {
        return Err(problem(dir, &format!("folders are nested more than {MAX_DEPTH} deep")));
    }
    for path in children(dir)? {
        let length = relative.len();
        relative.push('/');
        relative.push_str(&path.file_name().unwrap_or_default().to_string_lossy());
        let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default().to_ascii_lowercase();
        if path.is_dir() {
            collect(&path, relative, depth - 1, found)?;
        } else if EXTENSIONS.contains(&extension.as_str()) {
            found(path, relative);
        }
        relative.truncate(length);
    }
    Ok(())
}

/// What a folder holds, sorted by name, without hidden files.
fn children(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(Error::io("list", dir))? {
        let entry = entry.map_err(Error::io("list", dir))?;
        if !entry.file_name().to_string_lossy().starts_with('.') {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

fn problem(path: &Path, problem: &str) -> Error {
    Error::Layout { path: path.to_path_buf(), problem: problem.to_owned(), expected: EXPECTED }
}
