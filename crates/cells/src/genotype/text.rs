//! The text form that the field exchanges genotypes in:
//! `Genotype(normal=[('sep_conv_3x3', 0), …], normal_concat=range(2, 6), reduce=[…], reduce_concat=range(2, 6))` and
//! `Genotype(recurrent=[('relu', 0), …], concat=range(1, 9))`.
//!
//! The reader takes the keys in any order, either kind of quotes, tuples in either kind of brackets, trailing commas, and a name
//! with `=` before the whole. It reads bytes, evaluates nothing, and is no parser of the language the form comes from.

use std::{fmt, str::FromStr};

use super::{ConvGenotype, Genotype, RecurrentGenotype};
use crate::{
    error::{Error, Result, shorten},
    primitive::{Activation, Primitive},
};

/// Longest `range(…)` that is expanded; cells of thousands of nodes do not exist, and nine bytes must not ask for gigabytes.
const LONGEST_RANGE: usize = 4096;

/// Prints a list of states: `range(2, 6)` where it counts upwards without gaps, else `[3, 4, 6]`.
#[derive(Debug)]
pub struct Range<'a>(pub &'a [usize]);

impl fmt::Display for Range<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [first, .., last] if self.0.windows(2).all(|pair| pair[0].checked_add(1) == Some(pair[1])) => {
                write!(f, "range({first}, {})", last.saturating_add(1))
            }
            list => write!(f, "{list:?}"),
        }
    }
}

struct Pairs<'a, T>(&'a [(T, usize)]);

impl<T: fmt::Display> fmt::Display for Pairs<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, (operation, source)) in self.0.iter().enumerate() {
            let separator = if i == 0 { "" } else { ", " };
            write!(f, "{separator}('{operation}', {source})")?;
        }
        f.write_str("]")
    }
}

impl fmt::Display for ConvGenotype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Genotype(normal={}, normal_concat={}, reduce={}, reduce_concat={})",
            Pairs(&self.normal),
            Range(&self.normal_concat),
            Pairs(&self.reduce),
            Range(&self.reduce_concat)
        )
    }
}

impl fmt::Display for RecurrentGenotype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Genotype(recurrent={}, concat={})", Pairs(&self.recurrent), Range(&self.concat))
    }
}

impl fmt::Display for Genotype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Genotype::Conv(genotype) => genotype.fmt(f),
            Genotype::Recurrent(genotype) => genotype.fmt(f),
        }
    }
}

impl FromStr for Genotype {
    type Err = Error;

    /// Reads and validates either form; see [`Genotype::read`].
    fn from_str(text: &str) -> Result<Self> {
        Self::read(text.as_bytes())
    }
}

/// A list of pairs before it is known what kind of cell it belongs to.
type NamedPairs = Vec<(String, usize)>;

/// What was read for each key.
#[derive(Default)]
struct Fields {
    pairs: [Option<NamedPairs>; 3],
    concats: [Option<Vec<usize>>; 3],
}

const PAIRS: [&str; 3] = ["normal", "reduce", "recurrent"];
const CONCATS: [&str; 3] = ["normal_concat", "reduce_concat", "concat"];

/// Parses without validating.
pub(super) fn read(bytes: &[u8]) -> Result<Genotype> {
    let mut reader = Reader { bytes, at: 0 };
    let mut word = reader.word("'Genotype('")?;
    if reader.take(b'=') {
        word = reader.word("'Genotype('")?;
    }
    if word != "Genotype" {
        return Err(reader.unexpected("'Genotype('"));
    }
    reader.expect(b'(', "'('")?;
    let mut fields = Fields::default();
    while !reader.take(b')') {
        reader.field(&mut fields)?;
        if !reader.take(b',') {
            reader.expect(b')', "',' or ')'")?;
            break;
        }
    }
    if reader.peek().is_some() {
        return Err(reader.unexpected("the end"));
    }
    fields.genotype(&reader)
}

impl Fields {
    fn genotype(self, end: &Reader) -> Result<Genotype> {
        let missing = |what: &str| Error::Syntax {
            offset: end.at,
            found: "the end of the genotype".to_owned(),
            expected: format!("'{what}='"),
        };
        let [normal, reduce, recurrent] = self.pairs;
        let [normal_concat, reduce_concat, concat] = self.concats;
        if let Some(recurrent) = recurrent {
            if normal.is_some() || reduce.is_some() || normal_concat.is_some() || reduce_concat.is_some() {
                return Err(Error::Syntax {
                    offset: end.at,
                    found: "keys of both kinds of cell".to_owned(),
                    expected: "'recurrent' and 'concat', or 'normal' and 'reduce' with theirs".to_owned(),
                });
            }
            return Ok(Genotype::Recurrent(RecurrentGenotype {
                recurrent: named(recurrent, Activation::from_name)?,
                concat: concat.ok_or_else(|| missing("concat"))?,
            }));
        }
        if concat.is_some() {
            return Err(missing("recurrent"));
        }
        Ok(Genotype::Conv(ConvGenotype {
            normal: named(normal.ok_or_else(|| missing("normal"))?, Primitive::from_name)?,
            normal_concat: normal_concat.ok_or_else(|| missing("normal_concat"))?,
            reduce: named(reduce.ok_or_else(|| missing("reduce"))?, Primitive::from_name)?,
            reduce_concat: reduce_concat.ok_or_else(|| missing("reduce_concat"))?,
        }))
    }
}

fn named<T>(pairs: NamedPairs, from_name: fn(&str) -> Result<T>) -> Result<Vec<(T, usize)>> {
    pairs.into_iter().map(|(name, source)| Ok((from_name(&name)?, source))).collect()
}

