//! The settings of the training of a discrete network on images, with presets that cite where their numbers come from.

use darts_cells::genotype::ConvGenotype;
use serde::{Deserialize, Serialize};

use super::{DataConfig, real, whole};
use crate::error::Result;

/// How the learning rate falls over the epochs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "schedule", rename_all = "lowercase", deny_unknown_fields)]
pub enum Schedule {
    /// Half a cosine from the initial rate towards `learning_rate_min`.
    Cosine {
        /// What it falls towards.
        learning_rate_min: f64,
    },
    /// Times `decay` at every epoch.
    Exponential {
        /// The factor.
        decay: f64,
    },
}

/// Settings of the training of a discrete convolutional network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// The images.
    pub data: DataConfig,
    /// Seed of everything random in the run.
    pub seed: u64,
    /// The cell.
    pub genotype: ConvGenotype,
    /// Passes over the training images.
    pub epochs: usize,
    /// Images in a batch.
    pub batch_size: usize,
    /// Parts that a batch is cut into: one after another goes through the network, and the step takes the mean of their
    /// gradients. It needs the memory of one part. Batch norm then normalizes each part by its own statistics, and updates
    /// the running ones once a part, so the result is not that of an uncut batch.
    #[serde(default = "uncut")]
    pub accumulate: usize,
    /// Use only the first so many training images.
    pub train_limit: Option<usize>,
    /// Share of each class's training images that is kept for validation and not trained on. With one, the test set is not
    /// touched: such a run is for choosing between cells.
    pub held_out: f64,
    /// Channels C of the first cells; the stem has 3·C.
    pub init_channels: usize,
    /// Cells of the network.
    pub layers: usize,
    /// Whether an auxiliary head helps to train layer 2L/3.
    pub auxiliary: bool,
    /// Weight of the auxiliary head's loss.
    pub auxiliary_weight: f64,
    /// Side of the square that is cut out of every training image, pixels; 0 for none.
    pub cutout: usize,
    /// Probability of dropping an operation's output at the end of training; it rises linearly from 0.
    pub drop_path_prob: f64,
    /// Share of the target that is spread over all classes.
    pub label_smoothing: f64,
    /// Initial learning rate.
    pub learning_rate: f64,
    /// How it falls.
    pub schedule: Schedule,
    /// Momentum.
    pub momentum: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// Largest global norm of the gradient.
    pub grad_clip: f64,
}

/// What runs did before batches could be cut.
fn uncut() -> usize {
    1
}

impl TrainConfig {
    /// The paper's evaluation on CIFAR-10 (appendix A.2.1): 600 epochs, 20 cells, C = 36, batch 96.
    pub fn cifar10(genotype: ConvGenotype) -> Self {
        Self {
            data: DataConfig::Cifar10 {},
            seed: 0,
            genotype,
            epochs: 600,
            batch_size: 96,
            accumulate: 1,
            train_limit: None,
            held_out: 0.0,
            init_channels: 36,
            layers: 20,
            auxiliary: true,
            auxiliary_weight: 0.4,
            cutout: 16,
            drop_path_prob: 0.2,
            label_smoothing: 0.0,
            learning_rate: 0.025,
            schedule: Schedule::Cosine { learning_rate_min: 0.0 },
            momentum: 0.9,
            weight_decay: 3e-4,
            grad_clip: 5.0,
        }
    }

    /// The paper's settings on other images. The auxiliary head is off: it is made for 32 × 32 images.
    pub fn for_data(data: DataConfig, genotype: ConvGenotype) -> Self {
        let auxiliary = matches!(data, DataConfig::Cifar10 {});
        Self { data, auxiliary, ..Self::cifar10(genotype) }
    }

    /// The paper's transfer to ImageNet in the mobile setting (appendix A.2.3): 250 epochs, 14 cells, C = 48, batch 128.
    pub fn imagenet(genotype: ConvGenotype) -> Self {
        Self {
            data: DataConfig::imagenet(),
            epochs: 250,
            batch_size: 128,
            init_channels: 48,
            layers: 14,
            cutout: 0,
            drop_path_prob: 0.0,
            label_smoothing: 0.1,
            learning_rate: 0.1,
            schedule: Schedule::Exponential { decay: 0.97 },
            weight_decay: 3e-5,
            ..Self::cifar10(genotype)
        }
    }

    /// The same network on Tiny-ImageNet: 200 classes, 64 × 64 pixels, too few for an auxiliary head. Larger crops and a
    /// cosine, for a fifth of the epochs. By its operations an epoch is 26 TFLOP: minutes on a few cores.
    pub fn tiny_imagenet(genotype: ConvGenotype) -> Self {
        Self {
            data: DataConfig::ImageNet { image_size: 64, resize: 64, least_area: 0.25, colour_jitter: true },
            epochs: 50,
            auxiliary: false,
            schedule: Schedule::Cosine { learning_rate_min: 0.0 },
            ..Self::imagenet(genotype)
        }
    }

    /// An evening on a laptop's CPU: a smaller network on the first 100,000 of ImageNet's images at 64 × 64 pixels.
    pub fn imagenet_laptop(genotype: ConvGenotype) -> Self {
        Self {
            data: DataConfig::ImageNet { image_size: 64, resize: 73, least_area: 0.25, colour_jitter: true },
            epochs: 15,
            train_limit: Some(100_000),
            init_channels: 32,
            layers: 8,
            ..Self::tiny_imagenet(genotype)
        }
    }

