//! What `--tokenizer` says: words, pairs of bytes merged up to a vocabulary, or a file; and building such a tokenizer.
//! The same text gives the same tokenizer, byte for byte, for any number of threads. It refuses to look at any text but
//! the training text.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::{AddedToken, DecoderWrapper, PreTokenizerWrapper};

use super::check::{self, MAX_VOCABULARY};
use super::{Tokenizer, guarded};
use crate::Error;
use crate::text::words::{END_OF_LINE, UNKNOWN, different_words};

/// The smallest vocabulary of merged bytes: all 256 bytes, `<eos>` and `<unk>`.
const MIN_BPE: usize = 258;

/// Which tokens a text is cut into. As text: `words`, `words:5000`, `bpe:8000`, or the name of a `.json` file.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
#[non_exhaustive]
pub enum TokenizerSpec {
    /// What whitespace separates, with `<eos>` after each line and `<unk>` for words that the training text lacks.
    Words {
        /// The most words that the vocabulary may have, `<eos>` and `<unk>` included; rarer ones become `<unk>`. At
        /// least 2.
        limit: Option<usize>,
    },
    /// Byte pair encoding (Sennrich et al., arXiv 1508.07909) of UTF-8 bytes, trained on the training text: it knows
    /// every text. Lines end with `<eos>`.
    Bpe {
        /// Number of tokens, 258 to 1,048,576; a small text may yield fewer.
        vocabulary: usize,
    },
    /// A `tokenizer.json` in the format of the `tokenizers` library.
    File(PathBuf),
}

impl Default for TokenizerSpec {
    fn default() -> Self {
        Self::Words { limit: None }
    }
}

impl TokenizerSpec {
    /// Reads the file, or trains on the training text.
    ///
    /// # Errors
    /// [`Error::Setting`] for a size outside its domain; for a file as [`Tokenizer::load`]; [`Error::Tokenizer`] where
    /// training fails.
    pub fn build(&self, training_text: &str) -> Result<Tokenizer, Error> {
        self.check()?;
        match self {
            Self::Words { limit } => Tokenizer::of_words(different_words(training_text, *limit)),
            Self::Bpe { vocabulary } => train_bpe(training_text, *vocabulary, &self.to_string()),
            Self::File(path) => Tokenizer::load(path),
        }
    }

    fn check(&self) -> Result<(), Error> {
        let refuse = |expected| Err(Error::Setting { setting: "tokenizer", value: self.to_string(), expected });
        match *self {
            Self::Words { limit: Some(limit) } if !(2..=MAX_VOCABULARY).contains(&limit) => {
                refuse("words:N with N from 2, for <eos> and <unk>, to 1048576")
            }
            Self::Bpe { vocabulary } if !(MIN_BPE..=MAX_VOCABULARY).contains(&vocabulary) => {
                refuse("bpe:N with N from 258, for all bytes, <eos> and <unk>, to 1048576")
            }
            _ => Ok(()),
        }
    }
}

/// `<eos>` and `<unk>` are no text to be merged: the text is cut at them, in training as in use.
fn train_bpe(text: &str, vocabulary: usize, origin: &str) -> Result<Tokenizer, Error> {
    let special = || [END_OF_LINE, UNKNOWN].map(|token| AddedToken::from(token, true)).to_vec();
    let trainer = BpeTrainer::builder()
        .vocab_size(vocabulary)
        .show_progress(false)
        .special_tokens(special())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let bytes = ByteLevel::new(false, false, true);
    let mut inner = tokenizers::Tokenizer::new(BPE::default());
    inner.with_pre_tokenizer(Some(PreTokenizerWrapper::from(bytes)));
    inner.with_decoder(Some(DecoderWrapper::from(bytes)));
    let parts = text.lines().flat_map(|line| line.split(END_OF_LINE)).flat_map(|part| part.split(UNKNOWN));
    guarded(origin, "be trained", || inner.train(&mut TrainerWrapper::from(trainer), parts).map(|_| ()))?;
    check::accept(inner, origin)
}

impl FromStr for TokenizerSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse = || Error::Setting {
            setting: "tokenizer",
            value: format!("{text:?}"),
            expected: "words, words:N, bpe:N (such as bpe:8000) or the name of a tokenizer's .json file",
        };
        let is_file = Path::new(text).extension().is_some_and(|end| end.eq_ignore_ascii_case("json"));
        let spec = match text.split_once(':') {
            _ if is_file => Self::File(text.into()),
            None if text == "words" => Self::default(),
            Some(("words", limit)) => Self::Words { limit: Some(limit.parse().map_err(|_| refuse())?) },
            Some(("bpe", vocabulary)) => Self::Bpe { vocabulary: vocabulary.parse().map_err(|_| refuse())? },
            _ => return Err(refuse()),
        };
        spec.check()?;
        Ok(spec)
    }
}

impl fmt::Display for TokenizerSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Words { limit: None } => f.write_str("words"),
            Self::Words { limit: Some(limit) } => write!(f, "words:{limit}"),
            Self::Bpe { vocabulary } => write!(f, "bpe:{vocabulary}"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

impl TryFrom<String> for TokenizerSpec {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<TokenizerSpec> for String {
    fn from(spec: TokenizerSpec) -> Self {
        spec.to_string()
    }
}
