//! Labelled images that are read from a tar or from files when they are asked for. Nothing is kept in memory but where
//! they are.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::index::Entry;
use super::tar::{Opened, ReadAt};
use crate::Error;
use crate::dataset::{Dataset, ImageSize, Normalization};
use crate::image_folder::index::{Entry as FileEntry, classes, other_split};
use crate::image_folder::set::read_region;
use crate::picture::{Choose, decode};
use crate::transform::Region;

/// Larger members are no photographs: ILSVRC's largest has 16 MB.
const MOST_BYTES: u32 = 256 << 20;

/// Where images are.
pub(super) enum Source {
    Tar { file: Opened, entries: Vec<Entry> },
    Files(Vec<FileEntry>),
}

/// Which part of an image is shown where none is drawn at random.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Centre {
    /// As much of it as has the wanted proportions.
    Largest,
    /// Its shorter side scaled to so many pixels, and the centre of the wanted size.
    Of(usize),
}

/// Labelled images on disk, of any sizes.
pub struct StoredImages {
    pub(super) source: Source,
    pub(super) size: ImageSize,
    pub(super) centre: Centre,
    pub(super) class_names: Arc<Vec<String>>,
    pub(super) normalization: Normalization,
}

impl StoredImages {
    /// The images of `dir`, which has a folder for each of these classes, or for some of them.
    ///
    /// # Errors
    /// [`Error::Layout`] for a folder that is named like none of them, or where there is no image; [`Error::Io`].
    pub fn in_folder(
        dir: &Path,
        class_names: &[String],
        size: ImageSize,
        centre: Centre,
        normalization: Normalization,
    ) -> Result<Self, Error> {
        let mut names: Vec<(usize, &String)> = class_names.iter().enumerate().collect();
        names.sort_by_key(|(_, name)| *name);
        let sorted: Vec<String> = names.iter().map(|(_, name)| (*name).clone()).collect();
        let mut entries = other_split(dir, &sorted, 0)?;
        for entry in &mut entries {
            entry.label = names[entry.label as usize].0 as u32;
        }
        if entries.is_empty() {
            return Err(Error::Layout {
                path: dir.to_path_buf(),
                problem: "it has no image".to_owned(),
                expected: "a folder of images for each class",
            });
        }
        let class_names = Arc::new(class_names.to_vec());
        Ok(Self { source: Source::Files(entries), size, centre, class_names, normalization })
    }

    /// True where `dir` has folders and each is named like one of these classes.
    pub fn fits(dir: &Path, class_names: &[String]) -> bool {
        classes(dir).is_ok_and(|found| !found.is_empty() && found.iter().all(|name| class_names.contains(name)))
    }

    /// The name of a tar's member, from the header before its contents.
    fn member_name(file: &Opened, entry: &Entry) -> PathBuf {
        let mut block = [0; 512];
        let name = entry.offset.checked_sub(512).and_then(|at| {
            file.read_at(&mut block, at).ok()?;
            let name = block.split(|byte| *byte == 0).next()?;
            Some(String::from_utf8_lossy(&name[..name.len().min(100)]).into_owned())
        });
        file.path.join(name.unwrap_or_else(|| format!("byte {}", entry.offset)))
    }
}

impl Dataset for StoredImages {
    fn len(&self) -> usize {
        match &self.source {
            Source::Tar { entries, .. } => entries.len(),
            Source::Files(entries) => entries.len(),
        }
    }

    fn image_size(&self) -> ImageSize {
        self.size
    }

    fn class_names(&self) -> &[String] {
        &self.class_names
    }

    fn normalization(&self) -> Normalization {
        self.normalization
    }

    fn label(&self, index: usize) -> u32 {
        match &self.source {
            Source::Tar { entries, .. } => entries[index].label,
            Source::Files(entries) => entries[index].label,
        }
    }

    fn read(&self, index: usize, pixels: &mut [u8]) -> Result<(), Error> {
        let size = self.size;
        let choose = &mut |source| match self.centre {
            Centre::Largest => Region::largest(source, size),
            Centre::Of(side) => Region::centre_crop(source, side, size),
        };
        self.read_region(index, choose, pixels)
    }

    fn read_region(&self, index: usize, choose: Choose, pixels: &mut [u8]) -> Result<(), Error> {
        let size = self.size;
        match &self.source {
            Source::Tar { file, entries } => {
                let entry = &entries[index];
                let bad = |reason| Error::Image { path: Self::member_name(file, entry), reason };
                if entry.len > MOST_BYTES {
                    return Err(bad(format!("it has more than {MOST_BYTES} bytes")));
                }
                let mut bytes = vec![0; entry.len as usize];
                file.read_at(&mut bytes, entry.offset).map_err(Error::io("read", &file.path))?;
                decode(&bytes, size, choose, pixels).map_err(bad)
            }
            Source::Files(entries) => {
                let path = &entries[index].path;
                read_region(path, size, choose, pixels).map_err(|reason| Error::Image { path: path.clone(), reason })
            }
        }
    }

    fn name(&self, index: usize) -> String {
        match &self.source {
            Source::Tar { file, entries } => Self::member_name(file, &entries[index]).display().to_string(),
            Source::Files(entries) => entries[index].path.display().to_string(),
        }
    }
}
