//! Replacing a file so that a reader, or a machine that loses power, sees the old contents or the new ones and never a
//! mixture: write to a temporary file in the same folder, sync, rename, sync the folder.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Replaces `path` by `bytes`.
///
/// # Errors
/// When the folder cannot be written to; `path` then still has its old contents.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    write_with(path, |out| out.write_all(bytes))
}

/// Replaces `path` by whatever `fill` writes.
///
/// # Errors
/// As [`write()`]; an error of `fill` is reported for `path` too.
pub(crate) fn write_with(path: &Path, fill: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>) -> Result<()> {
    let temporary = temporary(path);
    let attempt = || -> std::io::Result<()> {
        let mut out = BufWriter::new(File::create(&temporary)?);
        fill(&mut out)?;
        out.flush()?;
        out.get_ref().sync_all()?;
        fs::rename(&temporary, path)
    };
    attempt().map_err(|source| {
        // The half-written file is of no use to anybody, and on a full disk it is in the way; the first error is the one to report.
        let _ = fs::remove_file(&temporary);
        Error::Io { action: "write", path: path.to_path_buf(), source }
    })?;
    sync_folder(path.parent().unwrap_or(Path::new(".")))
}

/// The name that a file has while it is being written. One process at a time writes to a run folder (it holds the lock), so
/// a fixed name cannot collide, and what a killed process leaves is overwritten by the next one.
fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    path.with_file_name(format!(".{name}.partial"))
}

/// Makes a rename, creation or removal inside `dir` durable.
pub(crate) fn sync_folder(dir: &Path) -> Result<()> {
    // Windows opens no folder as a file; its file systems journal the rename themselves.
    if cfg!(unix) {
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        File::open(dir).and_then(|f| f.sync_all()).map_err(Error::io("sync folder", dir))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_contents_and_no_temporary_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("genotype.json");
        write(&path, b"old").unwrap();
        let error = write_with(&path, |out| {
            out.write_all(b"half of the n")?;
            Err(std::io::Error::from(std::io::ErrorKind::StorageFull))
        })
        .unwrap_err();
        assert!(error.to_string().contains("genotype.json"), "{error}");
        assert!(error.to_string().contains("free some space"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_vanished_folder_is_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let error = write(&dir.path().join("gone/summary.json"), b"x").unwrap_err().to_string();
        assert!(error.contains("summary.json") && !error.contains('\n'), "{error}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_device_is_named_with_its_remedy() {
        use std::fs::OpenOptions;
        let mut full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weights.safetensors");
        let error = write_with(&path, |_| full.write_all(b"x")).unwrap_err().to_string();
        assert!(error.contains("weights.safetensors") && error.contains("free some space"), "{error}");
        assert!(!path.exists());
    }
}
