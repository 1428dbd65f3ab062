//! The training of a discrete convolutional network: cutout, path dropout that grows over the epochs, an auxiliary head, and
//! batches that are cut into parts where memory is short.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use darts_bilevel::schedule::{Cosine, DropPath, Exponential};
use darts_cells::conv::{self, ConvNetwork, ForwardInput, LossConfig, LossOutput, Statistics, Workspace};
use darts_cells::genotype::Genotype;
use darts_cells::parameters;
use darts_data::dataset::{Dataset, Subset};
use darts_data::loader::{BadImages, Batches};
use darts_data::random::{Key, Purpose};
use darts_data::{Batch, Loader};
use darts_ops::vector::Vector;

use super::data::{Images, check_split};
use super::score::Trained;
use super::{check_memory, network_config, size};
use crate::config::{Schedule, TrainConfig};
use crate::engine::Watch;
use crate::error::{Error, Result};
use crate::folder::DataRecord;
use crate::options::RunOptions;
use crate::task::{Scores, Seen, Size, Task, TrainTask, Vectors};

pub(super) const STATISTICS: &str = "statistics";
/// Masks of dropped paths, a function of the seed, the epoch and the step.
const DROP_PATH: Purpose = Purpose::new("drop path");

/// The list of unreadable images in a run folder.
const BAD_IMAGES: &str = "bad-images.txt";

/// The training of a discrete network apart from what computes it: its data, its schedules, and what a run of it stores.
pub(crate) struct Subject {
    pub(crate) config: TrainConfig,
    pub(crate) train: Loader,
    pub(crate) held_out: Option<Arc<dyn Dataset>>,
    pub(crate) test: Arc<dyn Dataset>,
    pub(crate) bad_images: Arc<BadImages>,
    /// As [`Images::in_memory`].
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "the processor reads images one by one"))]
    pub(crate) in_memory: bool,
    record: DataRecord,
}

/// The training of a discrete network on the processor.
pub(crate) struct ImageTraining {
    subject: Subject,
    network: ConvNetwork,
    workspace: Workspace,
    statistics: Vec<f32>,
    masks: Masks,
    /// The gradient of a part of a batch, where there is more than one.
    part_gradient: Vec<f32>,
    batches: Option<Batches>,
    last: LossOutput,
    last_examples: usize,
}

/// The training images in two parts.
pub(crate) struct Parts {
    pub(crate) train: Arc<dyn Dataset>,
    pub(crate) held_out: Option<Arc<dyn Dataset>>,
}

/// The images that are trained on and those held out, of the training images.
pub(crate) fn split(images: &Images, config: &TrainConfig) -> Result<Parts> {
    if config.held_out == 0.0 {
        return Ok(Parts { train: images.train.clone(), held_out: None });
    }
    // Which images are held out is a matter of the data, not of the run's seed, so that runs to be compared share them.
    let (kept, held_out) = Subset::hold_out(images.train.clone(), config.held_out, 0)?;
    check_split(&held_out, 1)?;
    Ok(Parts { train: Arc::new(kept), held_out: Some(Arc::new(held_out)) })
}

/// The network of a training configuration, for images like these.
pub(crate) fn network(config: &TrainConfig, images: &dyn Dataset) -> Result<ConvNetwork> {
    let (classes, image) = (images.class_names().len(), images.image_size());
    let sizes = network_config(config.init_channels, config.layers, config.auxiliary, classes, image, &config.data);
    Ok(ConvNetwork::discrete(&config.genotype, &sizes)?)
}

impl Subject {
    /// Finds the data, and plans the network that is trained. Unreadable images are listed in the folder `dir`.
    pub(crate) fn open(config: &TrainConfig, options: &RunOptions, dir: PathBuf) -> Result<(Self, ConvNetwork)> {
        let images = Images::open(&config.data, options.data_dir.as_deref())?.limited(config.train_limit);
        let Parts { train, held_out } = split(&images, config)?;
        check_split(&*train, config.batch_size)?;
        let network = network(config, &*images.train)?;
        let valid = held_out.as_ref().map_or(0, |set| set.len());
        let bad_images = Arc::new(BadImages::listed(options.max_bad_images, dir.join(BAD_IMAGES))?);
        let subject = Self {
            record: images.record(train.len(), valid),
            train: Loader::new(train, images.augment.with_cutout(config.cutout), config.batch_size)
                .tolerating(bad_images.clone()),
            bad_images,
            held_out,
            in_memory: images.in_memory,
            test: images.test,
            config: config.clone(),
        };
        Ok((subject, network))
    }

    /// What `run.json` says of the data.
    pub(crate) fn record(&self) -> DataRecord {
        self.record.clone()
    }

