//! What is learned: data, network and loss together. A task knows nothing of folders, checkpoints and files' names; it is
//! driven by [`Searcher`](crate::search::Searcher) or [`Trainer`](crate::train::Trainer). There are two kinds: images with
//! convolutional networks, text with recurrent ones.

pub(crate) mod image;
pub(crate) mod text;

use darts_bilevel::BilevelProblem;
use darts_cells::genotype::Genotype;
use darts_ops::vector::Vector;
use serde_json::Value;

use crate::engine::Watch;
use crate::error::{Error, Result};

/// Named vectors of a task's own state, such as running statistics.
pub(crate) type Vectors = Vec<(String, Vec<f32>)>;

/// What a validation or a test found.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Scores {
    /// Mean cross-entropy in nats.
    pub(crate) loss: f64,
    /// Share of the examples that are right, where that is how the task is measured.
    pub(crate) accuracy: Option<f64>,
    /// Share of the examples whose class is not among the five likeliest.
    pub(crate) top5_error: Option<f64>,
    /// e to the loss, where that is how the task is measured.
    pub(crate) perplexity: Option<f64>,
    /// How many examples.
    pub(crate) examples: usize,
}

/// The examples of the last weight pass.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Seen {
    /// How many.
    pub(crate) examples: u64,
    /// How many of them were right, where that means something.
    pub(crate) correct: Option<u64>,
    /// Mean negative log-likelihood of a language model, which its loss has regularizers beside.
    pub(crate) likelihood: Option<f64>,
}

/// The size of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    /// Parameters without an auxiliary head and α.
    pub(crate) parameters: u64,
    /// Parameters with the auxiliary head, where there is one.
    pub(crate) parameters_with_auxiliary: Option<u64>,
    /// Multiply-adds for one example.
    pub(crate) multiply_adds: u64,
}

/// A task's part that searches and trainings share.
pub(crate) trait Task: Send {
    /// What one step reads.
    type Batch;

    /// Steps of an epoch.
    fn steps(&self, epoch: usize) -> usize;
    /// Prepares for the batches of `epoch` from `step` on; `total` steps were done in the whole run.
    fn start(&mut self, epoch: usize, step: usize, total: u64) -> Result<()>;
    /// The learning rate of the weights for a batch of this epoch.
    fn learning_rate(&self, epoch: usize, batch: &Self::Batch) -> f64;
    /// What the last weight pass saw.
    fn seen(&self) -> Seen;
    /// The state besides w and α that the next step depends on.
    fn state(&self) -> Vectors;
    /// Takes up such a state, given under the same names and of the same lengths.
    fn restore(&mut self, state: Vectors);
    /// The network's size.
    fn size(&self) -> Size;
}

/// A task as a bilevel problem.
pub(crate) trait SearchTask: Task + BilevelProblem<Batch = <Self as Task>::Batch, Error = Error> {
    /// The next training and validation batch.
    fn next(&mut self) -> Result<(<Self as Task>::Batch, <Self as Task>::Batch)>;
    /// Evaluates (w, α) on the validation data; None when `watch` asked to stop.
    fn validate(&mut self, w: &Vector, alpha: &Vector, watch: &mut Watch<'_>) -> Result<Option<Scores>>;
    /// The discrete cell that α stands for.
    fn genotype(&self, alphas: &[f32]) -> Result<Genotype>;
    /// α as a line of `alphas.jsonl`.
    fn alphas_line(&self, epoch: usize, alphas: &[f32]) -> Value;
    /// The contents of `weights.safetensors`.
    fn weights(&self, w: &[f32], alphas: &[f32]) -> Result<Vec<u8>>;
}

/// A task as the training of a discrete network.
pub(crate) trait TrainTask: Task {
    /// The next batch.
    fn next(&mut self) -> Result<Self::Batch>;
    /// The loss at `w` on `batch`, as step `step` of `epoch`, and its gradient, overwritten.
    fn evaluate(&mut self, w: &Vector, batch: &Self::Batch, at: (usize, usize), gradient: &mut Vector) -> Result<f64>;
    /// Evaluates w on the held-out data; None when `watch` asked to stop, Some(None) when nothing is held out.
    fn validate(&mut self, w: &Vector, watch: &mut Watch<'_>) -> Result<Option<Option<Scores>>>;
    /// Evaluates w on the test data, as above; a run that holds data out leaves the test data alone.
    fn test(&mut self, w: &Vector, watch: &mut Watch<'_>) -> Result<Option<Option<Scores>>>;
    /// The cell that is trained.
    fn genotype(&self) -> Genotype;
    /// The contents of `weights.safetensors`.
    fn weights(&self, w: &[f32]) -> Result<Vec<u8>>;
}
