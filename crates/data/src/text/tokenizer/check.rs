//! Reading a tokenizer file of unknown origin, and the conditions under which a language model can use what it holds. It
//! refuses files of more than 64 MiB, numbers that would make a huge or ambiguous vocabulary, and models that drop text
//! silently or cut the same text in different ways.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::models::bpe::BPE;
use tokenizers::{Model, ModelWrapper, PostProcessorWrapper};

use super::{Tokenizer, guarded};
use crate::Error;
use crate::text::words::{END_OF_LINE, UNKNOWN};

/// The most tokens that a vocabulary may have.
pub(super) const MAX_VOCABULARY: usize = 1 << 20;
/// The largest file that is read, in bytes.
const MAX_BYTES: u64 = 64 << 20;

/// The bytes of a tokenizer file, unless there are too many.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    let mut json = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut json).map_err(Error::io("read", path))?;
    if json.len() as u64 > MAX_BYTES {
        return refuse(&path.display().to_string(), "it has more than 64 MiB".to_owned(), REMEDY);
    }
    Ok(json)
}

/// The tokenizer that a file's bytes describe; `origin` names it in errors.
pub(super) fn parse(json: &[u8], origin: &str) -> Result<Tokenizer, Error> {
    accept(guarded(origin, "be read", || tokenizers::Tokenizer::from_bytes(json))?, origin)
}

const REMEDY: &str = "give the tokenizer.json of the `tokenizers` library, words or bpe:N";

/// Takes a tokenizer of the library when a language model can use it, without what serves classifiers and translators:
/// truncation, padding, the tokens around a sentence.
pub(super) fn accept(mut inner: tokenizers::Tokenizer, origin: &str) -> Result<Tokenizer, Error> {
    guarded(origin, "be used", || inner.with_truncation(None).map(|_| ()))?;
    inner.with_padding(None).with_post_processor(None::<PostProcessorWrapper>);
    let mut numbers: Vec<u32> = inner.get_vocab(true).into_values().collect();
    numbers.sort_unstable();
    let size = numbers.last().map_or(0, |&last| last as usize + 1);
    if numbers.len() < 2 {
        let problem = format!("its vocabulary has {} tokens, at least 2 are needed", numbers.len());
        return refuse(origin, problem, REMEDY);
    }
    if size > MAX_VOCABULARY {
        let problem = format!("it has a token with number {}, at most {} are allowed", size - 1, MAX_VOCABULARY - 1);
        return refuse(origin, problem, "number the tokens from 0");
    }
    if let Some(twice) = numbers.windows(2).find(|pair| pair[0] == pair[1]) {
        return refuse(origin, format!("two tokens have the number {}", twice[0]), "give each token its own number");
    }
    if let ModelWrapper::BPE(bpe) = inner.get_model() {
        check_bpe(&inner, bpe, origin)?;
    }
    let unknown = match inner.get_model() {
        ModelWrapper::WordLevel(words) => inner.token_to_id(&words.unk_token),
        ModelWrapper::WordPiece(pieces) => inner.token_to_id(&pieces.unk_token),
        ModelWrapper::BPE(bpe) => bpe.unk_token.as_ref().and_then(|token| inner.token_to_id(token)),
        ModelWrapper::Unigram(_) => inner.token_to_id(UNKNOWN),
    };
    let end_of_line = inner.token_to_id(END_OF_LINE);
    Ok(Tokenizer { inner, origin: origin.to_owned(), size, end_of_line, unknown })
}

/// Merges of characters drop a character that the vocabulary lacks, unless there is a token for it.
fn check_bpe(inner: &tokenizers::Tokenizer, bpe: &BPE, origin: &str) -> Result<(), Error> {
    if let Some(dropout) = bpe.dropout.filter(|&dropout| dropout != 0.0) {
        let problem = format!("its dropout is {dropout}, so that the same text has different tokens each time");
        return refuse(origin, problem, "set dropout to null");
    }
    let knows = |token: String| bpe.token_to_id(&token).is_some();
    let all_bytes = || ByteLevel::alphabet().into_iter().all(|byte| knows(byte.to_string())) && is_byte_level(inner);
    let fallback = || bpe.byte_fallback && (0..=u8::MAX).all(|byte| knows(format!("<0x{byte:02X}>")));
    if bpe.unk_token.is_none() && !all_bytes() && !fallback() {
        let problem = "characters that its vocabulary lacks would be dropped silently".to_owned();
        return refuse(origin, problem, "set unk_token to one of its tokens");
    }
    Ok(())
}

/// True when the text reaches the model as the 256 characters that stand for bytes.
fn is_byte_level(inner: &tokenizers::Tokenizer) -> bool {
    let names = |part: Result<String, serde_json::Error>| part.is_ok_and(|json| json.contains(r#""type":"ByteLevel""#));
    names(serde_json::to_string(&inner.get_pre_tokenizer())) || names(serde_json::to_string(&inner.get_normalizer()))
}

fn refuse<T>(origin: &str, problem: String, remedy: &'static str) -> Result<T, Error> {
    Err(Error::Tokenizer { origin: origin.to_owned(), problem, remedy })
}