    /// The learning rate of an epoch.
    pub(crate) fn learning_rate(&self, epoch: usize) -> f64 {
        let (initial, epochs) = (self.config.learning_rate, self.config.epochs as u64);
        match self.config.schedule {
            Schedule::Cosine { learning_rate_min: minimum } => Cosine { initial, minimum, epochs }.at(epoch as u64),
            Schedule::Exponential { decay: gamma } => Exponential { initial, gamma }.at(epoch as u64),
        }
    }

    /// The contents of `weights.safetensors`.
    pub(crate) fn weights(&self, network: &ConvNetwork, w: &[f32], statistics: &[f32]) -> Result<Vec<u8>> {
        let sections = [(network.parameters(), w), (network.statistics(), statistics)];
        let genotype = Genotype::from(self.config.genotype.clone()).to_json()?;
        Ok(parameters::save(&sections, Some(("genotype", genotype.trim_end())))?)
    }
}

/// Draws which paths are dropped, `[operations][N]`: 0 with the epoch's probability p, else 1/(1 − p), for each operation and
/// sample. Where p is 0, nothing. `masks` is overwritten.
pub(crate) fn draw_masks(
    config: &TrainConfig,
    operations: usize,
    (epoch, step): (usize, usize),
    batch: usize,
    masks: &mut Vec<f32>,
) {
    let schedule = DropPath { maximum: config.drop_path_prob, epochs: config.epochs as u64 };
    let drop = schedule.at(epoch as u64);
    masks.clear();
    if drop == 0.0 {
        return;
    }
    let keep = 1.0 - drop;
    let mut random = Key::new(config.seed, DROP_PATH).epoch(epoch as u64).step(step as u64).generator();
    let draw = || if random.chance(keep) { (1.0 / keep) as f32 } else { 0.0 };
    masks.extend(std::iter::repeat_with(draw).take(operations * batch));
}

impl ImageTraining {
    /// Finds the data and builds the network. Initial w comes from [`initial`](Self::initial). Unreadable images are listed
    /// in the folder `dir`.
    pub(crate) fn open(config: &TrainConfig, options: &RunOptions, dir: PathBuf) -> Result<Self> {
        let (subject, network) = Subject::open(config, options, dir)?;
        let part = config.part_size();
        check_memory(&network, part)?;
        Ok(Self {
            workspace: network.workspace(part),
            statistics: network.initialize(config.seed).1,
            masks: Masks::default(),
            part_gradient: vec![0.0; if config.accumulate > 1 { network.parameters().len() } else { 0 }],
            batches: None,
            last: LossOutput { loss: 0.0, correct: 0 },
            last_examples: 0,
            subject,
            network,
        })
    }

    /// w at the start.
    pub(crate) fn initial(&self) -> Vec<f32> {
        self.network.initialize(self.subject.config.seed).0
    }

    /// What `run.json` says of the data.
    pub(crate) fn record(&self) -> DataRecord {
        self.subject.record()
    }

    /// The loss of a part of a batch and its gradient, which overwrites `gradient`.
    fn pass(&mut self, theta: &[f32], batch: &Batch, part: Range<usize>, gradient: &mut [f32]) -> Result<LossOutput> {
        let TrainConfig { label_smoothing, auxiliary_weight, .. } = self.subject.config;
        let loss = LossConfig { label_smoothing, auxiliary_weight };
        let image = batch.image_size().len();
        let input = ForwardInput {
            images: &batch.images()[part.start * image..part.end * image],
            batch: part.len(),
            theta,
            weights: &[],
            active: None,
            masks: self.masks.of(part.clone(), batch.len()),
        };
        let update = Some(&mut self.statistics[..]);
        self.network.forward(&mut self.workspace, &input, Statistics::Batch { update })?;
        let output = self.network.loss(&mut self.workspace, &batch.labels()[part], loss)?;
        let gradients = conv::Gradients { theta: Some(gradient), weights: None, images: None };
        self.network.backward(&mut self.workspace, &input, gradients)?;
        Ok(output)
    }

    /// The mean loss of a batch and its gradient, part by part.
    fn passes(&mut self, theta: &[f32], batch: &Batch, gradient: &mut [f32]) -> Result<LossOutput> {
        let (len, part) = (batch.len(), self.subject.config.part_size());
        if len <= part {
            return self.pass(theta, batch, 0..len, gradient);
        }
        let mut sum = LossOutput { loss: 0.0, correct: 0 };
        let mut own = std::mem::take(&mut self.part_gradient);
        gradient.fill(0.0);
        for start in (0..len).step_by(part) {
            let range = start..len.min(start + part);
            let share = range.len() as f64 / len as f64;
            let output = self.pass(theta, batch, range, &mut own)?;
            gradient.iter_mut().zip(&own).for_each(|(sum, own)| *sum += share as f32 * own);
            sum.loss += share * output.loss;
            sum.correct += output.correct;
        }
        self.part_gradient = own;
        Ok(sum)
    }

