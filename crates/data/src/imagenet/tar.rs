//! Where the members of a tar file lie, found by reading nothing but its headers, so that they can be read in place.
//!
//! Regular files alone are members; folders and links are passed over. Headers are taken apart by the `tar` crate; names
//! longer than a header holds (GNU's and POSIX's ways) are followed. It refuses a header whose checksum is wrong, a
//! member that reaches beyond the file, and an archive without its end mark: each says that the file is cut short or
//! damaged. Names take at most [`LONGEST_NAME`] bytes of memory, whatever a header claims.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use tar::{EntryType, Header, PaxExtensions};

use crate::Error;

const BLOCK: u64 = 512;
/// Bytes of an extended header that are read at most.
const LONGEST_NAME: u64 = 64 << 10;

/// A file that is read at places of one's own choice.
pub(crate) trait ReadAt {
    /// Its length in bytes.
    fn len(&self) -> u64;
    /// Fills `buffer` from the byte `offset` on.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

impl ReadAt for [u8] {
    fn len(&self) -> u64 {
        <[u8]>::len(self) as u64
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let range = usize::try_from(offset).ok().and_then(|start| Some(start..start.checked_add(buffer.len())?));
        let bytes = range.and_then(|range| self.get(range)).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }
}

/// An open file with its name and the length that it had when it was opened.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) path: PathBuf,
    file: File,
    len: u64,
}

impl Opened {
    pub(crate) fn new(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        let len = file.metadata().map_err(Error::io("inspect", path))?.len();
        Ok(Self { path: path.to_path_buf(), file, len })
    }

    pub(crate) fn metadata(&self) -> Result<std::fs::Metadata, Error> {
        self.file.metadata().map_err(Error::io("inspect", &self.path))
    }
}

impl ReadAt for Opened {
    fn len(&self) -> u64 {
        self.len
    }

    #[cfg(unix)]
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.file, buffer, offset)
    }

    #[cfg(windows)]
    fn read_at(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buffer.is_empty() {
            match std::os::windows::fs::FileExt::seek_read(&self.file, buffer, offset)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => {
                    buffer = &mut buffer[read..];
                    offset += read as u64;
                }
            }
        }
        Ok(())
    }
}

/// A regular file of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// Its name, with `/` between folders.
    pub(crate) name: String,
    /// Where its contents begin, in the whole file.
    pub(crate) offset: u64,
    /// Bytes of its contents.
    pub(crate) len: u64,
}

/// Calls `found` with each member of the archive that fills `range` of `file`, in order; `path` is the archive's name in
/// errors.
pub(crate) fn members<F: ReadAt + ?Sized>(
    file: &F,
    path: &Path,
    range: Range<u64>,
    found: &mut dyn FnMut(Member) -> Result<(), Error>,
) -> Result<(), Error> {
    let damaged = |problem: String| Error::Archive { path: path.to_path_buf(), problem };
    let end = range.end.min(file.len());
    let mut at = range.start;
    let mut extended = Extended::default();
    loop {
        if at.checked_add(BLOCK).is_none_or(|next| next > end) {
            return Err(damaged(format!("it ends at byte {end} without the mark of an archive's end")));
        }
        let mut header = Header::new_old();
        file.read_at(header.as_mut_bytes(), at).map_err(Error::io("read", path))?;
        if header.as_bytes().iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        if header.cksum().ok() != Some(checksum(header.as_bytes())) {
            return Err(damaged(format!("byte {at} should begin a member, and does not")));
        }
        let len = match extended.len {
            Some(len) => len,
            None => header.entry_size().map_err(|error| damaged(format!("the member at byte {at}: {error}")))?,
        };
        let offset = at + BLOCK;
        let next = len.checked_next_multiple_of(BLOCK).and_then(|len| offset.checked_add(len));
        let Some(next) = next.filter(|_| offset.checked_add(len).is_some_and(|contents| contents <= end)) else {
            let name = String::from_utf8_lossy(&header.path_bytes()).into_owned();
            return Err(damaged(format!(
                "its member {name} has {len} bytes from byte {offset} on, the file ends at {end}"
            )));
        };
        match header.entry_type() {
            kind @ (EntryType::GNULongName | EntryType::XHeader) => {
                let mut bytes = vec![0; len.min(LONGEST_NAME) as usize];
                file.read_at(&mut bytes, offset).map_err(Error::io("read", path))?;
                extended.read(kind, &bytes);
            }
            EntryType::Regular | EntryType::Continuous => {
                let name = match extended.name.take() {
                    Some(name) => name,
                    None => String::from_utf8_lossy(&header.path_bytes()).into_owned(),
                };
                found(Member { name, offset, len })?;
                extended = Extended::default();
            }
            EntryType::XGlobalHeader => {}
            _ => extended = Extended::default(),
        }
        at = next;
    }
}

/// What headers before a member's own say of it.
#[derive(Default)]
struct Extended {
    name: Option<String>,
    len: Option<u64>,
}

