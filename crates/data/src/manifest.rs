//! What a dataset is: its files and their sizes, where its archives come from, their checksums, and whom to cite. One
//! JSON file per dataset, in `datasets/` of this crate, embedded in the binary. It refuses to download anything (that
//! is `fetch`), and an unknown checksum is null, never a guess.

use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use crate::Error;

/// One dataset.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The name that commands take ("cifar10").
    pub name: String,
    /// The name that people read ("CIFAR-10").
    pub title: String,
    /// The dataset's own folder, beside those of other datasets.
    pub folder: PathBuf,
    /// What is downloaded.
    pub archives: Vec<Archive>,
    /// The files that make the dataset complete, relative to its folder; the first one tells the folder.
    pub files: Vec<DataFile>,
    /// Upper bound of what the archives unpack to, in bytes.
    pub max_unpacked_bytes: u64,
    /// Whom to cite.
    pub citation: String,
}

/// A file that is downloaded.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Archive {
    /// Its name on disk and on mirrors.
    pub file: String,
    /// How it is packed.
    pub format: Format,
    /// Where it is, the official place first.
    pub urls: Vec<String>,
    /// Its size, where known.
    pub bytes: Option<u64>,
    /// Its SHA-256 as 64 lowercase hexadecimal digits, where known.
    pub sha256: Option<String>,
}

/// How a downloaded file is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Format {
    /// A gzipped tar whose single top folder is the dataset's own.
    #[serde(rename = "tar.gz")]
    TarGz,
    /// Not packed: the file itself belongs into the dataset's folder.
    #[serde(rename = "file")]
    Plain,
}

/// A file of an unpacked dataset.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataFile {
    /// Path relative to the dataset's folder.
    pub path: PathBuf,
    /// Its size, where it is fixed.
    pub bytes: Option<u64>,
}

const EMBEDDED: &[(&str, &str)] = &[
    ("cifar10", include_str!("../datasets/cifar10.json")),
    ("ptb", include_str!("../datasets/ptb.json")),
    ("wikitext-2", include_str!("../datasets/wikitext-2.json")),
];

impl Manifest {
    /// The names of all datasets that have a manifest.
    pub fn names() -> impl Iterator<Item = &'static str> {
        EMBEDDED.iter().map(|&(name, _)| name)
    }

    /// The manifest of a dataset.
    ///
    /// ```
    /// let cifar = darts_data::manifest::Manifest::named("cifar10")?;
    /// assert_eq!(cifar.archives[0].bytes, Some(170_052_171));
    /// # Ok::<(), darts_data::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Setting`] when there is none of this name.
    pub fn named(name: &str) -> Result<Self, Error> {
        match EMBEDDED.iter().find(|(known, _)| *known == name) {
            Some((_, json)) => Self::parse(name, json.as_bytes()),
            None => Err(Error::Setting {
                setting: "dataset",
                value: name.to_owned(),
                expected: "one that has a manifest (see `fetch --help`)",
            }),
        }
    }

    /// Reads a manifest from JSON; `origin` names it in errors.
    ///
    /// # Errors
    /// [`Error::Manifest`] when it is no valid JSON, has unknown fields, a path that leaves the dataset's folder, or a
    /// checksum of the wrong form.
    pub fn parse(origin: &str, json: &[u8]) -> Result<Self, Error> {
        let wrong = |reason: String| Error::Manifest { dataset: origin.to_owned(), reason };
        let manifest: Self = serde_json::from_slice(json).map_err(|error| wrong(error.to_string()))?;
        let files = manifest.files.iter().map(|file| file.path.as_path());
        let archives = manifest.archives.iter().map(|archive| Path::new(&archive.file));
        for path in std::iter::once(manifest.folder.as_path()).chain(files).chain(archives) {
            if !stays_inside(path) {
                return Err(wrong(format!("path {} leaves its folder", path.display())));
            }
        }
        if manifest.files.is_empty() {
            return Err(wrong("it lists no files".to_owned()));
        }
        for sum in manifest.archives.iter().filter_map(|archive| archive.sha256.as_deref()) {
            if sum.len() != 64 || !sum.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f')) {
                return Err(wrong(format!("sha256 {sum:?} is not 64 lowercase hexadecimal digits")));
            }
        }
        Ok(manifest)
    }

    /// The dataset's own folder, where `dir` is that folder or its parent: the one with the first of
    /// [`files`](Self::files) in it.
    ///
    /// # Errors
    /// [`Error::NotFound`], naming both places, when neither holds that file.
    pub fn locate(&self, dir: &Path) -> Result<PathBuf, Error> {
        let candidates = [dir.to_path_buf(), dir.join(&self.folder)];
        let marker = &self.files[0].path;
        match candidates.iter().find(|folder| folder.join(marker).is_file()) {
            Some(folder) => Ok(folder.clone()),
            None => Err(Error::NotFound {
                dataset: self.title.clone(),
                marker: marker.display().to_string(),
                looked_in: candidates.to_vec(),
                remedy: format!("run `cargo xtask fetch {}` or point --data to it", self.name),
            }),
        }
    }

    /// Checks that every file is in `folder` and has its size.
    ///
    /// # Errors
    /// [`Error::Io`] for a missing file, [`Error::WrongSize`] for one of another size.
    pub fn check_files(&self, folder: &Path) -> Result<(), Error> {
        for file in &self.files {
            let path = folder.join(&file.path);
            let found = std::fs::metadata(&path).map_err(Error::io("find", &path))?.len();
            if let Some(expected) = file.bytes.filter(|&expected| expected != found) {
                return Err(Error::WrongSize { path, found, expected: format!("{expected} bytes") });
            }
        }
        Ok(())
    }
}

