//! Settings that decide a run's result, and nothing else: where its data lies, how many threads work on it and how often
//! it is saved are [`RunOptions`](crate::RunOptions). Everything here is stored in `run.json` and compared on resume.
//! This file holds what searches and trainings on images share; it reads no files and touches no data.

mod difference;
mod search;
mod settings;
mod text;
mod text_search;
mod text_train;
mod train;

pub(crate) use difference::{Difference, differences};
pub use search::SearchConfig;
pub use settings::{Data, SearchSettings, TrainSettings};
pub use text::{Dropout, TextConfig};
pub use text_search::TextSearchConfig;
pub use text_train::TextTrainConfig;
pub use train::{Schedule, TrainConfig};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// What a run computes, as `run.json` calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunKind {
    /// A search for a cell.
    Search,
    /// The training of a discrete network.
    Train,
}

impl std::fmt::Display for RunKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Search => "search",
            Self::Train => "training",
        })
    }
}

/// How the architecture gradient is taken (section 2.3 of the paper).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// ∇α of the validation loss at the current weights (ξ = 0).
    First,
    /// Through one virtual step of the weights, its second derivative by finite differences.
    #[default]
    Second,
}

/// Which images a run is about. The variants are named as on the command line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "dataset", rename_all = "kebab-case", deny_unknown_fields)]
pub enum DataConfig {
    /// CIFAR-10 in its official binary layout.
    #[serde(rename = "cifar10")]
    Cifar10 {},
    /// ImageNet: the official tars, the folders that they unpack to, or Tiny-ImageNet. The network has the ImageNet stem.
    #[serde(rename = "imagenet")]
    ImageNet {
        /// Side of the square that the network sees, pixels.
        image_size: usize,
        /// For evaluation the shorter side is scaled to this, and the centre shown.
        resize: usize,
        /// Least share of an image's area that a random crop shows in training.
        least_area: f64,
        /// Whether colours are changed at random in training.
        colour_jitter: bool,
    },
    /// Any folder of images with a subfolder for each class.
    ImageFolder {
        /// Every image is resized to this side, pixels.
        image_size: usize,
        /// Share of each class that is the test set where the folder has no `val/` of its own.
        test_fraction: f64,
    },
    /// Images generated from a seed, whose classes are told apart only by shape and texture together.
    SyntheticImages {
        /// Side, pixels.
        image_size: usize,
        /// Number of training images.
        train_images: usize,
        /// Number of test images.
        test_images: usize,
        /// Seed of the images; the run's own seed does not change them.
        data_seed: u64,
    },
}

impl DataConfig {
    /// The task's name on the command line and in `run.json`.
    pub fn task(&self) -> &'static str {
        match self {
            Self::Cifar10 {} => "cifar10",
            Self::ImageNet { .. } => "imagenet",
            Self::ImageFolder { .. } => "image-folder",
            Self::SyntheticImages { .. } => "synthetic-images",
        }
    }

    /// ImageNet as the paper trains on it (appendix A.2.3): 224 pixels, random resized crop, colour jitter.
    pub fn imagenet() -> Self {
        Self::ImageNet { image_size: 224, resize: 256, least_area: 0.08, colour_jitter: true }
    }

    /// An image folder at 32 × 32 pixels, a tenth of it the test set where it has none.
    pub fn image_folder() -> Self {
        Self::ImageFolder { image_size: 32, test_fraction: 0.1 }
    }

    /// The generated images of the quick presets.
    pub fn synthetic_images() -> Self {
        Self::SyntheticImages { image_size: 16, train_images: 2000, test_images: 500, data_seed: 0 }
    }

    pub(crate) fn validate(&self) -> Result<()> {
        match self {
            Self::Cifar10 {} => Ok(()),
            Self::ImageNet { image_size, resize, least_area, .. } => {
                whole("image_size", *image_size, 8, 1024)?;
                whole("resize", *resize, *image_size, 4096)?;
                real("least_area", *least_area, 0.01, 1.0)
            }
            Self::ImageFolder { image_size, test_fraction } => {
                whole("image_size", *image_size, 8, 1024)?;
                real("test_fraction", *test_fraction, 0.0, 0.9)
            }
            Self::SyntheticImages { image_size, train_images, test_images, .. } => {
                whole("image_size", *image_size, 8, 1024)?;
                whole("train_images", *train_images, 2, 10_000_000)?;
                whole("test_images", *test_images, 1, 10_000_000)
            }
        }
    }
}

/// Checks that `low ≤ value ≤ high`.
pub(crate) fn whole(field: &'static str, value: usize, low: usize, high: usize) -> Result<()> {
    if (low..=high).contains(&value) {
        return Ok(());
    }
    Err(Error::Config { field, value: value.to_string(), expected: format!("a whole number from {low} to {high}") })
}

/// Checks that `low ≤ value ≤ high`, which no NaN satisfies.
pub(crate) fn real(field: &'static str, value: f64, low: f64, high: f64) -> Result<()> {
    if (low..=high).contains(&value) {
        return Ok(());
    }
    Err(Error::Config { field, value: value.to_string(), expected: format!("a number from {low} to {high}") })
}
