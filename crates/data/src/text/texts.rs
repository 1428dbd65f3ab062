//! Training, validation and test text: Penn Treebank and WikiText-2 as published, a folder with such three files, or one
//! file that is cut by lines. It refuses text that is not UTF-8 and empty text, naming the file.

use std::path::{Path, PathBuf};

use super::corpus::{Corpus, Unknown};
use super::tokenizer::{Tokenizer, TokenizerSpec};
use crate::Error;
use crate::manifest::Manifest;

/// Three texts that are not tokens yet, with names for errors.
#[derive(Clone, Debug)]
pub struct Texts {
    texts: [String; 3],
    names: [String; 3],
}

impl Texts {
    /// The Penn Treebank as Mikolov prepared it (`ptb.train.txt`, `ptb.valid.txt`, `ptb.test.txt`): 929,589, 73,760 and
    /// 82,430 words, 10,000 of them different. `dir` is its own folder or the parent that holds `ptb/`.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Io`], [`Error::NotUtf8`], [`Error::WrongSize`].
    pub fn ptb(dir: impl AsRef<Path>) -> Result<Self, Error> {
        let manifest = Manifest::named("ptb")?;
        let folder = manifest.locate(dir.as_ref())?;
        manifest.check_files(&folder)?;
        Self::read(["ptb.train.txt", "ptb.valid.txt", "ptb.test.txt"].map(|name| folder.join(name)))
    }

    /// WikiText-2 (`wiki.train.tokens`, `wiki.valid.tokens`, `wiki.test.tokens`): 2,088,628, 217,646 and 245,569 words,
    /// 33,278 of them different. `dir` is its own folder or the parent that holds `wikitext-2/`.
    ///
    /// # Errors
    /// As [`ptb`](Self::ptb).
    pub fn wikitext2(dir: impl AsRef<Path>) -> Result<Self, Error> {
        let folder = Manifest::named("wikitext-2")?.locate(dir.as_ref())?;
        Self::read(["wiki.train.tokens", "wiki.valid.tokens", "wiki.test.tokens"].map(|name| folder.join(name)))
    }

    /// WikiText-2 without its training text, for trying things: nine tenths of the lines of `wiki.valid.tokens` are the
    /// training text, the last tenth is the validation text. Numbers from it compare with nobody's: whoever takes it
    /// has to say so.
    ///
    /// # Errors
    /// As [`ptb`](Self::ptb); [`Error::Layout`] when the validation text has fewer than 10 lines.
    pub fn wikitext2_sample(dir: impl AsRef<Path>) -> Result<Self, Error> {
        let manifest = Manifest::named("wikitext-2")?;
        let folders = [dir.as_ref().to_path_buf(), dir.as_ref().join(&manifest.folder)];
        let Some(folder) = folders.iter().find(|folder| folder.join("wiki.valid.tokens").is_file()) else {
            return Err(manifest
                .locate(dir.as_ref())
                .map_or_else(|error| error, |folder| layout(&folder, "it has no wiki.valid.tokens")));
        };
        let path = folder.join("wiki.valid.tokens");
        let text = read_text(&path)?;
        let (train, valid) = cut_tenth(&text).ok_or_else(|| layout(&path, "it has fewer than 10 lines"))?;
        let (test, name) = (folder.join("wiki.test.tokens"), path.display().to_string());
        let names = [name.clone(), name, test.display().to_string()];
        Self::named([train.to_owned(), valid.to_owned(), read_text(&test)?], names)
    }

