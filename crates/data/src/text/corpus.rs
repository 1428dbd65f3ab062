//! A corpus: what is left of three texts for a language model. It refuses to know where they came from, that is `Texts`.

use super::tokenizer::Tokenizer;

/// Training, validation and test tokens, and the tokenizer that made them.
#[derive(Clone, Debug)]
pub struct Corpus {
    /// What the numbers mean.
    pub tokenizer: Tokenizer,
    /// Training tokens.
    pub train: Vec<u32>,
    /// Validation tokens.
    pub valid: Vec<u32>,
    /// Test tokens.
    pub test: Vec<u32>,
    /// What the vocabulary lacks.
    pub unknown: Unknown,
}

/// How many tokens became `<unk>` because the vocabulary lacks what is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unknown {
    /// Of the validation text.
    pub valid: usize,
    /// Of the test text.
    pub test: usize,
}

impl Corpus {
    /// The same with only the first `limit` training tokens; the vocabulary stays.
    pub fn limited(mut self, limit: usize) -> Self {
        self.train.truncate(limit);
        self
    }
}
