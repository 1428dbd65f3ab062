//! A struct array out of a MATLAB 5 file (`.mat`): as much of the format as the ImageNet devkit's `meta.mat` needs.
//!
//! The file is a header of 128 bytes and a sequence of elements; an element is a tag (type, bytes) with its data, padded
//! to 8 bytes, and may be a whole element compressed by zlib. A matrix is an element whose data are elements again:
//! flags, dimensions, name, contents. It refuses big-endian files, other versions (7.3 is HDF5), and data that unpack to
//! more than [`MOST_UNPACKED`] bytes. Nothing is copied but what unpacks.

use std::borrow::Cow;
use std::io::Read;

use flate2::read::ZlibDecoder;

/// Bytes that a compressed element may unpack to; the devkit's whole file has 700 kB.
const MOST_UNPACKED: u64 = 64 << 20;
const HEADER: usize = 128;

const INT8: u32 = 1;
const UINT8: u32 = 2;
const INT16: u32 = 3;
const UINT16: u32 = 4;
const INT32: u32 = 5;
const UINT32: u32 = 6;
const SINGLE: u32 = 7;
const DOUBLE: u32 = 9;
const INT64: u32 = 12;
const UINT64: u32 = 13;
const MATRIX: u32 = 14;
const COMPRESSED: u32 = 15;
const UTF8: u32 = 16;

/// Classes of matrices, in the low byte of their flags.
const CLASS_STRUCT: u8 = 2;

/// One entry of a struct array.
pub(super) struct Record<'a> {
    /// The names of its fields.
    pub(super) fields: &'a [&'a str],
    contents: Vec<Matrix<'a>>,
}

/// A matrix's contents: the data element after its name, or nothing where it is empty.
struct Matrix<'a>(Option<Element<'a>>);

#[derive(Clone, Copy)]
struct Element<'a> {
    kind: u32,
    data: &'a [u8],
}

/// Calls `each` with the entries of the struct array `name`. The error is the reason, for a person.
pub(super) fn struct_array(
    file: &[u8],
    name: &str,
    each: &mut dyn FnMut(&Record) -> Result<(), String>,
) -> Result<(), String> {
    let Some((header, mut rest)) = file.split_at_checked(HEADER) else {
        return Err("it is shorter than a MATLAB 5 header".to_owned());
    };
    match &header[124..] {
        [0, 1, b'I', b'M'] => {}
        [1, 0, b'M', b'I'] => return Err("it is big-endian, expected little-endian".to_owned()),
        _ => return Err("it is no MATLAB 5 file".to_owned()),
    }
    while !rest.is_empty() {
        let element = take(&mut rest)?;
        let unpacked = unpacked(element)?;
        let mut inner = &unpacked[..];
        if element.kind == COMPRESSED {
            let element = take(&mut inner)?;
            inner = if element.kind == MATRIX { element.data } else { &[] };
        }
        if !inner.is_empty() && read_struct_array(inner, name, each)? {
            return Ok(());
        }
    }
    Err(format!("it has no struct array {name}"))
}

