//! The search for a convolutional cell on a device, step by step: the twin of [`Searcher`](crate::search::Searcher) over images.
//! Its checkpoints are those of its twin, so that a run goes on wherever it began.

use std::time::Instant;

use darts_bilevel as bilevel;
use darts_bilevel::device::DeviceSearch;
use darts_cells::genotype::Genotype;
use darts_cuda::{Backend, Memory, Program, Recording, View};
use darts_data::{Augment, Loader};

use super::feed::{DeviceBatch, Feed, send};
use super::supernet::DeviceSupernet;
use crate::checkpoint::State;
use crate::config::SearchConfig;
use crate::engine::{EpochOutcome, Finish, Learner, StepOutcome, Watch};
use crate::error::{Error, Result};
use crate::folder::DataRecord;
use crate::metrics::Results;
use crate::options::RunOptions;
use crate::search::step_error;
use crate::state;
use crate::task::image::score::Sum;
use crate::task::image::search::{STATISTICS, Subject};
use crate::task::image::size;
use crate::task::{Scores, Size};

/// A convolutional search on a device.
pub(crate) struct DeviceSearcher {
    subject: Subject,
    problem: DeviceSupernet,
    search: DeviceSearch<DeviceBatch>,
    train: Feed,
    valid: Feed,
    validation: Validation,
    epochs: usize,
    epoch: usize,
    // Last, for the others' programs live on it.
    device: Box<dyn Device>,
}

/// A device that a learner can be moved between threads with.
pub(crate) trait Device: Backend + Send {}

impl<B: Backend + Send> Device for B {}

/// What a validation runs.
struct Validation {
    loader: Loader,
    feed: Feed,
    /// Programs, by their batch.
    recordings: Vec<(DeviceBatch, Recording)>,
    results: View<f64>,
}

impl DeviceSearcher {
    /// Finds the data, builds the network, and brings both to the device.
    pub(crate) fn open(
        config: &SearchConfig,
        settings: bilevel::SearchConfig,
        options: &RunOptions,
        device: Box<dyn Device>,
    ) -> Result<Self> {
        let (subject, network) = Subject::open(config, options)?;
        let on = &*device as &dyn Backend;
        let loader = Loader::new(subject.valid_images.clone(), Augment::none(), config.batch_size);
        let mut batches = vec![config.batch_size];
        for examples in [subject.train.dataset().len(), subject.valid_images.len()] {
            batches.extend(Some(examples % config.batch_size).filter(|&rest| rest > 0));
        }
        let (w, alphas) = subject.initial(&network);
        let search = DeviceSearch::new(on, &w, &alphas, settings, options.precision)?;
        let statistics = network.initialize(subject.seed).1;
        let problem = DeviceSupernet::new(on, network, subject.space.operations(), &batches, &statistics)?;
        let source = |loader: &Loader| subject.in_memory.then(|| send(on, &**loader.dataset())).transpose();
        let (of_train, of_valid) = (source(&subject.train)?, source(&subject.valid)?);
        Ok(Self {
            train: Feed::new(on, &subject.train, of_train)?,
            valid: Feed::new(on, &subject.valid, of_valid)?,
            validation: Validation {
                feed: Feed::new(on, &loader, of_valid)?,
                loader,
                recordings: Vec::new(),
                results: on.allocate(2)?,
            },
            epochs: config.epochs,
            epoch: 0,
            subject,
            problem,
            search,
            device,
        })
    }

    /// What `run.json` says of the data.
    pub(crate) fn record(&self) -> DataRecord {
        self.subject.record()
    }

    fn alphas(&self) -> Result<Vec<f32>> {
        Ok(self.device.downloaded(self.search.alphas())?)
    }

    /// Scores of (w, α) on all validation images; None when `watch` asked to stop.
    fn validate(&mut self, watch: &mut Watch<'_>) -> Result<Option<Scores>> {
        let device = &*self.device as &dyn Backend;
        let Validation { loader, feed, recordings, results } = &mut self.validation;
        let classes = self.problem.network().config().classes;
        let mut sum = Sum::default();
        feed.begin(loader.in_order()?);
        while let Some(batch) = feed.next(device)? {
            let known = recordings.iter().position(|(known, _)| *known == batch);
            let index = match known {
                Some(index) => index,
                None => {
                    let mut program = Program::default();
                    let at = (self.search.weights(), self.search.alphas());
                    self.problem.lay_down_validation(&mut program, at, &batch, *results)?;
                    recordings.push((batch.clone(), device.record(&program)?));
                    recordings.len() - 1
                }
            };
            device.replay(&recordings[index].1)?;
            let logits = device.downloaded(self.problem.logits(batch.len()))?;
            sum.add_all(&logits, classes, feed.labels());
            if watch.evaluating("validation", sum.examples, self.subject.valid_images.len()) {
                return Ok(None);
            }
        }
        Ok(Some(sum.scores(classes)))
    }
}

