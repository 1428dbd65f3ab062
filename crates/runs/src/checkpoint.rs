//! Checkpoints: everything that a run needs to go on as if it had never been interrupted, in one file each. A checkpoint is
//! written whole to a new file, synced and renamed, and carries a sha256 of itself; the last two are kept, and a damaged
//! one is skipped with a warning that names it. Nothing random is stored: every random number is keyed by its step.
//!
//! ```text
//! "DARTSCP1" | u64 header length | header (JSON) | f32 vectors, one after the other | sha256 of all that precedes
//! ```
//! All numbers are little-endian. The reader trusts nothing: lengths are checked against the file's size before anything is
//! allocated, and a file that does not add up is an error, never a panic.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::folder::atomic;

const MAGIC: &[u8; 8] = b"DARTSCP1";
const DIGEST: usize = 32;
const PREFIX: &str = "step-";
const SUFFIX: &str = ".ckpt";
const KEPT: usize = 2;

/// The learner's own state: what the search or the training needs besides its position.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct State {
    /// Integers by name, such as an optimizer's step count.
    pub(crate) counters: BTreeMap<String, u64>,
    /// Flat vectors by name: weights, momentum, α, moments, running statistics.
    pub(crate) vectors: Vec<(String, Vec<f32>)>,
}

impl State {
    /// Takes the vector called `name`, which must have `len` elements.
    ///
    /// # Errors
    /// A reason in words when it is missing or has another length.
    pub(crate) fn take(&mut self, name: &str, len: usize) -> std::result::Result<Vec<f32>, String> {
        let at = self.vectors.iter().position(|(n, _)| n == name).ok_or_else(|| format!("it has no vector {name}"))?;
        let (_, vector) = self.vectors.swap_remove(at);
        if vector.len() != len {
            return Err(format!("its vector {name} has {} elements, expected {len}", vector.len()));
        }
        Ok(vector)
    }
}

/// A run at one moment.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Checkpoint {
    /// Where the run is, and what it has measured so far.
    pub(crate) position: Position,
    /// Bytes of each appended file that belong to the run up to here.
    pub(crate) journals: BTreeMap<String, u64>,
    /// The learner's state.
    pub(crate) state: State,
}

/// Where a run is, and the sums that its next epoch line is made of.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Position {
    /// Epochs finished.
    pub(crate) epoch: usize,
    /// Steps done in the epoch under way.
    pub(crate) step: usize,
    /// Steps done since the run began.
    pub(crate) total: u64,
    /// Wall seconds spent in the epoch under way.
    pub(crate) epoch_seconds: f64,
    /// What of it the steps waited for their data.
    #[serde(default)]
    pub(crate) waited_seconds: f64,
    /// Wall seconds spent since the run began, interruptions not counted.
    pub(crate) seconds: f64,
    /// Largest resident memory of any process that worked on the run, bytes.
    pub(crate) peak_memory_bytes: u64,
    /// Most bytes that such a process had allocated on a GPU.
    #[serde(default)]
    pub(crate) peak_device_bytes: Option<u64>,
    /// Σ loss · examples over the epoch under way.
    #[serde(with = "bits")]
    pub(crate) loss_sum: f64,
    /// Examples right in the epoch under way.
    pub(crate) correct: u64,
    /// Examples seen in the epoch under way.
    pub(crate) examples: u64,
    /// Learning rate of the last step.
    #[serde(with = "bits")]
    pub(crate) learning_rate: f64,
}

/// An f64 as its bits, because reading a decimal number back may miss the last of them.
mod bits {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        value.to_bits().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        u64::deserialize(deserializer).map(f64::from_bits)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    position: Position,
    journals: BTreeMap<String, u64>,
    counters: BTreeMap<String, u64>,
    vectors: Vec<(String, u64)>,
}

/// Writes `checkpoint` into `dir` and removes all but the last two.
///
/// # Errors
/// When the disk is full or the folder is not writable; the checkpoints that were there stay.
pub(crate) fn write(dir: &Path, checkpoint: &Checkpoint) -> Result<PathBuf> {
    fs::create_dir_all(dir).map_err(Error::io("create folder", dir))?;
    let path = dir.join(format!("{PREFIX}{:010}-{:06}{SUFFIX}", checkpoint.position.total, checkpoint.position.epoch));
    atomic::write_with(&path, |out| encode(checkpoint, out))?;
    let others = list(dir)?;
    for old in others.iter().rev().filter(|p| **p != path).skip(KEPT - 1) {
        fs::remove_file(old).map_err(Error::io("remove", old))?;
    }
    Ok(path)
}