/// True for a relative path of ordinary names: no root, no drive, no `..`.
pub(crate) fn stays_inside(path: &Path) -> bool {
    let mut components = path.components().peekable();
    components.peek().is_some() && components.all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Key, Purpose};

    #[test]
    fn every_embedded_manifest_is_valid_and_has_its_name() {
        for name in Manifest::names() {
            assert_eq!(Manifest::named(name).unwrap().name, name);
        }
    }

    #[test]
    fn unknown_dataset_is_refused() {
        let error = Manifest::named("cifar11").unwrap_err();
        assert!(error.to_string().starts_with("dataset is cifar11, expected"), "{error}");
    }

    #[test]
    fn paths_that_leave_the_folder_are_refused() {
        let json = EMBEDDED[0].1.replace("data_batch_3.bin", "../data_batch_3.bin");
        let error = Manifest::parse("test", json.as_bytes()).unwrap_err();
        assert_eq!(error.to_string(), "manifest of test: path ../data_batch_3.bin leaves its folder");
    }

    #[test]
    fn the_folder_itself_and_its_parent_are_found() {
        let parent = tempfile::tempdir().unwrap();
        let manifest = Manifest::named("cifar10").unwrap();
        let folder = parent.path().join(&manifest.folder);
        std::fs::create_dir(&folder).unwrap();
        let error = manifest.locate(parent.path()).unwrap_err().to_string();
        assert!(error.contains("cargo xtask fetch cifar10") && error.contains("data_batch_1.bin"), "{error}");
        std::fs::write(folder.join("data_batch_1.bin"), [0]).unwrap();
        assert_eq!(manifest.locate(parent.path()).unwrap(), folder);
        assert_eq!(manifest.locate(&folder).unwrap(), folder);
    }

    #[test]
    fn mutated_manifests_never_panic() {
        let valid = EMBEDDED[0].1.as_bytes();
        for input in 0..10_000 {
            let mut random = Key::new(input, Purpose::new("mutated manifest")).generator();
            let mut bytes = valid.to_vec();
            for _ in 0..=random.below(4) {
                let at = random.below(bytes.len());
                bytes[at] = random.below(256) as u8;
            }
            bytes.truncate(random.below(2 * valid.len()));
            if let Ok(manifest) = Manifest::parse("mutated", &bytes) {
                assert!(manifest.files.iter().all(|file| stays_inside(&file.path)));
            }
        }
    }
}
