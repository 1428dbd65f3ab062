//! Training, validation and test text of a corpus: Penn Treebank and WikiText-2 as published, a folder with such three
//! files, or one file that is cut by lines. The vocabulary is the training text's; it refuses to peek at the others.

use std::path::{Path, PathBuf};

use super::vocabulary::Vocabulary;
use crate::Error;
use crate::manifest::Manifest;

/// How any text is read.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TextConfig {
    /// The most words that the vocabulary may have; rarer ones become `<unk>`. At least 2.
    pub vocabulary_limit: Option<usize>,
}

/// A corpus: three sequences of tokens over one vocabulary.
#[derive(Clone, Debug)]
pub struct Corpus {
    /// The words that tokens number.
    pub vocabulary: Vocabulary,
    /// Training tokens.
    pub train: Vec<u32>,
    /// Validation tokens.
    pub valid: Vec<u32>,
    /// Test tokens.
    pub test: Vec<u32>,
    /// Words of the validation and test text that the training text does not have, read as `<unk>`.
    pub unknown_words: usize,
}

impl Corpus {
    /// The Penn Treebank as Mikolov prepared it (`ptb.train.txt`, `ptb.valid.txt`, `ptb.test.txt`): 929,589, 73,760 and
    /// 82,430 tokens, 10,000 words. `dir` is its own folder or the parent that holds `ptb/`.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Io`], [`Error::NotUtf8`], [`Error::WrongSize`].
    pub fn ptb(dir: impl AsRef<Path>) -> Result<Self, Error> {
        let manifest = Manifest::named("ptb")?;
        let folder = manifest.locate(dir.as_ref())?;
        manifest.check_files(&folder)?;
        let names = ["ptb.train.txt", "ptb.valid.txt", "ptb.test.txt"];
        Self::read(names.map(|name| folder.join(name)), &TextConfig::default())
    }

    /// WikiText-2 (`wiki.train.tokens`, `wiki.valid.tokens`, `wiki.test.tokens`): 2,088,628, 217,646 and 245,569
    /// tokens, 33,278 words. `dir` is its own folder or the parent that holds `wikitext-2/`.
    ///
    /// # Errors
    /// As [`ptb`](Self::ptb).
    pub fn wikitext2(dir: impl AsRef<Path>) -> Result<Self, Error> {
        let folder = Manifest::named("wikitext-2")?.locate(dir.as_ref())?;
        let names = ["wiki.train.tokens", "wiki.valid.tokens", "wiki.test.tokens"];
        Self::read(names.map(|name| folder.join(name)), &TextConfig::default())
    }

    /// Any UTF-8 text: a folder with `train.txt`, `valid.txt` (or `val.txt`) and `test.txt`, or one file, whose last
    /// tenth of lines is test text and the tenth before that validation text.
    ///
    /// # Errors
    /// [`Error::Layout`] when a file is missing, or one file has fewer than 10 lines; [`Error::Io`];
    /// [`Error::NotUtf8`]; [`Error::Setting`].
    pub fn open(path: impl AsRef<Path>, config: &TextConfig) -> Result<Self, Error> {
        let path = path.as_ref();
        if path.is_file() {
            return Self::of_file(&read_text(path)?, path, config);
        }
        let missing = |names: &[&str]| layout(path, &format!("it has no {}", names.join(" or ")));
        let find = |names: &[&str]| {
            let found = names.iter().map(|name| path.join(name)).find(|file| file.is_file());
            found.ok_or_else(|| missing(names))
        };
        Self::read([find(&["train.txt"])?, find(&["valid.txt", "val.txt"])?, find(&["test.txt"])?], config)
    }