fn unpacked(element: Element<'_>) -> Result<Cow<'_, [u8]>, String> {
    match element.kind {
        MATRIX => Ok(element.data.into()),
        COMPRESSED => {
            let mut bytes = Vec::new();
            let mut zlib = ZlibDecoder::new(element.data).take(MOST_UNPACKED + 1);
            zlib.read_to_end(&mut bytes).map_err(|error| format!("a compressed element: {error}"))?;
            if bytes.len() as u64 > MOST_UNPACKED {
                return Err(format!("a compressed element unpacks to more than {MOST_UNPACKED} bytes"));
            }
            Ok(bytes.into())
        }
        _ => Ok((&[]).into()),
    }
}

/// True where this matrix was the struct array `name`.
fn read_struct_array(
    mut matrix: &[u8],
    name: &str,
    each: &mut dyn FnMut(&Record) -> Result<(), String>,
) -> Result<bool, String> {
    let flags = take(&mut matrix)?;
    let dimensions = take(&mut matrix)?;
    let own_name = take(&mut matrix)?;
    if flags.data.first() != Some(&CLASS_STRUCT) || own_name.data != name.as_bytes() {
        return Ok(false);
    }
    let lengths = dimensions.data.as_chunks::<4>().0;
    let count = lengths.iter().try_fold(1_u64, |count, length| count.checked_mul(u32::from_le_bytes(*length).into()));
    let count = count.ok_or_else(|| format!("the struct array {name} has too many entries"))?;
    let width = take(&mut matrix)?.number().filter(|width| (1.0..=1024.0).contains(width));
    let width = width.ok_or_else(|| format!("the struct array {name} has no length of its field names"))? as usize;
    let names: Vec<&str> = take(&mut matrix)?
        .data
        .chunks(width)
        .map(|name| name.split(|byte| *byte == 0).next().unwrap_or_default())
        .map(|name| std::str::from_utf8(name).unwrap_or("?"))
        .collect();
    if names.is_empty() {
        return Err(format!("the struct array {name} has no fields"));
    }
    // A count without contents ends at the first entry that is not there.
    for _ in 0..count {
        let matrices = names.iter().map(|_| Matrix::read(take(&mut matrix)?));
        each(&Record { fields: &names, contents: matrices.collect::<Result<_, String>>()? })?;
    }
    Ok(true)
}

impl<'a> Matrix<'a> {
    fn read(element: Element<'a>) -> Result<Self, String> {
        if element.kind != MATRIX {
            return Err(format!("a field is an element of type {}, expected a matrix", element.kind));
        }
        let mut rest = element.data;
        if rest.is_empty() {
            return Ok(Self(None));
        }
        for _ in 0..3 {
            take(&mut rest)?;
        }
        Ok(Self(if rest.is_empty() { None } else { Some(take(&mut rest)?) }))
    }
}

impl Record<'_> {
    fn element(&self, field: &str) -> Option<Element<'_>> {
        let place = self.fields.iter().position(|name| *name == field)?;
        self.contents.get(place)?.0
    }

    /// The number in a field.
    pub(super) fn number(&self, field: &str) -> Option<f64> {
        self.element(field)?.number()
    }

    /// The text in a field.
    pub(super) fn text(&self, field: &str) -> Option<String> {
        let Element { kind, data } = self.element(field)?;
        match kind {
            INT8 | UINT8 | UTF8 => Some(String::from_utf8_lossy(data).into_owned()),
            UINT16 => {
                let units: Vec<u16> = data.as_chunks::<2>().0.iter().map(|unit| u16::from_le_bytes(*unit)).collect();
                Some(String::from_utf16_lossy(&units))
            }
            _ => None,
        }
    }
}

impl Element<'_> {
    /// The first number of the data.
    fn number(self) -> Option<f64> {
        let data = self.data;
        Some(match self.kind {
            INT8 => f64::from(i8::from_le_bytes(*data.first_chunk()?)),
            UINT8 => f64::from(*data.first()?),
            INT16 => f64::from(i16::from_le_bytes(*data.first_chunk()?)),
            UINT16 => f64::from(u16::from_le_bytes(*data.first_chunk()?)),
            INT32 => f64::from(i32::from_le_bytes(*data.first_chunk()?)),
            UINT32 => f64::from(u32::from_le_bytes(*data.first_chunk()?)),
            INT64 => i64::from_le_bytes(*data.first_chunk()?) as f64,
            UINT64 => u64::from_le_bytes(*data.first_chunk()?) as f64,
            SINGLE => f64::from(f32::from_le_bytes(*data.first_chunk()?)),
            DOUBLE => f64::from_le_bytes(*data.first_chunk()?),
            _ => return None,
        })
    }
}