    /// Any UTF-8 text: a folder with `train.txt`, `valid.txt` (or `val.txt`) and `test.txt`, or one file, whose last
    /// tenth of lines is test text and the tenth before that validation text.
    ///
    /// # Errors
    /// [`Error::Layout`] when a file is missing, or one file has fewer than 10 lines; [`Error::Io`];
    /// [`Error::NotUtf8`]; [`Error::Setting`] when a text is empty.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        if path.is_file() {
            return Self::of_file(&read_text(path)?, path);
        }
        let find = |names: &[&str]| {
            let found = names.iter().map(|name| path.join(name)).find(|file| file.is_file());
            found.ok_or_else(|| layout(path, &format!("it has no {}", names.join(" or "))))
        };
        Self::read([find(&["train.txt"])?, find(&["valid.txt", "val.txt"])?, find(&["test.txt"])?])
    }

    /// Three texts in memory: training, validation, test.
    ///
    /// # Errors
    /// [`Error::Setting`] when one is empty.
    pub fn new(texts: [&str; 3]) -> Result<Self, Error> {
        let names = ["training text", "validation text", "test text"];
        Self::named(texts.map(str::to_owned), names.map(str::to_owned))
    }

    /// The training text.
    pub fn train(&self) -> &str {
        &self.texts[0]
    }

    /// Builds the tokenizer on the training text, and cuts the three texts into its tokens.
    ///
    /// # Errors
    /// As [`TokenizerSpec::build`] and [`encode`](Self::encode).
    pub fn tokenize(&self, spec: &TokenizerSpec) -> Result<Corpus, Error> {
        self.encode(spec.build(self.train())?)
    }

    /// Cuts the three texts into the tokens of a tokenizer that is there already.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`], naming the file.
    pub fn encode(&self, tokenizer: Tokenizer) -> Result<Corpus, Error> {
        let encode = |split: usize| tokenizer.encode_named(&self.texts[split], &self.names[split]);
        let (train, valid, test) = (encode(0)?, encode(1)?, encode(2)?);
        let unknown = Unknown { valid: valid.unknown, test: test.unknown };
        Ok(Corpus { train: train.tokens, valid: valid.tokens, test: test.tokens, unknown, tokenizer })
    }

    fn of_file(text: &str, path: &Path) -> Result<Self, Error> {
        let (train, valid, test) = cut(text).ok_or_else(|| layout(path, "it has fewer than 10 lines"))?;
        let name = path.display().to_string();
        Self::named([train, valid, test].map(str::to_owned), [name.clone(), name.clone(), name])
    }

    fn read(paths: [PathBuf; 3]) -> Result<Self, Error> {
        let texts = [read_text(&paths[0])?, read_text(&paths[1])?, read_text(&paths[2])?];
        Self::named(texts, paths.map(|path| path.display().to_string()))
    }

    fn named(texts: [String; 3], names: [String; 3]) -> Result<Self, Error> {
        match texts.iter().position(String::is_empty) {
            None => Ok(Self { texts, names }),
            Some(empty) => {
                let value = format!("empty ({})", names[empty]);
                let setting = ["training text", "validation text", "test text"][empty];
                Err(Error::Setting { setting, value, expected: "at least one line" })
            }
        }
    }
}

/// (training, validation, test): eight tenths, one tenth, one tenth of the lines, in order.
fn cut(text: &str) -> Option<(&str, &str, &str)> {
    let ends = ends_of_lines(text);
    let tenth = ends.len() / 10;
    let (head, test) = text.split_at(*ends.get(ends.len().checked_sub(tenth + 1)?)?);
    let (train, valid) = head.split_at(*ends.get(ends.len().checked_sub(2 * tenth + 1)?)?);
    (tenth > 0).then_some((train, valid, test))
}

/// (nine tenths, one tenth) of the lines, in order.
fn cut_tenth(text: &str) -> Option<(&str, &str)> {
    let ends = ends_of_lines(text);
    let tenth = ends.len() / 10;
    (tenth > 0).then(|| text.split_at(ends[ends.len() - tenth - 1]))
}

