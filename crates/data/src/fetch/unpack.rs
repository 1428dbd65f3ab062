//! Unpacking a gzipped tar that nobody vouches for: names that leave the folder, links, devices, duplicates and anything
//! beyond the size bound are refused, and nothing of such an archive stays.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use tar::{Archive, EntryType};

use super::{FetchError, Progress, remove};
use crate::Error;
use crate::manifest::stays_inside;

/// Room for headers and padding beside the files themselves, in bytes.
const OVERHEAD: u64 = 1 << 20;

/// Unpacks the file `archive` into the folder `into`, at most `max_bytes` of it; `into` is removed again when it is refused.
pub(super) fn tar_gz(
    archive: &Path,
    into: &Path,
    max_bytes: u64,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(), FetchError> {
    let file = BufReader::new(File::open(archive).map_err(Error::io("open", archive))?);
    let bounded = Bounded { inner: MultiGzDecoder::new(file), left: max_bytes.saturating_add(OVERHEAD) };
    let mut place = |inside: &Path, contents: Option<&mut dyn Read>| {
        let path = into.join(inside);
        match contents {
            None => fs::create_dir_all(&path).map_err(|error| Failure::Writing(Error::io("create", &path)(error))),
            Some(contents) => {
                progress(Progress::Unpacking { file: inside });
                write(contents, &path)
            }
        }
    };
    let result = visit(bounded, archive, max_bytes, &mut place);
    if result.is_err() {
        remove(into)?;
    }
    result
}

enum Failure {
    Reading(io::Error),
    Writing(Error),
}

/// What is done with an entry that passed: its path below the folder, and a file's contents (`None`: a folder).
type Place<'a> = dyn FnMut(&Path, Option<&mut dyn Read>) -> Result<(), Failure> + 'a;

/// Hands every file and folder of a tar to `place`, up to the first entry that must not be unpacked; `archive` names the
/// tar in errors.
fn visit(tar: impl Read, archive: &Path, max_bytes: u64, place: &mut Place<'_>) -> Result<(), FetchError> {
    let refuse = |entry: &str, reason: String| FetchError::Unsafe {
        archive: archive.to_path_buf(),
        entry: entry.to_owned(),
        reason,
    };
    let damaged = |error: io::Error| refuse("archive", format!("it is damaged: {error}"));
    let mut tar = Archive::new(tar);
    let (mut seen, mut unpacked) = (HashSet::new(), 0_u64);
    for entry in tar.entries().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let kind = entry.header().entry_type();
        if kind == EntryType::XGlobalHeader {
            continue;
        }
        if kind != EntryType::Regular && kind != EntryType::Directory {
            return Err(refuse(&name, format!("it is a {kind:?}, expected files and folders alone")));
        }
        let inside = PathBuf::from(name.strip_prefix("./").unwrap_or(&name));
        if inside.as_os_str().is_empty() && kind == EntryType::Directory {
            continue;
        }
        if !stays_inside(&inside) || name.contains('\\') || name.contains('\0') {
            return Err(refuse(&name, "its name leaves the dataset's folder".to_owned()));
        }
        unpacked = unpacked.saturating_add(entry.size());
        if unpacked > max_bytes {
            return Err(refuse(&name, format!("the archive unpacks to more than {max_bytes} bytes")));
        }
        let is_file = kind == EntryType::Regular;
        if is_file && !seen.insert(inside.clone()) {
            return Err(refuse(&name, "it is there twice".to_owned()));
        }
        place(&inside, is_file.then_some(&mut entry as &mut dyn Read)).map_err(|failure| match failure {
            Failure::Reading(error) => damaged(error),
            Failure::Writing(error) => error.into(),
        })?;
    }
    Ok(())
}

/// Writes an entry's contents to a file that is not there yet.
fn write(contents: &mut dyn Read, path: &Path) -> Result<(), Failure> {
    let writing = |operation| move |error| Failure::Writing(Error::io(operation, path)(error));
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(writing("create a folder for"))?;
    }
    let mut file = OpenOptions::new().write(true).create_new(true).open(path).map_err(writing("create"))?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = contents.read(&mut buffer).map_err(Failure::Reading)?;
        if read == 0 {
            return Ok(());
        }
        file.write_all(&buffer[..read]).map_err(writing("write"))?;
    }
}

/// A reader that fails once it has given `left` bytes: what a small archive may inflate to has an end.
struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(read as u64).ok_or_else(|| {
            io::Error::new(io::ErrorKind::FileTooLarge, "it inflates to more than the dataset's size")
        })?;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Key, Purpose};
    use crate::test_memory::peak_bytes;

    #[test]
    fn mutated_archives_never_panic_leave_the_folder_or_exceed_the_bound() {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, contents) in [("set/a.bin", &[1; 700][..]), ("set/b/c.bin", &[2; 10]), ("d", &[])] {
            let mut header = tar::Header::new_gnu();
            header.set_size(contents.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, contents).unwrap();
        }
        let valid = builder.into_inner().unwrap();
        let (mut accepted, max_bytes) = (0, 4096);
        for input in 0..10_000 {
            let mut random = Key::new(input, Purpose::new("mutated tar")).generator();
            let mut bytes = valid.clone();
            for _ in 0..=random.below(3) {
                // Headers lie at these blocks; the rest is contents.
                let header = [0, 3, 5][random.below(3)] * 512;
                let at = header + random.below(512);
                bytes[at] = [random.below(256) as u8, b'.', b'/', 0][random.below(4)];
            }
            repair_checksums(&mut bytes);
            if random.chance(0.1) {
                bytes.truncate(random.below(bytes.len()));
            }
            let bounded = Bounded { inner: &bytes[..], left: max_bytes + OVERHEAD };
            let mut total = 0;
            let mut place = |inside: &Path, contents: Option<&mut dyn Read>| {
                assert!(stays_inside(inside), "input {input}: {}", inside.display());
                if let Some(contents) = contents {
                    total += io::copy(contents, &mut io::sink()).map_err(Failure::Reading)?;
                }
                Ok(())
            };
            let (result, peak) = peak_bytes(|| visit(bounded, Path::new("mutated.tar"), max_bytes, &mut place));
            assert!(total <= max_bytes, "input {input} unpacked to {total} bytes");
            assert!(peak < 1 << 20, "input {input} took {peak} bytes of memory");
            accepted += usize::from(result.is_ok());
        }
        assert!((1000..9000).contains(&accepted), "{accepted} of 10000 accepted");
    }

    fn repair_checksums(tar: &mut [u8]) {
        for block in [0, 3, 5] {
            let header = &mut tar[block * 512..][..512];
            header[148..156].fill(b' ');
            let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
            header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }

    #[test]
    fn a_small_archive_cannot_inflate_beyond_the_bound() {
        let mut bomb = Bounded { inner: io::repeat(0), left: 1000 };
        let error = io::copy(&mut bomb, &mut io::sink()).unwrap_err();
        assert_eq!(error.to_string(), "it inflates to more than the dataset's size");
    }
}
