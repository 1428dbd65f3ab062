//! The settings of the training of a discrete cell on text, with presets that cite where their numbers come from.

use darts_cells::genotype::RecurrentGenotype;
use serde::{Deserialize, Serialize};

use super::text::{Dropout, TextConfig};
use super::{real, whole};
use crate::error::Result;

/// Settings of the training of a discrete recurrent cell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextTrainConfig {
    /// The text.
    pub data: TextConfig,
    /// Seed of everything random in the run.
    pub seed: u64,
    /// The cell.
    pub genotype: RecurrentGenotype,
    /// Passes over the training text.
    pub epochs: usize,
    /// Columns of text that are read side by side.
    pub batch_size: usize,
    /// Use only the first so many training tokens.
    pub train_limit: Option<usize>,
    /// Whether the test text is read, once, after the last epoch. A run that does not is for choosing between cells.
    pub test: bool,
    /// Units of the embedding and of every state.
    pub units: usize,
    /// Mean number of time steps of a sequence; their number is drawn from N(bptt, 5), or with probability 5 % from
    /// N(bptt/2, 5), within 5 and bptt + 20.
    pub bptt: usize,
    /// What is dropped out.
    pub dropout: Dropout,
    /// Coefficient of the activation regularizer.
    pub activation_regularization: f64,
    /// Coefficient of the temporal activation regularizer.
    pub temporal_regularization: f64,
    /// Learning rate for a sequence of `bptt` steps, in proportion for others.
    pub learning_rate: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// Largest global norm of the gradient.
    pub grad_clip: f64,
    /// The weights are averaged from when the validation loss has not fallen for so many epochs.
    pub nonmono: usize,
}

impl TextTrainConfig {
    /// The paper's evaluation on Penn Treebank (appendix A.2.2): 850 units, batch 64. The paper trains until convergence, three
    /// days of a GPU; 3000 epochs are about that.
    pub fn ptb(genotype: RecurrentGenotype) -> Self {
        Self {
            data: TextConfig::ptb(),
            seed: 0,
            genotype,
            epochs: 3000,
            batch_size: 64,
            train_limit: None,
            test: true,
            units: 850,
            bptt: 35,
            dropout: Dropout::TRAINING,
            activation_regularization: 0.0,
            temporal_regularization: 1e-3,
            learning_rate: 20.0,
            weight_decay: 8e-7,
            grad_clip: 0.25,
            nonmono: 5,
        }
    }

    /// The paper's transfer to WikiText-2 (appendix A.2.2): 700 units, and less dropout of hidden states.
    pub fn wikitext2(genotype: RecurrentGenotype) -> Self {
        Self {
            data: TextConfig::wikitext2(),
            units: 700,
            dropout: Dropout { hidden: 0.15, ..Dropout::TRAINING },
            weight_decay: 5e-7,
            ..Self::ptb(genotype)
        }
    }

    /// The paper's settings on any text: those of WikiText-2 for WikiText-2, else those of Penn Treebank.
    pub fn for_data(data: TextConfig, genotype: RecurrentGenotype) -> Self {
        match data {
            TextConfig::WikiText2 { .. } => Self { data, ..Self::wikitext2(genotype) },
            _ => Self { data, ..Self::ptb(genotype) },
        }
    }

    /// The training of [`TextSearchConfig::quick`](super::TextSearchConfig::quick)'s cell: generated text, two seconds on two
    /// cores.
    pub fn quick(genotype: RecurrentGenotype) -> Self {
        Self {
            data: TextConfig::synthetic_text(),
            epochs: 10,
            batch_size: 16,
            units: 32,
            bptt: 20,
            dropout: Dropout::NONE,
            nonmono: 2,
            ..Self::ptb(genotype)
        }
    }

    /// The training of [`TextSearchConfig::laptop`](super::TextSearchConfig::laptop)'s cell: 200 units, 40 epochs.
    pub fn laptop(genotype: RecurrentGenotype) -> Self {
        let dropout = Dropout { output: 0.5, x: 0.5, ..Dropout::TRAINING };
        Self { epochs: 40, units: 200, dropout, ..Self::ptb(genotype) }
    }

    /// The same as a short training for choosing between cells, which leaves the test text alone.
    pub fn selection(self) -> Self {
        Self { test: false, ..self }
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
        whole("units", self.units, 1, 16_384)?;
        whole("bptt", self.bptt, 1, 10_000)?;
        self.dropout.validate()?;
        real("activation_regularization", self.activation_regularization, 0.0, 1e6)?;
        real("temporal_regularization", self.temporal_regularization, 0.0, 1e6)?;
        real("learning_rate", self.learning_rate, 1e-12, 1e6)?;
        real("weight_decay", self.weight_decay, 0.0, 1.0)?;
        real("grad_clip", self.grad_clip, 1e-6, 1e6)?;
        whole("nonmono", self.nonmono, 1, 100_000)
    }
}

#[cfg(test)]
mod tests {
    use darts_cells::genotype::named;

    use super::*;

    #[test]
    fn presets_are_valid_and_survive_json() {
        let cell = || named::recurrent("DARTS_V2").unwrap();
        for preset in [
            TextTrainConfig::ptb(cell()),
            TextTrainConfig::wikitext2(cell()),
            TextTrainConfig::quick(cell()).selection(),
            TextTrainConfig::laptop(cell()),
            TextTrainConfig::for_data(TextConfig::text(), cell()),
        ] {
            preset.validate().unwrap();
            let text = serde_json::to_string(&preset).unwrap();
            assert_eq!(serde_json::from_str::<TextTrainConfig>(&text).unwrap(), preset);
        }
    }
}