    /// A minute, on a generated archive.
    pub fn imagenet_quick(genotype: ConvGenotype) -> Self {
        Self {
            data: DataConfig::ImageNet { image_size: 64, resize: 72, least_area: 0.5, colour_jitter: true },
            epochs: 12,
            batch_size: 32,
            train_limit: None,
            init_channels: 16,
            layers: 5,
            learning_rate: 0.03,
            ..Self::imagenet_laptop(genotype)
        }
    }

    /// The short training that the paper chooses between searches with (section 3.3): 100 epochs, a tenth of the training
    /// images held out.
    pub fn cifar10_selection(genotype: ConvGenotype) -> Self {
        Self { epochs: 100, held_out: 0.1, ..Self::cifar10(genotype) }
    }

    /// The training of [`SearchConfig::quick`](super::SearchConfig::quick)'s cell: generated images, ten seconds on two cores.
    pub fn quick(genotype: ConvGenotype) -> Self {
        Self {
            epochs: 6,
            batch_size: 32,
            init_channels: 12,
            layers: 3,
            cutout: 0,
            drop_path_prob: 0.0,
            ..Self::for_data(DataConfig::synthetic_images(), genotype)
        }
    }

    /// The selection of the quick pipeline.
    pub fn quick_selection(genotype: ConvGenotype) -> Self {
        Self { epochs: 2, held_out: 0.2, ..Self::quick(genotype) }
    }

    /// The training of [`SearchConfig::laptop`](super::SearchConfig::laptop)'s cell: 8 cells, C = 16, 40 epochs. A step took
    /// about half a second on two AVX2 cores, so this takes about three hours there.
    pub fn laptop(genotype: ConvGenotype) -> Self {
        Self { epochs: 40, init_channels: 16, layers: 8, drop_path_prob: 0.1, ..Self::cifar10(genotype) }
    }

    /// The selection of the laptop pipeline.
    pub fn laptop_selection(genotype: ConvGenotype) -> Self {
        Self { epochs: 5, held_out: 0.1, ..Self::laptop(genotype) }
    }

    /// Images that go through the network at once: those of the largest part of a batch.
    pub fn part_size(&self) -> usize {
        self.batch_size.div_ceil(self.accumulate.max(1))
    }

    /// Checks every setting by itself.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) naming the first setting that is out of range.
    pub fn validate(&self) -> Result<()> {
        self.data.validate()?;
        whole("epochs", self.epochs, 1, 100_000)?;
        whole("batch_size", self.batch_size, 1, 65_536)?;
        whole("accumulate", self.accumulate, 1, self.batch_size)?;
        if let Some(limit) = self.train_limit {
            whole("train_limit", limit, 1, usize::MAX)?;
        }
        real("held_out", self.held_out, 0.0, 0.9)?;
        whole("init_channels", self.init_channels, 1, 1024)?;
        whole("layers", self.layers, 1, 200)?;
        real("auxiliary_weight", self.auxiliary_weight, 0.0, 100.0)?;
        whole("cutout", self.cutout, 0, 1024)?;
        real("drop_path_prob", self.drop_path_prob, 0.0, 0.99)?;
        real("label_smoothing", self.label_smoothing, 0.0, 0.99)?;
        real("learning_rate", self.learning_rate, 1e-12, 100.0)?;
        match self.schedule {
            Schedule::Cosine { learning_rate_min } => {
                real("learning_rate_min", learning_rate_min, 0.0, self.learning_rate)?;
            }
            Schedule::Exponential { decay } => real("decay", decay, 1e-3, 1.0)?,
        }
        real("momentum", self.momentum, 0.0, 0.9999)?;
        real("weight_decay", self.weight_decay, 0.0, 1.0)?;
        real("grad_clip", self.grad_clip, 1e-6, 1e6)
    }
}

#[cfg(test)]
mod tests {
    use darts_cells::genotype::named;

    use super::*;

    #[test]
    fn presets_are_valid_and_survive_json() {
        let genotype = || named::conv("DARTS_V2").unwrap();
        for preset in [
            TrainConfig::cifar10(genotype()),
            TrainConfig::imagenet(genotype()),
            TrainConfig::tiny_imagenet(genotype()),
            TrainConfig::imagenet_laptop(genotype()),
            TrainConfig::imagenet_quick(genotype()),
            TrainConfig::laptop(genotype()),
            TrainConfig::quick_selection(genotype()),
        ] {
            preset.validate().unwrap();
            let text = serde_json::to_string(&preset).unwrap();
            assert_eq!(serde_json::from_str::<TrainConfig>(&text).unwrap(), preset);
        }
    }

    #[test]
    fn a_batch_is_cut_into_parts_that_hold_all_of_it() {
        let config = |batch_size, accumulate| TrainConfig {
            batch_size,
            accumulate,
            ..TrainConfig::imagenet(named::conv("DARTS_V2").unwrap())
        };
        assert_eq!([(128, 1), (128, 4), (128, 3), (5, 5)].map(|(b, n)| config(b, n).part_size()), [128, 32, 43, 1]);
        let refused = config(4, 5).validate().unwrap_err().to_string();
        assert!(refused.starts_with("accumulate = 5"), "{refused}");
    }

    #[test]
    fn a_configuration_from_before_batches_could_be_cut_is_read() {
        let config = TrainConfig::cifar10(named::conv("DARTS_V2").unwrap());
        let mut json = serde_json::to_value(&config).unwrap();
        json.as_object_mut().unwrap().remove("accumulate");
        assert_eq!(serde_json::from_value::<TrainConfig>(json).unwrap(), config);
    }
}
