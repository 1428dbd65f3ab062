//! What a run measures, as lines of `metrics.jsonl` and `alphas.jsonl` and as `summary.json`. Losses are in nats,
//! accuracies and errors are fractions from 0 to 1, times are wall seconds.

use std::fs;
use std::path::Path;

use darts_cells::genotype::Genotype;
use serde::{Deserialize, Serialize};

use crate::config::RunKind;
use crate::error::{Error, Result};

/// The file of step and epoch lines.
pub(crate) const METRICS: &str = "metrics.jsonl";
/// The file of α after each epoch.
pub(crate) const ALPHAS: &str = "alphas.jsonl";
/// The file that says that a run is finished.
pub(crate) const SUMMARY: &str = "summary.json";

/// A line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Metric {
    /// One logged step.
    Step(StepMetrics),
    /// One epoch.
    Epoch(EpochMetrics),
}

/// One step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// The epoch, from 0.
    pub epoch: usize,
    /// The step, counted from 1 over the whole run.
    pub step: u64,
    /// Loss of the weight step's batch; of a language model without its regularizers.
    pub train_loss: f64,
    /// Share of that batch that was right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_accuracy: Option<f64>,
    /// Loss of the α step's batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_loss: Option<f64>,
    /// Learning rate of the weights.
    pub lr: f64,
    /// Norm of the weights' gradient before clipping.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grad_norm: Option<f64>,
    /// What this step took.
    pub seconds: f64,
}

/// One epoch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EpochMetrics {
    /// The epoch, from 0.
    pub epoch: usize,
    /// Mean loss of its weight steps; of a language model without its regularizers.
    pub train_loss: f64,
    /// Share of its training examples that were right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_accuracy: Option<f64>,
    /// Loss on the validation data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_loss: Option<f64>,
    /// Share of the validation examples that are right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_accuracy: Option<f64>,
    /// e to the validation loss, for language models.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_perplexity: Option<f64>,
    /// Learning rate of the weights.
    pub lr: f64,
    /// The cell so far, in a search.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub genotype: Option<Genotype>,
    /// What the epoch took, its validation included.
    pub seconds: f64,
    /// What of it the steps took.
    #[serde(default)]
    pub step_seconds: f64,
    /// What of that they waited for their data. On a GPU: while it had nothing to do.
    #[serde(default)]
    pub waited_seconds: f64,
    /// Training images a second, over the steps alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images_per_second: Option<f64>,
    /// The same in tokens, for language models.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_second: Option<f64>,
}

impl EpochMetrics {
    /// The share of the steps' time that they waited for their data; None where no time is known.
    pub fn waited_share(&self) -> Option<f64> {
        (self.step_seconds > 0.0).then(|| self.waited_seconds / self.step_seconds)
    }
}

/// `summary.json`: what a finished run found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Search or training.
    pub kind: RunKind,
    /// The cell that was found or trained.
    pub genotype: Genotype,
    /// Epochs.
    pub epochs: usize,
    /// Steps.
    pub steps: u64,
    /// The last epoch's mean training loss.
    pub train_loss: f64,
    /// The last epoch's training accuracy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_accuracy: Option<f64>,
    /// The last epoch's results on validation data and, for a training on all of the training data, the test results.
    #[serde(flatten)]
    pub results: Results,
    /// Parameters, without an auxiliary head and α.
    pub parameters: u64,
    /// Parameters with the auxiliary head, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters_with_auxiliary: Option<u64>,
    /// Multiply-adds of convolutions and matrix products for one example: an image or a token.
    pub multiply_adds: u64,
    /// What the run took, interruptions not counted.
    pub wall_seconds: f64,
    /// Largest resident memory of a process that worked on it.
    pub peak_memory_bytes: u64,
    /// Most bytes that such a process had allocated on a GPU, where one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_device_bytes: Option<u64>,
}

/// Final results; what does not apply is absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// Loss on the validation data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_loss: Option<f64>,
    /// Accuracy on the validation data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_accuracy: Option<f64>,
    /// 1 − valid_accuracy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_error: Option<f64>,
    /// e to the validation loss, for language models.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_perplexity: Option<f64>,
    /// Loss on the test data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_loss: Option<f64>,
    /// Accuracy on the test data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_accuracy: Option<f64>,
    /// 1 − test_accuracy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_error: Option<f64>,
    /// Share of the test examples whose class is not among the five likeliest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_top5_error: Option<f64>,
    /// e to the test loss, for language models.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_perplexity: Option<f64>,
}

/// The lines of a run's `metrics.jsonl`. A last line without its end is left out: the run is writing it.
///
/// # Errors
/// When the file cannot be read, or a whole line says something else.
pub fn read_metrics(dir: &Path) -> Result<Vec<Metric>> {
    let path = dir.join(METRICS);
    let text = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole
        .lines()
        .enumerate()
        .map(|(i, line)| serde_json::from_str(line).map_err(|e| Error::bad_file(&path, format!("line {}: {e}", i + 1))))
        .collect()
}

/// A run's `summary.json`, or None while it is not finished.
///
/// # Errors
/// When the file is there and is no summary.
pub fn read_summary(dir: &Path) -> Result<Option<Summary>> {
    let path = dir.join(SUMMARY);
    match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|e| Error::bad_file(&path, e)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("read", &path)(error)),
    }
}
