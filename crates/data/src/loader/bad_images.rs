//! Images that cannot be read and are left out of their batches, up to a limit, with a list of them in a file. The list
//! lives with the loader's user, so that all loaders of a run share it. It refuses to leave out anything but images:
//! a file system that fails is an error at once.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::Error;

/// The unreadable images that were met so far.
///
/// An image counts once, however often it is met. The list's file has a line for each, its name and the reason with a tab
/// between them, and is read again when a run goes on.
#[derive(Debug)]
pub struct BadImages {
    allowed: usize,
    list: Option<PathBuf>,
    found: Mutex<BTreeMap<PathBuf, String>>,
}

impl BadImages {
    /// None so far, of `allowed`; no list is written.
    pub fn new(allowed: usize) -> Self {
        Self { allowed, list: None, found: Mutex::default() }
    }

    /// The same with a list in the file `list`, which is made when there is something to write, and whose contents count
    /// where it is there already.
    ///
    /// # Errors
    /// [`Error::Io`] where it is there and cannot be read.
    pub fn listed(allowed: usize, list: PathBuf) -> Result<Self, Error> {
        let text = match std::fs::read(&list) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(Error::io("read", &list)(error)),
        };
        let lines = text.lines().filter_map(|line| line.split_once('\t'));
        let found = lines.map(|(path, reason)| (path.into(), reason.to_owned())).collect();
        Ok(Self { allowed, list: Some(list), found: Mutex::new(found) })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// Adds one.
    ///
    /// # Errors
    /// The image's own error where none is allowed, [`Error::TooManyBadImages`] where it is one too many, and
    /// [`Error::Io`] where the list cannot be written.
    pub(super) fn add(&self, path: &Path, reason: &str) -> Result<(), Error> {
        if self.allowed == 0 {
            return Err(Error::Image { path: path.to_path_buf(), reason: reason.to_owned() });
        }
        let mut found = self.lock();
        if found.insert(path.to_path_buf(), reason.to_owned()).is_some() {
            return Ok(());
        }
        if found.len() > self.allowed {
            let first = found.iter().take(3).map(|(path, reason)| format!("{}: {reason}", path.display())).collect();
            return Err(Error::TooManyBadImages { found: found.len(), allowed: self.allowed, first });
        }
        match &self.list {
            Some(list) => {
                let line = format!("{}\t{}\n", path.display(), reason.replace(['\n', '\r'], " "));
                let file = OpenOptions::new().create(true).append(true).open(list);
                file.and_then(|mut file| file.write_all(line.as_bytes())).map_err(Error::io("write", list))
            }
            None => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PathBuf, String>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
