//! Searching on a device: Algorithm 1 over the epochs of a run, for any task.

use std::time::Instant;

use darts_bilevel as bilevel;
use darts_bilevel::device::DeviceSearch;
use darts_cells::genotype::Genotype;
use darts_cuda::{Backend, Memory, Precision};

use super::{DeviceSearchTask, Gpu};
use crate::checkpoint::State;
use crate::engine::{EpochOutcome, Finish, Learner, StepOutcome, Watch};
use crate::error::Result;
use crate::metrics::Results;
use crate::search::step_error;
use crate::state;

/// The search for a cell on a device, as something that learns step by step.
pub(crate) struct DeviceSearcher<T: DeviceSearchTask> {
    task: T,
    search: DeviceSearch<T::Batch>,
    epochs: usize,
    epoch: usize,
    // Last, for the others' memory lies on it.
    device: Box<dyn Gpu>,
}

impl<T: DeviceSearchTask> DeviceSearcher<T> {
    pub(crate) fn new(
        device: Box<dyn Gpu>,
        task: T,
        (w, alphas): (&[f32], &[f32]),
        settings: bilevel::SearchConfig,
        epochs: usize,
        precision: Precision,
    ) -> Result<Self> {
        let search = DeviceSearch::new(&*device, w, alphas, settings, precision)?;
        Ok(Self { task, search, epochs, epoch: 0, device })
    }

    fn alphas(&self) -> Result<Vec<f32>> {
        Ok(self.device.downloaded(self.search.alphas())?)
    }
}

impl<T> Learner for DeviceSearcher<T>
where
    T: DeviceSearchTask,
    T::Batch: Send,
{
    fn epochs(&self) -> usize {
        self.epochs
    }

    fn steps(&self, epoch: usize) -> usize {
        self.task.steps(epoch)
    }

    fn start(&mut self, epoch: usize, step: usize) -> Result<()> {
        self.epoch = epoch;
        self.task.start(&*self.device, epoch, step, self.search.steps())
    }

    fn step(&mut self) -> Result<StepOutcome> {
        let device = &*self.device as &dyn Backend;
        let begin = Instant::now();
        let (train, valid) = self.task.next(device)?;
        let waited = begin.elapsed();
        let learning_rate = self.task.learning_rate(self.epoch);
        self.search.launch(device, &self.task, &train, &valid, learning_rate).map_err(step_error)?;
        self.task.ahead(device);
        let report = self.search.report::<darts_cells::Error>(device).map_err(step_error)?;
        let seen = self.task.seen(&train, report.measure);
        Ok(StepOutcome {
            train_loss: seen.likelihood.unwrap_or(report.step.train_loss),
            valid_loss: Some(report.step.valid_loss),
            correct: seen.correct,
            examples: seen.examples,
            learning_rate,
            grad_norm: report.step.grad_norm,
            waited,
        })
    }

    fn end_epoch(&mut self, epoch: usize, watch: &mut Watch<'_>) -> Result<Option<EpochOutcome>> {
        let at = (self.search.weights(), self.search.alphas());
        let Some(scores) = self.task.validate(&*self.device, at, watch)? else { return Ok(None) };
        Ok(Some(EpochOutcome::new(Some(scores), Some(self.task.alphas_line(epoch, &self.alphas()?)))))
    }

    fn genotype(&self) -> Result<Genotype> {
        self.task.genotype(&self.alphas()?)
    }

    fn state(&self) -> Result<State> {
        let device = &*self.device as &dyn Backend;
        let task = state::read_views(device, &self.task.state())?;
        Ok(state::gather(self.search.vectors(device)?, self.search.counters(device)?, task))
    }

    fn restore(&mut self, mut state: State) -> std::result::Result<(), String> {
        let device = &*self.device as &dyn Backend;
        let views = self.task.state();
        let own = state::take_views(&mut state, &views)?;
        let (vectors, counters) = state::borrowed(&state);
        self.search.restore(device, &vectors, &counters).map_err(|error| error.to_string())?;
        state::write_views(device, &views, &own)?;
        self.task.restored();
        Ok(())
    }

    fn device_bytes(&self) -> Option<u64> {
        Some(self.device.allocated_bytes())
    }

    fn finish(&mut self, _watch: &mut Watch<'_>) -> Result<Option<Finish>> {
        let w = self.device.downloaded(self.search.weights())?;
        let weights = self.task.weights(&*self.device, &w, &self.alphas()?)?;
        Ok(Some(Finish::new(weights, Results::default(), self.task.size())))
    }
}