/// The checkpoint files in `dir`, oldest first; none when the folder is not there.
pub(crate) fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("read folder", dir)(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(Error::io("read folder", dir))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(PREFIX) && name.ends_with(SUFFIX) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The newest usable checkpoint of `dir` with its path, or None where nothing was saved yet. Each damaged one is handed to
/// `warn` as a line, and the one before it is used.
///
/// # Errors
/// [`Error::NoUsableCheckpoint`] when there are some and all are damaged.
pub(crate) fn latest(dir: &Path, mut warn: impl FnMut(&str)) -> Result<Option<(Checkpoint, PathBuf)>> {
    let mut newest_reason = None;
    for path in list(dir)?.into_iter().rev() {
        match read(&path) {
            Ok(checkpoint) => return Ok(Some((checkpoint, path))),
            Err(error) => {
                let reason = error.to_string();
                warn(&format!("{reason}; using the checkpoint before it"));
                newest_reason.get_or_insert(reason);
            }
        }
    }
    match newest_reason {
        Some(reason) => Err(Error::NoUsableCheckpoint { dir: dir.to_path_buf(), reason }),
        None => Ok(None),
    }
}

/// Gives every checkpoint that is newer than `used` another name, so that it neither counts among those kept nor is tried
/// again: [`latest`] found them damaged, and the run goes on from `used`.
pub(crate) fn set_aside_newer(dir: &Path, used: &Path) -> Result<()> {
    for newer in list(dir)?.into_iter().filter(|path| path.as_path() > used) {
        fs::rename(&newer, newer.with_extension("damaged")).map_err(Error::io("rename", &newer))?;
    }
    Ok(())
}

/// Reads one checkpoint.
///
/// # Errors
/// [`Error::BadFile`] naming what does not add up.
pub(crate) fn read(path: &Path) -> Result<Checkpoint> {
    let bytes = fs::read(path).map_err(Error::io("read", path))?;
    check_digest(&bytes).and_then(decode).map_err(|reason| Error::bad_file(path, reason))
}

/// Writes through a hash, so that the checksum needs no second pass over the vectors.
struct Hashing<'a, W> {
    out: &'a mut W,
    hash: Sha256,
}

impl<W: Write> Write for Hashing<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn encode(checkpoint: &Checkpoint, out: &mut impl Write) -> io::Result<()> {
    let header = serde_json::to_vec(&Header {
        position: checkpoint.position.clone(),
        journals: checkpoint.journals.clone(),
        counters: checkpoint.state.counters.clone(),
        vectors: checkpoint.state.vectors.iter().map(|(n, v)| (n.clone(), v.len() as u64)).collect(),
    })
    .map_err(io::Error::other)?;
    let mut out = Hashing { out, hash: Sha256::new() };
    out.write_all(MAGIC)?;
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    let mut block = Vec::with_capacity(4 * 4096);
    for (_, vector) in &checkpoint.state.vectors {
        for values in vector.chunks(4096) {
            block.clear();
            block.extend(values.iter().flat_map(|v| v.to_le_bytes()));
            out.write_all(&block)?;
        }
    }
    let digest = out.hash.finalize();
    out.out.write_all(&digest)
}

/// The bytes before the checksum, if the checksum is theirs.
fn check_digest(bytes: &[u8]) -> std::result::Result<&[u8], String> {
    let at = bytes.len().checked_sub(DIGEST).ok_or_else(|| format!("{} bytes are no checkpoint", bytes.len()))?;
    let (body, digest) = bytes.split_at(at);
    if Sha256::digest(body).as_slice() != digest {
        return Err("its checksum does not match: it is damaged or was not written to its end".into());
    }
    Ok(body)
}

/// Takes a checkpoint's body apart. Separate from the checksum so that tests reach it with damaged bodies.
fn decode(body: &[u8]) -> std::result::Result<Checkpoint, String> {
    let rest = body.strip_prefix(MAGIC).ok_or("it does not begin as a checkpoint does")?;
    let (len, rest) = rest.split_first_chunk::<8>().ok_or("it ends inside its header")?;
    let len = usize::try_from(u64::from_le_bytes(*len)).map_err(|_| "its header is too long")?;
    let (header, mut payload) = rest.split_at_checked(len).ok_or("its header is longer than the file")?;
    let header: Header = serde_json::from_slice(header).map_err(|e| format!("its header is no valid JSON: {e}"))?;
    let mut vectors = Vec::new();
    for (name, len) in header.vectors {
        let (values, rest) = usize::try_from(len)
            .ok()
            .and_then(|len| len.checked_mul(4))
            .and_then(|bytes| payload.split_at_checked(bytes))
            .ok_or_else(|| format!("its vector {name} of {len} elements is longer than the file"))?;
        let values = values.as_chunks::<4>().0.iter().map(|v| f32::from_le_bytes(*v)).collect();
        vectors.push((name, values));
        payload = rest;
    }
    if !payload.is_empty() {
        return Err(format!("{} bytes follow its last vector", payload.len()));
    }
    Ok(Checkpoint {
        position: header.position,
        journals: header.journals,
        state: State { counters: header.counters, vectors },
    })
}

#[cfg(test)]
mod tests;
