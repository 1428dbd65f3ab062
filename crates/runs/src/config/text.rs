//! The settings that a search and a training on text share: which text, cut into which tokens, and how much is dropped out.

use darts_data::text::{SyntheticTextConfig, TokenizerSpec};
use serde::{Deserialize, Serialize};

use super::{real, whole};
use crate::error::Result;

/// Which text a run is about. The variants are named as on the command line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "dataset", rename_all = "kebab-case", deny_unknown_fields)]
pub enum TextConfig {
    /// Penn Treebank in its official files.
    Ptb {
        /// What it is cut into.
        tokenizer: TokenizerSpec,
    },
    /// WikiText-2 in its official files.
    #[serde(rename = "wikitext2")]
    WikiText2 {
        /// What it is cut into.
        tokenizer: TokenizerSpec,
        /// Nine tenths of the validation text instead of the training text, for trying things where that is missing. Its
        /// numbers compare with nobody's.
        sample: bool,
    },
    /// Any UTF-8 text: a folder with `train.txt`, `valid.txt` and `test.txt`, or one file.
    Text {
        /// What it is cut into.
        tokenizer: TokenizerSpec,
    },
    /// Tokens generated from a seed, of known entropy.
    SyntheticText {
        /// Number of different tokens.
        vocabulary: usize,
        /// Probability that a token follows from the two before it.
        predictability: f64,
        /// Training tokens.
        train_tokens: usize,
        /// Validation tokens, and as many test tokens.
        valid_tokens: usize,
        /// Seed of the text; the run's own seed does not change it.
        data_seed: u64,
    },
}

impl TextConfig {
    /// Penn Treebank, cut into its words.
    pub fn ptb() -> Self {
        Self::Ptb { tokenizer: TokenizerSpec::default() }
    }

    /// WikiText-2, cut into its words.
    pub fn wikitext2() -> Self {
        Self::WikiText2 { tokenizer: TokenizerSpec::default(), sample: false }
    }

    /// Any text, cut into words.
    pub fn text() -> Self {
        Self::Text { tokenizer: TokenizerSpec::default() }
    }

    /// The generated text of the quick presets.
    pub fn synthetic_text() -> Self {
        let SyntheticTextConfig { vocabulary, predictability, train_tokens, valid_tokens, seed } =
            SyntheticTextConfig::default();
        Self::SyntheticText { vocabulary, predictability, train_tokens, valid_tokens, data_seed: seed }
    }

    /// The task's name on the command line and in `run.json`.
    pub fn task(&self) -> &'static str {
        match self {
            Self::Ptb { .. } => "ptb",
            Self::WikiText2 { .. } => "wikitext2",
            Self::Text { .. } => "text",
            Self::SyntheticText { .. } => "synthetic-text",
        }
    }

    pub(super) fn validate(&self) -> Result<()> {
        let Self::SyntheticText { vocabulary, predictability, train_tokens, valid_tokens, .. } = self else {
            // A tokenizer checks its own settings when it is read from text.
            return Ok(());
        };
        whole("vocabulary", *vocabulary, 2, 1024)?;
        real("predictability", *predictability, 0.0, 1.0)?;
        whole("train_tokens", *train_tokens, 3, 100_000_000)?;
        whole("valid_tokens", *valid_tokens, 2, 100_000_000)
    }
}

/// Probabilities of dropout. A mask is drawn once for a sequence and serves all of its time steps (appendix A.1.2 of the
/// paper).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dropout {
    /// On the output, before the decoder.
    pub output: f64,
    /// On the hidden state and on every state before a node's matrix.
    pub hidden: f64,
    /// On the input of the first matrix.
    pub x: f64,
    /// On the embedded words.
    pub embedding: f64,
    /// Of whole words: rows of the embedding that are looked up.
    pub words: f64,
}

impl Dropout {
    /// None at all, for texts and networks so small that nothing is learned by heart.
    pub const NONE: Self = Self { output: 0.0, hidden: 0.0, x: 0.0, embedding: 0.0, words: 0.0 };
    /// Of the search on Penn Treebank.
    pub const SEARCH: Self = Self { output: 0.75, hidden: 0.25, x: 0.75, embedding: 0.2, words: 0.0 };
    /// Of the training on Penn Treebank.
    pub const TRAINING: Self = Self { words: 0.1, ..Self::SEARCH };

    pub(super) fn validate(&self) -> Result<()> {
        let Self { output, hidden, x, embedding, words } = *self;
        for (field, value) in [
            ("dropout", output),
            ("dropout_hidden", hidden),
            ("dropout_x", x),
            ("dropout_embedding", embedding),
            ("dropout_words", words),
        ] {
            real(field, value, 0.0, 0.99)?;
        }
        Ok(())
    }
}
