//! Where every image lies in the two tars of ILSVRC 2012, found once and kept in a file beside them.
//!
//! The file (`darts-index.bin`) begins with what it was made from: sizes and times of the archives. It is read only while
//! those are the same, its checksum is right, and every entry lies inside its tar; else it is made anew, whole, under
//! another name first. Where it cannot be written it is kept in memory. Entries come in an order that is a hash of the
//! image's name, the same as for an unpacked folder, so that both give a run the same bytes.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::devkit::{self, Labels};
use super::tar::{self, Opened, ReadAt};
use crate::Error;
use crate::image_folder::index::order;

/// The index's file name.
pub(super) const FILE: &str = "darts-index.bin";
const MAGIC: &[u8; 8] = b"DARTSIX1";
/// ILSVRC's has 21 MB.
const MOST_BYTES: u64 = 1 << 30;
const ENTRY: usize = 16;
const CHECKSUM: usize = 32;

/// An image in a tar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) offset: u64,
    pub(super) len: u32,
    pub(super) label: u32,
}

/// What tells one state of a file from another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    bytes: u64,
    /// Nanoseconds since 1970.
    modified: u64,
}

#[derive(Serialize, Deserialize)]
struct Head {
    archives: [Stamp; 3],
    classes: Vec<String>,
    train: usize,
    val: usize,
}

/// The archives of a folder.
pub(super) struct Archives {
    pub(super) train: Opened,
    pub(super) val: Opened,
    kit: PathBuf,
}

/// Where every image lies.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Index {
    pub(super) classes: Vec<String>,
    pub(super) train: Vec<Entry>,
    pub(super) val: Vec<Entry>,
}

impl Archives {
    pub(super) fn open(dir: &Path) -> Result<Self, Error> {
        let open = |name: &str| {
            let path = dir.join(name);
            if !path.is_file() {
                return Err(Error::Layout {
                    path: dir.to_path_buf(),
                    problem: format!("{name} is missing"),
                    expected: super::EXPECTED,
                });
            }
            Opened::new(&path)
        };
        Ok(Self { train: open(super::TRAIN_TAR)?, val: open(super::VAL_TAR)?, kit: devkit::find(dir)? })
    }

    fn stamps(&self) -> Result<[Stamp; 3], Error> {
        let kit = fs::metadata(&self.kit).map_err(Error::io("inspect", &self.kit))?;
        let stamp = |metadata: &fs::Metadata| {
            let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
            Stamp { bytes: metadata.len(), modified: modified.map_or(0, |time| time.as_nanos() as u64) }
        };
        Ok([stamp(&self.train.metadata()?), stamp(&self.val.metadata()?), stamp(&kit)])
    }

    /// The index: read where it is there and up to date, else made, telling `progress` (classes done, classes in all),
    /// and written.
    pub(super) fn index(&self, dir: &Path, progress: &mut dyn FnMut(usize, usize)) -> Result<Index, Error> {
        let (path, stamps) = (dir.join(FILE), self.stamps()?);
        if let Some(index) = self.read(&path, &stamps) {
            return Ok(index);
        }
        let index = self.make(progress)?;
        // A folder that may not be written to costs time at the next start, and nothing else.
        let _ = write(&path, &index.to_bytes(&stamps));
        Ok(index)
    }

    /// A usable index.
    fn read(&self, path: &Path, stamps: &[Stamp; 3]) -> Option<Index> {
        let file = File::open(path).ok()?;
        let mut bytes = Vec::new();
        file.take(MOST_BYTES).read_to_end(&mut bytes).ok()?;
        Index::parse(&bytes, stamps, [self.train.len(), self.val.len()]).ok()
    }

    fn make(&self, progress: &mut dyn FnMut(usize, usize)) -> Result<Index, Error> {
        let Labels { classes, truth } = devkit::read(&self.kit)?;
        let train = train_entries(&self.train, &classes, progress)?;
        let val = val_entries(&self.val, &classes, &truth)?;
        Ok(Index { classes, train, val })
    }
}

fn problem(path: &Path, problem: String) -> Error {
    Error::Layout { path: path.to_path_buf(), problem, expected: super::EXPECTED }
}

/// An image's entry, and its place in the order of its split.
type Placed = ([u8; 32], Entry);

fn entry(path: &Path, member: &tar::Member, label: usize) -> Result<Entry, Error> {
    let len = u32::try_from(member.len)
        .map_err(|_| problem(path, format!("{} has {} bytes: that is no photograph", member.name, member.len)))?;
    Ok(Entry { offset: member.offset, len, label: label as u32 })
}