    /// A corpus of three texts in memory: training, validation, test.
    ///
    /// # Errors
    /// [`Error::Setting`] for a vocabulary limit below 2, or a text without words.
    pub fn new(texts: [&str; 3], config: &TextConfig) -> Result<Self, Error> {
        if let Some(limit) = config.vocabulary_limit.filter(|&limit| limit < 2) {
            return Err(Error::Setting {
                setting: "vocabulary limit",
                value: limit.to_string(),
                expected: "at least 2, for <eos> and <unk>",
            });
        }
        let names = ["training text", "validation text", "test text"];
        if let Some((setting, _)) = names.into_iter().zip(texts).find(|(_, text)| text.is_empty()) {
            return Err(Error::Setting { setting, value: "empty".to_owned(), expected: "some words" });
        }
        let vocabulary = Vocabulary::of(texts[0], config.vocabulary_limit);
        let [(train, _), (valid, a), (test, b)] = texts.map(|text| vocabulary.encode(text));
        Ok(Self { vocabulary, train, valid, test, unknown_words: a + b })
    }

    /// The same with only the first `limit` training tokens; the vocabulary stays.
    pub fn limited(mut self, limit: usize) -> Self {
        self.train.truncate(limit);
        self
    }

    fn of_file(text: &str, path: &Path, config: &TextConfig) -> Result<Self, Error> {
        let (train, valid, test) = cut(text).ok_or_else(|| layout(path, "it has fewer than 10 lines"))?;
        Self::new([train, valid, test], config)
    }

    fn read(paths: [PathBuf; 3], config: &TextConfig) -> Result<Self, Error> {
        let [train, valid, test] = [read_text(&paths[0])?, read_text(&paths[1])?, read_text(&paths[2])?];
        Self::new([&train, &valid, &test], config)
    }
}

/// (training, validation, test): eight tenths, one tenth, one tenth of the lines, in order.
fn cut(text: &str) -> Option<(&str, &str, &str)> {
    let ends: Vec<usize> = text.match_indices('\n').map(|(at, _)| at + 1).collect();
    let lines = ends.len() + usize::from(ends.last().is_none_or(|&end| end < text.len()));
    let tenth = lines / 10;
    if tenth == 0 {
        return None;
    }
    let (head, test) = text.split_at(ends[lines - tenth - 1]);
    let (train, valid) = head.split_at(ends[lines - 2 * tenth - 1]);
    Some((train, valid, test))
}

/// A file's text, without the byte order mark that it may begin with.
fn read_text(path: &Path) -> Result<String, Error> {
    decode(std::fs::read(path).map_err(Error::io("read", path))?, path)
}

fn decode(bytes: Vec<u8>, path: &Path) -> Result<String, Error> {
    let mut text = String::from_utf8(bytes).map_err(|error| Error::NotUtf8 {
        path: path.to_path_buf(),
        offset: error.utf8_error().valid_up_to(),
        byte: error.as_bytes()[error.utf8_error().valid_up_to()],
    })?;
    if text.starts_with('\u{feff}') {
        text.drain(..'\u{feff}'.len_utf8());
    }
    Ok(text)
}

