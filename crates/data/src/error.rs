//! What can go wrong with data, as one typed error: each variant names the operation, the offending value and what
//! was expected, in a sentence that a person can act on. It refuses to carry bare strings from below without a place.

use std::io;
use std::path::{Path, PathBuf};

/// Errors of datasets, transforms and loaders.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused a file operation.
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb ("read", "list").
        operation: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },

    /// A dataset's files are at none of the places where they may be.
    #[error("{dataset} not found: looked for {marker} in {}; {remedy}", list(looked_in))]
    NotFound {
        /// The dataset's name.
        dataset: String,
        /// The file or folder that tells the dataset's own folder.
        marker: String,
        /// Every folder that was looked in.
        looked_in: Vec<PathBuf>,
        /// What to do about it.
        remedy: String,
    },

    /// A file is shorter or longer than its format says.
    #[error("{}: {found} bytes, expected {expected}; the file is damaged or incomplete: fetch it again", path.display())]
    WrongSize {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        found: u64,
        /// What the size has to be.
        expected: String,
    },

    /// A record's label is outside the dataset's classes.
    #[error("{}: record {record} has label {label}, expected 0 to {}", path.display(), classes - 1)]
    Label {
        /// The file.
        path: PathBuf,
        /// The record's number within the file, from 0.
        record: usize,
        /// The label found.
        label: u8,
        /// Number of classes.
        classes: usize,
    },

    /// An image file could not be turned into pixels.
    #[error("{}: {reason}", path.display())]
    Image {
        /// The image file.
        path: PathBuf,
        /// Why it was refused.
        reason: String,
    },

    /// More image files are unreadable than the caller allowed.
    #[error("{found} unreadable images, at most {allowed} allowed (max_bad_images): {}", listed(first))]
    TooManyBadImages {
        /// How many were found so far.
        found: usize,
        /// The limit.
        allowed: usize,
        /// The first of them, with reasons.
        first: Vec<String>,
    },

    /// A text file has a byte that no UTF-8 text has at this place.
    #[error("{}: byte {byte:#04x} at offset {offset} is not UTF-8; convert the file to UTF-8", path.display())]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// The byte's place in the file, from 0.
        offset: usize,
        /// Its value.
        byte: u8,
    },

    /// A file or folder does not have the layout of a dataset.
    #[error("{}: {problem}; expected {expected}", path.display())]
    Layout {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
        /// What was expected instead.
        expected: &'static str,
    },

    /// An archive does not hold what its headers say.
    #[error("{}: {problem}; the file is damaged or was cut short: get it again", path.display())]
    Archive {
        /// The archive, or an archive within it.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },

    /// A dataset has fewer examples than one batch.
    #[error(
        "the split has {examples} examples, fewer than one batch of {batch_size}: use a smaller batch or more data"
    )]
    SplitTooSmall {
        /// Examples in the split.
        examples: usize,
        /// Examples wanted per batch.
        batch_size: usize,
    },

    /// A text does not fill the columns that it is to be cut into.
    #[error("{tokens} tokens do not fill {columns} columns of at least 2: use a smaller batch or more text")]
    TextTooShort {
        /// Tokens of the text.
        tokens: usize,
        /// Columns wanted: the batch size.
        columns: usize,
    },

    /// A text has a word that the vocabulary lacks, and the vocabulary has no token for such words.
    #[error(
        "{text}, line {line}: the word {word:?} is not in the vocabulary of {tokenizer}, which has no <unk>: use a \
         tokenizer that has one, or change the text"
    )]
    UnknownWord {
        /// The file, or which text it is.
        text: String,
        /// The line, from 1.
        line: usize,
        /// The word, or its first 40 characters.
        word: String,
        /// The tokenizer's file, or its kind.
        tokenizer: String,
    },

    /// A tokenizer cannot be read, trained or used.
    #[error("tokenizer {origin}: {problem}; {remedy}")]
    Tokenizer {
        /// The tokenizer's file, or its kind.
        origin: String,
        /// What is wrong with it.
        problem: String,
        /// What to do about it.
        remedy: &'static str,
    },

    /// A setting has a value outside its domain.
    #[error("{setting} is {value}, expected {expected}")]
    Setting {
        /// Name of the setting.
        setting: &'static str,
        /// The value given.
        value: String,
        /// The domain.
        expected: &'static str,
    },

    /// A manifest is not what this version understands.
    #[error("manifest of {dataset}: {reason}")]
    Manifest {
        /// The dataset's name, or the file it came from.
        dataset: String,
        /// What is wrong with it.
        reason: String,
    },

    /// A loader's worker thread panicked; the message is the panic's.
    #[error("a data worker panicked at step {step}: {message}")]
    Worker {
        /// The batch that was being made.
        step: u64,
        /// The panic's message.
        message: String,
    },
}

impl Error {
    /// An [`Error::Io`] about `path`, for `map_err`.
    pub(crate) fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { operation, path, source }
    }
}

fn list(paths: &[PathBuf]) -> String {
    let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    names.join(", ")
}

fn listed(reasons: &[String]) -> String {
    reasons.join("; ")
}
