//! Text as language models read it: corpora in their official layouts or any UTF-8 files ([`Texts`]), cut into tokens by a
//! [`Tokenizer`] (words, merged bytes or a file: [`TokenizerSpec`]) to a [`Corpus`], and columns of tokens cut into
//! stretches of varying length ([`Columns`], [`Bptt`]).
//!
//! A corpus is read whole into memory, 4 bytes a token. It refuses text that is not UTF-8, naming the byte, and empty
//! splits.

mod columns;
mod corpus;
mod synthetic;
mod texts;
mod tokenizer;
mod words;

pub use columns::{Bptt, Columns, Segment, Stretch};
pub use corpus::{Corpus, Unknown};
pub use synthetic::{SyntheticText, SyntheticTextConfig};
pub use texts::Texts;
pub use tokenizer::{Encoded, Tokenizer, TokenizerSpec};
pub use words::{END_OF_LINE, UNKNOWN};