fn layout(path: &Path, problem: &str) -> Error {
    Error::Layout {
        path: path.to_path_buf(),
        problem: problem.to_owned(),
        expected: "a folder with train.txt, valid.txt and test.txt, or one text file of at least 10 lines",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Key, Purpose};
    use crate::test_memory::peak_bytes;

    fn message(path: &Path) -> String {
        Corpus::open(path, &TextConfig::default()).unwrap_err().to_string()
    }

    #[test]
    fn a_folder_and_a_file_are_read_and_words_of_the_future_are_unknown() {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in [("train.txt", "\u{feff}a b\r\na\r\n"), ("val.txt", "b c\n"), ("test.txt", "ä a")] {
            std::fs::write(root.path().join(name), text).unwrap();
        }
        let corpus = Corpus::open(root.path(), &TextConfig::default()).unwrap();
        assert_eq!(corpus.vocabulary.words(), ["a", "b", "<eos>", "<unk>"]);
        assert_eq!((&corpus.train[..], &corpus.valid[..]), (&[0, 1, 2, 0, 2][..], &[1, 3, 2][..]));
        assert_eq!((&corpus.test[..], corpus.unknown_words), (&[3, 0, 2][..], 2));
        assert_eq!(corpus.limited(2).train, [0, 1]);

        let file = root.path().join("book.txt");
        for last in ["", "\n"] {
            let lines: Vec<String> = (0..25).map(|line| format!("w{line}")).collect();
            std::fs::write(&file, lines.join("\n") + last).unwrap();
            let corpus = Corpus::open(&file, &TextConfig::default()).unwrap();
            let lens = (corpus.train.len(), corpus.valid.len(), corpus.test.len());
            assert_eq!((lens, corpus.unknown_words), ((42, 4, 4), 4), "ends with {last:?}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let root = tempfile::tempdir().unwrap();
        assert!(message(root.path()).contains("it has no train.txt; expected a folder with"));
        std::fs::write(root.path().join("train.txt"), b"fine \xff\xfe").unwrap();
        assert!(message(root.path()).contains("it has no valid.txt or val.txt"));
        for name in ["valid.txt", "test.txt"] {
            std::fs::write(root.path().join(name), "a").unwrap();
        }
        let error = message(root.path());
        assert!(error.contains("train.txt: byte 0xff at offset 5 is not UTF-8"), "{error}");
        std::fs::write(root.path().join("train.txt"), "").unwrap();
        assert_eq!(message(root.path()), "training text is empty, expected some words");
        assert!(message(&root.path().join("valid.txt")).contains("fewer than 10 lines"));
        let limit = TextConfig { vocabulary_limit: Some(1) };
        assert!(Corpus::new(["a", "b", "c"], &limit).unwrap_err().to_string().starts_with("vocabulary limit is 1"));
    }

    #[test]
    fn mutated_text_never_panics_nor_takes_more_memory_than_its_size_justifies() {
        let file = Path::new("mutated.txt");
        let valid = "the cat\r\nsat on ä mat\n\n".repeat(10).into_bytes();
        let (mut accepted, mut refused) = (0, 0);
        for input in 0..10_000 {
            let mut random = Key::new(input, Purpose::new("mutated text")).generator();
            let mut bytes = valid.clone();
            for _ in 0..=random.below(3) {
                let at = random.below(bytes.len());
                bytes[at] = [random.below(128) as u8, random.below(256) as u8, b'\n', b'\r'][random.below(4)];
            }
            bytes.truncate(random.below(2 * valid.len()));
            let read = || Corpus::of_file(&decode(bytes.clone(), file)?, file, &TextConfig::default());
            let (result, peak) = peak_bytes(read);
            assert!(peak < 64 * bytes.len() + (64 << 10), "{} bytes took {peak}", bytes.len());
            match result {
                Ok(corpus) => {
                    accepted += 1;
                    let tokens = corpus.train.iter().chain(&corpus.valid).chain(&corpus.test);
                    assert!(tokens.max().is_none_or(|&token| (token as usize) < corpus.vocabulary.len()));
                }
                Err(Error::NotUtf8 { offset, .. }) => {
                    refused += 1;
                    assert!(std::str::from_utf8(&bytes[..offset]).is_ok());
                }
                Err(Error::Layout { .. }) => refused += 1,
                Err(other) => panic!("unexpected {other}"),
            }
        }
        assert!(accepted > 1000 && refused > 1000, "{accepted} accepted, {refused} refused");
    }

    #[test]
    fn real_corpora_have_their_published_counts() {
        let Some(data) = std::env::var_os("DARTS_DATA").map(PathBuf::from) else {
            println!("skipped: DARTS_DATA is not set");
            return;
        };
        match Corpus::ptb(&data) {
            Err(Error::NotFound { .. }) => println!("skipped: no Penn Treebank in DARTS_DATA"),
            corpus => {
                let corpus = corpus.unwrap();
                let lens = (corpus.train.len(), corpus.valid.len(), corpus.test.len());
                assert_eq!((lens, corpus.vocabulary.len()), ((929_589, 73_760, 82_430), 10_000));
                assert_eq!(corpus.unknown_words, 0);
            }
        }
        for (name, tokens) in [("wiki.valid.tokens", 217_646), ("wiki.test.tokens", 245_569)] {
            match read_text(&data.join("wikitext-2").join(name)) {
                Ok(text) => assert_eq!(Vocabulary::of(&text, None).encode(&text).0.len(), tokens, "{name}"),
                Err(_) => println!("skipped: no {name} in DARTS_DATA"),
            }
        }
    }
}
