//! Any folder of images: `train/<class>/…` with an optional `val/` (or `valid/`, `validation/`) and `test/`, or one
//! folder of classes, of which a seeded, stratified part is held out.
//!
//! Images are JPEG, PNG or WebP of any size and colour mode; each becomes RGB of one size (the centre of the wanted
//! proportions, scaled; transparent parts over white; upright as the camera says). They come in an order that is a hash of
//! the seed and the file's name, so that halves and limits mix the classes, and adding a file moves few others. Where
//! all images fit the memory budget they are decoded once, when the folder is opened; else each time one is read. It
//! refuses to guess labels from anything but folder names, and to leave out an unreadable image that was not allowed for.

pub(crate) mod index;
pub(crate) mod set;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use index::Index;
pub use set::ImageSet;

use crate::Error;
use crate::dataset::ImageSize;

/// How a folder of images is read.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ImageFolderConfig {
    /// The size that every image is brought to.
    pub image_size: ImageSize,
    /// Share of each class that is held out for validation where the folder has no `val/`; at least 0, below 1.
    pub held_out: f64,
    /// What the order, and the held-out part, are a function of.
    pub seed: u64,
    /// How many unreadable images are left out before it is an error. With 0 an unreadable image is an error; above 0,
    /// opening a folder that does not fit the memory budget decodes each image once, to know them all.
    pub max_bad_images: usize,
    /// Bytes that decoded images may take in memory.
    pub memory_budget: u64,
}

impl Default for ImageFolderConfig {
    fn default() -> Self {
        Self { image_size: ImageSize::square(32), held_out: 0.1, seed: 0, max_bad_images: 0, memory_budget: 2 << 30 }
    }
}

/// An image that was left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadImage {
    /// The file.
    pub path: PathBuf,
    /// Why it cannot be read.
    pub reason: String,
}

/// An opened folder of images.
pub struct ImageFolder {
    train: Arc<ImageSet>,
    valid: Arc<ImageSet>,
    test: Option<Arc<ImageSet>>,
    held_out: bool,
    bad_images: Vec<BadImage>,
}

/// Overwrites `pixels` with one image file, read as the images of a folder are.
///
/// # Shapes
/// `pixels`: `[H, W, 3]` of `size`, bytes 0 to 255 in sRGB.
///
/// # Errors
/// [`Error::Image`] for a file that cannot be read or is no image.
///
/// # Panics
/// If `pixels` has another length.
pub fn read_image(path: &Path, size: ImageSize, pixels: &mut [u8]) -> Result<(), Error> {
    set::read_image(path, size, pixels).map_err(|reason| Error::Image { path: path.to_path_buf(), reason })
}

impl ImageFolder {
    /// Lists the images of a folder, splits them, and decodes them where they fit the memory budget.
    ///
    /// # Errors
    /// [`Error::Setting`] for a configuration outside its domain; [`Error::Layout`] when the folder has no classes, a
    /// class has no images, or `val/` has a class that `train/` has not; [`Error::Io`]; [`Error::Image`] for an
    /// unreadable image where none is allowed, [`Error::TooManyBadImages`] where there are more than allowed.
    pub fn open(dir: impl AsRef<Path>, config: &ImageFolderConfig) -> Result<Self, Error> {
        check(config)?;
        let Index { class_names, train, valid, test, held_out } =
            Index::new(dir.as_ref(), config.held_out, config.seed)?;
        let splits = [train, valid, test.clone().unwrap_or_default()];
        let (sets, bad_images) = set::load(splits, class_names, config)?;
        let [train, valid, last] = sets.map(Arc::new);
        Ok(Self { train, valid, test: test.map(|_| last), held_out, bad_images })
    }

    /// The training images, without those held out.
    pub fn train(&self) -> Arc<ImageSet> {
        self.train.clone()
    }

    /// The validation images: those of `val/`, or those held out of the training images.
    pub fn valid(&self) -> Arc<ImageSet> {
        self.valid.clone()
    }

    /// The images of `test/`, where there is one.
    pub fn test(&self) -> Option<Arc<ImageSet>> {
        self.test.clone()
    }

    /// True where the validation images were held out of the training images.
    pub fn is_held_out(&self) -> bool {
        self.held_out
    }

    /// The images that were left out, in the order of the splits.
    pub fn bad_images(&self) -> &[BadImage] {
        &self.bad_images
    }
}

fn check(config: &ImageFolderConfig) -> Result<(), Error> {
    let refuse = |setting, value: String, expected| Err(Error::Setting { setting, value, expected });
    let ImageSize { height, width } = config.image_size;
    if !(1..=4096).contains(&height) || !(1..=4096).contains(&width) {
        return refuse("image size", format!("{height} x {width}"), "1 to 4096 pixels a side");
    }
    if !(0.0..1.0).contains(&config.held_out) {
        return refuse("held-out fraction", config.held_out.to_string(), "at least 0, less than 1");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
