//! Text as language models read it: corpora in their official layouts or any UTF-8 files ([`Corpus`]), their words as
//! numbers ([`Vocabulary`]), and columns of tokens cut into stretches of varying length ([`Columns`], [`Bptt`]).
//!
//! A corpus is read whole into memory, 4 bytes a token. It refuses text that is not UTF-8, naming the byte, and empty
//! splits.

mod columns;
mod corpus;
mod synthetic;
mod vocabulary;

pub use columns::{Bptt, Columns, Segment, Stretch};
pub use corpus::{Corpus, TextConfig};
pub use synthetic::{SyntheticText, SyntheticTextConfig};
pub use vocabulary::{END_OF_LINE, UNKNOWN, Vocabulary};