impl Extended {
    fn read(&mut self, kind: EntryType, bytes: &[u8]) {
        if kind == EntryType::GNULongName {
            let name = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
            self.name = Some(String::from_utf8_lossy(name).into_owned());
            return;
        }
        for extension in PaxExtensions::new(bytes).flatten() {
            match extension.key_bytes() {
                b"path" => self.name = Some(String::from_utf8_lossy(extension.value_bytes()).into_owned()),
                b"size" => self.len = extension.value().ok().and_then(|value| value.parse().ok()),
                _ => {}
            }
        }
    }
}

/// The sum of a header's bytes, its own checksum counted as spaces.
fn checksum(header: &[u8; 512]) -> u32 {
    let bytes = header.iter().enumerate();
    bytes.map(|(at, byte)| if (148..156).contains(&at) { u32::from(b' ') } else { u32::from(*byte) }).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Key, Purpose};
    use crate::test_memory::peak_bytes;

    fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, contents) in members {
            let mut header = Header::new_gnu();
            header.set_size(contents.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, *contents).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn listed(file: &[u8]) -> Result<Vec<Member>, Error> {
        let mut found = Vec::new();
        members(file, Path::new("a.tar"), 0..file.len() as u64, &mut |member| {
            found.push(member);
            Ok(())
        })?;
        Ok(found)
    }

    #[test]
    fn members_are_where_the_tar_crate_finds_them() {
        let long = "deep/".repeat(40) + "name.JPEG";
        let file = archive(&[("a.JPEG", &[1; 700]), ("empty", &[]), (&long, &[2; 512]), ("z", &[3])]);
        let found = listed(&file).unwrap();
        let mut archive = tar::Archive::new(&file[..]);
        let expected: Vec<Member> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let name = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
                Member { name, offset: entry.raw_file_position(), len: entry.size() }
            })
            .collect();
        assert_eq!(found, expected);
        assert_eq!(found[2].name, long);
        assert_eq!(file[found[3].offset as usize..][..1], [3]);
    }

    #[test]
    fn folders_are_passed_over_and_posix_names_followed() {
        let mut builder = tar::Builder::new(Vec::new());
        builder.append_pax_extensions([("path", b"from/pax".as_slice())]).unwrap();
        let mut header = Header::new_ustar();
        header.set_size(3);
        header.set_mode(0o644);
        builder.append_data(&mut header, "short", &b"abc"[..]).unwrap();
        let mut folder = Header::new_ustar();
        folder.set_entry_type(EntryType::Directory);
        folder.set_size(0);
        builder.append_data(&mut folder, "folder/", io::empty()).unwrap();
        let found = listed(&builder.into_inner().unwrap()).unwrap();
        assert_eq!(found.iter().map(|member| member.name.as_str()).collect::<Vec<_>>(), ["from/pax"]);
    }

    #[test]
    fn an_archive_within_a_file_is_walked_in_its_place() {
        let inner = archive(&[("x", b"hello")]);
        let outer = archive(&[("pad", &[0; 100]), ("inner.tar", &inner)]);
        let place = listed(&outer).unwrap().pop().unwrap();
        let mut found = Vec::new();
        members(&outer[..], Path::new("o.tar"), place.offset..place.offset + place.len, &mut |member| {
            found.push(member);
            Ok(())
        })
        .unwrap();
        assert_eq!(outer[found[0].offset as usize..][..5], *b"hello");
    }

    #[test]
    fn an_archive_cut_anywhere_is_refused_and_says_that_it_is_cut() {
        let file = archive(&[("a.JPEG", &[1; 700]), ("b.JPEG", &[2; 100])]);
        // The first block of zeros after the last member ends the archive.
        let end = 512 + 1024 + 512 + 512 + 512;
        for cut in 0..end {
            let error = listed(&file[..cut]).unwrap_err().to_string();
            assert!(error.contains("a.tar: it") && error.contains("cut short"), "{cut}: {error}");
        }
        assert_eq!(listed(&file[..end]).unwrap().len(), 2);
    }

    #[test]
    fn ten_thousand_mutated_archives_never_panic_nor_take_much_memory() {
        let long = "deep/".repeat(40) + "name.JPEG";
        let good = archive(&[("a.JPEG", &[1; 700]), (&long, &[2; 512]), ("z", &[3])]);
        let mut accepted = 0;
        for input in 0..12_000 {
            let mut random = Key::new(input, Purpose::new("mutated tar")).generator();
            let mut file = good.clone();
            for _ in 0..=random.below(4) {
                let at = random.below(file.len());
                file[at] = [random.below(256) as u8, b'7', 0xFF, file[at] ^ (1 << random.below(8))][random.below(4)];
            }
            if random.below(8) == 0 {
                file.truncate(random.below(file.len()));
            }
            if random.below(4) > 0 {
                repair_checksums(&mut file);
            }
            let (result, peak) = peak_bytes(|| listed(&file));
            assert!(peak < 1 << 20, "input {input} took {peak} bytes");
            accepted += usize::from(result.is_ok());
        }
        assert!(accepted > 1000, "only {accepted} inputs got through: the mutations are too coarse to test much");
    }

    /// Makes every block's header checksum right, so that mutations reach beyond it.
    fn repair_checksums(file: &mut [u8]) {
        for block in file.as_chunks_mut::<512>().0 {
            if &block[257..262] == b"ustar" {
                let sum = checksum(block);
                block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
        }
    }
}
