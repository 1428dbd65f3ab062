//! The training of a discrete convolutional network on a device: the twin of
//! [`ImageTraining`](crate::task::image::train::ImageTraining).

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;

use darts_bilevel::device::{DeviceProblem, Evaluation};
use darts_bilevel::optimizer::SgdConfig;
use darts_cells::conv::{
    ConvNetwork, DeviceConv, DeviceConvGradients, DeviceConvPass, DeviceConvPlan, DeviceStatistics, LossConfig,
};
use darts_cells::genotype::Genotype;
use darts_cuda::driver::Device;
use darts_cuda::{Backend, Memory, Precision, Program, View, vector};
use darts_data::Dataset;

use super::feed::{DeviceBatch, Feed, send};
use super::score::{Scorer, evaluation_batch};
use crate::config::TrainConfig;
use crate::device::memory::refuse_beyond_free;
use crate::device::train::DeviceTrainer;
use crate::device::{DeviceTask, DeviceTrainTask};
use crate::engine::Watch;
use crate::error::{Error, Result};
use crate::folder::DataRecord;
use crate::options::RunOptions;
use crate::task::image::size;
use crate::task::image::train::{STATISTICS, Subject, draw_masks};
use crate::task::{Scores, Seen, Size};

/// The training of a discrete network on a device.
pub(crate) struct DeviceImageTraining {
    subject: Subject,
    network: DeviceConv,
    statistics: View,
    /// Room for the masks of a batch, those of its parts one after the other.
    masks: View,
    drawn: Vec<f32>,
    /// Where a batch is cut into parts: the gradient of one, and its results.
    part: Option<(View, View<f64>)>,
    train: Feed,
    held_out: Option<Scorer>,
    /// Images of a batch of an evaluation.
    evaluated: usize,
    precision: Precision,
    /// Threads that read images.
    readers: usize,
}

/// A batch with the masks of its dropped paths, where any are dropped.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct MaskedBatch {
    batch: DeviceBatch,
    masks: Option<View>,
}

impl DeviceImageTraining {
    /// Finds the data, builds the network, and brings both to the device. Initial w comes from [`initial`](Self::initial).
    /// Unreadable images are listed in the folder `dir`.
    pub(crate) fn open(config: &TrainConfig, options: &RunOptions, dir: PathBuf, device: &Device) -> Result<Self> {
        let (mut subject, network) = Subject::open(config, options, dir)?;
        let readers = options.readers();
        subject.train = subject.train.workers(readers).as_bytes();
        let part = config.part_size();
        let tolerated = if subject.in_memory { 0 } else { options.max_bad_images };
        let batches = batches_of(subject.train.dataset().len(), config.batch_size, tolerated);
        let sizes: BTreeSet<usize> =
            batches.into_iter().flat_map(|len| parts(len, part)).map(|part| part.len()).collect();
        let sizes: Vec<usize> = sizes.into_iter().collect();
        let plan = DeviceConvPlan::new(network, &sizes, &[]);
        let evaluated = if subject.in_memory { evaluation_batch(&plan, part) } else { part };
        let sets = [subject.held_out.as_ref(), Some(&subject.test)].into_iter().flatten();
        let evaluations: BTreeSet<usize> = sets.flat_map(|set| batches_of(set.len(), evaluated, tolerated)).collect();
        let evaluations: Vec<usize> = evaluations.into_iter().collect();
        let plan = plan.with_evaluation(&evaluations);
        let network = plan.network();
        let weights = network.parameters().len();
        let of_masks = 4 * network.droppable().len() * config.batch_size;
        let of_part = if config.accumulate > 1 { 4 * weights } else { 0 };
        let sgd = SgdConfig { momentum: config.momentum, weight_decay: config.weight_decay };
        // Scores are taken of the images that are held out, or else of the test images in the end.
        let scored = subject.held_out.as_ref().unwrap_or(&subject.test);
        let needed = plan.bytes()
            + DeviceTrainer::<Self>::bytes(weights, sgd, false)
            + (of_masks + of_part) as u64
            + Feed::bytes(&**subject.train.dataset(), config.batch_size, subject.in_memory)
            + Feed::bytes(&**scored, evaluated, subject.in_memory);
        refuse_beyond_free(device, needed, || {
            let batch = config.batch_size;
            format!("lower --batch-size ({batch}), --init-channels or --layers, or cut batches with --accumulate")
        })?;
        let statistics = network.initialize(config.seed).1;
        let source = |set: &dyn Dataset| subject.in_memory.then(|| send(device, set)).transpose();
        let train = Feed::new(device, &subject.train, source(&**subject.train.dataset())?)?;
        let held_out = match &subject.held_out {
            Some(set) => Some(Scorer::new(device, set, evaluated, source(&**set)?, &subject.bad_images, readers)?),
            None => None,
        };
        Ok(Self {
            statistics: device.uploaded(&statistics)?,
            masks: device.allocate(network.droppable().len() * config.batch_size)?,
            drawn: Vec::new(),
            part: match config.accumulate {
                0 | 1 => None,
                _ => Some((device.allocate(weights)?, device.allocate(2)?)),
            },
            network: DeviceConv::new(device, plan)?,
            train,
            held_out,
            evaluated,
            precision: options.precision,
            readers,
            subject,
        })
    }

