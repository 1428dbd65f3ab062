//! Words and their numbers. Words are what whitespace separates; every line ends with the word `<eos>`; what is not in
//! the vocabulary is `<unk>`. It refuses to change case or to split punctuation: corpora come as their authors cut them.

use std::collections::HashMap;

/// The word at the end of every line.
pub const END_OF_LINE: &str = "<eos>";
/// The word for every word that is not in the vocabulary.
pub const UNKNOWN: &str = "<unk>";

/// A list of different words, each numbered by its place.
#[derive(Clone, Debug)]
pub struct Vocabulary {
    words: Vec<String>,
    numbers: HashMap<String, u32>,
}

impl Vocabulary {
    /// The words of a text in the order in which they first appear, `<eos>` and `<unk>` included; with a limit, the most
    /// frequent ones (of equally frequent words the earlier), always with those two.
    pub fn of(text: &str, limit: Option<usize>) -> Self {
        let mut places: HashMap<&str, usize> = HashMap::new();
        let mut counts: Vec<(&str, usize)> = Vec::new();
        for word in words(text).chain([END_OF_LINE, UNKNOWN]) {
            let place = *places.entry(word).or_insert(counts.len());
            match counts.get_mut(place) {
                Some((_, count)) => *count += 1,
                None => counts.push((word, 1)),
            }
        }
        if let Some(limit) = limit.filter(|&limit| limit < counts.len()) {
            let is_special = |word: &str| word == END_OF_LINE || word == UNKNOWN;
            let mut ranked: Vec<usize> = (0..counts.len()).collect();
            ranked.sort_by_key(|&place| (!is_special(counts[place].0), usize::MAX - counts[place].1, place));
            ranked.truncate(limit.max(2));
            ranked.sort_unstable();
            counts = ranked.into_iter().map(|place| counts[place]).collect();
        }
        Self::new(counts.into_iter().map(|(word, _)| word.to_owned()))
    }

    /// These words, in this order; a repeated word keeps its first number.
    pub fn new(list: impl IntoIterator<Item = String>) -> Self {
        let (mut words, mut numbers) = (Vec::new(), HashMap::new());
        for word in list {
            numbers.entry(word).or_insert_with_key(|word| {
                words.push(word.clone());
                words.len() as u32 - 1
            });
        }
        Self { words, numbers }
    }

    /// Number of words.
    pub fn len(&self) -> usize {
        self.words.len()
    }

    /// True when there are no words.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// The words, by number.
    pub fn words(&self) -> &[String] {
        &self.words
    }

    /// The number of a word.
    pub fn number(&self, word: &str) -> Option<u32> {
        self.numbers.get(word).copied()
    }

    /// The numbers of a text's words, and how many of the words were not in the vocabulary. A word that is not is
    /// `<unk>`; where the vocabulary has no `<unk>`, it is left out.
    pub fn encode(&self, text: &str) -> (Vec<u32>, usize) {
        let (unknown, mut missing) = (self.number(UNKNOWN), 0);
        let number = |word| {
            self.number(word).or_else(|| {
                missing += 1;
                unknown
            })
        };
        (words(text).filter_map(number).collect(), missing)
    }
}

/// The words of a text, with `<eos>` after each line. Lines end with LF or CRLF; the last one needs no end.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.lines().flat_map(|line| line.split_whitespace().chain([END_OF_LINE]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_numbered_by_first_appearance() {
        let vocabulary = Vocabulary::of("a b a\nc a", None);
        assert_eq!(vocabulary.words(), ["a", "b", "<eos>", "c", "<unk>"]);
        assert_eq!(vocabulary.encode("c a\nb"), (vec![3, 0, 2, 1, 2], 0));
        assert_eq!(vocabulary.encode("c z z"), (vec![3, 4, 4, 2], 2));
    }

    #[test]
    fn every_line_ends_with_eos_whatever_ends_it() {
        let expected = vec!["a", "<eos>", "<eos>", "b", "<eos>"];
        for text in ["a\n\nb\n", "a\r\n\r\nb\r\n", " a \n \n\tb", "a\n\nb"] {
            assert_eq!(words(text).collect::<Vec<_>>(), expected, "{text:?}");
        }
        assert_eq!(words("").count(), 0);
    }

    #[test]
    fn a_limit_keeps_the_most_frequent_words_and_the_special_ones() {
        let vocabulary = Vocabulary::of("d c c b b a a a", Some(4));
        assert_eq!(vocabulary.words(), ["c", "a", "<eos>", "<unk>"]);
        assert_eq!(Vocabulary::of("a b", Some(0)).words(), ["<eos>", "<unk>"]);
        assert_eq!(Vocabulary::of("a <unk>", Some(100)).words(), ["a", "<unk>", "<eos>"]);
    }
}
