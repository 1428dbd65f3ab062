//! Which text a run is about, found, read and cut into tokens: the three parts, the tokenizer, and what `run.json` says of
//! them. A run builds its tokenizer once and keeps it in its folder; whoever continues or evaluates it uses that file.

use std::path::Path;

use darts_data::text::{Columns, Corpus, SyntheticText, SyntheticTextConfig, Texts, Tokenizer, TokenizerSpec};

use crate::config::TextConfig;
use crate::error::{Error, Result};
use crate::folder::{CorpusRecord, RunFolder};
use crate::options::DEFAULT_DATA_DIR;

/// The tokenizer's file in a run folder, in the format of the `tokenizers` library.
pub(crate) const TOKENIZER: &str = "tokenizer.json";

/// What a run on the sample of WikiText-2 has to say of itself.
const SAMPLE_NOTE: &str = "WikiText-2 without its training text: trained on nine tenths of wiki.valid.tokens, validated on \
                           the last tenth; these figures compare with nobody's";

/// A corpus with where it is from.
pub(crate) struct Text {
    pub(crate) corpus: Corpus,
    /// Entropy of the source in nats per token, where it is known.
    entropy: Option<f64>,
    note: Option<&'static str>,
}

impl Text {
    /// Opens what `config` names, in `dir` or, where nothing is said, in `datasets/`, with the tokenizer of a run that is there
    /// already or with a new one.
    pub(crate) fn open(config: &TextConfig, dir: Option<&Path>, tokenizer: Option<Tokenizer>) -> Result<Self> {
        let dir = dir.unwrap_or(Path::new(DEFAULT_DATA_DIR));
        let read = |texts: Texts, spec: &TokenizerSpec, note| {
            let corpus = match tokenizer {
                Some(tokenizer) => texts.encode(tokenizer)?,
                None => texts.tokenize(spec)?,
            };
            Ok(Self { corpus, entropy: None, note })
        };
        match config {
            TextConfig::Ptb { tokenizer } => read(Texts::ptb(dir)?, tokenizer, None),
            TextConfig::WikiText2 { tokenizer, sample: false } => read(Texts::wikitext2(dir)?, tokenizer, None),
            TextConfig::WikiText2 { tokenizer, sample: true } => {
                read(Texts::wikitext2_sample(dir)?, tokenizer, Some(SAMPLE_NOTE))
            }
            TextConfig::Text { tokenizer } => read(Texts::open(dir)?, tokenizer, None),
            TextConfig::SyntheticText { vocabulary, predictability, train_tokens, valid_tokens, data_seed } => {
                let source = SyntheticText::new(&SyntheticTextConfig {
                    vocabulary: *vocabulary,
                    predictability: *predictability,
                    train_tokens: *train_tokens,
                    valid_tokens: *valid_tokens,
                    seed: *data_seed,
                })?;
                Ok(Self { corpus: source.corpus()?, entropy: Some(source.entropy()), note: None })
            }
        }
    }

    /// The same for a run: in its folder there may be a tokenizer already.
    pub(crate) fn of_run(config: &TextConfig, dir: Option<&Path>, folder: &RunFolder) -> Result<Self> {
        let tokenizer = match folder.record() {
            Some(_) => Some(Tokenizer::load(folder.path(TOKENIZER))?),
            None => None,
        };
        Self::open(config, dir, tokenizer)
    }

    /// The same with only the first `limit` training tokens.
    pub(crate) fn limited(self, limit: Option<usize>) -> Self {
        match limit {
            Some(limit) => Self { corpus: self.corpus.limited(limit), ..self },
            None => self,
        }
    }

    /// What `run.json` says of it.
    pub(crate) fn record(&self) -> CorpusRecord {
        let Corpus { tokenizer, train, valid, test, unknown } = &self.corpus;
        CorpusRecord {
            train_tokens: train.len(),
            valid_tokens: valid.len(),
            test_tokens: test.len(),
            vocabulary: tokenizer.vocabulary_size(),
            unknown: unknown.valid + unknown.test,
            entropy: self.entropy,
            note: self.note.map(str::to_owned),
        }
    }

    /// The tokenizer's file.
    pub(crate) fn tokenizer_file(&self) -> Result<(&'static str, Vec<u8>)> {
        Ok((TOKENIZER, self.corpus.tokenizer.to_json()?.into_bytes()))
    }
}

/// Cuts a text into `batch` columns of at least `rows` rows, which is what a step needs.
///
/// # Errors
/// [`Error::Config`] naming the largest batch that the text has room for.
pub(crate) fn columns(text: &[u32], which: &str, batch: usize, rows: usize) -> Result<Columns> {
    let (tokens, most) = (text.len(), text.len() / rows);
    if most < batch {
        let room = format!("the {which} text has {tokens} tokens, and each of the batch's columns takes {rows}");
        return Err(Error::Config {
            field: "batch_size",
            value: batch.to_string(),
            expected: if most == 0 { format!("a longer text: {room}") } else { format!("at most {most}: {room}") },
        });
    }
    Ok(Columns::new(text, batch)?)
}
