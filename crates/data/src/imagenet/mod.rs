//! ImageNet (ILSVRC 2012) as people have it: the official tars, read in place; the folders that they unpack to; and
//! Tiny-ImageNet in its own layout.
//!
//! Every image is stored at a size of its own. For evaluation its shorter side is scaled to [`ImageNetConfig::resize`] and
//! the centre is shown; for training [`Augment::imagenet`](crate::Augment::imagenet) shows a random part. Classes are the
//! sorted WordNet ids. Tars and folders give the same examples in the same order, a hash of their names, so that limits and
//! halves mix the classes.
//!
//! The crate's README lists the JPEG decoders that were measured on ILSVRC's photographs. It refuses to unpack anything, and
//! to guess a label.

mod annotations;
mod devkit;
mod index;
mod matlab;
mod set;
pub mod synthetic;
mod tar;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use index::{Archives, Index};
use set::Source;
pub use set::{Centre, StoredImages};

use crate::Error;
use crate::dataset::{ImageSize, Normalization};
use crate::image_folder::index::{Entry, Index as Folders, classes, entries, in_order};

/// The training images' tar of tars.
pub const TRAIN_TAR: &str = "ILSVRC2012_img_train.tar";
/// The validation images' tar.
pub const VAL_TAR: &str = "ILSVRC2012_img_val.tar";
const EXPECTED: &str = "ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz; or train/<class>/<image> \
     and val/<class>/<image>; or Tiny-ImageNet";
/// Folders below the one that is named in which the images may be.
const FOLDERS: [&str; 4] = ["imagenet", "ILSVRC2012", "ILSVRC/Data/CLS-LOC", "tiny-imagenet-200"];

/// How images are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageNetConfig {
    /// Side of the square that a network sees, pixels.
    pub image_size: usize,
    /// For evaluation the shorter side of an image is scaled to this, and the centre shown; at least `image_size`.
    pub resize: usize,
}

impl ImageNetConfig {
    /// The customary proportion: 256 for 224 pixels.
    pub const fn new(image_size: usize) -> Self {
        Self { image_size, resize: (image_size * 8).div_ceil(7) }
    }
}

impl Default for ImageNetConfig {
    fn default() -> Self {
        Self::new(224)
    }
}

/// How images lie on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// The official tars.
    Tars,
    /// `train/` and `val/`, each with a folder for each class.
    Folders,
    /// Tiny-ImageNet's.
    Tiny,
}

/// An opened copy of ImageNet.
pub struct ImageNet {
    dir: PathBuf,
    layout: Layout,
    train: Arc<StoredImages>,
    val: Arc<StoredImages>,
}

impl ImageNet {
    /// Finds the images in `dir` or a folder of a customary name below it. Tars are indexed at the first time, which
    /// reads a header for each image: minutes for the whole of ILSVRC.
    ///
    /// # Errors
    /// [`Error::Setting`] for sizes outside their domain, [`Error::NotFound`], [`Error::Layout`] for something missing or of
    /// another year, [`Error::Archive`] for a damaged tar, [`Error::Io`].
    pub fn open(dir: impl AsRef<Path>, config: &ImageNetConfig) -> Result<Self, Error> {
        Self::open_with(dir, config, &mut |_, _| {})
    }

    /// The same, telling `progress` how many classes of how many are indexed.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(
        dir: impl AsRef<Path>,
        config: &ImageNetConfig,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Self, Error> {
        check(config)?;
        let (dir, layout) = locate(dir.as_ref())?;
        let (names, train, val) = match layout {
            Layout::Tars => {
                let archives = Archives::open(&dir)?;
                let Index { classes, train, val } = archives.index(&dir, progress)?;
                let source = |file, entries| Source::Tar { file, entries };
                (classes, source(archives.train, train), source(archives.val, val))
            }
            Layout::Folders => {
                let Folders { class_names, train, valid, .. } = Folders::new(&dir, 0.0, 0)?;
                (class_names, Source::Files(train), Source::Files(valid))
            }
            Layout::Tiny => {
                let names = classes(&dir.join("train"))?;
                let train = entries(&dir.join("train"), &names, 0)?;
                let val = tiny_val(&dir.join("val"), &names)?;
                (names, Source::Files(train), Source::Files(val))
            }
        };
        let class_names = Arc::new(names);
        let set = |source| {
            Arc::new(StoredImages {
                source,
                size: ImageSize::square(config.image_size),
                centre: Centre::Of(config.resize),
                class_names: class_names.clone(),
                normalization: Normalization::IMAGENET,
            })
        };
        Ok(Self { dir, layout, train: set(train), val: set(val) })
    }

    /// The folder with the images, which is `dir` or one of a customary name below it, and their layout.
    ///
    /// # Errors
    /// [`Error::NotFound`], naming every place that was looked at.
    pub fn locate(dir: &Path) -> Result<(PathBuf, Layout), Error> {
        locate(dir)
    }

    /// The training images.
    pub fn train(&self) -> Arc<StoredImages> {
        self.train.clone()
    }

    /// The validation images, on which results are reported: the test images have no public labels.
    pub fn val(&self) -> Arc<StoredImages> {
        self.val.clone()
    }

    /// The folder that they were found in.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// True where the archives are generated ones ([`synthetic`]).
    pub fn is_synthetic(&self) -> bool {
        self.dir.join(synthetic::MARK).exists()
    }

    /// How they lie there.
    pub fn layout(&self) -> Layout {
        self.layout
    }
}

fn check(config: &ImageNetConfig) -> Result<(), Error> {
    let refuse = |setting, value: usize, expected| Err(Error::Setting { setting, value: value.to_string(), expected });
    if !(8..=4096).contains(&config.image_size) {
        return refuse("image size", config.image_size, "8 to 4096 pixels a side");
    }
    if !(config.image_size..=8192).contains(&config.resize) {
        return refuse("resize", config.resize, "at least the image size, at most 8192 pixels");
    }
    Ok(())
}

fn locate(dir: &Path) -> Result<(PathBuf, Layout), Error> {
    let candidates: Vec<PathBuf> =
        std::iter::once(dir.to_path_buf()).chain(FOLDERS.iter().map(|name| dir.join(name))).collect();
    for candidate in &candidates {
        let has = |name: &str| candidate.join(name).exists();
        let layout = if has(TRAIN_TAR) || has(VAL_TAR) {
            Layout::Tars
        } else if has("train") && has("val") {
            if candidate.join("val").join(annotations::FILE).exists() { Layout::Tiny } else { Layout::Folders }
        } else {
            continue;
        };
        return Ok((candidate.clone(), layout));
    }
    Err(Error::NotFound {
        dataset: "ImageNet".to_owned(),
        marker: format!("{TRAIN_TAR}, or train/ and val/,"),
        looked_in: candidates,
        remedy: "see `cargo xtask fetch imagenet`, or point --data to it".to_owned(),
    })
}

/// The validation images of Tiny-ImageNet.
fn tiny_val(val: &Path, class_names: &[String]) -> Result<Vec<Entry>, Error> {
    let mut found = Vec::new();
    for (file, class) in annotations::read(val)? {
        let label = class_names.binary_search(&class).map_err(|_| Error::Layout {
            path: val.join(annotations::FILE),
            problem: format!("{file} is of {class}, and train/ has no class of this name"),
            expected: EXPECTED,
        })?;
        found.push(Entry::new(annotations::image(val, &file), &format!("{class}/{file}"), label as u32, 0));
    }
    Ok(in_order(found))
}

#[cfg(test)]
mod tests;
