//! Training a discrete network on a device, for any task.

use std::time::Instant;

use darts_bilevel::optimizer::SgdConfig;
use darts_cells::genotype::Genotype;
use darts_cuda::{Backend, Memory, Precision};

use super::weights::DeviceWeights;
use super::{DeviceTrainTask, Gpu};
use crate::checkpoint::State;
use crate::engine::{EpochOutcome, Finish, Learner, StepOutcome, Watch};
use crate::error::Result;
use crate::train::test_results;
use crate::weights::AverageAfter;

/// The training of a discrete network on a device, as something that learns step by step.
pub(crate) struct DeviceTrainer<T: DeviceTrainTask> {
    task: T,
    weights: DeviceWeights<T::Batch>,
    epochs: usize,
    at: (usize, usize),
    // Last, for the others' memory lies on it.
    device: Box<dyn Gpu>,
}

/// How a training on a device goes.
pub(crate) struct Settings {
    pub(crate) sgd: SgdConfig,
    pub(crate) average: Option<AverageAfter>,
    pub(crate) clip: f64,
    pub(crate) epochs: usize,
    pub(crate) precision: Precision,
}

impl<T: DeviceTrainTask> DeviceTrainer<T> {
    pub(crate) fn new(device: Box<dyn Gpu>, task: T, w: &[f32], settings: Settings) -> Result<Self> {
        let Settings { sgd, average, clip, epochs, precision } = settings;
        let weights = DeviceWeights::new(&*device, w, sgd, average, clip, precision)?;
        Ok(Self { task, weights, epochs, at: (0, 0), device })
    }

    /// Bytes of device memory that so many weights take in training, but for a few numbers.
    pub(crate) fn bytes(weights: usize, sgd: SgdConfig, averages: bool) -> u64 {
        DeviceWeights::<T::Batch>::bytes(weights, sgd, averages)
    }
}

impl<T> Learner for DeviceTrainer<T>
where
    T: DeviceTrainTask,
    T::Batch: Send,
{
    fn epochs(&self) -> usize {
        self.epochs
    }

    fn steps(&self, epoch: usize) -> usize {
        self.task.steps(epoch)
    }

    fn start(&mut self, epoch: usize, step: usize) -> Result<()> {
        self.at = (epoch, step);
        self.task.start(&*self.device, epoch, step, self.weights.steps())
    }

    fn step(&mut self) -> Result<StepOutcome> {
        let device = &*self.device as &dyn Backend;
        let begin = Instant::now();
        let batch = self.task.next(device, self.at)?;
        let waited = begin.elapsed();
        let learning_rate = self.task.learning_rate(self.at.0);
        self.weights.launch(device, &self.task, &batch, learning_rate)?;
        self.task.ahead(device);
        let report = self.weights.report(device)?;
        self.at.1 += 1;
        let seen = self.task.seen(&batch, report.measure);
        // The engine stops at what is not finite; the weights stay those of the last good step.
        let likelihood = seen.likelihood.filter(|_| report.is_finite());
        Ok(StepOutcome {
            train_loss: likelihood.unwrap_or(report.loss),
            valid_loss: None,
            correct: seen.correct,
            examples: seen.examples,
            learning_rate,
            grad_norm: report.grad_norm,
            waited,
        })
    }

    fn end_epoch(&mut self, _epoch: usize, watch: &mut Watch<'_>) -> Result<Option<EpochOutcome>> {
        let w = self.weights.evaluated(&*self.device)?;
        let Some(scores) = self.task.validate(&*self.device, w, watch)? else { return Ok(None) };
        self.weights.end_epoch(scores.map(|s| s.loss))?;
        Ok(Some(EpochOutcome::new(scores, None)))
    }

    fn genotype(&self) -> Result<Genotype> {
        Ok(self.task.genotype())
    }

    fn state(&self) -> Result<State> {
        self.weights.state(&*self.device, &self.task.state())
    }

    fn restore(&mut self, state: State) -> std::result::Result<(), String> {
        self.weights.restore(&*self.device, state, &self.task.state())?;
        self.task.restored();
        Ok(())
    }

    fn device_bytes(&self) -> Option<u64> {
        Some(self.device.allocated_bytes())
    }

    fn finish(&mut self, watch: &mut Watch<'_>) -> Result<Option<Finish>> {
        let w = self.weights.evaluated(&*self.device)?;
        let Some(test) = self.task.test(&*self.device, w, watch)? else { return Ok(None) };
        let w = self.device.downloaded(w)?;
        let weights = self.task.weights(&*self.device, &w)?;
        Ok(Some(Finish::new(weights, test_results(test), self.task.size())))
    }
}
