//! Text as numbers and back, by the `tokenizers` library: words, merged bytes, or any tokenizer file. A panic of the
//! library on a damaged file ends here, as an error. It refuses to lose text silently: what the vocabulary lacks is
//! `<unk>` or an error.

mod check;
#[cfg(test)]
mod fuzz;
mod spec;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use rayon::prelude::*;
use tokenizers::PreTokenizerWrapper;
use tokenizers::models::wordlevel::WordLevel;
use tokenizers::pre_tokenizers::whitespace::WhitespaceSplit;

pub use self::spec::TokenizerSpec;
use super::words::UNKNOWN;
use crate::Error;

/// Lines that are encoded as one piece of work.
const LINES: usize = 1024;

/// A vocabulary and the way to cut text into its tokens.
///
/// Text is read line by line; lines end with LF or CRLF. Where the vocabulary has `<eos>`, each line ends with it and
/// the line's end is no text; else a line's end is text as any other whitespace.
///
/// ```
/// use darts_data::text::TokenizerSpec;
///
/// let tokenizer = TokenizerSpec::default().build("the cat\nthe mat\n")?;
/// let encoded = tokenizer.encode("the dog")?;
/// assert_eq!(tokenizer.decode(&encoded.tokens)?, "the <unk>\n");
/// assert_eq!(encoded.unknown, 1);
/// # Ok::<(), darts_data::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// Names it in errors.
    origin: String,
    size: usize,
    end_of_line: Option<u32>,
    unknown: Option<u32>,
}

/// A text as tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    /// The numbers of the tokens.
    pub tokens: Vec<u32>,
    /// How many of them are `<unk>` though the text does not say `<unk>` there.
    pub unknown: usize,
}

impl Tokenizer {
    /// Word level: what whitespace separates, each word numbered by its place in the list; a repeated word keeps its
    /// first number. `<eos>` and `<unk>` mean what they mean only when they are in the list.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] for fewer than 2 words or more than 1,048,576.
    pub fn of_words(list: impl IntoIterator<Item = String>) -> Result<Self, Error> {
        let mut numbers = HashMap::new();
        for word in list {
            let next = numbers.len() as u32;
            numbers.entry(word).or_insert(next);
        }
        let model = WordLevel::builder().vocab(numbers.into_iter().collect()).unk_token(UNKNOWN.to_owned());
        let mut inner = tokenizers::Tokenizer::new(guarded("words", "be made", || model.build())?);
        inner.with_pre_tokenizer(Some(PreTokenizerWrapper::from(WhitespaceSplit)));
        check::accept(inner, "words")
    }