/// A position in bytes. Every method skips white space before what it reads.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    /// The next byte that is no white space.
    fn peek(&mut self) -> Option<u8> {
        while self.bytes.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
        self.bytes.get(self.at).copied()
    }

    /// Steps over `byte` if it is next.
    fn take(&mut self, byte: u8) -> bool {
        let next = self.peek() == Some(byte);
        self.at += usize::from(next);
        next
    }

    fn expect(&mut self, byte: u8, expected: &str) -> Result<()> {
        if self.take(byte) { Ok(()) } else { Err(self.unexpected(expected)) }
    }

    fn unexpected(&mut self, expected: &str) -> Error {
        let found = match self.peek() {
            Some(byte) if byte.is_ascii_graphic() => format!("'{}'", char::from(byte)),
            Some(byte) => format!("byte 0x{byte:02x}"),
            None => "the end".to_owned(),
        };
        Error::Syntax { offset: self.at, found, expected: expected.to_owned() }
    }

    /// The bytes from here on that `belongs` holds of, as text.
    fn run(&mut self, belongs: impl Fn(u8) -> bool, expected: &str) -> Result<&str> {
        self.peek();
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|&byte| !belongs(byte)).unwrap_or(rest.len());
        match std::str::from_utf8(&rest[..length]) {
            Ok(text) if length > 0 => {
                self.at += length;
                Ok(text)
            }
            _ => Err(self.unexpected(expected)),
        }
    }

    fn word(&mut self, expected: &str) -> Result<String> {
        self.run(|byte| byte.is_ascii_alphanumeric() || byte == b'_', expected).map(str::to_owned)
    }

    fn number(&mut self) -> Result<usize> {
        let offset = self.at;
        let digits = self.run(|byte| byte.is_ascii_digit(), "a state's number")?;
        digits.parse().map_err(|_| Error::Syntax {
            offset,
            found: shorten(digits),
            expected: "a state's number".to_owned(),
        })
    }

    /// `'name'` or `"name"`.
    fn quoted(&mut self) -> Result<String> {
        let quote = if self.take(b'\'') {
            b'\''
        } else if self.take(b'"') {
            b'"'
        } else {
            return Err(self.unexpected("an operation's name in quotes"));
        };
        let name = self.run(|byte| byte != quote && byte != b'\n', "an operation's name")?.to_owned();
        self.expect(quote, "the closing quote")?;
        Ok(name)
    }

    /// `[item, item, …]` or the same in parentheses.
    fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Result<T>, expected: &str) -> Result<Vec<T>> {
        let close = if self.take(b'[') {
            b']'
        } else if self.take(b'(') {
            b')'
        } else {
            return Err(self.unexpected(expected));
        };
        let mut items = Vec::new();
        while !self.take(close) {
            items.push(item(self)?);
            if !self.take(b',') {
                self.expect(close, "',' or the closing bracket")?;
                break;
            }
        }
        Ok(items)
    }

    /// `('name', 0)`.
    fn pair(&mut self) -> Result<(String, usize)> {
        let close = if self.take(b'(') {
            b')'
        } else if self.take(b'[') {
            b']'
        } else {
            return Err(self.unexpected("('operation', source)"));
        };
        let name = self.quoted()?;
        self.expect(b',', "','")?;
        let source = self.number()?;
        self.take(b',');
        self.expect(close, "the closing bracket")?;
        Ok((name, source))
    }

    /// `range(2, 6)`, `range(6)` or a list of numbers.
    fn states(&mut self) -> Result<Vec<usize>> {
        let offset = self.at;
        if self.peek() != Some(b'r') {
            return self.list(Self::number, "range(first, end) or a list of states");
        }
        if self.word("'range'")? != "range" {
            return Err(Error::Syntax { offset, found: "another word".to_owned(), expected: "'range'".to_owned() });
        }
        let (first, end) = match self.list(Self::number, "'('")?[..] {
            [end] => (0, end),
            [first, end] => (first, end),
            ref arguments => {
                return Err(Error::Syntax {
                    offset,
                    found: format!("range of {} numbers", arguments.len()),
                    expected: "range(first, end)".to_owned(),
                });
            }
        };
        if end.saturating_sub(first) > LONGEST_RANGE {
            return Err(Error::Syntax {
                offset,
                found: format!("range({first}, {end})"),
                expected: format!("at most {LONGEST_RANGE} states"),
            });
        }
        Ok((first..end).collect())
    }

    /// `key=value`.
    fn field(&mut self, fields: &mut Fields) -> Result<()> {
        let offset = self.at;
        let key = self.word("a key such as 'normal'")?;
        self.expect(b'=', "'='")?;
        let twice = || Error::Syntax { offset, found: format!("'{key}' again"), expected: "every key once".to_owned() };
        if let Some(i) = PAIRS.iter().position(|&known| known == key) {
            let value = self.list(Self::pair, "a list of ('operation', source)")?;
            return if fields.pairs[i].replace(value).is_some() { Err(twice()) } else { Ok(()) };
        }
        if let Some(i) = CONCATS.iter().position(|&known| known == key) {
            let value = self.states()?;
            return if fields.concats[i].replace(value).is_some() { Err(twice()) } else { Ok(()) };
        }
        let expected = PAIRS.iter().chain(&CONCATS).copied().collect::<Vec<_>>().join(", ");
        Err(Error::Syntax { offset, found: format!("'{}'", shorten(&key)), expected: format!("one of {expected}") })
    }
}
