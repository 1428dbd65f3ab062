//! Runs on a GPU: the learners that drive a task whose passes are programs. They are the twins of those on the processor
//! ([`Searcher`](crate::search::Searcher), [`Trainer`](crate::train::Trainer)): the same data by the same generators, the same
//! files, and checkpoints from which either goes on. What they refuse is to compute on the host what depends on a weight, but for
//! the scores of a validation.

pub(crate) mod memory;
pub(crate) mod search;
pub(crate) mod train;
mod weights;

use darts_bilevel::device::DeviceProblem;
use darts_cells::genotype::Genotype;
use darts_cuda::driver::Device;
use darts_cuda::{Backend, View};
use serde_json::Value;

use crate::engine::Watch;
use crate::error::Result;
use crate::task::{Scores, Seen, Size};

/// A device that a learner can be moved between threads with.
pub(crate) trait Gpu: Backend + Send {
    /// Bytes that were allocated on it, all in all.
    fn allocated_bytes(&self) -> u64;
}

impl Gpu for Device {
    fn allocated_bytes(&self) -> u64 {
        Device::allocated_bytes(self)
    }
}

/// A task's part that searches and trainings on a device share: the twin of [`Task`](crate::task::Task).
pub(crate) trait DeviceTask: DeviceProblem<Error = darts_cells::Error> + Send {
    /// Steps of an epoch.
    fn steps(&self, epoch: usize) -> usize;
    /// Prepares for the batches of `epoch` from `step` on; `total` steps were done in the whole run.
    fn start(&mut self, device: &dyn Backend, epoch: usize, step: usize, total: u64) -> Result<()>;
    /// Sends the data of the next step, if they are there in time, while the device is at this one. What goes wrong with them is
    /// the next step's.
    fn ahead(&mut self, _device: &dyn Backend) {}
    /// The learning rate of the weights for the batch that was sent last, of this epoch.
    fn learning_rate(&self, epoch: usize) -> f64;
    /// What a weight pass on `batch` saw that wrote `measure` beside its loss.
    fn seen(&self, batch: &Self::Batch, measure: f64) -> Seen;
    /// The state besides w and α that the next step depends on, in device memory.
    fn state(&self) -> Vec<(&'static str, View)>;
    /// Forgets where it was in its data: its state was overwritten.
    fn restored(&mut self);
    /// The network's size.
    fn size(&self) -> Size;
}

/// A task as a bilevel problem on a device: the twin of [`SearchTask`](crate::task::SearchTask).
pub(crate) trait DeviceSearchTask: DeviceTask {
    /// Sends the next training and validation batch.
    fn next(&mut self, device: &dyn Backend) -> Result<(Self::Batch, Self::Batch)>;
    /// Evaluates (w, α) on the validation data; None when `watch` asked to stop.
    fn validate(&mut self, device: &dyn Backend, at: (View, View), watch: &mut Watch<'_>) -> Result<Option<Scores>>;
    /// The discrete cell that α stands for.
    fn genotype(&self, alphas: &[f32]) -> Result<Genotype>;
    /// α as a line of `alphas.jsonl`.
    fn alphas_line(&self, epoch: usize, alphas: &[f32]) -> Value;
    /// The contents of `weights.safetensors`.
    fn weights(&self, device: &dyn Backend, w: &[f32], alphas: &[f32]) -> Result<Vec<u8>>;
}

/// A task as the training of a discrete network on a device: the twin of [`TrainTask`](crate::task::TrainTask). Its evaluations have
/// no α.
pub(crate) trait DeviceTrainTask: DeviceTask {
    /// Sends the next batch, of step `step` of `epoch`.
    fn next(&mut self, device: &dyn Backend, at: (usize, usize)) -> Result<Self::Batch>;
    /// Evaluates w on the held-out data; None when `watch` asked to stop, Some(None) when nothing is held out.
    fn validate(&mut self, device: &dyn Backend, w: View, watch: &mut Watch<'_>) -> Result<Option<Option<Scores>>>;
    /// Evaluates w on the test data, as above; a run that holds data out leaves the test data alone.
    fn test(&mut self, device: &dyn Backend, w: View, watch: &mut Watch<'_>) -> Result<Option<Option<Scores>>>;
    /// The cell that is trained.
    fn genotype(&self) -> Genotype;
    /// The contents of `weights.safetensors`.
    fn weights(&self, device: &dyn Backend, w: &[f32]) -> Result<Vec<u8>>;
}