    fn scores(
        &mut self,
        w: &Vector,
        images: &Arc<dyn Dataset>,
        what: &str,
        watch: &mut Watch<'_>,
    ) -> Result<Option<Scores>> {
        w.read(|theta| {
            let trained = Trained { network: &self.network, theta, statistics: &self.statistics, weights: &[] };
            trained.scores(&mut self.workspace, images, &self.subject.bad_images, what, watch)
        })?
    }
}

impl Task for ImageTraining {
    type Batch = Batch;

    fn steps(&self, _epoch: usize) -> usize {
        self.subject.train.steps() as usize
    }

    fn start(&mut self, epoch: usize, step: usize, _total: u64) -> Result<()> {
        let batches = self.subject.train.epoch(self.subject.config.seed, epoch as u64)?;
        self.batches = Some(batches.skip(step as u64));
        Ok(())
    }

    fn learning_rate(&self, epoch: usize, _batch: &Batch) -> f64 {
        self.subject.learning_rate(epoch)
    }

    fn seen(&self) -> Seen {
        Seen { examples: self.last_examples as u64, correct: Some(self.last.correct as u64), likelihood: None }
    }

    fn state(&self) -> Vectors {
        vec![(STATISTICS.into(), self.statistics.clone())]
    }

    fn restore(&mut self, state: Vectors) {
        for (_, statistics) in state {
            self.statistics = statistics;
        }
        self.batches = None;
    }

    fn size(&self) -> Size {
        size(&self.network)
    }
}

impl TrainTask for ImageTraining {
    fn next(&mut self) -> Result<Batch> {
        let ended = || Error::Step("the epoch has no further batch".into());
        Ok(self.batches.as_mut().ok_or_else(ended)?.next().ok_or_else(ended)??)
    }

    fn evaluate(&mut self, w: &Vector, batch: &Batch, at: (usize, usize), gradient: &mut Vector) -> Result<f64> {
        let operations = self.network.droppable().len();
        draw_masks(&self.subject.config, operations, at, batch.len(), &mut self.masks.all);
        let output = w.read(|theta| gradient.write(|gradient| self.passes(theta, batch, gradient)))???;
        (self.last, self.last_examples) = (output, batch.len());
        Ok(output.loss)
    }

    fn validate(&mut self, w: &Vector, watch: &mut Watch<'_>) -> Result<Option<Option<Scores>>> {
        match self.subject.held_out.clone() {
            Some(images) => Ok(self.scores(w, &images, "validation", watch)?.map(Some)),
            None => Ok(Some(None)),
        }
    }

    fn test(&mut self, w: &Vector, watch: &mut Watch<'_>) -> Result<Option<Option<Scores>>> {
        if self.subject.held_out.is_some() {
            return Ok(Some(None));
        }
        let images = self.subject.test.clone();
        Ok(self.scores(w, &images, "test", watch)?.map(Some))
    }

    fn genotype(&self) -> Genotype {
        self.subject.config.genotype.clone().into()
    }

    fn weights(&self, w: &[f32]) -> Result<Vec<u8>> {
        self.subject.weights(&self.network, w, &self.statistics)
    }
}

/// Masks of dropped paths, `[operations][N]`, of a batch and of a part of it.
#[derive(Default)]
struct Masks {
    /// Empty where nothing is dropped.
    all: Vec<f32>,
    part: Vec<f32>,
}

impl Masks {
    /// Those of the samples `range` of a batch of `len`.
    fn of(&mut self, range: Range<usize>, len: usize) -> Option<&[f32]> {
        if self.all.is_empty() {
            return None;
        }
        if range.len() == len {
            return Some(&self.all);
        }
        self.part.clear();
        self.part.extend(self.all.chunks_exact(len).flat_map(|samples| &samples[range.clone()]));
        Some(&self.part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_of_a_part_are_those_of_its_samples() {
        let mut masks = Masks { all: (0..12).map(|n| n as f32).collect(), part: Vec::new() };
        // Three operations, four samples.
        assert_eq!(masks.of(1..3, 4).unwrap(), [1.0, 2.0, 5.0, 6.0, 9.0, 10.0]);
        assert_eq!(masks.of(0..4, 4).unwrap().len(), 12);
        assert_eq!(Masks::default().of(0..2, 4), None);
    }
}
