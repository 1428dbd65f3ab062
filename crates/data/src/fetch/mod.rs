//! Getting a dataset: find it, download it, check it, unpack it (cargo feature `fetch`).
//!
//! A download is resumed where it broke off, checked against the manifest's SHA-256, unpacked into a folder beside its
//! place, and renamed into place as the last act: whatever interrupts it, there is either a whole dataset or none. It
//! refuses to read the environment (callers pass a mirror in), to unpack what was not checked where a checksum is
//! known, and to touch a complete dataset.

mod download;
mod local;
mod unpack;

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Error;
use crate::manifest::{Archive, Format, Manifest};

/// Where to look, and how patiently.
#[derive(Clone, Debug)]
pub struct FetchOptions {
    /// The only place to look: a folder that holds the archives or the unpacked dataset, or a URL (of the archive, or
    /// of the folder it is in). `None`: the mirror, else the manifest's URLs.
    pub from: Option<String>,
    /// A base URL that replaces the manifest's: archives are at `{mirror}/{file name}`.
    pub mirror: Option<String>,
    /// Consecutive attempts without a new byte before a URL is given up.
    pub attempts: u32,
    /// How long a connection may be silent.
    pub silence: Duration,
    /// Pause after the first failed attempt; it doubles with each further one.
    pub pause: Duration,
}

impl Default for FetchOptions {
    fn default() -> Self {
        let (silence, pause) = (Duration::from_secs(30), Duration::from_secs(1));
        Self { from: None, mirror: None, attempts: 4, silence, pause }
    }
}

/// What is happening, for a progress bar.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress<'a> {
    /// A place is being tried.
    Trying {
        /// URL or folder.
        place: &'a str,
    },
    /// A partial download of this many bytes is continued.
    Resuming {
        /// Bytes that are already here.
        from: u64,
    },
    /// The server does not continue partial downloads: it begins afresh.
    Restarting,
    /// A connection failed and is tried again after a pause.
    Retrying {
        /// Why.
        reason: &'a str,
    },
    /// Bytes of the archive that are here.
    Received {
        /// So far.
        bytes: u64,
        /// In the end, where known.
        total: Option<u64>,
    },
    /// The checksum is being computed.
    Checking,
    /// The manifest knows no checksum: the file is taken as it is.
    Unchecked,
    /// A file is being unpacked or copied.
    Unpacking {
        /// Its name below the dataset's folder.
        file: &'a Path,
    },
    /// An incomplete dataset was in the way and has been renamed.
    SetAside {
        /// Its new name.
        to: &'a Path,
    },
}

/// What a fetch did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fetched {
    /// The dataset was complete; nothing was done.
    AlreadyThere(PathBuf),
    /// The dataset is here now.
    New(PathBuf),
}