    /// w at the start.
    pub(crate) fn initial(&self) -> Vec<f32> {
        self.network().initialize(self.subject.config.seed).0
    }

    /// What `run.json` says of the data.
    pub(crate) fn record(&self) -> DataRecord {
        self.subject.record()
    }

    fn model(&self, theta: View) -> DeviceModel {
        DeviceModel { theta, statistics: self.statistics, precision: self.precision }
    }

    fn network(&self) -> &ConvNetwork {
        self.network.network()
    }

    /// Appends the pass over the images `part` of a batch.
    fn lay_down_part(
        &self,
        program: &mut Program,
        at: &Evaluation,
        MaskedBatch { batch, masks }: &MaskedBatch,
        part: Range<usize>,
        (gradient, results): (Option<View>, View<f64>),
    ) -> std::result::Result<(), darts_cells::Error> {
        let TrainConfig { label_smoothing, auxiliary_weight, .. } = self.subject.config;
        let (image, operations) = (batch.images.len / batch.len(), self.network().droppable().len());
        let pass = DeviceConvPass {
            images: batch.images.slice(part.start * image..part.end * image),
            labels: batch.labels.slice(part.clone()),
            theta: at.w,
            weights: View::none(),
            masks: masks.map(|masks| masks.slice(part.start * operations..part.end * operations)),
            statistics: DeviceStatistics::Batch { update: Some(self.statistics) },
            loss: LossConfig { label_smoothing, auxiliary_weight },
            gradients: DeviceConvGradients { theta: gradient, ..DeviceConvGradients::default() },
            precision: at.precision,
        };
        self.network.lay_down(program, part.len(), &pass, results)
    }
}

/// The parts that a batch of `len` is cut into.
fn parts(len: usize, part: usize) -> impl Iterator<Item = Range<usize>> {
    (0..len).step_by(part.max(1)).map(move |start| start..len.min(start + part))
}

/// Sizes of the batches of `len` examples, of which so many may turn out to be unreadable.
pub(crate) fn batches_of(len: usize, batch: usize, tolerated: usize) -> Vec<usize> {
    let mut sizes = Vec::new();
    for whole in [len.min(batch), len % batch.max(1)].into_iter().filter(|&size| size > 0) {
        sizes.extend(whole.saturating_sub(tolerated).max(1)..=whole);
    }
    sizes
}

impl DeviceProblem for DeviceImageTraining {
    type Batch = MaskedBatch;
    type Error = darts_cells::Error;

    fn prepare(&self, program: &mut Program, batch: &MaskedBatch) -> std::result::Result<(), darts_cells::Error> {
        batch.batch.make(program);
        Ok(())
    }

    fn lay_down(
        &self,
        program: &mut Program,
        at: &Evaluation,
        batch: &MaskedBatch,
    ) -> std::result::Result<(), darts_cells::Error> {
        let (len, part) = (batch.batch.len(), self.subject.config.part_size());
        let (Some((own, results)), Some(gradient), true) = (self.part, at.gradients.w, len > part) else {
            return self.lay_down_part(program, at, batch, 0..len, (at.gradients.w, at.results));
        };
        vector::fill(program, gradient, 0.0);
        let number = |view: View<f64>, index: usize| view.slice(index..index + 1);
        for (index, range) in parts(len, part).enumerate() {
            let share = range.len() as f64 / len as f64;
            self.lay_down_part(program, at, batch, range, (Some(own), results))?;
            vector::axpy(program, gradient, share, own);
            for (which, factor) in [(0, share), (1, 1.0)] {
                let (sum, term) = (number(at.results, which), (factor, number(results, which)));
                match index {
                    0 => vector::combine(program, sum, &[term]),
                    _ => vector::combine(program, sum, &[(1.0, sum), term]),
                }
            }
        }
        Ok(())
    }
}

impl DeviceTask for DeviceImageTraining {
    fn steps(&self, _epoch: usize) -> usize {
        self.subject.train.steps() as usize
    }

