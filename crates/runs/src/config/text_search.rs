//! The settings of a search on text, with presets that cite where their numbers come from.

use serde::{Deserialize, Serialize};

use super::text::{Dropout, TextConfig};
use super::{Order, real, whole};
use crate::error::Result;

/// Settings of a recurrent search.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextSearchConfig {
    /// The text; its training part trains w, its validation part α.
    pub data: TextConfig,
    /// Seed of everything random in the run.
    pub seed: u64,
    /// First- or second-order architecture gradient.
    pub order: Order,
    /// Passes over the training text.
    pub epochs: usize,
    /// Columns of text that are read side by side, of both parts.
    pub batch_size: usize,
    /// Use only the first so many training tokens.
    pub train_limit: Option<usize>,
    /// Units of the embedding and of every state.
    pub units: usize,
    /// Nodes of the cell.
    pub nodes: usize,
    /// Time steps of a sequence; half as many with probability 5 %.
    pub bptt: usize,
    /// What is dropped out.
    pub dropout: Dropout,
    /// Coefficient of the temporal activation regularizer, in the loss of weight steps.
    pub temporal_regularization: f64,
    /// Learning rate of w for a sequence of `bptt` steps, in proportion for others; and ξ of the second order.
    pub learning_rate: f64,
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

impl TextSearchConfig {
    /// The paper's search on Penn Treebank (appendix A.1.2): 50 epochs, 300 units, batch 256, second order.
    pub fn ptb() -> Self {
        Self {
            data: TextConfig::ptb(),
            seed: 0,
            order: Order::Second,
            epochs: 50,
            batch_size: 256,
            train_limit: None,
            units: 300,
            nodes: 8,
            bptt: 35,
            dropout: Dropout::SEARCH,
            temporal_regularization: 1e-3,
            learning_rate: 20.0,
            weight_decay: 5e-7,
            grad_clip: 0.25,
            alpha_learning_rate: 3e-3,
            alpha_beta1: 0.9,
            alpha_beta2: 0.999,
            alpha_weight_decay: 1e-3,
            radius: 0.01,
        }
    }

    /// The paper's settings on other text.
    pub fn for_data(data: TextConfig) -> Self {
        Self { data, ..Self::ptb() }
    }

    /// Ten seconds on two cores with nothing downloaded: generated text, 24 units. Nothing is dropped out of so small a network,
    /// and the learning rate of α is ten times the paper's, because there are a hundred times fewer steps. Two nodes and a
    /// smaller learning rate of w: the running statistics that validation uses, which all states share, then tell something.
    pub fn quick() -> Self {
        Self {
            data: TextConfig::synthetic_text(),
            epochs: 12,
            batch_size: 32,
            units: 24,
            nodes: 2,
            bptt: 20,
            dropout: Dropout::NONE,
            learning_rate: 3.0,
            alpha_learning_rate: 3e-2,
            ..Self::ptb()
        }
    }

    /// A night on a laptop's CPU, the whole of `reproduce-ptb` included: first order, 100 units, 15 epochs.
    pub fn laptop() -> Self {
        Self { order: Order::First, epochs: 15, batch_size: 128, units: 100, alpha_learning_rate: 6e-3, ..Self::ptb() }
    }

    /// Checks every setting by itself.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) naming the first setting that is out of range.
    pub fn validate(&self) -> Result<()> {
        self.data.validate()?;
        whole("epochs", self.epochs, 1, 100_000)?;
        // Batch norm has no statistics of one example.
        whole("batch_size", self.batch_size, 2, 65_536)?;
        if let Some(limit) = self.train_limit {
            whole("train_limit", limit, 2, usize::MAX)?;
        }
        whole("units", self.units, 1, 16_384)?;
        whole("nodes", self.nodes, 1, 32)?;
        whole("bptt", self.bptt, 1, 10_000)?;
        self.dropout.validate()?;
        real("temporal_regularization", self.temporal_regularization, 0.0, 1e6)?;
        real("learning_rate", self.learning_rate, 1e-12, 1e6)?;
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
            TextSearchConfig::ptb(),
            TextSearchConfig::quick(),
            TextSearchConfig::laptop(),
            TextSearchConfig::for_data(TextConfig::wikitext2()),
            TextSearchConfig::for_data(TextConfig::text()),
        ] {
            preset.validate().unwrap();
            let text = serde_json::to_string(&preset).unwrap();
            assert_eq!(serde_json::from_str::<TextSearchConfig>(&text).unwrap(), preset);
        }
    }

    #[test]
    fn a_setting_out_of_range_is_named_with_its_value() {
        let refused = |change: fn(&mut TextSearchConfig)| {
            let mut config = TextSearchConfig::ptb();
            change(&mut config);
            config.validate().unwrap_err().to_string()
        };
        assert!(refused(|c| c.batch_size = 1).starts_with("batch_size = 1"));
        assert!(refused(|c| c.dropout.x = 1.0).starts_with("dropout_x = 1"));
        assert!(refused(|c| c.bptt = 0).starts_with("bptt = 0"));
        assert!(refused(|c| c.units = 1 << 40).starts_with("units"));
    }
}