/// Errors of fetching.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// A file operation, or the finished dataset, is not what it has to be.
    #[error(transparent)]
    Data(#[from] Error),
    /// No place had the dataset.
    #[error("{dataset} cannot be had: {}; get {file} by other means and pass its folder with --from", reasons(tried))]
    Unavailable {
        /// The dataset's title.
        dataset: String,
        /// The archive that is missing.
        file: String,
        /// Each place that was tried and what came of it.
        tried: Vec<(String, String)>,
    },
    /// An archive holds something that must not be unpacked.
    #[error("{}: {entry}: {reason}; nothing was unpacked", archive.display())]
    Unsafe {
        /// The archive.
        archive: PathBuf,
        /// The name within the archive.
        entry: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Another process is fetching the same dataset.
    #[error("another process is fetching {dataset} into {}; wait for it", root.display())]
    Busy {
        /// The dataset's title.
        dataset: String,
        /// The folder of datasets.
        root: PathBuf,
    },
}

fn reasons(tried: &[(String, String)]) -> String {
    let each: Vec<String> = tried.iter().map(|(place, reason)| format!("{place}: {reason}")).collect();
    if each.is_empty() { "its manifest names no place to download it from".to_owned() } else { each.join("; ") }
}

/// Makes sure that a dataset is in `root` (the folder of datasets, made where it is missing), and says where.
///
/// # Errors
/// [`FetchError::Unavailable`] lists every place that was tried; the others are told at their variants.
pub fn fetch(
    manifest: &Manifest,
    root: &Path,
    options: &FetchOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Fetched, FetchError> {
    let folder = root.join(&manifest.folder);
    if manifest.check_files(&folder).is_ok() {
        return Ok(Fetched::AlreadyThere(folder));
    }
    fs::create_dir_all(root).map_err(Error::io("create", root))?;
    let _lock = lock(manifest, root)?;
    let staging = root.join(format!(".{}.unpacking", manifest.name));
    remove(&staging)?;
    let staged = staging.join(&manifest.folder);
    fs::create_dir_all(&staged).map_err(Error::io("create", &staged))?;
    let source = options.from.as_deref().filter(|from| !is_url(from)).map(Path::new);
    let unpacked = source.and_then(|source| manifest.locate(source).ok());
    let mut archives = Vec::new();
    match unpacked {
        Some(unpacked) => local::copy_dataset(manifest, &unpacked, &staged, progress)?,
        None if manifest.archives.is_empty() => {
            return Err(FetchError::Unavailable {
                dataset: manifest.title.clone(),
                file: manifest.files[0].path.display().to_string(),
                tried: source
                    .map(|source| (source.display().to_string(), "not in it".to_owned()))
                    .into_iter()
                    .collect(),
            });
        }
        None => {
            for archive in &manifest.archives {
                let file = download::obtain(manifest, archive, root, options, progress)?;
                let is_ours = file.starts_with(root) && options.from.as_deref().is_none_or(is_url);
                let unpacked = match archive.format {
                    Format::TarGz => unpack::tar_gz(&file, &staging, manifest.max_unpacked_bytes, progress),
                    Format::Plain => {
                        local::copy(&file, &staged.join(&archive.file), progress).map_err(FetchError::from)
                    }
                };
                if is_ours && matches!(unpacked, Err(FetchError::Unsafe { .. })) {
                    fs::remove_file(&file).map_err(Error::io("remove", &file))?;
                }
                unpacked?;
                archives.extend(is_ours.then_some(file));
            }
        }
    }
    manifest.check_files(&staged)?;
    for file in &manifest.files {
        let path = staged.join(&file.path);
        // Windows syncs only what is open for writing.
        let opened = fs::OpenOptions::new().write(true).open(&path);
        opened.and_then(|file| file.sync_all()).map_err(Error::io("sync", &path))?;
    }
    set_aside(&folder, progress)?;
    fs::rename(&staged, &folder).map_err(Error::io("rename into place", &folder))?;
    remove(&staging)?;
    for file in archives {
        fs::remove_file(&file).map_err(Error::io("remove", &file))?;
    }
    Ok(Fetched::New(folder))
}

/// The URLs at which an archive may be, in the order in which they are tried.
fn urls(archive: &Archive, options: &FetchOptions) -> Vec<String> {
    let below = |base: &str| format!("{}/{}", base.trim_end_matches('/'), archive.file);
    match (&options.from, &options.mirror) {
        (Some(url), _) if url.ends_with(&archive.file) => vec![url.clone()],
        (Some(base), _) | (None, Some(base)) => vec![below(base)],
        (None, None) => archive.urls.clone(),
    }
}

fn is_url(place: &str) -> bool {
    place.starts_with("http://") || place.starts_with("https://")
}

/// Keeps other processes away from the same dataset until the file is dropped.
fn lock(manifest: &Manifest, root: &Path) -> Result<File, FetchError> {
    let path = root.join(format!(".{}.lock", manifest.name));
    let file = File::create(&path).map_err(Error::io("create", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(FetchError::Busy { dataset: manifest.title.clone(), root: root.to_path_buf() })
        }
        Err(TryLockError::Error(error)) => Err(Error::io("lock", &path)(error).into()),
    }
}

/// Renames an incomplete dataset that is in the way; nothing of it is deleted.
fn set_aside(folder: &Path, progress: &mut dyn FnMut(Progress<'_>)) -> Result<(), Error> {
    if !folder.exists() {
        return Ok(());
    }
    let named = |number: u32| PathBuf::from(format!("{}.incomplete-{number}", folder.display()));
    let to = (1..).map(named).find(|path| !path.exists()).unwrap_or_else(|| named(0));
    fs::rename(folder, &to).map_err(Error::io("rename", folder))?;
    progress(Progress::SetAside { to: &to });
    Ok(())
}

fn remove(folder: &Path) -> Result<(), Error> {
    if folder.exists() { fs::remove_dir_all(folder).map_err(Error::io("remove", folder)) } else { Ok(()) }
}