    fn start(&mut self, _device: &dyn Backend, epoch: usize, step: usize, _total: u64) -> Result<()> {
        let batches = self.subject.train.epoch(self.subject.config.seed, epoch as u64)?;
        self.train.begin(batches.skip(step as u64));
        Ok(())
    }

    fn ahead(&mut self, device: &dyn Backend) {
        self.train.ahead(device);
    }

    fn learning_rate(&self, epoch: usize) -> f64 {
        self.subject.learning_rate(epoch)
    }

    fn seen(&self, batch: &MaskedBatch, measure: f64) -> Seen {
        Seen { examples: batch.batch.len() as u64, correct: Some(measure as u64), likelihood: None }
    }

    fn state(&self) -> Vec<(&'static str, View)> {
        vec![(STATISTICS, self.statistics)]
    }

    fn restored(&mut self) {
        self.train.stop();
    }

    fn size(&self) -> Size {
        size(self.network())
    }
}

impl DeviceTrainTask for DeviceImageTraining {
    fn next(&mut self, device: &dyn Backend, at: (usize, usize)) -> Result<MaskedBatch> {
        let ended = || Error::Step("the epoch has no further batch".into());
        let batch = self.train.next(device)?.ok_or_else(ended)?;
        let (len, part) = (batch.len(), self.subject.config.part_size());
        draw_masks(&self.subject.config, self.network.network().droppable().len(), at, len, &mut self.drawn);
        let masks = match self.drawn.is_empty() {
            true => None,
            false => {
                let masks = self.masks.slice(0..self.drawn.len());
                if len > part {
                    let rows = |range: Range<usize>| self.drawn.chunks_exact(len).map(move |row| &row[range.clone()]);
                    let by_part: Vec<f32> = parts(len, part).flat_map(rows).flatten().copied().collect();
                    device.upload(masks, &by_part)?;
                } else {
                    device.upload(masks, &self.drawn)?;
                }
                Some(masks)
            }
        };
        Ok(MaskedBatch { batch, masks })
    }

    fn validate(&mut self, device: &dyn Backend, w: View, watch: &mut Watch<'_>) -> Result<Option<Option<Scores>>> {
        let model = self.model(w);
        let Self { network, held_out, .. } = self;
        let Some(scorer) = held_out else { return Ok(Some(None)) };
        Ok(scores(scorer, device, network, model, "validation", watch)?.map(Some))
    }

    fn test(&mut self, device: &dyn Backend, w: View, watch: &mut Watch<'_>) -> Result<Option<Option<Scores>>> {
        if self.held_out.is_some() {
            return Ok(Some(None));
        }
        let Subject { test, bad_images, in_memory, .. } = &self.subject;
        let source = in_memory.then(|| send(device, &**test)).transpose()?;
        let mut scorer = Scorer::new(device, test, self.evaluated, source, bad_images, self.readers)?;
        Ok(scores(&mut scorer, device, &self.network, self.model(w), "test", watch)?.map(Some))
    }

    fn genotype(&self) -> Genotype {
        self.subject.config.genotype.clone().into()
    }

    fn weights(&self, device: &dyn Backend, w: &[f32]) -> Result<Vec<u8>> {
        self.subject.weights(self.network(), w, &device.downloaded(self.statistics)?)
    }
}

/// All numbers of a discrete network, in device memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DeviceModel {
    pub(crate) theta: View,
    /// Running statistics.
    pub(crate) statistics: View,
    /// What the factors of matrix products are rounded to.
    pub(crate) precision: Precision,
}

/// Scores of a discrete network on a set of images; None when `watch` asked to stop.
pub(crate) fn scores(
    scorer: &mut Scorer,
    device: &dyn Backend,
    network: &DeviceConv,
    model: DeviceModel,
    what: &str,
    watch: &mut Watch<'_>,
) -> Result<Option<Scores>> {
    let of = (model.theta, network.network().config().classes);
    scorer.scores(device, of, what, watch, &|program, batch, results| {
        let pass = discrete_pass((batch.images, batch.labels), model);
        network.lay_down(program, batch.len(), &pass, results)?;
        Ok(network.logits(batch.len()))
    })
}

/// The evaluation of a discrete network on images with their labels, with the running statistics.
pub(crate) fn discrete_pass((images, labels): (View, View<u32>), model: DeviceModel) -> DeviceConvPass {
    DeviceConvPass {
        images,
        labels,
        theta: model.theta,
        weights: View::none(),
        masks: None,
        statistics: DeviceStatistics::Running(model.statistics),
        loss: LossConfig::default(),
        gradients: DeviceConvGradients::default(),
        precision: model.precision,
    }
}
