//! The labels of ILSVRC 2012, from its development kit: which class the i-th validation image has, and which classes
//! there are. The kit is read as it is downloaded (`ILSVRC2012_devkit_t12.tar.gz`) or unpacked.
//!
//! Its ground truth lists numbers of its own (ILSVRC ids) that `meta.mat` maps to WordNet ids; labels here are places in
//! the sorted list of WordNet ids, as torchvision and everybody since has them. It refuses a kit of another year.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;

use super::matlab;
use super::tar;
use crate::Error;

/// The kit's name without extensions; an unpacked kit is a folder of this name.
pub(super) const KIT: &str = "ILSVRC2012_devkit_t12";
const META: &str = "data/meta.mat";
const TRUTH: &str = "data/ILSVRC2012_validation_ground_truth.txt";
const ID: &str = "ILSVRC2012_ID";
/// Bytes that the kit may unpack to: it has 7 MB.
const MOST_UNPACKED: u64 = 256 << 20;
/// The kit has 1,860 synsets, 1,000 of them classes.
const MOST_SYNSETS: usize = 100_000;

/// What the kit says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Labels {
    /// WordNet ids, sorted.
    pub(super) classes: Vec<String>,
    /// The label of each validation image, in the order of their numbers.
    pub(super) truth: Vec<u32>,
}

/// Where the kit is in `dir`: packed, or unpacked.
pub(super) fn find(dir: &Path) -> Result<PathBuf, Error> {
    let packed = dir.join(format!("{KIT}.tar.gz"));
    let candidates = [packed.clone(), dir.join(KIT)];
    if let Some(found) = candidates.into_iter().find(|path| path.exists()) {
        return Ok(found);
    }
    let others = std::fs::read_dir(dir).map_err(Error::io("list", dir))?.flatten();
    let other =
        others.map(|entry| entry.file_name().to_string_lossy().into_owned()).find(|name| name.contains("devkit"));
    let problem = match other {
        Some(other) => format!("the labels come from {KIT}.tar.gz, and there is only {other}"),
        None => format!("{KIT}.tar.gz, which holds the labels, is missing"),
    };
    Err(Error::Layout { path: dir.to_path_buf(), problem, expected: super::EXPECTED })
}

/// Reads the kit.
pub(super) fn read(kit: &Path) -> Result<Labels, Error> {
    let [meta, truth] = if kit.is_dir() { unpacked(kit)? } else { packed(kit)? };
    labels(&meta, &truth).map_err(|problem| wrong(kit, problem))
}

fn wrong(kit: &Path, problem: String) -> Error {
    Error::Layout { path: kit.to_path_buf(), problem, expected: "the development kit ILSVRC2012_devkit_t12" }
}

fn unpacked(kit: &Path) -> Result<[Vec<u8>; 2], Error> {
    let read = |name: &str| {
        let path = kit.join(name);
        let mut bytes = Vec::new();
        let file = File::open(&path).map_err(Error::io("open", &path))?;
        file.take(MOST_UNPACKED).read_to_end(&mut bytes).map_err(Error::io("read", &path))?;
        Ok(bytes)
    };
    Ok([read(META)?, read(TRUTH)?])
}

fn packed(kit: &Path) -> Result<[Vec<u8>; 2], Error> {
    let file = File::open(kit).map_err(Error::io("open", kit))?;
    let mut bytes = Vec::new();
    let mut unpacked = GzDecoder::new(file).take(MOST_UNPACKED + 1);
    unpacked
        .read_to_end(&mut bytes)
        .map_err(|error| Error::Archive { path: kit.into(), problem: format!("it is {error}") })?;
    if bytes.len() as u64 > MOST_UNPACKED {
        return Err(wrong(kit, format!("it unpacks to more than {MOST_UNPACKED} bytes")));
    }
    let (mut meta, mut truth, mut other) = (None, None, None);
    tar::members(&bytes[..], kit, 0..bytes.len() as u64, &mut |member| {
        let contents = || bytes[member.offset as usize..][..member.len as usize].to_vec();
        if member.name.ends_with(META) {
            meta = Some(contents());
        } else if member.name.ends_with(TRUTH) {
            truth = Some(contents());
        } else if member.name.ends_with("_ground_truth.txt") {
            other = member.name.rsplit('/').next().map(str::to_owned);
        }
        Ok(())
    })?;
    match (meta, truth, other) {
        (Some(meta), Some(truth), _) => Ok([meta, truth]),
        (_, None, Some(other)) => Err(wrong(kit, format!("it is the kit of another year or task: it holds {other}"))),
        (None, ..) => Err(wrong(kit, format!("it has no {META}"))),
        (_, None, None) => Err(wrong(kit, format!("it has no {TRUTH}"))),
    }
}

