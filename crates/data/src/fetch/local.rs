//! Taking a dataset, or its files, from a folder of this machine. It copies; it refuses to move or change the source.

use std::fs;
use std::path::Path;

use super::Progress;
use crate::Error;
use crate::manifest::Manifest;

/// Copies the files that a manifest lists from one folder into another.
pub(super) fn copy_dataset(
    manifest: &Manifest,
    from: &Path,
    to: &Path,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(), Error> {
    manifest.check_files(from)?;
    manifest.files.iter().try_for_each(|file| copy(&from.join(&file.path), &to.join(&file.path), progress))
}

/// Copies one file, making the folders that it is in.
pub(super) fn copy(from: &Path, to: &Path, progress: &mut dyn FnMut(Progress<'_>)) -> Result<(), Error> {
    progress(Progress::Unpacking { file: to });
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    }
    fs::copy(from, to).map(drop).map_err(Error::io("copy", from))
}
