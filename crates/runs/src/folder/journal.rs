//! Files that a run only appends to (`metrics.jsonl`, `alphas.jsonl`, TensorBoard events). A checkpoint records their
//! lengths; resuming cuts them back to that length, so that a line is never there twice and never missing.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// A file open for appending, whose length we know.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    len: u64,
}

impl Journal {
    /// Opens `path`, creating it when `keep` is 0, and cuts it to its first `keep` bytes.
    ///
    /// # Errors
    /// [`Error::BadFile`] when fewer than `keep` bytes are there.
    pub(crate) fn open(path: PathBuf, keep: u64) -> Result<Self> {
        let found = match fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
            Err(error) => return Err(Error::io("read", &path)(error)),
        };
        if found < keep {
            return Err(Error::bad_file(
                &path,
                format!(
                    "the checkpoint knows {keep} bytes of it, {found} are there; restore the file, or delete the run folder to start again"
                ),
            ));
        }
        let mut file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(false)
            .open(&path)
            .map_err(Error::io("open", &path))?;
        file.set_len(keep).map_err(Error::io("truncate", &path))?;
        file.seek(SeekFrom::Start(keep)).map_err(Error::io("open", &path))?;
        Ok(Self { path, file, len: keep })
    }

    /// Appends `bytes` in one write.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(Error::io("write", &self.path))?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Makes everything appended durable, and makes sure that it is still the file at its path that was appended to.
    ///
    /// # Errors
    /// [`Error::Disturbed`] when somebody removed, replaced or changed the file.
    pub(crate) fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(Error::io("write", &self.path))?;
        let disturbed = |what: String| Error::Disturbed { path: self.path.clone(), what };
        let found = fs::metadata(&self.path).map_err(|_| disturbed("vanished".into()))?;
        if !same_file(&self.file, &found) {
            return Err(disturbed("was replaced by another file".into()));
        }
        if found.len() != self.len {
            return Err(disturbed(format!("changed its length from {} to {} bytes", self.len, found.len())));
        }
        Ok(())
    }

    /// Bytes that belong to the run so far.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// The file's name inside the run folder.
    pub(crate) fn name(&self) -> String {
        self.path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// The file's path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(unix)]
fn same_file(open: &File, at_path: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    open.metadata().is_ok_and(|m| m.ino() == at_path.ino() && m.dev() == at_path.dev())
}

#[cfg(not(unix))]
fn same_file(_open: &File, _at_path: &fs::Metadata) -> bool {
    // Elsewhere an open file can be neither removed nor replaced.
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reopening_cuts_back_to_what_the_checkpoint_knows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut journal = Journal::open(path.clone(), 0).unwrap();
        journal.append(b"known\n").unwrap();
        let keep = journal.len();
        journal.append(b"written after the checkpoint, and half a li").unwrap();
        drop(journal);
        let mut journal = Journal::open(path.clone(), keep).unwrap();
        journal.append(b"again\n").unwrap();
        journal.sync().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"known\nagain\n");
    }

    #[test]
    fn a_file_shorter_than_the_checkpoint_says_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("alphas.jsonl");
        fs::write(&path, b"short").unwrap();
        let error = Journal::open(path.clone(), 6).unwrap_err().to_string();
        assert!(error.contains("alphas.jsonl") && error.contains('6'), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"short");
    }

    #[test]
    fn a_file_that_vanishes_or_is_edited_in_mid_run_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut journal = Journal::open(path.clone(), 0).unwrap();
        journal.append(b"one\n").unwrap();
        fs::write(&path, b"edited by hand\n").unwrap();
        assert!(journal.sync().unwrap_err().to_string().contains("changed its length"));
        fs::remove_file(&path).unwrap();
        assert!(journal.sync().unwrap_err().to_string().contains("vanished"));
    }
}