impl Learner for DeviceSearcher {
    fn epochs(&self) -> usize {
        self.epochs
    }

    fn steps(&self, _epoch: usize) -> usize {
        self.subject.train.steps() as usize
    }

    fn start(&mut self, epoch: usize, step: usize) -> Result<()> {
        self.epoch = epoch;
        let Subject { train, valid, seed, .. } = &self.subject;
        self.train.begin(train.epoch(*seed, epoch as u64)?.skip(step as u64));
        // The validation batches have no epochs: theirs is one stream over the whole run.
        if step != 0 || !self.valid.is_under_way() {
            self.valid.begin(valid.random_batches(*seed)?.skip(self.search.steps()));
        }
        Ok(())
    }

    fn step(&mut self) -> Result<StepOutcome> {
        let device = &*self.device as &dyn Backend;
        let ended = || Error::Step("the epoch has no further batch".into());
        let begin = Instant::now();
        let train = self.train.next(device)?.ok_or_else(ended)?;
        let valid = self.valid.next(device)?.ok_or_else(ended)?;
        let waited = begin.elapsed();
        let learning_rate = self.subject.rate.at(self.epoch as u64);
        let report = self.search.step(device, &self.problem, &train, &valid, learning_rate).map_err(step_error)?;
        Ok(StepOutcome {
            train_loss: report.step.train_loss,
            valid_loss: Some(report.step.valid_loss),
            correct: Some(report.measure as u64),
            examples: train.len() as u64,
            learning_rate,
            grad_norm: report.step.grad_norm,
            waited,
        })
    }

    fn end_epoch(&mut self, epoch: usize, watch: &mut Watch<'_>) -> Result<Option<EpochOutcome>> {
        let Some(scores) = self.validate(watch)? else { return Ok(None) };
        Ok(Some(EpochOutcome {
            valid_loss: Some(scores.loss),
            valid_accuracy: scores.accuracy,
            valid_perplexity: scores.perplexity,
            alphas: Some(self.subject.alphas_line(epoch, &self.alphas()?)),
        }))
    }

    fn genotype(&self) -> Result<Genotype> {
        self.subject.genotype(&self.alphas()?)
    }

    fn state(&self) -> Result<State> {
        let device = &*self.device as &dyn Backend;
        let statistics = device.downloaded(self.problem.statistics())?;
        let vectors = self.search.vectors(device)?;
        Ok(state::gather(vectors, self.search.counters(device)?, vec![(STATISTICS.into(), statistics)]))
    }

    fn restore(&mut self, mut state: State) -> std::result::Result<(), String> {
        let device = &*self.device as &dyn Backend;
        let statistics = self.problem.statistics();
        let shapes = [(STATISTICS.to_owned(), statistics.len)];
        let own = state::take_task(&mut state, &shapes)?;
        let (vectors, counters) = state::borrowed(&state);
        self.search.restore(device, &vectors, &counters).map_err(|error| error.to_string())?;
        for (_, values) in own {
            device.upload(statistics, &values).map_err(|error| error.to_string())?;
        }
        self.train.stop();
        self.valid.stop();
        Ok(())
    }

    fn finish(&mut self, _watch: &mut Watch<'_>) -> Result<Option<Finish>> {
        let network = self.problem.network();
        let Size { parameters, parameters_with_auxiliary, multiply_adds } = size(network);
        let device = &*self.device as &dyn Backend;
        let (w, statistics) =
            (device.downloaded(self.search.weights())?, device.downloaded(self.problem.statistics())?);
        Ok(Some(Finish {
            weights: self.subject.weights(network, (&w, &statistics, &self.alphas()?))?,
            test: Results::default(),
            parameters,
            parameters_with_auxiliary,
            multiply_adds,
        }))
    }
}
