//! Which images a run is about, found and opened: training and test set, and what `run.json` says of them.

use std::path::Path;
use std::sync::Arc;

use darts_data::dataset::{Dataset, ImageSize, Subset};
use darts_data::image_folder::{ImageFolder, ImageFolderConfig};
use darts_data::transform::Crop;
use darts_data::{Augment, Cifar10, ColourJitter, ImageNet, ImageNetConfig, SyntheticConfig, SyntheticImages};

use crate::config::DataConfig;
use crate::error::{Error, Result};
use crate::folder::DataRecord;
use crate::options::DEFAULT_DATA_DIR;

/// Classes and noise of generated images. They are no settings of a run, so they must not change under one.
const SYNTHETIC_CLASSES: usize = 3;
const SYNTHETIC_NOISE: f64 = 0.25;

/// A dataset's two official parts.
pub(crate) struct Images {
    pub(crate) train: Arc<dyn Dataset>,
    pub(crate) test: Arc<dyn Dataset>,
    /// What training images go through.
    pub(crate) augment: Augment,
    /// Whether the images lie in memory at the network's size, or could: so many of them may be sent to a device at once.
    pub(crate) in_memory: bool,
    synthetic: bool,
}

impl Images {
    /// Opens what `config` names, in `dir` or, where nothing is said, in `datasets/`.
    pub(crate) fn open(config: &DataConfig, dir: Option<&Path>) -> Result<Self> {
        let dir = dir.unwrap_or(Path::new(DEFAULT_DATA_DIR));
        Ok(match config {
            DataConfig::Cifar10 {} => {
                let cifar = Cifar10::open(dir)?;
                Self {
                    train: cifar.train()?,
                    test: cifar.test()?,
                    augment: Augment::cifar(),
                    in_memory: true,
                    synthetic: false,
                }
            }
            DataConfig::ImageNet { image_size, resize, least_area, colour_jitter } => {
                let config = ImageNetConfig { image_size: *image_size, resize: *resize };
                let imagenet = ImageNet::open(dir, &config)?;
                let augment = Augment {
                    crop: Crop::RandomResized { least_area: *least_area },
                    jitter: colour_jitter.then_some(ColourJitter::IMAGENET),
                    ..Augment::imagenet()
                };
                let synthetic = imagenet.is_synthetic();
                Self { train: imagenet.train(), test: imagenet.val(), augment, in_memory: false, synthetic }
            }
            DataConfig::ImageFolder { image_size, test_fraction } => {
                let settings = ImageFolderConfig {
                    image_size: ImageSize::square(*image_size),
                    held_out: *test_fraction,
                    ..ImageFolderConfig::default()
                };
                let folder = ImageFolder::open(dir, &settings)?;
                let test = folder.test().unwrap_or_else(|| folder.valid());
                let augment = Augment::proportional(settings.image_size);
                Self { train: folder.train(), test, augment, in_memory: false, synthetic: false }
            }
            DataConfig::SyntheticImages { image_size, train_images, test_images, data_seed } => {
                let settings = SyntheticConfig {
                    image_size: ImageSize::square(*image_size),
                    train_len: *train_images,
                    test_len: *test_images,
                    seed: *data_seed,
                    classes: SYNTHETIC_CLASSES,
                    noise: SYNTHETIC_NOISE,
                };
                let (train, test) = (SyntheticImages::train(&settings)?, SyntheticImages::test(&settings)?);
                // Generated images are what they are.
                Self {
                    train: Arc::new(train),
                    test: Arc::new(test),
                    augment: Augment::none(),
                    in_memory: true,
                    synthetic: true,
                }
            }
        })
    }

    /// The same with only the first `limit` training images.
    pub(crate) fn limited(self, limit: Option<usize>) -> Self {
        match limit {
            Some(limit) => Self { train: Arc::new(Subset::first(self.train, limit)), ..self },
            None => self,
        }
    }

    /// What `run.json` says of a run with so many training and validation examples.
    pub(crate) fn record(&self, train: usize, valid: usize) -> DataRecord {
        let (size, normalization) = (self.train.image_size(), self.train.normalization());
        DataRecord {
            train,
            valid,
            test: self.test.len(),
            classes: self.train.class_names().to_vec(),
            image_size: (size.height, size.width),
            mean: normalization.mean.to_vec(),
            std: normalization.std.to_vec(),
            synthetic: self.synthetic,
        }
    }
}

/// Refuses a split with fewer examples than a batch before anything is written.
pub(crate) fn check_split(set: &dyn Dataset, batch_size: usize) -> Result<()> {
    if set.len() < batch_size {
        return Err(Error::Data(darts_data::Error::SplitTooSmall { examples: set.len(), batch_size }));
    }
    Ok(())
}