    /// Reads a tokenizer file.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Tokenizer`] when the file is not in the format of the `tokenizers` library, or no
    /// language model can use it: tokens without, with equal or with huge numbers, text that would be dropped silently,
    /// random dropout.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        check::parse(&check::read(path)?, &path.display().to_string())
    }

    /// A tokenizer from the bytes of its file; `origin` names it in errors.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn from_json(json: &[u8], origin: &str) -> Result<Self, Error> {
        check::parse(json, origin)
    }

    /// The tokenizer's file: equal tokenizers give equal bytes.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when the library fails.
    pub fn to_json(&self) -> Result<String, Error> {
        guarded(&self.origin, "be written", || self.inner.to_string(true))
    }

    /// Writes the tokenizer's file, in place: who needs it whole or not at all writes [`to_json`](Self::to_json)
    /// elsewhere and renames.
    ///
    /// # Errors
    /// [`Error::Io`]; as [`to_json`](Self::to_json).
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        let path = path.as_ref();
        std::fs::write(path, self.to_json()?).map_err(Error::io("write", path))
    }

    /// Number of rows that a model's embedding needs: the largest number of a token, and one.
    pub fn vocabulary_size(&self) -> usize {
        self.size
    }

    /// The number of a token.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The token with a number, as the vocabulary spells it.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The number of `<eos>`, where there is one.
    pub fn end_of_line(&self) -> Option<u32> {
        self.end_of_line
    }

    /// The number of the token for what the vocabulary lacks, where there is one.
    pub fn unknown(&self) -> Option<u32> {
        self.unknown
    }

    /// A text's tokens; its last line is a whole line, whether or not it has an end.
    ///
    /// # Errors
    /// [`Error::UnknownWord`] for what the vocabulary lacks where it has no `<unk>`; [`Error::Tokenizer`] when the
    /// library fails.
    pub fn encode(&self, text: &str) -> Result<Encoded, Error> {
        self.encode_named(text, "the text")
    }

    /// The tokens of a text that goes on: no `<eos>` after a last line that has no end.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>, Error> {
        let mut tokens = self.encode_named(text, "the prompt")?.tokens;
        if !text.is_empty() && !text.ends_with('\n') && self.end_of_line.is_some() {
            tokens.pop();
        }
        Ok(tokens)
    }

    /// The text of tokens, with a line's end for each `<eos>`; word level puts one space between words. A number within
    /// the vocabulary that no token has is skipped.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] for a number outside the vocabulary, or when the library fails.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, Error> {
        if let Some(token) = tokens.iter().find(|&&token| token as usize >= self.size) {
            return Err(Error::Tokenizer {
                origin: self.origin.clone(),
                problem: format!("token {token} is not in its vocabulary of {}", self.size),
                remedy: "decode with the tokenizer that encoded",
            });
        }
        let line = |tokens: &[u32]| guarded(&self.origin, "decode", || self.inner.decode(tokens, false));
        let lines: Result<Vec<String>, Error> =
            tokens.split(|&token| Some(token) == self.end_of_line).map(line).collect();
        Ok(lines?.join("\n"))
    }

    /// [`encode`](Self::encode) with a name for the text in errors.
    pub(super) fn encode_named(&self, text: &str, name: &str) -> Result<Encoded, Error> {
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        let encode = |(part, lines): (usize, &[&str])| self.encode_lines(lines, part * LINES, name);
        let parts: Vec<Result<Encoded, Error>> = match lines.len() {
            0..=LINES => lines.chunks(LINES).enumerate().map(encode).collect(),
            _ => lines.par_chunks(LINES).enumerate().map(encode).collect(),
        };
        let mut whole = Encoded::default();
        for part in parts {
            let part = part?;
            whole.tokens.extend_from_slice(&part.tokens);
            whole.unknown += part.unknown;
        }
        Ok(whole)
    }

    fn encode_lines(&self, lines: &[&str], before: usize, name: &str) -> Result<Encoded, Error> {
        let mut encoded = Encoded::default();
        for (number, line) in lines.iter().enumerate() {
            let first = encoded.tokens.len();
            let input = self.input_of(line);
            match self.encode_line(&input) {
                Ok(tokens) => encoded.tokens.extend_from_slice(&tokens),
                Err(error) => return Err(self.blame(&input, name, before + number + 1).unwrap_or(error)),
            }
            let unknown = encoded.tokens[first..].iter().filter(|&&token| Some(token) == self.unknown).count();
            if unknown > 0 {
                let spelled = self.unknown.and_then(|id| self.token(id)).unwrap_or_default();
                let literal = input.split_whitespace().filter(|&word| word == spelled).count();
                encoded.unknown += unknown.saturating_sub(literal);
            }
            encoded.tokens.extend(self.end_of_line);
        }
        Ok(encoded)
    }

    /// What the library is given for a line: without its end where `<eos>` stands for that, else with LF.
    fn input_of<'a>(&self, line: &'a str) -> Cow<'a, str> {
        let Some(body) = line.strip_suffix('\n') else { return line.into() };
        match (self.end_of_line, body.strip_suffix('\r')) {
            (Some(_), stripped) => stripped.unwrap_or(body).into(),
            (None, Some(stripped)) => format!("{stripped}\n").into(),
            (None, None) => line.into(),
        }
    }

    fn encode_line(&self, line: &str) -> Result<Vec<u32>, Error> {
        let encoding = guarded(&self.origin, "encode", || self.inner.encode_fast(line, false))?;
        match encoding.get_ids().iter().find(|&&id| id as usize >= self.size) {
            None => Ok(encoding.get_ids().to_vec()),
            Some(id) => Err(Error::Tokenizer {
                origin: self.origin.clone(),
                problem: format!("it made token {id} of a vocabulary of {}", self.size),
                remedy: "the file is damaged: get it again",
            }),
        }
    }

    /// The error about the first word of a line that cannot be encoded by itself, where the vocabulary has no `<unk>`.
    fn blame(&self, line: &str, name: &str, number: usize) -> Option<Error> {
        if self.unknown.is_some() {
            return None;
        }
        let word = line.split_whitespace().find(|word| self.encode_line(word).is_err())?;
        Some(Error::UnknownWord {
            text: name.to_owned(),
            line: number,
            word: word.chars().take(40).collect(),
            tokenizer: self.origin.clone(),
        })
    }
}

/// What the library does, with its errors and panics as one of ours. It panics on some damaged files; the panic's own
/// message goes to the standard error stream, as panics' messages do.
fn guarded<T>(origin: &str, verb: &str, work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, Error> {
    // Nothing of the library is used after a panic but what it only reads: caches that are dropped or locked anew.
    let reason = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => error.to_string(),
        Err(panic) => {
            let message = panic.downcast_ref::<String>().map(String::as_str);
            message.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without a message").to_owned()
        }
    };
    Err(Error::Tokenizer {
        origin: origin.to_owned(),
        problem: format!("it cannot {verb}: {reason}"),
        remedy: "give another tokenizer: a tokenizer.json of the `tokenizers` library, words or bpe:N",
    })
}