/// Classes and labels out of the two files; the error is the reason, for a person.
fn labels(meta: &[u8], truth: &[u8]) -> Result<Labels, String> {
    let synsets = synsets(meta).map_err(|problem| format!("{META}: {problem}"))?;
    let mut classes: Vec<String> = synsets.iter().map(|(_, wnid)| wnid.clone()).collect();
    classes.sort();
    if classes.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(format!("{META}: a class comes twice"));
    }
    let label_of = |id: u32| -> Option<u32> {
        let at = synsets.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        classes.binary_search(&synsets[at].1).ok().map(|label| label as u32)
    };
    let text = std::str::from_utf8(truth).map_err(|_| format!("{TRUTH}: it is no text"))?;
    let line = |(number, line): (usize, &str)| {
        let id = line.trim().parse().ok().and_then(label_of);
        id.ok_or_else(|| {
            let line: String = line.chars().take(20).collect();
            format!("{TRUTH}, line {}: {line:?} is no class of {META}", number + 1)
        })
    };
    let truth = text.lines().enumerate().map(line).collect::<Result<Vec<u32>, String>>()?;
    Ok(Labels { classes, truth })
}

/// (ILSVRC id, WordNet id) of the synsets that have no children, sorted: the classes.
fn synsets(meta: &[u8]) -> Result<Vec<(u32, String)>, String> {
    let mut synsets = Vec::new();
    matlab::struct_array(meta, "synsets", &mut |record| {
        if let Some(other) = record.fields.iter().find(|name| name.starts_with("ILSVRC") && **name != ID) {
            return Err(format!("it is that of another year: it has {other}, expected {ID}"));
        }
        let wnid = record.text("WNID").filter(|wnid| is_wnid(wnid));
        let (Some(id), Some(wnid), Some(children)) = (record.number(ID), wnid, record.number("num_children")) else {
            return Err("a synset has no usable id, name and number of children".to_owned());
        };
        if children == 0.0 {
            synsets.push((id as u32, wnid));
        }
        if synsets.len() > MOST_SYNSETS {
            return Err(format!("it has more than {MOST_SYNSETS} classes"));
        }
        Ok(())
    })?;
    synsets.sort();
    match synsets.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        Some(pair) => Err(format!("{ID} {} comes twice", pair[0].0)),
        None => Ok(synsets),
    }
}

/// n and eight digits.
pub(super) fn is_wnid(name: &str) -> bool {
    name.len() == 9 && name.starts_with('n') && name.bytes().skip(1).all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imagenet::synthetic::meta_mat;

    fn wnids() -> Vec<String> {
        ["n00000003", "n00000001", "n00000002"].map(String::from).into()
    }

    #[test]
    fn labels_are_places_among_the_sorted_names() {
        let meta = meta_mat(&wnids(), ID);
        let found = labels(&meta, b"1\n3\n2\n1\n").unwrap();
        assert_eq!(found.classes, ["n00000001", "n00000002", "n00000003"]);
        // The kit's first class, n00000003, is the last by name.
        assert_eq!(found.truth, [2, 1, 0, 2]);
    }

    #[test]
    fn other_years_and_damaged_files_are_named() {
        let meta = meta_mat(&wnids(), ID);
        let refused = |meta: &[u8], truth: &[u8]| labels(meta, truth).unwrap_err();
        let of_2010 = refused(&meta_mat(&wnids(), "ILSVRC2010_ID"), b"1\n");
        assert_eq!(of_2010, "data/meta.mat: it is that of another year: it has ILSVRC2010_ID, expected ILSVRC2012_ID");
        let beyond = refused(&meta, b"1\n4\n");
        assert!(beyond.ends_with("ground_truth.txt, line 2: \"4\" is no class of data/meta.mat"), "{beyond}");
        assert!(refused(&meta, b"1\n\xFF").ends_with("it is no text"));
        assert!(refused(&meta[..300], b"1\n").contains("meta.mat: it ends in the middle"));
        let twice = refused(&meta_mat(&["n00000001".into(), "n00000001".into()], ID), b"1\n");
        assert!(twice.ends_with("a class comes twice"), "{twice}");
        assert!(refused(&meta_mat(&["dog".into()], ID), b"1\n").contains("no usable id"));
    }

    #[test]
    fn a_kit_that_is_not_there_or_another_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = find(dir.path()).unwrap_err().to_string();
        assert!(error.contains("ILSVRC2012_devkit_t12.tar.gz, which holds the labels, is missing"), "{error}");
        std::fs::write(dir.path().join("ILSVRC2010_devkit-1.0.tar.gz"), "").unwrap();
        let error = find(dir.path()).unwrap_err().to_string();
        assert!(error.contains("and there is only ILSVRC2010_devkit-1.0.tar.gz"), "{error}");
        let kit = dir.path().join("ILSVRC2012_devkit_t12.tar.gz");
        std::fs::write(&kit, "no gzip").unwrap();
        assert!(read(&find(dir.path()).unwrap()).unwrap_err().to_string().contains("devkit_t12.tar.gz"));
    }
}
