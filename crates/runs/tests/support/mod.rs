//! What the tests of runs on images and on text share: folders, options, and copies of a run after each of its steps.

use std::fs;
use std::path::{Path, PathBuf};

use darts_runs::{Outcome, Progress, RunOptions, StepEvent, Summary};

/// A folder in memory where there is one: these tests sync many files.
pub(crate) fn tempdir() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

/// So many threads, a checkpoint every other step, and whatever is there is continued.
pub(crate) fn options(threads: usize) -> RunOptions {
    RunOptions { threads: Some(threads), checkpoint_every: Some(2), resume: true, ..RunOptions::default() }
}

/// The summary of a run that has to be finished.
pub(crate) fn finished(outcome: Outcome) -> Summary {
    match outcome {
        Outcome::Finished(summary) => summary,
        Outcome::Stopped(stopped) => panic!("{stopped:?}"),
    }
}

/// The files of a search that are the same, byte for byte, for the same seed.
pub(crate) fn results(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    ["genotype.json", "alphas.jsonl", "weights.safetensors"]
        .iter()
        .map(|name| (name.into(), fs::read(dir.join(name)).unwrap()))
        .collect()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (entry, name) = (entry.as_ref().unwrap(), entry.as_ref().unwrap().file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to.join(name)),
            false => drop(fs::copy(entry.path(), to.join(name)).unwrap()),
        }
    }
}

/// Copies the folder after every step: what a process killed there would leave.
pub(crate) struct Snapshots {
    run: PathBuf,
    copies: PathBuf,
    /// The steps after which there are copies, each in a folder of that name.
    pub(crate) steps: Vec<u64>,
}

impl Snapshots {
    /// Of the run in `run`, into folders in `copies`.
    pub(crate) fn new(run: &Path, copies: &Path) -> Self {
        Self { run: run.into(), copies: copies.into(), steps: vec![] }
    }
}

impl Progress for Snapshots {
    fn step(&mut self, event: &StepEvent<'_>) {
        copy(&self.run, &self.copies.join(event.done.to_string()));
        self.steps.push(event.done);
    }
}