/// The next element of `rest`, which then begins after it.
fn take<'a>(rest: &mut &'a [u8]) -> Result<Element<'a>, String> {
    let cut = || "it ends in the middle of an element".to_owned();
    let (tag, after) = rest.split_first_chunk::<8>().ok_or_else(cut)?;
    let word = |at: usize| u32::from_le_bytes([tag[at], tag[at + 1], tag[at + 2], tag[at + 3]]);
    let (kind, bytes) = (word(0) & 0xFFFF, word(0) >> 16);
    if bytes > 0 {
        // The small form: up to four bytes of data within the tag.
        let (data, after) = rest[4..].split_at(4);
        let data = data.get(..bytes as usize).ok_or_else(|| format!("a small element claims {bytes} bytes"))?;
        *rest = after;
        return Ok(Element { kind, data });
    }
    let (data, after) = after.split_at_checked(word(4) as usize).ok_or_else(cut)?;
    let padding = if kind == COMPRESSED { 0 } else { data.len().next_multiple_of(8) - data.len() };
    // The last element of a file may go without its padding.
    *rest = after.get(padding..).unwrap_or_default();
    Ok(Element { kind, data })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imagenet::synthetic::meta_mat;
    use crate::random::{Key, Purpose};
    use crate::test_memory::peak_bytes;

    type Row = (f64, String, f64);

    fn rows(file: &[u8]) -> Result<Vec<Row>, String> {
        let mut rows = Vec::new();
        struct_array(file, "synsets", &mut |record| {
            let number = |field| record.number(field).ok_or("no number");
            rows.push((number("ILSVRC2012_ID")?, record.text("WNID").ok_or("no text")?, number("num_children")?));
            Ok(())
        })?;
        Ok(rows)
    }

    /// scipy.io.savemat wrote these, with the devkit's fields, compressed and not.
    #[test]
    fn files_of_another_writer_are_read() {
        for name in ["meta.mat", "meta_uncompressed.mat"] {
            let file = std::fs::read(format!("{}/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
            let found = rows(&file).unwrap();
            let expected = [(1.0, "n01440764", 0.0), (2.0, "n01443537", 0.0), (300.0, "n00001740", 2.0)];
            assert_eq!(found, expected.map(|(id, wnid, children)| (id, wnid.to_owned(), children)), "{name}");
        }
    }

    #[test]
    fn what_is_no_such_file_is_refused_with_a_reason() {
        let good = meta_mat(&["n1".into(), "n2".into()], "ILSVRC2012_ID");
        assert_eq!(rows(&good).unwrap().len(), 3);
        assert_eq!(rows(&good[..100]).unwrap_err(), "it is shorter than a MATLAB 5 header");
        assert_eq!(rows(&[0; 200]).unwrap_err(), "it is no MATLAB 5 file");
        assert_eq!(rows(&good[..128]).unwrap_err(), "it has no struct array synsets");
        let mut big_endian = good.clone();
        big_endian[124..128].copy_from_slice(&[1, 0, b'M', b'I']);
        assert_eq!(rows(&big_endian).unwrap_err(), "it is big-endian, expected little-endian");
        assert_eq!(rows(&good[..200]).unwrap_err(), "it ends in the middle of an element");
    }

    #[test]
    fn ten_thousand_mutated_files_never_panic_nor_take_more_memory_than_allowed() {
        let fixture = |name| std::fs::read(format!("{}/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        let originals = [fixture("meta.mat"), fixture("meta_uncompressed.mat")];
        let mut accepted = 0;
        for input in 0..12_000 {
            let mut random = Key::new(input, Purpose::new("mutated mat")).generator();
            let mut file = originals[usize::from(input % 6 > 0)].clone();
            for _ in 0..=random.below(4) {
                let at = random.below(file.len());
                file[at] = [random.below(256) as u8, 0, 0xFF, file[at] ^ (1 << random.below(8))][random.below(4)];
            }
            if random.below(8) == 0 {
                file.truncate(random.below(file.len()));
            }
            let read = || {
                struct_array(&file, "synsets", &mut |record| {
                    record.fields.iter().for_each(|field| drop((record.number(field), record.text(field))));
                    Ok(())
                })
            };
            let (result, peak) = peak_bytes(read);
            assert!(peak < 2 << 20, "input {input} took {peak} bytes");
            accepted += usize::from(result.is_ok());
        }
        assert!(accepted > 1000, "only {accepted} inputs got through: the mutations are too coarse to test much");
    }
}
