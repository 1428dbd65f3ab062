//! The one error type of the crate. Every message is a single line that names the file or the setting, the value found,
//! and what to do about it, so that a caller can print it as it is. This file formats; it recovers from nothing.

use std::io;
use std::path::{Path, PathBuf};

use crate::config::RunKind;

/// What can go wrong with a run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read, written or replaced.
    #[error("cannot {action} {}: {source}{}", path.display(), hint(action, source))]
    Io {
        /// What was tried, as a verb: "write", "read", "create folder".
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// Another process holds the run folder's lock.
    #[error("{} is in use by another process; wait for it to end, or choose another --out", dir.display())]
    Locked {
        /// The run folder.
        dir: PathBuf,
    },
    /// The folder holds a run, and resuming was not asked for.
    #[error("{} already holds a run ({}); continue it with --resume, or choose another --out", dir.display(), found)]
    Exists {
        /// The run folder.
        dir: PathBuf,
        /// The file that gave it away.
        found: &'static str,
    },
    /// The folder holds a run of another kind: a search is not resumed as a training.
    #[error("{} holds a {found} of {found_task}, not a {wanted} of {wanted_task}; choose another --out", dir.display())]
    OtherRun {
        /// The run folder.
        dir: PathBuf,
        /// The kind that is there.
        found: RunKind,
        /// The task that is there.
        found_task: String,
        /// The kind that was asked for.
        wanted: RunKind,
        /// The task that was asked for.
        wanted_task: String,
    },
    /// The run in the folder was made with another configuration.
    #[error("{} was made with another configuration: {field} was {stored}, now {given}{}; resume with the same settings, or choose another --out", dir.display(), more(*others))]
    ConfigDiffers {
        /// The run folder.
        dir: PathBuf,
        /// The first setting that differs.
        field: String,
        /// Its value in the run.
        stored: String,
        /// Its value now.
        given: String,
        /// How many more settings differ.
        others: usize,
    },
    /// The data found differs from the data that the run was started on.
    #[error("{} was started on data with {field} = {stored}, but {field} = {given} was found; point --data at the same data", dir.display())]
    DataDiffers {
        /// The run folder.
        dir: PathBuf,
        /// What differs.
        field: String,
        /// Its value in the run.
        stored: String,
        /// Its value now.
        given: String,
    },
    /// A file of the run does not say what it should.
    #[error("{} is not usable: {reason}", path.display())]
    BadFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Every checkpoint is damaged.
    #[error("no checkpoint in {} is usable (newest: {reason}); delete the run folder to start again", dir.display())]
    NoUsableCheckpoint {
        /// The checkpoint folder.
        dir: PathBuf,
        /// What is wrong with the newest one.
        reason: String,
    },
    /// A file that the run appends to was removed, replaced or changed by somebody else.
    #[error("{} {what} while the run was using it; the last checkpoint is intact: run again with --resume", path.display())]
    Disturbed {
        /// The file.
        path: PathBuf,
        /// What happened to it.
        what: String,
    },
    /// A setting is out of range.
    #[error("{field} = {value} is not possible: expected {expected}")]
    Config {
        /// The setting, named as in the configuration.
        field: &'static str,
        /// Its value.
        value: String,
        /// What is allowed.
        expected: String,
    },
    /// A loss or a gradient is no longer a number.
    #[error("the {which} became {value} at step {step} (epoch {epoch}) with learning rate {learning_rate}; {}; lower --learning-rate", last_good(checkpoint.as_deref()))]
    NonFinite {
        /// What: "training loss", "validation loss", "gradient norm".
        which: String,
        /// Its value.
        value: f64,
        /// The epoch, from 0.
        epoch: usize,
        /// The step, counted from 1 over the whole run.
        step: u64,
        /// The learning rate of that step.
        learning_rate: f64,
        /// The last checkpoint written before.
        checkpoint: Option<PathBuf>,
    },
    /// The run has not got far enough for what was asked.
    #[error("{} {reason}", dir.display())]
    NotReady {
        /// The run folder.
        dir: PathBuf,
        /// What is missing, and the remedy.
        reason: String,
    },
    /// A genotype was named that nobody knows.
    #[error("no genotype {text}: it is {reason}")]
    Genotype {
        /// What was typed.
        text: String,
        /// Why it is none.
        reason: String,
    },
    /// The device is not available.
    #[error("device {device} is not available: {reason}")]
    Device {
        /// The device asked for.
        device: String,
        /// Why not.
        reason: String,
    },
    /// The worker threads could not be started.
    #[error("cannot start {threads} worker threads: {reason}")]
    Threads {
        /// How many were asked for.
        threads: usize,
        /// The operating system's answer.
        reason: String,
    },
    /// A step failed for another reason.
    #[error("a step failed: {0}")]
    Step(String),
    /// A dataset could not be read.
    #[error(transparent)]
    Data(#[from] darts_data::Error),
    /// A GPU failed, or has not the memory.
    #[error(transparent)]
    Gpu(#[from] darts_cuda::Error),
    /// A flat vector could not be used.
    #[error(transparent)]
    Vector(#[from] darts_ops::vector::Error),
    /// A search or an optimizer could not be set up.
    #[error(transparent)]
    Bilevel(#[from] darts_bilevel::Error),
    /// Training the network takes more memory than there is.
    #[error(
        "training this network at batch size {batch} takes about {needed:.1} GB of memory, and the machine has {available:.1} GB; lower {remedy}"
    )]
    Memory {
        /// Examples in a batch.
        batch: usize,
        /// What it takes, 10⁹ bytes.
        needed: f64,
        /// What the machine has, 10⁹ bytes.
        available: f64,
        /// The settings to lower.
        remedy: &'static str,
    },
    /// A run takes more of a GPU's memory than is free.
    #[error(
        "this needs {} of GPU memory, {} of {} are free: {remedy}",
        darts_cuda::error::bytes(*needed), darts_cuda::error::bytes(*free), darts_cuda::error::bytes(*total)
    )]
    DeviceMemory {
        /// Bytes that it takes.
        needed: usize,
        /// Bytes that are free.
        free: usize,
        /// Bytes of the device.
        total: usize,
        /// What to do.
        remedy: String,
    },
    /// A network could not be built or evaluated.
    #[error(transparent)]
    Cells(#[from] darts_cells::Error),
}

/// The result of everything here.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Io { action, path, source }
    }

    pub(crate) fn bad_file(path: impl AsRef<Path>, reason: impl ToString) -> Self {
        Self::BadFile { path: path.as_ref().to_path_buf(), reason: one_line(&reason.to_string()) }
    }
}

/// Foreign messages may span lines; ours never do.
pub(crate) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn hint(action: &str, source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; what was saved before is intact: free some space, then run again with --resume"
        }
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied if action != "read" => {
            "; choose an --out that this user may write to"
        }
        _ => "",
    }
}

fn more(others: usize) -> String {
    match others {
        0 => String::new(),
        1 => " (and 1 more setting differs)".into(),
        n => format!(" (and {n} more settings differ)"),
    }
}

fn last_good(checkpoint: Option<&Path>) -> String {
    match checkpoint {
        Some(path) => format!("the last good checkpoint is {}", path.display()),
        None => "nothing had been saved yet".into(),
    }
}
