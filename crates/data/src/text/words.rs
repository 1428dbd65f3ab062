//! The words of a text and which of them a vocabulary keeps. Words are what whitespace separates; every line ends with
//! the word `<eos>`; what is not kept is `<unk>`. It refuses to change case or to split punctuation: corpora come as
//! their authors cut them.

use std::collections::HashMap;

/// The token at the end of every line.
pub const END_OF_LINE: &str = "<eos>";
/// The token for everything that the vocabulary does not have.
pub const UNKNOWN: &str = "<unk>";

/// The different words of a text in the order in which they first appear, `<eos>` and `<unk>` included; with a limit, the
/// most frequent ones (of equally frequent words the earlier), always with those two.
pub(super) fn different_words(text: &str, limit: Option<usize>) -> Vec<String> {
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
    counts.into_iter().map(|(word, _)| word.to_owned()).collect()
}

/// The words of a text, with `<eos>` after each line. Lines end with LF or CRLF; the last one needs no end.
pub(super) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.lines().flat_map(|line| line.split_whitespace().chain([END_OF_LINE]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_listed_by_first_appearance() {
        assert_eq!(different_words("a b a\nc a", None), ["a", "b", "<eos>", "c", "<unk>"]);
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
        assert_eq!(different_words("d c c b b a a a", Some(4)), ["c", "a", "<eos>", "<unk>"]);
        assert_eq!(different_words("a b", Some(0)), ["<eos>", "<unk>"]);
        assert_eq!(different_words("a <unk>", Some(100)), ["a", "<unk>", "<eos>"]);
    }
}