fn in_order(mut placed: Vec<Placed>) -> Vec<Entry> {
    placed.sort_unstable_by_key(|(order, entry)| (*order, entry.offset));
    placed.into_iter().map(|(_, entry)| entry).collect()
}

fn base(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// Every image of every inner tar.
fn train_entries(
    file: &Opened,
    classes: &[String],
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<Entry>, Error> {
    let mut inner = vec![None; classes.len()];
    tar::members(file, &file.path, 0..file.len(), &mut |member| {
        let Some(wnid) = base(&member.name).strip_suffix(".tar") else { return Ok(()) };
        let label = classes.binary_search_by(|class| class.as_str().cmp(wnid));
        let label = label.map_err(|_| problem(&file.path, format!("{wnid} is no class of the development kit")))?;
        inner[label] = Some(member);
        Ok(())
    })?;
    let mut placed: Vec<Placed> = Vec::new();
    for (label, (member, wnid)) in inner.iter().zip(classes).enumerate() {
        progress(label, classes.len());
        let missing = || problem(&file.path, format!("the inner tar {wnid}.tar is missing: get the file again"));
        let member = member.as_ref().ok_or_else(missing)?;
        let (path, before) = (file.path.join(format!("{wnid}.tar")), placed.len());
        tar::members(file, &path, member.offset..member.offset + member.len, &mut |image| {
            let place = order(0, &format!("{wnid}/{}", base(&image.name)));
            placed.push((place, entry(&path, &image, label)?));
            Ok(())
        })?;
        if placed.len() == before {
            return Err(problem(&path, "it has no image".to_owned()));
        }
    }
    progress(classes.len(), classes.len());
    Ok(in_order(placed))
}

/// The validation images, whose labels follow from the numbers in their names.
fn val_entries(file: &Opened, classes: &[String], truth: &[u32]) -> Result<Vec<Entry>, Error> {
    let mut placed: Vec<Placed> = Vec::new();
    tar::members(file, &file.path, 0..file.len(), &mut |image| {
        let name = base(&image.name);
        let number = name.rsplit_once('_').and_then(|(_, end)| end.split('.').next()?.parse::<usize>().ok());
        let label = number.and_then(|number| truth.get(number.checked_sub(1)?));
        let label = *label.ok_or_else(|| {
            let known = truth.len();
            problem(&file.path, format!("{name} has no label: the development kit has those of {known} images"))
        })?;
        let place = order(0, &format!("{}/{name}", classes[label as usize]));
        placed.push((place, entry(&file.path, &image, label as usize)?));
        Ok(())
    })?;
    if placed.len() != truth.len() {
        let (found, expected) = (placed.len(), truth.len());
        return Err(problem(
            &file.path,
            format!("it has {found} images, the development kit has labels of {expected}"),
        ));
    }
    Ok(in_order(placed))
}

impl Index {
    fn to_bytes(&self, stamps: &[Stamp; 3]) -> Vec<u8> {
        let head = Head {
            archives: stamps.clone(),
            classes: self.classes.clone(),
            train: self.train.len(),
            val: self.val.len(),
        };
        let head = serde_json::to_vec(&head).unwrap_or_default();
        let mut bytes = MAGIC.to_vec();
        bytes.extend((head.len() as u32).to_le_bytes());
        bytes.extend(head);
        for Entry { offset, len, label } in self.train.iter().chain(&self.val) {
            bytes.extend(offset.to_le_bytes());
            bytes.extend(len.to_le_bytes());
            bytes.extend(label.to_le_bytes());
        }
        let checksum = Sha256::digest(&bytes);
        bytes.extend(checksum);
        bytes
    }

    /// The index in `bytes`, where it was made from archives of these stamps; `tars`: the lengths of the two tars. The
    /// error is the reason, for a person.
    fn parse(bytes: &[u8], stamps: &[Stamp; 3], tars: [u64; 2]) -> Result<Self, &'static str> {
        let (contents, checksum) = bytes.split_last_chunk::<CHECKSUM>().ok_or("it is too short")?;
        let rest = contents.strip_prefix(MAGIC).ok_or("it is no index of this version")?;
        if Sha256::digest(contents)[..] != checksum[..] {
            return Err("its checksum is wrong");
        }
        let (length, rest) = rest.split_first_chunk::<4>().ok_or("it is too short")?;
        let (head, entries) = rest.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or("it is too short")?;
        let head: Head = serde_json::from_slice(head).map_err(|_| "its head is damaged")?;
        if head.archives != *stamps {
            return Err("the archives have changed");
        }
        let counted = head.train.checked_add(head.val).and_then(|count| count.checked_mul(ENTRY));
        if counted != Some(entries.len()) {
            return Err("its entries are not as many as it says");
        }
        let read = |chunk: &[u8; ENTRY]| {
            let (offset, rest) = chunk.split_at(8);
            let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
            Entry { offset: number(offset), len: number(&rest[..4]) as u32, label: number(&rest[4..]) as u32 }
        };
        let mut train: Vec<Entry> = entries.as_chunks::<ENTRY>().0.iter().map(read).collect();
        let val = train.split_off(head.train);
        let inside = |entry: &Entry, tar: u64| {
            let end = entry.offset.checked_add(entry.len.into());
            end.is_some_and(|end| end <= tar) && (entry.label as usize) < head.classes.len()
        };
        if !train.iter().all(|entry| inside(entry, tars[0])) || !val.iter().all(|entry| inside(entry, tars[1])) {
            return Err("an entry lies outside its archive");
        }
        Ok(Self { classes: head.classes, train, val })
    }
}

/// Writes `bytes` to a file beside `path`, and gives it that name.
fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let partial = path.with_extension(format!("partial-{}", std::process::id()));
    let written = File::create(&partial).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    let renamed = written.and_then(|()| fs::rename(&partial, path));
    if renamed.is_err() {
        // What is half written would only lie about; where even that fails there is nothing left to do.
        let _ = fs::remove_file(&partial);
    }
    renamed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Key, Purpose};
    use crate::test_memory::peak_bytes;

    fn stamps() -> [Stamp; 3] {
        [1, 2, 3].map(|n| Stamp { bytes: 1000 * n, modified: n })
    }

    fn sample() -> Index {
        let entry = |n: u32| Entry { offset: 512 + 10 * u64::from(n), len: 10, label: n % 2 };
        Index {
            classes: vec!["n00000001".into(), "n00000002".into()],
            train: (0..20).map(entry).collect(),
            val: (0..5).map(entry).collect(),
        }
    }

    #[test]
    fn an_index_survives_its_file_and_is_of_no_use_once_an_archive_changes() {
        let bytes = sample().to_bytes(&stamps());
        assert_eq!(Index::parse(&bytes, &stamps(), [1000, 1000]), Ok(sample()));
        for archive in 0..3 {
            let mut changed = stamps();
            changed[archive].modified += 1;
            assert_eq!(Index::parse(&bytes, &changed, [1000, 1000]), Err("the archives have changed"));
        }
        assert_eq!(Index::parse(&bytes, &stamps(), [1000, 500]), Err("an entry lies outside its archive"));
        assert_eq!(Index::parse(&bytes[..200], &stamps(), [1000; 2]), Err("its checksum is wrong"));
        assert_eq!(Index::parse(b"", &stamps(), [1000; 2]), Err("it is too short"));
    }

    #[test]
    fn ten_thousand_mutated_indices_never_panic_reach_outside_or_take_much_memory() {
        let good = sample().to_bytes(&stamps());
        let mut accepted = 0;
        for input in 0..12_000 {
            let mut random = Key::new(input, Purpose::new("mutated index")).generator();
            let mut file = good.clone();
            for _ in 0..=random.below(2) {
                let at = random.below(file.len());
                file[at] = [random.below(256) as u8, b'9', 0xFF, file[at] ^ (1 << random.below(8))][random.below(4)];
            }
            if random.below(16) == 0 {
                file.truncate(random.below(file.len()));
            }
            // Its checksum made right again, so that mutations reach beyond it.
            if let Some((contents, checksum)) = file.split_last_chunk_mut::<CHECKSUM>() {
                checksum.copy_from_slice(&Sha256::digest(&*contents));
            }
            let (result, peak) = peak_bytes(|| Index::parse(&file, &stamps(), [1000, 1000]));
            assert!(peak < 1 << 14, "input {input} took {peak} bytes");
            for index in result.into_iter() {
                accepted += 1;
                for entry in index.train.iter().chain(&index.val) {
                    assert!(entry.offset + u64::from(entry.len) <= 1000);
                    assert!((entry.label as usize) < index.classes.len());
                }
            }
        }
        assert!(accepted > 500, "only {accepted} inputs got through: the mutations are too coarse to test much");
    }
}
