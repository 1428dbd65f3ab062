//! The settings of a search on images, with presets that cite where their numbers come from.

use serde::{Deserialize, Serialize};

use super::{DataConfig, Order, real, whole};
use crate::error::Result;

/// Settings of a convolutional search.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchConfig {
    /// The images; the first half of the training set trains w, the second half α.
    pub data: DataConfig,
    /// Seed of everything random in the run.
    pub seed: u64,
    /// First- or second-order architecture gradient.
    pub order: Order,
    /// Passes over the half that trains w.
    pub epochs: usize,
    /// Images in a batch, of both halves.
    pub batch_size: usize,
    /// Use only the first so many training images.
    pub train_limit: Option<usize>,
    /// Channels C of the first cells; the stem has 3·C.
    pub init_channels: usize,
    /// Cells of the network.
    pub layers: usize,
    /// Intermediate nodes of a cell.
    pub nodes: usize,
    /// Initial learning rate of w, and ξ of the second order; cosine over the epochs.
    pub learning_rate: f64,
    /// What the learning rate falls towards.
    pub learning_rate_min: f64,
    /// Momentum of w.
    pub momentum: f64,
    /// Weight decay of w.
    pub weight_decay: f64,
    /// Largest global norm of the gradient of w.
    pub grad_clip: f64,
    /// Learning rate of α (Adam).
    pub alpha_learning_rate: f64,
    /// Decay of Adam's first moment.
    pub alpha_beta1: f64,
    /// Decay of Adam's second moment.
    pub alpha_beta2: f64,
    /// L2 on α, inside Adam.
    pub alpha_weight_decay: f64,
    /// ε·‖∇w′‖ of the second order's finite difference.
    pub radius: f64,
}

impl SearchConfig {
    /// The paper's search on CIFAR-10 (appendix A.1.1): 50 epochs, 8 cells, C = 16, second order.
    pub fn cifar10() -> Self {
        Self {
            data: DataConfig::Cifar10 {},
            seed: 0,
            order: Order::Second,
            epochs: 50,
            batch_size: 64,
            train_limit: None,
            init_channels: 16,
            layers: 8,
            nodes: 4,
            learning_rate: 0.025,
            learning_rate_min: 0.001,
            momentum: 0.9,
            weight_decay: 3e-4,
            grad_clip: 5.0,
            alpha_learning_rate: 3e-4,
            alpha_beta1: 0.5,
            alpha_beta2: 0.999,
            alpha_weight_decay: 1e-3,
            radius: 0.01,
        }
    }

    /// The paper's settings on other images.
    pub fn for_data(data: DataConfig) -> Self {
        Self { data, ..Self::cifar10() }
    }

    /// Half a minute on two cores with nothing downloaded: generated 16 × 16 images, 3 cells, C = 8. Of the paper's settings the
    /// learning rate of α is changed: ten times larger, because there are two hundred times fewer steps.
    pub fn quick() -> Self {
        Self {
            data: DataConfig::synthetic_images(),
            order: Order::Second,
            epochs: 3,
            batch_size: 32,
            init_channels: 8,
            layers: 3,
            alpha_learning_rate: 3e-3,
            ..Self::cifar10()
        }
    }

    /// A night on a laptop's CPU, the whole of `reproduce-cifar` included: first order, 5 cells, a quarter of CIFAR-10, 25
    /// epochs. A step took about two seconds on two AVX2 cores, so a search takes about an hour and a half there. The learning
    /// rate of α is three times the paper's, for an eighth of the steps.
    pub fn laptop() -> Self {
        Self {
            order: Order::First,
            epochs: 25,
            train_limit: Some(12_500),
            layers: 5,
            alpha_learning_rate: 1e-3,
            ..Self::cifar10()
        }
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
            whole("train_limit", limit, 2, usize::MAX)?;
        }
        whole("init_channels", self.init_channels, 1, 1024)?;
        whole("layers", self.layers, 1, 200)?;
        whole("nodes", self.nodes, 1, 16)?;
        real("learning_rate", self.learning_rate, 1e-12, 100.0)?;
        real("learning_rate_min", self.learning_rate_min, 0.0, self.learning_rate)?;
        real("momentum", self.momentum, 0.0, 0.9999)?;
        real("weight_decay", self.weight_decay, 0.0, 1.0)?;
        real("grad_clip", self.grad_clip, 1e-6, 1e6)?;
        real("alpha_learning_rate", self.alpha_learning_rate, 0.0, 100.0)?;
        real("alpha_beta1", self.alpha_beta1, 0.0, 0.9999)?;
        real("alpha_beta2", self.alpha_beta2, 0.0, 0.999_999)?;
        real("alpha_weight_decay", self.alpha_weight_decay, 0.0, 1.0)?;
        real("radius", self.radius, 1e-9, 10.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_valid_and_survive_json() {
        for preset in [
            SearchConfig::cifar10(),
            SearchConfig::quick(),
            SearchConfig::laptop(),
            SearchConfig::for_data(DataConfig::image_folder()),
        ] {
            preset.validate().unwrap();
            let text = serde_json::to_string(&preset).unwrap();
            assert_eq!(serde_json::from_str::<SearchConfig>(&text).unwrap(), preset);
        }
    }

    #[test]
    fn a_setting_out_of_range_is_named_with_its_value() {
        let refused = |change: fn(&mut SearchConfig)| {
            let mut config = SearchConfig::cifar10();
            change(&mut config);
            config.validate().unwrap_err().to_string()
        };
        assert!(refused(|c| c.epochs = 0).starts_with("epochs = 0"));
        assert!(refused(|c| c.learning_rate = f64::NAN).starts_with("learning_rate = NaN"));
        assert!(refused(|c| c.learning_rate_min = 1.0).starts_with("learning_rate_min = 1"));
        assert!(refused(|c| c.init_channels = 1 << 40).starts_with("init_channels"));
    }
}
