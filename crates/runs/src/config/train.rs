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

impl TrainConfig {
    /// The paper's evaluation on CIFAR-10 (appendix A.2.1): 600 epochs, 20 cells, C = 36, batch 96.
    pub fn cifar10(genotype: ConvGenotype) -> Self {
        Self {
            data: DataConfig::Cifar10 {},
            seed: 0,
            genotype,
            epochs: 600,
            batch_size: 96,
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

    /// Checks every setting by itself.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) naming the first setting that is out of range.
    pub fn validate(&self) -> Result<()> {
        self.data.validate()?;
        whole("epochs", self.epochs, 1, 100_000)?;
        whole("batch_size", self.batch_size, 1, 65_536)?;
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
