//! The search for a convolutional cell on a device: the twin of [`ImageSearch`](crate::task::image::search::ImageSearch).

use std::sync::Arc;

use darts_bilevel::device::{DeviceProblem, DeviceSearch, Evaluation};
use darts_cells::conv::DeviceConvPlan;
use darts_cells::genotype::Genotype;
use darts_cuda::driver::Device;
use darts_cuda::{Backend, Memory, Precision, Program, View};
use darts_data::{BadImages, Dataset, Loader};
use serde_json::Value;

use super::feed::{DeviceBatch, Feed, send};
use super::score::{Scorer, evaluation_batch};
use super::train::batches_of;
use crate::config::{Order, SearchConfig};
use crate::device::memory::refuse_beyond_free;
use crate::device::{DeviceSearchTask, DeviceTask};
use crate::engine::Watch;
use crate::error::{Error, Result};
use crate::folder::DataRecord;
use crate::options::RunOptions;
use crate::search::image_settings;
use crate::supernet::device::DeviceSupernet;
use crate::task::image::search::{STATISTICS, Subject};
use crate::task::image::size;
use crate::task::{Scores, Seen, Size};

/// A convolutional search on a device.
pub(crate) struct DeviceImageSearch {
    subject: Subject,
    problem: DeviceSupernet,
    train: Feed,
    valid: Feed,
    validation: Scorer,
    precision: Precision,
}

impl DeviceImageSearch {
    /// Finds the data, builds the network, and brings both to the device. Initial w and α come from [`initial`](Self::initial).
    pub(crate) fn open(config: &SearchConfig, options: &RunOptions, device: &Device) -> Result<Self> {
        let (mut subject, network) = Subject::open(config, options)?;
        let readers = options.readers();
        subject.train = subject.train.workers(readers).as_bytes();
        subject.valid = subject.valid.workers(readers).as_bytes();
        let batch = config.batch_size;
        let rests = [subject.train.dataset().len() % batch, subject.valid_images.len() % batch];
        let batches: Vec<usize> = [batch].into_iter().chain(rests.into_iter().filter(|&rest| rest > 0)).collect();
        let plan = DeviceConvPlan::new(network, &batches, &[]);
        let evaluated = if subject.in_memory { evaluation_batch(&plan, batch) } else { batch };
        let plan = plan.with_evaluation(&batches_of(subject.valid_images.len(), evaluated, 0));
        let network = plan.network();
        let (weights, alphas) = (network.parameters().len(), network.operation_weights());
        let of_search = DeviceSearch::<DeviceBatch>::bytes(weights, alphas, &image_settings(config));
        let of_feed = |set: &Arc<dyn Dataset>, batch, there| Feed::bytes(&**set, batch, there);
        let of_images = of_feed(subject.train.dataset(), batch, subject.in_memory)
            + of_feed(&subject.valid_images, batch, subject.in_memory)
            + of_feed(&subject.valid_images, evaluated, false);
        refuse_beyond_free(device, plan.bytes() + of_search + of_images, || {
            let first = if config.order == Order::Second { ", or search with --order first" } else { "" };
            format!("lower --batch-size ({batch}), --init-channels or --layers{first}")
        })?;
        let statistics = network.initialize(subject.seed).1;
        let problem = DeviceSupernet::new(device, plan, subject.space.operations(), &statistics)?;
        let source = |loader: &Loader| subject.in_memory.then(|| send(device, &**loader.dataset())).transpose();
        let (of_train, of_valid) = (source(&subject.train)?, source(&subject.valid)?);
        let none_bad = Arc::new(BadImages::new(0));
        Ok(Self {
            train: Feed::new(device, &subject.train, of_train)?,
            valid: Feed::new(device, &subject.valid, of_valid)?,
            validation: Scorer::new(device, &subject.valid_images, evaluated, of_valid, &none_bad, readers)?,
            precision: options.precision,
            subject,
            problem,
        })
    }

    /// w and α at the start.
    pub(crate) fn initial(&self) -> (Vec<f32>, Vec<f32>) {
        self.subject.initial(self.problem.network())
    }

    /// What `run.json` says of the data.
    pub(crate) fn record(&self) -> DataRecord {
        self.subject.record()
    }
}

impl DeviceProblem for DeviceImageSearch {
    type Batch = DeviceBatch;
    type Error = darts_cells::Error;

    fn prepare(&self, program: &mut Program, batch: &DeviceBatch) -> std::result::Result<(), darts_cells::Error> {
        batch.make(program);
        Ok(())
    }

    fn lay_down(
        &self,
        program: &mut Program,
        evaluation: &Evaluation,
        batch: &DeviceBatch,
    ) -> std::result::Result<(), darts_cells::Error> {
        self.problem.lay_down(program, evaluation, &batch.place())
    }
}

impl DeviceTask for DeviceImageSearch {
    fn steps(&self, _epoch: usize) -> usize {
        self.subject.train.steps() as usize
    }

    fn start(&mut self, _device: &dyn Backend, epoch: usize, step: usize, total: u64) -> Result<()> {
        let Subject { train, valid, seed, .. } = &self.subject;
        self.train.begin(train.epoch(*seed, epoch as u64)?.skip(step as u64));
        // The validation batches have no epochs: theirs is one stream over the whole run.
        if step != 0 || !self.valid.is_under_way() {
            self.valid.begin(valid.random_batches(*seed)?.skip(total));
        }
        Ok(())
    }

    fn ahead(&mut self, device: &dyn Backend) {
        self.train.ahead(device);
        self.valid.ahead(device);
    }

    fn learning_rate(&self, epoch: usize) -> f64 {
        self.subject.rate.at(epoch as u64)
    }

    fn seen(&self, batch: &DeviceBatch, measure: f64) -> Seen {
        Seen { examples: batch.len() as u64, correct: Some(measure as u64), likelihood: None }
    }

    fn state(&self) -> Vec<(&'static str, View)> {
        vec![(STATISTICS, self.problem.statistics())]
    }

    fn restored(&mut self) {
        self.train.stop();
        self.valid.stop();
    }

    fn size(&self) -> Size {
        size(self.problem.network())
    }
}

impl DeviceSearchTask for DeviceImageSearch {
    fn next(&mut self, device: &dyn Backend) -> Result<(DeviceBatch, DeviceBatch)> {
        let ended = || Error::Step("the epoch has no further batch".into());
        let train = self.train.next(device)?.ok_or_else(ended)?;
        Ok((train, self.valid.next(device)?.ok_or_else(ended)?))
    }

    fn validate(
        &mut self,
        device: &dyn Backend,
        (w, alpha): (View, View),
        watch: &mut Watch<'_>,
    ) -> Result<Option<Scores>> {
        let Self { problem, validation, precision, .. } = self;
        let of = (w, problem.network().config().classes);
        validation.scores(device, of, "validation", watch, &|program, batch, results| {
            problem.lay_down_validation(program, (w, alpha), batch.place(), *precision, results)
        })
    }

    fn genotype(&self, alphas: &[f32]) -> Result<Genotype> {
        self.subject.genotype(alphas)
    }

    fn alphas_line(&self, epoch: usize, alphas: &[f32]) -> Value {
        self.subject.alphas_line(epoch, alphas)
    }

    fn weights(&self, device: &dyn Backend, w: &[f32], alphas: &[f32]) -> Result<Vec<u8>> {
        let statistics = device.downloaded(self.problem.statistics())?;
        self.subject.weights(self.problem.network(), (w, &statistics, alphas))
    }
}