/// Where each line ends, its line end included; the last one needs none.
fn ends_of_lines(text: &str) -> Vec<usize> {
    let mut ends: Vec<usize> = text.match_indices('\n').map(|(at, _)| at + 1).collect();
    if ends.last().is_none_or(|&end| end < text.len()) {
        ends.push(text.len());
    }
    ends
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
    use crate::text::words::{different_words, words};

    fn message(path: &Path) -> String {
        Texts::open(path).unwrap_err().to_string()
    }

    fn words_of(texts: &Texts) -> Corpus {
        texts.tokenize(&TokenizerSpec::default()).unwrap()
    }

    #[test]
    fn a_folder_and_a_file_are_read_and_words_of_the_future_are_unknown() {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in [("train.txt", "\u{feff}a b\r\na\r\n"), ("val.txt", "b c\n"), ("test.txt", "ä a")] {
            std::fs::write(root.path().join(name), text).unwrap();
        }
        let corpus = words_of(&Texts::open(root.path()).unwrap());
        assert_eq!(corpus.tokenizer.decode(&[0, 1, 3, 2]).unwrap(), "a b <unk>\n");
        assert_eq!((&corpus.train[..], &corpus.valid[..]), (&[0, 1, 2, 0, 2][..], &[1, 3, 2][..]));
        assert_eq!((&corpus.test[..], corpus.unknown), (&[3, 0, 2][..], Unknown { valid: 1, test: 1 }));
        assert_eq!(corpus.limited(2).train, [0, 1]);

        let file = root.path().join("book.txt");
        for last in ["", "\n"] {
            let lines: Vec<String> = (0..25).map(|line| format!("w{line}")).collect();
            std::fs::write(&file, lines.join("\n") + last).unwrap();
            let corpus = words_of(&Texts::open(&file).unwrap());
            let lens = (corpus.train.len(), corpus.valid.len(), corpus.test.len());
            assert_eq!((lens, corpus.unknown), ((42, 4, 4), Unknown { valid: 2, test: 2 }), "ends with {last:?}");
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
        let error = message(root.path());
        assert!(error.starts_with("training text is empty (") && error.contains("train.txt), expected"), "{error}");
        for text in ["", "one line", "a\nb\n"] {
            std::fs::write(root.path().join("short.txt"), text).unwrap();
            let error = message(&root.path().join("short.txt"));
            assert!(error.contains("short.txt: it has fewer than 10 lines; expected"), "{error}");
        }
    }

    #[test]
    fn texts_of_one_line_make_a_corpus() {
        let corpus = words_of(&Texts::new(["a b a", "b\r\n", "z"]).unwrap());
        assert_eq!((corpus.train, corpus.valid, corpus.test), (vec![0, 1, 0, 2], vec![1, 2], vec![3, 2]));
    }

    #[test]
    fn a_word_that_the_tokenizer_lacks_is_named_with_its_file_and_line() {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in [("train.txt", "a b\n"), ("valid.txt", "a\nb\nb c a\n"), ("test.txt", "a\n")] {
            std::fs::write(root.path().join(name), text).unwrap();
        }
        let tokenizer = Tokenizer::of_words(["a", "b"].map(str::to_owned)).unwrap();
        let error = Texts::open(root.path()).unwrap().encode(tokenizer).unwrap_err().to_string();
        assert!(error.contains("valid.txt, line 3: the word \"c\" is not in the vocabulary of words"), "{error}");
    }

    #[test]
    fn a_sample_of_wikitext_takes_its_validation_text_for_training() {
        let root = tempfile::tempdir().unwrap();
        assert!(Texts::wikitext2_sample(root.path()).unwrap_err().to_string().contains("WikiText-2 not found"));
        let folder = root.path().join("wikitext-2");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("wiki.valid.tokens"), "a\n".repeat(20) + "b\nb\n").unwrap();
        std::fs::write(folder.join("wiki.test.tokens"), "c\n").unwrap();
        assert!(Texts::wikitext2(root.path()).is_err());
        for dir in [root.path(), &folder] {
            let corpus = words_of(&Texts::wikitext2_sample(dir).unwrap());
            assert_eq!((corpus.train.len(), corpus.valid.len(), corpus.test.len()), (40, 4, 2));
        }
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
            let read = || Texts::of_file(&decode(bytes.clone(), file)?, file)?.tokenize(&TokenizerSpec::default());
            let (result, peak) = peak_bytes(read);
            assert!(peak < 1024 * bytes.len() + (64 << 10), "{} bytes took {peak}", bytes.len());
            match result {
                Ok(corpus) => {
                    accepted += 1;
                    let tokens = corpus.train.iter().chain(&corpus.valid).chain(&corpus.test);
                    assert!(tokens.max().is_none_or(|&token| (token as usize) < corpus.tokenizer.vocabulary_size()));
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
    fn real_corpora_have_their_published_counts_and_the_numbers_of_a_plain_count() {
        let Some(data) = std::env::var_os("DARTS_DATA").map(PathBuf::from) else {
            println!("skipped: DARTS_DATA is not set");
            return;
        };
        match Texts::ptb(&data) {
            Err(Error::NotFound { .. }) => println!("skipped: no Penn Treebank in DARTS_DATA"),
            texts => {
                let texts = texts.unwrap();
                let corpus = words_of(&texts);
                let lens = (corpus.train.len(), corpus.valid.len(), corpus.test.len());
                assert_eq!((lens, corpus.tokenizer.vocabulary_size()), ((929_589, 73_760, 82_430), 10_000));
                assert_eq!(corpus.unknown, Unknown::default());
                let list = different_words(texts.train(), None);
                let same =
                    |text: &str, tokens: &[u32]| words(text).eq(tokens.iter().map(|&token| &list[token as usize]));
                assert!(same(&texts.texts[0], &corpus.train) && same(&texts.texts[2], &corpus.test));
            }
        }
        for (name, tokens) in [("wiki.valid.tokens", 217_646), ("wiki.test.tokens", 245_569)] {
            match read_text(&data.join("wikitext-2").join(name)) {
                Ok(text) => {
                    let tokenizer = TokenizerSpec::default().build(&text).unwrap();
                    assert_eq!(tokenizer.encode(&text).unwrap().tokens.len(), tokens, "{name}");
                }
                Err(_) => println!("skipped: no {name} in DARTS_DATA"),
            }
        }
    }
}
