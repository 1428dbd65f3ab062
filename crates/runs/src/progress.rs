//! What a run tells whoever started it, while it runs. A caller implements [`Progress`] to draw bars or print lines; `()`
//! listens to nothing. Nothing here decides anything, but for [`Progress::should_stop`].

use std::path::PathBuf;

use crate::config::RunKind;
use crate::metrics::{EpochMetrics, StepMetrics};

/// How important a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Worth knowing.
    Info,
    /// Something was wrong and the run went on: a damaged checkpoint that was skipped.
    Warning,
}

/// A run begins or goes on.
#[derive(Clone, Debug)]
pub struct Started {
    /// Search or training.
    pub kind: RunKind,
    /// The run folder.
    pub dir: PathBuf,
    /// Epochs of the whole run.
    pub epochs: usize,
    /// Steps of the whole run.
    pub steps: u64,
    /// Steps done before, when the run was resumed.
    pub done: u64,
}

/// A step is done.
#[derive(Clone, Copy, Debug)]
pub struct StepEvent<'a> {
    /// Epochs of the whole run.
    pub epochs: usize,
    /// The step within its epoch, from 1.
    pub step: usize,
    /// Steps of this epoch.
    pub steps: usize,
    /// Steps done since the run began.
    pub done: u64,
    /// Steps of the whole run.
    pub total: u64,
    /// What was measured; its `epoch` counts from 0.
    pub metrics: &'a StepMetrics,
}

/// Listens to a run.
pub trait Progress: Send {
    /// The run begins or goes on.
    fn started(&mut self, _event: &Started) {}
    /// A step is done.
    fn step(&mut self, _event: &StepEvent<'_>) {}
    /// `done` of `of` examples of the set called `what` are evaluated.
    fn evaluating(&mut self, _what: &str, _done: usize, _of: usize) {}
    /// An epoch is done.
    fn epoch(&mut self, _metrics: &EpochMetrics) {}
    /// One line for a person.
    fn message(&mut self, _level: Level, _text: &str) {}
    /// Asked after each step and each evaluated batch: true ends the run cleanly, with a checkpoint.
    fn should_stop(&self) -> bool {
        false
    }
}

impl Progress for () {}
